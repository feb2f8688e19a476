"""The covariance of many coefficients, by a low-rank factor and a diagonal of its inverse."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
import scipy.linalg
import scipy.sparse

CHUNK_BYTES = 2**26  # of rows that are multiplied with the covariance at a time


@dataclass(frozen=True, eq=False)
class FactoredCovariance:
    """C = (diag(d) + U diag(w) U^T)^-1, an approximation of the coefficients' covariance.

    Attributes
    ----------
    diagonal : (n,) array
        d, positive.
    weights : (k,) array
        w, not negative.
    vectors : (n, k) array
        U, whose columns are orthonormal unless the fit was one of standardised columns.
    checked : (j,) array of int
        The coefficients whose standard errors were also computed from linear systems.
    error : float
        The largest relative difference of the standard errors of `checked` with the solved ones;
        those of other coefficients, and those of predictions, may differ by more.
    intercept_error : float
        That of the last intercept, which was solved for too; NaN without one.

    Notes
    -----
    By the identity of Woodbury C is diag(1/d) - V V^T, V an (n, k) matrix that is made once: n k^2
    operations. A variance then takes k operations.
    """

    diagonal: np.ndarray
    weights: np.ndarray
    vectors: np.ndarray = field(repr=False)
    checked: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    error: float = np.nan
    intercept_error: float = np.nan

    @property
    def rank(self) -> int:
        return len(self.weights)

    @cached_property
    def correction(self) -> np.ndarray:
        """V, (n, k), with C = diag(1/d) - V V^T."""
        B = self.vectors * np.sqrt(self.weights)
        scaled = B / self.diagonal[:, None]
        L = scipy.linalg.cholesky(np.eye(self.rank) + B.T @ scaled, lower=True)
        return scipy.linalg.solve_triangular(L, scaled.T, lower=True).T

    def variances(self) -> np.ndarray:
        """Return the diagonal of C: (n,)."""
        return np.maximum(1 / self.diagonal - np.sum(self.correction**2, axis=1), 0)

    def standard_errors(self) -> np.ndarray:
        """Return the roots of the variances: (n,)."""
        return np.sqrt(self.variances())

    def scaled(self, scale: float) -> Self:
        """Return the covariance times a positive number."""
        return replace(self, diagonal=self.diagonal / scale, weights=self.weights / scale)

    def __matmul__(self, B: np.ndarray) -> np.ndarray:
        """Return C B for an (n, k) array."""
        return B / self.diagonal[:, None] - self.correction @ (self.correction.T @ B)

    def of_rows(self, X, intercept: bool) -> np.ndarray:
        """Return x^T C x of each row x, which the intercept lengthens by a last 1: (rows,)."""
        n, V = X.shape[1], self.correction
        own, last = (1 / self.diagonal[n:], V[n:]) if intercept else (np.zeros(1), 0.0)
        out = np.empty(X.shape[0])
        numbers = self.rank if scipy.sparse.issparse(X) else self.rank + n
        step = max(CHUNK_BYTES // (8 * max(numbers, 1)), 1)
        for start in range(0, len(out), step):
            rows = X[start : start + step].astype(np.float64)
            squares = rows.multiply(rows) if scipy.sparse.issparse(rows) else rows**2
            along = np.asarray(rows @ V[:n]) + last
            lengths = np.asarray(squares @ (1 / self.diagonal[:n])).reshape(-1) + own.sum()
            out[start : start + step] = lengths - np.sum(along**2, axis=1)
        return np.maximum(out, 0)

    def of_classes(self, rows, pinned: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return the covariance of each row's scores of K classes: (rows, K, K).

        Parameters
        ----------
        rows : (rows, features) array or sparse
            With a last column of ones where there is an intercept.
        pinned : (features, K) array of bool
            Coefficients of the table that are none, but zero.
        places : (features, K) array of int
            Where the others stand.
        """
        squares = rows.multiply(rows) if scipy.sparse.issparse(rows) else rows**2
        out = np.zeros((rows.shape[0], pinned.shape[1], pinned.shape[1]))
        along = np.zeros((rows.shape[0], pinned.shape[1], self.rank))
        for k in range(pinned.shape[1]):
            free = np.flatnonzero(~pinned[:, k])
            of = places[free, k]
            along[:, k] = rows[:, free] @ self.correction[of]
            out[:, k, k] = np.asarray(squares[:, free] @ (1 / self.diagonal[of])).reshape(-1)
        return out - along @ np.swapaxes(along, 1, 2)
