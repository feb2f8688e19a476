"""A base plus low rank where the base alone is singular, or the sum is; bad input."""

import numpy as np
import pytest

from hesscomp.errors import InputError, NumericalError
from hesscomp.factors import UNKNOWN, Diagonal, LowRank, structured


def test_a_singular_base_in_a_regular_sum():
    """It is refused where it is singular, and counted right beside it."""
    d, U = np.array([0.0, 2.0, -3.0, 0.0]), np.random.default_rng(0).standard_normal((4, 3))
    w = np.array([1.0, -2.0, 0.5])
    factor = structured(Diagonal(d, certificate=UNKNOWN), U, w)
    A = np.diag(d) + (U * w) @ U.T
    with pytest.raises(InputError, match=r"the base of the diagonal.low-rank factor with shift 0"):
        factor.solve(np.ones(4), 0.0)
    eigenvalues = np.linalg.eigvalsh(A)
    assert factor.inertia().negative == np.sum(eigenvalues < 0)
    for shift in (1e-3, 1e-6):
        x = np.linalg.solve(A + shift * np.eye(4), np.ones(4))
        np.testing.assert_allclose(factor.solve(np.ones(4), shift), x, rtol=1e-8)
    with pytest.raises(NumericalError, match="leaves a residual"):
        factor.solve(np.ones(4), 1e-9)


def test_a_singular_sum():
    factor = structured(
        Diagonal(np.ones(4), certificate=UNKNOWN), np.full((4, 1), 0.5), np.array([-1.0])
    )
    with pytest.raises(InputError, match=r"shift 0 is singular: 1 of its pivots are 0"):
        factor.solve(np.ones(4), 0.0)
    assert factor.logdet(0.0) == (0.0, -np.inf)
    counts = factor.inertia()
    assert (counts.negative, counts.zero, counts.positive) == (0, 1, 3)


def test_bad_input():
    base = Diagonal(np.ones(4), certificate=UNKNOWN)
    for vectors, weights, message in (
        (np.ones((4, 2)), np.ones(1), r"vectors of shape \(4, 2\) and weights of shape \(1,\)"),
        (np.ones((3, 1)), np.ones(1), "do not fit a base of n = 4"),
        (np.full((4, 1), np.nan), np.ones(1), "must be finite"),
    ):
        with pytest.raises(InputError, match=message):
            structured(base, vectors, weights)
    low = LowRank(np.ones(1), np.eye(4)[:, :1], certificate=UNKNOWN)
    with pytest.raises(InputError, match="not low-rank"):
        structured(low, np.ones((4, 1)), np.ones(1))
