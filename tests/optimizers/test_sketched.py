"""Stochastic Newton by sketches: steps against NumPy's, and the same run on any number of ranks."""

import numpy as np
import pytest
from oracles import by_rank_0
from test_optimizers import synthetic
from test_soap import network
from test_training import check_kills, equal

from hesscomp.curvature.hessian import HessianOperator
from hesscomp.errors import InputError
from hesscomp.optimizers.batches import Batches, Sampling, Task
from hesscomp.optimizers.loop import Saving, Stopping, train
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.optimizers.sketched import POWERS, SaddleFree, SketchySGD
from hesscomp.parallel import random
from hesscomp.parallel.world import World

pytestmark = pytest.mark.ranks(most=3)
BATCHES = Sampling(gradient=0.5, curvature=0.4, seed=7)
SMALL = {
    "sketchy-sgd": SketchySGD(damping=0.01, rank=4),
    "saddle-free": SaddleFree(0.3, damping=0.05, rank=4, every=3),
}


@pytest.fixture(scope="module")
def small(world):
    return synthetic(world)


def dense(problem, x) -> np.ndarray:
    return HessianOperator(problem, x) @ np.eye(problem.n)


def nystrom(H, rank, columns, seed) -> np.ndarray:
    """The best approximation of this rank of H Omega (Omega^T H Omega)^-1 (H Omega)^T."""
    Omega = random.standard_normal(seed, random.SKETCH, (0, len(H)), (0, columns))
    Y = H @ Omega
    w, U = np.linalg.eigh(Y @ np.linalg.solve(Omega.T @ Y, Y.T))
    return (U[:, -rank:] * w[-rank:]) @ U[:, -rank:].T


@pytest.mark.parametrize("sampling", [Sampling(), BATCHES], ids=["all rows", "batches"])
def test_steps_of_sketchy_sgd_are_those_of_numpy(small, sampling):
    """Two steps with one factor, its rate by the power method with matrices."""
    n, rho, ridge = small.n, 0.01, small.ridge
    optimizer = SketchySGD(0.4, damping=rho, rank=5, oversample=6, every=2)
    x, batches = np.full(n, 0.1), Batches(small, sampling)
    state = optimizer.start(x)
    for step in (0, 1):
        task = Task(step, x, batches)
        if step == 0:
            H = dense(task.curvature_batch.problem, x)
            P = nystrom(H, 5, 11, sampling.seed) + (rho + ridge) * np.eye(n)
            own = dense(task.gradient_batch.problem, x) + ridge * np.eye(n)
            w = random.standard_normal(sampling.seed, random.RATE_START, (0, n), (0, 1))[:, 0]
            for _ in range(POWERS):
                w = own @ np.linalg.solve(P, w) / np.sqrt(w @ np.linalg.solve(P, w))
            L = np.sqrt(w @ np.linalg.solve(P, w))
            largest = np.linalg.eigvals(np.linalg.solve(P, own)).real.max()
            assert 0.9 * largest < L <= largest * (1 + 1e-12)
        outcome = optimizer.step(task, state)
        by_numpy = x - 0.4 / L * np.linalg.solve(P, task.gradient)
        np.testing.assert_allclose(outcome.x, by_numpy, rtol=0, atol=1e-10)
        assert outcome.values["sketch_columns"] == (0 if step else 11)
        assert outcome.values["smoothness"] == pytest.approx(L, rel=1e-10)
        x, state = outcome.x, outcome.state


def test_a_step_of_saddle_free_newton_is_that_of_absolute_eigenvalues(world):
    """At a point where the Hessian has eigenvalues of both signs, of full rank."""
    problem = network(world)
    x = np.random.default_rng(3).standard_normal(problem.n)
    optimizer = SaddleFree(0.7, damping=0.2, rank=problem.n)
    task = Task(0, x, Batches(problem, Sampling()))
    outcome = optimizer.step(task, optimizer.start(x))
    w, U = np.linalg.eigh(dense(problem, x))
    assert w[0] < -0.01 < 0.01 < w[-1]
    by_numpy = x - 0.7 * U @ ((U.T @ task.gradient) / (np.abs(w) + 0.2))
    np.testing.assert_allclose(outcome.x, by_numpy, rtol=0, atol=1e-10)
    searched = NewtonCG(solver="saddle-free", damping=0.2, rank=problem.n)
    move = searched.step(task, searched.start(x)).x - x
    found, asked = move / np.linalg.norm(move), (by_numpy - x) / np.linalg.norm(by_numpy - x)
    np.testing.assert_allclose(found, asked, atol=1e-10)


@pytest.mark.serial
def test_a_quadratic_is_minimised_in_one_step(small):
    """With the whole Hessian as the factor and no damping to speak of, at a rate of 1: Newton's."""
    x, ridge = np.zeros(small.n), small.ridge
    task = Task(0, x, Batches(small, Sampling()))
    tiny = SketchySGD(1.0, damping=1e-12, rank=small.n)
    outcome = tiny.step(task, tiny.start(x))
    newton = -np.linalg.solve(dense(small, x) + ridge * np.eye(small.n), task.gradient)
    np.testing.assert_allclose(outcome.x, newton, rtol=1e-6)


@pytest.mark.serial
def test_a_flat_batch_gives_no_step(small):
    """Where the matrix is zero, no rate is divided by it."""
    flat = synthetic(small.world, ridge=0.0)
    far = np.where(np.arange(flat.n) == 0, 1e-300, 0.0)
    task = Task(0, far, Batches(flat, Sampling()))
    task.gradient = np.zeros(flat.n)
    outcome = SketchySGD().step(task, SketchySGD().start(far))
    np.testing.assert_array_equal(outcome.x, far)


@pytest.mark.parametrize("name", SMALL)
def test_reproducible_runs_go_on_with_another_number_of_ranks(world, shared_tmp, name):
    spread = synthetic(World(world.comm, reproducible=True))
    alone = synthetic(World(World.serial().comm, reproducible=True))
    optimizer = SMALL[name]
    settings = {"sampling": BATCHES, "stopping": Stopping(max_steps=9)}
    whole = by_rank_0(world, train, alone, optimizer, **settings)
    assert equal(train(spread, optimizer, **settings), whole)
    assert whole.best_objective < whole.history.rows[0]["full_objective"]
    saving = Saving(str(shared_tmp), every=1)
    fifth = (lambda row, x: row["step"] == 5,)
    train(spread, optimizer, sampling=BATCHES, saving=saving, callbacks=fifth)
    assert equal(by_rank_0(world, train, alone, optimizer, saving=saving, **settings), whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_run_killed_at_20_steps_goes_on_as_if_nothing_had_been(small, shared_tmp, name):
    check_kills(small, shared_tmp, SMALL[name], 4, BATCHES)


@pytest.mark.serial
def test_options_out_of_range():
    for kind, bad in (
        (SketchySGD, {"damping": 0.0}), (SketchySGD, {"every": 0}), (SaddleFree, {"rank": 0}),
        (SaddleFree, {"oversample": -1}),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"{kind.name}: "):
            kind(**bad)
