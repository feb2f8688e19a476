"""Sums of curvatures of one shard, each times a number, with a term of rank two."""

from collections.abc import Sequence

import numpy as np

from hesscomp.curvature.sharded import ShardCurvature
from hesscomp.curvature.tensorflow import tf


class Combined(ShardCurvature):
    """This shard's addend of sum_i c_i H_i + factor (a b^T + b a^T).

    Parameters
    ----------
    parts : sequence of (c_i, ShardCurvature)
    sides : (n, 2) array, optional
        a and b, the same on all ranks; their term is shared out evenly.
    factor : float
    ranks, row_blocks : int
        How many addends the whole sum has: one of each rank, or of each row block.
    """

    def __init__(
        self, parts: Sequence[tuple[float, ShardCurvature]], sides: np.ndarray | None = None,
        factor: float = 1.0, ranks: int = 1, row_blocks: int = 0,
    ):  # fmt: skip
        self.parts, self.sides, self.factor = parts, sides, factor
        self.ranks, self.row_blocks = ranks, row_blocks

    def product(self, V):
        total = tf.add_n([c * part.product(V) for c, part in self.parts])
        return total + self._sides(V, self.ranks)

    def product_by_row_block(self, V):
        total = tf.add_n([c * part.product_by_row_block(V) for c, part in self.parts])
        return total + self._sides(V, self.row_blocks)

    def _sides(self, V, addends: int):
        if self.sides is None:
            return tf.zeros([], V.dtype)
        sides = tf.constant(self.sides, V.dtype)
        turned = tf.matmul(tf.reverse(sides, [1]), V, transpose_a=True)
        return self.factor / addends * tf.matmul(sides, turned)

    def columns_at_once(self, columns, itemsize):
        return min(part.columns_at_once(columns, itemsize) for _, part in self.parts)
