"""Sparse sign test matrices."""

import numpy as np

from hesscomp.parallel import random
from hesscomp.parallel.layout import Layout

GROUP = 32  # columns within which a row's nonzero entries are placed
NONZERO = 8  # in each row of a group


def sparse_sign(layout: Layout, first: int, last: int, seed: int) -> np.ndarray:
    """Return this rank's rows of columns ``first:last``: +2 or -2 in 8 of every 32 columns, else 0.

    Tropp, Yurtsever, Udell and Cevher (2019), section 3.9, recommend 8 nonzeros in a row whatever
    the number of columns; groups of columns keep that to every sketch size, so that earlier
    columns stay when a sketch grows. The result is a dense array: products with H dominate.
    """
    groups = range(first // GROUP, -(-last // GROUP))
    whole = np.concatenate(
        [_group((layout.start, layout.stop), group, seed) for group in groups], axis=1
    )
    start = first - groups[0] * GROUP
    return whole[:, start : start + last - first]


def _group(held: tuple[int, int], group: int, seed: int) -> np.ndarray:
    columns = (group * GROUP, (group + 1) * GROUP)
    places = random.uniform(seed, random.PLACES, held, columns)
    chosen = np.argpartition(places, NONZERO, axis=1)[:, :NONZERO]
    signs = random.uniform(seed, random.SIGNS, held, (columns[0] + 1, columns[1] + 1))
    out = np.zeros((len(places), GROUP))
    rows = np.arange(len(places))[:, None]
    out[rows, chosen] = np.where(signs[rows, chosen] < 0.5, -1.0, 1.0) * np.sqrt(GROUP / NONZERO)
    return out
