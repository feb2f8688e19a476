"""Regularisers: terms of the objective that depend on the parameters alone.

The objective is a mean over rows, so a term r(theta) is part of each row's loss: r times the rows
is added to a chunk's sum, and its derivatives likewise. What is summed over chunks, ranks, samples
and batches is right without knowing of it.
"""

from collections.abc import Callable

from hesscomp.curvature.networks.engine import NetworkEngine, Piece, cut
from hesscomp.curvature.networks.generic import hessian_columns
from hesscomp.curvature.tensorflow import computing_in, keras, one_precision, tf

CONVEX = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


class Penalty:
    """The sum of regularisers, each of one parameter.

    Parameters
    ----------
    terms : dict of int to callable
        A function of the parameter with that index; Keras' regularisers, or any that TensorFlow
        differentiates.
    pieces : list of Piece
        Where all parameters lie.

    Attributes
    ----------
    convex : bool
        Whether all are known to be convex: Keras' L1 and L2.
    """

    def __init__(self, terms: dict[int, Callable], pieces: list[Piece]):
        self.terms, self.pieces = terms, pieces
        self.convex = all(type(term) in CONVEX for term in terms.values())

    @classmethod
    def of_model(cls, model: keras.Model, pieces: list[Piece]) -> "Penalty | None":
        """Return the penalty of a model's trainable weights; None where they have none."""
        terms = {
            i: variable.regularizer
            for i, variable in enumerate(model.trainable_variables)
            if variable.regularizer is not None
        }
        return cls(terms, pieces) if terms else None

    def value(self, theta: tf.Tensor) -> tf.Tensor:
        """Return r(theta), a scalar."""
        with computing_in(theta.dtype.name, self.terms.values()):
            return tf.add_n([self._term(i, self.pieces[i].of(theta)) for i in self.terms])

    def _term(self, i: int, parameter: tf.Tensor) -> tf.Tensor:
        """Return one regulariser's value; it may be a constant."""
        with one_precision("a regulariser"):
            return tf.cast(self.terms[i](parameter), parameter.dtype)

    def gradient(self, theta: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return r(theta) and its (n,) gradient."""
        with tf.GradientTape() as tape:
            tape.watch(theta)
            value = self.value(theta)
        return value, tape.gradient(
            value, theta, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    def product(self, theta: tf.Tensor, V: tf.Tensor, chosen: tuple[int, ...] | None) -> tf.Tensor:
        """Return its Hessian times V, (n, k), or only the chosen parameters' part of it.

        The Hessian is 2 l2 on the diagonal for Keras' L2 and zero for its L1.
        """
        places = range(len(self.pieces)) if chosen is None else chosen
        parts = [
            self._rows(i, self.pieces[i].of(theta), V[piece.offset : piece.offset + piece.size])
            for i, piece in zip(places, cut(self.pieces[i].shape for i in places), strict=True)
        ]
        return tf.concat(parts, 0)

    def _rows(self, i: int, value: tf.Tensor, V: tf.Tensor) -> tf.Tensor:
        """Return the rows of the product that belong to one parameter."""
        term = self.terms.get(i)
        if term is None:
            return tf.zeros_like(V)
        if type(term) in CONVEX:
            return 2 * tf.cast(getattr(term, "l2", 0.0), V.dtype) * V
        with computing_in(value.dtype.name, [term]):
            flat = tf.reshape(value, [-1])
            return hessian_columns(lambda w: self._term(i, tf.reshape(w, value.shape)), flat, V)


class PenalizedEngine(NetworkEngine):
    """Another engine, with a penalty on the parameters added to each row's loss.

    Squared gradients, Kronecker factors and `gauss_newton` stay those of the data term (`data`).
    """

    def __init__(self, data: NetworkEngine, penalty: Penalty):
        self._data, self.penalty, self.loss = data, penalty, data.loss
        self.name, self.reason, self.copies = data.name, data.reason, data.copies
        self.narrows, self.affine = data.narrows, data.affine

    @property
    def data(self):
        return self._data

    def loss_sum(self, theta, X, y):
        return self._data.loss_sum(theta, X, y) + _rows(X, theta) * self.penalty.value(theta)

    def gradient(self, theta, X, y):
        (loss, gradient), (value, slope) = (
            self._data.gradient(theta, X, y),
            self.penalty.gradient(theta),
        )
        rows = _rows(X, theta)
        return loss + rows * value, gradient + rows * slope

    def hessian(self, theta, X, y, values, V, chosen=None):
        product = self._data.hessian(theta, X, y, values, V, *_given(chosen))
        return product + _rows(X, theta) * self.penalty.product(theta, V, chosen)

    def penalized_gauss_newton(self, theta, X, y, values, V, loss, chosen=None):
        product = self.gauss_newton(theta, X, y, values, V, loss, chosen)
        return product + _rows(X, theta) * self.penalty.product(theta, V, chosen)

    def gauss_newton(self, theta, X, y, values, V, loss, chosen=None):
        return self._data.gauss_newton(theta, X, y, values, V, loss, *_given(chosen))

    def squared_gradients(self, theta, X, y):
        return self._data.squared_gradients(theta, X, y)

    def kronecker(self, theta, X, y):
        return self._data.kronecker(theta, X, y)

    def row_tangents(self, theta, X, row_values):
        return self._data.row_tangents(theta, X, row_values)

    def values(self, theta, X, y, reverse):
        return self._data.values(theta, X, y, reverse)

    def output(self, theta, X):
        return self._data.output(theta, X)

    def jacobian(self, theta, X, V):
        return self._data.jacobian(theta, X, V)

    def jacobian_transposed(self, theta, X, U):
        return self._data.jacobian_transposed(theta, X, U)


def _given(chosen: tuple[int, ...] | None) -> tuple:
    """Return an engine's last argument, where there is one."""
    return () if chosen is None else (chosen,)


def _rows(X: tf.Tensor, theta: tf.Tensor) -> tf.Tensor:
    """Return how many rows a chunk has, as a real number."""
    return tf.cast(tf.shape(X)[0], theta.dtype)
