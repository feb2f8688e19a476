"""An operator whose addends lie on the ranks, and what a problem gives of it on each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from hesscomp.errors import InputError
from hesscomp.operators.operator import Operator

if TYPE_CHECKING:
    from hesscomp.curvature.tensorflow import tf

STACK_BYTES = 2.0**30  # of one product's separate addends in reproducible mode


class ShardedOperator(Operator):
    """A sum of what each rank has of it, times a number: a matrix that belongs to sharded data.

    Parameters
    ----------
    n, world, psd, dtype
        As `Operator`; `dtype` is also what is sent between ranks.
    scale : float
        Multiplies the sum.
    blocks : int
        Fixed blocks of data on all ranks together: what reproducible sums are made of.
    memory : float
        Bytes that the separate addends of one product may take in reproducible mode.
    """

    def __init__(
        self,
        n,
        world,
        *,
        psd,
        dtype="float64",
        scale: float = 1.0,
        blocks: int = 0,
        memory: float = STACK_BYTES,
    ):
        super().__init__(n, world, psd=psd, dtype=dtype)
        self.scale, self.blocks, self.memory = scale, blocks, memory

    @abstractmethod
    def _local(self, V: np.ndarray) -> np.ndarray:
        """Return this rank's addend of H V for a whole (n, k) array, both in `dtype`."""

    def _local_blocks(self, V: np.ndarray) -> np.ndarray:
        """Return `_local` separately for each of this rank's blocks of data: (b, n, k)."""
        raise InputError(f"{type(self).__name__} has no reproducible mode")

    def _columns(self, columns: int) -> int:
        """Return how many of a block's columns are multiplied, and reduced, at once."""
        if not self.world.reproducible:
            return columns
        stack = self.dtype.itemsize * self.n * self.blocks
        return min(columns, max(int(self.memory // max(stack, 1)), 1))

    def block_product(self, V):
        local = self._local_blocks if self.world.reproducible else self._local
        out = self.layout.total(V, local, self.dtype, self._columns(V.shape[1]), self.blocks)
        return np.multiply(out, self.scale, out=out)

    def _project(self, Q, V):
        if not self._projects_alone:
            return super()._project(Q, V)
        return self.scale * self.world.sum(self._local_projection(Q, V))

    def _quadratic(self, V):
        if not self._projects_alone:
            return super()._quadratic(V)
        upper = np.triu_indices(V.shape[1])
        Q = np.zeros((V.shape[1], V.shape[1]))
        Q[upper] = self.scale * self.world.sum(self._local_projection(V, V)[upper])
        return Q + np.triu(Q, 1).T

    @property
    def _projects_alone(self) -> bool:
        """Whether each rank can project its addend before the sum."""
        return self.layout.name == "replicated" and not self.world.reproducible

    def _local_projection(self, Q, V):
        return Q.T @ self._local(V.astype(self.dtype)).astype(np.float64)

    def _pieces(self, columns):
        return self.layout.pieces(columns, self._columns(columns))


class ProblemOperator(ShardedOperator):
    """A curvature matrix of a problem at a point x, as a mean over the rows of all ranks.

    *Without* the ridge; add it with ``H.shifted(problem.ridge)``.
    """

    def __init__(self, problem, x: np.ndarray, *, psd: bool, dtype="float64"):
        super().__init__(
            problem.n,
            problem.world,
            psd=psd,
            dtype=dtype,
            scale=1 / problem.total,
            blocks=problem.row_blocks,
            memory=problem.memory,
        )
        self.problem, self.x = problem, np.array(x, dtype=np.float64)

    def describe(self, factor):
        return self.problem.describe(factor, self.x)

    def narrowed(self, chosen: tuple[int, ...]) -> ProblemOperator | None:
        """Return this operator on the parameter blocks of these indices alone.

        None where its products would cost as much as whole ones.
        """
        return None


class ShardCurvature(ABC):
    """A shard's curvature at a point: sums over its rows, not divided by m, without the ridge.

    A subclass has to write `product`. The other methods serve the reproducible mode (those by row
    block) and save work.
    """

    lone_cost: float = Operator.lone_cost
    column_work: float = Operator.column_work
    assembles = False  # whether `dense` and `dense_by_row_block` are there; else products serve

    @abstractmethod
    def product(self, V: tf.Tensor) -> tf.Tensor:
        """Return the matrix times an (n, k) block, in the block's type; local."""

    def product_of_array(self, V: np.ndarray) -> np.ndarray:
        """Return `product` for an array, as a new array; local."""
        from hesscomp.curvature.tensorflow import tf  # not loaded where all products are SciPy's

        return self.product(tf.convert_to_tensor(V)).numpy()

    def product_by_row_block(self, V: tf.Tensor) -> tf.Tensor:
        """Return `product` for each of the shard's fixed row blocks alone, (blocks, n, k)."""
        raise InputError(
            f"{type(self).__name__} has no reproducible mode; run without it, or write the method "
            "product_by_row_block"
        )

    def dense(self) -> tf.Tensor:
        """Return the (n, n) matrix; where `assembles`."""
        raise NotImplementedError

    def dense_by_row_block(self) -> tf.Tensor:
        """Return `dense` for each of the shard's fixed row blocks alone, (blocks, n, n)."""
        raise NotImplementedError

    def columns_at_once(self, columns: int, itemsize: int) -> int:
        """Return how many of a block's columns a product should take at once."""
        return columns

    def narrowed(self, chosen: tuple[int, ...]) -> ShardCurvature | None:
        """As `ProblemOperator.narrowed`."""
        return None
