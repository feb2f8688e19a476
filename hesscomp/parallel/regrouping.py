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
    n words of memory while it is made, 2 n / P afterwards. An exchange moves each row once.
    """

    def __init__(self, layout: RowLayout, order: np.ndarray, parts: Sequence[tuple[int, int]]):
        self.world = layout.world
        places = np.empty(layout.n, np.int64)
        places[order] = np.arange(layout.n)
        here = layout.local(places)
        by_place = np.argsort(here)
        ends = np.searchsorted(here[by_place], np.asarray(parts))
        self._sent = np.concatenate([by_place[start:stop] for start, stop in ends])
        self._counts = ends[:, 1] - ends[:, 0]
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
