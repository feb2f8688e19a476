"""The subsampled randomized trigonometric transform, real, as a test matrix."""

import numpy as np

from hesscomp.errors import InputError
from hesscomp.parallel import random
from hesscomp.parallel.layout import Layout


def subsampled_cosine(layout: Layout, first: int, last: int, seed: int) -> np.ndarray:
    """Return this rank's rows of columns ``first:last`` of D F R sqrt(n).

    Random signs, cosine transform, random columns: Halko, Martinsson and Tropp (2011), section 4.6,
    with the orthonormal DCT-II in place of the Fourier transform. Columns are orthogonal; there are
    at most n. As products with H dominate here, the entries are made explicitly: about 15 ns each,
    and O(n) memory besides on every rank.

    Raises
    ------
    InputError
        For columns beyond n.
    """
    n = layout.n
    if last > n:
        raise InputError(f"a trigonometric test matrix of {n} rows has no column {last - 1}")
    rows = layout.start, layout.stop
    signs = np.where(random.uniform(seed, random.SIGNS, rows, (0, 1)) < 0.5, -1.0, 1.0)
    order = random.uniform(seed, random.FREQUENCIES, (0, n), (0, 1))[:, 0]
    chosen = np.argsort(order, kind="stable")[first:last]
    # Half-integer points times frequencies, kept exact: 4 n is the period of (2 i + 1) f.
    phases = (2 * np.arange(*rows)[:, None] + 1) * chosen % (4 * n)
    cosines = np.cos(phases * (np.pi / (2 * n)))
    return signs * cosines * np.where(chosen == 0, 1.0, np.sqrt(2.0))
