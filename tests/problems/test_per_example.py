"""Gradients of single rows against Keras' own tape and a closed form, over ranks."""

import keras
import numpy as np
import pytest
import scipy.sparse
from functions import Rosenbrock
from marks import two_ranks_but
from shards import mine

import hesscomp as hc
from hesscomp.curvature.networks import dense
from hesscomp.curvature.tensorflow import tf
from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError
from hesscomp.problems import per_example

pytestmark = pytest.mark.ranks

ROWS = 23


def layers_of(name: str) -> list:
    layers, last = (
        keras.layers,
        keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1)),
    )
    return {
        "dense": lambda: [layers.Dense(5, "tanh"), last],
        "convolution": lambda: [
            *(layers.Reshape((4, 4, 1)), layers.Conv2D(2, 2, activation="tanh")),
            *(layers.BatchNormalization(), layers.Flatten(), last),
        ],
        "recurrent": lambda: [layers.Reshape((4, 4)), layers.GRU(3), last],
    }[name]()


def arrays():
    rng = np.random.default_rng(0)
    return rng.standard_normal((ROWS, 16)), rng.integers(0, 3, ROWS)


def by_keras(model, X, y) -> np.ndarray:
    """Each row's gradient by a tape of its own."""
    loss, found = keras.losses.SparseCategoricalCrossentropy(from_logits=True), []
    for i in range(len(X)):
        with tf.GradientTape() as tape:
            value = loss(y[i : i + 1], model(X[i : i + 1], training=False))
        slopes = tape.gradient(value, model.trainable_variables)
        found.append(np.concatenate([np.reshape(slope, -1) for slope in slopes]))
    return np.array(found)


@pytest.mark.parametrize("name", two_ranks_but(["dense"], ["dense", "convolution", "recurrent"]))
def test_each_row_of_a_network(world, name, monkeypatch):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16,)), *layers_of(name)])
    X, y = arrays()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    problem = hc.KerasProblem(model, loss, mine(world, X, y), world, ridge=0.5)
    expected = by_keras(model, X, y)
    found = hc.per_example_gradients(problem)
    assert found.shape == (ROWS, problem.n) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=2e-6)
    x = problem.initial
    _, gradient = problem.objective_and_gradient(x)
    rest = gradient - 0.5 * x - problem.penalty.gradient(tf.constant(x))[1].numpy()
    np.testing.assert_allclose(found.mean(0), rest, atol=1e-12)
    squares = hc.per_example_squared_norms(problem)
    np.testing.assert_allclose(squares, np.sum(found**2, axis=1), rtol=1e-10)
    # Any rows in any order, a few at a time, as on one rank.
    monkeypatch.setattr("hesscomp.problems.differentiable.SQUARED_NUMBERS", 2)
    for rows in ([22, 0, 7, 7], slice(3, 9), -1):
        np.testing.assert_allclose(
            hc.per_example_gradients(problem, rows=rows), np.atleast_2d(found[rows]), atol=1e-13
        )
        some = hc.per_example_squared_norms(problem, rows=rows)
        np.testing.assert_allclose(some, np.atleast_1d(squares[rows]), rtol=1e-12)


L = keras.layers
PLACES = {  # with more pairs of places than entries of the kernel, and with fewer
    "gradients": [L.Reshape((4, 4, 1)), L.Conv2D(2, 2, padding="same"), L.Flatten()],
    "pairs": [L.Reshape((2, 2, 4)), L.Conv2D(5, 2, padding="same"), L.Flatten()],
    "strided": [L.Reshape((4, 4, 1)), L.Conv2D(3, 3, strides=2, padding="same", use_bias=False),
                L.BatchNormalization(), L.Flatten()],
    "dilated": [L.Reshape((8, 2)), L.Conv1D(3, 2, dilation_rate=2, padding="causal"),
                L.LayerNormalization(), L.Flatten()],
    "sequence": [L.Reshape((4, 4)), L.Dense(3, "tanh"), L.Dense(2), L.Flatten()],
}  # fmt: skip


@pytest.mark.serial
@pytest.mark.parametrize(
    ("name", "at_once"),
    [("gradients", 2000), ("pairs", 300), ("strided", 1), ("dilated", 2**22), ("sequence", 200)],
)
def test_norms_of_convolutions_without_gradients(world, name, at_once, monkeypatch):
    """Of all rows, of one at a time, and of some with a rest."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16,)), *PLACES[name], L.Dense(3)])
    problem = hc.KerasProblem(model, "softmax-cross-entropy", arrays(), world, dtype="float64")
    expected = np.sum(hc.per_example_gradients(problem) ** 2, axis=1)
    monkeypatch.setattr(problem, "row_gradients", None)
    monkeypatch.setattr(dense, "AT_ONCE", at_once)
    found = hc.per_example_squared_norms(problem)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.ranks(most=2)
def test_frozen_and_shared_layers(world):
    keras.utils.set_random_seed(1)
    shared, frozen = keras.layers.Dense(16, "tanh"), keras.layers.Dense(4, trainable=False)
    X, y = arrays()
    for layers in ([shared, shared], [frozen]):
        model = keras.Sequential([keras.Input((16,)), *layers, keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        problem = hc.KerasProblem(model, loss, mine(world, X, y), world)
        found = hc.per_example_gradients(problem)
        np.testing.assert_allclose(found, by_keras(model, X, y), atol=2e-6)
        squares = hc.per_example_squared_norms(problem)
        np.testing.assert_allclose(squares, np.sum(found**2, axis=1), rtol=1e-10)


@pytest.mark.parametrize("sparse", [False, True])
def test_logistic_regression(world, sparse):
    X, y = arrays()
    y = np.where(y > 0, 1.0, -1.0)
    mine_X, mine_y = mine(world, X, y)
    data = from_arrays(scipy.sparse.csr_array(mine_X) if sparse else mine_X, mine_y, world)
    problem = hc.LogisticRegression(data, world, ridge=0.1)
    x = np.random.default_rng(1).standard_normal(16)
    expected = (-y / (1 + np.exp(y * (X @ x))))[:, None] * X
    found = hc.per_example_gradients(problem, at=x)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    gradient = problem.objective_and_gradient(x)[1]
    np.testing.assert_allclose(found.mean(0) + 0.1 * x, gradient, atol=1e-14)
    np.testing.assert_allclose(
        hc.per_example_squared_norms(problem, at=x), np.sum(expected**2, 1), rtol=1e-10
    )
    some = problem.sampled(0.5, seed=2)
    found = hc.per_example_gradients(some, at=x)
    assert found.shape == (some.rows, 16) and some.rows < ROWS
    np.testing.assert_allclose(
        found.mean(0) + 0.1 * x, some.objective_and_gradient(x)[1], atol=1e-14
    )


def test_a_function(world):
    def loss_sum(theta, X, y):
        return tf.reduce_sum(tf.math.log1p(tf.square(tf.linalg.matvec(X, theta) - y)))

    X, y = arrays()
    x = np.random.default_rng(1).standard_normal(16)
    problem = hc.FunctionProblem(loss_sum, x, mine(world, X, y.astype(float)), world)
    miss = X @ x - y
    expected = (2 * miss / (1 + miss**2))[:, None] * X
    np.testing.assert_allclose(hc.per_example_gradients(problem), expected, atol=1e-12)
    squares = hc.per_example_squared_norms(problem)
    np.testing.assert_allclose(squares, np.sum(expected**2, 1), rtol=1e-10)


def test_what_cannot_be_is_refused(world, monkeypatch):
    X, y = arrays()
    y = np.where(y > 0, 1.0, -1.0)
    problem = hc.LogisticRegression(from_arrays(*mine(world, X, y), world), world)
    with pytest.raises(InputError, match="`rows` must be numbers of rows from 0 to 22"):
        hc.per_example_gradients(problem, rows=[23])
    monkeypatch.setattr(per_example, "fits_in_memory", lambda *_: False)
    with pytest.raises(InputError, match=r"23 rows by 16 .* give fewer `rows`, or take"):
        hc.per_example_gradients(problem)
    with pytest.raises(InputError, match="lacks the capability 'gradients of single rows'"):
        hc.per_example_squared_norms(Rosenbrock(world, 2))
