"""The Gram matrix of rows on several ranks."""

import numpy as np
import pytest
from mpi4py import MPI

from hesscomp.parallel import gram as module
from hesscomp.parallel.gram import gram_matrix
from hesscomp.parallel.world import World

pytestmark = pytest.mark.ranks
ROWS = np.random.default_rng(4).standard_normal((11, 23))


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("least", [2, 256])  # columns of a piece: slabs have 2 to 23
def test_the_gram_matrix_is_that_of_all_rows(least, reproducible, monkeypatch):
    monkeypatch.setattr(module, "WORDS", 1)
    monkeypatch.setattr(module, "LEAST", least)
    world = World(reproducible=reproducible)
    ends = [len(ROWS) * rank**2 // world.size**2 for rank in range(world.size + 1)]
    found = np.tril(gram_matrix(ROWS[ends[world.rank] : ends[world.rank + 1]], world))
    np.testing.assert_allclose(found, np.tril(ROWS @ ROWS.T), rtol=1e-12, atol=1e-12)
    if reproducible:
        alone = World(MPI.COMM_SELF, reproducible=True)
        assert np.array_equal(found, np.tril(gram_matrix(ROWS, alone)))
