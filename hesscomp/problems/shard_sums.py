"""Sums over the rows of all ranks: at once, or by fixed blocks of rows in reproducible mode."""

from collections.abc import Sequence

import numpy as np

from hesscomp.datasets import Shard
from hesscomp.parallel.exact import sum_blocks
from hesscomp.parallel.rows import RowBlocks
from hesscomp.parallel.world import World
from hesscomp.problems.rows import RowSet


class ShardSums:
    """Something whose rows lie on the ranks of a world, and which sums over them.

    Attributes
    ----------
    world : World
    row_blocks : int
        In reproducible mode, fixed blocks of rows on all ranks; else 0.
    blocks_here : tuple of slice
        In reproducible mode, the rows of each block that this rank holds.
    """

    world: World
    row_blocks: int = 0
    blocks_here: tuple[slice, ...]

    def cut(self, shard: Shard | RowSet) -> RowBlocks | None:
        """Return the fixed blocks of a shard's rows, noted here; None unless sums are reproducible.

        Collective. Raises InputError if a rank's rows are not whole blocks.
        """
        if not self.world.reproducible:
            return None
        with self.world.phase("cutting the data"):
            blocks = RowBlocks.of_shard(shard.start, len(shard.y), shard.total)
        self.row_blocks, self.blocks_here = blocks.count, blocks.local
        return blocks

    def keep_blocks(self, kept: np.ndarray) -> None:
        """In a sample, keep the fixed blocks of the rows here, of which some are `kept`; local."""
        if self.world.reproducible:
            ends = [int(np.count_nonzero(kept[: rows.stop])) for rows in self.blocks_here]
            self.blocks_here = tuple(map(slice, [0, *ends[:-1]], ends))

    @property
    def parts_here(self) -> tuple[slice, ...]:
        """The parts of this shard's rows that have an addend each in `sum_parts`.

        The fixed blocks in reproducible mode, else all rows at once.
        """
        return self.blocks_here if self.world.reproducible else (slice(None),)

    def sum_parts(self, addends: Sequence | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return the sum over `parts_here` and over the ranks; collective.

        Of arrays of a shape, one for each part, which may be none in reproducible mode; there the
        bits do not depend on the number of ranks (`sum_blocks`).
        """
        if self.world.reproducible:
            return sum_blocks(np.reshape(addends, (-1, *shape)), self.row_blocks, self.world)
        return self.world.sum(addends[0])
