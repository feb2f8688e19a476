"""Quadratic models over a few directions, minimised exactly: trust region, damped, cubic.

The model of a step D a along m directions D (n, m) is c.a + a^T Q a / 2 with c = D^T g and
Q = D^T H D, and its length is ||a||_G with G = D^T D. In coordinates where G is the identity and
Q is diagonal all three problems are one equation in the multiplier lambda, whose left end is the
pole at minus the smallest eigenvalue. The unknown is the distance t to that pole, not lambda:
then nothing cancels near the pole, and the "hard case" is the exact zero of a coefficient, with no
tolerance to choose.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hesscomp.errors import NumericalError

EPS = np.finfo(np.float64).eps
ITERATIONS = 200  # of the secular equation, bisections included; it takes some five


@dataclass(frozen=True)
class Step:
    """The minimiser of a model.

    Attributes
    ----------
    coefficients : (m,) array
        a; the step is D a.
    length : float
        ||a||_G.
    multiplier : float
        lambda >= 0 of (Q + lambda G) a = -c; Q + lambda G is positive semidefinite on the range
        of G, except in the damped model, whose lambda is chosen.
    decrease : float
        -(c.a + a^T Q a / 2): what the quadratic model promises, >= 0.
    hard : bool
        Whether a multiple of an eigenvector was added, because c has no part along it.
    """

    coefficients: np.ndarray
    length: float
    multiplier: float
    decrease: float
    hard: bool = False


def trust_region(c: np.ndarray, Q: np.ndarray, G: np.ndarray, radius: float) -> Step:
    """Minimise c.a + a^T Q a / 2 over ||a||_G <= radius, to rounding.

    Parameters
    ----------
    c : (m,) array
    Q : (m, m) array
        Symmetric, of any signs.
    G : (m, m) array
        Symmetric positive semidefinite. Where it is singular (directions that depend on each
        other), c and Q must vanish on its null space as those of directions do; a is the
        smallest of the equivalent minimisers in scaled coordinates.
    radius : float
        Positive.

    Returns
    -------
    Step
        Unique but for the sign of the added eigenvector in the hard case.

    Raises
    ------
    NumericalError
        If a number is not finite.

    Notes
    -----
    Two eigendecompositions of order m and Newton's method on 1/||a|| - 1/radius, which is concave
    and increases, so that it converges from the left (More and Sorensen 1983; Conn, Gould and
    Toint 2000, section 7.3).
    """
    if not radius > 0:
        raise NumericalError(f"a trust region needs a positive radius, not {radius}")

    def bounds(b, w):
        return abs(b[0]) / radius, np.linalg.norm(b) / radius

    return _solve(c, Q, G, lambda multiplier: (radius, 0.0), bounds, free=True)


def cubic(c: np.ndarray, Q: np.ndarray, G: np.ndarray, weight: float) -> Step:
    """Minimise c.a + a^T Q a / 2 + (weight / 3) ||a||_G^3, to rounding.

    Parameters, result and method as in `trust_region`; `weight` is positive and the multiplier is
    weight ||a||_G (Nesterov and Polyak 2006; Cartis, Gould and Toint 2011, section 6.1).
    """
    if not weight > 0:
        raise NumericalError(f"a cubic model needs a positive weight, not {weight}")

    def bounds(b, w):
        # t (t - w_min) >= weight |b_0|, with equality if all of b is at the pole. The multiplier is
        # smallest if all of b is at the other end: a bound where rounding leaves little of b_0.
        size = np.linalg.norm(b)
        pole, high = (_positive_root(-w[0], weight * part) for part in (abs(b[0]), size))
        return max(pole, w[0] + _positive_root(w[-1], weight * size)), high

    return _solve(c, Q, G, lambda multiplier: (multiplier / weight, 1 / weight), bounds, free=False)


def damped(c: np.ndarray, Q: np.ndarray, G: np.ndarray, gamma: float) -> Step:
    """Minimise c.a + a^T Q a / 2 + (lambda / 2) ||a||_G^2 with lambda from gamma: "radius-free".

    lambda = gamma max(w_max, 0) + max(1 - gamma, 0) max(-w_min, 0) for the eigenvalues w of Q
    with respect to G, and where that leaves Q + lambda G indefinite or singular, the least that
    does not, (1 + gamma) max(-w_min, 0) + gamma max |w|. It is the rule of the authors of DRSOM
    (radius-free variant of their code), made safe.

    Parameters
    ----------
    c, Q, G
        As in `trust_region`.
    gamma : float
        Positive; large values shorten the step.
    """
    if not gamma > 0:
        raise NumericalError(f"a damped model needs a positive gamma, not {gamma}")
    basis, b, w = _canonical(c, Q, G)
    below, scale = max(-w[0], 0.0), max(np.abs(w).max(), EPS * np.linalg.norm(b))
    multiplier = gamma * max(w[-1], 0.0) + max(1 - gamma, 0.0) * below
    if not w[0] + multiplier > EPS * scale:
        multiplier = (1 + gamma) * below + gamma * scale
    if not np.any(b):
        return _step(basis, b, b, w, multiplier)
    return _step(basis, -b / (w + multiplier), b, w, multiplier)


@np.errstate(all="ignore")  # infinite next to the pole
def _solve(c, Q, G, radius: Callable, bounds: Callable, free: bool) -> Step:
    """Solve ||a(lambda)|| = radius(lambda) for lambda >= max(0, -w_min); see the module.

    `radius` gives its value and its derivative at a multiplier, `bounds` two distances t from the
    pole between which the root lies; `free` says that lambda = 0 allows any smaller length.
    """
    basis, b, w = _canonical(c, Q, G)
    gaps = w - w[0]
    start = max(w[0], 0.0)  # the smallest t, at lambda = max(0, -w_min)

    def point(t):
        return np.where(b == 0, 0.0, -b / (gaps + t))

    y = point(start)
    allowed, _ = radius(start - w[0])
    if np.linalg.norm(y) <= allowed:
        if w[0] >= 0 and (free or not np.any(b)):
            return _step(basis, y, b, w, 0.0)
        y[0] = np.sqrt(max(allowed**2 - y @ y, 0.0))  # the hard case: b[0] is zero
        return _step(basis, y, b, w, start - w[0], hard=True)
    low, high = bounds(b, w)
    t = _root(point, gaps, w[0], radius, max(low, start), high)
    return _step(basis, point(t), b, w, t - w[0])


def _root(point, gaps, w_min, radius, low: float, high: float) -> float:
    """Solve 1/||y(t)|| = 1/radius(t - w_min) by Newton's method, kept inside [low, high]."""
    t = low if low > 0 else np.nextafter(0.0, 1.0)
    high = max(high, t)
    for _ in range(ITERATIONS):
        y = point(t)
        length = np.linalg.norm(y)
        allowed, slope = radius(t - w_min)
        if not np.isfinite(length) or length > allowed:
            low = t
        else:
            high = t
        if high <= low * (1 + 2 * EPS):
            break
        # (1 / length)' = sum y^2 / (gap + t) / length^3
        change = np.sum(y * y / (gaps + t)) / length**3 + slope / allowed**2
        following = t + (1 / allowed - 1 / length) / change
        if not low < following < high:
            following = np.sqrt(low) * np.sqrt(high) if 4 * low < high else (low + high) / 2
        if abs(following - t) <= 2 * EPS * t:
            return following
        t = following
    return t


def _positive_root(w: float, product: float) -> float:
    """Return the root t >= max(0, -w) of t (w + t) = product >= 0, without cancellation."""
    root = np.hypot(w, 2 * np.sqrt(product))
    return (root - w) / 2 if w <= 0 else 2 * product / (root + w)


def _canonical(c, Q, G) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a basis B with B^T G B = I and B^T Q B = diag(w), w ascending; b = B^T c; and w."""
    c, Q, G = (np.asarray(part, dtype=np.float64) for part in (c, Q, G))
    if not all(np.isfinite(part).all() for part in (c, Q, G)):
        raise NumericalError("the model of a step holds numbers that are not finite")
    lengths = np.sqrt(np.diag(G))
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    s, V = np.linalg.eigh(scale[:, None] * G * scale)
    kept = s > 4 * len(s) * EPS * max(s[-1], 0.0)
    if not kept.any():
        raise NumericalError("all directions of a step are zero")
    basis = scale[:, None] * V[:, kept] / np.sqrt(s[kept])
    image = basis.T @ Q @ basis
    w, W = np.linalg.eigh((image + image.T) / 2)
    basis = basis @ W
    return basis, basis.T @ c, w


def _step(basis, y, b, w, multiplier, hard=False) -> Step:
    decrease = -(b @ y + y @ (w * y) / 2)
    return Step(
        basis @ y, float(np.linalg.norm(y)), float(multiplier), max(float(decrease), 0.0), hard
    )
