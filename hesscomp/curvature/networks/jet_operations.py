"""Operations on jets: Taylor's expansion of a network in its inputs, layer by layer.

Values are (B, q, C) with the q channels of a jet (`Level`) on the axis after the rows; so a layer's
products are the plain ones with q times the rows. Collapsed Taylor mode: of the second derivatives
only the sums that are asked for are carried, "forward Laplacian" (Li and others, Nature Machine
Intelligence 6, 2024; Dangel and others, arXiv:2505.13644).
"""

from collections.abc import Callable
from dataclasses import dataclass

from hesscomp.curvature.networks.dense import Dense
from hesscomp.curvature.networks.elementwise import Elementwise
from hesscomp.curvature.networks.graph import Node
from hesscomp.curvature.networks.jets import Level, pairs
from hesscomp.curvature.networks.linear import Concatenate, WeightedSum
from hesscomp.curvature.networks.operation import Operation, Unsupported, added, beside, count
from hesscomp.curvature.tensorflow import ZERO, fused, tf


@dataclass(frozen=True)
class Channels:
    """The channels of a jet: the value, d first derivatives, and sums of second ones.

    `forms` are the sums, one for each channel, of second derivatives by x_i and x_j.
    """

    d: int
    forms: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def of(cls, d: int, level: Level) -> "Channels":
        trace = tuple((i, i) for i in range(d))
        single = tuple((pair,) for pair in pairs(d)) if level >= Level.D2U else ()
        return cls(d, () if level < Level.LAPLACIAN else (trace, *single))

    @property
    def count(self) -> int:
        return 1 + self.d + len(self.forms)

    @property
    def first(self) -> slice:
        """The channels of the first derivatives."""
        return slice(1, 1 + self.d)

    @property
    def second(self) -> slice:
        """The channels of the second derivatives."""
        return slice(1 + self.d, None)

    def quadratic(self, z: tf.Tensor) -> list[tf.Tensor]:
        """Return each form's sum of z_i z_j, from z (B, d, ...): (B, ...) each."""
        return [tf.add_n([z[:, i] * z[:, j] for i, j in form]) for form in self.forms]

    def gradients(self, z: tf.Tensor) -> list[tf.Tensor]:
        """Return the gradient of each form in z, (B, d, ...)."""
        z = tf.unstack(z, axis=1)
        none = tf.zeros_like(z[0])
        found = []
        for form in self.forms:
            parts = [none] * self.d
            for i, j in form:
                parts[i] += z[j]
                parts[j] += z[i]
            found.append(tf.stack(parts, 1))
        return found

    def at(self, place: int, value: tf.Tensor) -> tf.Tensor:
        """Return (B, ...) as the channel of this place, all others zero."""
        channels = tf.reshape(tf.range(self.count), [-1] + [1] * (value.shape.rank - 1))
        return tf.where(channels == place, value[:, None], tf.zeros([], value.dtype))

    def padded(self, value: tf.Tensor, place: slice) -> tf.Tensor:
        """Return some channels as all, the others zero."""
        before, stop, _ = place.indices(self.count)
        return tf.pad(
            value, [[0, 0], [before, self.count - stop]] + [[0, 0]] * (value.shape.rank - 2)
        )


class Points(Operation):
    """The jets of the inputs themselves: x, the unit vectors, zeros."""

    linear = True

    def __init__(self, channels: Channels):
        self.channels = channels

    def forward(self, at):
        (x,), (d, forms) = at.inputs, (self.channels.d, len(self.channels.forms))
        fixed = tf.concat([tf.eye(d, dtype=x.dtype), tf.zeros([forms, d], x.dtype)], 0)
        fixed = tf.broadcast_to(fixed, tf.concat([tf.shape(x)[:1], tf.shape(fixed)], 0))
        return tf.concat([x[:, None], fixed], 1)

    def tangent(self, at):
        return None

    def pull(self, at, delta):
        return [None]

    def pull_tangent(self, at, delta, t_delta):
        return [None]


class JetDense(Dense):
    """`Dense` of jets: the bias is added to the value alone."""

    def __init__(self, operation: Dense, channels: Channels):
        super().__init__(*operation.variables)
        self.channels = channels

    def _of_bias(self, b):
        return tf.pad(b[None], [[0, self.channels.count - 1]] + [[0, 0]] * b.shape.rank)

    def _with_bias(self, delta):
        return delta[:, 0]

    def _bias_inputs(self, a):
        return self.channels.at(0, super()._bias_inputs(a[:, 0]))


class JetElementwise(Operation):
    """y = phi(x) of jets: phi, phi' x_i, and phi' x_ij + phi'' x_i x_j, or sums of these.

    With z = x_0 the derivative is phi' on all channels, and what else depends on z: an arrow of a
    matrix for each number, of which `column` is z's and `rows` are the second derivatives' by the
    first ones.
    """

    fuses = True

    def __init__(self, operation: Elementwise, channels: Channels):
        self.function, self.channels = operation.function, channels

    def forward(self, at):
        (x,), of = at.inputs, self.channels
        z, first, second = x[:, 0], x[:, of.first], x[:, of.second]
        y, *phi = derivatives(self.function, z, 4 if of.forms else 3)
        bent = phi[1][:, None] * first
        channels, column = [y[:, None], phi[0][:, None] * first], [bent]
        if of.forms:
            squares = tf.stack(of.quadratic(first), 1)
            channels.append(phi[0][:, None] * second + phi[1][:, None] * squares)
            column.append(phi[1][:, None] * second + phi[2][:, None] * squares)
            at.memo["rows"] = of.gradients(bent)
            at.memo["squares"] = squares
        at.memo["column"] = tf.concat(column, 1)
        at.memo["phi"] = phi
        return tf.concat(channels, 1)

    def tangent(self, at):
        arrow = at.memo["phi"][0], at.memo["column"], at.memo.get("rows", [])
        return _along(self.channels, *arrow, at.t_terms[0].parts)

    def pull(self, at, delta):
        """Return the transpose of `tangent`: of one column, beside which there is none."""
        arrow = at.memo["phi"][0], at.memo["column"], at.memo.get("rows", [])
        return [tf.squeeze(_back(self.channels, *arrow, [beside(delta)]), -2)]

    def pull_tangent(self, at, delta, t_delta):
        arrow = at.memo["phi"][0], at.memo["column"], at.memo.get("rows", [])
        if delta is None:
            return [_back(self.channels, *arrow, t_delta.parts)]
        bend = self._bend(at, delta)
        return [_back_bent(self.channels, *arrow, t_delta.parts, *bend, at.t_terms[0].parts)]

    def _bend(self, at, delta):
        """Return the second derivative of delta . y: that by z and the channels, by the first two.

        The former is (B, q, C), the latter one (B, C) for each form.
        """
        (x,), of, (_, bend, *phi) = at.inputs, self.channels, at.memo["phi"]
        first, second = x[:, of.first], x[:, of.second]
        d_first, d_second = delta[:, of.first], delta[:, of.second]
        by_z = bend * delta[:, 0] + phi[0] * tf.reduce_sum(d_first * first, 1)
        by_first, weights = bend[:, None] * d_first, []
        if of.forms:
            squares = at.memo["squares"]
            by_z += tf.reduce_sum(
                d_second * (phi[0][:, None] * second + phi[1][:, None] * squares), 1
            )
            each = tf.unstack(d_second, axis=1)
            slopes = zip(each, of.gradients(first), strict=True)
            by_first += phi[0][:, None] * tf.add_n([d[:, None] * slope for d, slope in slopes])
            weights = [bend * d for d in each]
        column = tf.concat([by_z[:, None], by_first, bend[:, None] * d_second], 1)
        return column, weights


class Joined(Operation):
    """The channels of a jet one beside the other, as a network's output: (B, q C)."""

    linear = True

    def forward(self, at):
        (x,) = at.inputs
        return tf.reshape(x, [-1, x.shape[1] * x.shape[2]])

    def tangent(self, at):
        (tx,) = at.t_inputs
        k = count(tx)
        return tf.reshape(tf.transpose(tx, [0, 2, 1, 3]), [-1, k, at.output.shape[1]])

    def pull(self, at, delta):
        return [tf.reshape(delta, [-1, *at.inputs[0].shape[1:]])]

    def pull_tangent(self, at, delta, t_delta):
        rows = tf.reshape(t_delta, [-1, count(t_delta), *at.inputs[0].shape[1:]])
        return [tf.transpose(rows, [0, 2, 1, 3])]


def derivatives(function: Callable, x: tf.Tensor, order: int) -> list[tf.Tensor]:
    """Return an element-wise function and its derivatives up to an order at each number of x."""
    if order == 0:
        return [function(x)]
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = derivatives(function, x, order - 1)
    return [*found, tape.gradient(found[-1], x, unconnected_gradients=ZERO)]


@fused
def _along(of, slope, column, rows, terms):
    return _arrow(of, slope, column, rows, added(terms))


@fused
def _back(of, slope, column, rows, terms):
    return _arrow_transposed(of, slope, column, rows, added(terms))


@fused
def _back_bent(of, slope, column, rows, terms, bend, weights, others):
    T = added(others)
    out = _arrow_transposed(of, slope, column, rows, added(terms))
    out += of.at(0, _inner(bend, T))
    out += beside(of.padded(bend[:, 1:], slice(1, None))) * T[:, :1]
    for weight, gradient in zip(weights, of.gradients(T[:, of.first]), strict=True):
        out += of.padded(beside(weight[:, None]) * gradient, of.first)
    return out


def _arrow(of, slope, column, rows, T):
    out = beside(slope[:, None]) * T
    out += beside(of.padded(column, slice(1, None))) * T[:, :1]
    for place, row in enumerate(rows, of.second.start):
        out += of.at(place, _inner(row, T[:, of.first]))
    return out


def _arrow_transposed(of, slope, column, rows, D):
    out = beside(slope[:, None]) * D
    out += of.at(0, _inner(column, D[:, 1:]))
    for place, row in enumerate(rows, of.second.start):
        out += beside(of.padded(row, of.first)) * D[:, place : place + 1]
    return out


def _inner(row, T):
    """Return the sum over channels of a (B, channels, C) times T: written out, XLA fuses it."""
    return tf.add_n([beside(row[:, i]) * T[:, i] for i in range(row.shape[1])])


LIFTED: dict[type, Callable[..., Operation]] = {
    Dense: JetDense,
    Elementwise: JetElementwise,
    WeightedSum: lambda operation, channels: operation,
    Concatenate: lambda operation, channels: Concatenate(operation.axis + 1, 3),
}


def of_jets(nodes: list[Node], d: int, level: Level) -> list[Node]:
    """Return the graph of a network's jets from that of the network, of rows (B, d) to (B, c).

    Raises Unsupported where an operation has no rule for jets.
    """
    channels = Channels.of(d, level)
    lifted = [Node(Points(channels), (0,))]
    for node in nodes:
        rule = LIFTED.get(type(node.operation))
        if rule is None:
            raise Unsupported(
                f"derivatives by the inputs have no rule for {type(node.operation).__name__}"
            )
        places = tuple(place + 1 for place in node.inputs)
        lifted.append(Node(rule(node.operation, channels), places))
    return [*lifted, Node(Joined(), (len(lifted),))]
