"""The weighted sum of losses of several outputs, which lie beside each other in one flat row."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hesscomp.curvature.losses import Loss
from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError

EXACT = 2**24  # up to which float32 holds all whole numbers


@dataclass(frozen=True)
class Slot:
    """The place of one array's numbers in a flat row.

    `kind` is the integer type that they are brought back to; None for real numbers.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    kind: str | None = None

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)

    def of(self, flat: tf.Tensor) -> tf.Tensor:
        """Return this array's part of (B, width) rows: (B, *shape)."""
        part = tf.reshape(flat[:, self.start : self.stop], [-1, *self.shape])
        return part if self.kind is None else tf.cast(tf.round(part), self.kind)


def slots_of(names, shapes, kinds) -> tuple[Slot, ...]:
    """Return the places of arrays of these names, row shapes and types, one after the other."""
    slots, start = [], 0
    for name, shape, kind in zip(names, shapes, kinds, strict=True):
        slots.append(Slot(name, tuple(shape), start, kind))
        start = slots[-1].stop
    return tuple(slots)


def flattened(arrays: list[np.ndarray], slots: tuple[Slot, ...]) -> np.ndarray:
    """Return (rows, width) rows of these arrays: float32 if all real numbers are, else float64.

    Raises InputError for shapes that do not fit, for fractions where whole numbers are needed, and
    for such numbers that float32 does not hold.
    """
    single = all(array.dtype == np.float32 or array.dtype.kind in "iub" for array in arrays)
    rows = len(arrays[0])
    flat = np.empty((rows, slots[-1].stop), np.float32 if single else np.float64)
    for array, slot in zip(arrays, slots, strict=True):
        if len(array) != rows:
            raise InputError(f"{slot.name} has {len(array)} rows, but {slots[0].name} has {rows}")
        if math.prod(array.shape[1:]) != math.prod(slot.shape):
            raise InputError(
                f"{slot.name} has rows of shape {array.shape[1:]}, but {slot.shape} is needed"
            )
        if array.dtype.kind in "iu" and array.size and abs(array).max() > EXACT:
            raise InputError(
                f"{slot.name} holds whole numbers above {EXACT}, which are not exact in float32; "
                "number them anew, or scale them"
            )
        if slot.kind is not None and not np.array_equal(array, np.round(array)):
            raise InputError(f"{slot.name} holds fractions; give whole numbers")
        flat[:, slot.start : slot.stop] = array.reshape(rows, -1)
    return flat


@dataclass(frozen=True)
class Part:
    """One output's loss and weight, the places of output and targets, and the loss by Keras.

    ``by_keras(y, output, taken)`` is as `problems.keras_rows.keras_loss` returns it; `at_logits`
    says whether the output is given as its logits.
    """

    loss: Loss
    weight: float
    output: Slot
    targets: Slot
    by_keras: Callable
    activation: str | None = None
    at_logits: bool = False


class Joint(Loss):
    """sum_i w_i l_i(y_i, f_i), of outputs f_i that lie beside each other: (B, C) in all."""

    def __init__(self, parts: tuple[Part, ...]):
        self.parts = parts
        self.name = " + ".join(
            f"{part.loss.name} of {part.output.name}"
            if part.weight == 1
            else f"{part.weight:g} x {part.loss.name} of {part.output.name}"
            for part in parts
        )
        self.convex = all(part.loss.convex and part.weight >= 0 for part in parts)
        self.natural = all(part.loss.natural and part.weight == 1 for part in parts)

    def values(self, output, y):
        return tf.add_n(
            [
                part.weight * part.loss.values(part.output.of(output), part.targets.of(y))
                for part in self.parts
            ]
        )

    def gradient(self, output, y):
        slopes = []
        for part in self.parts:
            slope = part.loss.gradient(part.output.of(output), part.targets.of(y))
            slopes.append(part.weight * _flat(slope, part.output))
        return tf.concat(slopes, -1)

    def curvature(self, output, y, T):
        k, bent = tf.shape(T)[-2], []
        for part in self.parts:
            slot, shape = part.output, part.output.shape
            inner = len(shape) - 1
            tangent = tf.reshape(T[..., slot.start : slot.stop], [-1, k, *shape])
            there = [0, *range(2, 2 + inner), 1, 2 + inner]  # columns go before the last axis
            back = [0, 1 + inner, *range(1, 1 + inner), 2 + inner]
            product = part.loss.curvature(
                slot.of(output), part.targets.of(y), tf.transpose(tangent, there)
            )
            width = slot.stop - slot.start
            product = tf.reshape(tf.transpose(product, back), [-1, k, width])
            bent.append(part.weight * product)
        return tf.concat(bent, -1)

    def sample(self, output, noise):
        drawn = [
            tf.cast(part.loss.sample(part.output.of(output), noise), output.dtype)
            for part in self.parts
        ]
        pairs = zip(drawn, self.parts, strict=True)
        return tf.concat([_flat(targets, part.targets) for targets, part in pairs], -1)

    def by_keras(self, y, output, taken):
        """Return the weighted sum of the mean losses that Keras computes."""
        total = tf.zeros([], output.dtype)
        for part in self.parts:
            found = logits = part.output.of(output)
            if part.at_logits:  # as Keras' own activation leaves them
                found = tf.nn.softmax(logits) if part.activation == "softmax" else logits
                found = tf.sigmoid(logits) if part.activation == "sigmoid" else found
                found = tf.identity(found)
                found._keras_logits = logits
            loss = part.by_keras(part.targets.of(y), found, logits)
            total += part.weight * tf.cast(loss, total.dtype)  # targets may be of another precision
        return total


def _flat(values: tf.Tensor, slot: Slot) -> tf.Tensor:
    return tf.reshape(values, [-1, slot.stop - slot.start])
