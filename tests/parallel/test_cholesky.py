"""Cholesky's factorization by several ranks, against SciPy's."""

import numpy as np
import pytest
import scipy.linalg
from mpi4py import MPI

from hesscomp.parallel import cholesky as module
from hesscomp.parallel.cholesky import cholesky
from hesscomp.parallel.world import World

pytestmark = pytest.mark.ranks


@pytest.mark.parametrize(("m", "width"), [(1, 4), (12, 4), (23, 4), (200, module.WIDTH)])
def test_the_factor_is_that_of_one_rank_and_of_scipy(m, width, monkeypatch):
    monkeypatch.setattr(module, "WIDTH", width)
    A = np.random.default_rng(m).standard_normal((m, m))
    K = A @ A.T + np.eye(m)
    L = cholesky(K, World())
    np.testing.assert_allclose(L, scipy.linalg.cholesky(K, lower=True), rtol=1e-10, atol=1e-12)
    assert np.array_equal(L, cholesky(K, World(MPI.COMM_SELF)))


@pytest.mark.parametrize("where", [0, 9])
def test_a_matrix_that_is_not_positive_definite_is_told_on_all_ranks(where, monkeypatch):
    monkeypatch.setattr(module, "WIDTH", 4)
    K = np.eye(11)
    K[where, where] = -1
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        cholesky(K, World())
