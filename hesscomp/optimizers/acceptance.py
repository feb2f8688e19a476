"""Whether a step is good: the reduction ratio, and backtracking line search."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hesscomp.parallel.world import World

ROUNDING = 16 * np.finfo(np.float64).eps  # relative noise of an objective
LARGEST_RADIUS = 1e10


def reduction_ratio(before: float, after: float, promised: float) -> float:
    """(before - after) / promised; NaN or -inf where `after` is not finite.

    Both are raised by the rounding of the objective: a step that changes nothing but rounding is
    taken for what was promised (Conn, Gould and Toint 2000, section 17.4.2).
    """
    noise = ROUNDING * abs(before)
    return (before - after + noise) / (promised + noise) if promised + noise > 0 else 1.0


def adapt_radius(radius: float, ratio: float, length: float, at_boundary: bool) -> float:
    """The next trust-region radius (Nocedal and Wright 2006, algorithm 4.1)."""
    if not ratio >= 0.25:
        return length / 4
    return min(2 * radius, LARGEST_RADIUS) if ratio > 0.75 and at_boundary else radius


def levenberg_marquardt(damping: float, ratio: float) -> float:
    """The next damping: times 3/2 where the ratio is below 1/4 or no number, 2/3 above 3/4.

    Martens 2010, section 4.1; Wang, Tan and Lin 2020.
    """
    if not ratio >= 0.25:
        return 1.5 * damping
    return damping / 1.5 if ratio > 0.75 else damping


@dataclass(frozen=True)
class Search:
    """The end of a line search.

    Attributes
    ----------
    length : float
        The accepted step length; 0.0 where none was accepted.
    objective : float
        There.
    trials : int
    """

    length: float
    objective: float
    trials: int


def backtrack(
    objective: Callable[[float], float],
    start: float,
    slope: float,
    world: World,
    *,
    sufficient: float = 1e-4,
    shrink: float = 0.5,
    trials: int = 40,
) -> Search:
    """The first of the lengths 1, shrink, shrink^2, ... with sufficient decrease.

    objective(t) <= start + sufficient t slope (Armijo; Nocedal and Wright 2006, equation 3.4), up
    to the rounding of the objective. Decided on rank 0.

    Parameters
    ----------
    objective : callable
        Of a step length; collective.
    start, slope : float
        At length 0; the slope must be negative for a step to be found.
    world : World
    trials : int
        Most lengths that are tried.
    """
    if not world.decide(slope < 0):
        return Search(0.0, start, 0)
    length = 1.0
    for trial in range(trials):
        value = objective(length)
        enough = value <= start + sufficient * length * slope + ROUNDING * abs(start)
        if world.decide(enough):
            return Search(length, value, trial + 1)
        length *= shrink
    return Search(0.0, start, trials)
