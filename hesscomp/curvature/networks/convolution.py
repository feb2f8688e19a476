"""Convolutions over two axes of space, (B, height, width, C); one axis is a height of 1.

A kernel is (height, width, inputs, outputs). Convolving x with k tangent kernels, and each
tangent with the kernel's delta, takes the columns as more features; only a tangent through the
kernel itself takes them as more rows, since all columns share it.
"""

from hesscomp.curvature.networks.linear import columns_to_rows, rows_to_columns
from hesscomp.curvature.networks.operation import Operation, count, fold, leading_sum, unfold
from hesscomp.curvature.tensorflow import tf


class Convolution(Operation):
    """y = x * W + b, with strides, dilation and padding "same" or "valid".

    Six convolutions of the layer's size for each column of a Hessian product, two in the first.
    """

    linear = True

    def __init__(self, kernel, bias, strides, dilation, padding: str):
        self.variables = (kernel,) if bias is None else (kernel, bias)
        self.dilation = tuple(dilation)
        self.options = {"strides": [1, *strides, 1], "padding": padding.upper()}

    def _with_kernel(self, x, W):
        return tf.nn.conv2d(x, _dilated(W, self.dilation), **self.options)

    def _by_input(self, shape, W, delta):
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=shape,
            filter=_dilated(W, self.dilation),
            out_backprop=delta,
            **self.options,
        )

    def _by_kernel(self, x, shape, delta):
        down, right = self.dilation
        height, width = (
            (taps - 1) * step + 1 for taps, step in zip(shape[:2], self.dilation, strict=True)
        )
        dilated = tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=[height, width, *shape[2:]], out_backprop=delta, **self.options
        )
        return dilated[::down, ::right]

    def forward(self, at):
        (x,), W, bias = at.inputs, _planar(at.parameters[0]), at.parameters[1:]
        y = self._with_kernel(x, W)
        return tf.nn.bias_add(y, bias[0]) if bias else y

    def tangent(self, at):
        (x,), (tx,), W = at.inputs, at.t_inputs, _planar(at.parameters[0])
        tW, tb = _planar(at.t_parameters[0], 5), at.t_parameters[1:]
        k = next(count(t) for t in (tx, *at.t_parameters) if t is not None)
        out = None
        if tW is not None:
            out = unfold(self._with_kernel(x, fold(tW)), k)
        if tx is not None:
            rows, _ = columns_to_rows(tx)
            through = rows_to_columns(self._with_kernel(rows, W), k)
            out = through if out is None else out + through
        if tb and tb[0] is not None:
            if out is None:
                shape = tf.concat([tf.shape(at.output)[:-1], tf.shape(tb[0])], 0)
                return tf.broadcast_to(tb[0], shape)
            out = out + tb[0]
        return out

    def pull(self, at, delta):
        (x,), W = at.inputs, _planar(at.parameters[0])
        return [self._by_input(tf.shape(x), W, delta)]

    def pull_tangent(self, at, delta, t_delta):
        (x,), W, tW = at.inputs, _planar(at.parameters[0]), _planar(at.t_parameters[0], 5)
        rows, k = columns_to_rows(t_delta)
        shape = tf.concat([[tf.shape(rows)[0]], tf.shape(x)[1:]], 0)
        back = tf.ensure_shape(self._by_input(shape, W, rows), [None, *x.shape[1:]])
        out = rows_to_columns(back, k)
        if delta is not None and tW is not None:
            turned = tf.transpose(tW, [0, 1, 3, 2, 4])
            turned = tf.reshape(turned, [*W.shape[:2], k * W.shape[2], W.shape[3]])
            shape = tf.concat([tf.shape(x)[:-1], [k * x.shape[-1]]], 0)
            out = out + unfold(self._by_input(shape, turned, delta), k)
        return [out]

    def gradient(self, at, delta):
        out = [self._by_kernel(at.inputs[0], _planar(at.parameters[0]).shape, delta)]
        return out if len(self.variables) == 1 else [*out, leading_sum(delta, 1)]

    def gradient_tangent(self, at, delta, t_delta):
        (x,), (tx,), W = at.inputs, at.t_inputs, _planar(at.parameters[0])
        k, (height, width, inputs, outputs) = count(t_delta), W.shape
        out = self._by_kernel(x, [height, width, inputs, k * outputs], fold(t_delta))
        out = tf.reshape(out, [height, width, inputs, k, outputs])
        if delta is not None and tx is not None:
            more = self._by_kernel(fold(tx), [height, width, k * inputs, outputs], delta)
            more = tf.reshape(more, [height, width, k, inputs, outputs])
            out = out + tf.transpose(more, [0, 1, 3, 2, 4])
        return [out] if len(self.variables) == 1 else [out, leading_sum(t_delta, 2)]


class DepthwiseConvolution(Operation):
    """Each channel by kernels of its own: (height, width, C, multiplier), outputs C multiplier.

    Columns are more channels throughout.
    """

    linear = True

    def __init__(self, kernel, bias, strides, dilation, padding: str):
        self.variables = (kernel,) if bias is None else (kernel, bias)
        self.dilation = tuple(dilation)
        self.options = {"strides": [1, *strides, 1], "padding": padding.upper()}

    def _conv(self, x, W):
        return tf.nn.depthwise_conv2d(x, _dilated(W, self.dilation), **self.options)

    def forward(self, at):
        (x,), W, bias = at.inputs, _planar(at.parameters[0]), at.parameters[1:]
        y = self._conv(x, W)
        return tf.nn.bias_add(y, bias[0]) if bias else y

    def _spread(self, x, k):
        """Return x beside itself k times, as more channels."""
        return tf.tile(x, [1, 1, 1, k])

    def _kernels(self, tW):
        """Return (height, width, C, k, multiplier) as the kernels of k C channels."""
        height, width, channels, _, multiplier = tW.shape
        moved = tf.transpose(tW, [0, 1, 3, 2, 4])
        return tf.reshape(moved, [height, width, count(tW) * channels, multiplier])

    def tangent(self, at):
        (x,), (tx,), W = at.inputs, at.t_inputs, _planar(at.parameters[0])
        tW, tb = _planar(at.t_parameters[0], 5), at.t_parameters[1:]
        k = next(count(t) for t in (tx, *at.t_parameters) if t is not None)
        out = None
        if tW is not None:
            out = unfold(self._conv(self._spread(x, k), self._kernels(tW)), k)
        if tx is not None:
            through = unfold(self._conv(fold(tx), tf.tile(W, [1, 1, k, 1])), k)
            out = through if out is None else out + through
        if tb and tb[0] is not None:
            if out is None:
                shape = tf.concat([tf.shape(at.output)[:-1], tf.shape(tb[0])], 0)
                return tf.broadcast_to(tb[0], shape)
            out = out + tb[0]
        return out

    def _back(self, x, W, delta):
        """Return the gradients of a convolution by its input and its kernel."""
        with tf.GradientTape() as tape:
            tape.watch([x, W])
            y = self._conv(x, W)
        return tape.gradient(y, [x, W], delta)

    def pull(self, at, delta):
        return [self._back(at.inputs[0], _planar(at.parameters[0]), delta)[0]]

    def pull_tangent(self, at, delta, t_delta):
        (x,), W, tW = at.inputs, _planar(at.parameters[0]), _planar(at.t_parameters[0], 5)
        k = count(t_delta)
        like, kernels = self._spread(x, k), tf.tile(W, [1, 1, k, 1])
        out = self._back(like, kernels, fold(t_delta))[0]
        if delta is not None and tW is not None:
            out += self._back(like, self._kernels(tW), self._spread(delta, k))[0]
        return [unfold(out, k)]

    def gradient(self, at, delta):
        out = [self._back(at.inputs[0], _planar(at.parameters[0]), delta)[1]]
        return out if len(self.variables) == 1 else [*out, leading_sum(delta, 1)]

    def gradient_tangent(self, at, delta, t_delta):
        (x,), (tx,), W = at.inputs, at.t_inputs, _planar(at.parameters[0])
        k, (height, width, channels, multiplier) = count(t_delta), W.shape
        kernels = tf.tile(W, [1, 1, k, 1])
        out = self._back(self._spread(x, k), kernels, fold(t_delta))[1]
        if delta is not None and tx is not None:
            out += self._back(fold(tx), kernels, self._spread(delta, k))[1]
        out = tf.reshape(out, [height, width, k, channels, multiplier])
        out = tf.transpose(out, [0, 1, 3, 2, 4])
        return [out] if len(self.variables) == 1 else [out, leading_sum(t_delta, 2)]


def _dilated(W: tf.Tensor, dilation: tuple[int, int]) -> tf.Tensor:
    """Return a kernel with zeros between its taps; TensorFlow lacks dilation's CPU gradients."""
    if dilation == (1, 1):
        return W
    (height, width), shape = W.shape[:2], tf.shape(W)
    down, right = dilation
    apart = tf.reshape(W, tf.concat([[height, 1, width, 1], shape[2:]], 0))
    apart = tf.pad(apart, [[0, 0], [0, down - 1], [0, 0], [0, right - 1], [0, 0], [0, 0]])
    apart = tf.reshape(apart, tf.concat([[height * down, width * right], shape[2:]], 0))
    return apart[: (height - 1) * down + 1, : (width - 1) * right + 1]


def _planar(kernel: tf.Tensor | None, rank: int = 4) -> tf.Tensor | None:
    """Return a kernel, or its tangent, over one axis of space as one over two."""
    return kernel if kernel is None or kernel.shape.rank == rank else kernel[None]
