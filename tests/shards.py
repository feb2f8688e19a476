"""Which rows of a test's arrays each rank holds."""

import numpy as np

from hesscomp.parallel.rows import row_range


def own_rows(world, total: int, kind: str = "even") -> slice:
    """This rank's rows: evenly, half of them on rank 0, none on it, or all on the last rank."""
    if world.size == 1:
        return slice(0, total)
    edges = {
        "even": np.linspace(0, total, world.size + 1),
        "uneven": [0, *np.linspace(total // 2, total, world.size)],
        "first empty": [0, *np.linspace(0, total, world.size)],
        "on one": [*[0] * world.size, total],
    }[kind]
    first, stop = (int(edge) for edge in edges[world.rank : world.rank + 2])
    return slice(first, stop)


def mine(world, *arrays):
    """This rank's rows: unequal shards, none on rank 0 where there are several ranks."""
    rows = own_rows(world, len(arrays[0]), "first empty")
    return tuple(array[rows] for array in arrays)


def block_rows(world, total: int) -> slice:
    """This rank's rows, cut into whole blocks as files and reproducible sums are."""
    return slice(*row_range(total, world.rank, world.size))
