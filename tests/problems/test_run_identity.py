"""Run identities: equal where the same is computed, else with at least one entry that differs."""

import numpy as np
import pytest
from shards import block_rows

from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.datasets import load_dataset
from hesscomp.errors import InputError
from hesscomp.optimizers.first_order import SGD
from hesscomp.optimizers.loop import Saving, Stopping, train
from hesscomp.optimizers.newton import NewtonOptions, newton
from hesscomp.problems.function import FunctionProblem
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.logistic import LogisticRegression

pytestmark = pytest.mark.ranks(most=3)
layers = keras.layers
X = np.random.default_rng(0).standard_normal((7, 4))
Y = np.arange(7) % 3


def network(world, activation="tanh", loss="softmax-cross-entropy", **options):
    """Of other names and other numbers each time: neither are what a run is of."""
    stack = [layers.Dense(2, activation), layers.BatchNormalization(), layers.Dense(3)]
    rows = block_rows(world, len(X))
    model = keras.Sequential([layers.Input((4,)), *stack], name="net")
    return KerasProblem(model, loss, (X[rows], Y[rows]), world, **options)


def function(world, power, weights):
    def loss_sum(theta, X, y):
        return tf.reduce_sum(tf.cast(weights[:4], theta.dtype) * (X * theta) ** power)

    rows = block_rows(world, len(X))
    return FunctionProblem(loss_sum, np.ones(4), (X[rows], Y[rows]), world)


def differing(left, right, x=None):
    """The names of the entries in which two problems' run identities differ."""
    x = np.zeros(left.n)
    left, right = left.run_identity(x), right.run_identity(x)
    assert left.keys() == right.keys()
    return {name for name in left if left[name] != right[name]}


@pytest.mark.ranks(most=2)
def test_what_networks_differ_in(world):
    known = network(world)
    assert differing(known, network(world)) == set()
    assert len(set(map(str, world.gather(known.run_identity(np.zeros(known.n)))))) == 1
    assert differing(known, network(world, "relu")) == {"model"}
    assert differing(known, network(world, ridge=0.1)) == {"ridge"}
    assert differing(known, network(world, loss=lambda y, f: f[:, 0] ** 2)) == {"loss", "model"}
    averages = network(world)
    averages.set_fixed([values + 1 for values in averages.fixed])
    assert differing(known, averages) == {"fixed weights"}
    assert differing(known, known.sampled(0.7, 1)) == {"sample", "rows"}


@pytest.mark.ranks(most=2)
def test_fixed_weights_of_many_layers_have_one_order(world):
    """Each is another model with the same numbers, as in a process that goes on with a run."""
    found = set()
    for _ in range(3):
        stack = [layers.BatchNormalization() for _ in range(6)]
        model = keras.Sequential([layers.Input((4,)), *stack, layers.Dense(3)], name="net")
        rng = np.random.default_rng(1)
        for weight in model.weights:
            weight.assign(rng.uniform(0.5, 1, weight.shape))
        problem = KerasProblem(model, "softmax-cross-entropy", (X, Y), world)
        found.add(problem.run_identity(problem.initial)["fixed weights"])
    assert len(found) == 1


def test_what_functions_differ_in(world):
    weights = tf.range(200.0)
    known = function(world, 2, weights)
    assert differing(known, function(world, 2, weights)) == set()
    assert differing(known, function(world, 4, weights)) == {"model"}
    assert differing(known, function(world, 2, weights + 1)) == {"fixed weights"}


def test_a_folder_of_another_run_is_refused(world, shared_tmp):
    data = load_dataset("adult", world)

    def problem(ridge=1e-3, dtype="float64"):
        return LogisticRegression(data, world, ridge=ridge, dtype=dtype)

    def steps(problem, x0=None, most=2):
        saving = Saving(str(shared_tmp / "train"), every=1)
        return train(problem, SGD(), x0, stopping=Stopping(most), saving=saving)

    def solved(problem, x0=None):
        options = NewtonOptions(solver="direct", max_iterations=1)
        return newton(problem, x0, options=options, folder=shared_tmp / "newton")

    for work in (steps, solved):
        work(problem())
        with pytest.raises(InputError, match=r"made with ridge 0\.001, not 0\.1"):
            work(problem(0.1))
        with pytest.raises(InputError, match="made with dtype float64, not float32"):
            work(problem(dtype="float32"))
        with pytest.raises(InputError, match="made from another start: a model"):
            work(problem(), np.ones(109))
    assert steps(problem(), most=3).steps == 3
    saving = Saving(str(shared_tmp / "train"), every=1)
    with pytest.raises(InputError, match="made without test rows, and this one has some; name"):
        train(problem(), SGD(), stopping=Stopping(4), saving=saving, test=data)
