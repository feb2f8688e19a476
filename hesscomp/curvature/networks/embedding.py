"""Embeddings: rows of a table, picked by whole numbers."""

from hesscomp.curvature.networks.operation import Operation
from hesscomp.curvature.tensorflow import tf


class Embedding(Operation):
    """y = table[x]; linear in the table, and x has no tangent."""

    linear = whole = True

    def __init__(self, table):
        self.variables = (table,)

    def _places(self, at):
        return tf.cast(at.inputs[0], tf.int32)

    def forward(self, at):
        return tf.gather(at.parameters[0], self._places(at))

    def tangent(self, at):
        (table,) = at.t_parameters
        return None if table is None else tf.gather(table, self._places(at))

    def pull(self, at, delta):
        return [None]

    def pull_tangent(self, at, delta, t_delta):
        return [None]

    def gradient(self, at, delta):
        return [self._gathered(at, delta, 1)]

    def gradient_tangent(self, at, delta, t_delta):
        return [self._gathered(at, t_delta, 2)]

    def _gathered(self, at, delta, kept):
        places = self._places(at)
        flat = tf.reshape(delta, tf.concat([[-1], tf.shape(delta)[-kept:]], 0))
        return tf.math.unsorted_segment_sum(
            flat, tf.reshape(places, [-1]), at.parameters[0].shape[0]
        )
