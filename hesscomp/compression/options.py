"""The options of a compression method."""

from dataclasses import dataclass

from hesscomp.options import Seeded, option, values
from hesscomp.parallel.layout import PANEL
from hesscomp.sketching.catalogue import TEST_MATRICES
from hesscomp.sketching.defaults import RESIDUAL_TOLERANCE, SketchSizes


@dataclass(frozen=True, kw_only=True)
class SketchOptions(SketchSizes, Seeded, group="compression"):
    """How to sketch; every method reads what concerns it.

    Krylov takes at most `max_columns` product columns for a `rank`, rounded up to whole blocks and
    without its probes: by default (2 + power) (rank + oversample), as many as eigh, and one
    (rank + oversample) fewer where it starts from a factor. `max_basis` has the same default.
    `probe_count` fresh Gaussian vectors measure the error.
    """

    test_matrix: str = option("gaussian", choices=tuple(TEST_MATRICES), help="random matrix")
    probe_count: int = option(8, low=1)
    max_columns: int | None = option(
        None, low=1, metavar="C", help="krylov: most product columns; default: as many as eigh"
    )
    max_basis: int | None = option(
        None, low=1, metavar="M", help="krylov: most basis columns held before a restart"
    )
    residual_tolerance: float | None = option(
        None, above=0, metavar="T",
        help="krylov: an eigenpair is accurate where ||H u - w u|| <= T |w_1|; default: "
        f"{RESIDUAL_TOLERANCE:g}",
    )  # fmt: skip

    @property
    def independent(self) -> bool:
        """Whether a sketch is H times independent Gaussian columns, as leave-one-out needs."""
        return self.power == 0 and self.test_matrix == "gaussian"

    def facts(self, part: type) -> dict[str, object]:
        """The options of a part as they are taken, which a run's products depend on."""
        taken = {"residual_tolerance": self.accuracy, "panel": self.panel or PANEL}
        return values(self, part) | taken

    @property
    def accuracy(self) -> float:
        """The tolerance of eigenpairs: converged where ||H u - w u|| <= accuracy |w_1|."""
        given = self.residual_tolerance
        return RESIDUAL_TOLERANCE if given is None else given
