"""The Hessian of a problem's data term at a point, and what all curvature operators share."""

import numpy as np

from hesscomp.curvature.operator import ShardedOperator
from hesscomp.curvature.tensorflow import tf, view
from hesscomp.parallel.exact import sum_blocks
from hesscomp.parallel.layout import STACK_BYTES


class CurvatureOperator(ShardedOperator):
    """(1/m) sum over all rows of all ranks of a curvature of the loss, *without* the ridge.

    Each rank multiplies its shard's sum; one reduction of n k words makes a block product. Add
    the ridge with ``H.shifted(problem.ridge)``.

    Parameters
    ----------
    problem : Problem
    x : (n,) array
        The point, the same on all ranks.
    shard : ShardCurvature
        This shard's curvature at x.
    psd : bool

    Notes
    -----
    Products run in the problem's `dtype` and are reduced in it; the sum over ranks is then widened
    to float64. In reproducible mode each fixed block of rows is multiplied alone; their products
    are held at once, up to 1 GiB of them, then fewer columns at a time.
    """

    def __init__(self, problem, x: np.ndarray, shard, *, psd: bool):
        super().__init__(
            problem.n,
            problem.world,
            psd=psd,
            dtype=problem.dtype,
            scale=1 / problem.rows,
            blocks=problem.row_blocks,
        )
        self.problem = problem
        self.x = np.array(x, dtype=np.float64)
        self._shard = shard

    def _local(self, V):
        return self._shard.product(tf.convert_to_tensor(V)).numpy()

    def _local_blocks(self, V):
        return view(self._shard.products(tf.convert_to_tensor(V)))

    def to_dense(self, panel: int = 512) -> np.ndarray:
        """The (n, n) matrix: assembled on each shard, then one reduction of n^2 words.

        In reproducible mode by products with panels of unit vectors, where the matrices of all
        blocks of data would take more than 1 GiB.
        """
        if not self.world.reproducible:
            dense = self.world.sum(self._shard.dense().numpy()).astype(np.float64)
        elif self.blocks * self.n**2 * self.dtype.itemsize <= STACK_BYTES:
            dense = sum_blocks(view(self._shard.dense_blocks()), self.blocks, self.world)
        else:
            return super().to_dense(panel)
        dense = self._counted(dense * self.scale, self.n)
        return (dense + dense.T) / 2


class HessianOperator(CurvatureOperator):
    """The Hessian of the data term, as `CurvatureOperator` describes.

    Parameters
    ----------
    problem : Problem
        Supplies ``linearize(x)``, this shard's curvature at x.
    x : (n,) array
        The point, the same on all ranks.
    shard : ShardCurvature, optional
        ``problem.linearize(x)``, where the caller has it already.
    """

    def __init__(self, problem, x: np.ndarray, shard=None):
        x = np.array(x, dtype=np.float64)
        shard = problem.linearize(x) if shard is None else shard
        super().__init__(problem, x, shard, psd=problem.psd)
