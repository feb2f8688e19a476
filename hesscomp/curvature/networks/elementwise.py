"""Operations on each number alone, and those that couple the features of one place."""

from collections.abc import Callable

from hesscomp.curvature.networks.operation import Operation, added, beside
from hesscomp.curvature.tensorflow import fused, keras, tf


class Elementwise(Operation):
    """y = phi(x) for any differentiable phi; phi' and phi'' once for all columns."""

    fuses = True

    def __init__(self, function: Callable):
        self.function = function

    def forward(self, at):
        (x,) = at.inputs
        with tf.GradientTape() as second:
            second.watch(x)
            with tf.GradientTape() as first:
                first.watch(x)
                y = self.function(x)
            at.memo["slope"] = first.gradient(y, x)
        bend = second.gradient(at.memo["slope"], x)
        if bend is not None:  # phi is not linear in pieces
            at.memo["bend"] = bend
        return y

    def tangent(self, at):
        return _scaled(at.memo["slope"], at.t_terms[0].parts)

    def pull(self, at, delta):
        return [at.memo["slope"] * delta]

    def pull_tangent(self, at, delta, t_delta):
        (tx,), slope, bend = at.t_terms, at.memo["slope"], at.memo.get("bend")
        if delta is None or bend is None:
            return [_scaled(slope, t_delta.parts)]
        return [_two_scaled(slope, t_delta.parts, bend * delta, tx.parts)]


@fused
def _scaled(a, terms):
    return beside(a) * added(terms)


@fused
def _two_scaled(a, terms, b, others):
    return beside(a) * added(terms) + beside(b) * added(others)


class Softmax(Operation):
    """Softmax over the last axis."""

    def forward(self, at):
        return tf.nn.softmax(at.inputs[0])

    def tangent(self, at):
        return _centred(beside(at.output), at.t_inputs[0])

    def pull(self, at, delta):
        return [_centred(at.output, delta)]

    def pull_tangent(self, at, delta, t_delta):
        p = beside(at.output)
        out = _centred(p, t_delta)
        if delta is not None:
            delta, t_p = beside(delta), self.tangent(at)
            out += t_p * (delta - _inner(p, delta)) - p * _inner(t_p, delta)
        return [out]


class Normalize(Operation):
    """(x - mean) / sqrt(variance + epsilon) over the last axis: layer normalisation's first half.

    With s = 1/sqrt(variance + epsilon) and y the output: dy = s (P dx - y <y, dx>), where P takes
    the mean off and <., .> is a mean; the operator is symmetric, and its own pull.
    """

    def __init__(self, epsilon: float):
        self.epsilon = epsilon

    def forward(self, at):
        (x,) = at.inputs
        centred = x - _mean(x)
        at.memo["scale"] = tf.math.rsqrt(_mean(tf.square(centred)) + self.epsilon)
        return centred * at.memo["scale"]

    def tangent(self, at):
        return _derivative(beside(at.memo["scale"]), beside(at.output), at.t_inputs[0])

    def pull(self, at, delta):
        return [_derivative(at.memo["scale"], at.output, delta)]

    def pull_tangent(self, at, delta, t_delta):
        scale, y = beside(at.memo["scale"]), beside(at.output)
        out = _derivative(scale, y, t_delta)
        if delta is not None:
            delta, t_y = beside(delta), self.tangent(at)
            t_scale = -tf.square(scale) * _mean(y * at.t_inputs[0])  # of s, divided by s^0
            out += t_scale / scale * _derivative(scale, y, delta)
            out -= scale * (t_y * _mean(y * delta) + y * _mean(t_y * delta))
        return [out]


class MovingScale(Operation):
    """y = (x - mean) / sqrt(variance + epsilon), batch normalisation in inference.

    Mean and variance are variables that nothing is differentiated by; `set_fixed` changes them.
    """

    linear = True

    def __init__(self, mean, variance, epsilon: float):
        self.moving, self.epsilon = (mean, variance), epsilon

    def forward(self, at):
        (x,) = at.inputs
        mean, variance = (tf.cast(tf.convert_to_tensor(v), x.dtype) for v in self.moving)
        at.memo["scale"] = tf.math.rsqrt(variance + self.epsilon)
        return (x - mean) * at.memo["scale"]

    def tangent(self, at):
        return at.t_inputs[0] * at.memo["scale"]

    def pull(self, at, delta):
        return [delta * at.memo["scale"]]

    def pull_tangent(self, at, delta, t_delta):
        return self.pull(at, t_delta)


def is_link(operation: Operation) -> bool:
    """Return whether this is a softmax or a sigmoid: what makes probabilities of logits."""
    function = getattr(operation, "function", None)
    return isinstance(operation, Softmax) or function is keras.activations.sigmoid


def _mean(x):
    return tf.reduce_mean(x, -1, keepdims=True)


def _inner(left, right):
    return tf.reduce_sum(left * right, -1, keepdims=True)


def _centred(p, t):
    return p * (t - _inner(p, t))


def _derivative(scale, y, t):
    return scale * (t - _mean(t) - y * _mean(y * t))
