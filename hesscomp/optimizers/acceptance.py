"""How good a step must be: forcing term, reduction ratio and backtracking line search."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hesscomp.parallel.world import World

ROUNDING = 16 * np.finfo(np.float64).eps  # relative noise of an objective
LARGEST_RADIUS = 1e10
FORCING = 0.1  # largest relative residual of a Newton system
SMALLEST_FORCING = 1e-8  # that below which float64 gradients gain nothing


def reduction_ratio(before: float, after: float, promised: float) -> float:
    """Return (before - after) / promised; NaN or -inf where `after` is not finite.

    The rounding of the objective is added to both, so that a step that changes only rounding counts
    as good (Conn, Gould and Toint 2000, section 17.4.2).
    """
    noise = ROUNDING * abs(before)
    return (before - after + noise) / (promised + noise) if promised + noise > 0 else 1.0


def adapt_radius(radius: float, ratio: float, length: float, at_boundary: bool) -> float:
    """Return the next trust-region radius (Nocedal and Wright 2006, algorithm 4.1)."""
    if not ratio >= 0.25:
        return length / 4
    return min(2 * radius, LARGEST_RADIUS) if ratio > 0.75 and at_boundary else radius


def levenberg_marquardt(damping: float, ratio: float) -> float:
    """Return the next damping: 3/2 of it for a ratio below 1/4 or no number, 2/3 above 3/4.

    Martens 2010, section 4.1; Wang, Tan and Lin 2020.
    """
    if not ratio >= 0.25:
        return 1.5 * damping
    return damping / 1.5 if ratio > 0.75 else damping


class Search(NamedTuple):
    """The step length that a line search accepted, 0.0 for none, and the objective there."""

    length: float
    objective: float


def backtrack(
    objectives: Callable[[np.ndarray], Sequence[float] | np.ndarray],
    start: float,
    slope: float,
    world: World,
    *,
    sufficient: float = 1e-4,
    shrink: float = 0.5,
    trials: int = 40,
    at_once: int = 1,
) -> Search:
    """Return the first of `trials` lengths 1, shrink, shrink^2, ... with sufficient decrease.

    objective(t) <= start + sufficient t slope (Armijo; Nocedal and Wright 2006, equation 3.4), up
    to the rounding of the objective. Rank 0 decides.

    Parameters
    ----------
    objectives : callable
        Return the objectives at some step lengths; collective.
    at_once : int
        How many lengths are tried together, after the first one, which usually suffices.
    start, slope : float
        Objective and slope at length 0. No step is found unless the slope is negative.
    """
    if not world.decide(slope < 0):
        return Search(0.0, start)
    left, count = np.cumprod([1.0] + (trials - 1) * [shrink]), 1
    while len(left):
        lengths, left, count = left[:count], left[count:], at_once
        for length, value in zip(lengths, objectives(lengths), strict=True):
            enough = value <= start + sufficient * length * slope + ROUNDING * abs(start)
            if world.decide(enough):
                return Search(float(length), float(value))
    return Search(0.0, start)


def forcing_term(norm: float, previous: float) -> float:
    """Return the relative residual of a Newton system (Eisenstat and Walker 1996, choice 2).

    `norm` and `previous` are those of the gradient, now and a step ago (0 in the first step).
    """
    forcing = min(FORCING, 0.9 * (norm / previous) ** 2) if previous > 0 else FORCING
    return max(forcing, SMALLEST_FORCING)
