"""How smooth functions are, which decides what derivatives at points say of a whole network."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from hesscomp.curvature.networks.jet_operations import derivatives
from hesscomp.curvature.tensorflow import tf

STEP = 2.0**-10
GRID = np.arange(-8, 8, STEP) + STEP / 3  # where jumps are sought; no point is where they are
JUMP = 2e-3  # times the largest value: what counts as one
MOST = 2  # derivatives that are looked at


def smoothness(function: Callable) -> int:
    """Return how many derivatives of an element-wise function are continuous, 2 at most.

    0 for ReLU, whose slope jumps; -1 where the values jump. A function that does not jump rises
    by the integral of its derivative, here between the points of a grid on (-8, 8), and one that
    jumps by more. Derivatives that are not finite, as TensorFlow's of powers at 0, count as zero.
    """
    found = [part.numpy() for part in derivatives(function, tf.constant(GRID), MOST + 1)]
    found = [np.where(np.isfinite(part), part, 0) for part in found]
    for order, (values, slopes) in enumerate(pairwise(found)):
        excess = np.diff(values) - STEP * (slopes[1:] + slopes[:-1]) / 2
        if (abs(excess) > JUMP * abs(values).max()).any():
            return order - 1
    return MOST
