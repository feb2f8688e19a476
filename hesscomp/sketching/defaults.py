"""The sizes of a sketch and their defaults, without loading MPI or TensorFlow."""

import math
from dataclasses import MISSING, dataclass

from hesscomp.errors import InputError
from hesscomp.options import Options, option, refuse
from hesscomp.parallel.layout import PANEL

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
    oversample: int = count(10, 0, metavar="P", help="sketch columns beyond the rank")
    power: int = count(1, 0, metavar="Q", help="power iterations of the sketch")
    block: int | None = count(
        None, metavar="B", help=f"krylov: columns of a block; default: {BLOCKS[0]} to {BLOCKS[1]}"
    )
    layout: str = option(
        "auto",
        choices=("auto", "replicated", "rows"),
        help="every rank holds all rows of the sketch, or only its own; auto decides by memory",
    )
    panel: int | None = count(
        None, metavar="B", help=f"with `layout` rows: columns gathered at once; default: {PANEL}"
    )

    def _check(self) -> None:
        super()._check()
        if self.layout != "rows":
            refuse(self, ("panel",), f"`layout` {self.layout}; take `layout` rows")


def block_size(sketch: int) -> int:
    """Return the columns of a Krylov block: a quarter of `sketch` = rank + oversample, 16 to 32.

    Wide enough that products run at the matrix-product rate, no wider: narrow blocks reach higher
    powers of H with the same columns.
    """
    return min(sketch, max(BLOCKS[0], min(sketch // 4, BLOCKS[1])))


def default_method(psd: bool, power: int, *krylov_options: int | None) -> str:
    """Return "nystrom" for semidefinite operators unless more accuracy is asked, else "krylov".

    That is, more than one power step (the same products give krylov higher powers), or any option
    of krylov.
    """
    accurate = power > 1 or any(option is not None for option in krylov_options)
    return "nystrom" if psd and not accurate else "krylov"
