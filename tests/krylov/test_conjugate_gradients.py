"""CG against a dense solve, and its leading Ritz value against the largest eigenvalue."""

import numpy as np
import pytest

from hesscomp.compression import compress
from hesscomp.factors import UNKNOWN, Diagonal
from hesscomp.krylov import cg
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
    found = cg.conjugate_gradients(operator, b, tolerance=1e-11, preconditioner=M)
    assert found.converged and not found.negative_curvature
    np.testing.assert_allclose(found.x, np.linalg.solve(A, b), atol=1e-10)
    largest = np.linalg.eigvalsh(A / np.sqrt(np.outer(d, d)))[-1]
    assert found.leading == pytest.approx(largest, rel=1e-6)


@pytest.mark.ranks
@pytest.mark.parametrize("kind", ["none", "diagonal", "low-rank", "hbs", "hodlr"])
def test_ranks_that_share_long_vectors(kind, world, monkeypatch):
    n = 61
    places = np.linspace(0, 1, n)
    A = np.exp(-np.abs(places[:, None] - places) / 0.1)
    operator = MatrixOperator(A, world, psd=True)
    system, b = operator.shifted(0.1), np.random.default_rng(1).standard_normal(n)
    M = None
    if kind == "diagonal":
        M = Diagonal(np.linspace(1, 2, n), certificate=UNKNOWN)
    elif kind != "none":
        M = compress(operator, rank=4, format=kind).preconditioner(0.1)
    monkeypatch.setattr(cg, "SHARED", 1)
    alone, shared = (
        cg.conjugate_gradients(system, b, tolerance=1e-10, preconditioner=M, shared=flag)
        for flag in (False, True)
    )
    assert shared.converged and shared.iterations == alone.iterations
    np.testing.assert_allclose(shared.x, np.linalg.solve(A + 0.1 * np.eye(n), b), atol=1e-9)
    np.testing.assert_allclose(shared.x, alone.x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(shared.residual, b - system @ shared.x, rtol=0, atol=1e-12)
