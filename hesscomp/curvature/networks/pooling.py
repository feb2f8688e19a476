"""Max pooling: linear once it is known which place of each window is the largest."""

from hesscomp.curvature.networks.linear import transposed
from hesscomp.curvature.networks.operation import Operation, count, fold, unfold
from hesscomp.curvature.tensorflow import tf


class MaxPooling(Operation):
    """Max pooling over two axes of space, (B, height, width, C), "same" or "valid".

    A mask for each place in the window says where it is the first largest; the output is the sum
    of masks times shifted inputs.
    """

    def __init__(self, window: tuple[int, int], strides: tuple[int, int], padding: str):
        self.window, self.strides, self.padding = window, strides, padding

    def forward(self, at):
        (x,) = at.inputs
        shifted = self._shifted(x, x.dtype.min)
        y = shifted[0]
        for other in shifted[1:]:
            y = tf.maximum(y, other)
        masks, free = [], tf.ones_like(y)
        for other in shifted:
            masks.append(tf.where(other == y, free, 0))
            free -= masks[-1]
        at.memo["masks"] = masks
        return y

    def _shifted(self, x, padding_value):
        """The input at each place of every window: a list of arrays of the output's shape."""
        pads = [self._pad(x.shape[axis], axis - 1) for axis in (1, 2)]
        if any(map(any, pads)):
            x = tf.pad(x, [[0, 0], *pads, [0, 0]], constant_values=padding_value)
        starts = [(i, j) for i in range(self.window[0]) for j in range(self.window[1])]
        ends = [x.shape[axis] - self.window[axis - 1] + 1 for axis in (1, 2)]
        (down, right) = self.strides
        return [x[:, i : i + ends[0] : down, j : j + ends[1] : right] for i, j in starts]

    def _pad(self, length, axis):
        if self.padding == "valid":
            return (0, 0)
        window, stride = self.window[axis], self.strides[axis]
        total = max((-(-length // stride) - 1) * stride + window - length, 0)
        return (total // 2, total - total // 2)

    def tangent(self, at):
        (tx,) = at.t_inputs
        if tx is None:
            return None
        k = count(tx)
        return unfold(self._selected(fold(tx), _tiled(at.memo["masks"], k)), k)

    def _selected(self, x, masks):
        shifted = self._shifted(x, 0)
        return tf.add_n([mask * part for mask, part in zip(masks, shifted, strict=True)])

    def pull(self, at, delta):
        masks = at.memo["masks"]
        return [transposed(lambda x: self._selected(x, masks), at.inputs[0], delta)]

    def pull_tangent(self, at, delta, t_delta):
        (x,), k = at.inputs, count(t_delta)
        masks = _tiled(at.memo["masks"], k)
        like = tf.repeat(x[..., :1], k * tf.shape(x)[-1], axis=-1)
        return [unfold(transposed(lambda x: self._selected(x, masks), like, fold(t_delta)), k)]


class GlobalMax(Operation):
    """The first largest number of each feature over all places."""

    def forward(self, at):
        (x,) = at.inputs
        places = tf.reshape(x, [-1, x.shape[1:-1].num_elements(), x.shape[-1]])
        at.memo["mask"] = tf.reshape(
            tf.one_hot(tf.argmax(places, 1), places.shape[1], axis=1, dtype=x.dtype), tf.shape(x)
        )
        return tf.reduce_max(places, 1)

    def tangent(self, at):
        (tx,) = at.t_inputs
        if tx is None:
            return None
        mask = tf.expand_dims(at.memo["mask"], -2)
        return tf.reduce_sum(mask * tx, list(range(1, tx.shape.rank - 2)))

    def pull(self, at, delta):
        mask = at.memo["mask"]
        spread = [-1, *[1] * (mask.shape.rank - 2), mask.shape[-1]]
        return [mask * tf.reshape(delta, spread)]

    def pull_tangent(self, at, delta, t_delta):
        mask = tf.expand_dims(at.memo["mask"], -2)
        spread = [-1, *[1] * (mask.shape.rank - 3), count(t_delta), mask.shape[-1]]
        return [mask * tf.reshape(t_delta, spread)]


def _tiled(masks, k):
    """Masks for k columns that are folded into the features."""
    return [tf.tile(mask, [1] * (mask.shape.rank - 1) + [k]) for mask in masks]
