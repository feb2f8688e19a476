"""Whether a step is good: the reduction ratio, and backtracking line search."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hesscomp.parallel.world import World

ROUNDING = 16 * np.finfo(np.float64).eps  # relative noise of an objective


def reduction_ratio(before: float, after: float, promised: float) -> float:
    """(before - after) / promised; NaN or -inf where `after` is not finite.

    Both are raised by the rounding of the objective: a step that changes nothing but rounding is
    taken for what was promised (Conn, Gould and Toint 2000, section 17.4.2).
    """
    noise = ROUNDING * abs(before)
    return (before - after + noise) / (promised + noise) if promised + noise > 0 else 1.0


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
    length = 1.0
    for trial in range(trials):
        value = objective(length)
        enough = value <= start + sufficient * length * slope + ROUNDING * abs(start)
        if world.decide(slope < 0 and enough):
            return Search(length, value, trial + 1)
        length *= shrink
    return Search(0.0, start, trials)
