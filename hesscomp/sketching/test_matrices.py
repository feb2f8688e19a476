"""Test matrices: any columns of them, made where they are needed, on any number of ranks."""

import numpy as np

from hesscomp.errors import InputError
from hesscomp.parallel import random
from hesscomp.parallel.layout import Layout

GROUP = 32  # columns within which the nonzero entries of a sparse row are placed
NONZERO = 8  # in each row of a group


def draw(name: str, layout: Layout, first: int, last: int, seed: int) -> np.ndarray:
    """Return this rank's rows of columns ``first:last`` of the test matrix of this name and seed.

    It has ``layout.n`` rows, and E omega omega^T = I. It does not depend on the number of ranks,
    and asking for later columns keeps the earlier ones. Only "gaussian" columns are independent
    with rotationally invariant law, which leave-one-out estimates need. Raises InputError for an
    unknown name.
    """
    if name not in TEST_MATRICES:
        raise InputError(f"test matrix must be one of {', '.join(TEST_MATRICES)}, not {name}")
    return TEST_MATRICES[name](layout, first, last, seed)


def gaussian(layout: Layout, first: int, last: int, seed: int) -> np.ndarray:
    """Return this rank's rows of columns ``first:last`` of a standard normal matrix."""
    return random.standard_normal(seed, random.SKETCH, layout.held, (first, last))


def probes(layout: Layout, first: int, last: int, seed: int) -> np.ndarray:
    """Return a matrix as `gaussian` does, from another stream: no sketch has seen it."""
    return random.standard_normal(seed, random.PROBE, layout.held, (first, last))


def subsampled_cosine(layout: Layout, first: int, last: int, seed: int) -> np.ndarray:
    """Return this rank's rows of columns ``first:last`` of D F R sqrt(n).

    Random signs, cosine transform, random columns: Halko, Martinsson and Tropp (2011), section 4.6,
    with the orthonormal DCT-II in place of the Fourier transform. Columns are orthogonal; there are
    at most n, and InputError is raised for any beyond. As products with H dominate here, the
    entries are made explicitly: about 15 ns each, and O(n) memory besides on every rank.
    """
    n = layout.n
    if last > n:
        raise InputError(f"a trigonometric test matrix of {n} rows has no column {last - 1}")
    signs = np.where(random.uniform(seed, random.SIGNS, layout.held, (0, 1)) < 0.5, -1.0, 1.0)
    order = random.uniform(seed, random.FREQUENCIES, (0, n), (0, 1))[:, 0]
    chosen = np.argsort(order, kind="stable")[first:last]
    # Half-integer points times frequencies, kept exact: 4 n is the period of (2 i + 1) f.
    phases = (2 * np.arange(*layout.held)[:, None] + 1) * chosen % (4 * n)
    cosines = np.cos(phases * (np.pi / (2 * n)))
    return signs * cosines * np.where(chosen == 0, 1.0, np.sqrt(2.0))


def sparse_sign(layout: Layout, first: int, last: int, seed: int) -> np.ndarray:
    """Return this rank's rows of columns ``first:last``: +2 or -2 in 8 of every 32 columns, else 0.

    Tropp, Yurtsever, Udell and Cevher (2019), section 3.9, recommend 8 nonzeros in a row whatever
    the number of columns; groups of columns keep that to every sketch size, so that earlier
    columns stay when a sketch grows. The result is a dense array: products with H dominate.
    """
    groups = range(first // GROUP, -(-last // GROUP))
    whole = np.concatenate([_group(layout.held, group, seed) for group in groups], axis=1)
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


TEST_MATRICES = {"gaussian": gaussian, "srtt": subsampled_cosine, "sparse-sign": sparse_sign}
