"""The Gram matrix of rows that lie on the ranks."""

import numpy as np

from hesscomp.parallel.exact import sum_blocks
from hesscomp.parallel.rows import row_range
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
    owned = [_share(count, rank, world_size) for rank in range(world_size)]
    m = int(world.sum(np.array([len(rows)]))[0])
    addends = []
    for turn in range(max(len(own) for own in owned)):
        parts = [
            rows[:, edges[own[turn]] : edges[own[turn] + 1]] if turn < len(own) else rows[:, :0]
            for own in owned
        ]
        slab = _exchanged(parts, world)
        if turn < len(owned[world.rank]):
            addends.append(slab @ slab.T)
    if world.reproducible:
        return sum_blocks(np.reshape(addends, (-1, m, m)), count, world)
    return world.sum(addends[0])


def _share(count: int, rank: int, size: int) -> range:
    """Return the slabs that a rank multiplies."""
    return range(*row_range(count, rank, size))


def _exchanged(parts: list[np.ndarray], world: World) -> np.ndarray:
    """Send parts[r] to rank r; return what came, one rank's rows below the other's."""
    widest = max(part.shape[1] for part in parts)
    most = int(world.max(np.array([max(len(parts[0]), 1) * max(widest, 1)]))[0])
    turns = -(-most * world.size // WORDS)
    found = []
    for turn in range(turns):
        cut = [
            np.ascontiguousarray(
                part[:, part.shape[1] * turn // turns : part.shape[1] * (turn + 1) // turns]
            )
            for part in parts
        ]
        found.append(np.concatenate(world.exchange(cut)))
    return found[0] if turns == 1 else np.hstack(found)
