"""Test rows: the loss and the accuracy on them, against Keras' and scikit-learn's."""

import numpy as np
import pytest
import scipy.sparse
from mpi4py import MPI
from shards import block_rows, own_rows

from hesscomp.cli.main import main
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError
from hesscomp.optimizers.batches import Sampling
from hesscomp.optimizers.first_order import SGD
from hesscomp.optimizers.loop import Saving, Stopping, train
from hesscomp.parallel.world import World
from hesscomp.problems.evaluation import HeldOut
from hesscomp.problems.function import FunctionProblem
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.logistic import LogisticRegression

TRAIN, TEST = 60, 37
LOSSES = {  # output, activation, targets and Keras' metric
    "sparse_categorical_crossentropy": (3, "softmax", "classes", "sparse_categorical_accuracy"),
    "categorical_crossentropy": (3, "softmax", "one-hot", "categorical_accuracy"),
    "binary_crossentropy": (1, "sigmoid", "binary", "binary_accuracy"),
    "mean_absolute_error": (2, None, "values", None),
}
TARGETS = {
    "classes": lambda rng, m: rng.integers(0, 3, m),
    "one-hot": lambda rng, m: np.eye(3)[rng.integers(0, 3, m)],
    "binary": lambda rng, m: rng.integers(0, 2, (m, 1)),
    "values": lambda rng, m: rng.standard_normal((m, 2)),
}


def network(outputs, activation):
    layers = [
        keras.layers.Dense(5, "tanh", kernel_regularizer="l2"),
        keras.layers.Dense(outputs, activation),
    ]
    model = keras.Sequential([keras.Input((4, 1)), keras.layers.Flatten(), *layers])
    weights = np.random.default_rng(1)
    model.set_weights([weights.standard_normal(w.shape) for w in model.get_weights()])
    return model


@pytest.mark.ranks
@pytest.mark.parametrize("loss", LOSSES)
def test_networks_against_keras(world, loss):
    """Keras adds the regulariser to what it evaluates; the test loss has none."""
    outputs, activation, targets, metric = LOSSES[loss]
    rng, model = np.random.default_rng(7), network(outputs, activation)
    X, y = rng.standard_normal((TRAIN, 4)), TARGETS[targets](rng, TRAIN)
    here = own_rows(world, TRAIN, "even")
    problem = KerasProblem(model, loss, (X[here], y[here]), world, ridge=0.1, check="off")
    X, y = rng.standard_normal((TEST, 4)), TARGETS[targets](rng, TEST)
    model.compile(loss=loss, metrics=[metric] if metric else [])
    theirs = model.evaluate(X.reshape(-1, 4, 1), y, verbose=0, return_dict=True)
    for cut in ("uneven", "on one"):
        here = own_rows(world, TEST, cut)
        found = HeldOut(problem, (X[here], y[here]))(problem.initial)
        assert found.rows == TEST
        assert found.loss == pytest.approx(theirs["loss"] - float(sum(model.losses)), rel=1e-5)
        if metric is None:
            assert found.accuracy is None and list(found.columns()) == ["test_loss"]
        else:
            assert found.accuracy == pytest.approx(theirs[metric], rel=1e-6)
            assert 0 < round(found.accuracy * TEST) < TEST


@pytest.mark.ranks
@pytest.mark.parametrize("cut", ["even", "uneven", "on one"])
@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
def test_logistic_regression_against_scikit_learn(world, form, cut):
    linear = pytest.importorskip("sklearn.linear_model")
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    X = rng.standard_normal((TRAIN + TEST, 5))
    y = np.where(X @ rng.standard_normal(5) + rng.standard_normal(len(X)) > 0, 1, -1)
    theirs = linear.LogisticRegression(C=1 / (0.1 * TRAIN), fit_intercept=False, tol=1e-12)
    theirs.fit(X[:TRAIN], y[:TRAIN])
    parts = []
    for first, total in ((0, TRAIN), (TRAIN, TEST)):
        here = own_rows(world, total, "even" if first == 0 else cut)
        parts.append((form(X[first:][here]), y[first:][here]))
    data = from_arrays(*parts[0], world, test=parts[1])
    problem = LogisticRegression(data, world, ridge=0.1)
    x = theirs.coef_[0]
    for source in (data, parts[1]):
        found = HeldOut(problem, source)(x)
        loss = metrics.log_loss(y[TRAIN:], theirs.predict_proba(X[TRAIN:]))
        assert found.loss == pytest.approx(loss, rel=1e-12)
        assert found.accuracy == theirs.score(X[TRAIN:], y[TRAIN:]) and found.rows == TEST
    assert problem.ridge == 0.1 and problem.rows == TRAIN  # nothing of it has changed


@pytest.mark.ranks
def test_signs_from_a_data_set_are_coded_as_the_loss_takes_them(world):
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((TEST, 4)), np.where(rng.random(TEST) < 0.5, -1, 1)
    here = own_rows(world, TEST, "uneven")
    data = from_arrays(X[here], y[here], world, test=(X[here], y[here]))
    model = network(1, "sigmoid")
    problem = KerasProblem(model, "binary_crossentropy", data, world, check="off")
    found = HeldOut(problem, data)(problem.initial)
    probabilities = np.asarray(model(X.reshape(-1, 4, 1)))[:, 0]
    assert found.accuracy == np.mean((probabilities > 0.5) == (y > 0))


@pytest.fixture
def problem_and_test(world):
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((TRAIN, 4)), rng.integers(0, 3, TRAIN)
    here = own_rows(world, TRAIN, "even")
    problem = KerasProblem(
        network(3, "softmax"), "sparse_categorical_crossentropy", (X[here], y[here]), world,
        dtype="float64", check="off",
    )  # fmt: skip
    X, y = rng.standard_normal((TEST, 4)), rng.integers(0, 3, TEST)
    here = own_rows(world, TEST, "on one")
    return problem, (X[here], y[here])


@pytest.mark.ranks
def test_a_history_has_test_figures_where_the_objective_is_known(problem_and_test, shared_tmp):
    problem, test = problem_and_test
    judge, points = HeldOut(problem, test), []
    options = {
        "sampling": Sampling(gradient=0.5),
        "evaluate_every": 3,
        "callbacks": (lambda row, x: points.append(x),),
    }
    result = train(problem, SGD(0.1), stopping=Stopping(max_steps=7), test=test, **options)
    plain = train(problem, SGD(0.1), stopping=Stopping(max_steps=7), **options)
    columns = result.history.columns()
    extra = {"test_loss", "test_accuracy"}
    assert set(columns) == set(plain.history.columns()) | extra and plain.test is None
    assert np.array_equal(result.x, plain.x)
    for name in ("objective", "passes", "columns", "work", "words"):
        assert np.array_equal(columns[name], plain.history.column(name))
    known = np.isfinite(columns["full_objective"])
    assert np.flatnonzero(known).tolist() == [0, 3, 6, 7]
    for name in extra:
        assert np.array_equal(np.isfinite(columns[name]), known)
    for step in (3, 7):
        assert columns["test_loss"][step] == judge(points[step]).loss
    assert result.test == judge(result.best)

    saving = Saving(str(shared_tmp), every=1)
    for steps in (3, 7):
        rest = train(
            problem, SGD(0.1), stopping=Stopping(max_steps=steps), test=test, saving=saving,
            **options,
        )  # fmt: skip
    np.testing.assert_array_equal(rest.history.column("test_loss"), columns["test_loss"])
    other = test[0] + 1, test[1]
    with pytest.raises(InputError, match="test rows"):
        train(problem, SGD(0.1), test=other, saving=saving, **options)


@pytest.mark.ranks
def test_reproducible_figures_do_not_depend_on_the_ranks(world):
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((TRAIN, 4)), rng.integers(0, 3, TRAIN)
    found = []
    for each in (World(world.comm, reproducible=True), World(MPI.COMM_SELF, reproducible=True)):
        here = block_rows(each, TRAIN)
        problem = KerasProblem(
            network(3, "softmax"), "sparse_categorical_crossentropy", (X[here], y[here]), each,
            check="off",
        )  # fmt: skip
        found.append(HeldOut(problem, (X[here], y[here]))(problem.initial))
    assert found[0] == found[1]


@pytest.mark.ranks
def test_bad_test_rows(world, problem_and_test):
    problem, (X, y) = problem_and_test
    with pytest.raises(InputError, match="do not fit"):
        HeldOut(problem, (X[:, :3], y))
    if len(X):
        with pytest.raises(InputError, match=r"class . does not fit"):
            HeldOut(KerasProblem(problem.model, problem.loss, (X, y), World.serial()), (X, y + 3))
    data = from_arrays(np.eye(4), [1, 1, -1, 1], World.serial())
    with pytest.raises(InputError, match="has no test rows"):
        HeldOut(LogisticRegression(data, World.serial()), data)
    with pytest.raises(InputError, match="has 3 columns; logistic-regression has 4"):
        HeldOut(LogisticRegression(data, World.serial()), (np.ones((2, 3)), np.array([1, -1])))


def test_a_functions_loss_without_an_accuracy():
    X, y = np.arange(6.0)[:, None], np.arange(6.0)
    problem = FunctionProblem(
        lambda theta, X, y: tf.reduce_sum((X[:, 0] * theta[0] - y) ** 2),
        np.ones(1), (X, y), World.serial(), ridge=1.0,
    )  # fmt: skip
    found = HeldOut(problem, (X[:3], y[:3] + 1))(np.array([2.0]))
    assert found.loss == pytest.approx(np.mean((X[:3, 0] * 2 - y[:3] - 1) ** 2))
    assert found.accuracy is None


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "t"):
        np.savez(tmp_path / f"{name}.npz", X=rng.standard_normal((20, 2)), y=rng.integers(0, 2, 20))
    return [str(tmp_path / "a.npz"), "--test", str(tmp_path / "t.npz")]


@pytest.mark.serial
def test_train_and_newton_say_the_test_figures(files, capsys):
    assert main(["train", "--optimizer", "sgd", "--max-steps", "2", "--data", *files]) == 0
    rows = capsys.readouterr().out
    assert "test_loss" in rows and "test_accuracy" in rows
    (line,) = [line for line in rows.splitlines() if line.startswith("test, at that point: loss")]
    assert ", accuracy " in line and line.endswith("over 20 rows")
    assert main(["newton", "--data", *files]) == 0
    assert "; test: loss 0." in capsys.readouterr().out


@pytest.mark.parametrize("command", ["compress", "spectrum", "update", "figure"])
def test_commands_that_compute_nothing_on_test_rows_refuse_them(files, capsys, command):
    with pytest.raises(SystemExit) as ended:
        main([command, "--out", "f.h5", "--data", *files])
    assert ended.value.code == 2
