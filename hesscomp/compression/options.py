"""What a compression method is told besides its operator."""

from dataclasses import dataclass

from hesscomp.options import Seeded, option, values
from hesscomp.parallel.layout import PANEL
from hesscomp.sketching.catalogue import TEST_MATRICES
from hesscomp.sketching.defaults import RESIDUAL_TOLERANCE, SketchSizes


@dataclass(frozen=True, kw_only=True)
class SketchOptions(SketchSizes, Seeded, group="compression"):
    """How to sketch; every method reads what concerns it.

    A method of krylov's takes at most `max_columns` product columns on a rank, rounded up to whole
    blocks and without its probes: by default (2 + power) (rank + oversample), as many as eigh, and
    one (rank + oversample) fewer where it starts from a factor. The default of `max_basis` is as
    many columns as the default of `max_columns`. `probe_count` fresh Gaussian vectors measure the
    error.
    """

    test_matrix: str = option("gaussian", choices=tuple(TEST_MATRICES), help="of the sketch")
    probe_count: int = option(8, low=1)
    max_columns: int | None = option(
        None, low=1, metavar="C", help="krylov: most columns; default: as many as eigh"
    )
    max_basis: int | None = option(
        None, low=1, metavar="M", help="krylov: most columns held before a restart"
    )
    residual_tolerance: float | None = option(
        None, above=0, metavar="T",
        help="krylov: a pair counts as accurate where ||H u - w u|| <= T |w_1|; default "
        f"{RESIDUAL_TOLERANCE:g}",
    )  # fmt: skip

    @property
    def independent(self) -> bool:
        """Whether a sketch is H times independent Gaussian columns: leave-one-out holds then."""
        return self.power == 0 and self.test_matrix == "gaussian"

    def facts(self, part: type) -> dict[str, object]:
        """The options of a part as they are taken, which a run's products depend on."""
        taken = {"residual_tolerance": self.accuracy, "panel": self.panel or PANEL}
        return values(self, part) | taken

    @property
    def accuracy(self) -> float:
        """An eigenpair is converged where ||H u - w u|| <= accuracy |w_1|."""
        given = self.residual_tolerance
        return RESIDUAL_TOLERANCE if given is None else given
