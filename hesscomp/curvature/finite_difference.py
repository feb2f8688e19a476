"""The Hessian by differences of gradients, for losses without second derivatives."""

import numpy as np

from hesscomp.curvature.sharded import ProblemOperator

STEP = float(np.finfo(np.float64).eps ** (1 / 3))  # balances rounding and truncation


class FiniteDifferenceHessian(ProblemOperator):
    """H v as (g(x + h v) - g(x - h v)) / (2 h), with h = eps^(1/3) (1 + ||x||) / ||v||.

    Symmetric up to its error, about 1e-10 of the third derivatives' scale; not positive
    semidefinite whatever the problem.

    Parameters
    ----------
    problem : Problem
        With the capability `SHARD_GRADIENTS`.
    x : (n,) array

    Notes
    -----
    Two gradients in float64 for each column, each a pass over the data.
    """

    def __init__(self, problem, x: np.ndarray):
        super().__init__(problem, problem.check_point(x), psd=False)

    def _pieces(self, columns):
        return 2 * columns

    def _local(self, V):
        return self._differences(V, slice(None))

    def _local_blocks(self, V):
        blocks = [self._differences(V, rows) for rows in self.problem.blocks_here]
        return np.array(blocks).reshape(-1, *V.shape)

    def _differences(self, V, rows):
        return np.stack([self._difference(v, rows) for v in V.T], axis=1)

    def _difference(self, v, rows):
        size = np.linalg.norm(v)
        if size == 0:
            return np.zeros(self.n)
        h = STEP * (1 + np.linalg.norm(self.x)) / size
        ahead, behind = (
            self.problem.loss_and_gradient(self.x + step * v, rows)[:-1] for step in (h, -h)
        )
        return (ahead - behind) / (2 * h)
