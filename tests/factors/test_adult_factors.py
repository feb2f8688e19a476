"""Factors of Adult's Hessian over twenty seeds, against the dense eigendecomposition."""

import functools

import numpy as np
import pytest

from hesscomp.compression import compress
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.datasets import load_dataset
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.optimizers.newton import NewtonOptions, newton
from hesscomp.problems.logistic import LogisticRegression


@pytest.fixture(scope="module")
def adult(world):
    return load_dataset("adult", world)


def relative_errors(factor, w, leading):
    return np.max(np.abs(factor.eigenvalues[:leading] - w[:leading]) / w[:leading])


@pytest.mark.parametrize("method", ["eigh", "nystrom"])
def test_adult_factors_over_twenty_seeds(world, adult, method):
    problem = LogisticRegression(adult, world, ridge=1e-3, dtype="float64")
    optimum = newton(problem, options=NewtonOptions(solver="direct")).x
    for x in (np.zeros(problem.n), optimum):
        dense = HessianOperator(problem, x).to_dense()
        w = np.linalg.eigvalsh(dense)[::-1]
        hessian = MatrixOperator(dense, psd=True)  # the same products, twenty times cheaper
        for seed in range(20):
            factor = functools.partial(compress, hessian, method=method, power=2, seed=seed)
            large, small = factor(60), factor(20)
            assert relative_errors(large, w, 10) <= 1e-10
            assert relative_errors(small, w, 5) <= 1e-6
            assert relative_errors(small, w, 10) <= 1e-3
            for power in (0, 2):
                for rank in (20, 60):
                    one = compress(hessian, rank, method=method, power=power, seed=seed)
                    approximation = (one.eigenvectors * one.eigenvalues) @ one.eigenvectors.T
                    true = np.linalg.norm(dense - approximation)
                    assert 0.5 <= one.certificate.frobenius_error_estimate / true <= 3
