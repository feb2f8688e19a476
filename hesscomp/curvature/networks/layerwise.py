"""The layer-wise engine: Pearlmutter's R-operator through a graph, k columns at a time.

A Hessian product is four sweeps over the graph: values forward, tangents forward, and both in
reverse. The sweeps of values are done once for all columns.
"""

from hesscomp.curvature.losses import Loss
from hesscomp.curvature.networks.engine import NetworkEngine, Piece
from hesscomp.curvature.networks.graph import Node
from hesscomp.curvature.networks.operation import At, add, count
from hesscomp.curvature.tensorflow import tf


class LayerwiseEngine(NetworkEngine):
    """For a graph of operations with rules.

    Parameters
    ----------
    nodes : list of Node
        The last one's output is the network's.
    variables : list of Keras variables
        The flat vector's parameters, in order; all others are constants.
    pieces : list of Piece
        Where they lie.
    loss : Loss
    """

    name = "layer-wise"
    copies = 4
    reason = "every layer has a rule"

    def __init__(self, nodes: list[Node], variables: list, pieces: list[Piece], loss: Loss):
        self.nodes, self.pieces, self.loss = nodes, pieces, loss
        self.index = {id(variable): i for i, variable in enumerate(variables)}

    @property
    def affine(self) -> bool:
        """Whether the output is an affine function of the parameters."""
        depends, affine = [False], [True]
        for node in self.nodes:
            moving = [depends[i] for i in node.inputs]
            own = any(id(v) in self.index for v in node.operation.variables)
            depends.append(own or any(moving))
            good = all(affine[i] for i in node.inputs)
            if any(moving):
                good = good and node.operation.linear and not own
            affine.append(good)
        return affine[-1]

    def output(self, theta, X):
        return self._values(theta, X)[-1].output

    def gradient(self, theta, X, y):
        sites = self._values(theta, X)
        output = sites[-1].output
        loss = tf.reduce_sum(self.loss.values(output, y))
        total = _Total(self)
        self._deltas(sites, self.loss.gradient(output, y), total)
        return loss, total.flat(theta)

    def hessian(self, theta, X, y, V):
        sites = self._values(theta, X)
        T = self._tangents(sites, V)
        output = sites[-1].output
        deltas = self._deltas(sites, self.loss.gradient(output, y))
        return self._pulled(sites, self.loss.curvature(output, y, T), V, deltas)

    def gauss_newton(self, theta, X, y, V, loss):
        sites = self._values(theta, X)
        T = self._tangents(sites, V)
        return self._pulled(sites, loss.curvature(sites[-1].output, y, T), V)

    def jacobian(self, theta, X, V):
        return self._tangents(self._values(theta, X), V)

    def jacobian_transposed(self, theta, X, U):
        sites = self._values(theta, X)
        self._without_tangents(sites)
        return self._pulled(sites, U, None)

    # The four sweeps

    def _values(self, theta, X) -> list[At]:
        values, sites = [X], []
        for node in self.nodes:
            parameters = [self._parameter(theta, v) for v in node.operation.variables]
            at = At([values[i] for i in node.inputs], parameters)
            at.output = node.operation.forward(at)
            values.append(at.output)
            sites.append(at)
        return sites

    def _parameter(self, theta, variable):
        i = self.index.get(id(variable))
        if i is None:
            return tf.cast(tf.convert_to_tensor(variable), theta.dtype)
        return self.pieces[i].of(theta)

    def _tangents(self, sites, V):
        """The output's tangent; each site keeps its inputs' and parameters'."""
        tangents = [None]
        for node, at in zip(self.nodes, sites, strict=True):
            at.t_inputs = [tangents[i] for i in node.inputs]
            at.t_parameters = [self._tangent(V, v) for v in node.operation.variables]
            moving = any(t is not None for t in at.t_inputs + at.t_parameters)
            tangents.append(node.operation.tangent(at) if moving else None)
        return tangents[-1]

    def _tangent(self, V, variable):
        i = self.index.get(id(variable))
        return None if i is None else columns_of(V, self.pieces[i])

    def _without_tangents(self, sites):
        for node, at in zip(self.nodes, sites, strict=True):
            at.t_inputs = [None] * len(node.inputs)
            at.t_parameters = [None] * len(node.operation.variables)

    def _deltas(self, sites, delta, total=None) -> list:
        """The gradient by each node's output; parameters' gradients go to `total`."""
        deltas = [None] * len(sites) + [delta]
        for place in range(len(sites), 0, -1):
            node, at, delta = self.nodes[place - 1], sites[place - 1], deltas[place]
            if delta is None:
                continue
            if total is not None:
                total.add(node.operation, node.operation.gradient(at, delta))
            self._spread(deltas, node, node.operation.pull(at, delta))
        return deltas

    def _pulled(self, sites, t_delta, V, deltas=None):
        """The tangents' reverse sweep: (n, k)."""
        total = _Total(self)
        t_deltas = [None] * len(sites) + [t_delta]
        for place in range(len(sites), 0, -1):
            node, at, t_delta = self.nodes[place - 1], sites[place - 1], t_deltas[place]
            if t_delta is None:
                continue
            delta = None if deltas is None else deltas[place]
            total.add(node.operation, node.operation.gradient_tangent(at, delta, t_delta))
            self._spread(t_deltas, node, node.operation.pull_tangent(at, delta, t_delta))
        return total.columns(t_deltas[-1].dtype, count(t_deltas[-1]))

    def _spread(self, deltas, node, gradients):
        for i, gradient in zip(node.inputs, gradients, strict=True):
            if i > 0:  # nobody asks for a gradient by the data
                deltas[i] = add(deltas[i], gradient)


class _Total:
    """Gradients by the parameters, or their tangents, summed over what shares the parameters."""

    def __init__(self, engine: LayerwiseEngine):
        self.engine = engine
        self.sums: list = [None] * len(engine.pieces)

    def add(self, operation, gradients) -> None:
        for variable, gradient in zip(operation.variables, gradients, strict=True):
            i = self.engine.index.get(id(variable))
            if i is not None:
                self.sums[i] = add(self.sums[i], gradient)

    def flat(self, theta) -> tf.Tensor:
        pieces = zip(self.engine.pieces, self.sums, strict=True)
        return tf.concat(
            [
                tf.zeros([piece.size], theta.dtype) if total is None else tf.reshape(total, [-1])
                for piece, total in pieces
            ],
            0,
        )

    def columns(self, dtype, k) -> tf.Tensor:
        pieces = zip(self.engine.pieces, self.sums, strict=True)
        return tf.concat(
            [
                tf.zeros([piece.size, k], dtype) if total is None else flat_columns(total, piece)
                for piece, total in pieces
            ],
            0,
        )


def columns_of(V: tf.Tensor, piece: Piece) -> tf.Tensor:
    """A parameter's k tangents in (n, k): (..., k, last)."""
    part = V[piece.offset : piece.offset + piece.size]
    k, (*before, last) = tf.shape(V)[1], piece.shape
    part = tf.reshape(part, [piece.size // last, last, k])
    return tf.reshape(tf.transpose(part, [0, 2, 1]), [*before, k, last])


def flat_columns(tangent: tf.Tensor, piece: Piece) -> tf.Tensor:
    """The inverse: (..., k, last) to (size, k)."""
    k, last = count(tangent), piece.shape[-1]
    part = tf.reshape(tangent, [piece.size // last, k, last])
    return tf.reshape(tf.transpose(part, [0, 2, 1]), [piece.size, k])
