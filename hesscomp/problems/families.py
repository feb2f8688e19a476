"""The losses of generalised linear models, as functions of the linear predictor and the target.

Element-wise work runs eagerly: a handful of operations at 15 us each, where calling a compiled
function costs 200 us.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hesscomp.curvature.tensorflow import tf
from hesscomp.datasets.targets import SIGNS, VALUES


@dataclass(frozen=True)
class Family:
    """What a row loses at a predictor t, up to what the target y alone decides.

    All are convex in t, so that Hessians A^T diag(bend) A are positive semidefinite.

    Attributes
    ----------
    name : str
        Of the problem.
    targets : str
        What y must hold, as `Dataset.targets` says it.
    loss, slope, bend : callable
        The loss and its first and second derivative by t, of float64 tensors (t, y).
    slope_by_target : callable
        The derivative of the slope by y; of a label +1 or -1 by the probability of +1.
    allowed : callable
        Says of an array y which numbers can be targets.
    free_scale : bool
        As `Problem.free_scale`.
    rule : str
        What they must be, for messages.
    """

    name: str
    targets: str
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    slope: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    bend: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    slope_by_target: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = lambda t, y: -tf.ones_like(t)
    free_scale: bool = False
    allowed: Callable[[np.ndarray], np.ndarray] = np.isfinite
    rule: str = "finite"


def softplus(t: tf.Tensor) -> tf.Tensor:
    """Return log(1 + exp(t)) to full precision for any t, which tf.nn.softplus does not."""
    return tf.maximum(t, 0.0) + tf.math.log1p(tf.exp(-tf.abs(t)))


FAMILIES = {
    "logistic": Family(
        "logistic-regression", SIGNS,
        lambda t, y: softplus(-y * t),
        lambda t, y: -y * tf.sigmoid(-y * t),
        lambda t, y: tf.sigmoid(t) * tf.sigmoid(-t),
    ),
    "least-squares": Family(
        "least-squares", VALUES,
        lambda t, y: (t - y) ** 2 / 2,
        lambda t, y: t - y,
        lambda t, y: tf.ones_like(t),
        free_scale=True,
    ),
    "poisson": Family(
        "poisson-regression", VALUES,
        lambda t, y: tf.exp(t) - y * t,
        lambda t, y: tf.exp(t) - y,
        lambda t, y: tf.exp(t),
        allowed=lambda y: y >= 0, rule="counts of at least 0",
    ),
}  # fmt: skip
