"""The Gram matrix of rows on several ranks."""

import numpy as np
import pytest
from mpi4py import MPI

from hesscomp.parallel.gram import gram_matrix
from hesscomp.parallel.world import World

pytestmark = pytest.mark.ranks
ROWS = np.random.default_rng(4).standard_normal((11, 23))


@pytest.mark.parametrize("reproducible", [False, True])
def test_the_gram_matrix_is_that_of_all_rows(reproducible):
    world = World(reproducible=reproducible)
    ends = [len(ROWS) * rank**2 // world.size**2 for rank in range(world.size + 1)]
    found = gram_matrix(ROWS[ends[world.rank] : ends[world.rank + 1]], world)
    np.testing.assert_allclose(found, ROWS @ ROWS.T, rtol=1e-12, atol=1e-12)
    if reproducible:
        alone = World(MPI.COMM_SELF, reproducible=True)
        assert np.array_equal(found, gram_matrix(ROWS, alone))
