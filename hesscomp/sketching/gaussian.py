"""Gaussian test matrices and probes, made where they are needed and never stored."""

import numpy as np

from hesscomp.parallel import random
from hesscomp.parallel.layout import Layout


def test_matrix(layout: Layout, first: int, last: int, seed: int) -> np.ndarray:
    """Return this rank's rows of columns ``first:last`` of this seed's Gaussian test matrix.

    Independent of the number of ranks; asking for later columns keeps the earlier ones.
    """
    return _normals(layout, first, last, seed, random.SKETCH)


def probes(layout: Layout, first: int, last: int, seed: int) -> np.ndarray:
    """Return a matrix as `test_matrix` does, from another stream: no sketch has seen it."""
    return _normals(layout, first, last, seed, random.PROBE)


def _normals(layout, first, last, seed, stream) -> np.ndarray:
    rows = layout.start, layout.stop
    return random.standard_normal(seed, stream, rows, (first, last))
