"""Gaussian test matrices and probes, made where they are needed and never stored."""

import numpy as np

from hesscomp.parallel import random


def test_matrix(n: int, first: int, last: int, seed: int) -> np.ndarray:
    """Columns ``first:last`` of the (n, infinity) standard normal test matrix of this seed.

    Independent of the number of ranks; asking for later columns keeps the earlier ones.
    """
    return random.standard_normal(seed, random.SKETCH, (0, n), (first, last))


def probes(n: int, first: int, last: int, seed: int) -> np.ndarray:
    """As `test_matrix`, from a stream of its own: vectors that no sketch has seen."""
    return random.standard_normal(seed, random.PROBE, (0, n), (first, last))
