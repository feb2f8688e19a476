"""Cholesky's factorization of a matrix that every rank holds, its work shared by the ranks."""

import numpy as np
from scipy.linalg.blas import dgemm, dtrsm

from hesscomp.parallel.world import World

WIDTH = 128  # of a block column


def cholesky(K: np.ndarray, world: World) -> np.ndarray:
    """Return the lower L with L L^T = K on every rank, K (m, m) being the same on all. Collective.

    Right-looking, by block columns that the ranks own in turn (ScaLAPACK's pdpotrf, on one row of
    ranks): the owner factors a block column, all ranks get it and subtract its products from those
    of their own that are still to come. The operations on a block column are the same whoever owns
    it, so that the bits do not depend on the number of ranks.

    Raises
    ------
    numpy.linalg.LinAlgError
        On all ranks, if K is not positive definite.

    Notes
    -----
    m^3 / (3 P) operations, and m^2 W / 2 that are not shared, with W the block's width of 128.
    m^2 / 2 words are broadcast.
    """
    m = len(K)
    L = np.zeros((m, m))
    own = {
        start: K[start:, start : start + WIDTH].copy()
        for place, start in enumerate(range(0, m, WIDTH))
        if place % world.size == world.rank
    }
    for place, start in enumerate(range(0, m, WIDTH)):
        here, owner = L[start:, start : start + WIDTH], place % world.size
        made = _factored(own.pop(start)) if owner == world.rank else np.empty(here.shape)
        made = world.broadcast_array(made, owner)
        if not np.isfinite(made[-1]).all():
            raise np.linalg.LinAlgError("the matrix is not positive definite")
        here[:] = made
        for later, column in own.items():
            below = made[later - start :]
            square = below[: column.shape[1]]
            dgemm(-1.0, square.T, below.T, 1.0, column.T, trans_a=1, overwrite_c=1)
    return L


def _factored(column: np.ndarray) -> np.ndarray:
    """Return a block column, its square on the diagonal at its top, made L's; or NaN for none."""
    width = column.shape[1]
    try:
        top = np.linalg.cholesky(column[:width])
    except np.linalg.LinAlgError:
        return np.full_like(column, np.nan)
    column[:width] = top
    if len(column) > width:
        dtrsm(1.0, top.T, column[width:].T, trans_a=1, overwrite_b=1)
    return column
