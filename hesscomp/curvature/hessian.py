"""The Hessian of a problem's data term at a point, and what all curvature operators share."""

import copy

import numpy as np

from hesscomp.curvature.sharded import ProblemOperator, ShardCurvature
from hesscomp.parallel.exact import sum_blocks
from hesscomp.parallel.layout import Replicated


class CurvatureOperator(ProblemOperator):
    """(1/m) sum over all rows of all ranks of a curvature of the loss, *without* the ridge.

    Each rank multiplies its shard's sum; one reduction of n k words makes a block product.

    Parameters
    ----------
    problem : Problem
    x : (n,) array
        The point, the same on all ranks.
    shard : ShardCurvature
        This shard's curvature at x.
    psd : bool

    Raises
    ------
    InputError
        If the problem lacks the capability for this matrix.

    Notes
    -----
    Products run in the problem's `dtype` and are reduced in it; the sum over ranks is then widened
    to float64. Where the problem's memory does not hold a product with k columns it is done in
    pieces of fewer, a reduction each. In reproducible mode each fixed block of rows is multiplied
    alone, and their products are held at once within that memory (1 GiB where it has none).
    """

    def __init__(self, problem, x: np.ndarray, shard: ShardCurvature, *, psd: bool):
        super().__init__(problem, x, psd=psd, dtype=problem.dtype)
        self._shard, self.lone_cost = shard, shard.lone_cost
        self.column_work = shard.column_work

    def narrowed(self, chosen):
        shard = self._shard.narrowed(chosen)
        if shard is None:
            return None
        other = copy.copy(self)
        other._shard = shard
        other.n = sum(self.problem.parameter_blocks[i].size for i in chosen)
        other.layout = Replicated(other.n, self.world)
        return other

    def _columns(self, columns):
        return self._shard.columns_at_once(super()._columns(columns), self.dtype.itemsize)

    def _local(self, V):
        return self._shard.product_of_array(V)

    def _local_blocks(self, V):
        from hesscomp.curvature.tensorflow import tf, view  # options of optimizers need none

        return view(self._shard.product_by_row_block(tf.convert_to_tensor(V)))

    @property
    def _assembles(self) -> bool:
        """Not in reproducible mode where the blocks' matrices would take more than the memory."""
        stack = self.blocks * self.n**2 * self.dtype.itemsize
        fits = not self.world.reproducible or stack <= self.memory
        return self._shard.assembles and fits

    def _assembled(self) -> np.ndarray:
        """Return the matrix, assembled on each shard; takes one reduction of n^2 words."""
        from hesscomp.curvature.tensorflow import view

        if self.world.reproducible:
            dense = sum_blocks(view(self._shard.dense_by_row_block()), self.blocks, self.world)
        else:
            dense = self.world.sum(self._shard.dense().numpy()).astype(np.float64)
        return dense * self.scale


class HessianOperator(CurvatureOperator):
    """The Hessian of the data term, as `CurvatureOperator` describes.

    `shard` is ``problem.linearize(x)``, where the caller has it already.
    """

    def __init__(self, problem, x: np.ndarray, shard=None):
        shard = problem.linearize(np.array(x, np.float64)) if shard is None else shard
        super().__init__(problem, x, shard, psd=problem.psd)
