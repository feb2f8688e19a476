"""Newton's method ended by a signal at any block product, and gone on with: the same bits."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from test_optimizers import synthetic_rows

from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError, Interrupted
from hesscomp.optimizers.former_newton import FACTOR
from hesscomp.optimizers.loop import Saving, Stopping, train
from hesscomp.optimizers.newton import NewtonOptions, newton
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from hesscomp.runs.history import History
from hesscomp.storage.slabs import slabs_of

pytestmark = pytest.mark.ranks

OPTIONS = NewtonOptions(solver="pcg", rank=5, oversample=3, tolerance=1e-9)


def problem_of(comm):
    world = World(comm, reproducible=True)
    X, y = synthetic_rows(n=12)
    rows = slice(*row_range(len(y), world.rank, world.size))
    data = from_arrays(X[rows], y[rows], world)
    return LogisticRegression(data, world, ridge=1e-3, dtype="float64")


@pytest.fixture(scope="module")
def together(world):
    return problem_of(world.comm)


@pytest.fixture(scope="module")
def alone():
    return problem_of(World.serial().comm)


def same(left, right) -> bool:
    """Whether two results have the same bits, their times aside."""
    return np.array_equal(left.x, right.x) and told(left) == told(right)


def told(result) -> str:
    """All but the point, whose text is no proof, and the times."""
    first = result.history[0]
    rows = [
        replace(
            row,
            passes=row.passes - first.passes,
            words_reduced=row.words_reduced - first.words_reduced,
            seconds=0.0,
        )
        for row in result.history
    ]
    return str((result.objective, result.gradient_norm, result.converged, result.reason, rows))


def stopping(problem, after):
    """Ask the last rank to stop after so many places where a run may end."""
    world, left = problem.world, after

    def asked():
        nonlocal left
        left -= 1
        return world.rank == world.size - 1 and left < 0

    world.stop_asked = asked


def ended_everywhere(problem, work, every):
    """``work()`` ended after `every` more places each time, until it comes to its end."""
    for attempt in range(200):
        stopping(problem, every + attempt % 2)
        try:
            return work(), attempt
        except Interrupted:
            pass
        finally:
            problem.world.stop_asked = None
    raise AssertionError("no progress")


@pytest.mark.parametrize("solver, every", [("pcg", 5), ("lowrank", 1), ("direct", 3)])
def test_newton_goes_on_to_the_same_bits(together, shared_tmp, solver, every):
    options = replace(OPTIONS, solver=solver, tail=0.05, max_iterations=6)
    whole = newton(together, options=options)
    places = sum(2 + row.cg_iterations + (row.factor_rank > 0) for row in whole.history[1:])
    result, ends = ended_everywhere(
        together,
        lambda: newton(together, options=options, folder=shared_tmp, save_every=every),
        places // 3,
    )
    assert same(result, whole) and ends >= 1


def test_newton_goes_on_with_another_number_of_ranks(world, together, alone, shared_tmp):
    whole, folder = newton(alone, options=OPTIONS), shared_tmp / "run"
    for steps in (2, 3):
        newton(together, options=replace(OPTIONS, max_iterations=steps), folder=folder)
    world.gather(None)
    path = folder / "checkpoint.h5"
    assert load_checkpoint(path).step == 3
    assert load_checkpoint(folder / "checkpoint-previous.h5").step == 2
    margins = load_checkpoint(path, (0, 600)).rows[:, 0]
    np.testing.assert_allclose(margins, synthetic_rows(n=12)[0] @ load_checkpoint(path).arrays["x"])
    mine = shared_tmp / str(world.rank)
    shutil.copytree(folder, mine)
    assert same(newton(alone, options=OPTIONS, folder=mine), whole)
    world.gather(None)
    if world.rank == 0:  # a slab of the last checkpoint is lost: from the one before
        slabs_of(path, "rows")[-1].unlink()
        slabs = [slabs_of(folder / name, "rows") for name in ("checkpoint-previous.h5",)]
        assert all(slab.exists() for slab in slabs[0])
    world.gather(None)
    assert same(newton(together, options=OPTIONS, folder=folder), whole)
    world.gather(None)
    names = {path.name for path in folder.glob("[!.]*") if path.suffix != ".slab"}
    assert names == {"checkpoint.h5", "checkpoint-previous.h5", "checkpoint-damaged.h5"}
    with pytest.raises(InputError, match="made with optimizer"):
        newton(together, options=replace(OPTIONS, rank=6), folder=folder)


def test_a_hierarchical_factor_is_kept_in_checkpoints(world, together, alone, shared_tmp):
    """On another number of ranks; one whose arrays contradict each other is refused."""
    options = replace(OPTIONS, preconditioner="hbs", rank=1)
    whole, folder = newton(alone, options=options), shared_tmp / "run"
    newton(together, options=replace(options, max_iterations=2), folder=folder)
    world.gather(None)
    mine = shared_tmp / str(world.rank)
    shutil.copytree(folder, mine)
    damaged = mine.with_suffix(".damaged")
    shutil.copytree(folder, damaged)
    assert same(newton(alone, options=options, folder=mine), whole)
    for name in ("checkpoint.h5", "checkpoint-previous.h5"):
        with h5py.File(damaged / name, "r+") as file:
            if file["state/leaf_blocks"].size:
                file["state/ranks"][1] = 0
    with pytest.raises(InputError, match="where ranks make"):
        newton(alone, options=options, folder=damaged)
    assert same(newton(together, options=options, folder=folder), whole)


def former(folder, result) -> Checkpoint:
    """A checkpoint of `OPTIONS` as `newton` wrote it when it had a loop of its own."""
    saved, last = load_checkpoint(folder / "checkpoint.h5", (0, 600)), result.history[-1]
    rows = [row.as_dict() for row in result.history]
    error = {"error": last.factor_error, "norm": 1.0}
    identity = {name: value for name, value in saved.facts.items() if isinstance(value, str)}
    return replace(
        saved,
        arrays={name: saved.arrays[name] for name in ("x", "gradient")},
        state={**{name: saved.state[name] for name in FACTOR}, **error},
        values={},
        facts={
            **{name: value for name, value in identity.items() if name != "sampling"},
            "optimizer": "newton",
            "options": "NewtonOptions(solver='pcg', tolerance=1e-09, max_iterations=0, "
            "step='line-search', gamma=1.0, rank=5, oversample=3, seed=0, tail='last')",
            "objective": last.objective,
            "norm": last.gradient_norm,
            "previous": result.history[-2].gradient_norm,
            "least": min(row.gradient_norm for row in result.history),
            "idle": 0,
            **{name: rows[-1][name] for name in ("passes", "words_reduced", "seconds")},
            "solver": "pcg",
            "choice": "",
        },
        history=History(rows),
        ranges=[(0, 600)],
    )


@pytest.mark.serial
def test_newton_goes_on_from_a_checkpoint_of_its_former_loop(alone, tmp_path):
    by_factor = replace(OPTIONS, preconditioner="low-rank")  # as that loop always was
    whole = newton(alone, options=by_factor)
    begun = newton(alone, options=replace(by_factor, max_iterations=3), folder=tmp_path / "new")
    (tmp_path / "old").mkdir()
    save_checkpoint(former(tmp_path / "new", begun), tmp_path / "old", alone.world)
    with pytest.raises(InputError, match=r"made with optimizer NewtonOptions.*rank=5"):
        newton(alone, options=replace(by_factor, rank=6), folder=tmp_path / "old")
    result = newton(alone, options=by_factor, folder=tmp_path / "old")
    assert np.array_equal(result.x, whole.x) and result.iterations == whole.iterations
    for name in ("objective", "gradient_norm", "step", "cg_iterations", "factor_error"):
        found, wanted = ([getattr(row, name) for row in run.history] for run in (result, whole))
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.serial
def test_newton_goes_on_from_before_there_was_an_option(alone, tmp_path):
    """What a run was made without is as it is by default."""
    whole = newton(alone, options=OPTIONS)
    newton(alone, options=replace(OPTIONS, max_iterations=3), folder=tmp_path)
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            facts = file["facts"].attrs
            before, _, _ = facts["optimizer"].partition(", preconditioner")
            facts["optimizer"] = f"{before})"
    with pytest.raises(InputError, match="made with optimizer"):
        newton(alone, options=replace(OPTIONS, preconditioner="hbs"), folder=tmp_path)
    assert same(newton(alone, options=OPTIONS, folder=tmp_path), whole)


def test_training_ends_within_a_step_and_goes_on(together, shared_tmp):
    optimizer, stop = NewtonCG(rank=4), Stopping(max_steps=6)
    whole = train(together, optimizer, stopping=stop)
    saving = Saving(str(shared_tmp), every=4)
    result, ends = ended_everywhere(
        together, lambda: train(together, optimizer, stopping=stop, saving=saving), 13
    )
    names = [name for name in whole.history.names if name != "seconds"]
    assert ends >= 2 and np.array_equal(result.x, whole.x)
    for name in names:
        np.testing.assert_array_equal(result.history.column(name), whole.history.column(name))


# Checkpoints that say they are this run's, and are not what it would have written


def put(name, value):
    """Put a value in the place of a data set, or of a number among the facts."""

    def change(file):
        group, _, key = name.rpartition("/")
        if group == "facts":
            file[group or "/"].attrs[key] = value
            return
        if key in file[group or "/"]:
            del file[name]
        file[name] = value

    return change


def without(name):
    def change(file):
        group, _, key = name.rpartition("/")
        del (file[group or "/"].attrs if group == "facts" else file[group or "/"])[key]

    return change


BAD_CHECKPOINTS = {
    "train": {
        "no point": (without("arrays/x"), "/arrays/x is missing"),
        "no gradient": (without("arrays/gradient"), "/arrays/gradient is missing"),
        "short": (put("arrays/x", np.zeros(3)), "/arrays/x has shape (3,) and type float64, expec"),
        "single": (put("arrays/x", np.zeros(12, "f4")), "type float32, expected (12) float64"),
        "swapped": (put("arrays/best", np.zeros(12, ">f8")), "/arrays/best has shape (12,) and ty"),
        "whole": (put("arrays/x", np.zeros(12, int)), "type int64, expected (12) float64"),
        "block": (put("arrays/gradient", np.zeros((12, 1))), "/arrays/gradient has shape (12, 1)"),
        "nan": (put("arrays/x", np.full(12, np.nan)), "/arrays/x holds numbers that are not finit"),
        "best": (put("arrays/best", np.full(12, np.inf)), "/arrays/best holds numbers that are no"),
        "no state": (without("state/radius"), "/state/radius is missing"),
        "state": (put("state/radius", np.zeros(2)), "/state/radius is not a number"),
        "infinite": (put("state/damping", np.inf), "/state/damping is inf, not finite"),
        "vectors": (put("state/eigenvectors", np.zeros((3, 4))), "expected (12, any) float64"),
        "lengths": (put("state/eigenvalues", np.ones(2)), "/state holds arrays of lengths [2, 4]"),
        "value": (put("values/odd", np.zeros(2)), "/values/odd is not a number"),
        "no fact": (without("facts/lowest"), "/facts/lowest is missing"),
        "fact": (put("facts/passes", "many"), "/facts/passes is not a number"),
        "complex": (put("facts/passes", 1j), "/facts/passes is not a number"),
        "objective": (put("facts/objective", np.nan), "/facts/objective is nan, not finite"),
        "history": (put("history/step", np.arange(9.0)), "cannot be read as a checkpoint"),
        "step": (lambda file: file.attrs.modify("step", 7), "/history has 3 rows after 7 steps"),
        "before": (lambda file: file.attrs.modify("step", -1), "attribute step is missing or no"),
        "other": (put("facts/data", "x\ny"), "its run was made with data x y, not "),
        "texts": (put("facts/data", ["a", "b"]), "its run was made with data ['a' 'b'], not "),
    },
    "newton": {
        "short": (put("arrays/x", np.zeros(3)), "/arrays/x has shape (3,)"),
        "nan": (put("arrays/gradient", np.full(12, np.nan)), "/arrays/gradient holds numbers that"),
        "no state": (without("state/rate"), "/state/rate is missing"),
        "lengths": (put("state/eigenvalues", np.ones(2)), "/state holds arrays of lengths [2, 5]"),
        "objective": (put("facts/objective", "low"), "/facts/objective is not a number"),
        "idle": (put("state/idle", np.zeros(2)), "/state/idle is not a number"),
        "no rows": (without("rows"), "/rows is missing"),
        "few rows": (put("rows", np.zeros((5, 1))), "/rows has shape (5, 1)"),
        "flat rows": (put("rows", np.zeros(600)), "/rows has shape (600,)"),
        "rows": (put("rows", np.full((600, 1), np.inf)), "/rows holds numbers that are not finit"),
        "counts": (put("history/passes", np.full(3, np.nan)), "/history/passes is nan, not finite"),
        "columns": (without("history/step"), "/history/step is missing"),
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def begun(alone, tmp_path_factory):
    """How to go on with a run of either command, three steps of which are in a folder of its."""
    ways = {
        "train": lambda folder, steps: train(
            alone,
            NewtonCG(preconditioner="low-rank", rank=4),
            stopping=Stopping(max_steps=steps),
            saving=Saving(str(folder), 3),
        ),
        "newton": lambda folder, steps: newton(
            alone,
            options=replace(OPTIONS, preconditioner="low-rank", max_iterations=steps),
            folder=folder,
            save_every=3,
        ),
    }
    runs = {name: (way, tmp_path_factory.mktemp(name)) for name, way in ways.items()}
    for way, folder in runs.values():
        way(folder, 3)
    return runs


@pytest.mark.serial
@pytest.mark.parametrize(
    "kind, case", [(k, c) for k, cases in BAD_CHECKPOINTS.items() for c in cases]
)
def test_checkpoints_that_do_not_fit_are_refused_in_one_line(begun, tmp_path, kind, case):
    (way, folder), (change, words) = begun[kind], BAD_CHECKPOINTS[kind][case]
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-previous.h5").unlink(missing_ok=True)
    with h5py.File(tmp_path / "run" / "checkpoint.h5", "r+") as file:
        change(file)
    with pytest.raises(InputError) as caught:
        way(tmp_path / "run", 5)
    line = str(caught.value)
    assert words in line and line.isprintable() and str(tmp_path / "run") in line
    assert "remove " in line and len(line) < 2000


@pytest.mark.serial
@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_the_one_before_serves_where_the_last_does_not_fit(begun, tmp_path, kind, caplog):
    way, folder = begun[kind]
    shutil.copytree(folder, tmp_path / "run")
    way(tmp_path / "run", 4)
    with h5py.File(tmp_path / "run" / "checkpoint.h5", "r+") as file:
        put("arrays/x", np.zeros(3))(file)
    assert np.array_equal(way(tmp_path / "run", 5).x, way(tmp_path / "whole", 5).x)
    assert "going on from checkpoint-previous.h5 (step 3)" in caplog.text
