"""CG against a dense solve, and its leading Ritz value against the largest eigenvalue."""

import numpy as np
import pytest

from hesscomp.krylov.cg import conjugate_gradients
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.parallel.world import World


@pytest.mark.parametrize("preconditioned", [False, True])
def test_a_solution_and_the_leading_ritz_value(preconditioned):
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    A = Q @ np.diag(np.geomspace(1, 100, 30)) @ Q.T
    d, b = (A.diagonal() if preconditioned else np.ones(30)), rng.standard_normal(30)
    M = MatrixOperator(np.diag(1 / d), World.serial()) if preconditioned else None
    operator = MatrixOperator((A + A.T) / 2, World.serial())
    found = conjugate_gradients(operator, b, tolerance=1e-11, preconditioner=M)
    assert found.converged and not found.negative_curvature
    np.testing.assert_allclose(found.x, np.linalg.solve(A, b), atol=1e-10)
    largest = np.linalg.eigvalsh(A / np.sqrt(np.outer(d, d)))[-1]
    assert found.leading == pytest.approx(largest, rel=1e-6)
