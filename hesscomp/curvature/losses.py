"""Losses of a network's output, row by row: values, gradients, curvature, samples of the targets.

Blocks of tangents carry their k columns beside the features: an output is (B, ..., C), its tangent
(B, ..., k, C). Each loss is a class whose methods work on tensors of one chunk of rows.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from keras.src.backend.common.masking import get_keras_mask
from keras.src.losses.losses import LossFunctionWrapper

from hesscomp.curvature.endings import Ending, activate
from hesscomp.curvature.tensorflow import fused, keras, one_precision, tf
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
    link : str or None
        The activation that makes probabilities of f, "softmax" or "sigmoid", where f are logits.
    """

    name: str
    convex: bool
    natural = False
    link: str | None = None

    @property
    def bare(self) -> "Loss":
        """The loss itself, without a factor before it and without smoothed labels."""
        return self

    @abstractmethod
    def values(self, output: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Return (B,) losses of the rows."""

    @abstractmethod
    def gradient(self, output: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Return the gradient of each row's loss in the output; same shape as `output`."""

    @abstractmethod
    def curvature(self, output: tf.Tensor, y: tf.Tensor, T: tf.Tensor) -> tf.Tensor:
        """Return each row's second derivative of the loss times its k tangents; shape of `T`."""

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
    link = "sigmoid"

    def values(self, output, y):
        return _sum_rows(tf.nn.sigmoid_cross_entropy_with_logits(like(y, output), output))

    def gradient(self, output, y):
        return tf.sigmoid(output) - like(y, output)

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
        return _sum_rows(tf.square(output - like(y, output)) / 2)

    def gradient(self, output, y):
        return output - like(y, output)

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
    def link(self):
        return self.loss.link

    @property
    def bare(self):
        return self.loss.bare

    def values(self, output, y):
        return self.scale * self.loss.values(output, y)

    def gradient(self, output, y):
        return self.scale * self.loss.gradient(output, y)

    def curvature(self, output, y, T):
        return self.scale * self.loss.curvature(output, y, T)


@dataclass(frozen=True)
class Smoothed(Loss):
    """A cross-entropy whose targets are mixed with equal probabilities: label smoothing.

    Targets y become (1 - amount) y + amount / C for C classes (2 for a sigmoid), as in Keras.
    """

    loss: SoftmaxCrossEntropy | SigmoidCrossEntropy
    amount: float
    convex = True

    @property
    def name(self):
        return f"{self.loss.name} with labels smoothed by {self.amount:g}"

    @property
    def link(self):
        return self.loss.link

    @property
    def bare(self):
        return self.loss

    def values(self, output, y):
        return self.loss.values(output, self._smooth(output, y))

    def gradient(self, output, y):
        return self.loss.gradient(output, self._smooth(output, y))

    def curvature(self, output, y, T):
        return self.loss.curvature(output, self._smooth(output, y), T)

    def _smooth(self, output, y):
        soft = self.link == "softmax"
        y, classes = (_distribution(output, y), output.shape[-1]) if soft else (like(y, output), 2)
        return (1 - self.amount) * y + self.amount / classes


class FunctionLoss(Loss):
    """Any differentiable ``function(y, output)`` that gives one number for each row.

    Numbers of more axes are averaged over all but the first, as Keras does. Derivatives are
    TensorFlow's; a row's loss must depend on that row alone. Not taken to be convex. With a `link`
    the loss is one of logits: the function is given their activation. With `classes` the targets
    are numbers of classes, that is places of the output's last axis.

    Raises
    ------
    InputError
        From all methods, if the function masks some rows or places, as `ignore_class` does, and if
        it computes with constants of another precision than the output's.
    """

    convex = False

    def __init__(
        self, function: Callable, name: str, link: str | None = None, classes: bool = False
    ):
        self.function, self.name, self.link, self.classes = function, name, link, classes

    def values(self, output, y):
        output = output if self.link is None else activate(output, self.link)
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


def find_loss(
    loss,
    output_shape: tuple[int, ...] | None = None,
    ending: Ending | None = None,
    targets: tf.TensorSpec | None = None,
) -> Loss:
    """Return a `Loss` from its name, a Keras loss or a function of (y, output).

    Parameters
    ----------
    loss : str, Loss, Keras loss or callable
        As `resolve_loss` takes it.
    output_shape : tuple of int, optional
        Of one row of the output. Keras' squared error and its cross-entropies are then the known
        losses, scaled as Keras averages over a row.
    ending : Ending, optional
        Of the model. Keras' cross-entropies, and functions that call them, are then losses of the
        logits (`link`), as Keras computes them.
    targets : TensorSpec, optional
        Of some rows' targets; needed where there is an ending.

    Raises
    ------
    InputError
        For an unknown name, and for a loss that is not a mean over rows.
    """
    loss = resolve_loss(loss)
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        return KNOWN[loss]()
    _check_mean(loss)
    known = None if output_shape is None else _known(loss, output_shape, ending)
    if known is not None:
        return known
    sparse = getattr(loss, "fn", loss) is keras.losses.sparse_categorical_crossentropy
    classes = sparse and _options(loss).get("axis", -1) == -1
    found = FunctionLoss(_row_by_row(loss), loss_name(loss), classes=classes)
    if ending is not None and _reaches(found, output_shape, targets):
        if ending.activation is None:
            raise InputError(
                f"the loss {found.name} is computed from the logits of a softmax that is not over "
                "the last axis; end the model with its logits and take a loss of logits"
            )
        found.link = ending.activation
    return found


def resolve_loss(loss):
    """Return the loss that a user means: a name of `KNOWN`, a `Loss`, a Keras loss or a function.

    Keras looks up what it can make a loss of: a name such as "mse", a class, a configuration.

    Raises
    ------
    InputError
        For an unknown name, and for what cannot be called.
    """
    if isinstance(loss, Loss) or (isinstance(loss, str) and loss in KNOWN):
        return loss
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError):
        found = None
    if found is not None:
        return found
    if isinstance(loss, str):
        raise InputError(
            f"unknown loss {loss}; use one of {', '.join(KNOWN)}, a name that Keras knows, such as "
            "mean_absolute_error, or a function"
        )
    raise InputError(f"a loss is a name or a function of (y, output), not {loss!r}")


def as_keras_loss(loss) -> keras.losses.Loss:
    """Return the loss object that ``model.compile`` makes of a loss object or a function."""
    return loss if isinstance(loss, keras.losses.Loss) else LossFunctionWrapper(loss)


def _row_by_row(loss) -> Callable:
    """Return the loss of each row, as Keras computes it before it averages over them.

    Targets have the type of the output then, and their last axis fits its.
    """
    loss = as_keras_loss(loss)
    return lambda y, output: loss.call(tf.cast(y, output.dtype), output)


def loss_name(loss) -> str:
    """Return what a loss is called in messages."""
    return getattr(loss, "name", "") or getattr(loss, "__name__", type(loss).__name__)


def _check_mean(loss) -> None:
    """Refuse what Keras does not average over the rows."""
    if getattr(loss, "reduction", None) == "sum":
        raise InputError(
            f"the loss {loss_name(loss)} has reduction='sum', and hesscomp's objective is a mean "
            "over rows; take reduction='sum_over_batch_size', and divide penalties by the rows"
        )
    if getattr(loss, "fn", loss) is keras.losses.circle:
        raise InputError(
            f"the loss {loss_name(loss)} compares the rows of a batch with each other, so it is no "
            "mean over rows; take a loss of each row alone"
        )
    if _options(loss).get("ignore_class") is not None:
        raise InputError(
            f"the loss {loss_name(loss)} has an ignore_class: its mean is over the rows of other "
            "classes, whose number differs from batch to batch; leave rows of that class out of "
            "the data and take the loss without it"
        )


def _options(loss) -> dict:
    return getattr(loss, "_fn_kwargs", {})


def _known(loss, shape: tuple[int, ...], ending: Ending | None) -> Loss | None:
    """Return the known loss that a Keras loss is, None where it is none."""
    kind, options, losses = getattr(loss, "fn", loss), _options(loss), keras.losses
    found: Loss
    if kind is losses.mean_squared_error:
        return _scaled(SquaredError(), 2 / math.prod(shape))
    if kind is losses.binary_crossentropy:
        found, positions = SigmoidCrossEntropy(), math.prod(shape)
    elif kind in (losses.sparse_categorical_crossentropy, losses.categorical_crossentropy):
        found, positions = SoftmaxCrossEntropy(), math.prod(shape[:-1])
    else:
        return None
    at_logits = ending is not None and ending.serves(found.link)
    if options.get("axis", -1) != -1 or not (options.get("from_logits") or at_logits):
        return None
    if options.get("label_smoothing"):
        found = Smoothed(found, float(options["label_smoothing"]))
    return _scaled(found, 1 / positions)


def _scaled(loss: Loss, scale: float) -> Loss:
    return loss if scale == 1 else Scaled(loss, scale)


def _reaches(loss: FunctionLoss, shape, targets: tf.TensorSpec) -> bool:
    """Return whether a function takes logits that Keras left on the output.

    Tried on an output that is marked with logits that it was not made from.
    """

    def trial(output, logits, y):
        output = tf.identity(output)
        output._keras_logits = logits
        with tf.GradientTape() as tape:
            tape.watch(logits)
            values = loss.values(output, y)
        return tape.gradient(values, logits)

    row = tf.TensorSpec([None, *shape], tf.float64)
    traced = tf.function(trial, autograph=False).get_concrete_function(row, row, targets)
    return traced.structured_outputs is not None


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
