"""How the n rows of every block of columns lie over the ranks.

`Replicated`: every rank holds all of them. `RowLayout`: each rank holds a slab. Algorithms work on
blocks in either layout and leave to this module what depends on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hesscomp.dense import LM, sorted_eigh
from hesscomp.parallel.exact import sum_blocks
from hesscomp.parallel.rows import RowBlocks, row_ranges

if TYPE_CHECKING:
    from hesscomp.parallel.world import World

PANEL = 16  # columns that are gathered at once in the row layout


class Layout(ABC):
    """The rows ``start:stop`` of (n, k) blocks, which this rank holds, and what needs all of them.

    `world` is None for a factor that was read by one process without MPI.
    """

    name: str  # "replicated" or "rows"

    def __init__(self, n: int, world: World | None, start: int, stop: int):
        self.n, self.world, self.start, self.stop = n, world, start, stop

    @property
    def rows(self) -> int:
        """Rows that this rank holds."""
        return self.stop - self.start

    @property
    def held(self) -> tuple[int, int]:
        """The first row here and one past the last."""
        return self.start, self.stop

    @property
    def reproducible(self) -> bool:
        """Whether sums must not depend on the number of ranks, to the bit."""
        return self.world is not None and self.world.reproducible

    def local(self, array: np.ndarray) -> np.ndarray:
        """Return this rank's rows of an array that is whole on all ranks; a view."""
        return array[self.start : self.stop]

    def decide(self, flag: bool | np.bool_) -> bool:
        """Return rank 0's answer, on every rank (see `World.decide`).

        In a plan, which has no numbers, the answer is yes: the compression methods ask for what is
        usual (see `compression.counting`).
        """
        return bool(flag) if self.world is None else self.world.decide(flag)

    def on_root(self, work: Callable[..., np.ndarray], *arguments) -> np.ndarray:
        """Return rank 0's ``work(*arguments)`` on every rank (see `World.on_root`)."""
        return work(*arguments) if self.world is None else self.world.on_root(work, *arguments)

    def eigenpairs(
        self, T: np.ndarray, which: str = LM, rank: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rank 0's `dense.sorted_eigh` of a small matrix: eigenvalues and eigenvectors."""
        pairs = self.on_root(sorted_eigh, T, which, rank)
        return pairs[0], pairs[1:]

    @abstractmethod
    def whole(self, block: np.ndarray) -> np.ndarray:
        """Return all n rows of a block, on every rank."""

    def inner(self, A: np.ndarray, B: np.ndarray) -> np.ndarray:
        """Return A^T B, on every rank, for blocks of any number of columns."""
        return self._summed_rows(lambda rows: A[rows].T @ B[rows])

    def dots(self, *pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return u^T v of each pair of vectors, on every rank; one reduction in the row layout."""
        return self._summed_rows(lambda rows: np.array([u[rows] @ v[rows] for u, v in pairs]))

    def squares(self, A: np.ndarray) -> np.ndarray:
        """Return the columns' sums of squares, on every rank."""
        return self._summed_rows(lambda rows: np.einsum("ij,ij->j", A[rows], A[rows]))

    def norm(self, A: np.ndarray) -> float:
        """Return the Frobenius norm of a block."""
        return float(np.sqrt(self.squares(A).sum()))

    @abstractmethod
    def combine(self, Q: np.ndarray, S: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return Q S for a small S that all ranks hold; `out` may be Q itself where S is square."""

    @abstractmethod
    def take(self, block: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return the rows of these (global) indices, on every rank."""

    def units(self, indices: np.ndarray) -> np.ndarray:
        """Return this rank's rows of the unit vectors e_i, a column for each index."""
        return (np.arange(self.start, self.stop)[:, None] == indices).astype(np.float64)

    @abstractmethod
    def argmax(self, values: np.ndarray) -> int:
        """Return, on every rank, the row of the largest of n values; the first of equals."""

    @abstractmethod
    def any(self, flag: bool | np.bool_) -> bool:
        """Return whether the flag is true on any rank that holds other rows."""

    def total(
        self,
        V: np.ndarray,
        local: Callable[[np.ndarray], np.ndarray],
        dtype,
        most: int,
        blocks: int = 0,
    ) -> np.ndarray:
        """Return the sum over ranks of ``local(V)``, for a block V in this layout, as float64.

        Parameters
        ----------
        V : (rows, k) array
        local : callable
            From all n rows of some columns of V, in `dtype`, to this rank's addend, of the same
            shape; in reproducible mode to a stack of addends, one for each of its blocks of data.
        dtype : NumPy dtype
        most : int
            Columns that are multiplied at once; never a function of the number of ranks.
        blocks : int
            In reproducible mode, blocks of data on all ranks together.
        """

        def summed(piece):
            return self._sum(local(self.whole(np.ascontiguousarray(piece, dtype=dtype))), blocks)

        if self.pieces(V.shape[1], most) == 1:
            return summed(V).astype(np.float64, copy=False)
        out, first = np.empty(V.shape), 0
        for piece in self._pieces(V, most):
            if first and self.world is not None:
                self.world.pause()
            out[:, first : first + piece.shape[1]] = summed(piece)
            first += piece.shape[1]
        return out

    def product(self, V: np.ndarray, whole: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return ``whole(V)``, a product that every rank can do for all n rows, in this layout."""
        return self.by_pieces(V, lambda piece: self.local(whole(self.whole(piece))))

    def by_pieces(self, V: np.ndarray, work: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return ``work(V)`` for a block in this layout, done for so many columns as it gathers."""
        found = [work(piece) for piece in self._pieces(V)]
        return found[0] if len(found) == 1 else np.hstack(found)

    def pieces(self, columns: int, most: int | None = None) -> int:
        """Return in how many pieces, of at most `most` columns, a product is done."""
        return max(-(-columns // self._width(columns, most)), 1)

    def _pieces(self, V: np.ndarray, most: int | None = None) -> list[np.ndarray]:
        width = self._width(V.shape[1], most)
        return [V[:, first : first + width] for first in range(0, max(V.shape[1], 1), width)]

    def _width(self, columns: int, most: int | None) -> int:
        """Return the columns of one piece, which depend on the problem but not on the ranks."""
        return max(columns if most is None else min(columns, most), 1)

    def _sum(self, addend: np.ndarray, blocks: int) -> np.ndarray:
        if self.world is None or not self.world.reproducible:
            return self._reduce(addend)
        return sum_blocks(addend, blocks, self.world, self._reduce)

    @abstractmethod
    def _reduce(self, array: np.ndarray) -> np.ndarray:
        """Sum an (n, k) array over the ranks; this rank's rows of it."""

    @abstractmethod
    def _summed_rows(self, part: Callable[[slice], np.ndarray]) -> np.ndarray:
        """Return the sum of part(rows) over all rows of all ranks."""


class Replicated(Layout):
    """Every rank holds all n rows, and computes what is computed from them alike."""

    name = "replicated"

    def __init__(self, n: int, world: World | None = None):
        super().__init__(n, world, 0, n)

    def whole(self, block):
        return block

    def combine(self, Q, S, out=None):
        if out is None:
            return Q @ S
        out[...] = Q @ S
        return out

    def take(self, block, indices):
        return block[indices]

    def argmax(self, values):
        first = int(np.argmax(values))
        return first if self.world is None else self.world.broadcast(first)

    def any(self, flag):
        return flag

    def _reduce(self, array):
        return self.world.sum(array)

    def _summed_rows(self, part):
        return part(slice(None))


class RowLayout(Layout):
    """Each rank holds one slab of contiguous rows: memory O(n k / P + n panel).

    For a product `panel` columns are gathered at once, in two (n, panel) arrays: one gather and one
    reduce-scatter of n words a column. A Gram matrix is one reduction of its size.
    """

    name = "rows"
    world: World

    def __init__(self, n: int, world: World, panel: int = PANEL):
        self.ranges = row_ranges(n, world.size)
        super().__init__(n, world, *self.ranges[world.rank])
        self.panel = panel
        self.counts = [stop - start for start, stop in self.ranges]

    @cached_property
    def _blocks(self) -> RowBlocks:
        """This rank's fixed blocks of rows: the same blocks on any number of ranks."""
        return RowBlocks.of_shard(self.start, self.rows, self.n)

    def whole(self, block):
        return self.world.gather_rows(block, self.counts)

    def combine(self, Q, S, out=None):
        if out is None:
            out = np.empty((Q.shape[0], *S.shape[1:]), order="F")
        for rows in self._blocks.local:
            out[rows] = Q[rows] @ S
        return out

    def take(self, block, indices):
        found = np.zeros((len(indices), block.shape[1]))
        here = (indices >= self.start) & (indices < self.stop)
        found[here] = block[indices[here] - self.start]
        return self.world.sum(found)

    def argmax(self, values):
        best = (-np.inf, 0)
        if self.rows:
            first = int(np.argmax(values))
            best = (float(values[first]), -(self.start + first))
        return -max(self.world.gather(best))[1]

    def any(self, flag):
        return bool(self.world.max(np.array([flag], dtype=np.int64))[0])

    def _width(self, columns, most):
        return super()._width(min(columns, self.panel), most)

    def _reduce(self, array):
        return self.world.sum_rows(array, self.counts)

    def qr_blocks(self) -> tuple[slice, ...]:
        """Return rows that one Householder factorisation takes: all here, or one fixed block."""
        if self.reproducible:
            return self._blocks.local
        return (slice(None),) if self.rows else ()

    def _summed_rows(self, part):
        if not self.reproducible:
            return self.world.sum(part(slice(None)))
        parts = [part(rows) for rows in self._blocks.local]
        stack = np.array(parts) if parts else np.empty((0, *part(slice(0, 0)).shape))
        return sum_blocks(stack, self._blocks.count, self.world)
