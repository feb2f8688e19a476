"""Orthonormal bases from Gram matrices alone, the one thing that crosses rows."""

import numpy as np

from hesscomp.errors import InputError
from hesscomp.parallel.layout import Layout

EPS = np.finfo(np.float64).eps
CUT = 1e-5  # smallest part of the largest singular value that one Gram matrix resolves well


def complete(U: np.ndarray, B: np.ndarray, layout: Layout) -> np.ndarray:
    """Return orthonormal columns Q beside U such that [U, Q] spans U and the columns of B.

    Block Gram-Schmidt, twice (Giraud, Langou, Rozloznik and van den Eshof 2005), with the
    eigendecomposition of the Gram matrix to orthonormalise. A Gram matrix resolves directions down
    to 1e-8 of the largest only, so each pass takes those above 1e-5 and leaves the smaller ones to
    a further pass: B lies in the span to rounding, however ill-conditioned it is. About
    16 n m (k + m) operations a pass, one pass unless B is ill-conditioned.

    Parameters
    ----------
    U : (rows, k) array
        Orthonormal columns; where they are so to single precision only, so is the result.
    B : (rows, m) array
        Of any rank; InputError if it is not finite.

    Returns
    -------
    (rows, q) array
        k + q is at most the number of rows in all; directions below (k + m + 10) eps ||B||_F are
        left out.
    """
    norm = np.sqrt(np.trace(layout.inner(B, B)))
    if not np.isfinite(norm):
        raise InputError("the block holds numbers that are not finite, or too large to square")
    level = (U.shape[1] + B.shape[1] + 10) * EPS * norm
    basis, whole = U, B.shape[1] == 0
    while not whole:
        rest = _beside(basis, B, layout)
        sigma, V = _singular(rest, layout)
        keep = sigma > max(level, CUT * sigma.max())
        fresh = _beside(basis, layout.combine(rest, V[:, keep] / sigma[keep]), layout)
        sigma, V = _singular(fresh, layout)
        new = sigma > 0.5  # else it was rounding in the span of a basis that is not orthonormal
        basis = np.hstack([basis, layout.combine(fresh, V[:, new] / sigma[new])])
        whole = keep.all() or not new.any()
    return basis[:, U.shape[1] :]


def _beside(basis: np.ndarray, B: np.ndarray, layout: Layout) -> np.ndarray:
    """Return (I - basis basis^T) B, projected twice so that it is orthogonal to rounding."""
    for _ in range(2):
        B = B - layout.combine(basis, layout.inner(basis, B))
    return B


def _singular(Y: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Return the singular values, smallest first, and right singular vectors of Y, from Y^T Y."""
    pairs = layout.on_root(lambda gram: np.vstack(np.linalg.eigh(gram)), layout.inner(Y, Y))
    return np.sqrt(np.maximum(pairs[0], 0.0)), pairs[1:]
