"""A low-rank factor whose sketch is doubled while a forecast says that it pays."""

import math
from dataclasses import dataclass

import numpy as np

from hesscomp.operators.operator import Operator

PROBE = 8  # first columns of a sketch, by which a factor is judged before the sketch grows
# Operations of wide float64 matrix products that take as long as those of a factor's application,
# which reads it twice from memory (measured on 172,110 parameters: rank 100 takes as long as 1.75
# lone sparse products), n r of them for rank r; and of a sketch's orthonormalisation, n l^2 of them
APPLYING, ORTHONORMALIZING = 40.0, 6.0
LEAP = 4  # times its columns that a sketch gets at most at once: it tells little of larger ones
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Costs:
    """What solves with a factor take, in columns of a wide block product.

    `lone` is a product with one column; `work` are the operations of a wide float64 matrix product
    that take as long as a column of a wide block, infinite where that is unknown, so that what has
    no product with the operator counts for nothing.
    """

    n: int
    lone: float
    work: float

    def applying(self, rank: int) -> float:
        """One application of a factor."""
        return APPLYING * self.n * rank / self.work

    def orthonormalizing(self, columns: int) -> float:
        """Making a factor of a sketch."""
        return ORTHONORMALIZING * self.n * columns**2 / self.work

    def slowdown(self, rank: int) -> float:
        """A CG iteration with a factor over one without."""
        return 1 + self.applying(rank) / self.lone


@dataclass(frozen=True)
class Outlook:
    """What a factor of a rank is expected to save: iterations of CG, by its last eigenvalue.

    `bare` is what CG without it is expected to cost, in columns; `second` is the eigenvalue plus
    shift that CG has to deal with there. (A lone large first one, as of one dense column, costs it
    one iteration.)
    """

    costs: Costs
    bare: float
    second: float
    shift: float

    def solving(self, rank: int, beyond: float) -> float:
        """Return what solves cost with a factor beyond which eigenvalues are at most `beyond`."""
        left = math.sqrt(min((beyond + self.shift) / max(self.second, TINY), 1.0))  # iterations
        return self.bare * left * self.costs.slowdown(rank)

    def wanted(self, w: np.ndarray, size: int, ranks: dict[int, int]) -> int:
        """Return how many columns a sketch should have: its `size`, a larger one, or 0.

        `w` are the eigenvalues that `size` columns gave, and `ranks` the rank of a factor by the
        columns of its sketch. A factor leaves what lies beyond it, and beyond about half as many
        eigenvalues as its sketch has columns (Frangella, Tropp and Udell 2023, corollary 2.3). What
        larger ones leave is expected to go on by the power law through that and half its index.
        """
        known = min(size // 2, len(w))
        last, middle = (max(float(w[max(at, 1) - 1]), TINY) for at in (known, known // 2))
        costs = {0: self.bare}
        for columns, rank in ranks.items():
            further = min(columns // 2, rank) / max(known, 1)
            beyond = last * (last / middle) ** math.log2(max(further, 1.0))
            more = columns - size + self.costs.orthonormalizing(columns) if columns > size else 0.0
            if columns >= size:
                costs[columns] = self.solving(rank, beyond) + more
        best = min(costs, key=lambda each: costs[each])
        return max(each for each in (0, *ranks) if each <= min(best, LEAP * size))


def doublings(most: int, rank: int) -> dict[int, int]:
    """Return sizes of a sketch, by doubling to `most`, and the rank of a factor at each.

    The rank is four fifths of the columns, and at most the one asked for.
    """
    sizes = [min(PROBE, most)]
    while sizes[-1] < most:
        sizes.append(min(2 * sizes[-1], most))
    return {size: min(max(4 * size // 5, 1), rank) for size in sizes[:-1]} | {most: rank}


class Remembering(Operator):
    """An operator that remembers its last block product.

    A block that begins with the columns of the one before takes only products with the others, so
    that a Gaussian sketch that is made again with more columns costs those alone.
    """

    passes = 0  # the base counts

    def __init__(self, base: Operator):
        super().__init__(base.n, base.world, psd=base.psd, dtype=base.dtype)
        self.base, self.layout = base, base.layout
        none = np.empty((self.layout.rows, 0))
        self._last = [none, none]  # of all copies, such as `replicated` makes

    @property
    def name(self) -> str:
        return self.base.name

    def describe(self, factor):
        return self.base.describe(factor)

    def to_dense(self, panel: int = 512) -> np.ndarray:
        return self.base.to_dense(panel)

    def block_product(self, V: np.ndarray) -> np.ndarray:
        block, product = self._last
        k = block.shape[1]
        if self.world.decide(k <= V.shape[1] and np.array_equal(block, V[:, :k])):
            rest = V[:, k:]
            product = np.hstack([product, self.base @ rest]) if rest.shape[1] else product
        else:
            product = self.base @ V
        self._last[:] = V.copy(), product
        return product.copy()
