"""Conjugate gradients: one recurrence, and the solvers that stop it by different rules."""

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from scipy.linalg.blas import daxpy

from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import RowLayout

SHARED = 2**15  # elements of a vector from which ranks share work with it: else it is in the cache


class Recurrence:
    """The preconditioned recurrence for A x = b (Golub and Van Loan, algorithm 11.5.1).

    An iteration is a product, `probe`, and then a move, `advance`, unless the caller stops between.

    Parameters
    ----------
    A : Operator
    b : (n,) array
        Of which each rank holds the rows that A's layout gives it, as of all vectors here.
    preconditioner : object with ``@``, optional
        A positive definite approximation of the inverse of A, in the same layout.
    x : (n,) array, optional
        The start, zero by default; another one costs a product.

    `x`, `r` and `p` are the iterate, its residual b - A x by the recurrence, and the search
    direction, which a move changes in place; `norm` is ||r||_2, `rz` r^T M r, and `products` counts
    those with A.
    """

    def __init__(
        self, A: Operator, b: np.ndarray, preconditioner=None, x: np.ndarray | None = None
    ):
        self.A, self.M = A, preconditioner
        self.products = 0 if x is None else 1
        self.x = np.zeros(len(b)) if x is None else np.array(x, np.float64)
        self.r = np.array(b, np.float64) if x is None else b - A @ x
        self._steps: list[float] = []
        self._shares: list[float] = []
        self._precondition()
        self.p = self.z.copy()

    def _precondition(self) -> None:
        self.z = self.r if self.M is None else self.M @ self.r
        others = [self.r] if self.M is None else [self.r, self.z]
        dots = self.A.layout.dots(*((self.r, other) for other in others))
        self.norm, self.rz = math.sqrt(dots[0]), float(dots[-1])

    def probe(self) -> float:
        """Return p^T A p, the curvature along the direction; one product."""
        self.q = self.A @ self.p
        self.products += 1
        self.curvature = float(self.A.layout.dots((self.p, self.q))[0])
        return self.curvature

    @property
    def step(self) -> float:
        """The distance to the minimum along p, in multiples of p; known after `probe`."""
        return self.rz / self.curvature

    def advance(self) -> float:
        """Move to the minimum and make the next direction, z + share p; return the share."""
        step, before = self.step, self.rz
        daxpy(self.p, self.x, a=step)  # in place: of long vectors it costs a third
        daxpy(self.q, self.r, a=-step)
        self._precondition()
        share = self.rz / before
        self.p *= share
        self.p += self.z
        self._steps.append(step)
        self._shares.append(share)
        return share

    @property
    def leading(self) -> float:
        """The largest Ritz value of A (of M A with a preconditioner), NaN before a move.

        From the recurrence's coefficients, which are those of Lanczos (Golub and Van Loan, section
        11.3.4); without a product.
        """
        if not self._steps:
            return float("nan")
        steps, shares = np.array(self._steps), np.array(self._shares[:-1])
        diagonal, last = 1 / steps, len(steps) - 1
        diagonal[1:] += shares / steps[:-1]
        beside = np.sqrt(np.maximum(shares, 0.0)) / steps[:-1]
        values = scipy.linalg.eigvalsh_tridiagonal(
            diagonal, beside, select="i", select_range=(last, last)
        )
        return float(values[0])


@dataclass(frozen=True)
class CGResult:
    """A solution of A x = b by conjugate gradients."""

    x: np.ndarray
    iterations: int  # products with A
    residual: np.ndarray  # b - A x by the recurrence, of the last iterate whatever `x` is
    residual_norm: float
    converged: bool  # whether `residual_norm` reached the tolerance
    # Whether a direction p with p.A p <= 0 ended the iteration; x is then the last iterate before
    # it (the preconditioned steepest descent direction if it was the first).
    negative_curvature: bool = False
    leading: float = float("nan")  # the largest Ritz value, of `Recurrence.leading`


def conjugate_gradients(
    A: Operator,
    b: np.ndarray,
    *,
    tolerance: float,
    preconditioner=None,
    max_iterations: int | None = None,
    shared: bool = False,
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
    shared : bool
        Whether several ranks may share the work with long vectors, for which operator and
        preconditioner must have a row layout. Sums then depend on the number of ranks by rounding,
        so that it has no effect in reproducible mode.

    Notes
    -----
    One product and one application of the preconditioner an iteration; six vectors of memory. Rank
    0 decides for all ranks when to stop.
    """
    limit = 2 * A.n if max_iterations is None else max_iterations
    if shared and A.n >= SHARED and A.world.size > 1 and not A.world.reproducible:
        layout, M = RowLayout(A.n, A.world), preconditioner
        M = None if M is None else M.in_layout(layout)
        found = _solved(A.in_layout(layout), layout.local(b), tolerance, M, limit)
        x, residual = (layout.whole(v[:, None])[:, 0] for v in (found.x, found.residual))
        return replace(found, x=x, residual=residual)
    return _solved(A, b, tolerance, preconditioner, limit)


def _solved(A: Operator, b: np.ndarray, tolerance: float, preconditioner, limit: int) -> CGResult:
    """Return `conjugate_gradients`, in the layout of A."""
    decide, cg = A.world.decide, Recurrence(A, b, preconditioner)
    while cg.products < limit:
        if decide(cg.norm <= tolerance):
            return CGResult(cg.x, cg.products, cg.r, cg.norm, True, leading=cg.leading)
        if decide(not cg.probe() > 0):
            fallback = cg.z.copy() if cg.products == 1 else cg.x
            return CGResult(fallback, cg.products, cg.r, cg.norm, False, True, cg.leading)
        cg.advance()
    reached = decide(cg.norm <= tolerance)
    return CGResult(cg.x, cg.products, cg.r, cg.norm, reached, leading=cg.leading)


@dataclass(frozen=True)
class TruncatedResult:
    """A step that lowers a quadratic model inside a trust region."""

    x: np.ndarray
    iterations: int  # products with A
    model: float  # x^T A x / 2 - b^T x, at most 0
    length: float  # ||x|| in the norm of the region
    residual_norm: float  # ||b - A x||_2 by the recurrence, before a move to the boundary
    boundary: bool  # whether the step ends on the boundary
    negative_curvature: bool = False  # whether such a direction led there
    leading: float = float("nan")  # the largest Ritz value, of `Recurrence.leading`


def steihaug(
    A: Operator,
    b: np.ndarray,
    radius: float,
    *,
    tolerance: float,
    preconditioner=None,
    max_iterations: int | None = None,
) -> TruncatedResult:
    """Lower x^T A x / 2 - b^T x over ||x|| <= radius; A may be indefinite.

    Conjugate gradients up to the boundary or a direction of negative curvature, which is followed
    to the boundary (Steihaug 1983; Conn, Gould and Toint 2000, algorithm 7.5.1). With a
    preconditioner M the norm is that of M^-1, and no product with it is needed.

    Parameters
    ----------
    A, b, tolerance, preconditioner, max_iterations
        As for `conjugate_gradients`.
    radius : float
        Positive.
    """
    limit = 2 * A.n if max_iterations is None else max_iterations
    decide, cg = A.world.decide, Recurrence(A, b, preconditioner)
    xx = xp = 0.0  # inner products of x and p in the norm of the region
    pp = cg.rz
    while cg.products < limit and not decide(cg.norm <= tolerance):
        negative = decide(not cg.probe() > 0)
        outside = negative or xx + 2 * cg.step * xp + cg.step**2 * pp >= radius**2
        if decide(outside):
            step = _to_boundary(xx, xp, pp, radius)
            x, Ax = cg.x + step * cg.p, b - cg.r + step * cg.q
            model = float(x @ Ax / 2 - b @ x)
            return TruncatedResult(
                x, cg.products, model, radius, cg.norm, True, negative, cg.leading
            )
        step = cg.step
        xx += 2 * step * xp + step**2 * pp
        share = cg.advance()
        xp = share * (xp + step * pp)
        pp = cg.rz + share**2 * pp
    model, length = float(-cg.x @ (b + cg.r) / 2), float(np.sqrt(max(xx, 0.0)))
    return TruncatedResult(cg.x, cg.products, model, length, cg.norm, False, leading=cg.leading)


def _to_boundary(xx: float, xp: float, pp: float, radius: float) -> float:
    """Return the positive s with xx + 2 s xp + s^2 pp = radius^2, where xp >= 0."""
    gap = max(radius**2 - xx, 0.0)
    return gap / (xp + np.sqrt(xp**2 + pp * gap)) if gap else 0.0


@dataclass(frozen=True)
class ColumnsResult:
    """Solutions of A X = B by conjugate gradients, a column for each right-hand side."""

    X: np.ndarray  # (n, k)
    iterations: np.ndarray  # (k,) products that each column took
    residuals: np.ndarray  # (k,) ||b - A x|| / ||b||, of a product with the solution; 0 where b = 0
    converged: np.ndarray  # (k,) whether `residuals` reached the tolerance
    negative_curvature: np.ndarray  # (k,) whether p.A p <= 0 ended it


def solve_columns(
    A: Operator,
    B: np.ndarray,
    *,
    tolerance: float,
    preconditioner=None,
    max_iterations: int | None = None,
) -> ColumnsResult:
    """Solve A X = B for a positive definite operator; each column has its own recurrence.

    The columns share block products, and leave them as they converge. The residuals of the result
    are those of one more product with the solution, not those of the recurrence.

    Parameters
    ----------
    A, preconditioner, max_iterations
        As for `conjugate_gradients`.
    B : (n, k) array
    tolerance : float
        Stop a column when ||b - A x||_2 <= tolerance ||b||_2.

    Notes
    -----
    One block product an iteration and one at the end; six (n, k) arrays. Rank 0 decides for all
    ranks which columns stop.
    """
    limit = 2 * A.n if max_iterations is None else max_iterations
    share = (lambda mask: mask) if A.world is None else A.world.broadcast
    norms = np.linalg.norm(B, axis=0)
    X, R = np.zeros_like(B), B.copy()
    Z = R if preconditioner is None else preconditioner @ R
    P, rz = Z.copy(), np.sum(R * Z, axis=0)
    iterations, negative = np.zeros(B.shape[1], np.int64), np.zeros(B.shape[1], bool)
    live = share(norms > 0)
    while live.any() and iterations.max() < limit:
        Q = A @ P[:, live]
        iterations[live] += 1
        bend = np.sum(P[:, live] * Q, axis=0)
        up = share(bend > 0)
        places = np.flatnonzero(live)
        negative[places[~up]] = True
        places, Q, bend = places[up], Q[:, up], bend[up]
        step = rz[places] / bend
        X[:, places] += step * P[:, places]
        R[:, places] -= step * Q
        Z = R[:, places] if preconditioner is None else preconditioner @ R[:, places]
        before, rz[places] = rz[places], np.sum(R[:, places] * Z, axis=0)
        P[:, places] = Z + rz[places] / before * P[:, places]
        live = np.zeros_like(live)
        live[places] = np.linalg.norm(R[:, places], axis=0) > tolerance * norms[places]
        live = share(live)
    gaps = np.linalg.norm(B - A @ X, axis=0)
    residuals = np.divide(gaps, norms, out=np.zeros_like(gaps), where=norms > 0)
    return ColumnsResult(X, iterations, residuals, share(residuals <= tolerance), negative)
