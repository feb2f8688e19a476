"""Small dense matrices: eigenproblems, Cholesky factors, and what dropping eigenpairs costs."""

import numpy as np
import scipy.linalg


def sorted_eigh(T: np.ndarray) -> np.ndarray:
    """Eigenpairs of a small symmetric matrix by decreasing |w|, stacked: row 0 is w, below it S.

    Signs are canonical: each eigenvector's entry of largest magnitude is positive.
    """
    w, S = np.linalg.eigh((T + T.T) / 2)
    order = np.argsort(-np.abs(w), kind="stable")
    w, S = w[order], S[:, order]
    peaks = S[np.argmax(np.abs(S), axis=0), np.arange(len(w))]
    return np.vstack([w, S * np.where(peaks < 0, -1.0, 1.0)])


def dropped_squares(eigenvalues: np.ndarray) -> np.ndarray:
    """(k + 1,) sums of the squares that keeping the leading 0, 1, ..., k eigenvalues drops."""
    return np.append(np.cumsum(eigenvalues[::-1] ** 2)[::-1], 0.0)


def leading_eigenvectors(gram: np.ndarray, count: int) -> np.ndarray:
    """Eigenvectors of a small semidefinite matrix's `count` largest eigenvalues, largest first."""
    return np.linalg.eigh(gram)[1][:, ::-1][:, :count]


def inverse_cholesky(core: np.ndarray) -> np.ndarray:
    """L^-T, where L L^T is the symmetric part of the core; LinAlgError where it is not definite."""
    lower = np.linalg.cholesky((core + core.T) / 2)
    identity = np.eye(len(core))
    return scipy.linalg.solve_triangular(lower, identity, lower=True, check_finite=False).T
