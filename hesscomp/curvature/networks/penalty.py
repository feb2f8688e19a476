"""Regularisers: terms r(theta) of the objective that depend on the parameters alone.

The objective is a mean over rows, so r is part of each row's loss (`NetworkEngine`): sums over
chunks, ranks, samples and batches need not know of it.
"""

from collections.abc import Callable

from hesscomp.curvature.networks.engine import Piece, cut
from hesscomp.curvature.networks.generic import hessian_columns
from hesscomp.curvature.tensorflow import (
    computing_in,
    keras,
    one_precision,
    tf,
    value_and_gradient,
)

CONVEX = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


class Penalty:
    """The sum of regularisers, each of one parameter.

    `terms` are functions of the parameters with these indices, Keras' or any that TensorFlow
    differentiates; `pieces` say where all parameters lie.
    """

    def __init__(self, terms: dict[int, Callable], pieces: list[Piece]):
        self.terms, self.pieces = terms, pieces
        self.convex = all(type(term) in CONVEX for term in terms.values())  # as far as is known

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
        return value_and_gradient(self.value, theta)

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
