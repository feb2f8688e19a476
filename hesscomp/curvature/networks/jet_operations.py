"""Operations on jets: Taylor's expansion of a network in its inputs, layer by layer.

Values are (B, q, C) with the q channels of a jet (`Level`) on the axis after the rows; so a layer's
products are the plain ones with q times the rows. Collapsed Taylor mode: of the second derivatives
only the sums that are asked for are carried, "forward Laplacian" (Li and others, Nature Machine
Intelligence 6, 2024; Dangel and others, arXiv:2505.13644).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hesscomp.curvature.networks.dense import Dense, Kernel, Scale
from hesscomp.curvature.networks.elementwise import Elementwise, MovingScale
from hesscomp.curvature.networks.graph import Node
from hesscomp.curvature.networks.jets import Level, pairs
from hesscomp.curvature.networks.linear import Concatenate, Product, WeightedSum
from hesscomp.curvature.networks.operation import Operation, Unsupported, add, added, beside, count
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

    def quadratic(self, z: tf.Tensor) -> Iterator[tuple[int, tf.Tensor]]:
        """Yield each form's channel and its sum of z_i z_j, (B, ...), for z (B, d, ...)."""
        for place, form in enumerate(self.forms, self.second.start):
            yield place, tf.add_n([z[:, i] * z[:, j] for i, j in form])

    def gradients(self, z: tf.Tensor) -> Iterator[tuple[int, tf.Tensor]]:
        """Yield each form's channel and the gradient of that sum in z, (B, d, ...)."""
        for place, form in enumerate(self.forms, self.second.start):
            yield place, self._gradient(form, z)

    def _gradient(self, form, z):
        if form == tuple((i, i) for i in range(self.d)):
            return 2 * z
        parts = [tf.zeros_like(z[:, 0])] * self.d
        for i, j in form:
            parts[i] += z[:, j]
            parts[j] += z[:, i]
        return tf.stack(parts, 1)

    def at(self, place: int, value: tf.Tensor) -> tf.Tensor:
        """Return (B, ...) as the channel of this place, all others zero."""
        here = self.places(value.shape.rank + 1) == place
        return tf.where(here, value[:, None], tf.zeros([], value.dtype))

    def places(self, rank: int) -> tf.Tensor:
        """Return the channels' places, to meet values of this rank."""
        return tf.reshape(tf.range(self.count), [-1] + [1] * (rank - 2))

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


class _OfJets(Kernel):
    """A product of jets and a kernel, channel by channel: the bias is added to the value alone."""

    def __init__(self, operation: Kernel, channels: Channels):
        super().__init__(*operation.variables)
        self.channels = channels

    def _of_bias(self, b):
        return tf.pad(b[None], [[0, self.channels.count - 1]] + [[0, 0]] * b.shape.rank)

    def _with_bias(self, delta):
        return delta[:, 0]

    def _bias_inputs(self, a):
        return self.channels.at(0, super()._bias_inputs(a[:, 0]))


class JetDense(_OfJets, Dense):
    """`Dense` of jets."""


class JetScale(_OfJets, Scale):
    """`Scale` of jets."""


class JetMovingScale(MovingScale):
    """`MovingScale` of jets: the mean is taken off the value alone."""

    def __init__(self, operation: MovingScale, channels: Channels):
        super().__init__(*operation.moving, operation.epsilon)
        self.channels = channels

    def forward(self, at):
        moved = super().forward(at)
        return tf.where(self.channels.places(3) == 0, moved, at.inputs[0] * at.memo["scale"])


class JetProduct(Operation):
    """`Product` of jets by the product rule: a symmetric bilinear function of both."""

    def __init__(self, operation: Operation, channels: Channels):
        self.channels = channels

    def forward(self, at):
        return self._product(*at.inputs)

    def tangent(self, at):
        pairs = zip(reversed(at.inputs), at.t_inputs, strict=True)
        return add(*(None if t is None else self._product(beside(x), t) for x, t in pairs))

    def pull(self, at, delta):
        return [self._pulled(other, delta) for other in reversed(at.inputs)]

    def pull_tangent(self, at, delta, t_delta):
        out = []
        for other, t_other in zip(reversed(at.inputs), reversed(at.t_inputs), strict=True):
            more = None
            if delta is not None and t_other is not None:
                more = self._pulled(t_other, beside(delta))
            out.append(add(self._pulled(beside(other), t_delta), more))
        return out

    def _product(self, x, y):
        of, value = self.channels, x[:, 0] * y[:, 0]
        out = x[:, :1] * y + y[:, :1] * x - of.at(0, value)
        for place, row in of.gradients(x[:, of.first]):
            out += of.at(place, tf.reduce_sum(row * y[:, of.first], 1))
        return out

    def _pulled(self, x, delta):
        """Return the transpose of the product with x, of a gradient."""
        of = self.channels
        out = x[:, :1] * delta + of.at(0, tf.reduce_sum(x[:, 1:] * delta[:, 1:], 1))
        for place, row in of.gradients(x[:, of.first]):
            out += of.padded(row * delta[:, place : place + 1], of.first)
        return out


class JetElementwise(Operation):
    """y = phi(x) of jets: phi, phi' x_i, and phi' x_ij + phi'' x_i x_j, or sums of these.

    With z = x_0 the derivative is phi' for each channel by itself, `column` for all of them by z,
    and for the second ones by the first ones what follows from it. All of this once for all columns
    of tangents.
    """

    fuses = True

    def __init__(self, operation: Elementwise, channels: Channels):
        self.function, self.channels = operation.function, channels

    def forward(self, at):
        out, slope, column = _lifted(self.channels, self.function, at.inputs[0])
        at.memo |= {"slope": slope, "column": column}
        return out

    def tangent(self, at):
        return _along(self.channels, at.memo["slope"], at.memo["column"], at.t_terms[0].parts)

    def pull(self, at, delta):
        terms = [beside(delta)]
        pulled = _back(self.channels, at.memo["slope"], at.memo["column"], terms)
        return [tf.squeeze(pulled, -2)]

    def pull_tangent(self, at, delta, t_delta):
        arrow = self.channels, at.memo["slope"], at.memo["column"], t_delta.parts
        if delta is None:
            return [_back(*arrow)]
        bend = _bend(self.channels, self.function, at.inputs[0], delta)
        return [_back_bent(*arrow, *bend, at.t_terms[0].parts)]


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


_derivatives = tf.function(derivatives, autograph=False)  # one operation where memory is counted


@fused
def _lifted(of, function, x):
    """Return the output, phi', and the output's derivative by z but for the value's, zero."""
    y, slope, bend, *third = _derivatives(function, x[:, 0], 3 if of.forms else 2)
    out = tf.where(of.places(3) == 0, y[:, None], slope[:, None] * x)
    column = tf.where(of.places(3) == 0, tf.zeros([], x.dtype), bend[:, None] * x)
    for place, square in of.quadratic(x[:, of.first]):
        out += of.at(place, bend * square)
        column += of.at(place, third[0] * square)
    return out, slope, column


@fused
def _bend(of, function, x, delta):
    """Return the second derivatives of delta . y: by z and each channel, by the first ones.

    The former are (B, q, C), the latter (B, C) times each form's.
    """
    _, _, bend, third, *fourth = _derivatives(function, x[:, 0], 4 if of.forms else 3)
    first = x[:, of.first]
    column = bend[:, None] * delta
    column += of.at(0, third * tf.reduce_sum(delta[:, 1:] * x[:, 1:], 1))
    for place, square in of.quadratic(first):
        column += of.at(0, fourth[0] * delta[:, place] * square)
    for place, slopes in of.gradients(first):
        column += of.padded((third * delta[:, place])[:, None] * slopes, of.first)
    return column, [bend * delta[:, place] for place, _ in enumerate(of.forms, of.second.start)]


@fused
def _along(of, slope, column, terms):
    T = added(terms)
    out = beside(slope[:, None]) * T + beside(column) * T[:, :1]
    for place, row in of.gradients(column[:, of.first]):
        out += of.at(place, _inner(row, T[:, of.first]))
    return out


@fused
def _back(of, slope, column, terms):
    return _transposed(of, slope, column, added(terms))


@fused
def _back_bent(of, slope, column, terms, bend, weights, others):
    T = added(others)
    out = _transposed(of, slope, column, added(terms)) + of.at(0, _inner(bend, T))
    out += beside(of.padded(bend[:, 1:], slice(1, None))) * T[:, :1]
    for weight, (_, slopes) in zip(weights, of.gradients(T[:, of.first]), strict=True):
        out += of.padded(beside(weight[:, None]) * slopes, of.first)
    return out


def _transposed(of, slope, column, D):
    out = beside(slope[:, None]) * D + of.at(0, _inner(column[:, 1:], D[:, 1:]))
    for place, row in of.gradients(column[:, of.first]):
        out += beside(of.padded(row, of.first)) * D[:, place : place + 1]
    return out


def _inner(row, T):
    """Return the sum over channels of a (B, channels, C) times T: written out, XLA fuses it."""
    return tf.add_n([beside(row[:, i]) * T[:, i] for i in range(row.shape[1])])


LIFTED: dict[type, Callable[..., Operation]] = {
    Dense: JetDense,
    Elementwise: JetElementwise,
    MovingScale: JetMovingScale,
    Product: JetProduct,
    Scale: JetScale,
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
