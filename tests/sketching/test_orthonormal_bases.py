"""Orthonormal bases of blocks of every condition, and of dependent columns."""

import numpy as np
import pytest

from hesscomp.parallel.layout import Replicated
from hesscomp.parallel.world import World
from hesscomp.sketching.orthonormalize import orthonormalize


@pytest.mark.parametrize("condition", [1e0, 1e6, 1e10, 1e15, np.inf])
def test_a_basis_is_orthonormal_and_spans_the_block(condition):
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((n, 6)))[0] for n in (40, 6))
    Y = U @ np.diag(np.geomspace(1, 1 / condition if condition < np.inf else 1e-300, 6)) @ V.T
    Q = orthonormalize(Y, Replicated(40, World.serial()))
    assert Q.shape == Y.shape
    np.testing.assert_allclose(Q.T @ Q, np.eye(6), atol=1e-14)
    np.testing.assert_allclose(Q @ (Q.T @ Y), Y, atol=1e-14)
