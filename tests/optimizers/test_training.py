"""The loop that all optimizers share: resume, ranks, recovery, best iterate, batches, files."""

import csv
import json

import numpy as np
import pytest
from functions import Cliff, Rosenbrock
from marks import serial_but, several_but, slow_but, two_ranks_but
from oracles import by_rank_0
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_optimizers import FIRST_ORDER, SECOND_ORDER, synthetic, synthetic_rows

from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError, NumericalError
from hesscomp.optimizers.batches import Batches, Sampling
from hesscomp.optimizers.drsom import DRSOM
from hesscomp.optimizers.first_order import SGD, AdaBelief, Adam
from hesscomp.optimizers.gauss_newton import GaussNewton
from hesscomp.optimizers.hessian_free import HessianFree
from hesscomp.optimizers.loop import Saving, Stopping, train
from hesscomp.optimizers.natural_gradient import NaturalGradient
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.optimizers.soap import SOAP
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.runs.checkpoint import load_checkpoint
from hesscomp.runs.tensorboard import ScalarWriter

pytestmark = pytest.mark.ranks(most=3)

EVERY = {
    **SECOND_ORDER, **FIRST_ORDER, "random": DRSOM("random", count=3),
    "approximated": DRSOM("random", count=3, curvature="low-rank", every=3, rank=4),
    "by adam": DRSOM(curvature="adam", accept=True, same_batch=True, averaging=0.5),
    # Damped, since undamped it ends at the rounding level, where to meet a point twice costs less.
    "natural-gradient": NaturalGradient(damping=1.0),
}  # fmt: skip
ONE_OF_EACH = (
    "newton-cg", "trust-region", "saddle-free", "gauss-newton", "hessian-free", "drsom", "adam",
    "natural-gradient",
)  # fmt: skip
# Whose state another of `EVERY` has too, and that take long.
ALIKE = (
    "plain", "diagonal", "newton hbs", "trust-region hbs", "hessian-free hbs",
    "drsom interpolation",
)  # fmt: skip
DISTINCT = [name for name in EVERY if name not in ALIKE]
BATCHES = Sampling(gradient=0.5, curvature=0.3, acceptance=0.5, seed=7)
STEPS = 8
SHORT = {"kills": 6, "steps": STEPS}  # of the runs that are killed in every test run


@pytest.fixture(scope="module")
def small(world):
    return synthetic(world)


@pytest.fixture(scope="module")
def small_alone():
    return synthetic(World.serial())


def equal(left, right) -> bool:
    """Whether two runs have the same bits."""
    names = [name for name in left.history.names if name != "seconds"]
    assert left.history.names == right.history.names
    return np.array_equal(left.x, right.x) and all(
        np.array_equal(left.history.column(name), right.history.column(name), equal_nan=True)
        for name in names
    )


class Killed(Exception):
    pass


def killer(step):
    def callback(row, x):
        if row["step"] == step:
            raise Killed

    return callback


def check_kills(problem, folder, optimizer, seed, batches=BATCHES, kills=20, steps=24):
    """Full batch and batches; at random steps, with and without a checkpoint there."""
    rng, stopping, left = np.random.default_rng(seed), Stopping(max_steps=steps), kills
    for sampling, most in ((Sampling(), kills // 2), (batches, kills)):
        whole = train(problem, optimizer, sampling=sampling, stopping=stopping)
        killed = rng.choice(whole.steps, min(most, left, whole.steps), replace=False)
        for step in np.sort(killed):
            saving = Saving(str(folder / str(most)), every=int(rng.integers(1, 3)))
            with pytest.raises(Killed):
                train(
                    problem, optimizer, sampling=sampling, stopping=stopping, saving=saving,
                    callbacks=(killer(step),),
                )  # fmt: skip
        rest = train(problem, optimizer, sampling=sampling, stopping=stopping, saving=saving)
        assert equal(rest, whole)
        assert rest.best_objective == whole.best_objective
        assert np.array_equal(rest.best, whole.best)
        assert rest.history.events == whole.history.events
        left -= len(killed)
    assert left == 0


@pytest.mark.ranks(most=2)
@pytest.mark.parametrize("name", serial_but(ONE_OF_EACH, DISTINCT))
def test_a_killed_run_goes_on_as_if_nothing_had_been(small, shared_tmp, name):
    check_kills(small, shared_tmp, EVERY[name], list(EVERY).index(name), **SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_so_does_one_killed_at_20_steps_and_on_more_ranks(small, shared_tmp, name):
    check_kills(small, shared_tmp, EVERY[name], list(EVERY).index(name))


@pytest.mark.parametrize("sampling", [Sampling(), BATCHES], ids=["all rows", "batches"])
def test_a_finished_run_goes_on_with_more_steps(small, shared_tmp, sampling):
    whole, *parts = (
        train(small, DRSOM(), sampling=sampling, stopping=Stopping(max_steps=steps), saving=saving)
        for steps, saving in (
            (7, Saving()), (2, Saving(str(shared_tmp))), (3, Saving(str(shared_tmp))),
            (7, Saving(str(shared_tmp))),
        )
    )  # fmt: skip
    assert [part.steps for part in parts] == [2, 3, 7] and equal(parts[-1], whole)
    for part in parts:
        assert np.isfinite(part.history.rows[-1]["full_objective"])
        assert part.best_objective == np.nanmin(part.history.column("full_objective"))


@pytest.fixture(scope="module")
def reproducible_pair(world):
    """The same problem over all ranks, and over this rank alone."""
    X, y = synthetic_rows()
    problems = []
    for comm in (world.comm, World.serial().comm):
        each = World(comm, reproducible=True)
        rows = slice(*row_range(len(y), each.rank, each.size))
        problems.append(LogisticRegression(from_arrays(X[rows], y[rows], each), each, ridge=1e-3))
    return problems


@pytest.mark.parametrize("name", several_but(ONE_OF_EACH, two_ranks_but(ONE_OF_EACH, EVERY)))
def test_reproducible_runs_do_not_depend_on_the_ranks(world, reproducible_pair, name):
    spread, alone = reproducible_pair
    for sampling in (Sampling(), BATCHES):
        settings = {"sampling": sampling, "stopping": Stopping(max_steps=4)}
        together = train(spread, EVERY[name], **settings)
        assert equal(together, by_rank_0(world, train, alone, EVERY[name], **settings))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_long_reproducible_runs_do_not_depend_on_the_ranks(reproducible_pair, name):
    spread, alone = reproducible_pair
    for sampling in (Sampling(), BATCHES):
        runs = [
            train(problem, EVERY[name], sampling=sampling, stopping=Stopping(max_steps=20))
            for problem in (spread, alone)
        ]
        assert equal(*runs)


@pytest.mark.parametrize("name", ["newton-cg", "hessian-free", "drsom", "adam"])
def test_a_run_goes_on_with_another_number_of_ranks(world, reproducible_pair, shared_tmp, name):
    spread, alone = reproducible_pair
    settings = {"sampling": BATCHES, "stopping": Stopping(max_steps=STEPS)}
    whole = by_rank_0(world, train, alone, EVERY[name], **settings)
    first = Saving(str(shared_tmp / "all"), every=1)
    fifth = (lambda row, x: row["step"] == 5,)
    train(spread, EVERY[name], sampling=BATCHES, saving=first, callbacks=fifth)
    rest = by_rank_0(world, train, alone, EVERY[name], saving=first, **settings)
    assert len(rest.history) == STEPS + 1 and equal(rest, whole)


@pytest.mark.parametrize("name", several_but(["newton-cg"], slow_but(ONE_OF_EACH, EVERY)))
def test_rounding_is_all_that_ranks_change(world, small, small_alone, name):
    for sampling in (Sampling(), BATCHES):
        settings = {"sampling": sampling, "stopping": Stopping(max_steps=10)}
        runs = [
            train(small, EVERY[name], **settings),
            by_rank_0(world, train, small_alone, EVERY[name], **settings),
        ]
        steps = min(len(run.history) for run in runs)
        left, right = (run.history.column("objective")[:steps] for run in runs)
        differenced = name in ("drsom differences", "drsom interpolation")  # noise: sqrt(eps)
        np.testing.assert_allclose(left, right, rtol=1e-6 if differenced else 1e-8)
        assert abs(len(runs[0].history) - len(runs[1].history)) <= 2
        np.testing.assert_allclose(runs[0].x, runs[1].x, atol=1e-3 if differenced else 1e-6)


def test_batches_are_drawn_apart_and_counted(small):
    batches = Batches(small, BATCHES)
    drawn = [batches.view(purpose, step).problem for purpose in range(3) for step in range(2)]
    assert len({(p.rows, p.labels.numpy().tobytes()) for p in drawn}) == 6 or small.world.size > 1
    assert (drawn[0].rows, drawn[2].rows) == (300, 180)
    again = Batches(small, BATCHES).view(0, 1).problem
    assert np.array_equal(again.labels.numpy(), drawn[1].labels.numpy())
    assert batches.view(0, 5).share == 0.5
    assert Sampling(curvature=120).share(1, 600) == 0.2
    assert Sampling(curvature=900).share(1, 600) == 1.0
    result = train(small, SGD(0.1), sampling=Sampling(gradient=0.1), stopping=Stopping(50))
    full = ~np.isnan(result.history.column("full_objective"))
    assert list(np.flatnonzero(full)) == [0, 10, 20, 30, 40, 50]
    assert result.history.rows[-1]["passes"] == pytest.approx(2 * 0.1 * 51 + 6, abs=1e-9)


RECKLESS = {
    "sgd": SGD(500.0), "nesterov": SGD(500.0, nesterov=True), "adam": Adam(100.0),
    "adabelief": AdaBelief(100.0), "soap": SOAP(100.0),
}  # fmt: skip


@pytest.mark.serial
@pytest.mark.parametrize("name", slow_but(DISTINCT, EVERY))
def test_no_run_hands_back_worse_than_it_was_given(small, optimum, name):
    """From the optimum too, where no step gains anything; and with steps much too long."""
    reckless = [RECKLESS[name]] if name in RECKLESS else []
    for start in (np.full(small.n, 0.1), optimum):
        first, _ = small.objective_and_gradient(start)
        for optimizer in (EVERY[name], *reckless):
            for sampling in (Sampling(), BATCHES):
                result = train(small, optimizer, start, sampling=sampling, stopping=Stopping(5))
                assert result.best_objective <= first
                again, _ = small.objective_and_gradient(result.best)
                assert again == pytest.approx(result.best_objective, rel=1e-14)
            assert result.objective > first or optimizer is EVERY[name]


@pytest.fixture(scope="module")
def optimum(small):
    return train(small, NewtonCG()).x


AT_THE_CLIFF = {
    "sgd": SGD(2.5, momentum=0.0),
    "nesterov": SGD(2.5, momentum=0.5, nesterov=True),
    "adam": Adam(6.0),
    "adabelief": AdaBelief(6.0),
    "soap": SOAP(6.0),
    "newton-cg": NewtonCG(),
    "plain": NewtonCG(preconditioner="none"),
    "trust-region": NewtonCG("trust-region", preconditioner="none", radius=100.0),
    "saddle-free": NewtonCG(solver="saddle-free"),
    "gauss-newton": GaussNewton(1e-3),
    "hessian-free": HessianFree(1e-3, preconditioner="none"),
    "hessian-free low-rank": HessianFree(1e-3, preconditioner="low-rank"),
    "drsom": DRSOM(radius=100.0),
    "drsom free": DRSOM(control="radius-free"),
    "drsom cubic": DRSOM(control="cubic", weight=1e-3),
    "drsom unaccepted": DRSOM(accept=False, radius=100.0),
}


class Ledge(Cliff):
    """The cliff, with a curvature that is far too small: every full step is too long."""

    def hessian(self, x):
        return np.eye(2) / 10


@pytest.mark.parametrize("name", AT_THE_CLIFF)
def test_numbers_that_are_not_finite_are_recovered_from(world, name):
    """They are met, told of with their step, and got over."""
    problem = Ledge(world, [-2.5, 0.0])
    result = train(problem, AT_THE_CLIFF[name], stopping=Stopping(max_steps=100, target=1e-3))
    assert np.isfinite(result.objective) and result.best_objective < 3.125 / 4
    step, text = result.history.events[0]
    assert step >= 1 and ("nan" in text or "were not finite; step shortened" in text)


class Nowhere(Cliff):
    """Not a number anywhere but at the start."""

    def evaluate(self, x):
        value, g = super().evaluate(x)
        return (value, g) if np.array_equal(x, self.initial) else (float("nan"), g)


@pytest.mark.parametrize("name", AT_THE_CLIFF)
def test_runs_that_diverge_end(world, name):
    problem = Nowhere(world, [1.0, 0.0])
    result = train(problem, AT_THE_CLIFF[name], stopping=Stopping(max_steps=1000))
    assert result.status == "diverged" and result.history.events
    assert np.array_equal(result.x, problem.initial) and result.best_objective == 0.5
    if name in FIRST_ORDER:
        assert len(result.history.events) == 21 and "20 times" in result.reason
    with pytest.raises(NumericalError, match="start"):
        train(Cliff(world, [4.0, 0.0]), SGD(0.1))


def test_ways_to_stop(world, small):
    assert "gradient" in train(small, NewtonCG(), stopping=Stopping(50, 1e-6)).reason
    assert "target" in train(small, NewtonCG(), stopping=Stopping(target=0.5)).reason
    assert train(small, SGD(), stopping=Stopping(max_steps=0)).steps == 0
    passes = train(small, SGD(), stopping=Stopping(max_passes=20.5))
    assert 20 < passes.history.rows[-1]["passes"] <= 23 and "passes" in passes.reason
    assert "second" in train(small, SGD(), stopping=Stopping(10**9, max_seconds=0.2)).reason
    rounding = train(small, NewtonCG(), stopping=Stopping(max_steps=200))
    assert "rounding" in rounding.reason and rounding.steps < 60
    seen = []
    stopped = train(small, SGD(), callbacks=(lambda row, x: seen.append(row) or len(seen) == 4,))
    assert stopped.reason == "by a callback" and stopped.steps == 3
    assert seen == stopped.history.rows


def test_early_stopping_keeps_the_point_of_the_lowest_test_loss(world, shared_tmp):
    X, y = synthetic_rows(60, 20, seed=3)
    start, stop = row_range(30, world.rank, world.size)
    fitted, held = slice(start, stop), slice(30 + start, 30 + stop)
    problem = LogisticRegression(from_arrays(X[fitted], y[fitted], world), world, dtype="float64")
    test, way = (X[held], y[held]), SGD(learning_rate=0.5)
    points = []
    whole = train(
        problem, way, stopping=Stopping(max_steps=20), test=test,
        callbacks=(lambda row, x: points.append(x),),
    )  # fmt: skip

    def loss(x):  # of all test rows, by NumPy
        return np.mean(np.log1p(np.exp(-y[30:] * (X[30:] @ x))))

    losses = [loss(x) for x in points]
    lowest = int(np.argmin(losses))
    assert 0 < lowest < whole.steps - 3 and whole.best is not points[lowest]
    stopping, saving = Stopping(max_steps=20, patience=3), Saving(shared_tmp / "run", every=1)
    with pytest.raises(Killed):  # at the best point: what is known of it is in the checkpoint
        train(
            problem, way, stopping=stopping, saving=saving, test=test,
            callbacks=(killer(lowest + 1),),
        )  # fmt: skip
    found = train(problem, way, stopping=stopping, saving=saving, test=test)
    assert found.steps == lowest + 3 and "no lower loss" in found.reason
    np.testing.assert_array_equal(found.best, points[lowest])
    assert found.best_objective == pytest.approx(problem.objective(points[lowest]), rel=1e-12)
    assert found.test.loss == pytest.approx(losses[lowest], rel=1e-10)
    with pytest.raises(InputError, match="its run has `patience`"):
        train(problem, way, saving=saving, test=test)
    plain = Saving(shared_tmp / "plain")
    train(problem, way, stopping=Stopping(max_steps=1), saving=plain, test=test)
    with pytest.raises(InputError, match="made without patience, and this one has some"):
        train(problem, way, stopping=stopping, saving=plain, test=test)
    with pytest.raises(InputError, match="`patience` goes with test rows"):
        train(problem, way, stopping=stopping)


def test_what_a_run_leaves(world, small, shared_tmp):
    saving = Saving(str(shared_tmp / "run"), every=2, tensorboard=True)
    result = train(small, DRSOM(), stopping=Stopping(max_steps=5), saving=saving)
    world.comm.Barrier()
    folder = shared_tmp / "run"
    names = {path.name for path in folder.glob("[!.]*")}
    assert names == {
        "checkpoint.h5", "checkpoint-previous.h5", "history.csv", "history.json", "tensorboard",
    }  # fmt: skip
    with open(folder / "history.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row, known in zip(rows, result.history.rows, strict=True):
        for name, text in row.items():
            np.testing.assert_equal(float(text), known.get(name, np.nan))
    report = json.loads((folder / "history.json").read_text())
    assert report["status"] == "stopped" and len(report["history"]) == 6
    assert load_checkpoint(folder / "checkpoint.h5").step == 5
    with pytest.raises(InputError, match="optimizer"):
        train(small, DRSOM(count=3), saving=saving)
    with pytest.raises(InputError, match="sampling"):
        train(small, DRSOM(), sampling=Sampling(seed=1), saving=saving)


def test_a_missing_or_damaged_checkpoint_leaves_the_one_before(world, small, shared_tmp, caplog):
    """A damaged one is named and set aside; with both damaged the run ends and says so."""
    saving = Saving(str(shared_tmp), every=2)
    whole = train(small, DRSOM(), stopping=Stopping(max_steps=5))
    first, previous = shared_tmp / "checkpoint.h5", shared_tmp / "checkpoint-previous.h5"

    def after(damage):
        train(small, DRSOM(), stopping=Stopping(max_steps=5), saving=saving)
        world.comm.Barrier()
        if world.rank == 0:
            damage()
        world.comm.Barrier()
        caplog.clear()
        rest = train(small, DRSOM(), stopping=Stopping(max_steps=5), saving=saving)
        assert equal(rest, whole)
        return [record.getMessage() for record in caplog.records]

    assert after(first.unlink) == []
    said = after(lambda: first.write_bytes(first.read_bytes()[:-1000]))
    if world.rank == 0:
        assert len(said) == 1 and "checkpoint.h5" in said[0]
        assert "going on from checkpoint-previous.h5 (step 4)" in said[0]
        assert (shared_tmp / "checkpoint-damaged.h5").exists()
    world.comm.Barrier()
    if world.rank == 0:
        first.write_text("not HDF5")
        previous.write_text("nor this")
    world.comm.Barrier()
    with pytest.raises(InputError, match=r"checkpoint\.h5: .*previous\.h5: .*to start again"):
        train(small, DRSOM(), saving=saving)


def test_scalars_are_what_tensorboard_reads(world, small, shared_tmp):
    saving = Saving(str(shared_tmp / "run"), tensorboard=True)
    result = train(small, Adam(), stopping=Stopping(max_steps=150), saving=saving)
    world.comm.Barrier()
    folder = shared_tmp / "run" / "tensorboard"
    assert len(list(folder.iterdir())) == 1
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()  # checks the checksums
    assert events.file_version == 2.0
    assert set(events.Tags()["scalars"]) >= {"objective", "gradient_norm", "passes"}
    for name in ("objective", "gradient_norm", "passes"):
        read = events.Scalars(name)
        assert [each.step for each in read] == list(range(151))
        assert all(each.wall_time > 1.7e9 for each in read)
        values = [each.value for each in read]
        np.testing.assert_allclose(values, result.history.column(name), rtol=1e-6)


@pytest.mark.serial
def test_scalars_of_any_size_and_of_a_run_that_goes_on_within_the_second(tmp_path):
    values = (1e300, -1e300, float("nan"), 2.5)
    for step, value in enumerate(values):
        writer = ScalarWriter(tmp_path)
        writer.write(step, {"x": value})
        writer.close()
    assert len(list(tmp_path.iterdir())) == len(values)
    read = [
        event.value
        for path in sorted(tmp_path.iterdir())
        for event in EventAccumulator(str(path)).Reload().Scalars("x")
    ]
    np.testing.assert_array_equal(read, [np.inf, -np.inf, np.nan, 2.5])


@pytest.mark.serial
def test_bad_settings_are_refused(small):
    for part, bad in (
        (Stopping, {"max_steps": -1}), (Stopping, {"gradient_tolerance": -1.0}),
        (Stopping, {"max_passes": 0}), (Stopping, {"target": np.nan}), (Saving, {"every": 0}),
        (Saving, {"tensorboard": True}), (Sampling, {"gradient": 0}),
    ):  # fmt: skip
        with pytest.raises(InputError):
            part(**bad)
    for settings in ({"sampling": Sampling(curvature=1e-4)}, {"evaluate_every": 0}):
        with pytest.raises(InputError):
            train(small, SGD(), **settings)
    with pytest.raises(InputError, match="20 parameters"):
        train(small, SGD(), np.zeros(3))
    with pytest.raises(InputError, match="empty"):
        train(Rosenbrock(small.world, 2), SGD(), sampling=Sampling(gradient=0.5))
    with pytest.raises(InputError, match="sampled"):
        Rosenbrock(small.world, 2).sampled(0.5)
