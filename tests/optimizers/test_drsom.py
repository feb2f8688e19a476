"""DRSOM with an approximation of the Hessian in place of products with it."""

import numpy as np
import pytest
from marks import serial_but
from test_soap import network
from test_training import SHORT, check_kills

from hesscomp.compression import compress
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.optimizers import drsom
from hesscomp.optimizers.batches import Batches, Sampling, Task
from hesscomp.optimizers.drsom import DRSOM
from hesscomp.optimizers.loop import Stopping, train

pytestmark = pytest.mark.ranks(most=3)
BATCHES = Sampling(gradient=0.5, curvature=0.5, acceptance=0.5, seed=7)
MINI = {"control": "radius-free", "same_batch": True, "averaging": 0.5}
KINDS = ("gauss-newton", "adam", "adabelief", "kronecker", "low-rank")


@pytest.fixture(scope="module")
def small(world):
    return network(world)


@pytest.mark.parametrize("kind", serial_but(("kronecker", "adam"), KINDS))
def test_every_approximation_lowers_the_objective(small, kind):
    optimizer = DRSOM(curvature=kind, count=3, **MINI)
    found = train(small, optimizer, sampling=BATCHES, stopping=Stopping(max_steps=25))
    assert found.best_objective < 0.95 * found.history.rows[0]["full_objective"]


@pytest.mark.serial
def test_moves_are_forgotten_where_no_step_is_accepted(small, monkeypatch):
    ratios = iter([1.0])
    monkeypatch.setattr(drsom, "reduction_ratio", lambda *_: next(ratios, -1.0))
    optimizer = DRSOM(same_batch=True)
    task = Task(0, small.initial, Batches(small, BATCHES))
    first = optimizer.step(task, optimizer.start(task.x))
    assert first.state["moves"].any() and not first.stuck
    second = optimizer.step(Task(1, first.x, task.batches), first.state)
    assert second.stuck and not second.state["moves"].any()
    np.testing.assert_array_equal(second.x, first.x)


@pytest.mark.serial
def test_approximations_are_the_matrices_that_they_name(small):
    """Along the directions: against the diagonal, the factors and a given factor themselves."""
    x, D = small.initial, np.linalg.qr(np.random.default_rng(1).standard_normal((small.n, 3)))[0]
    task = Task(0, x, Batches(small, Sampling()))
    dense = HessianOperator(small, x) @ np.eye(small.n)
    g = task.gradient

    def found(curvature, **options):
        optimizer = DRSOM(curvature=curvature, **options)
        state = optimizer.start(x)
        state |= optimizer._approximation.renewed(task, state, optimizer)
        return optimizer._approximation.quadratic(task, D, state, optimizer)

    same = {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(found("adam"), D.T @ ((np.abs(g) + 1e-8)[:, None] * D), **same)
    belief = np.abs(0.9 * g)[:, None]
    np.testing.assert_allclose(found("adabelief"), D.T @ (belief * D), rtol=1e-5, atol=1e-9)
    K = small.kronecker(x, "sampled", seed=0).to_dense()
    np.testing.assert_allclose(found("kronecker"), D.T @ K @ D, **same)
    np.testing.assert_allclose(
        found("low-rank", rank=small.n), D.T @ dense @ D, rtol=1e-6, atol=1e-8
    )
    F = compress(HessianOperator(small, x), 4)
    np.testing.assert_allclose(found(F), D.T @ F.to_dense() @ D, **same)


@pytest.mark.serial
def test_a_run_with_a_kronecker_factor_goes_on(small, shared_tmp):
    optimizer = DRSOM(curvature="kronecker", every=3, **MINI)
    check_kills(small, shared_tmp, optimizer, 5, BATCHES, **SHORT)
