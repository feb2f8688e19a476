"""Natural gradient: its forms against a dense solve, points redrawn in each step, resuming."""

from functools import cache

import numpy as np
import pytest
from marks import serial_but, slow_but
from oracles import by_rank_0
from shards import block_rows

import hesscomp as hc
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError
from hesscomp.optimizers.batches import Batches, Sampling, Task
from hesscomp.optimizers.loop import Saving, Stopping, train
from hesscomp.optimizers.natural_gradient import NaturalGradient
from hesscomp.parallel.world import World

pytestmark = pytest.mark.ranks
RIDGE, SHARE, MOMENTUM = 1e-3, 1e-6, 0.6


def regression(world, rows):
    keras.utils.set_random_seed(2)
    layers = [keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    rng, part = np.random.default_rng(6), block_rows(world, rows)
    X, y = rng.standard_normal((rows, 3)), rng.standard_normal((rows, 2))
    data = X[part], y[part]
    return hc.KerasProblem(
        model, "squared-error", data, world, ridge=RIDGE, dtype="float64", check="off"
    )


CG = (("direct", 1), ("rank", 5))
FORMS = [(7, True, ()), (7, False, ()), (30, True, ()), (30, False, CG)]


@pytest.mark.parametrize(("rows", "reproducible", "options"), serial_but(FORMS[::2], FORMS))
def test_a_direction_is_that_of_a_dense_solve(rows, reproducible, options):
    problem = regression(World(reproducible=reproducible), rows)
    x, previous = problem.initial, np.linspace(-1, 1, problem.n)
    task = Task(0, x, Batches(problem, Sampling()))
    optimizer = NaturalGradient(damping=SHARE, momentum=MOMENTUM, forcing=1e-9, **dict(options))
    state = {**optimizer.start(x), "previous": previous, "caution": 1.0}
    outcome = optimizer.step(task, state)
    G, (_, g) = hc.ggn(problem).to_dense(), problem.objective_and_gradient(x)
    damping = SHARE * np.trace(G) / min(problem.n, 2 * rows)
    if options:  # by CG, with the trace of the preconditioner
        damping = outcome.values["damping"]
        assert outcome.values["cg_iterations"] > 0
    assert outcome.values["damping"] == pytest.approx(damping, rel=1e-9)
    shifted = G + (RIDGE + damping) * np.eye(problem.n)
    direction = np.linalg.solve(shifted, damping * MOMENTUM * previous - g)
    bend, t = np.zeros(problem.n), outcome.values["step_length"]
    if not options:  # the second derivative of the residuals along d, by a difference
        (R, r), (_, ahead) = (problem.gauss_newton_rows(z) for z in (x, x + 0.1 * direction))
        pulled = problem.world.sum(((ahead - r) / 0.1 - R @ direction) * 20 @ R) / rows
        bend = -np.linalg.solve(shifted, pulled)
        assert np.linalg.norm(bend) > 0.1 * np.linalg.norm(direction)
    expected = t * direction + t**2 / 2 * bend
    np.testing.assert_allclose(outcome.x - x, expected, rtol=1e-6, atol=1e-8)
    assert task.acceptance_batch.objective(outcome.x) < task.objective


@pytest.mark.parametrize("reproducible", serial_but([False], [False, True]))
def test_values_are_made_of_the_rows(reproducible, monkeypatch):
    """Objective and gradient of least squares; the step takes the same rows."""
    problem = regression(World(reproducible=reproducible), 30)
    optimizer, x = NaturalGradient(), problem.initial + 0.1
    f, g = problem.objective_and_gradient(x)
    view = Batches(problem, Sampling(), keeps_rows=optimizer.keeps_rows(problem)).full
    monkeypatch.setattr(type(problem), "loss_and_gradient", None)
    found, gradient = view.objective_and_gradient(x)
    assert found == pytest.approx(f, rel=1e-12)
    np.testing.assert_allclose(gradient, g, rtol=0, atol=1e-12 * np.linalg.norm(g))
    assert view.rows_at(x) is view.rows_at(x.copy())
    few = Batches(problem, Sampling(curvature=0.5), keeps_rows=True).full
    assert not few.keeps_rows and not NaturalGradient(direct=1).keeps_rows(problem)


def test_rows_beyond_the_memory_are_made_anew_a_few_at_once():
    problem, steps, made = regression(World(), 30), [], []
    optimizer, x, rows = NaturalGradient(damping=SHARE), problem.initial, problem.gauss_newton_rows

    def counted(x, part):
        R, residuals = rows(x, part)
        made.append(len(R))
        return R, residuals

    problem.gauss_newton_rows = counted
    for memory in (problem.memory, 2500):  # two rows of 26 x 2 numbers, three times
        problem.memory = memory
        task = Task(0, x, Batches(problem, Sampling()))
        steps.append(optimizer.step(task, {**optimizer.start(x), "caution": 1.0}).x - x)
    assert made[0] == 2 * problem.rows_here and max(made[1:]) <= 4
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-6, atol=1e-9)


def test_the_damping_grows_by_tens_where_a_matrix_has_no_cholesky_factor():
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(40, "tanh"), keras.layers.Dense(1)]
    )
    world = World()
    part = block_rows(world, 24)
    X = np.repeat(np.random.default_rng(6).standard_normal((2, 3)), 12, axis=0)  # rank 2 of 24
    problem = hc.KerasProblem(
        model, "squared-error", (X[part], X[part].sum(1)), world, dtype="float64", check="off"
    )
    optimizer, x = NaturalGradient(damping=1e-20), problem.initial
    task = Task(0, x, Batches(problem, Sampling()))
    outcome = optimizer.step(task, {**optimizer.start(x), "caution": 1.0})
    G, (value, g) = hc.ggn(problem).to_dense(), problem.objective_and_gradient(x)
    damping = outcome.values["damping"]
    tens = np.log10(damping / (1e-20 * np.trace(G) / 24))
    assert tens >= 1
    assert tens == pytest.approx(round(tens), abs=1e-6)
    assert problem.objective(outcome.x) < 1e-4 * value
    # Of all solutions, g being in the range of G, the one near the pseudoinverse's.
    exact = -np.linalg.lstsq(G, g, rcond=1e-12)[0]
    t = outcome.values["step_length"]
    assert np.linalg.norm(outcome.x - x - t * exact) < 0.5 * np.linalg.norm(t * exact)


@pytest.mark.serial
def test_fillings_of_narrow_groups_do_not_keep_from_the_kernel_form():
    def many(u, du):
        return tf.stack([u, du[:, 0], u * u], 1)

    groups = [hc.Group(np.linspace(0, 1, 9), lambda u: u), hc.Group([0.5], many)]
    problem = hc.ResidualProblem(line_network(), groups)  # n = 19, 12 residuals, 30 numbers
    optimizer, x = NaturalGradient(damping=SHARE), problem.initial
    task = Task(0, x, Batches(problem, Sampling()))
    outcome = optimizer.step(task, {**optimizer.start(x), "caution": 1.0})
    mean = np.trace(hc.ggn(problem).to_dense()) / 12
    assert outcome.values["damping"] == pytest.approx(SHARE * mean, rel=1e-9)


@pytest.mark.serial
def test_a_preconditioner_that_is_not_used_is_told(caplog):
    problem, optimizer = regression(World(), 7), NaturalGradient(preconditioner="hbs")
    train(problem, optimizer, stopping=Stopping(max_steps=2))
    assert [record.message for record in caplog.records if "directly" in record.message] == [
        "natural-gradient: the preconditioner is not used, since systems of at most 10000 unknowns "
        "are solved directly; a smaller `direct` lets CG solve them"
    ]


@pytest.mark.serial
def test_a_step_may_lead_where_residuals_are_not_finite():
    layer = keras.layers.Dense(1, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((1,)), layer])
    problem = hc.ResidualProblem(model, [hc.Group([[1.0]], lambda u: tf.sqrt(1 - u) + 5)])
    found = train(problem, NaturalGradient(), stopping=Stopping(max_steps=2))
    assert found.objective < 16 and np.isfinite(found.x).all()  # of 18; 12.5 where u = 1


def line_network():
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(6, "tanh"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((1,)), *layers])


def collocation(world):
    box = hc.Box([0], [1])
    groups = [
        hc.Group(box.random(9, seed=4, redrawn=True), lambda laplacian, x: laplacian + x[:, 0]),
        hc.Group([[0.0], [1.0]], lambda u: u),
    ]
    return hc.ResidualProblem(line_network(), groups, world)


def ritz(world):
    return hc.EnergyProblem(
        line_network(), lambda u, du: tf.reduce_sum(du**2, 1) / 2 - u, hc.Box([0], [1]).gauss(5, 4),
        world=world, convex=True, distance=lambda x: x[:, 0] * (1 - x[:, 0]),
    )  # fmt: skip


@pytest.mark.ranks(most=4)
@pytest.mark.parametrize("posed", slow_but([collocation], [collocation, ritz]))
def test_runs_have_equal_bits_on_any_number_of_ranks(world, posed, shared_tmp, monkeypatch):
    monkeypatch.setattr("hesscomp.problems.jet_engine.IN_CACHES", 60)  # blocks of a few rows
    optimizer, steps = NaturalGradient(momentum=0.5), Stopping(max_steps=4)
    one = posed(World(World.serial().comm, reproducible=True))
    alone = by_rank_0(world, train, one, optimizer, stopping=steps)
    problem, saving = posed(World(reproducible=True)), Saving(str(shared_tmp), every=1)
    train(problem, optimizer, stopping=Stopping(max_steps=2), saving=saving)
    resumed = train(problem, optimizer, stopping=steps, saving=saving)
    assert alone.steps == resumed.steps == 4
    assert np.array_equal(resumed.x, alone.x)
    for name in ("objective", "gradient_norm", "damping"):
        found, expected = (run.history.column(name) for run in (resumed, alone))
        assert np.array_equal(found, expected, equal_nan=True)


@cache
def redrawn():
    model = line_network()
    box = hc.Box([0], [1])
    groups = [
        hc.Group(box.random(15, seed=4, redrawn=True), lambda u, x: u - tf.sin(3 * x[:, 0])),
        hc.Group([[0.0], [1.0]], lambda u, x: u - tf.sin(3 * x[:, 0])),
    ]
    return hc.ResidualProblem(model, groups, World())


def test_points_that_are_redrawn_serve_one_step(shared_tmp):
    problem, optimizer = redrawn(), NaturalGradient(damping=1e-8)
    steps = Stopping(max_steps=4)
    whole = train(problem, optimizer, stopping=steps)
    objectives = [
        problem.redrawn(step).objective(problem.initial if step == 0 else whole.x)
        for step in (0, 4)
    ]
    found = whole.history.column("objective")[[0, 4]]
    np.testing.assert_allclose(found, objectives, rtol=1e-12)
    assert whole.best_objective < objectives[0] / 2
    saving = Saving(str(shared_tmp), every=1)
    train(problem, optimizer, stopping=Stopping(max_steps=2), saving=saving)
    rest = train(problem, optimizer, stopping=steps, saving=saving)
    assert np.array_equal(rest.x, whole.x)
    with pytest.raises(InputError, match="no batches"):
        train(problem, optimizer, sampling=Sampling(gradient=0.97))


def test_cg_by_a_hierarchical_factor_goes_on_with_the_factor_that_it_had(shared_tmp):
    problem, saving = redrawn(), Saving(str(shared_tmp), every=1)
    optimizer, steps = NaturalGradient(direct=1, preconditioner="hbs"), Stopping(max_steps=4)
    whole = train(problem, optimizer, stopping=steps)
    train(problem, optimizer, stopping=Stopping(max_steps=2), saving=saving)
    rest = train(problem, optimizer, stopping=steps, saving=saving)
    assert np.array_equal(rest.x, whole.x)
    assert whole.history.column("cg_iterations")[1:].min() > 0
    assert whole.best_objective < problem.objective(problem.initial) / 2
