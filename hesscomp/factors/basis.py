"""Orthonormal bases from Gram matrices alone, the one thing that crosses rows."""

from collections.abc import Callable

import numpy as np

from hesscomp.errors import InputError

Inner = Callable[[np.ndarray, np.ndarray], np.ndarray]  # A^T B over all rows
EPS = np.finfo(np.float64).eps
CUT = 1e-5  # smallest part of the largest singular value that one Gram matrix resolves well


def complete(U: np.ndarray, B: np.ndarray, inner: Inner) -> np.ndarray:
    """Orthonormal columns Q beside U such that [U, Q] spans U and the columns of B.

    Block Gram-Schmidt, twice (Giraud, Langou, Rozloznik and van den Eshof 2005), with the
    eigendecomposition of the Gram matrix to orthonormalise. A Gram matrix shows directions down to
    1e-8 of the largest only, so it takes those above 1e-5 and the smaller ones come in a further
    pass: B lies in the span to rounding, however ill-conditioned it is.

    Parameters
    ----------
    U : (rows, k) array
        Orthonormal columns; where they are so to single precision only, so is the result.
    B : (rows, m) array
        Of any rank.
    inner : callable
        A^T B over all rows.

    Returns
    -------
    (rows, q) array
        k + q is at most the number of rows in all; directions below (k + m + 10) eps ||B||_F are
        left out.

    Raises
    ------
    InputError
        If B is not finite.

    Notes
    -----
    About 16 n m (k + m) operations a pass, one pass unless B is ill-conditioned.
    """
    norm = np.sqrt(np.trace(inner(B, B)))
    if not np.isfinite(norm):
        raise InputError("the block holds numbers that are not finite, or too large to square")
    level = (U.shape[1] + B.shape[1] + 10) * EPS * norm
    basis, whole = U, B.shape[1] == 0
    while not whole:
        rest = _beside(basis, B, inner)
        sigma, V = _singular(rest, inner)
        keep = sigma > max(level, CUT * sigma.max())
        fresh = _beside(basis, rest @ (V[:, keep] / sigma[keep]), inner)
        sigma, V = _singular(fresh, inner)
        new = sigma > 0.5  # else it was rounding in the span of a basis that is not orthonormal
        basis = np.hstack([basis, fresh @ (V[:, new] / sigma[new])])
        whole = keep.all() or not new.any()
    return basis[:, U.shape[1] :]


def _beside(basis: np.ndarray, B: np.ndarray, inner: Inner) -> np.ndarray:
    """(I - basis basis^T) B, projected twice so that it is orthogonal to rounding."""
    for _ in range(2):
        B = B - basis @ inner(basis, B)
    return B


def _singular(Y: np.ndarray, inner: Inner) -> tuple[np.ndarray, np.ndarray]:
    """Singular values, smallest first, and right singular vectors of Y, from Y^T Y."""
    squares, V = np.linalg.eigh(inner(Y, Y))
    return np.sqrt(np.maximum(squares, 0.0)), V
