"""Dense layers: y = x W + b on the last axis."""

from hesscomp.curvature.networks.operation import (
    Operation,
    add,
    count,
    flatten_rows,
    fold,
    leading_sum,
)
from hesscomp.curvature.tensorflow import tf


class Dense(Operation):
    """Six products of B rows, d inputs and h outputs for each column of a Hessian product.

    The first layer has two: its input has no tangent, and nobody asks for a gradient by it.
    """

    linear = True

    def __init__(self, kernel, bias=None):
        self.variables = (kernel,) if bias is None else (kernel, bias)

    def forward(self, at):
        x, W, *bias = at.inputs + at.parameters
        y = tf.matmul(flatten_rows(x), W)
        y = tf.nn.bias_add(y, bias[0]) if bias else y
        return _rows_like(y, x, [W.shape[1]])

    def tangent(self, at):
        (x,), (W, *_), (tx,) = at.inputs, at.parameters, at.t_inputs
        tW, *tb = at.t_parameters
        out = None
        if tW is not None:
            out = tf.matmul(flatten_rows(x), fold(tW))
        if tx is not None:
            through = tf.matmul(flatten_rows(tx), W)
            out = through if out is None else out + tf.reshape(through, tf.shape(out))
        k = next(count(t) for t in (tx, *at.t_parameters) if t is not None)
        if tb and tb[0] is not None:
            bias = tf.reshape(tb[0], [-1])
            shape = [tf.shape(flatten_rows(x))[0], k * W.shape[1]]
            if out is None:
                out = tf.broadcast_to(bias, shape)
            else:
                out = tf.nn.bias_add(tf.reshape(out, shape), bias)
        return None if out is None else _rows_like(out, x, [k, W.shape[1]])

    def pull(self, at, delta):
        (x,), (W, *_) = at.inputs, at.parameters
        out = tf.matmul(flatten_rows(delta), W, transpose_b=True)
        return [_rows_like(out, x, [W.shape[0]])]

    def pull_tangent(self, at, delta, t_delta):
        (x,), (W, *_), (tW, *_) = at.inputs, at.parameters, at.t_parameters
        out = tf.matmul(flatten_rows(t_delta), W, transpose_b=True)
        if delta is not None and tW is not None:
            turned = fold(tf.transpose(tW, [2, 1, 0]))  # (h, k d)
            more = tf.matmul(flatten_rows(delta), turned)
            out = out + tf.reshape(more, tf.shape(out))
        return [_rows_like(out, x, [count(t_delta), W.shape[0]])]

    def gradient(self, at, delta):
        out = [tf.matmul(flatten_rows(at.inputs[0]), flatten_rows(delta), transpose_a=True)]
        return out if len(self.variables) == 1 else [*out, leading_sum(delta, 1)]

    def gradient_tangent(self, at, delta, t_delta):
        (x,), (tx,), (W, *_) = at.inputs, at.t_inputs, at.parameters
        k, (d, h) = count(t_delta), W.shape
        out = tf.matmul(flatten_rows(x), flatten_rows(fold(t_delta)), transpose_a=True)
        out = tf.reshape(out, [d, k, h])
        if delta is not None and tx is not None:
            more = tf.matmul(flatten_rows(fold(tx)), flatten_rows(delta), transpose_a=True)
            out = add(out, tf.transpose(tf.reshape(more, [k, d, h]), [1, 0, 2]))
        return [out] if len(self.variables) == 1 else [out, leading_sum(t_delta, 2)]


def _rows_like(flat: tf.Tensor, x: tf.Tensor, features: list[int]) -> tf.Tensor:
    """A matrix of rows as (B, ..., features), with the leading axes of x."""
    return tf.reshape(flat, tf.concat([tf.shape(x)[:-1], features], 0))
