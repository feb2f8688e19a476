"""Convolutions over two axes of space, (B, height, width, C); one axis is a height of 1.

A kernel is (height, width, inputs, outputs); that of one axis is (width, inputs, outputs).
"""

from hesscomp.curvature.networks.dense import Kernel
from hesscomp.curvature.networks.linear import columns_to_rows, rows_to_columns
from hesscomp.curvature.networks.operation import fold, stack, unfold, unstack
from hesscomp.curvature.tensorflow import tf, value_and_gradient


class Convolution(Kernel):
    """y = x * W + b, with strides, dilation and padding "same" or "valid".

    Six convolutions of the layer's size for each column of a Hessian product, two in the first.
    """

    outer = True

    def __init__(self, kernel, bias, strides, dilation, padding: str):
        super().__init__(kernel, bias)
        self.dilation = tuple(dilation)
        self.options = {"strides": [1, *strides, 1], "padding": padding.upper()}

    def _product(self, x, W):
        return tf.nn.conv2d(x, self._dilated(W), **self.options)

    def _patches(self, x, W):
        sizes = (1, *W.shape[:-2])[-2:]
        return tf.image.extract_patches(
            x, sizes=[1, *sizes, 1], rates=[1, *self.dilation, 1], **self.options
        )

    def _by_input(self, x, W, delta):
        shape = tf.concat([tf.shape(delta)[:1], tf.shape(x)[1:3], tf.shape(W)[-2:-1]], 0)
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=shape, filter=self._dilated(W), out_backprop=delta, **self.options
        )

    def _by_kernel(self, x, W, delta):
        (height, width), (down, right) = (1, *W.shape[:-2])[-2:], self.dilation
        taps = [(height - 1) * down + 1, (width - 1) * right + 1]
        dilated = tf.raw_ops.Conv2DBackpropFilter(
            input=x,
            filter_sizes=[*taps, tf.shape(x)[3], tf.shape(delta)[3]],
            out_backprop=delta,
            **self.options,
        )
        return dilated[::down, ::right]

    def _product_of_columns(self, tx, W, k):
        return rows_to_columns(self._product(columns_to_rows(tx), W), k)

    def _by_input_of_columns(self, x, W, t_delta, k):
        rows = self._by_input(x, W, columns_to_rows(t_delta))
        return rows_to_columns(tf.ensure_shape(rows, [None, *x.shape[1:]]), k)

    def _dilated(self, W):
        """Return a kernel with zeros between its taps; TensorFlow lacks dilation's CPU gradients.

        One over one axis of space becomes one over two.
        """
        W = W[None] if W.shape.rank == 3 else W
        if self.dilation == (1, 1):
            return W
        (height, width), shape = W.shape[:2], tf.shape(W)
        down, right = self.dilation
        apart = tf.reshape(W, tf.concat([[height, 1, width, 1], shape[2:]], 0))
        apart = tf.pad(apart, [[0, 0], [0, down - 1], [0, 0], [0, right - 1], [0, 0], [0, 0]])
        apart = tf.reshape(apart, tf.concat([[height * down, width * right], shape[2:]], 0))
        return apart[: (height - 1) * down + 1, : (width - 1) * right + 1]


class DepthwiseConvolution(Convolution):
    """Each channel by kernels of its own: (height, width, C, multiplier), outputs C multiplier.

    Columns are more channels throughout: what has none is repeated.
    """

    outer = False

    def _product(self, x, W):
        return tf.nn.depthwise_conv2d(x, self._dilated(W), **self.options)

    def _by_input(self, x, W, delta):
        return self._back(x, W, delta)[0]

    def _by_kernel(self, x, W, delta):
        return self._back(x, W, delta)[1]

    def _back(self, x, W, delta):
        return value_and_gradient(lambda pair: self._product(*pair), [x, W], delta)[1]

    def _product_of_columns(self, tx, W, k):
        return unfold(self._product(fold(tx), _tiled(W, k, -2)), k)

    def _product_with_kernels(self, x, tW, k):
        return unfold(self._product(_tiled(x, k), stack(tW)), k)

    def _by_input_of_columns(self, x, W, t_delta, k):
        return unfold(self._by_input(_tiled(x, k), _tiled(W, k, -2), fold(t_delta)), k)

    def _by_input_with_kernels(self, x, tW, delta, k):
        return unfold(self._by_input(_tiled(x, k), stack(tW), _tiled(delta, k)), k)

    def _by_kernel_of_deltas(self, x, W, t_delta, k):
        return unstack(self._by_kernel(_tiled(x, k), _tiled(W, k, -2), fold(t_delta)), k)

    def _by_kernel_of_inputs(self, tx, W, delta, k):
        return unstack(self._by_kernel(fold(tx), _tiled(W, k, -2), _tiled(delta, k)), k)


def _tiled(value: tf.Tensor, k, axis: int = -1) -> tf.Tensor:
    """Return an array k times, one after the other along an axis."""
    times = [1] * value.shape.rank
    times[axis] = k
    return tf.tile(value, times)
