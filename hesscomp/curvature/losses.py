"""Losses of a network's output, row by row: values, gradients, curvature, samples of the targets.

Blocks of tangents carry their k columns beside the features: an output is (B, ..., C), its tangent
(B, ..., k, C). Each loss is a class whose methods work on tensors of one chunk of rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from hesscomp.curvature.keras_internals import get_keras_mask
from hesscomp.curvature.tensorflow import fused, keras, one_precision, tf, value_and_gradient
from hesscomp.errors import InputError


class Loss(ABC):
    """The loss l(y, f) of one row, for an output f.

    Where l is `convex` in f, the Gauss-Newton matrix is positive semidefinite. Where l is the
    negative log-likelihood of an exponential family with the `natural` parameters f, the
    Gauss-Newton matrix is the Fisher matrix.
    """

    name: str
    convex: bool
    natural = False
    squares = False  # whether l is half the sum of squares of `gradient`, the residuals
    link: str | None = None  # "softmax" or "sigmoid", where f are the logits of probabilities

    @property
    def bare(self) -> "Loss":
        """The loss itself, without a factor before it and without smoothed labels."""
        return self

    def real_targets(self, output: tf.Tensor, y: tf.Tensor) -> tf.Tensor | None:
        """Return the targets as real numbers that the loss has derivatives by; None if whole."""
        return y if y.dtype.is_floating else None

    @abstractmethod
    def values(self, output: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Return (B,) losses of the rows."""

    @abstractmethod
    def gradient(self, output: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Return the gradient of each row's loss in the output; same shape as `output`."""

    @abstractmethod
    def curvature(self, output: tf.Tensor, y: tf.Tensor, T: tf.Tensor) -> tf.Tensor:
        """Return each row's second derivative of the loss times its k tangents; shape of `T`."""

    def root(self, output: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Return (B, ..., k, C): each row's second derivative is the sum of k outer products.

        k is the number of a row's outputs; an eigenproblem of that order for each row, unless a
        loss knows its root. Raises InputError if the loss is not convex.
        """
        if not self.convex:
            raise InputError(
                f"the loss {self.name} is not known to be convex in the model's output, so its "
                "second derivative has no root; take the statistic empirical"
            )
        width, rank = _width(output), output.shape.rank
        columns = tf.reshape(tf.eye(width, dtype=output.dtype), [width, *output.shape[1:]])
        columns = tf.transpose(columns, [*range(1, rank - 1), 0, rank - 1])[None]
        columns = tf.repeat(columns, tf.shape(output)[0], axis=0)
        matrix = _columns_first(self.curvature(output, y, columns))
        w, U = tf.linalg.eigh(tf.reshape(matrix, [-1, width, width]))
        root = tf.sqrt(tf.maximum(w, 0))[:, :, None] * tf.linalg.matrix_transpose(U)
        return _columns_last(tf.reshape(root, tf.shape(matrix)))

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
    link = "softmax"

    def real_targets(self, output, y):
        return _distribution(output, y)

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

    def root(self, output, y):
        """Return the gradients for each class as target, times the root of its probability."""
        p = tf.nn.softmax(output)
        scale = tf.sqrt(p * tf.reduce_sum(_distribution(output, y), -1, keepdims=True))
        classes = tf.eye(output.shape[-1], dtype=output.dtype)
        return _spread(scale[..., None] * (classes - p[..., None, :]))

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
    link = "sigmoid"

    def real_targets(self, output, y):
        return like(y, output)

    def values(self, output, y):
        return _sum_rows(tf.nn.sigmoid_cross_entropy_with_logits(like(y, output), output))

    def gradient(self, output, y):
        return tf.sigmoid(output) - like(y, output)

    def curvature(self, output, y, T):
        return (tf.sigmoid(output) * tf.sigmoid(-output))[..., None, :] * T

    def root(self, output, y):
        return _spread(tf.linalg.diag(tf.sqrt(tf.sigmoid(output) * tf.sigmoid(-output))))

    def sample(self, output, noise):
        draws = tf.reshape(noise.uniform(_width(output)), tf.shape(output))
        return tf.cast(draws < tf.sigmoid(output), output.dtype)


class SquaredError(Loss):
    """1/2 sum_c (f_c - y_c)^2: the likelihood of unit variance. Curvature: the identity."""

    name = "squared-error"
    convex = natural = squares = True

    def real_targets(self, output, y):
        return like(y, output)

    def values(self, output, y):
        return _sum_rows(tf.square(output - like(y, output)) / 2)

    def gradient(self, output, y):
        return output - like(y, output)

    def curvature(self, output, y, T):
        return T

    def root(self, output, y):
        return _spread(tf.linalg.diag(tf.ones_like(output)))

    def sample(self, output, noise):
        return output + tf.reshape(noise.normal(_width(output)), tf.shape(output))


@dataclass(frozen=True)
class _Changed(Loss):
    """Another loss, or its targets, changed by a subclass; all else is that of the loss."""

    loss: Loss

    def _targets(self, output, y):
        return y

    @property
    def convex(self):
        return self.loss.convex

    @property
    def link(self):
        return self.loss.link

    @property
    def bare(self):
        return self.loss.bare

    def real_targets(self, output, y):
        return self.loss.real_targets(output, y)

    def values(self, output, y):
        return self.loss.values(output, self._targets(output, y))

    def gradient(self, output, y):
        return self.loss.gradient(output, self._targets(output, y))

    def curvature(self, output, y, T):
        return self.loss.curvature(output, self._targets(output, y), T)

    def root(self, output, y):
        return self.loss.root(output, self._targets(output, y))


@dataclass(frozen=True)
class Scaled(_Changed):
    """A known loss times a positive number.

    As convex, but for a scale of 1 no log-likelihood with natural parameters any more: no Fisher
    matrix.
    """

    scale: float

    @property
    def name(self):
        return f"{self.scale:.6g} x {self.loss.name}"

    def values(self, output, y):
        return self.scale * super().values(output, y)

    def gradient(self, output, y):
        return self.scale * super().gradient(output, y)

    def curvature(self, output, y, T):
        return self.scale * super().curvature(output, y, T)

    def root(self, output, y):
        return self.scale**0.5 * super().root(output, y)


@dataclass(frozen=True)
class Smoothed(_Changed):
    """A cross-entropy whose targets are mixed with equal probabilities: label smoothing.

    Targets y become (1 - amount) y + amount / C for C classes (2 for a sigmoid), as in Keras.
    """

    amount: float

    @property
    def name(self):
        return f"{self.loss.name} with labels smoothed by {self.amount:g}"

    def _targets(self, output, y):
        soft = self.link == "softmax"
        y, classes = (_distribution(output, y), output.shape[-1]) if soft else (like(y, output), 2)
        return (1 - self.amount) * y + self.amount / classes


class FunctionLoss(Loss):
    """Any differentiable ``function(y, output)`` that gives one number for each row.

    Numbers of more axes are averaged over all but the first, as Keras does. Derivatives are
    TensorFlow's; a row's loss must depend on that row alone. Not taken to be convex. With a `link`
    the loss is one of logits: the function is given their activation. With `classes` the targets
    are numbers of classes, that is places of the output's last axis.

    All methods raise InputError if the function masks some rows or places, as `ignore_class` does,
    and if it computes with constants of another precision than the output's.
    """

    convex = False

    def __init__(
        self, function: Callable, name: str, link: str | None = None, classes: bool = False
    ):
        self.function, self.name, self.link, self.classes = function, name, link, classes

    def values(self, output, y):
        if self.link is not None:  # Keras' activations leave the logits on what they return
            output = keras.activations.get(self.link)(output)
        with one_precision(f"the loss {self.name}"):
            losses = tf.convert_to_tensor(self.function(y, output))
        if get_keras_mask(losses) is not None:
            raise InputError(
                f"the loss {self.name} masks some values (ignore_class): Keras averages over "
                "the others, whose number differs from batch to batch; leave such rows out of the "
                "data and take the loss without a mask"
            )
        return tf.reduce_mean(losses, list(range(1, losses.shape.rank)))

    def gradient(self, output, y):
        return value_and_gradient(lambda output: self.values(output, y), output)[1]

    def curvature(self, output, y, T):
        k, rank = tf.shape(T)[-2], output.shape.rank
        folded = tf.transpose(T, [0, rank - 1, *range(1, rank - 1), rank])  # columns are more rows
        rows = tf.shape(folded)[:2]
        repeated, targets = (tf.repeat(each, k, axis=0) for each in (output, y))
        seeds = tf.reshape(folded, tf.shape(repeated))
        _, out = value_and_gradient(lambda f: self.gradient(f, targets), repeated, seeds)
        out = tf.reshape(out, tf.concat([rows, tf.shape(output)[1:]], 0))
        return tf.transpose(out, [0, *range(2, rank), 1, rank])


@dataclass(frozen=True)
class Outer(_Changed):
    """Another loss with the curvature g g^T of its own gradient: the empirical Fisher matrix.

    With `samples` = S the targets are (B, S, ...), and the mean over the samples is taken.
    """

    samples: int | None = None
    name = "outer-product"
    convex = True

    def curvature(self, output, y, T):
        if self.samples is None:
            return self._outer(output, y, T)
        parts = [self._outer(output, y[:, s], T) for s in range(self.samples)]
        return tf.add_n(parts) / self.samples

    def root(self, output, y):
        if self.samples is None:
            return self.gradient(output, y)[..., None, :]
        slopes = [self.gradient(output, y[:, s]) for s in range(self.samples)]
        return tf.stack(slopes, -2) / self.samples**0.5

    def _outer(self, output, y, T):
        slopes = self.gradient(output, y)[..., None, :]
        axes = [*range(1, T.shape.rank - 2), T.shape.rank - 1]  # all but rows and columns
        return slopes * tf.reduce_sum(slopes * T, axes, keepdims=True)


KNOWN = {loss.name: loss for loss in (SoftmaxCrossEntropy, SigmoidCrossEntropy, SquaredError)}


def _columns_first(T: tf.Tensor) -> tf.Tensor:
    """Return (B, ..., k, C) as (B, k, ..., C)."""
    rank = T.shape.rank
    return tf.transpose(T, [0, rank - 2, *range(1, rank - 2), rank - 1])


def _columns_last(T: tf.Tensor) -> tf.Tensor:
    """Return the inverse of `_columns_first`."""
    rank = T.shape.rank
    return tf.transpose(T, [0, *range(2, rank - 1), 1, rank - 1])


def _spread(root: tf.Tensor) -> tf.Tensor:
    """Return the root of all places of a row, from (B, ..., C, C) of each place alone."""
    shape, C = tf.shape(root), root.shape[-1]
    places = int(root.shape[1:-2].num_elements())
    apart = tf.eye(places, dtype=root.dtype)[:, :, None, None]
    spread = apart * tf.reshape(root, [-1, places, 1, C, C])
    return tf.reshape(spread, tf.concat([shape[:-2], [places * C, C]], 0))


def _sum_rows(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(values, list(range(1, values.shape.rank)))


def _width(output: tf.Tensor) -> int:
    """Return the numbers in a row of the output."""
    return int(output.shape[1:].num_elements())


def like(y: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Return targets in the type and shape of the output: (B,) serves an output (B, 1)."""
    return tf.reshape(tf.cast(y, output.dtype), tf.shape(output))


def _distribution(output: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    if y.shape.rank == output.shape.rank:
        if y.shape[-1] != 1 or output.shape[-1] == 1:
            return tf.cast(y, output.dtype)
        y = tf.squeeze(y, -1)
    return tf.one_hot(tf.cast(y, tf.int32), output.shape[-1], dtype=output.dtype)
