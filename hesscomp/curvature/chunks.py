"""Sums over a shard's rows, a chunk at a time, so that memory stays within a budget."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hesscomp.curvature.sharded import ShardCurvature
from hesscomp.curvature.tensorflow import tf
from hesscomp.parallel.resources import COLUMN_COPIES

PAUSES = 3  # within a product: on all ranks as many, however many rows each has
PAYS = 8  # times n: a chunk's tangents beside which what is done once a chunk is a few percent


@dataclass(frozen=True)
class Budget:
    """How many rows and columns go together."""

    memory: float  # bytes that a product may take, besides the data and its result
    n: int  # parameters
    row_values: int  # numbers that one row makes on its way through the network
    copies: int  # of these numbers, for each column, that suffice for all that lives at once
    row_tangents: int  # a closer count of the numbers of one row, for each column, at once

    def columns(self, k: int, itemsize: int) -> int:
        """Return the columns in one panel: as even as they come, and at most half of the memory."""
        most = int(self.memory / 2 / (COLUMN_COPIES * self.n * itemsize))
        panels = -(-k // min(max(most, 1), k))
        return -(-k // panels)

    def rows(self, rows: int, k: int, itemsize: int) -> int:
        """Return rows in one chunk: as even as they come, and at most 3/8 of the memory.

        By the cautious count, since smaller chunks pass through the caches; by the closer one
        where there are so many parameters that a chunk's tangents, rearranged and added up, would
        cost more than that (a quarter of an autoencoder's product).
        """
        room, k = self.memory * 3 / 8 / itemsize, max(k, 1)
        cautious = room / (self.copies * self.row_values * k)
        close = room / (self.row_values + self.row_tangents * k)
        most = int(max(cautious, min(close, PAYS * self.n / self.row_tangents)))
        chunks = -(-rows // min(max(most, 1), rows))
        return -(-rows // chunks)

    @property
    def kept(self) -> float:
        """Bytes of what products at one point share: an eighth of the memory."""
        return self.memory / 8


class Kept:
    """What products at one point share of each chunk of rows, made once as far as memory goes.

    ``make(X, y)`` is a chunk's: tensors, nested as you like. What goes beyond `most` bytes is made
    again for each product.
    """

    def __init__(self, make: Callable, most: float):
        self.make, self.most = make, most
        self.forget()

    def forget(self) -> None:
        """Make everything again: something else than the point has changed."""
        self.left = self.most
        self.made: dict[tuple[int, int], Any] = {}

    def of(self, chunk: slice, X: tf.Tensor, y: tf.Tensor):
        key = chunk.start, chunk.stop
        if key in self.made:
            return self.made[key]
        values = self.make(X, y)
        size = sum(t.shape.num_elements() * t.dtype.size for t in tf.nest.flatten(values))
        if size <= self.left:
            self.left -= size
            self.made[key] = values
        return values


@dataclass(frozen=True)
class RowSum(ShardCurvature):
    """A shard's curvature as sums over chunks of its rows X, y."""

    kernel: Callable  # kernel(V)(X, y, kept.of(...)) is a chunk's product with V
    X: tf.Tensor
    y: tf.Tensor
    n: int
    dtype: tf.DType
    budget: Budget
    kept: Kept
    blocks: tuple[slice, ...] = ()  # the fixed blocks of rows of the reproducible mode
    narrow: Callable | None = None  # makes `narrowed`, where that costs less than the whole
    pause: Callable[[], None] = lambda: None  # called between chunks, by all ranks together
    assembles = True

    def product(self, V: tf.Tensor) -> tf.Tensor:
        whole = slice(0, self.X.shape[0])

        def summed(kernel, V):
            return self._sum(kernel, V, self._with_pauses(self._chunks(whole, V)))

        return self._panels(V, summed)

    def product_by_row_block(self, V: tf.Tensor) -> tf.Tensor:
        def stacked(kernel, V):
            blocks = self._with_pauses(self.blocks)
            parts = [self._sum(kernel, V, self._chunks(rows, V)) for rows in blocks]
            return tf.stack(parts) if parts else tf.zeros([0, *V.shape], V.dtype)

        return self._panels(V, stacked)

    def dense(self) -> tf.Tensor:
        return self.product(tf.eye(self.n, dtype=self.dtype))

    def dense_by_row_block(self) -> tf.Tensor:
        return self.product_by_row_block(tf.eye(self.n, dtype=self.dtype))

    def columns_at_once(self, columns, itemsize):
        return self.budget.columns(columns, itemsize)

    def narrowed(self, chosen):
        return None if self.narrow is None else self.narrow(chosen)

    def _panels(self, V, product):
        k = V.shape[1]
        width = self.budget.columns(k, V.dtype.size)
        panels = (V[:, first : first + width] for first in range(0, k, width))
        parts = [product(self.kernel(panel), panel) for panel in panels]
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)

    def _chunks(self, rows: slice, V) -> list[slice]:
        """Return the chunks of some rows that go together in a product with V."""
        held = rows.stop - rows.start
        step = self.budget.rows(held, V.shape[1], V.dtype.size) if held else 1
        starts = range(rows.start, rows.stop, step)
        return [slice(first, min(first + step, rows.stop)) for first in starts]

    def _with_pauses(self, parts: Sequence[slice]) -> Iterator[slice]:
        """Yield the parts, with `PAUSES` pauses as evenly between them as they come."""
        paused = 0
        for done, part in enumerate(parts, 1):
            yield part
            for _ in range(paused, min(done * (PAUSES + 1) // len(parts), PAUSES)):
                self.pause()
                paused += 1
        for _ in range(paused, PAUSES):
            self.pause()

    def _sum(self, kernel, V, chunks: Iterable[slice]):
        total = None
        for chunk in chunks:
            X, y = self.X[chunk], self.y[chunk]
            part = kernel(X, y, self.kept.of(chunk, X, y))
            total = part if total is None else total + part
        return tf.zeros_like(V) if total is None else total


def row_values(function: Callable, *specs) -> int:
    """Return how many numbers a function makes of one row: those of its graph's tensors."""
    graph = tf.function(function, autograph=False).get_concrete_function(*specs).graph
    made = (op for op in graph.get_operations() if op.type not in ("Placeholder", "Identity"))
    shapes = (out.shape for operation in made for out in operation.outputs)
    held = [s.num_elements() for s in shapes if s.rank and s[0] == 1 and s.is_fully_defined()]
    return max(int(np.sum(held)), 1)
