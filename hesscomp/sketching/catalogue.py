"""Test matrices by name, each made where it is needed, any columns, on any number of ranks."""

import numpy as np

from hesscomp.errors import InputError
from hesscomp.parallel.layout import Layout
from hesscomp.sketching.gaussian import test_matrix
from hesscomp.sketching.sparse_sign import sparse_sign
from hesscomp.sketching.trigonometric import subsampled_cosine

TEST_MATRICES = {"gaussian": test_matrix, "srtt": subsampled_cosine, "sparse-sign": sparse_sign}


def draw(name: str, layout: Layout, first: int, last: int, seed: int) -> np.ndarray:
    """Return this rank's rows of columns ``first:last`` of the test matrix of this name and seed.

    It has ``layout.n`` rows, and E omega omega^T = I. Only "gaussian" columns are independent with
    rotationally invariant law, which leave-one-out estimates need. Raises InputError for an unknown
    name.
    """
    if name not in TEST_MATRICES:
        raise InputError(f"test matrix must be one of {', '.join(TEST_MATRICES)}, not {name}")
    return TEST_MATRICES[name](layout, first, last, seed)
