"""Operations on each number alone, and those that couple the features of one place."""

from collections.abc import Callable

from hesscomp.curvature.networks.operation import Operation, add, added, beside, leading_sum
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
        (tx,) = at.t_terms
        return None if tx is None else _scaled(at.memo["slope"], tx.parts)

    def pull(self, at, delta):
        return [at.memo["slope"] * delta]

    def pull_tangent(self, at, delta, t_delta):
        (tx,), slope, bend = at.t_terms, at.memo["slope"], at.memo.get("bend")
        if delta is None or tx is None or bend is None:
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
        (tx,) = at.t_inputs
        return None if tx is None else _centred(beside(at.output), tx)

    def pull(self, at, delta):
        return [_centred(at.output, delta)]

    def pull_tangent(self, at, delta, t_delta):
        p, t_p = beside(at.output), self.tangent(at)
        out = _centred(p, t_delta)
        if delta is not None and t_p is not None:
            delta = beside(delta)
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
        (tx,) = at.t_inputs
        return None if tx is None else _derivative(beside(at.memo["scale"]), beside(at.output), tx)

    def pull(self, at, delta):
        return [_derivative(at.memo["scale"], at.output, delta)]

    def pull_tangent(self, at, delta, t_delta):
        scale, y, t_y = beside(at.memo["scale"]), beside(at.output), self.tangent(at)
        out = _derivative(scale, y, t_delta)
        if delta is not None and t_y is not None:
            delta = beside(delta)
            t_scale = -tf.square(scale) * _mean(y * at.t_inputs[0])  # of s, divided by s^0
            out += t_scale / scale * _derivative(scale, y, delta)
            out -= scale * (t_y * _mean(y * delta) + y * _mean(t_y * delta))
        return [out]


class Scale(Operation):
    """y = x gamma + beta on the last axis, gamma and beta being parameters or absent."""

    linear = True

    def __init__(self, gamma=None, beta=None):
        self.has = (gamma is not None, beta is not None)
        self.variables = tuple(v for v in (gamma, beta) if v is not None)

    def _split(self, values):
        values = iter(values)
        return [next(values) if present else None for present in self.has]

    def forward(self, at):
        (x,), (gamma, beta) = at.inputs, self._split(at.parameters)
        x = x if gamma is None else x * gamma
        return x if beta is None else x + beta

    def tangent(self, at):
        (x,), (tx,) = at.inputs, at.t_inputs
        (gamma, _), (t_gamma, t_beta) = self._split(at.parameters), self._split(at.t_parameters)
        through = tx if tx is None or gamma is None else tx * gamma
        out = None if t_gamma is None else beside(x) * t_gamma
        out = through if out is None else out if through is None else out + through
        if t_beta is None:
            return out
        if out is None:
            shape = tf.concat([tf.shape(x)[:-1], tf.shape(t_beta)], 0)
            return tf.broadcast_to(t_beta, shape)
        return out + t_beta

    def pull(self, at, delta):
        gamma, _ = self._split(at.parameters)
        return [delta if gamma is None else delta * gamma]

    def pull_tangent(self, at, delta, t_delta):
        (gamma, _), (t_gamma, _) = self._split(at.parameters), self._split(at.t_parameters)
        out = t_delta if gamma is None else t_delta * gamma
        if delta is not None and t_gamma is not None:
            out = out + beside(delta) * t_gamma
        return [out]

    def gradient(self, at, delta):
        both = [leading_sum(at.inputs[0] * delta, 1), leading_sum(delta, 1)]
        return [value for value, present in zip(both, self.has, strict=True) if present]

    def gradient_tangent(self, at, delta, t_delta):
        (x,), (tx,) = at.inputs, at.t_inputs
        out = []
        if self.has[0]:
            more = None
            if delta is not None and tx is not None:
                more = leading_sum(tx * beside(delta), 2)
            out.append(add(leading_sum(beside(x) * t_delta, 2), more))
        return [*out, leading_sum(t_delta, 2)] if self.has[1] else out


class MovingScale(Operation):
    """y = (x - mean) / sqrt(variance + epsilon), batch normalisation in inference.

    Mean and variance are variables that nothing is differentiated by; `set_fixed` changes them.
    """

    linear = True

    def __init__(self, mean, variance, epsilon: float):
        self.variables, self.epsilon = (mean, variance), epsilon

    def _scale(self, at):
        return tf.math.rsqrt(at.parameters[1] + self.epsilon)

    def forward(self, at):
        return (at.inputs[0] - at.parameters[0]) * self._scale(at)

    def tangent(self, at):
        (tx,) = at.t_inputs
        return None if tx is None else tx * self._scale(at)

    def pull(self, at, delta):
        return [delta * self._scale(at)]

    def pull_tangent(self, at, delta, t_delta):
        return self.pull(at, t_delta)

    def gradient(self, at, delta):
        return [None, None]

    def gradient_tangent(self, at, delta, t_delta):
        return [None, None]


def is_link(operation: Operation) -> bool:
    """Return whether this is a softmax or a sigmoid: what makes probabilities of logits."""
    if isinstance(operation, Softmax):
        return True
    return isinstance(operation, Elementwise) and operation.function is keras.activations.sigmoid


def _mean(x):
    return tf.reduce_mean(x, -1, keepdims=True)


def _inner(left, right):
    return tf.reduce_sum(left * right, -1, keepdims=True)


def _centred(p, t):
    return p * (t - _inner(p, t))


def _derivative(scale, y, t):
    return scale * (t - _mean(t) - y * _mean(y * t))
