"""Linear operations without parameters: their tangent is themselves, their pull the transpose."""

from collections.abc import Callable

from hesscomp.curvature.networks.operation import Operation, add, beside, count, fold, unfold
from hesscomp.curvature.tensorflow import tf


class Linear(Operation):
    """y = function(x) for a linear function of a chunk of rows, each row for itself.

    Columns of tangents pass as more rows; as more features where the function is `channelwise`,
    that is treats features alike and apart.
    """

    linear = True

    def __init__(self, function: Callable, *, channelwise: bool = False):
        self.function, self.channelwise = function, channelwise

    def forward(self, at):
        return self.function(at.inputs[0])

    def tangent(self, at):
        (tx,) = at.t_inputs
        if self.channelwise:
            return unfold(self.function(fold(tx)), count(tx))
        return rows_to_columns(self.function(columns_to_rows(tx)), count(tx))

    def pull(self, at, delta):
        return [transposed(self.function, at.inputs[0], delta)]

    def pull_tangent(self, at, delta, t_delta):
        (x,), k = at.inputs, count(t_delta)
        if self.channelwise:
            like = tf.repeat(x[..., :1], k * tf.shape(x)[-1], axis=-1)
            return [unfold(transposed(self.function, like, fold(t_delta)), k)]
        like = tf.repeat(x, k, axis=0)
        return [rows_to_columns(transposed(self.function, like, columns_to_rows(t_delta)), k)]


def transposed(function: Callable, like: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Return the transpose of a linear function of arrays such as `like`, applied to `delta`."""
    with tf.GradientTape() as tape:
        tape.watch(like)
        output = function(like)
    return tape.gradient(output, like, tf.reshape(delta, tf.shape(output)))


def columns_to_rows(tangent: tf.Tensor) -> tf.Tensor:
    """Return (B, ..., k, C) as (B k, ..., C)."""
    rank = tangent.shape.rank
    moved = tf.transpose(tangent, [0, rank - 2, *range(1, rank - 2), rank - 1])
    return tf.reshape(moved, tf.concat([[-1], tf.shape(moved)[2:]], 0))


def rows_to_columns(rows: tf.Tensor, k) -> tf.Tensor:
    """Return the inverse of `columns_to_rows`."""
    split = tf.reshape(rows, tf.concat([[-1, k], tf.shape(rows)[1:]], 0))
    split = tf.ensure_shape(split, [None, None, *rows.shape[1:]])
    rank = split.shape.rank
    return tf.transpose(split, [0, *range(2, rank - 1), 1, rank - 1])


class WeightedSum(Operation):
    """The sum of weight times input: Add, Subtract, Average. All inputs have one shape."""

    linear = True

    def __init__(self, weights: list[float]):
        self.weights = weights

    def _weighted(self, tensors):
        pairs = zip(self.weights, tensors, strict=True)
        return [t if t is None or w == 1 else w * t for w, t in pairs]

    def forward(self, at):
        return add(*self._weighted(at.inputs))

    def tangent(self, at):
        return add(*self._weighted(at.t_inputs))

    def pull(self, at, delta):
        return self._weighted([delta] * len(self.weights))

    def pull_tangent(self, at, delta, t_delta):
        return self.pull(at, t_delta)


class Concatenate(Operation):
    """Inputs one after the other along an axis of the values (counted with the rows as 0)."""

    linear = True

    def __init__(self, axis: int, rank: int):
        self.axis = axis % rank
        self.tangent_axis = rank if self.axis == rank - 1 else self.axis

    def forward(self, at):
        return tf.concat(at.inputs, self.axis)

    def tangent(self, at):
        k = next(count(t) for t in at.t_inputs if t is not None)
        filled = [
            tf.repeat(beside(tf.zeros_like(x)), k, -2) if t is None else t
            for x, t in zip(at.inputs, at.t_inputs, strict=True)
        ]
        return tf.concat(filled, self.tangent_axis)

    def pull(self, at, delta):
        return tf.split(delta, [x.shape[self.axis] for x in at.inputs], self.axis)

    def pull_tangent(self, at, delta, t_delta):
        return tf.split(t_delta, [x.shape[self.axis] for x in at.inputs], self.tangent_axis)


class Product(Operation):
    """The element-wise product of two inputs of one shape."""

    def forward(self, at):
        left, right = at.inputs
        return left * right

    def tangent(self, at):
        (left, right), (t_left, t_right) = at.inputs, at.t_inputs
        return add(
            None if t_left is None else t_left * beside(right),
            None if t_right is None else beside(left) * t_right,
        )

    def pull(self, at, delta):
        left, right = at.inputs
        return [delta * right, delta * left]

    def pull_tangent(self, at, delta, t_delta):
        out = []
        for other, t_other in zip(reversed(at.inputs), reversed(at.t_inputs), strict=True):
            more = None
            if delta is not None and t_other is not None:
                more = beside(delta) * t_other
            out.append(add(beside(other) * t_delta, more))
        return out
