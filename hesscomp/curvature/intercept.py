"""An intercept beside a shard's data matrix: a last column of ones that is never stored.

With A the matrix and 1 the ones, [A 1]^T D [A 1] has the border A^T d and the corner sum(d), so
every product of `design` gives that with an intercept, for dense and sparse shards alike.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hesscomp.curvature.design import DenseDesign, SparseDesign
from hesscomp.curvature.sharded import ShardCurvature
from hesscomp.curvature.tensorflow import tf
from hesscomp.parallel.rows import RowBlocks


class WithIntercept:
    """The design [A 1] of n + 1 columns; methods as of `DenseDesign`, at the cost of A's."""

    def __init__(self, design: DenseDesign | SparseDesign, blocks: RowBlocks | None = None):
        self.design, self.rows, self.n = design, design.rows, design.n + 1
        self._local = () if blocks is None else blocks.local

    def exact(self) -> "WithIntercept":
        other = WithIntercept(self.design.exact())
        other._local = self._local
        return other

    def forward(self, v: np.ndarray) -> tf.Tensor:
        return self.design.forward(v[:-1]) + v[-1]

    def adjoint(self, r: tf.Tensor) -> np.ndarray:
        return np.append(self.design.adjoint(r), tf.reduce_sum(r))

    def adjoint_by_row_block(self, r: tf.Tensor) -> np.ndarray:
        sums = np.array([r.numpy()[rows].sum() for rows in self._local]).reshape(-1, 1)
        return np.hstack([self.design.adjoint_by_row_block(r), sums])

    def curvature(self, weights: tf.Tensor) -> "Bordered":
        return Bordered(self.design.curvature(weights), self, weights)

    def compile(self) -> None:
        self.design.compile()


@dataclass(frozen=True)
class Bordered(ShardCurvature):
    """[A 1]^T D [A 1], from A^T D A and its border; one pass more than that at each point."""

    inner: ShardCurvature
    design: WithIntercept
    weights: tf.Tensor
    assembles = True

    @property
    def lone_cost(self) -> float:  # type: ignore[override]
        return self.inner.lone_cost

    @property
    def column_work(self) -> float:  # type: ignore[override]
        return self.inner.column_work

    @cached_property
    def _border(self) -> tf.Tensor:
        return tf.constant(self.design.adjoint(self.weights))

    @cached_property
    def _borders(self) -> np.ndarray:
        return self.design.adjoint_by_row_block(self.weights)

    def product(self, V: tf.Tensor) -> tf.Tensor:
        border = tf.cast(self._border, V.dtype)
        inner = self.inner.product(V[:-1]) + border[:-1, None] * V[-1:]
        return tf.concat([inner, border[None] @ V], axis=0)

    def product_by_row_block(self, V: tf.Tensor) -> tf.Tensor:
        borders, V_ = self._borders.astype(V.dtype.as_numpy_dtype), V.numpy()
        inner = self.inner.product_by_row_block(V[:-1]) + borders[:, :-1, None] * V_[-1:]
        last = [border @ V_ for border in borders]  # each alone: its bits know of no other block
        return tf.concat([inner, np.reshape(last, (-1, 1, V_.shape[1])).astype(V_.dtype)], axis=1)

    def dense(self) -> tf.Tensor:
        return _framed(self.inner.dense()[None], self._border[None])[0]

    def dense_by_row_block(self) -> tf.Tensor:
        return _framed(self.inner.dense_by_row_block(), tf.constant(self._borders))


def _framed(inner: tf.Tensor, borders: tf.Tensor) -> tf.Tensor:
    """Return (blocks, n, n) matrices with (blocks, n + 1) borders: the last row and column."""
    borders = tf.cast(borders, inner.dtype)
    wide = tf.concat([inner, borders[:, :-1, None]], axis=2)
    return tf.concat([wide, borders[:, None, :]], axis=1)
