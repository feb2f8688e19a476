"""Conjugate gradients."""

from dataclasses import dataclass

import numpy as np

from hesscomp.curvature.operator import Operator


@dataclass(frozen=True)
class CGResult:
    """A solution of A x = b by conjugate gradients.

    Attributes
    ----------
    x : (n,) array
    iterations : int
        Products with A.
    residual_norm : float
        ||b - A x||, by the recurrence.
    converged : bool
        Whether `residual_norm` reached the tolerance.
    negative_curvature : bool
        Whether a direction p with p.A p <= 0 ended the iteration; x is then the last iterate
        before it (the preconditioned steepest descent direction if it was the first).
    """

    x: np.ndarray
    iterations: int
    residual_norm: float
    converged: bool
    negative_curvature: bool = False


def conjugate_gradients(
    A: Operator,
    b: np.ndarray,
    *,
    tolerance: float,
    preconditioner=None,
    max_iterations: int | None = None,
) -> CGResult:
    """Solve A x = b for a positive definite operator, from x = 0.

    Parameters
    ----------
    A : Operator
    b : (n,) array
    tolerance : float
        Stop when ||b - A x||_2 <= tolerance (absolute).
    preconditioner : object with ``@``, optional
        A positive definite approximation of the inverse of A.
    max_iterations : int, optional
        Default 2 n.

    Notes
    -----
    One product, one application of the preconditioner and a few vector operations an iteration;
    four vectors of memory (Golub and Van Loan, Matrix Computations, algorithm 11.5.1). Stopping
    is decided on rank 0 for all ranks.
    """
    limit = 2 * A.n if max_iterations is None else max_iterations
    world = A.world
    x = np.zeros_like(b)
    r = b.copy()
    z = r if preconditioner is None else preconditioner @ r
    p, rz = z.copy(), r @ z
    norm = float(np.linalg.norm(r))
    for iteration in range(limit):
        if world.decide(norm <= tolerance):
            return CGResult(x, iteration, norm, True)
        q = A @ p
        curvature = p @ q
        if world.decide(not curvature > 0):
            fallback = z.copy() if iteration == 0 else x
            return CGResult(fallback, iteration + 1, norm, False, True)
        alpha = rz / curvature
        x += alpha * p
        r -= alpha * q
        norm = float(np.linalg.norm(r))
        z = r if preconditioner is None else preconditioner @ r
        rz, previous = r @ z, rz
        p = z + (rz / previous) * p
    return CGResult(x, limit, norm, world.decide(norm <= tolerance))
