"""Losses of a network's output, row by row: values, gradients, curvature, samples of the targets.

Blocks of tangents carry their k columns beside the features: an output is (B, ..., C), its tangent
(B, ..., k, C). Each loss is a class whose methods work on tensors of one chunk of rows.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from hesscomp.curvature.tensorflow import fused, keras, tf
from hesscomp.errors import InputError


class Loss(ABC):
    """The loss l(y, f) of one row, for an output f.

    Attributes
    ----------
    name : str
    convex : bool
        Whether l is convex in f, so that the Gauss-Newton matrix is positive semidefinite.
    natural : bool
        Whether l is the negative log-likelihood of an exponential family with natural parameters
        f, so that the Gauss-Newton matrix is the Fisher matrix.
    """

    name: str
    convex: bool
    natural = False

    @property
    def unscaled(self) -> "Loss":
        """The loss itself, without a factor before it."""
        return self

    @abstractmethod
    def values(self, output: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """(B,) losses of the rows."""

    @abstractmethod
    def gradient(self, output: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Of each row's loss by its output: as `output`."""

    @abstractmethod
    def curvature(self, output: tf.Tensor, y: tf.Tensor, T: tf.Tensor) -> tf.Tensor:
        """Each row's second derivative by its output times its k tangents: as `T`."""

    def sample(self, output: tf.Tensor, noise) -> tf.Tensor:
        """Targets drawn from the distribution whose negative log-likelihood this loss is.

        ``noise.uniform(size)`` and ``noise.normal(size)`` give (B, size) random numbers.

        Raises InputError if it is none.
        """
        raise InputError(
            f"the loss {self.name} is not known as a likelihood, so its Fisher matrix cannot be "
            "sampled; take the Gauss-Newton matrix (ggn) or the empirical Fisher matrix "
            "(empirical-fisher)"
        )


class SoftmaxCrossEntropy(Loss):
    """-sum_c y_c log softmax(f)_c, summed over all but the last axis of the output.

    Targets are class numbers, of the output's shape without the last axis (or with 1 there), or
    distributions, of its whole shape. Curvature: diag(p) - p p^T (times the sum of y, which is 1).
    """

    name = "softmax-cross-entropy"
    convex = natural = True

    def values(self, output, y):
        losses = tf.nn.softmax_cross_entropy_with_logits(_distribution(output, y), output)
        return _sum_rows(losses)

    def gradient(self, output, y):
        p = _distribution(output, y)
        return tf.nn.softmax(output) * tf.reduce_sum(p, -1, keepdims=True) - p

    def curvature(self, output, y, T):
        p = tf.nn.softmax(output)
        weights = p * tf.reduce_sum(_distribution(output, y), -1, keepdims=True)
        return _weighted_deviation(weights, p, T)

    def sample(self, output, noise):
        places = tf.reshape(tf.cumsum(tf.nn.softmax(output), axis=-1), [tf.shape(output)[0], -1])
        classes = output.shape[-1]
        steps = tf.reshape(places, [tf.shape(output)[0], -1, classes])
        draws = noise.uniform(steps.shape[1])
        passed = tf.reduce_sum(tf.cast(steps < draws[..., None], tf.int64), -1)
        return tf.reshape(tf.minimum(passed, classes - 1), tf.shape(output)[:-1])


@fused
def _weighted_deviation(weights, p, T):
    mean = tf.reduce_sum(p[..., None, :] * T, -1, keepdims=True)  # p.t for each tangent t
    return weights[..., None, :] * (T - mean)


class SigmoidCrossEntropy(Loss):
    """-sum_c (y_c log sigmoid(f_c) + (1 - y_c) log sigmoid(-f_c)) over all outputs of a row.

    Targets lie in [0, 1]. Curvature: diag(s (1 - s)) with s = sigmoid(f).
    """

    name = "sigmoid-cross-entropy"
    convex = natural = True

    def values(self, output, y):
        return _sum_rows(tf.nn.sigmoid_cross_entropy_with_logits(_like(y, output), output))

    def gradient(self, output, y):
        return tf.sigmoid(output) - _like(y, output)

    def curvature(self, output, y, T):
        return (tf.sigmoid(output) * tf.sigmoid(-output))[..., None, :] * T

    def sample(self, output, noise):
        draws = tf.reshape(noise.uniform(_width(output)), tf.shape(output))
        return tf.cast(draws < tf.sigmoid(output), output.dtype)


class SquaredError(Loss):
    """1/2 sum_c (f_c - y_c)^2: the likelihood of unit variance. Curvature: the identity."""

    name = "squared-error"
    convex = natural = True

    def values(self, output, y):
        return _sum_rows(tf.square(output - _like(y, output)) / 2)

    def gradient(self, output, y):
        return output - _like(y, output)

    def curvature(self, output, y, T):
        return T

    def sample(self, output, noise):
        return output + tf.reshape(noise.normal(_width(output)), tf.shape(output))


@dataclass(frozen=True)
class Scaled(Loss):
    """A known loss times a positive number.

    As convex, but for a scale of 1 no log-likelihood with natural parameters any more: no Fisher
    matrix.
    """

    loss: Loss
    scale: float

    @property
    def name(self):
        return f"{self.scale:.6g} x {self.loss.name}"

    @property
    def convex(self):
        return self.loss.convex

    @property
    def unscaled(self):
        return self.loss

    def values(self, output, y):
        return self.scale * self.loss.values(output, y)

    def gradient(self, output, y):
        return self.scale * self.loss.gradient(output, y)

    def curvature(self, output, y, T):
        return self.scale * self.loss.curvature(output, y, T)


class FunctionLoss(Loss):
    """Any differentiable ``function(y, output)`` that gives one number for each row.

    Numbers of more axes are averaged over all but the first, as Keras does. Derivatives are
    TensorFlow's; a row's loss must depend on that row alone. Not taken to be convex.
    """

    convex = False

    def __init__(self, function: Callable, name: str):
        self.function, self.name = function, name

    def values(self, output, y):
        losses = self.function(y, output)
        return tf.reduce_mean(losses, list(range(1, losses.shape.rank)))

    def gradient(self, output, y):
        with tf.GradientTape() as tape:
            tape.watch(output)
            losses = self.values(output, y)
        return tape.gradient(losses, output, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def curvature(self, output, y, T):
        k, rank = tf.shape(T)[-2], output.shape.rank
        folded = tf.transpose(T, [0, rank - 1, *range(1, rank - 1), rank])  # columns are more rows
        rows = tf.shape(folded)[:2]
        repeated = tf.repeat(output, k, axis=0)
        with tf.GradientTape() as tape:
            tape.watch(repeated)
            slopes = self.gradient(repeated, tf.repeat(y, k, axis=0))
        seeds = tf.reshape(folded, tf.shape(repeated))
        out = tape.gradient(
            slopes, repeated, seeds, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        out = tf.reshape(out, tf.concat([rows, tf.shape(output)[1:]], 0))
        return tf.transpose(out, [0, *range(2, rank), 1, rank])


@dataclass(frozen=True)
class Outer(Loss):
    """Another loss with the curvature g g^T of its own gradient: the empirical Fisher matrix.

    With `samples` = S the targets are (B, S, ...), and the mean over the samples is taken.
    """

    loss: Loss
    samples: int | None = None
    name = "outer-product"
    convex = True

    def values(self, output, y):
        return self.loss.values(output, y)

    def gradient(self, output, y):
        return self.loss.gradient(output, y)

    def curvature(self, output, y, T):
        if self.samples is None:
            return self._outer(output, y, T)
        parts = [self._outer(output, y[:, s], T) for s in range(self.samples)]
        return tf.add_n(parts) / self.samples

    def _outer(self, output, y, T):
        slopes = self.gradient(output, y)[..., None, :]
        axes = [*range(1, T.shape.rank - 2), T.shape.rank - 1]  # all but rows and columns
        return slopes * tf.reduce_sum(slopes * T, axes, keepdims=True)


KNOWN = {loss.name: loss for loss in (SoftmaxCrossEntropy, SigmoidCrossEntropy, SquaredError)}


def find_loss(loss, output_shape: Callable[[], tuple[int, ...]] | None = None) -> Loss:
    """A `Loss` from its name, a Keras loss or a function of (y, output).

    Where `output_shape` gives that of a row of the output, Keras' squared error and its
    cross-entropies of logits, without smoothed labels, are the known losses, scaled as Keras
    averages over a row.

    Raises
    ------
    InputError
        For a name that nobody knows.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in KNOWN:
            raise InputError(f"unknown loss {loss}; use one of {', '.join(KNOWN)}, or a function")
        return KNOWN[loss]()
    if not callable(loss):
        raise InputError(f"a loss is a name or a function of (y, output), not {loss!r}")
    known = None if output_shape is None else _known(loss, output_shape)
    if known is not None:
        return known
    name = getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__)
    # A Keras loss averages over the rows in `__call__`; its `call` keeps them apart.
    return FunctionLoss(getattr(loss, "call", loss), name)


def _known(loss, output_shape: Callable[[], tuple[int, ...]]) -> Loss | None:
    """The known loss that a Keras loss is, None where it is none."""
    kind, options = type(loss), getattr(loss, "_fn_kwargs", {})
    plain = options.get("axis", -1) == -1 and not options.get("label_smoothing")
    if kind is keras.losses.MeanSquaredError:
        found, scale = SquaredError(), 2 / math.prod(output_shape())
    elif not (plain and options.get("from_logits")) or options.get("ignore_class") is not None:
        return None
    elif kind is keras.losses.BinaryCrossentropy:
        found, scale = SigmoidCrossEntropy(), 1 / math.prod(output_shape())
    elif kind in (keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy):
        found, scale = SoftmaxCrossEntropy(), 1 / math.prod(output_shape()[:-1])
    else:
        return None
    return found if scale == 1 else Scaled(found, scale)


def _sum_rows(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(values, list(range(1, values.shape.rank)))


def _width(output: tf.Tensor) -> int:
    """Numbers in a row of the output."""
    return int(output.shape[1:].num_elements())


def _like(y: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Targets in the type and shape of the output: (B,) serves an output (B, 1)."""
    return tf.reshape(tf.cast(y, output.dtype), tf.shape(output))


def _distribution(output: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    if y.shape.rank == output.shape.rank:
        if y.shape[-1] != 1 or output.shape[-1] == 1:
            return tf.cast(y, output.dtype)
        y = tf.squeeze(y, -1)
    return tf.one_hot(tf.cast(y, tf.int32), output.shape[-1], dtype=output.dtype)
