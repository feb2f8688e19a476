"""Small dense matrices: eigenproblems, Cholesky factors, and what dropping eigenpairs costs."""

import numpy as np
import scipy.linalg

WHICH = LM, LA, SA = ("LM", "LA", "SA")  # as scipy.sparse.linalg.eigsh names them


def sorted_eigh(T: np.ndarray, which: str = LM, rank: int | None = None) -> np.ndarray:
    """Return eigenpairs of a small symmetric matrix, the leading first: row 0 is w, then S.

    By decreasing |w| for `which` LM, by decreasing w for LA, by increasing w for SA; those after
    the first `rank`, if it is given, by decreasing |w|. Signs are canonical: each eigenvector's
    entry of largest magnitude is positive.
    """
    w, S = np.linalg.eigh((T + T.T) / 2)
    order = np.argsort({LM: -np.abs(w), LA: -w, SA: w}[which], kind="stable")
    if rank is not None:
        rest = order[rank:]
        order[rank:] = rest[np.argsort(-np.abs(w[rest]), kind="stable")]
    w, S = w[order], S[:, order]
    peaks = S[np.argmax(np.abs(S), axis=0), np.arange(len(w))]
    return np.vstack([w, S * np.where(peaks < 0, -1.0, 1.0)])


def dropped_squares(eigenvalues: np.ndarray) -> np.ndarray:
    """Return the (k + 1,) sums of squares that keeping 0, 1, ..., k eigenvalues drops."""
    return np.append(np.cumsum(eigenvalues[::-1] ** 2)[::-1], 0.0)


def dropped_largest(eigenvalues: np.ndarray) -> np.ndarray:
    """Return the (k + 1,) largest |w| that keeping 0, 1, ..., k eigenvalues drops."""
    return np.append(np.maximum.accumulate(np.abs(eigenvalues)[::-1])[::-1], 0.0)


def leading_eigenvectors(gram: np.ndarray, count: int) -> np.ndarray:
    """Return the eigenvectors of a semidefinite matrix's `count` largest eigenvalues, in order."""
    return np.linalg.eigh(gram)[1][:, ::-1][:, :count]


def inverse_cholesky(core: np.ndarray) -> np.ndarray:
    """Return L^-T for L L^T, the core's symmetric part; LinAlgError if it is not definite."""
    lower = np.linalg.cholesky((core + core.T) / 2)
    identity = np.eye(len(core))
    return scipy.linalg.solve_triangular(lower, identity, lower=True, check_finite=False).T
