"""What factors over a tree have in common: products and eliminations, and what follows from them.

A kind writes its product and its elimination for blocks whose rows are in the order of the tree.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse.linalg

from hesscomp.errors import InputError
from hesscomp.factors.basis import EPS
from hesscomp.factors.factor import Factor, Inertia, LogDet, finite_shift
from hesscomp.factors.shares import Shares, TreeRows
from hesscomp.factors.tree import Tree
from hesscomp.operators.operator import Operator

log = logging.getLogger(__name__)

SMALL = 100  # order up to which the spectral norm is that of the dense matrix
RAISE = 4.0  # a shift that leaves a preconditioner indefinite grows by this much at a time
KEPT = 2  # eliminations that a factor remembers


@dataclass(frozen=True)
class Elimination:
    """F + shift I, eliminated: the signs of its pivots, its determinant, and how to solve with it.

    Attributes
    ----------
    negative, zero, positive : int
        Of the pivots, which are those of the eigenvalues (Sylvester).
    logabsdet : float
        Of all pivots that are not zero.
    solver : object with ``solve(B)``
        For an (n, j) array in the order of the tree. With zero pivots it is the pseudo-inverse's.
    """

    negative: int
    zero: int
    positive: int
    logabsdet: float
    solver: Any

    @property
    def logdet(self) -> LogDet:
        if self.zero:
            return LogDet(0.0, -np.inf)
        return LogDet(-1.0 if self.negative % 2 else 1.0, float(self.logabsdet))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Hierarchical(Factor):
    """A factor over a `tree`. Every rank holds all of it in either layout, unless a kind shares it.

    Attributes
    ----------
    tree : Tree
        The ordering of the parameters and its cuts.
    numbers : int
        The float64 numbers that it holds.
    """

    in_slabs = False

    @property
    @abstractmethod
    def tree(self) -> Tree: ...

    @property
    @abstractmethod
    def numbers(self) -> int: ...

    @abstractmethod
    def _product(self, X: np.ndarray) -> np.ndarray:
        """Return F X for an (n, j) array in the order of the tree."""

    @abstractmethod
    def _eliminate(self, shift: float) -> Elimination:
        """Eliminate F + shift I."""

    @abstractmethod
    def _tree_diagonal(self) -> np.ndarray:
        """Return the diagonal of F in the order of the tree."""

    # An operator's

    def block_product(self, V: np.ndarray) -> np.ndarray:
        return self._in_order(self._product, V)

    def _in_order(self, work, B: np.ndarray) -> np.ndarray:
        """Return what `work` makes of a vector or block in the order of the tree."""
        return self._block_in_order(work, B if B.ndim > 1 else B[:, None]).reshape(B.shape)

    def _block_in_order(self, work, B: np.ndarray) -> np.ndarray:
        def whole(V):
            if self._natural:
                return work(np.ascontiguousarray(V))
            return _rows(work(_rows(V, self.tree.permutation)), self._places)

        return self.layout.product(B, whole)

    @cached_property
    def _places(self) -> np.ndarray:
        """Where each parameter stands in the order of the tree."""
        places = np.empty(self.n, np.int64)
        places[self.tree.permutation] = np.arange(self.n)
        return places

    @cached_property
    def _natural(self) -> bool:
        return bool(np.array_equal(self.tree.permutation, np.arange(self.n)))

    # A factor's

    def eliminated(self, shift: float) -> Elimination:
        """Return the elimination of F + shift I; the latest ones are remembered."""
        known, shift = self._eliminations, finite_shift(shift)
        if shift not in known:
            while len(known) >= KEPT:
                known.pop(next(iter(known)))
            known[shift] = self._eliminate(shift)
        return known[shift]

    @cached_property
    def _eliminations(self) -> dict[float, Elimination]:
        return {}

    def solve(self, B: np.ndarray, shift: float) -> np.ndarray:
        """Solve (F + shift I) X = B for an (n,) or (n, j) array, exactly.

        The first solve with a shift eliminates F + shift I, which is remembered: as much memory as
        F takes.

        Raises
        ------
        InputError
            Where F + shift I is singular, or the shapes do not fit.
        """
        B, found = self.checked(B), self.eliminated(shift)
        if found.zero:
            raise InputError(
                f"the factor with shift {shift:g} is singular: {found.zero} of its pivots are 0; "
                "take a larger shift"
            )
        return self._in_order(found.solver.solve, B)

    def logdet(self, shift: float) -> LogDet:
        """Return the sign and log |det| of F + shift I; 0 and -inf where it is singular."""
        return self.eliminated(shift).logdet

    def inertia(self, shift: float = 0.0, threshold: float | None = None) -> Inertia:
        """Return how many eigenvalues of F + shift I are negative, zero and positive.

        Those of at most the `threshold` in magnitude count as zero; by default sqrt(n) times the
        rounding level. Two eliminations: of F + (shift +- threshold) I.
        """
        shift = finite_shift(shift)
        if threshold is None:
            threshold = float(np.sqrt(self.n) * EPS * (self.norm() + abs(shift)))
        above = self.eliminated(shift - threshold).positive
        below = self.eliminated(shift + threshold).negative
        return Inertia(below, self.n - below - above, above, threshold)

    @property
    def psd(self) -> bool:  # type: ignore[override]  # nothing sets it
        return self.inertia().negative == 0

    def diagonal(self) -> np.ndarray:
        whole = np.empty(self.n)
        whole[self.tree.permutation] = self._tree_diagonal()
        return self.layout.local(whole)

    def trace(self) -> float:
        return float(np.sum(self._tree_diagonal()))

    def norm(self) -> float:
        """Return the spectral norm of F, ||F||_2, by Lanczos; remembered."""
        return self._norm

    @cached_property
    def _norm(self) -> float:
        return spectral_norm(self.n, self._product)

    def quadratic_form(self, V: np.ndarray) -> np.ndarray | float:
        V = self.checked(V)
        columns = V if V.ndim > 1 else V[:, None]
        products = columns * self.block_product(columns)
        form = self.layout.inner(np.ones((len(columns), 1)), products)[0]
        return form if V.ndim > 1 else float(form[0])

    def preconditioner(self, shift: float) -> Inverse:
        """Return (F + s I)^-1 with the smallest s of shift, shift + step, ... that is definite.

        A factor goes indefinite once its error exceeds the shift. Then what is added to the shift
        begins with the shift (or the rounding level), and grows fourfold until the pivots of
        F + s I are all positive; a warning says so, and `Inverse.shift` is s.
        """
        asked = finite_shift(shift)
        step, used = 0.0, asked
        while (found := self.eliminated(used)).negative or found.zero:
            step = RAISE * step or abs(asked) or EPS * np.abs(self._tree_diagonal()).max() or EPS
            used = asked + step
        if used != asked and (self.world is None or self.world.rank == 0):
            log.warning(
                "the %s with shift %.3g is not positive definite: its preconditioner takes the "
                "shift %.3g; a smaller tolerance makes a better one", self.name, asked, used,
            )  # fmt: skip
        return Inverse(self, used)

    @property
    def extent(self) -> str:
        return f"{self.numbers / self.n:.3g} numbers a parameter"


def spectral_norm(n: int, product: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the norm of a symmetric matrix of order n from its product with (n, j) arrays."""
    if n <= SMALL:
        return float(np.linalg.norm(product(np.eye(n)), 2))
    start = np.random.default_rng(0).standard_normal(n)
    view = scipy.sparse.linalg.LinearOperator(
        (n, n), matvec=lambda v: product(v.reshape(-1, 1))[:, 0], dtype=np.float64
    )
    if not np.any(view @ start):
        return 0.0
    found = scipy.sparse.linalg.eigsh(
        view, 1, which="LM", v0=start, tol=1e-9, return_eigenvectors=False
    )
    return float(abs(found[0]))


def _rows(block: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return ``block[places]``; `take` without a check of the places is the fastest way."""
    if block.shape[1] == 1:
        return block[:, 0].take(places, mode="clip")[:, None]
    return block.take(places, axis=0, mode="clip")


@dataclass(frozen=True, eq=False, repr=False)
class InLeaves(Hierarchical):
    """A factor that stores its tree, and the diagonal blocks of the tree's leaves.

    In the row layout each rank multiplies and solves in its own leaves (`Shares`), whatever the
    ordering; what is above its subtrees all of them do.
    """

    permutation: np.ndarray
    bounds: np.ndarray
    leaf_blocks: np.ndarray

    @property
    def is_blank(self) -> bool:
        return not len(self.leaf_blocks) or super().is_blank

    @cached_property
    def tree(self) -> Tree:  # type: ignore[override]  # it is remembered
        return Tree(self.permutation, self.bounds)

    def _block_in_order(self, work, B: np.ndarray) -> np.ndarray:
        """Where ranks have rows of their own, each works on its share of the leaves."""
        if self.shares.alone:
            return super()._block_in_order(work, B)
        rows, share = self.rows, self.shares.leaf_share
        return self.layout.by_pieces(B, lambda piece: rows.back(work(rows.there(piece), share)))

    @cached_property
    def shares(self) -> Shares:
        """The leaves that each rank works on: in rows its own, else all of them."""
        return Shares.of(self.tree, self.layout)

    @cached_property
    def rows(self) -> TreeRows:
        """How rows come and go between the layout and the ranks' leaves."""
        return TreeRows(self.shares, self.layout)

    @property
    def numbers(self) -> int:
        return sum(len(getattr(self, name)) for name in self.arrays.keys() - self.integers)

    @property
    @abstractmethod
    def largest_rank(self) -> int:
        """The largest rank of a node."""

    def check_lengths(self, wanted: Mapping[str, int]) -> None:
        """Raise InputError where an array is not as long as the tree and the ranks make it."""
        for name, numbers in wanted.items():
            if (found := len(getattr(self, name))) != numbers:
                raise InputError(f"{name} hold {found} numbers, where ranks make {numbers}")


class Inverse(Operator):
    """(F + shift I)^-1 for a factor F, by its `solve`. Positive definite: whoever makes it checks.

    Attributes
    ----------
    shift : float
        The one used.
    """

    passes, parts = 0, ("factor",)

    def __init__(self, factor: Factor, shift: float):
        super().__init__(factor.n, factor.world, psd=True)  # type: ignore[arg-type]  # may be None
        self.layout, self.factor, self.shift = factor.layout, factor, shift

    def block_product(self, V: np.ndarray) -> np.ndarray:
        return self.factor.solve(V, self.shift)
