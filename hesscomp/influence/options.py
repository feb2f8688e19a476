"""The options of `sensitivity`."""

from dataclasses import dataclass

from hesscomp.factors.lowrank import tail_number
from hesscomp.options import Seeded, option

WHOLE, SOME = 256, 100  # n up to which a factor that is made here is whole, and its rank beyond


def factor_rank(n: int) -> int:
    """Return the rank of the factor that a sensitivity makes where none is given."""
    return n if n <= WHOLE else SOME


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions(Seeded, group="sensitivity"):
    """What to compute, and how accurately."""

    operator: str = option(
        "hessian", choices=("hessian", "ggn"),
        help="the matrix that is solved with; ggn needs a network, and no minimum",
    )  # fmt: skip
    test_rows: tuple[int, ...] = option(
        (), low=0, metavar="I", help="also the loss of each of these test rows, counted from 0"
    )
    leading: int = option(
        10, low=0, metavar="K",
        help="solve for the gradients of the K most influential rows too, and show them",
    )  # fmt: skip
    leverage: bool = option(
        False, help="also leverage, self-influence and Cook's distance of every row, by the factor"
    )
    by_data: bool = option(
        False, help="also derivatives by the labels of every row, and by the columns of the data"
    )
    laplace: bool = option(
        False,
        help="also the Laplace posterior's standard deviations, of parameters and test outputs",
    )
    tolerance: float | None = option(
        None, above=0, below=1, metavar="T",
        help="largest residual of a solve, relative to its right-hand side; default: 1e-8, or "
        "1e-4 where products run in float32",
    )  # fmt: skip
    max_iterations: int | None = option(
        None, low=1, metavar="K", help="most CG iterations of a solve; default: 2 n"
    )
    damping: float = option(
        0.0, low=0, metavar="D",
        help="add D to the diagonal besides the ridge, where a point is no minimum",
    )  # fmt: skip
    gradient_limit: float | None = option(
        None, above=0, metavar="G", help="refuse a point whose gradient norm is above G"
    )
    dispersion: float | None = option(
        None, above=0, metavar="S", advanced=True,
        help="the scale of the likelihood, such as the variance of the noise; default: 1, or for "
        "squared error what the residuals say",
    )  # fmt: skip
    tail: float | str = option(
        "zero", parse=str, metavar="last|zero|FLOAT", advanced=True,
        help="value of the eigenvalues that the factor does not have, in what the factor alone "
        "gives",
    )  # fmt: skip

    def _check(self) -> None:
        super()._check()
        if self.tail not in ("last", "zero"):
            tail_number(self.tail)
