"""Newton's method ended by a signal at any block product, and gone on with: the same bits."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from test_optimizers import synthetic_rows

from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError, Interrupted
from hesscomp.optimizers.loop import Saving, Stopping, train
from hesscomp.optimizers.newton import NewtonOptions, newton
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.runs.checkpoint import load_checkpoint
from hesscomp.runs.slabs import slabs_of

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
    names = {path.name for path in folder.iterdir() if path.suffix != ".slab"}
    assert names == {"checkpoint.h5", "checkpoint-previous.h5", "checkpoint-damaged.h5"}
    with pytest.raises(InputError, match="made with options"):
        newton(together, options=replace(OPTIONS, rank=6), folder=folder)


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
