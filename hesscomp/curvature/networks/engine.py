"""What every engine offers: sums over a chunk of rows, and products with its derivatives.

All methods take and return tensors of one type: theta is (n,), X a chunk of B rows, y its targets,
V (n, k). They may be called inside a `tf.function`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from hesscomp.curvature.losses import Loss
from hesscomp.curvature.networks.operation import Unsupported
from hesscomp.curvature.tensorflow import ZERO, tf, value_and_gradient
from hesscomp.errors import InputError

if TYPE_CHECKING:
    from hesscomp.curvature.networks.penalty import Penalty


class Engine(ABC):
    """Products with the derivatives of the sum of a chunk's losses.

    An engine that `narrows` takes one argument more in `hessian` and `gauss_newton`: the indices
    of the pieces that V and the product have rows for.
    """

    name: str
    reason: str  # why this engine was taken
    copies: int  # about how many arrays of a row's values, for each column, a product holds at once
    block: int | None = None  # rows that a loss or a gradient takes at a time, all if None
    narrows = False
    affine = False  # whether a network's output is known to be affine in the parameters

    @property
    def data(self) -> Self:
        """The engine of the data term alone, without penalties on the parameters."""
        return self

    @abstractmethod
    def loss_sum(self, theta, X, y) -> tf.Tensor:
        """Return the sum of the rows' losses, a scalar."""

    @abstractmethod
    def gradient(self, theta, X, y) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the sum of the rows' losses and its (n,) gradient."""

    def squared_gradients(self, theta, X, y) -> tf.Tensor:
        """The sum of each row's squared gradient, (n,), at about the cost of the gradient.

        Unsupported where only row by row is possible.
        """
        raise Unsupported(f"the {self.name} engine has no squared gradients")

    def row_gradients(self, theta, X, y) -> tf.Tensor:
        """Return each row's gradient, without penalties: (B, n)."""

        def of_row(row):
            return self.data.gradient(theta, row[0][None], row[1][None])[1]

        try:
            return tf.vectorized_map(of_row, (X, y))
        except (ValueError, TypeError, LookupError, NotImplementedError) as error:
            raise InputError(
                "TensorFlow cannot differentiate this network for several rows at once (recurrent "
                "layers of more than 256 steps need unroll=True); change it"
            ) from error

    def row_slopes(self, theta, X, y, V) -> tf.Tensor:
        """Return each row's gradient of the data term times V: (B, k)."""
        return tf.matmul(self.row_gradients(theta, X, y), V)

    def data_slopes(self, theta, X, y, V) -> list[tf.Tensor]:
        """Return the derivatives by X and by y of the data term's gradient times V, an (n, 1).

        Zeros by whole numbers.
        """
        real = [part for part in (X, y) if part.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(real)
            along = tf.reduce_sum(self.data_gradient_by_tape(theta, X, y) * V[:, 0])
        found = iter(tape.gradient(along, real, unconnected_gradients=ZERO))
        none = tf.zeros_like
        return [next(found) if p.dtype.is_floating else none(p, theta.dtype) for p in (X, y)]

    def data_gradient_by_tape(self, theta, X, y) -> tf.Tensor:
        """Return the data term's (n,) gradient as a function that X and y have derivatives of."""
        return value_and_gradient(lambda theta: self.data.loss_sum(theta, X, y), theta)[1]

    def row_squares(self, theta, X, y) -> tf.Tensor:
        """Return the squared norm of each row's gradient, (B,), at about the cost of the gradient.

        Unsupported where only by the gradients themselves is possible.
        """
        raise Unsupported(f"the {self.name} engine has no norms of gradients")

    def row_tangents(self, theta, X, row_values: int) -> int:
        """Return the numbers of one row's tangent in all of the operations.

        `theta` and `X` are specs, X of one row; `row_values` are the numbers that its values take.
        """
        return row_values

    @abstractmethod
    def hessian(self, theta, X, y, values, V) -> tf.Tensor:
        """Return the sum's Hessian times V: (n, k)."""

    def values(self, theta, X, y, reverse: bool):
        """Return what products at theta share, to be passed on to them: tensors, nested.

        With `reverse` for `hessian`, without for `gauss_newton`.
        """
        return ()


class NetworkEngine(Engine):
    """An engine for losses of a network's output f(theta, x), (B, ...) of C features.

    A penalty on the parameters is added to each row's loss, and its derivatives to the loss's. It
    is no part of `gauss_newton`, squared gradients and Kronecker factors.
    """

    loss: Loss
    penalty: Penalty | None = None

    def penalized(self, penalty: Penalty | None) -> Self:
        """Return this engine with a penalty in place of its own."""
        other = copy.copy(self)
        other.penalty = penalty
        return other

    def with_loss(self, loss: Loss) -> Self:
        """Return this engine with another loss of the same output."""
        other = copy.copy(self)
        other.loss = loss
        return other

    @property
    def data(self):
        return self.penalized(None)

    def loss_sum(self, theta, X, y):
        loss = self.data_loss(theta, X, y)
        return loss if self.penalty is None else loss + _rows(X, theta) * self.penalty.value(theta)

    def gradient(self, theta, X, y):
        loss, gradient = self.data_gradient(theta, X, y)
        if self.penalty is None:
            return loss, gradient
        rows, (value, slope) = _rows(X, theta), self.penalty.gradient(theta)
        return loss + rows * value, gradient + rows * slope

    def hessian(self, theta, X, y, values, V, *chosen):
        return self._bent(self.data_hessian(theta, X, y, values, V, *chosen), theta, X, V, *chosen)

    def penalized_gauss_newton(self, theta, X, y, values, V, loss: Loss, *chosen) -> tf.Tensor:
        """Return `gauss_newton` plus the Hessian of the penalty."""
        product = self.gauss_newton(theta, X, y, values, V, loss, *chosen)
        return self._bent(product, theta, X, V, *chosen)

    def _bent(self, product, theta, X, V, chosen=None):
        if self.penalty is None:
            return product
        return product + _rows(X, theta) * self.penalty.product(theta, V, chosen)

    def row_slopes(self, theta, X, y, V):
        T = self.jacobian(theta, X, V)
        slopes = self.loss.gradient(self.output(theta, X), y)[..., None, :]
        axes = [axis for axis in range(1, T.shape.rank) if axis != T.shape.rank - 2]
        return tf.reduce_sum(slopes * T, axes)

    def data_gradient_by_tape(self, theta, X, y):
        # TensorFlow's own gradient of a cross-entropy has no right derivative by the targets.
        slopes = self.loss.gradient(self.output(theta, X), y)
        return self.jacobian_transposed(theta, X, slopes[..., None, :])[:, 0]

    def output_terms(self, theta, X, y) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return Jacobians (B, C, n), slopes (B, C) and curvature (B, C, C) of the losses in them.

        C counts all numbers of a row's output.
        """
        output = self.output(theta, X)
        size = int(output.shape[1:].num_elements())
        units = tf.repeat(_units(output)[None], tf.shape(X)[0], axis=0)
        B = self.loss.curvature(output, y, units)
        rank = B.shape.rank
        B = tf.transpose(B, [0, rank - 2, *range(1, rank - 2), rank - 1])
        slopes = tf.reshape(self.loss.gradient(output, y), [-1, size])
        return self.row_jacobians(theta, X), slopes, tf.reshape(B, [-1, size, size])

    def row_jacobians(self, theta, X) -> tf.Tensor:
        """Return the derivative of each row's C output numbers: (B, C, n)."""
        return self.pull_by_row(
            theta, X, lambda f: tf.repeat(_units(f)[None], tf.shape(f)[0], axis=0)
        )

    def gauss_newton_rows(self, theta, X, y) -> tuple[tf.Tensor, tf.Tensor]:
        """Return R with R^T R = J^T B J, (r, n), and where the loss is of squares the r residuals.

        r = B C, or fewer; J is that of all rows, and B the curvature of a convex loss.
        """
        J, output = self.row_jacobians(theta, X), self.output(theta, X)
        if not self.loss.squares:
            J = tf.matmul(_flat_root(self.loss.root(output, y)), J)
        residuals = tf.reshape(self.loss.gradient(output, y), [-1])
        return tf.reshape(J, [-1, theta.shape[0]]), residuals

    def residuals(self, theta, X, y) -> tf.Tensor:
        """Return those of `gauss_newton_rows` alone, in its order."""
        return tf.reshape(self.loss.gradient(self.output(theta, X), y), [-1])

    def data_loss(self, theta, X, y) -> tf.Tensor:
        return tf.reduce_sum(self.loss.values(self.output(theta, X), y))

    @abstractmethod
    def data_gradient(self, theta, X, y) -> tuple[tf.Tensor, tf.Tensor]:
        """Return `gradient` without the penalty."""

    @abstractmethod
    def data_hessian(self, theta, X, y, values, V) -> tf.Tensor:
        """Return `hessian` without the penalty's."""

    @abstractmethod
    def output(self, theta, X) -> tf.Tensor:
        """Return f(theta, x): (B, ..., C), `opaque`."""

    @abstractmethod
    def jacobian(self, theta, X, V) -> tf.Tensor:
        """Return df/dtheta V: (B, ..., k, C)."""

    @abstractmethod
    def jacobian_transposed(self, theta, X, U) -> tf.Tensor:
        """Return (df/dtheta)^T U: (B, ..., k, C) to (n, k)."""

    def pull_by_row(self, theta, X, U) -> tf.Tensor:
        """Return (df/dtheta)^T U of each row: (B, ..., k, C) to (B, k, n).

        U may be a function, of the output f, that gives it.
        """
        U = U(self.output(theta, X)) if callable(U) else U

        def of_row(row):
            return tf.transpose(self.jacobian_transposed(theta, row[0][None], row[1][None]))

        return tf.vectorized_map(of_row, (X, U))

    @abstractmethod
    def gauss_newton(self, theta, X, y, values, V, loss: Loss) -> tf.Tensor:
        """Return J^T B J V with B the curvature of `loss` with respect to the output: (n, k)."""

    # Of J^T B J = sum of g g^T over the rows and the columns s of the roots of B, with g = J^T s

    @property
    def outer_layers(self) -> list[tuple[int, ...]]:
        """The parameters (their indices) of each layer by which g is a sum of outer products."""
        return []

    def outer_factors(self, theta, X, y, loss: Loss) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Return a (B, T, inputs) and d (B, T, k, outputs) for each of `outer_layers`.

        A row's k vectors g are there sum_t a_t d_t^T.
        """
        raise Unsupported(f"the {self.name} engine has no Kronecker factors")

    def kronecker(self, theta, X, y, loss: Loss) -> list[tf.Tensor]:
        """Return the sums over rows of sum_t a_t a_t^T and of the mean of d_t d_t^T, by layers."""
        sums = []
        for a, d in self.outer_factors(theta, X, y, loss):
            places = tf.cast(tf.shape(a)[1], a.dtype)
            sums += [_gram(a), _gram(d) / places]
        return sums

    def squares_in_bases(self, theta, X, y, bases, loss: Loss) -> list[tf.Tensor]:
        """Return the sums of the squares of Q^T g R, for the Q and R of each layer."""
        sums = []
        for (a, d), (Q, R) in zip(self.outer_factors(theta, X, y, loss), bases, strict=True):
            a, d = tf.tensordot(a, Q, 1), tf.tensordot(d, R, 1)
            if a.shape[1] == 1:  # one outer product, whose squares are that of squares
                d = tf.reduce_sum(tf.square(d[:, 0]), 1)
                total = tf.matmul(tf.square(a[:, 0]), d, transpose_a=True)
            else:
                g = tf.einsum("bti,btkj->bkij", a, d)
                total = tf.reduce_sum(tf.square(g), [0, 1])
            sums.append(total)
        return sums

    def squared_roots(self, theta, X, y, loss: Loss, chosen) -> tf.Tensor:
        """Return the diagonal of J^T B J for some parameters (their indices), row by row."""
        raise Unsupported(f"the {self.name} engine has no diagonal of its own")


def _units(output: tf.Tensor) -> tf.Tensor:
    """Return the unit vectors of a row's output: (..., k, C), a column for each of its numbers."""
    shape, size = output.shape[1:], int(output.shape[1:].num_elements())
    units = tf.reshape(tf.eye(size, dtype=output.dtype), [size, *shape])
    return tf.transpose(units, [*range(1, len(shape)), 0, len(shape)])


def _flat_root(root: tf.Tensor) -> tf.Tensor:
    """Return a loss's roots (B, ..., k, C) as (B, k, all numbers of an output)."""
    rank = root.shape.rank
    columns = tf.transpose(root, [0, rank - 2, *range(1, rank - 2), rank - 1])
    return tf.reshape(columns, [tf.shape(root)[0], root.shape[rank - 2] or -1, _numbers(root)])


def _numbers(root: tf.Tensor) -> int:
    return int((root.shape[1:-2] + root.shape[-1:]).num_elements())


def _rows(X: tf.Tensor, theta: tf.Tensor) -> tf.Tensor:
    """Return how many rows a chunk has, as a real number."""
    return tf.cast(tf.shape(X)[0], theta.dtype)


def _gram(rows: tf.Tensor) -> tf.Tensor:
    """Return the sum of v v^T over the vectors v on the last axis."""
    rows = tf.reshape(rows, [-1, rows.shape[-1]])
    return tf.matmul(rows, rows, transpose_a=True)


def opaque(output: tf.Tensor) -> tf.Tensor:
    """Return an output that does not show what it was made from.

    Keras' losses would look for logits behind it (`Ending`), and the derivative with respect to the
    output would miss what goes through them.
    """
    return tf.identity(output)


@dataclass(frozen=True)
class Piece:
    """One parameter's place in the flat vector."""

    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return int(tf.TensorShape(self.shape).num_elements())

    def of(self, flat: tf.Tensor) -> tf.Tensor:
        """Return the parameter in a flat vector (n,)."""
        return tf.reshape(tf.slice(flat, [self.offset], [self.size]), self.shape)


def split(flat: tf.Tensor, pieces: list[Piece]) -> list[tf.Tensor]:
    """Return all parameters of a flat vector (n,) that the pieces fill.

    At once, since TensorFlow's derivative by a slice of the vector alone is a whole vector.
    """
    parts = tf.split(flat, [piece.size for piece in pieces])
    return [tf.reshape(part, piece.shape) for part, piece in zip(parts, pieces, strict=True)]


def cut(shapes) -> list[Piece]:
    """Return the pieces of a flat vector of parameters of these shapes, one after the other."""
    pieces, offset = [], 0
    for shape in shapes:
        pieces.append(Piece(tuple(shape), offset))
        offset += pieces[-1].size
    return pieces
