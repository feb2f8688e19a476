"""The Jacobian of a network's outputs by its parameters, and its transpose."""

import numpy as np

from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError


class Jacobian:
    """J = df/dx for all rows of all ranks: each rank holds the rows of its shard.

    ``J @ V`` takes (n, k) to this rank's (rows, ..., C, k) and reduces nothing; ``J.T @ U`` takes
    this rank's (rows, ..., C, k) to the (n, k) sum over all ranks, in one reduction of n k words.

    Parameters
    ----------
    problem : KerasProblem
    x : (n,) array
    """

    def __init__(self, problem, x: np.ndarray):
        self.problem = problem
        self.X, _ = problem.tensors(problem.dtype)
        self.theta = tf.constant(problem.check_point(x), problem.dtype)
        self.T = _Transposed(self)

    def __matmul__(self, V: np.ndarray) -> np.ndarray:
        """J V, float64."""
        problem, k = self.problem, np.shape(V)[1]
        if np.shape(V)[0] != problem.n:
            raise InputError(f"J has {problem.n} columns; it cannot multiply {np.shape(V)}")
        V = tf.constant(V, problem.dtype)
        kernel = problem.compiled("jacobian", problem.dtype, (self.X,), V)
        parts = [kernel(self.theta, self.X[rows], V) for rows in self._chunks(k)]
        self.problem.world.ledger.product(k)
        return _columns_last(tf.concat(parts, 0)).numpy().astype(np.float64)

    def _chunks(self, k: int):
        """This shard's rows, as many at once as memory allows; one chunk if none."""
        held, size = self.X.shape[0], self.theta.dtype.size
        step = self.problem.budget(self.problem.dtype).rows(max(held, 1), k, size)
        for first in range(0, max(held, 1), step):
            yield slice(first, min(first + step, held))

    def _transposed(self, U: np.ndarray) -> np.ndarray:
        problem, k = self.problem, np.shape(U)[-1]
        U = _columns_last(tf.constant(U, problem.dtype))
        kernel = problem.compiled("jacobian_transposed", problem.dtype, (self.X, U))
        total = np.zeros((problem.n, k))
        for rows in self._chunks(k):
            total += kernel(self.theta, self.X[rows], U[rows]).numpy()
        problem.world.ledger.product(k)
        return problem.world.sum(total)


class _Transposed:
    def __init__(self, jacobian: Jacobian):
        self.T = jacobian

    def __matmul__(self, U: np.ndarray) -> np.ndarray:
        """J^T U, the same on all ranks, float64."""
        return self.T._transposed(U)


def _columns_last(block: tf.Tensor) -> tf.Tensor:
    """(..., k, C) as (..., C, k), and the reverse."""
    rank = block.shape.rank
    return tf.transpose(block, [*range(rank - 2), rank - 1, rank - 2])
