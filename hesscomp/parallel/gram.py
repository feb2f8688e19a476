"""The Gram matrix of rows that lie on the ranks."""

import numpy as np

from hesscomp.parallel.exact import sum_blocks
from hesscomp.parallel.rows import row_ranges
from hesscomp.parallel.world import World

SLABS = 8  # of columns, in reproducible mode, whatever the number of ranks
WORDS = 2**26  # that a rank sends at once


def gram_matrix(rows: np.ndarray, world: World) -> np.ndarray:
    """Return R R^T of all ranks' rows R, one rank's below the other's, on every rank. Collective.

    The row shards become column slabs, a rank then has all m rows of n / P columns, and the slabs'
    products are summed: m n words change ranks, and one reduction of m^2 words. In reproducible
    mode the slabs are fixed, so that the bits do not depend on the number of ranks.

    Parameters
    ----------
    rows : (r, n) array
        This rank's; r may differ from rank to rank, and be zero.
    """
    n, world_size = rows.shape[1], world.size
    if world_size == 1 and not world.reproducible:
        return rows @ rows.T
    count = SLABS if world.reproducible else world_size
    edges = [n * slab // count for slab in range(count + 1)]
    owned = [range(*ends) for ends in row_ranges(count, world_size)]  # slabs that ranks multiply
    counts = world.gather(len(rows))
    m, addends = sum(counts), []
    for turn in range(max(len(own) for own in owned)):
        parts = [
            rows[:, edges[own[turn]] : edges[own[turn] + 1]] if turn < len(own) else rows[:, :0]
            for own in owned
        ]
        slab = _exchanged(parts, counts, world)
        if turn < len(owned[world.rank]):
            addends.append(slab @ slab.T)
    if world.reproducible:
        return sum_blocks(np.reshape(addends, (-1, m, m)), count, world)
    return world.sum_in_place(addends[0])


def _exchanged(parts: list[np.ndarray], counts: list[int], world: World) -> np.ndarray:
    """Send parts[r] to rank r; return what came, one rank's rows below the other's."""
    widths = [part.shape[1] for part in parts]
    turns = max(-(-max(counts) * sum(widths) // WORDS), -(-sum(counts) * max(widths) // WORDS), 1)
    found = []
    for turn in range(turns):
        ends = [(w * turn // turns, w * (turn + 1) // turns) for w in widths]
        cut = [part[:, start:stop] for part, (start, stop) in zip(parts, ends, strict=True)]
        found.append(world.exchange_columns(cut, counts))
    return found[0] if turns == 1 else np.hstack(found)
