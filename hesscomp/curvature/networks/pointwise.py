"""Engines for functions of jets: residuals and energy densities of a network at points.

A jet network's output at a point holds the values u of a network and its derivatives by the inputs.
What is minimised is a loss of some function of the jet, h: `Composed` puts h after another engine,
and `Grouped` takes rows of several kinds together, each kind by an engine of its own. Rows are
their own targets here: a loss may depend on the point.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from hesscomp.curvature.losses import FunctionLoss, Loss
from hesscomp.curvature.networks.engine import NetworkEngine, opaque
from hesscomp.curvature.tensorflow import ZERO, tf

Map = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class SquaredResidual(Loss):
    """1/2 sum_c r_c^2 of an output r. Curvature: the identity."""

    name = "squared-residual"
    convex = squares = True

    def real_targets(self, output, y):
        return None

    def values(self, output, y):
        return tf.reduce_sum(tf.square(output), 1) / 2

    def gradient(self, output, y):
        return output

    def curvature(self, output, y, T):
        return T

    def root(self, output, y):
        return tf.eye(output.shape[1], batch_shape=tf.shape(output)[:1], dtype=output.dtype)


class Density(FunctionLoss):
    """Any function of the output and the row, with a number for each row; convex if so declared."""

    def __init__(self, function: Callable, name: str, convex: bool):
        super().__init__(function, name)
        self.convex = convex  # type: ignore[misc]  # of a class, where it is known


class Composed(NetworkEngine):
    """The output h(F, X) of another network's output F and the rows X, and a loss of it.

    Parameters
    ----------
    inner : NetworkEngine
        Of F, for the first `inputs` numbers of a row; its own loss is not used.
    inputs : int
    function : callable
        ``h(F, X)``: (B, C) of (B, f) and (B, width), each row by itself.
    loss : Loss
        Of h, and of the row.
    """

    def __init__(self, inner: NetworkEngine, inputs: int, function: Map, loss: Loss):
        self.inner, self.inputs, self.function, self.loss = inner, inputs, function, loss
        self.name, self.reason, self.copies = inner.name, inner.reason, inner.copies
        self.block = inner.block
        whole = FunctionLoss(lambda X, F: loss.values(function(F, X), X), loss.name)
        self._whole = inner.with_loss(whole)

    def row_tangents(self, theta, X, row_values):
        return self.inner.row_tangents(theta, tf.TensorSpec([1, self.inputs], X.dtype), row_values)

    def output(self, theta, X):
        return opaque(self.function(self._jets(theta, X), X))

    def data_loss(self, theta, X, y):
        return self._whole.data_loss(theta, self._points(X), X)

    def data_gradient(self, theta, X, y):
        return self._whole.data_gradient(theta, self._points(X), X)

    def values(self, theta, X, y, reverse):
        return self._whole.values(theta, self._points(X), X, reverse)

    def data_hessian(self, theta, X, y, values, V):
        return self._whole.data_hessian(theta, self._points(X), X, values, V)

    def gauss_newton(self, theta, X, y, values, V, loss):
        pulled = _PulledBack(loss, self.function)
        return self.inner.gauss_newton(theta, self._points(X), X, values, V, pulled)

    def jacobian(self, theta, X, V):
        _, slopes = slopes_of(self.function, self._jets(theta, X), X)
        return tf.matmul(self.inner.jacobian(theta, self._points(X), V), slopes, transpose_b=True)

    def jacobian_transposed(self, theta, X, U):
        _, slopes = slopes_of(self.function, self._jets(theta, X), X)
        return self.inner.jacobian_transposed(theta, self._points(X), tf.matmul(U, slopes))

    def pull_by_row(self, theta, X, U):
        def of_jets(F):
            made, slopes = slopes_of(self.function, F, X)
            return tf.matmul(U(made) if callable(U) else U, slopes)

        return self.inner.pull_by_row(theta, self._points(X), of_jets)

    def row_gradients(self, theta, X, y):
        return self.pull_by_row(theta, X, lambda made: self.loss.gradient(made, X)[:, None])[:, 0]

    def row_jacobians(self, theta, X):
        return self._row_jacobians(theta, X)[1]

    def gauss_newton_rows(self, theta, X, y):
        made, J = self._row_jacobians(theta, X)
        if not self.loss.squares:
            J = tf.matmul(self.loss.root(made, X), J)
        residuals = tf.reshape(self.loss.gradient(made, X), [-1])
        return tf.reshape(J, [-1, theta.shape[0]]), residuals

    def finite_rows(self, theta, X) -> tf.Tensor:
        """Return of each row whether its loss and its derivative by the jet are finite: (B,)."""
        F = self._jets(theta, X)
        with tf.GradientTape() as tape:
            tape.watch(F)
            values = self.loss.values(self.function(F, X), X)
        slopes = tape.gradient(values, F, unconnected_gradients=ZERO)
        return tf.math.is_finite(values) & tf.reduce_all(tf.math.is_finite(slopes), 1)

    def _row_jacobians(self, theta, X) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the output too."""
        kept = []

        def of_jets(F):
            made, slopes = slopes_of(self.function, F, X)
            kept.append(made)
            return slopes

        J = self.inner.pull_by_row(theta, self._points(X), of_jets)
        return kept[0], J

    def _points(self, X) -> tf.Tensor:
        return X[:, : self.inputs]

    def _jets(self, theta, X) -> tf.Tensor:
        return self.inner.output(theta, self._points(X))


class _PulledBack(Loss):
    """The Gauss-Newton part of a loss of h(F): curvature h'^T B h'."""

    def __init__(self, loss: Loss, function: Map):
        self.loss, self.function = loss, function
        self.name, self.convex = loss.name, loss.convex

    def values(self, output, y):
        return self.loss.values(self.function(output, y), y)

    def gradient(self, output, y):
        made, slopes = slopes_of(self.function, output, y)
        return tf.linalg.matvec(slopes, self.loss.gradient(made, y), transpose_a=True)

    def curvature(self, output, y, T):
        made, slopes = slopes_of(self.function, output, y)
        T = tf.matmul(T, slopes, transpose_b=True)
        return tf.matmul(self.loss.curvature(made, y, T), slopes)

    def root(self, output, y):
        made, slopes = slopes_of(self.function, output, y)
        return tf.matmul(self.loss.root(made, y), slopes)


def slopes_of(function: Map, F: tf.Tensor, X: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return h(F, X), (B, C), and its derivative by F, (B, C, f)."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(F)
        made = function(F, X)
        each = tf.unstack(made, axis=1)
    found = [tape.gradient(one, F, unconnected_gradients=ZERO) for one in each]
    return made, tf.stack(found, axis=1)


class Grouped(NetworkEngine):
    """Rows of several kinds, the last number of a row being its kind, each by an engine.

    Outputs of fewer than the greatest of `widths` numbers are filled up with zeros.
    """

    def __init__(self, engines: Sequence[NetworkEngine], widths: list[int], loss: Loss):
        self.engines, self.widths, self.loss = engines, widths, loss
        self.name, self.reason = engines[0].name, engines[0].reason
        self.copies = max(engine.copies for engine in engines)
        blocks = [engine.block for engine in engines if engine.block is not None]
        self.block = max(blocks) if len(blocks) == len(engines) else None

    def row_tangents(self, theta, X, row_values):
        return max(engine.row_tangents(theta, X, row_values) for engine in self.engines)

    def output(self, theta, X):
        outputs = self._each(lambda engine, X: engine.output(theta, X), X)
        return self._joined(X, self._filled(outputs, 1))

    def data_loss(self, theta, X, y):
        return tf.add_n(self._each(lambda engine, X: engine.data_loss(theta, X, X), X))

    def data_gradient(self, theta, X, y):
        parts = self._each(lambda engine, X: engine.data_gradient(theta, X, X), X)
        losses, gradients = zip(*parts, strict=True)
        return tf.add_n(losses), tf.add_n(gradients)

    def values(self, theta, X, y, reverse):
        return self._each(lambda engine, X: engine.values(theta, X, X, reverse), X)

    def data_hessian(self, theta, X, y, values, V):
        known = iter(values)
        return tf.add_n(
            self._each(lambda engine, X: engine.data_hessian(theta, X, X, next(known), V), X)
        )

    def gauss_newton(self, theta, X, y, values, V, loss):
        known = iter(values)
        return tf.add_n(
            self._each(
                lambda engine, X: engine.gauss_newton(
                    theta, X, X, next(known), V, self._own(loss, engine)
                ),
                X,
            )
        )

    def _own(self, loss: Loss, engine: NetworkEngine) -> Loss:
        """Return an engine's own loss, changed as the one that stands for all of them."""
        return engine.loss if loss is self.loss else replace(cast(Any, loss), loss=engine.loss)

    def row_slopes(self, theta, X, y, V):
        return self._joined(X, self._each(lambda engine, X: engine.row_slopes(theta, X, X, V), X))

    def jacobian(self, theta, X, V):
        tangents = self._each(lambda engine, X: engine.jacobian(theta, X, V), X)
        return self._joined(X, self._filled(tangents, 2))

    def jacobian_transposed(self, theta, X, U):
        widths = iter(self.widths)

        def pulled(engine, X, U):
            return engine.jacobian_transposed(theta, X, U[..., : next(widths)])

        return tf.add_n(self._each(pulled, X, U))

    def row_gradients(self, theta, X, y):
        return self._joined(X, self._each(lambda engine, X: engine.row_gradients(theta, X, X), X))

    def row_squares(self, theta, X, y):
        return self._joined(X, self._each(lambda engine, X: engine.row_squares(theta, X, X), X))

    def squared_gradients(self, theta, X, y):
        return tf.add_n(self._each(lambda engine, X: engine.squared_gradients(theta, X, X), X))

    def output_terms(self, theta, X, y):
        parts = self._each(lambda engine, X: engine.output_terms(theta, X, X), X)
        jacobians, slopes, curvatures = zip(*parts, strict=True)
        return (
            self._joined(X, self._filled(jacobians, 1)),
            self._joined(X, self._filled(slopes, 1)),
            self._joined(X, self._filled(self._filled(curvatures, 1), 2)),
        )

    def residuals(self, theta, X, y):
        return tf.concat(self._each(lambda engine, X: engine.residuals(theta, X, X), X), 0)

    def gauss_newton_rows(self, theta, X, y):
        parts = self._each(lambda engine, X: engine.gauss_newton_rows(theta, X, X), X)
        return tuple(tf.concat(part, 0) for part in zip(*parts, strict=True))

    def _places(self, X) -> list[tf.Tensor]:
        return [tf.where(X[:, -1] == kind)[:, 0] for kind in range(len(self.engines))]

    def _each(self, work: Callable, X, *others) -> list:
        """Return ``work(engine, its rows, their others)`` of each kind."""
        return [
            work(engine, *(tf.gather(part, places) for part in (X, *others)))
            for engine, places in zip(self.engines, self._places(X), strict=True)
        ]

    def _joined(self, X, parts: list[tf.Tensor]) -> tf.Tensor:
        """Return the kinds' results in the order of the rows."""
        order = tf.argsort(tf.concat(self._places(X), 0))
        return tf.gather(tf.concat(parts, 0), order)

    def _filled(self, parts, axis: int) -> list[tf.Tensor]:
        """Return the kinds' outputs, filled up along an axis."""
        filled = []
        for part, width in zip(parts, self.widths, strict=True):
            more = [[0, (max(self.widths) - width) * (i == axis)] for i in range(part.shape.rank)]
            filled.append(tf.pad(part, more))
        return filled
