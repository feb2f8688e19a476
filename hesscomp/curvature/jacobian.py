"""The Jacobian of a network's outputs by its parameters, and its transpose."""

from collections.abc import Iterator

import numpy as np

from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError
from hesscomp.parallel.gram import gram_matrix


class Jacobian:
    """J = df/dx for all rows of all ranks: each rank holds the rows of its shard.

    ``J @ V`` takes (n, k) to this rank's (rows, ..., C, k) and reduces nothing; ``J.T @ U`` takes
    this rank's (rows, ..., C, k) to the (n, k) sum over all ranks, by a reduction of n k words.
    Without the axis of columns both take one vector to another. In reproducible mode these
    products, `rows` and `gram` have the same bits on any number of ranks.

    Parameters
    ----------
    problem : KerasProblem
    x : (n,) array

    Attributes
    ----------
    outputs : tuple of int
        The shape of this rank's outputs: (rows, ..., C).

    Raises
    ------
    InputError
        For a block of another shape; of U on all ranks if it is so on one.

    Notes
    -----
    Rows and columns are taken as many at once as the problem's memory holds, a reduction for each
    such panel of columns; the result is held whole.
    """

    def __init__(self, problem, x: np.ndarray):
        self.problem = problem
        self.X, _ = problem.tensors(problem.dtype)
        self.theta = tf.constant(problem.check_point(x), problem.dtype)
        output = problem.compiled("output", problem.dtype, (self.X,)).get_concrete_function()
        self.outputs = (self.X.shape[0], *output.structured_outputs.shape[1:])
        self.T = _Transposed(self)

    def __matmul__(self, V: np.ndarray) -> np.ndarray:
        """Return J V, float64."""
        problem, V = self.problem, np.asarray(V, self.problem.dtype)
        if V.ndim not in (1, 2) or len(V) != problem.n:
            raise InputError(f"J has {problem.n} columns; it cannot multiply {V.shape}")
        if V.ndim == 1:
            return (self @ V[:, None])[..., 0]
        out = np.empty((*self.outputs, V.shape[1]))
        for columns in self._panels(V.shape[1]):
            panel = tf.constant(V[:, columns])
            kernel = problem.compiled("jacobian", problem.dtype, (self.X,), panel)
            for rows in problem.chunks_here(problem.dtype, panel.shape[1]):
                out[rows, ..., columns] = _columns_last(kernel(self.theta, self.X[rows], panel))
        problem.world.ledger.product(V.shape[1])
        return out

    def rows(self) -> np.ndarray:
        """Return J itself for this rank's rows, float64: (rows, C, n), C the numbers of an output.

        Local; about as many gradients of one row, vectorised. The whole array is held.
        """
        problem = self.problem
        x, out = self.theta.numpy(), []
        for rows in problem.chunks_here("float64", problem.outputs):
            out.append(problem.output_terms(x, rows).jacobian)
        return np.concatenate([np.empty((0, problem.outputs, problem.n)), *out])

    def gram(self) -> np.ndarray:
        """Return J J^T of the rows of all ranks, on every rank: (m C, m C). Collective.

        Row shards become column slabs, m C n words that change ranks, and one reduction of (m C)^2
        words (`parallel.gram`).
        """
        with self.problem.world.phase("computing the rows of the Jacobian"):
            rows = self.rows()
        lower = np.tril(gram_matrix(rows.reshape(-1, self.problem.n), self.problem.world))
        return lower + np.tril(lower, -1).T

    def _panels(self, k: int) -> Iterator[slice]:
        """Yield slices of k columns, each as wide as memory allows."""
        problem, size = self.problem, self.theta.dtype.size
        width = problem.budget(problem.dtype).columns(max(k, 1), size)
        if problem.world.reproducible:
            stack = np.dtype(float).itemsize * problem.n * problem.row_blocks
            width = min(width, max(int(problem.memory // stack), 1))
        for first in range(0, k, width):
            yield slice(first, min(first + width, k))

    def _transposed(self, U: np.ndarray) -> np.ndarray:
        problem = self.problem
        with problem.world.phase("checking the block for J.T"):
            U = np.asarray(U, problem.dtype)
            if self.outputs not in (U.shape, U.shape[:-1]):
                raise InputError(
                    f"J.T takes what J gives for this rank's rows, {self.outputs} and an axis of "
                    f"columns; it cannot multiply {U.shape}"
                )
        shapes = {shape[1:] for shape in problem.world.gather(U.shape)}
        if len(shapes) > 1:
            raise InputError(f"J.T: the ranks' blocks differ in more than their rows: {shapes}")
        if U.ndim == len(self.outputs):
            return self._transposed(U[..., None])[:, 0]
        out = np.empty((problem.n, U.shape[-1]))
        for columns in self._panels(U.shape[-1]):
            panel = U[..., columns]
            addends = [self._pulled(panel, part) for part in problem.parts_here]
            out[:, columns] = problem.sum_parts(addends, (problem.n, panel.shape[-1]))
        problem.world.ledger.product(U.shape[-1])
        return out

    def _pulled(self, U: np.ndarray, part: slice) -> np.ndarray:
        """Return J^T U by a part of the rows here: (n, k); local."""
        problem, k = self.problem, U.shape[-1]
        total = np.zeros((problem.n, k))
        for rows in problem.chunks(part, problem.dtype, k):
            block = _columns_last(tf.constant(U[rows]))
            kernel = problem.compiled("jacobian_transposed", problem.dtype, (self.X, block))
            total += kernel(self.theta, self.X[rows], block).numpy()
        return total


class _Transposed:
    def __init__(self, jacobian: Jacobian):
        self.T = jacobian

    def __matmul__(self, U: np.ndarray) -> np.ndarray:
        """Return J^T U, the same on all ranks, float64."""
        return self.T._transposed(U)


def _columns_last(block: tf.Tensor) -> tf.Tensor:
    """Return (..., k, C) as (..., C, k), and the reverse."""
    rank = block.shape.rank
    return tf.transpose(block, [*range(rank - 2), rank - 1, rank - 2])
