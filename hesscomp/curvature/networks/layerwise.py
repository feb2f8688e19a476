"""The layer-wise engine: Pearlmutter's R-operator through a graph, k columns at a time.

A Hessian product is four sweeps over the graph: values forward, tangents forward, and both in
reverse. The sweeps of values are done once for all columns, and once for all products at a point
as far as memory holds them (`values`). For some parameters alone, the sweeps of tangents start at
the lowest operation that has one of them, and end there.
"""

import numpy as np

from hesscomp.curvature.losses import Loss
from hesscomp.curvature.networks.engine import NetworkEngine, Piece, cut, opaque
from hesscomp.curvature.networks.graph import Node
from hesscomp.curvature.networks.operation import At, Terms, Unsupported, add, count
from hesscomp.curvature.tensorflow import tf

AT_ONCE = 2**20  # numbers of gradients of single rows


class LayerwiseEngine(NetworkEngine):
    """For a graph of operations with rules; the last one's output is the network's.

    `variables` are the flat vector's parameters in order, and `pieces` say where they lie; all
    other variables are constants. Losses and gradients take `block` rows at a time, all if None.
    """

    name = "layer-wise"
    narrows = True
    copies = 4
    reason = "every layer has a rule"

    def __init__(
        self, nodes: list[Node], variables: list, pieces: list[Piece], loss: Loss,
        block: int | None = None,
    ):  # fmt: skip
        self.nodes, self.pieces, self.loss, self.block = nodes, pieces, loss, block
        self.index = {id(variable): i for i, variable in enumerate(variables)}

    @property
    def affine(self) -> bool:  # type: ignore[override]  # nothing sets it
        """Whether the output is an affine function of the parameters."""
        places = self._places(None)
        moving, affine = self._moving(places), [True]
        for node in self.nodes:
            good = all(affine[i] for i in node.inputs)
            if any(moving[i] for i in node.inputs):
                good = good and node.operation.linear and not self._owns(node, places)
            affine.append(good)
        return affine[-1]

    def output(self, theta, X):
        return self._values(theta, X)[-1].output

    def row_tangents(self, theta, X, row_values):
        """Return the numbers of a row's tangents of the outputs; slopes and memos have none."""

        @tf.function(autograph=False, input_signature=[theta, X])
        def outputs(theta, X):
            return [at.output for at in self._values(theta, X)]

        return sum(out.shape.num_elements() for out in outputs.get_concrete_function().outputs)

    def data_loss(self, theta, X, y):
        def of_block(X, y):
            return [super(LayerwiseEngine, self).data_loss(theta, X, y)]

        return self._in_blocks(of_block, X, y, [tf.zeros([], theta.dtype)])[0]

    def data_gradient(self, theta, X, y):
        def of_block(X, y):
            sites = self._values(theta, X)
            output = sites[-1].output
            loss, slopes = tf.reduce_sum(self.loss.values(output, y)), {}
            self._deltas(sites, self.loss.gradient(output, y), slopes)
            return loss, self._flat(slopes, theta)

        return self._in_blocks(of_block, X, y, [tf.zeros([], theta.dtype), tf.zeros_like(theta)])

    def _in_blocks(self, sums, X, y, zeros):
        """Return ``sums(X, y)``, sums over the rows, a block of rows at a time: in the caches."""
        if self.block is None:
            return sums(X, y)
        rows = tf.shape(X)[0]
        blocks = tf.maximum((rows + self.block - 1) // self.block, 1)
        step = (rows + blocks - 1) // blocks

        return _summed(lambda here: sums(X[here], y[here]), rows, step, zeros)

    def squared_gradients(self, theta, X, y):
        self._check_unshared()
        sums = {}
        for operation, at, delta in self._sites_with_deltas(theta, X, y):
            self._add(sums, operation, operation.squares(at, delta))
        return self._flat(sums, theta)

    @property
    def outer_layers(self):
        return sorted(self._outer().values())

    def _outer(self) -> dict[int, tuple[int, ...]]:
        """The parameters of each node that is a layer of `outer_layers`.

        They follow each other, and no other node has them.
        """
        used = [self.index.get(id(v)) for node in self.nodes for v in node.operation.variables]
        found = {}
        for place, node in enumerate(self.nodes):
            own = tuple(self.index.get(id(v), -1) for v in node.operation.variables)
            follow = own and own[0] >= 0 and own == tuple(range(own[0], own[0] + len(own)))
            if node.operation.outer and follow and all(used.count(i) == 1 for i in own):
                found[place] = own
        return found

    def outer_factors(self, theta, X, y, loss):
        sites = self._values(theta, X)
        return self._factors(sites, loss.root(sites[-1].output, y))

    def _factors(self, sites, U) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Return the factors of each row's J^T U for each of `outer_layers`."""
        outer, factors = self._outer(), {}
        for place, at, _, t_delta in self._pulls(sites, U, self._places(None)):
            if place in outer:
                factors[outer[place]] = self.nodes[place].operation.outer_factors(at, t_delta)
        return [factors[own] for own in self.outer_layers]

    @property
    def _all_outer(self) -> bool:
        """Whether all parameters are those of `outer_layers`."""
        return [i for own in self.outer_layers for i in own] == list(range(len(self.pieces)))

    def pull_by_row(self, theta, X, U):
        if not self._all_outer:
            return super().pull_by_row(theta, X, U)
        sites = self._values(theta, X)
        factors = self._factors(sites, U(sites[-1].output) if callable(U) else U)
        return tf.concat([_layer_rows(a, d) for a, d in factors], 2)

    def row_gradients(self, theta, X, y):
        if not self._all_outer:
            return super().row_gradients(theta, X, y)
        return self.pull_by_row(theta, X, lambda f: self.loss.gradient(f, y)[..., None, :])[:, 0]

    def squared_roots(self, theta, X, y, loss, chosen):
        places = self._places(chosen)

        def of_row(row):
            sites = self._values(theta, row[0][None])
            root = loss.root(sites[-1].output, row[1][None])
            return tf.reduce_sum(tf.square(self._pulled(sites, root, places)), 1)

        return tf.reduce_sum(tf.vectorized_map(of_row, (X, y)), 0)

    def row_squares(self, theta, X, y):
        self._check_unshared()
        sums = {}
        for operation, at, delta in self._sites_with_deltas(theta, X, y):
            self._add(sums, operation, operation.row_squares(at, delta))
        return add(tf.zeros(tf.shape(X)[:1], theta.dtype), *sums.values())

    def _check_unshared(self) -> None:
        owned = [id(variable) for node in self.nodes for variable in node.operation.variables]
        if len(owned) != len(set(owned)):
            raise Unsupported("layers that share a parameter")

    def _sites_with_deltas(self, theta, X, y):
        """(operation, site, gradient in its output) of all nodes that the loss depends on."""
        sites = self._values(theta, X)
        deltas = self._deltas(sites, self.loss.gradient(sites[-1].output, y))
        for node, at, delta in zip(self.nodes, sites, deltas[1:], strict=True):
            if delta is not None:
                yield node.operation, at, delta

    def values(self, theta, X, y, reverse):
        sites, deltas = self._values(theta, X), []
        if reverse:
            deltas = self._deltas(sites, self.loss.gradient(sites[-1].output, y))
        return {
            "sites": [(at.output, at.memo) for at in sites],
            "deltas": {i: delta for i, delta in enumerate(deltas) if delta is not None},
        }

    def data_hessian(self, theta, X, y, values, V, chosen=None):
        sites, places = self._values(theta, X, values["sites"]), self._places(chosen)
        T = self._tangents(sites, V, places)
        t_delta = self.loss.curvature(sites[-1].output, y, T)
        return self._pulled(sites, t_delta, places, values["deltas"])

    def gauss_newton(self, theta, X, y, values, V, loss, chosen=None):
        sites, places = self._values(theta, X, values["sites"]), self._places(chosen)
        if chosen is None and loss.convex and self._least_places(sites) > 1:
            root = loss.root(sites[-1].output, y)
            if 2 * (root.shape[-2] or np.inf) <= self._least_places(sites):
                return _gram_product(self._factors(sites, root), V)
        T = self._tangents(sites, V, places)
        return self._pulled(sites, loss.curvature(sites[-1].output, y, T), places)

    def _least_places(self, sites) -> int:
        """Return how often each row passes each layer at least; 0 if not all are outer.

        With more of them than twice the roots of a row's curvature, products with the Jacobian are
        cheaper by its rows: 2 a number and column instead of 4 for each place.
        """
        if not self._all_outer:
            return 0
        passed = [sites[place].output.shape[1:-1].num_elements() for place in self._outer()]
        return min(1 if times is None else times for times in passed)

    def jacobian(self, theta, X, V):
        return self._tangents(self._values(theta, X), V, self._places(None))

    def jacobian_transposed(self, theta, X, U):
        return self._pulled(self._values(theta, X), U, self._places(None))

    # Which parameters move

    def _places(self, chosen: tuple[int, ...] | None) -> dict[int, Piece]:
        """Where the chosen pieces (all of them if None) lie in the rows of V."""
        if chosen is None:
            return dict(enumerate(self.pieces))
        return dict(zip(chosen, cut(self.pieces[i].shape for i in chosen), strict=True))

    def _owns(self, node: Node, places) -> bool:
        return any(self.index.get(id(v)) in places for v in node.operation.variables)

    def _moving(self, places) -> list[bool]:
        """Return whether each value, the data first, depends on the parameters in `places`."""
        moving = [False]
        for node in self.nodes:
            moving.append(self._owns(node, places) or any(moving[i] for i in node.inputs))
        return moving

    # The four sweeps

    def _values(self, theta, X, known=None) -> list[At]:
        """Return each operation at theta; `known` are the outputs and memos where they are."""
        values, sites = [X], []
        for place, node in enumerate(self.nodes):
            parameters = [self._parameter(theta, v) for v in node.operation.variables]
            inputs = [values[i] for i in node.inputs]
            if not node.operation.whole:  # data may be integers
                inputs = [tf.cast(value, theta.dtype) for value in inputs]
            at = At(inputs, parameters)
            if known is None:
                at.output = node.operation.forward(at)
            else:
                at.output, at.memo = known[place]
            values.append(at.output)
            sites.append(at)
        sites[-1].output = opaque(sites[-1].output)
        return sites

    def _parameter(self, theta, variable):
        i = self.index.get(id(variable))
        if i is None:
            return tf.cast(tf.convert_to_tensor(variable), theta.dtype)
        return self.pieces[i].of(theta)

    def _tangents(self, sites, V, places):
        """Return the output's tangent; each site keeps its inputs' and parameters'."""
        tangents = [None]
        for node, at in zip(self.nodes, sites, strict=True):
            at.t_terms = [tangents[i] for i in node.inputs]
            pieces = (places.get(self.index.get(id(v))) for v in node.operation.variables)
            at.t_parameters = [None if piece is None else columns_of(V, piece) for piece in pieces]
            moving = any(t is not None for t in at.t_terms + at.t_parameters)
            tangents.append(Terms.of(node.operation.tangent(at)) if moving else None)
        return tangents[-1].total

    def _deltas(self, sites, delta, slopes: dict | None = None) -> list:
        """Return the gradient by each node's output; add those by parameters to `slopes`."""
        deltas = [None] * len(sites) + [delta]
        for place in range(len(sites), 0, -1):
            node, at, delta = self.nodes[place - 1], sites[place - 1], deltas[place]
            if delta is None:
                continue
            if slopes is not None:
                self._add(slopes, node.operation, node.operation.gradient(at, delta))
            for i, gradient in self._asked(node, node.operation.pull(at, delta)):
                deltas[i] = add(deltas[i], gradient)
        return deltas

    def _pulled(self, sites, t_delta, places, deltas=None):
        """Return the tangents' reverse sweep, down to the lowest operation that moves: (n, k)."""
        slopes, k = {}, count(t_delta)
        for place, at, delta, total in self._pulls(sites, t_delta, places, deltas):
            operation = self.nodes[place].operation
            self._add(slopes, operation, operation.gradient_tangent(at, delta, total))
        parts = [
            tf.zeros([piece.size, k], t_delta.dtype)
            if slopes.get(i) is None
            else flat_columns(slopes[i], piece)
            for i, piece in places.items()
        ]
        return tf.concat(parts, 0)

    def _pulls(self, sites, t_delta, places, deltas=None):
        """(node, site, gradient, its tangent in the output) of nodes with parameters, downward."""
        moving = self._moving(places)
        t_deltas = [None] * len(sites) + [Terms(t_delta)]
        for place in range(len(sites), 0, -1):
            node, at, terms = self.nodes[place - 1], sites[place - 1], t_deltas[place]
            if terms is None or not moving[place]:
                continue
            operation, delta = node.operation, None if deltas is None else deltas.get(place)
            if operation.variables:
                yield place - 1, at, delta, terms.total
            taken = terms if operation.fuses else terms.total
            for i, gradient in self._asked(node, operation.pull_tangent(at, delta, taken)):
                t_deltas[i] = Terms.of(t_deltas[i], gradient)

    def _add(self, sums: dict, operation, gradients) -> None:
        """Add gradients by an operation's parameters to the sums by each parameter's index."""
        for variable, gradient in zip(operation.variables, gradients, strict=True):
            i = self.index.get(id(variable))
            if i is not None:
                sums[i] = add(sums.get(i), gradient)

    def _flat(self, sums: dict, theta) -> tf.Tensor:
        parts = [
            tf.zeros([piece.size], theta.dtype)
            if sums.get(i) is None
            else tf.reshape(sums[i], [-1])
            for i, piece in enumerate(self.pieces)
        ]
        return tf.concat(parts, 0)

    def _asked(self, node, gradients) -> list:
        """Return a node's inputs and the gradients by them; nobody asks for those by the data."""
        return [(i, g) for i, g in zip(node.inputs, gradients, strict=True) if i > 0]


def columns_of(V: tf.Tensor, piece: Piece) -> tf.Tensor:
    """Return a parameter's k tangents in (n, k): (..., k, last)."""
    part = V[piece.offset : piece.offset + piece.size]
    k, (*before, last) = tf.shape(V)[1], piece.shape
    part = tf.reshape(part, [piece.size // last, last, k])
    return tf.reshape(tf.transpose(part, [0, 2, 1]), [*before, k, last])


def flat_columns(tangent: tf.Tensor, piece: Piece) -> tf.Tensor:
    """Return the inverse: (..., k, last) to (size, k)."""
    k, last = count(tangent), piece.shape[-1]
    part = tf.reshape(tangent, [piece.size // last, k, last])
    return tf.reshape(tf.transpose(part, [0, 2, 1]), [piece.size, k])


def _layer_rows(a: tf.Tensor, d: tf.Tensor) -> tf.Tensor:
    """Return the gradients of `outer_factors` by one layer, (B, k, inputs * outputs)."""
    rows, k = tf.shape(a)[0], d.shape[2] or tf.shape(d)[2]
    d = tf.reshape(d, [rows, d.shape[1] or tf.shape(d)[1], -1])
    product = tf.matmul(a, d, transpose_a=True)
    if k != 1:
        product = tf.reshape(product, [rows, a.shape[2], k, -1])
        product = tf.transpose(product, [0, 2, 1, 3])
    return tf.reshape(product, [rows, k, -1])


def _gram_product(factors: list[tuple[tf.Tensor, tf.Tensor]], V: tf.Tensor) -> tf.Tensor:
    """Return sum of g g^T V over all rows' gradients g, some rows at a time: in the caches."""
    sizes = [a.shape[2] * d.shape[3] for a, d in factors]
    step = max(AT_ONCE // (factors[0][1].shape[2] * sum(sizes)), 1)
    parts, rows = tf.split(V, sizes), tf.shape(factors[0][0])[0]

    def of_rows(here):
        each = [_layer_rows(a[here], d[here]) for a, d in factors]
        each = [tf.reshape(G, [-1, size]) for G, size in zip(each, sizes, strict=True)]
        T = tf.add_n([tf.matmul(G, part) for G, part in zip(each, parts, strict=True)])
        return [tf.matmul(G, T, transpose_a=True) for G in each]

    return tf.concat(_summed(of_rows, rows, step, [tf.zeros_like(part) for part in parts]), 0)


def _summed(sums, rows: tf.Tensor, step, zeros: list[tf.Tensor]) -> list[tf.Tensor]:
    """Return the sums of ``sums(slice)``, as many tensors as zeros, over slices of `step` rows."""

    def more(first, totals):
        terms = sums(slice(first, first + step))
        return first + step, [total + term for total, term in zip(totals, terms, strict=True)]

    start = tf.constant(0), zeros
    return tf.while_loop(lambda first, _: first < rows, more, start, parallel_iterations=1)[1]
