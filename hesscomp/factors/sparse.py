"""A sparse symmetric matrix as a factor, such as a known prior's: eliminated by sparse LU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from hesscomp.errors import InputError
from hesscomp.factors.certificate import Certificate
from hesscomp.factors.hierarchical import SMALL, Elimination, Hierarchical
from hesscomp.factors.tree import Tree

EXACT = Certificate(0.0, float("nan"), 0.0, estimator="exact", spectral_failure=0.0)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Sparse(Hierarchical):
    """A sparse symmetric matrix: the precision of a prior, a stencil. Every rank holds all of it.

    A solve eliminates F + shift I once for each shift (SuperLU in its symmetric mode, minimum
    degree ordering); where pivots off the diagonal would be needed, NumericalError. Make one with
    `Sparse.of`.

    Attributes
    ----------
    row_lengths : (n,) int64 array
        Entries in each row.
    columns : (entries,) int64 array
        Their columns, row by row.
    values : (entries,) float64 array
        And values.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> from hesscomp.factors import Sparse
    >>> S = Sparse.of(scipy.sparse.diags([-np.ones(4), 3 * np.ones(5), -np.ones(4)], [-1, 0, 1]))
    >>> S.inertia(-3.0).negative, round(S.logdet(0.0).logabsdet, 6)  # log 144
    (2, 4.969813)
    """

    row_lengths: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    kind = "sparse"
    arrays = MappingProxyType(
        {"row_lengths": ("n",), "columns": ("entries",), "values": ("entries",)}
    )
    integers = frozenset({"row_lengths", "columns"})

    @classmethod
    def of(cls, matrix, **about) -> Sparse:
        """Return the factor of a SciPy sparse matrix, exactly; InputError unless symmetric."""
        matrix = scipy.sparse.csr_array(matrix)
        matrix.sum_duplicates()
        if np.issubdtype(matrix.dtype, np.complexfloating):
            raise InputError("the matrix is complex; a factor is real")
        lengths = np.diff(matrix.indptr).astype(np.int64)
        about = {"certificate": EXACT, **about}
        made = cls(
            row_lengths=lengths, columns=matrix.indices.astype(np.int64),
            values=matrix.data.astype(np.float64), **about,
        )  # fmt: skip
        if matrix.shape != (made.n, made.n):
            raise InputError(f"a symmetric matrix is square; this one is {matrix.shape}")
        made.check()
        return made

    @classmethod
    def most(cls, n: int) -> int:
        return n * n

    def check(self) -> None:
        """Raise InputError where the arrays are no symmetric matrix."""
        if self.row_lengths.min(initial=0) < 0 or self.row_lengths.sum() != len(self.values):
            raise InputError(
                f"the row lengths make {self.row_lengths.sum()} entries, not {len(self.values)}"
            )
        if len(self.columns) and not 0 <= self.columns.min() <= self.columns.max() < self.n:
            raise InputError(f"a column is outside 0 to {self.n - 1}")
        if not np.isfinite(self.values).all():
            raise InputError("the matrix holds numbers that are not finite")
        apart = abs(self.matrix - self.matrix.T)
        if apart.nnz and apart.max() > 1e-10 * np.abs(self.values).max():
            raise InputError("the matrix is not symmetric; its symmetric part is (A + A.T) / 2")

    @cached_property
    def matrix(self) -> scipy.sparse.csr_array:
        """The matrix itself."""
        starts = np.concatenate([[0], np.cumsum(self.row_lengths)])
        return scipy.sparse.csr_array((self.values, self.columns, starts), shape=(self.n, self.n))

    @property
    def is_blank(self) -> bool:
        return not self.values.any()

    @cached_property
    def tree(self) -> Tree:  # type: ignore[override]  # it is remembered
        """One leaf: rows are in the order of the parameters."""
        return Tree(np.arange(self.n), np.array([0, self.n]))

    @property
    def numbers(self) -> int:
        return len(self.values)

    def details(self, leading: int = 10) -> dict[str, str]:
        return {
            "entries": f"{len(self.values)} ({len(self.values) / self.n:.3g} a row)",
            "trace": f"{self.trace():.6g}",
        }

    def _product(self, X: np.ndarray) -> np.ndarray:
        return self.matrix @ X

    def _tree_diagonal(self) -> np.ndarray:
        return self.matrix.diagonal()

    def _eliminate(self, shift: float) -> Elimination:
        n = self.n
        shifted = self.matrix + shift * scipy.sparse.eye_array(n, format="csr")
        if n <= SMALL:  # as exact as can be, and singular matrices count their zeros
            return _dense(shifted.toarray())
        try:
            LU = scipy.sparse.linalg.splu(
                shifted.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )  # fmt: skip
        except RuntimeError:  # an exact zero on the diagonal
            LU = None
        if LU is None or not np.array_equal(LU.perm_r, LU.perm_c):
            raise InputError(
                f"the {self.name} with shift {shift:g} cannot be eliminated along its diagonal: "
                "it is singular or indefinite there; take another shift"
            )
        pivots = LU.U.diagonal()
        negative = int(np.count_nonzero(pivots < 0))
        logabsdet = float(np.sum(np.log(np.abs(pivots))))
        return Elimination(negative, 0, n - negative, logabsdet, LU)


def _dense(A: np.ndarray) -> Elimination:
    w, V = np.linalg.eigh(A)
    nothing = np.abs(w) <= 4 * len(w) * np.finfo(np.float64).eps * np.abs(w).max(initial=0.0)
    held, kept = w[~nothing], V[:, ~nothing]
    negative, zero = int(np.count_nonzero(held < 0)), int(np.count_nonzero(nothing))
    logabsdet = float(np.sum(np.log(np.abs(held))))
    return Elimination(negative, zero, len(w) - negative - zero, logabsdet, _Pairs(held, kept))


@dataclass(frozen=True)
class _Pairs:
    """The pseudo-inverse, by eigenpairs."""

    w: np.ndarray
    V: np.ndarray

    def solve(self, B: np.ndarray) -> np.ndarray:
        return self.V @ ((self.V.T @ B) / self.w[:, None])
