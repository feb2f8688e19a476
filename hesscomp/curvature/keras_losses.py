"""The loss that a user means: a name, a Keras loss or a function, and what it is computed from.

Keras computes a cross-entropy from the logits where it can find them. Its activations leave the
logits on what they return, and TensorFlow's operations show what they were given. So
``loss(y, output)`` is there no function of the output's numbers alone, and its derivative by the
output misses what went through the logits. Here the same rule (`_get_logits` in
keras/src/backend/tensorflow/nn.py) finds the logits first.
"""

import math
from dataclasses import dataclass

from hesscomp.curvature.keras_internals import LossFunctionWrapper
from hesscomp.curvature.losses import (
    KNOWN,
    FunctionLoss,
    Loss,
    Scaled,
    SigmoidCrossEntropy,
    Smoothed,
    SoftmaxCrossEntropy,
    SquaredError,
)
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError

ACTIVATIONS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}  # by TensorFlow's operation


@dataclass(frozen=True)
class Ending:
    """An output that was made from logits.

    It is `marked` where Keras left the logits on it. All of Keras' cross-entropies then take them;
    otherwise only the one that belongs to the activation does.
    """

    activation: str | None  # softmax over the last axis, sigmoid, or None: neither of them
    marked: bool

    @classmethod
    def of(cls, output: tf.Tensor) -> "Ending | None":
        """Return the ending of a traced output; None where Keras finds no logits."""
        activation = ACTIVATIONS.get(output.op.type)
        marked = hasattr(output, "_keras_logits")
        return cls(activation, marked) if marked or activation else None

    @staticmethod
    def logits(output: tf.Tensor) -> tf.Tensor:
        """Return what a traced output with an ending was made from."""
        return output._keras_logits if hasattr(output, "_keras_logits") else output.op.inputs[0]

    def serves(self, link: str | None) -> bool:
        """Return whether Keras computes a loss with this `link` from these logits."""
        return link is not None and (self.marked or self.activation == link)

    def __str__(self) -> str:
        return self.activation or "an activation"


def find_loss(
    loss,
    output_shape: tuple[int, ...] | None = None,
    ending: Ending | None = None,
    targets: tf.TensorSpec | None = None,
) -> Loss:
    """Return a `Loss` from what `resolve_loss` takes.

    Parameters
    ----------
    loss : str, Loss, Keras loss or callable
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
    of_rows = as_keras_loss(loss).call  # of each row, before Keras averages over them

    def function(y, output):
        return of_rows(tf.cast(y, output.dtype), output)

    found = FunctionLoss(function, loss_name(loss), classes=classes)
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
    Raises InputError for an unknown name, and for what cannot be called.
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


def loss_name(loss) -> str:
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
        found, scale = SquaredError(), 2 / math.prod(shape)
    elif kind is losses.binary_crossentropy:
        found, scale = SigmoidCrossEntropy(), 1 / math.prod(shape)
    elif kind in (losses.sparse_categorical_crossentropy, losses.categorical_crossentropy):
        found, scale = SoftmaxCrossEntropy(), 1 / math.prod(shape[:-1])
    else:
        return None
    if found.link is not None:
        at_logits = ending is not None and ending.serves(found.link)
        if options.get("axis", -1) != -1 or not (options.get("from_logits") or at_logits):
            return None
    if options.get("label_smoothing"):
        found = Smoothed(found, float(options["label_smoothing"]))
    return found if scale == 1 else Scaled(found, scale)


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
