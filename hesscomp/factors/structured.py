"""A factor of another kind plus a low rank: F = S + U diag(w) U^T."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import scipy.sparse

from hesscomp.errors import InputError, NumericalError
from hesscomp.factors.basis import EPS
from hesscomp.factors.certificate import UNKNOWN
from hesscomp.factors.diagonal import Diagonal
from hesscomp.factors.factor import Factor, Inertia, LogDet, scale_rows
from hesscomp.factors.hbs import Hbs
from hesscomp.factors.hierarchical import Elimination, Hierarchical
from hesscomp.factors.hodlr import Hodlr
from hesscomp.factors.known import IN_MEMORY, Known
from hesscomp.factors.sparse import Sparse
from hesscomp.factors.tree import Tree
from hesscomp.parallel.layout import Replicated

ACCURATE = 1e-13  # relative residual of a solve that is not refined
REFINEMENTS = 4
LOST = 1e-6  # relative residual above which a solve is refused
OWN = {"vectors": ("n", "added_rank"), "weights": ("added_rank",)}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Structured(Hierarchical):
    """F = S + U diag(w) U^T for a factor S of another kind, the `base`. See `structured`.

    Solved by the Woodbury identity over S + shift I, refined; the signs of determinant and
    inertia are those of S + shift I, of w, and of diag(1/w) + U^T (S + shift I)^-1 U (Haynsworth
    1968). Every rank holds all of it, in either layout. There is a class for each kind of base,
    which has that kind's arrays too.

    Attributes
    ----------
    vectors : (n, r) array
        U, whose columns may be of any length and angle.
    weights : (r,) array
        w, of any sign.
    base : Factor
        S, replicated.
    """

    vectors: np.ndarray
    weights: np.ndarray

    base_kind: ClassVar[type[Factor]]

    @cached_property
    def base(self) -> Factor:
        arrays: dict[str, Any] = {name: getattr(self, name) for name in self.base_kind.arrays}
        return self.base_kind(**arrays, certificate=UNKNOWN, layout=Replicated(self.n))

    @classmethod
    def most(cls, n: int) -> int:
        return cls.base_kind.most(n)

    def check(self) -> None:
        """Raise InputError where the arrays are no factor of this kind."""
        self.base.check()

    @property
    def is_blank(self) -> bool:
        return self.base.is_blank and not (self.vectors.any() and self.weights.any())

    @cached_property
    def tree(self) -> Tree:  # type: ignore[override]  # it is remembered
        """One leaf: rows are in the order of the parameters, whatever that of the base is."""
        return Tree(np.arange(self.n), np.array([0, self.n]))

    @property
    def numbers(self) -> int:
        held = self.base_kind.arrays.keys() - self.base_kind.integers
        return sum(getattr(self, name).size for name in held) + self.vectors.size

    @property
    def extent(self) -> str:
        return f"{self.base.extent} and rank {len(self.weights)}"

    def details(self, leading: int = 10) -> dict[str, str]:
        w = self.weights[:leading]
        return {
            **self.base.details(leading),
            "added rank": f"{len(self.weights)}",
            "its weights": "  ".join(f"{value:.4g}" for value in w) or "none",
        }

    def _product(self, X: np.ndarray) -> np.ndarray:
        inside = scale_rows(self.weights, self.vectors.T @ X)
        return self.base.block_product(X) + self.vectors @ inside

    def _tree_diagonal(self) -> np.ndarray:
        return self.base.diagonal() + self.vectors**2 @ self.weights

    def inertia(self, shift: float = 0.0, threshold: float | None = None) -> Inertia:
        """As `Factor.inertia`; by default eigenvalues of at most sqrt(eps) ||F|| count as zero.

        Where the base is nearly singular, the Woodbury identity tells no smaller ones apart.
        """
        if threshold is None:
            threshold = float(np.sqrt(EPS) * max(self.norm(), abs(shift)))
        return super().inertia(shift, threshold)

    def _eliminate(self, shift: float) -> Elimination:
        base, counts = self.base, self._signs(shift)
        if counts.zero:
            raise InputError(
                f"the base of the {self.name} with shift {shift:g} is singular, and the sum is "
                "solved by it; take another shift"
            )
        signs = np.where(self.weights < 0, -1.0, 1.0)
        U = self.vectors * np.sqrt(np.abs(self.weights))
        Y = base.solve(U, shift)
        core = U.T @ Y
        w, V = np.linalg.eigh((core + core.T) / 2 + np.diag(signs))
        nothing = np.abs(w) <= 8 * len(w) * EPS * max(np.abs(w).max(initial=0.0), 1.0)
        held = w[~nothing]
        zero = int(np.count_nonzero(nothing))
        negative = (
            counts.negative + int(np.count_nonzero(held > 0)) - int(np.count_nonzero(signs > 0))
        )
        logabsdet = self._size(shift) + float(np.sum(np.log(np.abs(held))))
        solver = _Woodbury(self, shift, Y, (V[:, ~nothing] / held) @ V[:, ~nothing].T)
        return Elimination(negative, zero, self.n - negative - zero, logabsdet, solver)

    def _signs(self, shift: float) -> Inertia | Elimination:
        """Return the counts of S + shift I."""
        return self.base.inertia(shift, 0.0)

    def _size(self, shift: float) -> float:
        """Return log |det (S + shift I)|."""
        return self.base.logdet(shift).logabsdet


@dataclass(frozen=True)
class _Woodbury:
    """(S + U W U^T + shift I)^-1 = M - Y C Y^T for M = (S + shift I)^-1, refined."""

    factor: Structured
    shift: float
    Y: np.ndarray
    C: np.ndarray

    def solve(self, B: np.ndarray) -> np.ndarray:
        X, size = self._once(B), np.linalg.norm(B)
        for _ in range(REFINEMENTS):
            R = self._residual(B, X)
            left = np.linalg.norm(R)
            if left <= ACCURATE * size:
                return X
            X += self._once(R)
        if not left <= LOST * size:
            raise NumericalError(
                f"a solve with the {self.factor.name} and shift {self.shift:g} leaves a residual "
                f"of {left:.2g}: it or its base is nearly singular there; take another shift"
            )
        return X

    def _residual(self, B: np.ndarray, X: np.ndarray) -> np.ndarray:
        return B - self.factor._product(X) - self.shift * X

    def _once(self, B: np.ndarray) -> np.ndarray:
        return self.factor.base.solve(B, self.shift) - self.Y @ (self.C @ (self.Y.T @ B))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DiagonalPlus(Structured):
    """`Structured` over a `Diagonal`."""

    entries: np.ndarray

    kind = "diagonal+low-rank"
    base_kind = Diagonal
    arrays = MappingProxyType({**Diagonal.arrays, **OWN})


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HodlrPlus(Structured):
    """`Structured` over a `Hodlr`."""

    permutation: np.ndarray
    bounds: np.ndarray
    block_ranks: np.ndarray
    leaf_blocks: np.ndarray
    sides: np.ndarray

    kind = "hodlr+low-rank"
    base_kind = Hodlr
    arrays = MappingProxyType({**Hodlr.arrays, **OWN})
    integers = Hodlr.integers


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HbsPlus(Structured):
    """`Structured` over an `Hbs`."""

    permutation: np.ndarray
    bounds: np.ndarray
    ranks: np.ndarray
    leaf_blocks: np.ndarray
    bases: np.ndarray
    couplings: np.ndarray

    kind = "hbs+low-rank"
    base_kind = Hbs
    arrays = MappingProxyType({**Hbs.arrays, **OWN})
    integers = Hbs.integers


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SparsePlus(Structured):
    """`Structured` over a `Sparse`."""

    row_lengths: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    kind = "sparse+low-rank"
    base_kind = Sparse
    arrays = MappingProxyType({**Sparse.arrays, **OWN})
    integers = Sparse.integers


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class KnownPlus(Structured):
    """`Structured` over a `Known` operator; what that does not offer, this refuses."""

    known: Known

    kind = "known operator+low-rank"
    base_kind = Known
    arrays = MappingProxyType(OWN)

    @property
    def base(self) -> Known:  # type: ignore[override]  # it is held
        return self.known

    @property
    def is_blank(self) -> bool:
        return False

    @property
    def psd(self) -> bool:  # type: ignore[override]  # nothing sets it
        return bool((self.weights >= 0).all()) or self.eliminated(0.0).negative == 0

    def contents(self) -> dict[str, np.ndarray]:
        raise InputError(IN_MEMORY)

    def logdet(self, shift: float) -> LogDet:
        base, found = self.known.logdet(shift), self.eliminated(shift)
        if found.zero:
            return found.logdet
        return LogDet(found.logdet.sign, base.logabsdet + found.logabsdet)

    def inertia(self, shift: float = 0.0, threshold: float | None = None) -> Inertia:
        self.known.inertia(shift)  # refuses where the object does not count
        return super().inertia(shift, threshold)

    def _signs(self, shift: float) -> Elimination:
        return self.known.eliminated(shift)

    def _size(self, shift: float) -> float:
        return 0.0  # `logdet` asks the object


STRUCTURED: dict[type[Factor], type[Structured]] = {
    kind.base_kind: kind for kind in (DiagonalPlus, HodlrPlus, HbsPlus, SparsePlus, KnownPlus)
}


def as_base(base, world=None) -> Factor:
    """Return a factor as it is, and a SciPy sparse matrix or a known operator as one. Collective.

    InputError for another object.
    """
    if isinstance(base, Factor):
        return base
    return Sparse.of(base) if scipy.sparse.issparse(base) else Known.of(base, world)


def low_rank_part(factor: Factor) -> tuple[Factor, np.ndarray, np.ndarray]:
    """Return S, U and w of a factor that can be the base of a structured one, or is one.

    InputError for others.
    """
    if isinstance(factor, Structured):
        return factor.base, factor.vectors, factor.weights
    _kind_over(factor)
    return factor, np.empty((factor.n, 0)), np.empty(0)


def _kind_over(base: Factor) -> type[Structured]:
    kind = STRUCTURED.get(type(base))
    if kind is None:
        known = ", ".join(each.kind for each in STRUCTURED)
        raise InputError(f"the base of a structured factor is {known}, not {base.kind}")
    return kind


def structured(base, vectors: np.ndarray, weights: np.ndarray, **about) -> Structured:
    """Return S + U diag(w) U^T as one factor. Collective where the base is in rows.

    Parameters
    ----------
    base : Diagonal, Hodlr, Hbs or Sparse; SciPy sparse matrix; or a known operator
        S; InputError for another kind of factor. A known operator is an object with `shape`, ``@``
        and `solve`, symmetric positive definite (`Known`).
    vectors : (n, r) array
        U; whole on every rank.
    weights : (r,) array
        w, of any sign.
    **about
        Fields of every `Factor`, such as `certificate`; the layout is that of the base.

    Examples
    --------
    >>> import numpy as np
    >>> from hesscomp.factors import UNKNOWN, Diagonal
    >>> S = Diagonal(np.array([1.0, 2.0, 3.0]), certificate=UNKNOWN)
    >>> F = structured(S, np.ones((3, 1)), np.array([-1.0]))
    >>> F.inertia().negative, F.logdet(0.0).sign, F.solve(F @ np.ones(3), 0.0)
    (1, -1.0, array([1., 1., 1.]))
    """
    base = as_base(base)
    kind = _kind_over(base)
    U, w = np.asarray(vectors, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if U.ndim != 2 or U.shape != (base.n, len(w)) or w.ndim != 1:
        raise InputError(
            f"vectors of shape {U.shape} and weights of shape {w.shape} do not fit a base of "
            f"n = {base.n}"
        )
    if not (np.isfinite(U).all() and np.isfinite(w).all()):
        raise InputError("the vectors and weights of a structured factor must be finite")
    held: dict[str, Any] = {"known": base} if isinstance(base, Known) else base.contents()
    about = {"certificate": UNKNOWN, "layout": base.layout, **about}
    return kind(vectors=U, weights=w, **held, **about)
