"""Whether a gradient is the derivative of its function's values: by central differences."""

from collections.abc import Callable

import numpy as np

STEPS = 1e-3, 1e-4, 1e-5  # of the differences, each at another point


def wrong_slope(
    value: Callable, gradient: Callable, x: np.ndarray, tolerance: float = 1e-6
) -> tuple[float, float] | None:
    """Return the slope by the gradient and by the values along a direction, where they differ.

    Central differences of fourth order in a random direction near x. A kink that lies between them
    by chance would have to be there for each of the steps.

    Parameters
    ----------
    value, gradient : callable
        Of a float64 array like x: a number, and an array like x.
    tolerance : float
        Relative. Where units of a network are near kinks, a tight one is exceeded by chance.
    """
    rng = np.random.default_rng(0)
    for h in STEPS:
        at, v = x + 0.01 * rng.standard_normal(x.shape), rng.standard_normal(x.shape)
        v /= np.linalg.norm(v)
        slope = float(np.vdot(gradient(at), v))
        values = [value(at + step * h * v) for step in (-2, -1, 1, 2)]
        difference = float(np.dot(values, (1, -8, 8, -1))) / (12 * h)
        rounding = 100 * np.finfo(float).eps * max(map(abs, values)) / h
        allowed = tolerance * max(abs(slope), abs(difference)) + rounding
        if not abs(difference - slope) > allowed:
            return None
    return slope, difference
