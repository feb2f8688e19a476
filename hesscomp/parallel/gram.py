"""The Gram matrix of rows that lie on the ranks."""

import numpy as np
from scipy.linalg.blas import dsyrk

from hesscomp.parallel.exact import sum_blocks
from hesscomp.parallel.rows import row_ranges
from hesscomp.parallel.world import World

SLABS = 8  # of columns, in reproducible mode, whatever the number of ranks
WORDS = 2**19  # of a slab that a rank has at once: memory that is used again, and fits in a cache
LEAST = 256  # columns of such a piece, for which the product costs more than its memory


def gram_matrix(rows: np.ndarray, world: World) -> np.ndarray:
    """Return R R^T of all ranks' rows R, one rank's below the other's, on every rank. Collective.

    Only its lower triangle: what the array holds above the diagonal is no result.

    The row shards become column slabs, piece by piece: a rank gets all m rows of its n / P columns,
    and its slab's product is summed over the ranks: m n words change ranks, and one reduction of
    m^2 words. In reproducible mode the slabs are fixed, so that the bits do not depend on the
    number of ranks.

    Parameters
    ----------
    rows : (r, n) float64 array
        This rank's; r may differ from rank to rank, and be zero.
    """
    n = rows.shape[1]
    if world.size == 1 and not world.reproducible:
        return rows @ rows.T
    counts = world.gather(len(rows))
    m, count = sum(counts), SLABS if world.reproducible else world.size
    edges = [n * slab // count for slab in range(count + 1)]
    owned = [range(*ends) for ends in row_ranges(count, world.size)]  # slabs that ranks multiply
    addends = []
    for turn in range(max(len(own) for own in owned)):
        ends = [edges[own[turn] : own[turn] + 2] if turn < len(own) else (n, n) for own in owned]
        product = _product(rows, ends, counts, world)
        if turn < len(owned[world.rank]):
            addends.append(product)
    if world.reproducible:
        return sum_blocks(np.reshape(addends, (-1, m, m)), count, world)
    return world.sum_in_place(addends[0])


def _product(rows: np.ndarray, ends: list, counts: list[int], world: World) -> np.ndarray:
    """Return the lower triangle of S S^T, S all ranks' rows of the columns from ends[rank]."""
    m = sum(counts)
    product, width = np.zeros((m, m)), max(WORDS // max(m, 1), LEAST)
    for first in range(0, max(stop - start for start, stop in ends), width):
        cut = [(min(start + first, stop), min(start + first + width, stop)) for start, stop in ends]
        piece = world.exchange_columns([rows[:, slice(*columns)] for columns in cut], counts)
        if piece.size:  # BLAS sees the transposed arrays, whose upper triangle is our lower one
            dsyrk(1.0, piece.T, beta=1.0, c=product.T, trans=1, overwrite_c=1)
    return product
