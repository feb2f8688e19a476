"""Rows of blocks that go from the slabs of a row layout to the parts of an ordering, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hesscomp.parallel.layout import RowLayout


class Regrouping:
    """Which rows each rank sends to which: of its slab to the rank whose part they are in.

    Parameters
    ----------
    layout : RowLayout
    order : (n,) array of int
        Position p of the ordering holds row ``order[p]``.
    parts : sequence of (int, int)
        For each rank, the first position of its part and one past the last. Parts may be empty, and
        need not hold all positions; they do not overlap.

    Notes
    -----
    Made in as many operations as the parts have positions, in 2 n / P words of memory at most. An
    exchange moves each row once.
    """

    def __init__(self, layout: RowLayout, order: np.ndarray, parts: Sequence[tuple[int, int]]):
        self.world = layout.world
        held = []
        for start, stop in parts:
            rows = order[start:stop]
            held.append(rows[(rows >= layout.start) & (rows < layout.stop)] - layout.start)
        self._sent = np.concatenate(held)
        self._counts = np.array([len(rows) for rows in held])
        mine = order[slice(*parts[self.world.rank])]
        owners = np.searchsorted([stop for _, stop in layout.ranges], mine, side="right")
        self._came = np.argsort(owners, kind="stable")
        self._coming = np.bincount(owners, minlength=self.world.size)
        self._most = max(*layout.counts, *(stop - start for start, stop in parts))

    def there(self, block: np.ndarray) -> np.ndarray:
        """Return the rows of this rank's part, in order, of a block of which it holds its slab."""
        return self._moved(block, self._sent, self._counts, self._coming, self._came)

    def back(self, block: np.ndarray) -> np.ndarray:
        """Return this rank's slab of a block of which it holds its part."""
        return self._moved(block, self._came, self._coming, self._counts, self._sent)

    def _moved(self, block, sent, counts, coming, came) -> np.ndarray:
        received = self.world.exchange_rows(block[sent], counts, coming, self._most)
        out = np.empty_like(received)
        out[came] = received
        return out
