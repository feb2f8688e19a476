"""Orthonormal bases of replicated blocks."""

import numpy as np
import scipy.linalg

from hesscomp.parallel.world import World

ORTHOGONAL = 1e-13  # largest |Q^T Q - I| that CholeskyQR2 may leave


def orthonormalize(
    Y: np.ndarray, world: World, against: np.ndarray | None = None, projected: bool = False
) -> np.ndarray:
    """Orthonormal (n, l) basis of the columns of an (n, l) block, l <= n, to rounding.

    CholeskyQR2 (Yamamoto, Nakatsukasa, Yanagisawa and Fukaya 2015), which is all matrix products;
    Householder QR on rank 0 where the block is too ill-conditioned for it (about 1e8). Dependent
    columns are completed to an orthonormal set, so the result always has l columns.

    Parameters
    ----------
    Y : (n, l) array, the same on all ranks
    against : (n, j) array, optional
        Orthonormal columns to which the result is made orthogonal (twice, so to rounding);
        l + j <= n.
    projected : bool
        Whether the caller has projected Y beside `against` once already.

    Notes
    -----
    About 6 n l^2 operations and one more (n, l) array.
    """
    if against is not None and against.shape[1] and not projected:
        Y = Y - against @ (against.T @ Y)
    Q = _cholesky_qr2(Y, world)
    if against is not None and against.shape[1]:
        Q -= against @ (against.T @ Q)
        overlap = np.abs(against.T @ Q).max()
        fresh = _cholesky_qr2(Q, world) if world.decide(overlap < ORTHOGONAL) else None
        if fresh is None:  # columns that vanished: complete them outside `against`
            joint = world.on_root(_householder, np.hstack([against, Q]))
            fresh = joint[:, against.shape[1] :]
        Q = fresh
    return Q


def _cholesky_qr2(Y: np.ndarray, world: World) -> np.ndarray:
    Q = Y
    try:
        for _ in range(2):
            inverse = world.on_root(_inverse_cholesky, Q)
            Q = Q @ inverse
    except np.linalg.LinAlgError:
        return world.on_root(_householder, Y)
    departure = np.abs(Q.T @ Q - np.eye(Q.shape[1])).max(initial=0.0)
    return Q if world.decide(departure < ORTHOGONAL) else world.on_root(_householder, Y)


def _inverse_cholesky(Y: np.ndarray) -> np.ndarray:
    """R^-1 with R^T R = Y^T Y."""
    scale = np.linalg.norm(Y, axis=0)
    if not np.all(scale > 0):
        raise np.linalg.LinAlgError("a column is zero")
    scaled = Y / scale
    lower = np.linalg.cholesky(scaled.T @ scaled)
    identity = np.eye(Y.shape[1])
    inverse = scipy.linalg.solve_triangular(lower, identity, lower=True, check_finite=False).T
    return inverse / scale[:, None]


def _householder(Y: np.ndarray) -> np.ndarray:
    return scipy.linalg.qr(Y, mode="economic", check_finite=False)[0]
