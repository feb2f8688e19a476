"""The Hessian of a problem's data term at a point."""

import numpy as np

from hesscomp.curvature.operator import Operator
from hesscomp.curvature.tensorflow import tf


class HessianOperator(Operator):
    """H = (1/m) sum over all rows of all ranks of the Hessian of the loss, *without* the ridge.

    Each rank multiplies its shard's sum; one reduction of n k words makes a block product. Add
    the ridge with ``H.shifted(problem.ridge)``.

    Parameters
    ----------
    problem : Problem
        Supplies ``linearize(x)``, this shard's curvature at x.
    x : (n,) array
        The point, the same on all ranks.
    shard : ShardCurvature, optional
        ``problem.linearize(x)``, where the caller has it already.

    Notes
    -----
    Products run in the problem's `dtype` and are reduced in it; the sum over ranks is then widened
    to float64.
    """

    def __init__(self, problem, x: np.ndarray, shard=None):
        super().__init__(problem.n, problem.world, psd=problem.psd, dtype=problem.dtype)
        self.problem = problem
        self.x = np.array(x, dtype=np.float64)
        self._shard = problem.linearize(self.x) if shard is None else shard

    def _local(self, V: np.ndarray) -> tf.Tensor:
        return self._shard.product(tf.convert_to_tensor(V.astype(self.dtype)))

    def _mean(self, shard_sum: tf.Tensor) -> np.ndarray:
        return self.world.sum(shard_sum.numpy()).astype(np.float64) / self.problem.rows

    def _block(self, V):
        return self._mean(self._local(V))

    def _project(self, Q, V):
        small = tf.matmul(
            tf.convert_to_tensor(Q), tf.cast(self._local(V), tf.float64), transpose_a=True
        )
        return self._mean(small)

    def to_dense(self, panel: int = 512) -> np.ndarray:
        """The (n, n) matrix: assembled on each shard, then one reduction of n^2 words."""
        dense = self._counted(self._mean(self._shard.dense()), self.n)
        return (dense + dense.T) / 2
