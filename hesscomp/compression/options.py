"""The options of a compression method and their defaults. Loads neither MPI nor TensorFlow."""

import math
from dataclasses import MISSING, dataclass

from hesscomp.dense import LA, LM, WHICH
from hesscomp.errors import InputError
from hesscomp.options import Options, Seeded, option, refuse, values
from hesscomp.parallel.layout import PANEL
from hesscomp.sketching.test_matrices import TEST_MATRICES

BLOCKS = 16, 32  # fewest and most columns of a Krylov block
RESIDUAL_TOLERANCE = 1e-6  # an eigenpair is accurate with ||H u - w u|| of at most this times |w_1|
MOST = 10**15  # of counts; models of costs overflow beyond


def whole(text: str) -> int:
    """Return a whole number, which may be written 1e8."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (abs(value) <= MOST and value.is_integer()):
        raise InputError(f"{text!r} is not a count; give one such as 40 or 1e8")
    return int(value)


def count(default=MISSING, low: int = 1, **about):
    """Return an option that counts something."""
    return option(default, low=low, high=MOST, parse=whole, **about)


@dataclass(frozen=True, kw_only=True)
class SketchSizes(Options, group="compression"):
    """The size of a sketch, and the layout of its rows."""

    rank: int | None = count(None, metavar="K", help="number of eigenpairs")
    oversample: int = count(
        10, 0, metavar="P", advanced=True, help="sketch columns beyond the rank"
    )
    power: int = count(1, 0, metavar="Q", advanced=True, help="power iterations of the sketch")
    block: int | None = count(
        None, metavar="B", advanced=True,
        help=f"krylov: columns of a block; default: {BLOCKS[0]} to {BLOCKS[1]}",
    )  # fmt: skip
    layout: str = option(
        "auto", choices=("auto", "replicated", "rows"), advanced=True,
        help="every rank holds all rows of the sketch, or only its own; auto decides by memory",
    )  # fmt: skip
    panel: int | None = count(
        None, metavar="B", advanced=True,
        help=f"with `layout` rows: columns gathered at once; default: {PANEL}",
    )  # fmt: skip

    def _check(self) -> None:
        super()._check()
        if self.layout != "rows":
            refuse(self, ("panel",), f"`layout` {self.layout}; take `layout` rows")


@dataclass(frozen=True, kw_only=True)
class SketchOptions(SketchSizes, Seeded, group="compression"):
    """How to sketch; every method reads what concerns it.

    Krylov takes at most `max_columns` product columns for a `rank`, rounded up to whole blocks and
    without its probes: by default (2 + power) (rank + oversample), as many as eigh, and one
    (rank + oversample) fewer where it starts from a factor. `max_basis` has the same default.
    `probe_count` fresh Gaussian vectors measure the error.
    """

    test_matrix: str = option(
        "gaussian", choices=tuple(TEST_MATRICES), advanced=True, help="random matrix"
    )
    probe_count: int = option(8, low=1)
    which: str = option(LM, choices=WHICH)  # see `CompressionOptions`
    max_columns: int | None = option(
        None, low=1, metavar="C", advanced=True,
        help="krylov: most product columns; default: as many as eigh",
    )  # fmt: skip
    max_basis: int | None = option(
        None, low=1, metavar="M", advanced=True,
        help="krylov: most basis columns held before a restart",
    )  # fmt: skip
    residual_tolerance: float | None = option(
        None, above=0, metavar="T", advanced=True,
        help="krylov: an eigenpair is accurate where ||H u - w u|| <= T |w_1|; default: "
        f"{RESIDUAL_TOLERANCE:g}",
    )  # fmt: skip

    @property
    def independent(self) -> bool:
        """Whether a sketch is H times independent Gaussian columns, as leave-one-out needs."""
        return self.power == 0 and self.test_matrix == "gaussian"

    def run_identity(self, part: type) -> dict[str, object]:
        """The options of a part as they are taken, which a run's products depend on."""
        taken = {"residual_tolerance": self.accuracy, "panel": self.panel or PANEL}
        return values(self, part) | taken

    @property
    def accuracy(self) -> float:
        """The tolerance of eigenpairs: converged where ||H u - w u|| <= accuracy |w_1|."""
        given = self.residual_tolerance
        return RESIDUAL_TOLERANCE if given is None else given


def block_size(sketch: int) -> int:
    """Return the columns of a Krylov block: a quarter of `sketch` = rank + oversample, 16 to 32.

    Wide enough that products run at the matrix-product rate, no wider: narrow blocks reach higher
    powers of H with the same columns.
    """
    return min(sketch, max(BLOCKS[0], min(sketch // 4, BLOCKS[1])))


def end_taken(which: str, psd: bool) -> str:
    """Return which eigenvalues are taken: the largest of a semidefinite operator are LM too."""
    return LM if psd and which == LA else which


def default_method(psd: bool, power: int, which: str = LM, *krylov_options: int | None) -> str:
    """Return "nystrom" for semidefinite operators unless more accuracy is asked, else "krylov".

    That is, more than one power step (the same products give krylov higher powers), the smallest
    eigenvalues, or any option of krylov.
    """
    accurate = power > 1 or any(option is not None for option in krylov_options)
    accurate = accurate or end_taken(which, psd) != LM
    return "nystrom" if psd and not accurate else "krylov"
