"""Networks: operators and engines against dense matrices by TensorFlow's own differentiation."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import scipy.special
from keras_oracle import in_float64
from marks import serial_but, slow_but, two_ranks_but
from oracles import by_rank_0, check_operator, dense
from shards import mine, own_rows

from hesscomp.compression import compress
from hesscomp.curvature.chunks import PAUSES, Budget
from hesscomp.curvature.finite_difference import FiniteDifferenceHessian
from hesscomp.curvature.gauss_newton import (
    EmpiricalFisherOperator,
    FisherOperator,
    GaussNewtonOperator,
    MonteCarloFisherOperator,
)
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.jacobian import Jacobian
from hesscomp.curvature.networks.layers import ELEMENTWISE, RULES
from hesscomp.curvature.restriction import BlockDiagonal, Restricted
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.datasets import load_dataset
from hesscomp.errors import InputError, Interrupted
from hesscomp.estimators import diagonal_factor
from hesscomp.parallel.layout import Replicated
from hesscomp.parallel.world import World
from hesscomp.problems.catalogue import NAMED_PROBLEMS
from hesscomp.problems.function import FunctionProblem
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.models import build_network

pytestmark = pytest.mark.ranks
layers = keras.layers
ROWS = 7
SMOOTH = {"activation": "softplus"}


def sequential(shape, *stack, outputs=3):
    return keras.Sequential(
        [layers.Input(shape), *stack, layers.Flatten(), layers.Dense(outputs)], name="net"
    )


def mlp(outputs=3):
    return sequential(
        (4,), layers.Dense(5, activation="sigmoid"), layers.Dense(3, activation="tanh"),
        outputs=outputs,
    )  # fmt: skip


def graph():
    """A graph with shared layers, a model within the model, and everything that merges."""
    data = layers.Input((4,))
    shared = layers.Dense(4, activation="silu", name="shared")
    left, right = shared(data), shared(layers.Dense(4, **SMOOTH)(data))
    inner = keras.Sequential([layers.Input((4,)), layers.Dense(4, activation="gelu")])
    parts = [
        layers.Add()([left, right, data]),
        layers.Subtract()([left, right]),
        layers.Average()([left, inner(right)]),
        layers.Multiply()([left, inner(data)]),
    ]
    joined = layers.Concatenate()([data, *parts])
    return keras.Model(data, layers.Dense(3)(layers.Dropout(0.5)(joined)))


def text():
    words = layers.Input((5,), dtype="int32")
    vectors = layers.Embedding(6, 3)(words)
    deep = layers.Dense(3, **SMOOTH)(vectors)
    both = layers.Concatenate(axis=1)([vectors, deep])
    return keras.Model(words, layers.Dense(3)(layers.GlobalMaxPooling1D()(both)))


def through(x, *stack):
    for layer in stack:
        x = layer(x)
    return x


def points():
    """Layers that know no space: every activation, both normalisations, noise, all that merges."""
    data = layers.Input((4,))
    hidden = through(data, layers.Rescaling(0.5, 0.1), layers.Dense(3), layers.Identity())
    activations = [layers.Activation(name) for name in [*sorted(ELEMENTWISE), "softmax"]]
    activations += [layers.ReLU(1.5, 0.1), layers.LeakyReLU(0.2), layers.ELU(), layers.Softmax()]
    left = through(
        layers.Add()([activation(hidden) for activation in activations]),
        *(layers.LayerNormalization(), layers.Dropout(0.5), layers.AlphaDropout(0.5)),
    )
    right = through(
        hidden,
        layers.BatchNormalization(),
        layers.GaussianDropout(0.5),
        layers.GaussianNoise(0.5),
        *(layers.BatchNormalization(center=center, scale=False) for center in (True, False)),
    )
    merged = [kind()([left, right]) for kind in (layers.Subtract, layers.Average, layers.Multiply)]
    return keras.Model(data, layers.Dense(3)(layers.Concatenate()(merged)))


def line():
    """Layers over one axis of space."""
    words = layers.Input((8,), dtype="int32")
    x = through(
        words, layers.Embedding(6, 2), layers.SpatialDropout1D(0.5),
        layers.Conv1D(2, 3, padding="same", dilation_rate=2, **SMOOTH),
        layers.ZeroPadding1D(1), layers.DepthwiseConv1D(2, strides=2, use_bias=False, **SMOOTH),
        layers.UpSampling1D(2), layers.Cropping1D((1, 0)),
        layers.DepthwiseConv1D(2, dilation_rate=3, depth_multiplier=2, activation="tanh"),
    )  # fmt: skip
    parts = [
        through(x, layers.MaxPooling1D(3, 2, padding="same"), layers.GlobalAveragePooling1D()),
        through(x, layers.AveragePooling1D(2), layers.GlobalMaxPooling1D()),
        through(x, layers.Permute((2, 1)), layers.Reshape((-1, 3)), layers.GlobalMaxPooling1D()),
    ]
    return keras.Model(words, layers.Dense(3)(layers.Concatenate()(parts)))


def plane():
    """Layers over two axes of space."""
    pixels = layers.Input((5, 6, 1))
    x = through(
        pixels, layers.ZeroPadding2D(((1, 0), (2, 1))), layers.Conv2D(2, 2, strides=2, **SMOOTH),
        layers.SpatialDropout2D(0.5), layers.UpSampling2D(2), layers.Cropping2D(((0, 1), (1, 0))),
        layers.DepthwiseConv2D(2, strides=2, padding="same", activation="tanh"),
        layers.Conv2D(2, (2, 1), padding="same", dilation_rate=2, use_bias=False, **SMOOTH),
        layers.DepthwiseConv2D((1, 2), dilation_rate=2, **SMOOTH),
    )  # fmt: skip
    parts = [
        through(x, layers.MaxPooling2D(2, 1), layers.GlobalAveragePooling2D()),
        through(x, layers.AveragePooling2D(2, padding="same"), layers.GlobalMaxPooling2D()),
        through(x, layers.Flatten()),
    ]
    return keras.Model(pixels, layers.Dense(3)(layers.Concatenate()(parts)))


NETWORKS = {
    "dense": mlp, "graph": graph, "text": text, "points": points, "line": line, "plane": plane,
}  # fmt: skip
ON_RANKS = ("graph", "text")  # what several ranks do is the same for all of them


def rows(model, seed=1):
    rng = np.random.default_rng(seed)
    shape = (ROWS, *model.input_shape[1:])
    if "int" in model.inputs[0].dtype:
        return rng.integers(0, 6, shape), rng.integers(0, 3, ROWS)
    return rng.standard_normal(shape), rng.integers(0, 3, ROWS)


_KNOWN: dict = {}  # by model, loss and rows


def dense_matrices(model, loss, X, y):
    """Hessian, Gauss-Newton matrix, (outputs, n) Jacobian and gradient on all rows, from rank 0."""
    key = id(model), loss, np.asarray(X).tobytes(), np.asarray(y).tobytes()
    if key not in _KNOWN:  # with the model, so that no other gets its id
        _KNOWN[key] = model, by_rank_0(World(), _by_tensorflow, model, loss, X, y)
    return _KNOWN[key][1]


def _by_tensorflow(model, loss, X, y):
    variables = model.trainable_variables
    weights = [variable.value for variable in variables]
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(weights)
        with tf.GradientTape() as inner:
            inner.watch(weights)
            with patch.object(layers.LayerNormalization, "call", _normalized):
                output = model(X)
            value = tf.reduce_sum(loss(y, output))
        slopes = inner.gradient(value, weights)
        flat = tf.concat([tf.reshape(slope, [-1]) for slope in slopes], 0)

    def joined(parts, count):
        return np.concatenate([np.reshape(part, (count, -1)) for part in parts], axis=1)

    H = joined(outer.jacobian(flat, weights), len(flat))
    J = joined(outer.jacobian(output, weights), int(np.prod(output.shape)))
    point = tf.constant(output)
    with tf.GradientTape() as outer:
        outer.watch(point)
        with tf.GradientTape() as inner:
            inner.watch(point)
            value = tf.reduce_sum(loss(y, point))
        slope = inner.gradient(value, point)
    B = outer.jacobian(slope, point, unconnected_gradients=tf.UnconnectedGradients.ZERO).numpy()
    B = B.reshape(J.shape[0], J.shape[0])
    return H / len(X), J.T @ B @ J / len(X), J, flat.numpy() / len(X)


def _normalized(layer, x):
    """Layer normalisation by its definition; Keras' own holds the mean in the variance fixed."""
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(centred**2, -1, keepdims=True)
    return centred / tf.sqrt(variance + layer.epsilon) * layer.gamma + layer.beta


def softmax_loss(y, output):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, output)


def two_rows_at_a_time(monkeypatch):
    """So that the last piece of an odd shard is ragged."""
    monkeypatch.setattr(Budget, "rows", lambda *_: 2)


@pytest.mark.serial
def test_every_layer_with_a_rule_is_in_a_network(world):
    used = {type(layer) for make in NETWORKS.values() for layer in make().layers}
    assert set(RULES) <= used


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("name", ["graph", "text", "line", "plane"])
def test_engines_agree_on_every_layer(world, monkeypatch, name):
    test_every_layer_against_dense_matrices(world, monkeypatch, name, ("layer-wise", "generic"))


@pytest.mark.parametrize(
    "name",
    [
        *two_ranks_but(["text"], ON_RANKS),
        *serial_but([], sorted({*NETWORKS} - {"line", *ON_RANKS})),
    ],
)
def test_every_layer_against_dense_matrices(world, monkeypatch, name, engines=("layer-wise",)):
    two_rows_at_a_time(monkeypatch)
    model = in_float64(NETWORKS[name])
    X, y = rows(model)
    H, G, _, gradient = dense_matrices(model, softmax_loss, X, y)
    # What ranks do with an engine's sums is the same for both, and in either precision. The generic
    # engine knows no second derivatives of the normalisation in points.
    if name == "dense":
        engines = ("layer-wise", "generic")
    problems = {
        engine: KerasProblem(
            model, "softmax-cross-entropy", mine(world, X, y), world, dtype="float64", engine=engine
        )
        for engine in engines
    }
    products = []
    for engine, problem in problems.items():
        assert problem.engine.name == engine
        x = problem.initial
        np.testing.assert_allclose(problem.objective_and_gradient(x)[1], gradient, atol=1e-12)
        hessian, gauss_newton = HessianOperator(problem, x), GaussNewtonOperator(problem, x)
        if engine == "layer-wise" or name == "dense":
            check_operator(hessian, H, 1e-11)
            check_operator(gauss_newton, G, 1e-11)
        V = np.random.default_rng(3).standard_normal((problem.n, 5))
        products.append([hessian @ V, gauss_newton @ V])
        check_norms(products[-1][0], H @ V, 1e-11)
        check_norms(products[-1][1], G @ V, 1e-11)
        check_norms(FiniteDifferenceHessian(problem, x) @ V[:, :2], H @ V[:, :2], 1e-6)
    for layerwise, other in zip(products[0], products[-1], strict=True):
        assert np.linalg.norm(layerwise - other) <= 1e-12 * np.linalg.norm(other)
    if world.size > 1 or name not in ("dense", "plane"):
        return
    single = KerasProblem(model, "softmax-cross-entropy", mine(world, X, y), world)
    assert single.engine.name == "layer-wise"
    check_norms(HessianOperator(single, x) @ V, H @ V, 1e-5)


def check_norms(found, expected, tolerance):
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.serial
def test_layer_normalization_against_differences(world):
    """TensorFlow's own second derivatives of it are wrong: its moments hold back a gradient."""
    model = in_float64(
        lambda: sequential((4,), layers.Dense(5, **SMOOTH), layers.LayerNormalization())
    )
    data = mine(world, *rows(model))
    problem = KerasProblem(model, "softmax-cross-entropy", data, world, dtype="float64")
    x = problem.initial
    differences = FiniteDifferenceHessian(problem, x).to_dense()
    hessian = HessianOperator(problem, x).to_dense()
    assert np.linalg.norm(hessian - differences) <= 1e-8 * np.linalg.norm(hessian)
    generic = KerasProblem(
        model, "softmax-cross-entropy", data, world, dtype="float64", engine="generic"
    )
    gauss_newton = [GaussNewtonOperator(p, x).to_dense() for p in (problem, generic)]
    np.testing.assert_allclose(*gauss_newton, atol=1e-12)
    other = HessianOperator(generic, x).to_dense()
    assert np.linalg.norm(hessian - other) <= 1e-12 * np.linalg.norm(hessian)


def keras_mse(y, output):
    return tf.reduce_mean(tf.square(y - output), -1)


@pytest.mark.serial
@pytest.mark.parametrize(
    "loss, reference",
    [
        ("sigmoid-cross-entropy", lambda y, f: tf.nn.sigmoid_cross_entropy_with_logits(y, f)),
        ("squared-error", lambda y, f: tf.square(y - f) / 2),
        (keras.losses.MeanSquaredError(), keras_mse),
        (keras.losses.CategoricalCrossentropy(from_logits=True),
         lambda y, f: tf.nn.softmax_cross_entropy_with_logits(y, f)),
        ("softmax-cross-entropy", lambda y, f: tf.nn.softmax_cross_entropy_with_logits(y, f)),
        (keras_mse, keras_mse),
    ],
    ids=["sigmoid", "squares", "keras-squares", "keras-softmax", "softmax", "function"],
)  # fmt: skip
def test_losses(world, eager, loss, reference):
    model = in_float64(mlp)
    X, _ = rows(model)
    y = scipy.special.softmax(np.random.default_rng(4).standard_normal((ROWS, 3)), axis=1)
    H, G, _, gradient = dense_matrices(model, reference, X, tf.constant(y))
    problem = KerasProblem(model, loss, mine(world, X, y), world, dtype="float64", ridge=0.1)
    x = problem.initial
    objective, slope = problem.objective_and_gradient(x)
    expected = np.mean(np.sum(np.reshape(reference(y, model(X)), (ROWS, -1)), axis=1))
    assert objective == pytest.approx(expected + 0.05 * x @ x, rel=1e-13)
    np.testing.assert_allclose(slope, gradient + 0.1 * x, atol=1e-13)
    check_norms(HessianOperator(problem, x).to_dense(), H, 1e-11)
    check_norms(GaussNewtonOperator(problem, x).to_dense(), G, 1e-11)


def problem_of(world, make=mlp):
    model = in_float64(make)
    return KerasProblem(
        model, "softmax-cross-entropy", mine(world, *rows(model)), world, dtype="float64"
    )


@pytest.fixture(scope="module")
def made():
    """The problems by their models: what they have compiled is that of any number of rows."""
    return {}


def kept(made, world, make=mlp):
    key = make, world.size
    if key not in made:
        made[key] = problem_of(world, make)
    return made[key]


@pytest.fixture
def problem(world, made, monkeypatch, request):
    two_rows_at_a_time(monkeypatch)
    return kept(made, world, getattr(request, "param", mlp))


@pytest.fixture
def alone(problem, made, request):
    """The same problem with all rows on one rank."""
    return kept(made, World.serial(), getattr(request, "param", mlp))


on_networks = pytest.mark.parametrize(
    "problem",
    [mlp, pytest.param(points, marks=[pytest.mark.serial, pytest.mark.slow])],
    indirect=True,
)


@pytest.mark.ranks(most=2)
@on_networks
def test_fisher_matrices(world, problem, alone):
    model, x = problem.model, problem.initial
    X, y = rows(model)
    _, G, J, _ = dense_matrices(model, softmax_loss, X, y)
    check_operator(FisherOperator(problem, x), G, 1e-11)
    p = scipy.special.softmax(model(X).numpy(), axis=1)
    J = J.reshape(ROWS, 3, -1)
    empirical = np.einsum("ic,icn->in", p - np.eye(3)[y], J)
    check_operator(EmpiricalFisherOperator(problem, x), empirical.T @ empirical / ROWS, 1e-11)
    samples = 50
    sampled = MonteCarloFisherOperator(problem, x, samples=samples, seed=3).to_dense()
    fixed = MonteCarloFisherOperator(alone, x, samples=2, seed=3).to_dense()  # targets do not move
    check_operator(MonteCarloFisherOperator(problem, x, samples=2, seed=3), fixed, 1e-11)
    spread = np.zeros_like(G)
    for i in range(ROWS):  # variance of one sample of the row's g g^T
        slopes = (p[i] - np.eye(3)) @ J[i]
        products = np.einsum("cm,cn->cmn", slopes, slopes)
        mean = np.einsum("c,cmn->mn", p[i], products)
        spread += np.einsum("c,cmn->mn", p[i], (products - mean) ** 2)
    error = np.sqrt(spread.sum() / samples) / ROWS  # expected Frobenius distance
    assert 0.3 * error < np.linalg.norm(sampled - G) < 2 * error


@pytest.mark.ranks(most=2)
@on_networks
def test_differences_and_jacobian(world, problem):
    x, (X, y) = problem.initial, rows(problem.model)
    H, _, J, _ = dense_matrices(problem.model, softmax_loss, X, y)
    check_operator(FiniteDifferenceHessian(problem, x), H, 1e-6)
    jacobian = Jacobian(problem, x)
    (here,) = mine(world, J.reshape(ROWS, 3, -1))
    rng = np.random.default_rng(0)
    V, U = rng.standard_normal((problem.n, 4)), rng.standard_normal((ROWS, 3, 4))
    np.testing.assert_allclose(jacobian @ V, here @ V, atol=1e-12)
    whole = np.einsum("icn,ick->nk", J.reshape(ROWS, 3, -1), U)
    np.testing.assert_allclose(jacobian.T @ mine(world, U)[0], whole, atol=1e-12)


@pytest.mark.ranks(most=2)
@on_networks
def test_blocks_of_parameters(world, problem):
    x, (X, y) = problem.initial, rows(problem.model)
    H, G, _, _ = dense_matrices(problem.model, softmax_loss, X, y)
    hessian = HessianOperator(problem, x)
    names = [block.name for block in problem.parameter_blocks]
    assert names[0].endswith("/kernel") and names[1].endswith("/bias")
    variables = problem.model.trainable_variables
    sizes = [int(np.prod(variable.shape)) for variable in variables]
    layer_of = np.repeat([variable.path.rpartition("/")[0] for variable in variables], sizes)
    second, layer = (
        np.flatnonzero(layer_of == layer_of[sum(sizes[:2])]),
        names[2].rpartition("/")[0],
    )
    chosen = np.append(np.arange(sizes[0]), second)
    for operator, matrix in ((hessian, H), (GaussNewtonOperator(problem, x), G)):
        part = Restricted(operator, [names[0], layer])
        check_operator(part, matrix[np.ix_(chosen, chosen)], 1e-11)
    with pytest.raises(InputError, match="no parameter block is called nowhere"):
        Restricted(hessian, ["nowhere"])
    check_operator(BlockDiagonal(hessian), H * (layer_of[:, None] == layer_of), 1e-11)
    differences, before = FiniteDifferenceHessian(problem, x), world.ledger.passes
    Restricted(differences, [layer]) @ np.ones((len(second), 3))
    BlockDiagonal(differences) @ np.ones((problem.n, 2))
    assert world.ledger.passes - before == 2 * 3 + 2 * 2 * len(set(layer_of))
    check_operator(diagonal_factor(hessian, problem.n), np.diag(np.diag(H)), 1e-11)


def test_samples_do_not_depend_on_the_ranks(world, problem, alone):
    x = problem.initial
    some, same = problem.sampled(0.6, seed=2), alone.sampled(0.6, seed=2)
    assert some.rows == same.rows < ROWS
    taken = alone.data.picked(0.6, 2)
    X, y = rows(problem.model)
    H, _, _, _ = dense_matrices(problem.model, softmax_loss, X[taken], y[taken])
    check_operator(HessianOperator(some, x), H, 1e-11)
    assert problem.rows == ROWS


@pytest.mark.ranks(most=2)
def test_closed_forms(world):
    """Linear least squares and softmax regression: Gauss-Newton is the Hessian, and known."""
    model = in_float64(lambda: sequential((4,), outputs=3))
    X, y = rows(model)
    ones = np.c_[X, np.ones(ROWS)]
    for loss in ("squared-error", "softmax-cross-entropy"):
        targets = np.eye(3)[y] if loss == "squared-error" else y
        problem = KerasProblem(model, loss, mine(world, X, targets), world, dtype="float64")
        assert problem.psd
        p = scipy.special.softmax(model(X).numpy(), axis=1)
        B = np.einsum("ic,cd->icd", p, np.eye(3)) - np.einsum("ic,id->icd", p, p)
        B = np.broadcast_to(np.eye(3), B.shape) if loss == "squared-error" else B
        dense = np.einsum("ia,icd,ib->acbd", ones, B, ones).reshape(15, 15) / ROWS
        check_operator(HessianOperator(problem, problem.initial), dense, 1e-12)
        check_operator(GaussNewtonOperator(problem, problem.initial), dense, 1e-12)


@pytest.mark.ranks(most=2)
def test_functions(world):
    model = in_float64(mlp)
    X, y = rows(model)
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(model.trainable_variables)}

    def loss_sum(theta, X, y):
        hidden = tf.sigmoid(X @ theta["w0"] + theta["w1"])
        hidden = tf.tanh(hidden @ theta["w2"] + theta["w3"])
        return tf.reduce_sum(softmax_loss(y, hidden @ theta["w4"] + theta["w5"]))

    problem = FunctionProblem(loss_sum, weights, mine(world, X, y), world, dtype="float64")
    H, _, _, gradient = dense_matrices(model, softmax_loss, X, y)
    np.testing.assert_allclose(
        problem.objective_and_gradient(problem.initial)[1], gradient, atol=1e-13
    )
    check_operator(HessianOperator(problem, problem.initial), H, 1e-11)
    check_operator(FiniteDifferenceHessian(problem, problem.initial), H, 1e-6)
    assert [block.name for block in problem.parameter_blocks] == list(weights)
    with pytest.raises(InputError, match="function lacks the capability 'Gauss-Newton matrix'"):
        GaussNewtonOperator(problem, problem.initial)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda theta, X, y: tf.reduce_mean((X @ theta - y) ** 2), "for each alone; it must be"),
        (lambda theta, X, y: tf.nn.l2_loss(X - tf.reduce_mean(X, 0)), "the sum of the rows'"),
        (lambda theta, X, y: (X @ theta - y) ** 2, r"an array \(2, 1\); it must give a scalar"),
    ],
    ids=["mean", "coupled", "array"],
)
def test_losses_that_are_no_sums_over_rows(world, loss, message):
    X = np.random.default_rng(0).standard_normal((ROWS, 3))
    with pytest.raises(InputError, match=message):
        FunctionProblem(loss, np.ones((3, 1)), mine(world, X, X[:, :1]), world)


class Branching(keras.Model):
    """A subclassed model; `noise` makes it random, `coupled` normalises over the batch."""

    def __init__(self, noise=False, coupled=False):
        super().__init__(name="branching")
        self.first, self.last = layers.Dense(4, activation="tanh"), layers.Dense(3)
        self.drop, self.normalise = layers.Dropout(0.5), layers.BatchNormalization()
        self.noise, self.coupled = noise, coupled

    def call(self, x):
        hidden = self.first(x)
        if self.noise:
            hidden = self.drop(hidden, training=True)
        if self.coupled:
            hidden = self.normalise(hidden, training=True)
        return self.last(hidden + self.first(2 * x))


def built(**options):
    model = Branching(**options)
    model(np.zeros((1, 4)))
    return model


@pytest.mark.serial
def test_subclassed_models(world):
    model = in_float64(built)
    X, y = rows_of_four()
    problem = KerasProblem(
        model, "softmax-cross-entropy", mine(world, X, y), world, dtype="float64"
    )
    assert problem.engine.name == "generic" and "not a graph of layers" in problem.engine.reason
    H, G, _, _ = dense_matrices(model, softmax_loss, X, y)
    check_operator(HessianOperator(problem, problem.initial), H, 1e-11)
    check_operator(GaussNewtonOperator(problem, problem.initial), G, 1e-11)


def rows_of_four():
    rng = np.random.default_rng(1)
    return rng.standard_normal((ROWS, 4)), rng.integers(0, 3, ROWS)


@pytest.mark.serial
def test_models_that_cannot_be_used(world):
    data = mine(world, *rows_of_four())
    loss = "softmax-cross-entropy"
    with pytest.raises(InputError, match=r"different outputs.*dropout.* \(Dropout\)"):
        KerasProblem(built(noise=True), loss, data, world)
    with pytest.raises(InputError, match="couples the rows"):
        KerasProblem(built(coupled=True), loss, data, world)
    with pytest.raises(InputError, match="not built"):
        KerasProblem(Branching(), loss, data, world)
    with pytest.raises(InputError, match="unknown loss nothing"):
        KerasProblem(mlp(), "nothing", data, world)
    with pytest.raises(InputError, match="no layer-wise engine for branching"):
        KerasProblem(built(), loss, data, world, engine="layer-wise")
    with pytest.raises(InputError, match="do not fit"):
        KerasProblem(sequential((5,)), loss, data, world)
    with pytest.raises(InputError, match=r"class . does not fit a model with 2 outputs"):
        KerasProblem(mlp(outputs=2), loss, data, world)
    for bad in ({"ridge": -1.0}, {"dtype": "float16"}, {"memory": 0}):
        with pytest.raises(InputError):
            KerasProblem(mlp(), loss, data, world, **bad)


@pytest.mark.serial
def test_weights_in_float32_serve_both_precisions(world):
    keras.utils.set_random_seed(1)
    model = mlp()
    X, y = rows(model)
    policies = [layer.dtype_policy.name for layer in model.layers]
    engines = [
        KerasProblem(model, "softmax-cross-entropy", mine(world, X, y), world, engine=engine)
        for engine in ("layer-wise", "generic")
    ]
    x = engines[0].initial + 1e-3
    objectives = [problem.objective_and_gradient(x)[0] for problem in engines]
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-14)
    assert [layer.dtype_policy.name for layer in model.layers] == policies
    engines[0].set_weights(x)
    np.testing.assert_allclose(
        np.asarray(model.trainable_variables[0]).reshape(-1), x[:20], rtol=1e-6
    )


@pytest.mark.ranks(most=2)
def test_chunks_and_traces(world, monkeypatch):
    """Any memory gives the same product; nothing is traced after the first product."""
    problem = problem_of(world)
    x, values = problem.initial, problem.budget("float64").row_values
    monkeypatch.setattr("hesscomp.problems.differentiable.FUSED", ROWS * values * 4)
    V = np.random.default_rng(0).standard_normal((problem.n, 6))
    expected = HessianOperator(problem, x) @ V
    functions = [
        f for f in problem._kernels.values() if hasattr(f, "experimental_get_tracing_count")
    ]
    counts = [f.experimental_get_tracing_count() for f in functions]
    for point in (x, x + 0.1):
        HessianOperator(problem, point) @ V[:, :2]
    assert len(problem._kernels) == len(functions) + 1  # and the numbers of a row
    assert [f.experimental_get_tracing_count() for f in functions] == counts
    ledger = world.ledger
    before = (ledger.reductions, ledger.words_reduced, ledger.passes)
    for memory in (1e4, 4e4):
        problem.memory = memory
        np.testing.assert_allclose(HessianOperator(problem, x) @ V, expected, atol=1e-14)
    after = (ledger.reductions, ledger.words_reduced, ledger.passes)
    assert np.subtract(after, before).tolist() == [6 + 1, 2 * 6 * problem.n, 6 + 1]
    budget = Budget(1e4, problem.n, 20, 4, 80)
    assert budget.columns(6, 8) == 1 and 1 <= budget.rows(100, 1, 8) < 100


@pytest.mark.serial
def test_many_parameters_take_more_rows_at_once(world):
    """As many as a closer count of the tangents allows, where rearranging V would cost more."""
    model = in_float64(
        lambda: keras.Sequential(
            [keras.Input((4,)), *(layers.Dense(40, "sigmoid") for _ in range(2)), layers.Dense(3)]
        )
    )
    data, memory, k = mine(world, *rows(model)), 1e6, 10

    def at_once(engine, n):
        problem = KerasProblem(
            model, "softmax-cross-entropy", data, world, dtype="float64", engine=engine
        )
        budget = replace(problem.budget("float64"), n=n, memory=memory)
        return budget, budget.rows(1000, k, 8)

    budget, few = at_once("layer-wise", 10)
    _, many = at_once("layer-wise", 10**7)
    assert budget.row_tangents == budget.copies * (4 * 40 + 3) < budget.copies * budget.row_values
    needed = budget.row_values + k * budget.row_tangents
    assert few < many and many * needed * 8 <= 3 / 8 * memory
    assert at_once("generic", 10)[1] == at_once("generic", 10**7)[1]


@pytest.mark.serial
@pytest.mark.parametrize("make", slow_but([mlp], [mlp, graph]))
def test_fused_arithmetic_and_kept_values(world, monkeypatch, make):
    """Compiled or not, in ragged pieces, values kept or made anew: the same products."""
    model = in_float64(make)
    problem = KerasProblem(model, "softmax-cross-entropy", rows(model), world, dtype="float64")
    x, V = problem.initial, np.random.default_rng(1).standard_normal((problem.n, 3))
    kinds = HessianOperator, GaussNewtonOperator, MonteCarloFisherOperator
    whole = [kind(problem, x) for kind in kinds]
    expected = [operator @ V for operator in whole]
    for operator, product in zip(whole, expected, strict=True):
        np.testing.assert_array_equal(operator @ V, product)  # of values that were kept
    kept = whole[0]._shard.kept
    assert list(kept.made) == [(0, ROWS)]
    one_piece = (problem.memory / 8 - kept.left) / 2
    monkeypatch.setattr("hesscomp.problems.differentiable.FUSED", 0)
    fused = [kind(problem, x) @ V for kind in kinds]
    monkeypatch.undo()
    monkeypatch.setattr(Budget, "rows", lambda *_: 3)
    monkeypatch.setattr(Budget, "kept", one_piece)
    pieces = [kind(problem, x) for kind in kinds]
    ragged = [operator @ V for operator in pieces for _ in range(2)][1::2]
    assert list(pieces[0]._shard.kept.made) == [(0, 3)]
    for one, product in zip([*fused, *ragged], expected * 2, strict=True):
        assert np.linalg.norm(one - product) <= 1e-13 * np.linalg.norm(product)


@pytest.mark.serial
def test_an_operator_follows_moving_averages(world):
    model = in_float64(lambda: sequential((4,), layers.Dense(3), layers.BatchNormalization()))
    problem = KerasProblem(model, "softmax-cross-entropy", rows(model), world, dtype="float64")
    operator, V = HessianOperator(problem, problem.initial), np.ones((problem.n, 2))
    before = operator @ V
    problem.set_fixed([value + 0.5 for value in problem.fixed])
    after = HessianOperator(problem, problem.initial) @ V
    np.testing.assert_allclose(operator @ V, after, rtol=1e-13)
    assert np.linalg.norm(after - before) > 0.01 * np.linalg.norm(before)


def test_reproducible_on_any_number_of_ranks():
    world = World(reproducible=True)
    model = in_float64(mlp)
    X, y = rows(model)
    shares = np.linspace(0, ROWS, world.size + 1).astype(int)
    here = slice(shares[world.rank], shares[world.rank + 1])
    problem = KerasProblem(model, "softmax-cross-entropy", (X[here], y[here]), world)
    alone = KerasProblem(
        model, "softmax-cross-entropy", (X, y), World(World.serial().comm, reproducible=True)
    )
    x, V = problem.initial, np.random.default_rng(0).standard_normal((problem.n, 3))
    np.testing.assert_array_equal(HessianOperator(problem, x) @ V, HessianOperator(alone, x) @ V)
    slabs, one_slab = (HessianOperator(p, x).in_rows(2) for p in (problem, alone))
    here = slabs.layout.local(V)
    np.testing.assert_array_equal(slabs @ here, slabs.layout.local(one_slab @ V))
    for left, right in zip(
        problem.objective_and_gradient(x), alone.objective_and_gradient(x), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    sampled = [HessianOperator(p.sampled(0.6, seed=2), x) @ V for p in (problem, alone)]
    np.testing.assert_array_equal(*sampled)


class Guests:
    """Who come in the second pause of a product, to the last rank; they ask for a product too."""

    def __init__(self, world, ask):
        self.world, self.ask, self.pauses, self.answers = world, ask, 0, []
        self.inside = False

    def waiting(self):
        self.pauses += not self.inside
        last = self.world.rank == self.world.size - 1
        return last and self.pauses == 2 and not self.inside

    def receive(self):
        self.inside = True
        self.answers.append(self.ask())
        self.inside = False


@pytest.mark.parametrize("reproducible, panels", slow_but([(False, 2)], [(False, 2), (True, 1)]))
def test_guests_come_within_a_product_and_change_no_bit(reproducible, panels):
    world = World(reproducible=reproducible)
    model = in_float64(lambda: sequential((4,)))
    X, y = rows(model)
    here = own_rows(world, ROWS, "even" if reproducible else "first empty")
    problem = KerasProblem(model, "softmax-cross-entropy", (X[here], y[here]), world)
    V = np.random.default_rng(0).standard_normal((problem.n, 2))
    one, other = (HessianOperator(problem, x) for x in (problem.initial, V[:, 0]))
    with patch.object(Budget, "columns", lambda budget, k, itemsize: -(-k // panels)):
        alone, answer = one @ V, other @ V
        try:
            world.visitors = guests = Guests(world, lambda: other @ V)
            world.stop_asked = lambda: 0
            np.testing.assert_array_equal(one @ V, alone)
            np.testing.assert_array_equal(guests.answers, [answer])
            within = panels * PAUSES + panels - 1  # and one after it
            assert world.gather(guests.pauses) == [within + 1] * world.size
            world.stop_asked = lambda: 15 * (world.rank == 0 and guests.pauses == within)
            guests.pauses = 2
            with pytest.raises(Interrupted):
                one @ V
            assert guests.pauses == within
        finally:
            world.visitors = world.stop_asked = None


# Layouts and costs


OPERATORS = {
    "hessian": HessianOperator,
    "gauss-newton": GaussNewtonOperator,
    "fisher": FisherOperator,
    "empirical-fisher": EmpiricalFisherOperator,
    "monte-carlo-fisher": lambda problem, x: MonteCarloFisherOperator(problem, x, 2, seed=3),
    "finite-difference": FiniteDifferenceHessian,
    "restricted": lambda problem, x: Restricted(
        HessianOperator(problem, x),
        [problem.parameter_blocks[0].name, problem.parameter_blocks[3].name],
    ),
    "restricted gauss-newton": lambda problem, x: Restricted(
        GaussNewtonOperator(problem, x), [problem.parameter_blocks[2].name]
    ),
    "block-diagonal": lambda problem, x: BlockDiagonal(HessianOperator(problem, x)),
    "diagonal": lambda problem, x: diagonal_factor(HessianOperator(problem, x), problem.n),
    "sample": lambda problem, x: HessianOperator(problem.sampled(0.6, seed=2), x),
}


@pytest.mark.parametrize("name", two_ranks_but(["hessian", "restricted", "sample"], OPERATORS))
def test_row_layout_is_the_replicated_one(world, problem, name):
    operator = OPERATORS[name](problem, problem.initial)
    panel, n = 3, operator.n
    slabs = operator.in_rows(panel)
    V = np.random.default_rng(0).standard_normal((n, 7))
    expected, layout = operator @ V, slabs.layout
    scale = np.linalg.norm(expected)
    mine = layout.local(V)
    np.testing.assert_allclose(layout.whole(slabs @ mine), expected, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(
        slabs.project(mine[:, :2], mine), V[:, :2].T @ expected, rtol=0, atol=1e-12 * scale
    )
    np.testing.assert_allclose(slabs.to_dense(), operator.to_dense(), rtol=0, atol=1e-12 * scale)
    # Differences amplify what the layouts round apart by 1 / h.
    tolerance = 1e-9 if name == "finite-difference" else 1e-12
    for method, more in (("auto", {"residual_tolerance": 1e-13}), ("eigh", {})):
        options = {"method": method, "oversample": 2, **more}
        whole = compress(operator, 3, layout="replicated", **options)
        rows = compress(operator, 3, layout="rows", panel=panel, **options)
        assert rows.layout.name == "rows" and rows.layout.n == n
        w = whole.eigenvalues
        np.testing.assert_allclose(rows.eigenvalues, w, rtol=0, atol=tolerance * abs(w[0]))
        F, G = dense(whole), dense(rows.in_layout(Replicated(n, world)))
        assert np.linalg.norm(F - G) <= tolerance * abs(w[0])


@pytest.mark.parametrize(
    "name",
    two_ranks_but(["hessian"], ["hessian", "monte-carlo-fisher", "restricted", "block-diagonal"]),
)
def test_a_block_product_reduces_its_own_words(world, problem, name):
    operator, ledger = OPERATORS[name](problem, problem.initial), world.ledger
    for k in (1, 5):
        before = ledger.reductions, ledger.words_reduced
        operator @ np.ones((operator.n, k))
        after = ledger.reductions, ledger.words_reduced
        assert np.subtract(after, before).tolist() == [1, operator.n * k]


@pytest.mark.serial
@pytest.mark.parametrize(
    "name", ["graph", pytest.param("plane", marks=pytest.mark.slow), "text", "subclassed"]
)
def test_every_block_alone(world, name):
    """A restriction is the whole's rows and columns, whatever it is spared."""
    model = in_float64(NETWORKS.get(name, built))
    data = rows(model) if name in NETWORKS else rows_of_four()
    problem = KerasProblem(
        model, "softmax-cross-entropy", mine(world, *data), world, dtype="float64"
    )
    names = [block.name for block in problem.parameter_blocks]
    ends = [names[0], names[-1]]
    for operator, groups in (
        (HessianOperator, [*([name] for name in names[1::3]), ends]),
        (GaussNewtonOperator, [names[1:2], ends]),
    ):
        whole = operator(problem, problem.initial)
        H = whole.to_dense()
        for chosen in groups:
            some = Restricted(whole, chosen)
            V = np.random.default_rng(0).standard_normal((some.n, 2))
            expected = H[np.ix_(some.indices, some.indices)] @ V
            np.testing.assert_allclose(some @ V, expected, rtol=0, atol=1e-12 * np.linalg.norm(H))


@pytest.mark.slow
def test_all_of_mnist(world, full_data):
    """60,000 and 10,000 images; the layer-wise engine in float32, the generic one in float64."""
    data = load_dataset("mnist", world, targets="classes")
    counts = [world.sum(np.bincount(part.y, minlength=10)) for part in (data.train, data.test)]
    assert [count.sum() for count in counts] == [60_000, 10_000]
    assert counts[0].tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    model = build_network(NAMED_PROBLEMS["mnist-mlp"].network, "mnist-mlp", 0)
    kinds = {"layer-wise": "float32", "generic": "float64"}
    fast, exact = (
        KerasProblem(model, "softmax-cross-entropy", data, world, dtype=dtype, engine=engine)
        for engine, dtype in kinds.items()
    )
    x, V = fast.initial, np.random.default_rng(0).standard_normal((fast.n, 2))
    values, gradients = zip(*(p.objective_and_gradient(x) for p in (fast, exact)), strict=True)
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    for left, right in (
        gradients,
        [HessianOperator(p, x) @ V for p in (fast, exact)],
        [GaussNewtonOperator(p, x) @ V for p in (fast, exact)],
    ):
        assert np.linalg.norm(left - right) <= 1e-5 * np.linalg.norm(right)
