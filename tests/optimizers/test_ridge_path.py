"""Paths of ridges with cross-validation: against separate fits, on any number of ranks."""

import numpy as np
import pytest
import scipy.sparse
from marks import serial_but
from shards import own_rows

import hesscomp as hc
from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError
from hesscomp.optimizers.options import NewtonOptions
from hesscomp.optimizers.ridge_path import RidgePath

pytestmark = pytest.mark.ranks
ROWS, N = 150, 12
RIDGES = (1e-2, 1.0)
OPTIONS = NewtonOptions("pcg", 1e-9, rank=4)


def problem(world, how="uneven", family="logistic", storage="dense"):
    rng = np.random.default_rng(4)
    X = rng.standard_normal((ROWS, N)) * 0.5 ** np.arange(N)
    y = np.argmax(X @ rng.standard_normal((N, 3)) + rng.gumbel(size=(ROWS, 3)), axis=1)
    mine = own_rows(world, ROWS, how)
    part = scipy.sparse.csr_array(X[mine]) if storage == "sparse" else X[mine]
    targets, y = ("classes", y) if family == "softmax" else ("signs", np.minimum(y, 1))
    data = from_arrays(part, y[mine], world, targets=targets)
    kind = hc.SoftmaxRegression if family == "softmax" else hc.LogisticRegression
    return kind(data, world, ridge=0.5, dtype="float64", intercept=True)


@pytest.mark.parametrize(
    "family, storage",
    serial_but([("logistic", "sparse")], [("logistic", "sparse"), ("softmax", "dense")]),
)
def test_a_path_is_the_fits_that_it_stands_for(world, family, storage):
    made = problem(world, "uneven", family, storage)
    path = hc.ridge_path(made, RIDGES, folds=2, options=OPTIONS)
    np.testing.assert_array_equal(path.ridges, np.sort(RIDGES)[::-1])
    for ridge, x, objective in zip(path.ridges, path.coefficients, path.objectives, strict=True):
        made.ridge = ridge
        assert np.linalg.norm(made.objective_and_gradient(x)[1]) < 1e-9
        assert made.objective(x) == pytest.approx(objective, rel=1e-12)
    alone = hc.World.serial()
    same = hc.ridge_path(
        problem(alone, "uneven", family, storage), RIDGES, folds=2, options=OPTIONS
    )
    np.testing.assert_allclose(path.held_out, same.held_out, rtol=1e-6)
    assert path.best == same.best and path.simplest <= path.best
    assert path.sketches < 3 * len(RIDGES)  # most fits take a factor that was made before


def test_rows_left_out_are_those_of_a_smaller_problem(world):
    made = problem(world)
    rows = np.arange(len(made.shard.y)) % 3 == 1
    fewer = made.leaving_out(rows)
    keep = from_arrays(made.shard.X[~rows], made.shard.y[~rows], world)
    other = hc.LogisticRegression(keep, world, ridge=0.5, dtype="float64", intercept=True)
    x = np.linspace(-1, 1, made.n)
    for found, wanted in zip(
        fewer.objective_and_gradient(x), other.objective_and_gradient(x), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert fewer.rows == other.rows
    assert fewer.accuracy(x, fewer.shard) <= 1 and fewer.right_predictions(x)[1] == sum(~rows)


def test_what_is_refused(world):
    made = problem(world)
    with pytest.raises(InputError, match="finite numbers above 0"):
        hc.ridge_path(made, [0.0, 1.0])
    with pytest.raises(InputError, match="`folds` must be at least 2"):
        hc.ridge_path(made, [1.0], folds=1)
    with pytest.raises(InputError, match="has no rows of weight above 0; take fewer folds"):
        hc.ridge_path(made, [1.0], folds=ROWS)
    y = np.array([0, 2] * 4) if world.rank == 0 else np.zeros(0, int)
    data = from_arrays(np.ones((len(y), 1)), y, world, targets="classes")
    with pytest.raises(InputError, match="class '1' has no rows"):
        hc.SoftmaxRegression(data, world, intercept=True)


def test_folds_count_by_their_weights():
    held = np.array([[1.0], [4.0]])
    path = RidgePath(np.ones(1), held, np.ones(1), held, weights=np.array([2.0, 1.0]))
    assert path.losses[0] == 2 and path.errors[0] == pytest.approx(np.sqrt(2))
