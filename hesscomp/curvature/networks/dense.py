"""Dense layers: y = x W + b on the last axis."""

from hesscomp.curvature.networks.operation import (
    At,
    Operation,
    Terms,
    Unsupported,
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
        k = next(count(t) for t in (tx, *at.t_parameters) if t is not None)
        columns = [k, W.shape[1]]
        products = []
        if tW is not None:
            products.append(_rows_like(tf.matmul(flatten_rows(x), fold(tW)), x, columns))
        if tx is not None:
            products.append(_rows_like(tf.matmul(flatten_rows(tx), W), x, columns))
        bias = tb[0] if tb else None
        if bias is not None and not products:
            bias = tf.broadcast_to(bias, tf.concat([tf.shape(x)[:-1], columns], 0))
        return Terms.of(*products, bias)

    def pull(self, at, delta):
        (x,), (W, *_) = at.inputs, at.parameters
        out = tf.matmul(flatten_rows(delta), W, transpose_b=True)
        return [_rows_like(out, x, [W.shape[0]])]

    def pull_tangent(self, at, delta, t_delta):
        (x,), (W, *_), (tW, *_) = at.inputs, at.parameters, at.t_parameters
        columns = [count(t_delta), W.shape[0]]
        out = _rows_like(tf.matmul(flatten_rows(t_delta), W, transpose_b=True), x, columns)
        more = None
        if delta is not None and tW is not None:
            turned = fold(tf.transpose(tW, [2, 1, 0]))  # (h, k d)
            more = _rows_like(tf.matmul(flatten_rows(delta), turned), x, columns)
        return [Terms.of(out, more)]

    def gradient(self, at, delta):
        out = [tf.matmul(flatten_rows(at.inputs[0]), flatten_rows(delta), transpose_a=True)]
        return out if len(self.variables) == 1 else [*out, leading_sum(delta, 1)]

    def squares(self, at, delta):
        """Square a row's gradient: an outer product, as its squares are too (Martens 2010)."""
        (x,) = at.inputs
        _check_once(x)
        squared = At([tf.square(x)], at.parameters)
        return self.gradient(squared, tf.square(delta))

    def kronecker(self, at, delta):
        (x,) = at.inputs
        _check_once(x)
        if len(self.variables) == 2:
            x = tf.concat([x, tf.ones([tf.shape(x)[0], 1], x.dtype)], 1)
        return [tf.matmul(x, x, transpose_a=True), tf.matmul(delta, delta, transpose_a=True)]

    def gradient_tangent(self, at, delta, t_delta):
        (x,), (tx,), (W, *_) = at.inputs, at.t_inputs, at.parameters
        k, (d, h) = count(t_delta), W.shape
        out = tf.matmul(flatten_rows(x), flatten_rows(fold(t_delta)), transpose_a=True)
        out = tf.reshape(out, [d, k, h])
        if delta is not None and tx is not None:
            more = tf.matmul(flatten_rows(fold(tx)), flatten_rows(delta), transpose_a=True)
            out = add(out, tf.transpose(tf.reshape(more, [k, d, h]), [1, 0, 2]))
        return [out] if len(self.variables) == 1 else [out, leading_sum(t_delta, 2)]


def _check_once(x: tf.Tensor) -> None:
    if x.shape.rank != 2:
        raise Unsupported("a dense layer that a row passes more than once")


def _rows_like(flat: tf.Tensor, x: tf.Tensor, features: list[int]) -> tf.Tensor:
    """Return a matrix of rows as (B, ..., features), with the leading axes of x."""
    return tf.reshape(flat, tf.concat([tf.shape(x)[:-1], features], 0))
