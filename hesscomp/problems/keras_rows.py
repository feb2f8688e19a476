"""Rows and targets in the form that a Keras model and its loss take, and the loss by Keras."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from hesscomp.curvature.joint import Joint
from hesscomp.curvature.keras_losses import as_keras_loss, loss_name, resolve_loss
from hesscomp.curvature.losses import (
    KNOWN,
    Loss,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
    like,
)
from hesscomp.curvature.tensorflow import keras, one_precision, tf
from hesscomp.datasets.targets import SIGNS, is_one_hot
from hesscomp.errors import InputError, reason
from hesscomp.parallel.world import World
from hesscomp.problems.rows import RowSet

log = logging.getLogger(__name__)

CATEGORICAL = (
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
)
BY_ENTRY = (  # losses of each entry, for which Keras stretches targets of another width
    keras.losses.categorical_focal_crossentropy,
    keras.losses.huber,
    keras.losses.log_cosh,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
    keras.losses.mean_squared_logarithmic_error,
)
SUM_OF_TARGETS = 1e-3  # that probabilities may differ from 1, in sum


def shaped(rows: RowSet, model) -> RowSet:
    """Return rows in the shape and kind of the model's input."""
    X = rows.X
    inputs = getattr(model, "inputs", None)
    if inputs:
        shape = inputs[0].shape[1:]
        if X.shape[1:] != shape and None not in shape:
            if int(np.prod(X.shape[1:])) != int(np.prod(shape)):
                raise InputError(
                    f"{rows.name}: rows of shape {X.shape[1:]} do not fit {model.name}, whose "
                    f"input is {shape}"
                )
            X = X.reshape(-1, *shape)
        wanted = np.dtype(inputs[0].dtype).kind
        if wanted != X.dtype.kind:
            given, X = X, X.astype(np.float32 if wanted == "f" else np.int64)
            if wanted != "f" and not np.array_equal(X, given):
                raise InputError(
                    f"{rows.name}: holds fractions, but the input of {model.name} is of type "
                    f"{inputs[0].dtype}; give whole numbers"
                )
    return replace(rows, X=X)


def coded(rows: RowSet, loss: Loss) -> RowSet:
    """Return rows with their targets as the loss takes them."""
    y = rows.y
    if rows.targets == SIGNS and isinstance(loss, SigmoidCrossEntropy):
        y = (y + 1) / 2
    elif rows.targets == SIGNS and isinstance(loss, SoftmaxCrossEntropy):
        y = (y > 0).astype(np.int64)
    return replace(rows, y=y)


def recoded(
    y: np.ndarray, given, shape: tuple[int, ...], world: World, name: str = "arrays"
) -> np.ndarray:
    """Return one-hot rows as class numbers where a Keras loss takes these, and the reverse.

    Keras refuses them; the loss is the same. `shape` is that of one output. Collective.
    """
    kind, options = getattr(given, "fn", given), getattr(given, "_fn_kwargs", {})
    classes = shape[-1] if shape and options.get("axis", -1) == -1 else 1
    row, number = y.shape[1:], y.dtype.kind in "fiub"
    sparse = kind is keras.losses.sparse_categorical_crossentropy
    one_hot = classes > 1 and number and sparse and row == shape and is_one_hot(y)
    numbers = classes > 1 and number and kind in CATEGORICAL
    column = row == (*shape[:-1], 1) and kind not in BY_ENTRY  # which Keras refuses
    numbers = numbers and (row == shape[:-1] or column)
    numbers = numbers and bool(((y >= 0) & (y < classes) & (y == np.floor(y))).all())
    wide = kind in BY_ENTRY and len(row) == len(shape) and row != shape
    found = world.gather((one_hot, numbers, wide))
    if world.rank == 0:
        if any(wide for *_, wide in found):
            log.warning(
                "%s: Keras stretches targets of shape %s to outputs of shape %s in the loss %s, "
                "and so does hesscomp; is this what you mean?", name, row, shape, loss_name(given),
            )  # fmt: skip
        if found[0][0]:
            log.info("%s: one-hot rows are taken as class numbers", name)
    if all(one_hot for one_hot, *_ in found):
        return y.argmax(-1)
    if all(numbers for _, numbers, _ in found):
        return np.eye(classes, dtype=np.float32)[y.reshape(-1, *shape[:-1]).astype(np.int64)]
    return y


def check_targets(loss: Loss, y: np.ndarray, shape: tuple[int, ...]) -> None:
    """InputError unless y are targets for rows of outputs of a shape."""
    if isinstance(loss, SoftmaxCrossEntropy) or getattr(loss, "classes", False):
        if y.shape[1:] in (shape[:-1], (*shape[:-1], 1)) and y.shape[1:] != shape:
            if y.dtype.kind == "f" and not np.array_equal(y, np.floor(y)):
                raise InputError(
                    "the targets are class numbers by their shape, but hold fractions; give whole "
                    f"numbers, or probabilities of all {shape[-1]} outputs for each row"
                )
            if len(y) and not (y.min() >= 0 and y.max() < shape[-1]):
                raise InputError(
                    f"class {y.min() if y.min() < 0 else y.max()} does not fit a model with "
                    f"{shape[-1]} outputs; classes count from 0"
                )
            return
        if y.shape[1:] != shape:
            raise InputError(f"targets of shape {y.shape[1:]} do not fit outputs of {shape}")
        _check_distributions(y, loss.name)
    elif loss.name in ("sigmoid-cross-entropy", "squared-error") and (
        int(np.prod(y.shape[1:])) != int(np.prod(shape))
    ):
        raise InputError(
            f"targets of shape {y.shape[1:]} do not fit outputs of shape {shape}; give as many "
            "values for each row or, where they are class numbers, a loss of classes such as "
            "softmax-cross-entropy"
        )
    if isinstance(loss, SigmoidCrossEntropy) and not (y.min() >= 0 and y.max() <= 1):
        raise InputError(
            f"the target {y.min() if y.min() < 0 else y.max()} does not fit {loss.name}, whose "
            "targets lie between 0 and 1; for -1 and +1 give (y + 1) / 2"
        )


def _check_distributions(y: np.ndarray, name: str) -> None:
    """InputError unless y holds probabilities: TensorFlow's own gradient is wrong for others."""
    sums = y.sum(-1)
    if len(y) and not (y.min() >= 0 and np.allclose(sums, 1, rtol=0, atol=SUM_OF_TARGETS)):
        wrong = f"lie below 0 ({y.min():g})" if y.min() < 0 else "do not sum to 1 in each row"
        raise InputError(
            f"the targets {wrong}, but {name} takes class numbers, or probabilities of each class; "
            "for rows of several classes take a sigmoid cross-entropy"
        )


@contextmanager
def explaining(given, y: np.ndarray, shape: tuple[int, ...]) -> Iterator[None]:
    """Say which loss and targets it was where Keras or TensorFlow refuse them."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        name = given if isinstance(given, str) else loss_name(given)
        raise InputError(
            f"the loss {name} does not take targets of shape {y.shape[1:]} and type {y.dtype} for "
            f"outputs of shape {shape} ({reason(error)}); give targets, or a loss, that fit the "
            "model: class numbers go with sparse_categorical_crossentropy, rows of probabilities "
            "with categorical_crossentropy"
        ) from error


def check_hinge(given, y: np.ndarray, world: World) -> None:
    """InputError where Keras takes 0 and 1 for -1 and 1 in some batches only. Collective."""
    if getattr(given, "fn", given) not in (keras.losses.hinge, keras.losses.squared_hinge):
        return
    signs = world.gather((bool((y == 0).any()), bool(((y != 0) & (y != 1)).any())))
    if any(zero for zero, _ in signs) and any(other for _, other in signs):
        raise InputError(
            f"the loss {loss_name(given)} takes -1 and 1, or 0 and 1, and the targets hold 0 "
            "beside other numbers; recode them"
        )


def check_values(loss: Loss, by_keras, y: np.ndarray, output: tf.Tensor) -> None:
    """Targets that Keras takes, and a number for each row, which depends on no other row."""
    y = tf.convert_to_tensor(y.astype(output.dtype.name) if y.dtype.kind == "f" else y)
    by_keras(y, output, output)
    together, alone = loss.values(output, y), loss.values(output[:1], y[:1])
    if together.shape != output.shape[:1] or alone.shape != (1,):
        raise InputError(
            f"the loss {loss.name} gives numbers of shape {tuple(together.shape)} for "
            f"{len(output)} rows; it must give one for each, not their mean or sum"
        )
    if not np.allclose(together[:1], alone, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise InputError(
            f"the loss {loss.name} of a row depends on the other rows; give each its own"
        )


def keras_loss(given) -> Callable:
    """Return the mean loss that Keras computes, in float64: ``(y, output, taken)``.

    `output` is the model's, `taken` what the loss of this package takes. The known losses are
    Keras' own of the same name, summed over a row; other `Loss` objects the mean of their values.
    Functions become what ``model.compile`` makes of them.
    """
    given = resolve_loss(given)
    if isinstance(given, Joint):
        return given.by_keras
    given = KNOWN[given]() if isinstance(given, str) else given
    if type(given) in KNOWN.values():
        return lambda y, output, _: _summed_over_rows(given, y, output)
    if isinstance(given, Loss):
        return lambda y, _, taken: tf.reduce_mean(given.values(taken, y))
    given = as_keras_loss(given)
    return lambda y, output, _: _in_float64(given, y, output)


def _summed_over_rows(loss: Loss, y, output):
    """Return Keras' counterpart of a known loss, times the row's numbers that it averages over."""
    shape, losses = output.shape[1:], keras.losses
    if isinstance(loss, SquaredError):
        found = _in_float64(losses.MeanSquaredError(), like(y, output), output)
        return found * shape.num_elements() / 2
    if isinstance(loss, SigmoidCrossEntropy):
        found = _in_float64(losses.BinaryCrossentropy(from_logits=True), like(y, output), output)
        return found * shape.num_elements()
    whole = y.shape.rank == output.shape.rank and (y.shape[-1] != 1 or shape[-1] == 1)
    kind = losses.CategoricalCrossentropy if whole else losses.SparseCategoricalCrossentropy
    return _in_float64(kind(from_logits=True), y, output) * shape[:-1].num_elements()


def _in_float64(loss, y, output):
    """Return the mean of a Keras loss, which would otherwise cast to its own type."""
    saved = loss._dtype
    loss._dtype = "float64"
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # that logits come from a softmax
            one_precision(f"the loss {loss_name(getattr(loss, 'fn', loss))}"),
        ):
            return tf.reduce_mean(loss(y, output))
    finally:
        loss._dtype = saved
