"""The check at the door: what is planted wrong is found, named, and mended or refused."""

import logging

import numpy as np
import pytest
from keras_oracle import in_float64
from marks import serial_but
from shards import mine

from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.keras_losses import Ending
from hesscomp.curvature.losses import SigmoidCrossEntropy, SoftmaxCrossEntropy
from hesscomp.curvature.networks import dense, elementwise, generic, layerwise
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError
from hesscomp.problems.door import Door, _spanning
from hesscomp.problems.function import FunctionProblem
from hesscomp.problems.keras import KerasProblem

# Ranks with rows and one without: a third adds nothing.
pytestmark = [pytest.mark.door, pytest.mark.ranks(most=2)]
layers = keras.layers
rng = np.random.default_rng(0)
ROWS = 7
X, Y = rng.standard_normal((ROWS, 4)), np.arange(ROWS) % 3
SPARSE = keras.losses.SparseCategoricalCrossentropy


def network(activation=None):
    stack = [layers.Dense(4, "tanh", name="first"), layers.Dense(4, name="second")]
    stack += [layers.Activation("sigmoid", name="third"), layers.Dense(3, activation, name="last")]
    return in_float64(lambda: keras.Sequential([layers.Input((4,)), *stack], name="net"))


def problem_of(model, loss, world, **options):
    """On rows of which rank 0 has none where there are several."""
    return KerasProblem(model, loss, mine(world, X, Y), world, dtype="float64", **options)


def without_bend(self, at, delta, t_delta):
    return [elementwise._scaled(at.memo["slope"], t_delta.parts)]


def without_half(self, at, delta):
    return [2 * at.memo["slope"] * delta]


def transposed(self, at, delta):
    kernel, *bias = right_gradient(self, at, delta)
    return [tf.transpose(kernel) if kernel.shape[0] == kernel.shape[1] else kernel, *bias]


right_gradient = dense.Dense.gradient


@pytest.fixture(scope="module")
def right(world):
    """Of the engine that knows no rules."""
    data = mine(world, X, np.eye(3)[Y])
    loss = "mean_squared_error"
    return KerasProblem(network("softmax"), loss, data, world, dtype="float64", engine="generic")


@pytest.mark.parametrize(
    "kind, method, wrong, what, layer",
    [
        (elementwise.Elementwise, "pull", without_half, "gradient", "first"),
        *(
            pytest.param(*case, marks=pytest.mark.serial)
            for case in (
                (elementwise.Elementwise, "pull_tangent", without_bend, "Hessian product", "first"),
                (dense.Dense, "gradient", transposed, "gradient", "first"),
                (elementwise.Softmax, "pull", without_half, "gradient", "last"),
            )
        ),
    ],
    ids=["derivative", "second derivative", "parameters", "the last layer"],
)
def test_a_wrong_rule_is_found_and_named(
    world, right, monkeypatch, caplog, kind, method, wrong, what, layer
):
    if kind is elementwise.Softmax:
        monkeypatch.setattr(elementwise, "without_half", wrong, raising=False)
        wrong = lambda self, at, delta: [2 * elementwise._centred(at.output, delta)]  # noqa: E731
    model, loss = right.model, "mean_squared_error"
    data = mine(world, X, np.eye(3)[Y])
    monkeypatch.setattr(kind, method, wrong)
    with caplog.at_level(logging.WARNING):
        problem = KerasProblem(model, loss, data, world, dtype="float64")
    assert problem.engine.name == "generic"
    if world.rank == 0:
        assert (
            f"net, layer {layer}: by the layer-wise engine the {what} of a few rows differs"
            in caplog.text
        )
    V = np.eye(problem.n)[:, :2]
    found, wanted = (HessianOperator(each, each.initial) @ V for each in (problem, right))
    np.testing.assert_allclose(found, wanted, atol=1e-14)
    if (kind, method) != (elementwise.Elementwise, "pull"):
        return
    with pytest.raises(InputError, match=f"layer {layer}: .*take the engine generic"):
        KerasProblem(model, loss, data, world, dtype="float64", engine="layer-wise")
    unseen = KerasProblem(model, loss, data, world, dtype="float64", check="off")
    assert unseen.engine.name == "layer-wise"


@pytest.mark.serial
@pytest.mark.parametrize("loss", [SPARSE(), "softmax-cross-entropy"], ids=["keras", "of logits"])
def test_losses_that_miss_the_logits_are_found(world, monkeypatch, caplog, loss):
    """As it was: an output that showed its logits, and a loss of logits that took probabilities."""
    model = network("softmax")
    right = problem_of(model, loss, world)
    monkeypatch.setattr(Ending, "of", classmethod(lambda cls, output: None))
    for module in (layerwise, generic):
        monkeypatch.setattr(module, "opaque", lambda output: output)
    if isinstance(loss, str):
        with pytest.raises(InputError, match=r"gives probabilities .* takes logits"):
            problem_of(model, loss, world)
        return
    with caplog.at_level(logging.WARNING):
        problem = problem_of(model, loss, world)
    if world.rank == 0:
        assert "the loss sparse_categorical_crossentropy: by the layer-wise" in caplog.text
    assert problem.engine.name == "generic"
    gradients = [each.objective_and_gradient(each.initial)[1] for each in (right, problem)]
    np.testing.assert_allclose(*gradients, atol=1e-14)


@pytest.mark.parametrize("kind", [SoftmaxCrossEntropy, SigmoidCrossEntropy])
@pytest.mark.parametrize("method", serial_but(["gradient"], ["values", "gradient", "curvature"]))
def test_a_wrong_loss_is_found(world, monkeypatch, kind, method):
    right = getattr(kind, method)
    monkeypatch.setattr(kind, method, lambda self, *given: 1.001 * right(self, *given))
    data = mine(world, X, np.eye(3)[Y])
    message = f"the loss {kind.name}" if method != "gradient" else "layer-wise"
    if method == "gradient":  # the generic engine differentiates the values
        assert KerasProblem(network(), kind(), data, world).engine.name == "generic"
        return
    with pytest.raises(InputError, match=message):
        KerasProblem(network(), kind(), data, world)


@pytest.mark.serial
def test_kinks_and_certain_predictions_are_no_disagreement(world):
    """Zero rows and biases put relu on its kink; large weights make all predictions certain."""
    zeros = (0 * X, Y)
    stack = [layers.Dense(5, "relu"), layers.Dense(5, "relu"), layers.Dense(3, "softmax")]
    model = in_float64(lambda: keras.Sequential([layers.Input((4,)), *stack]))
    for weight in model.weights:
        weight.assign(0 * weight if "bias" in weight.path else 20 * weight)
    for data in (zeros, (100 * X, Y)):
        problem = KerasProblem(model, SPARSE(), mine(world, *data), world, engine="layer-wise")
        assert problem.engine.name == "layer-wise"


def test_large_models_say_what_is_left_out(world, monkeypatch, caplog):
    monkeypatch.setattr("hesscomp.problems.keras.SECONDS", 0.0)
    with caplog.at_level(logging.WARNING):
        problem_of(network(), "softmax-cross-entropy", world)
    if world.rank == 0:
        left_out = "curvature of the loss, Hessian product, Gauss-Newton product, gradient of other"
        assert left_out in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        problem_of(network(), "softmax-cross-entropy", world, check="full")
    assert not caplog.text
    with pytest.raises(InputError, match="unknown check some; use one of auto, full, off"):
        problem_of(network(), "softmax-cross-entropy", world, check="some")


@pytest.mark.serial
@pytest.mark.parametrize(
    "loss, message",
    [
        ("sigmoid-cross-entropy", "ends in softmax, and the loss sigmoid-cross-entropy takes"),
        (SigmoidCrossEntropy(), "end the model in sigmoid, or without an activation"),
    ],
)
def test_another_ending_than_the_loss_is_refused(world, loss, message):
    with pytest.raises(InputError, match=message):
        KerasProblem(network("softmax"), loss, mine(world, X, np.eye(3)[Y]), world)


@pytest.mark.serial
def test_conversions_are_said(world, caplog):
    for loss, said in (("softmax-cross-entropy", True), (SPARSE(), False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert problem_of(network("softmax"), loss, world).at_logits
        if world.rank == 0:
            assert ("is computed from the logits before the softmax" in caplog.text) == said


@tf.custom_gradient
def halved(x):
    return x, lambda delta: delta / 2


@pytest.mark.parametrize("replaced", [halved, tf.stop_gradient], ids=["custom", "stopped"])
def test_functions_whose_gradient_is_another_are_refused(world, replaced):
    def loss_sum(theta, X, y):
        return tf.reduce_sum((replaced(X @ theta) - 1) ** 2) + tf.reduce_sum(X @ theta)

    data = mine(world, X, Y)
    with pytest.raises(InputError, match=r"a gradient is stopped or replaced.*check='off'"):
        FunctionProblem(loss_sum, np.ones((4, 2)), data, world)
    FunctionProblem(loss_sum, np.ones((4, 2)), data, world, check="off")


@pytest.mark.serial
def test_functions_with_kinks_are_taken(world):
    def loss_sum(theta, X, y):
        return tf.reduce_sum(tf.abs(X @ theta)) + tf.reduce_sum(tf.nn.relu(X @ theta))

    FunctionProblem(loss_sum, np.zeros((4, 2)), mine(world, X, Y), world)


@keras.saving.register_keras_serializable("tests")
class Coupling(layers.Layer):
    """Takes a little of the batch's mean off each row."""

    def call(self, x):
        return x - 1e-4 * tf.reduce_mean(x, axis=0)


def test_a_little_coupling_of_rows_is_refused(world):
    model = keras.Sequential([layers.Input((4,)), layers.Dense(3), Coupling()])
    with pytest.raises(InputError, match="couples the rows of a batch"):
        KerasProblem(model, "mse", mine(world, X, np.eye(3)[Y]), world)

    def loss(y, output):
        return tf.reduce_mean((output - y) ** 2, -1) + 1e-4 * tf.reduce_mean(output) ** 2

    with pytest.raises(InputError, match="couples the rows of a batch"):
        KerasProblem(network(), loss, mine(world, X, np.eye(3)[Y]), world)


def test_a_sequential_model_within_a_model_computes_in_float64(world):
    """Keras casts what it is given to the type of its input layer."""
    start = layers.Input((4,))
    inner = keras.Sequential([layers.Input((4,)), layers.Dense(5, "tanh")])
    model = keras.Model(start, layers.Dense(3, "softmax")(inner(start)))
    problems = [
        problem_of(model, SPARSE(), world, engine=engine) for engine in ("layer-wise", "generic")
    ]
    left, right = (each.objective_and_gradient(each.initial)[1] for each in problems)
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-15)


@pytest.mark.serial
def test_operations_of_single_precision_are_named(world, caplog):
    start = layers.Input((2, 2, 1))
    grown = layers.UpSampling2D(2, interpolation="bilinear", name="grow")(
        layers.Conv2D(2, 1)(start)
    )
    model = keras.Model(start, layers.Dense(3, "softmax")(layers.Flatten()(grown)))
    data = mine(world, X.reshape(-1, 2, 2, 1), Y)
    with caplog.at_level(logging.WARNING):
        KerasProblem(model, SPARSE(), data, world)
    if world.rank == 0:
        assert "grow" in caplog.text and "computes in float32" in caplog.text


def ends_in(*more, regularizer=None):
    stack = [layers.Dense(4, "tanh", kernel_regularizer=regularizer), layers.Dense(3), *more]
    return in_float64(lambda: keras.Sequential([layers.Input((4,)), *stack], name="net"))


@pytest.mark.serial
@pytest.mark.parametrize("activation, loss", [("softmax", "softmax-cross-entropy"),
                                              ("sigmoid", "sigmoid-cross-entropy")])  # fmt: skip
def test_probabilities_by_another_path_are_no_logits(world, caplog, activation, loss):
    """Keras shows no logits behind a reshaped output."""
    model = ends_in(layers.Activation(activation), layers.Reshape((3,)))
    data = mine(world, X, np.eye(3)[Y])
    with pytest.raises(InputError, match=f"gives probabilities .*the loss {loss} takes logits"):
        KerasProblem(model, loss, data, world)
    kind = "Categorical" if activation == "softmax" else "Binary"
    keras_loss = getattr(keras.losses, f"{kind}Crossentropy")
    with caplog.at_level(logging.WARNING):
        KerasProblem(model, keras_loss(from_logits=True), data, world)
        KerasProblem(model, keras_loss(), data, world)
        KerasProblem(ends_in(layers.ReLU()), loss, data, world)
    assert caplog.text.count("computed as Keras does") == (world.rank == 0)


class Ignoring(keras.losses.Loss):
    def call(self, y, output):
        return keras.losses.sparse_categorical_crossentropy(y, output, True, ignore_class=2)


@pytest.mark.serial
@pytest.mark.parametrize("loss", [Ignoring(), lambda y, f: Ignoring().call(y, f)])
def test_masked_losses_are_refused(world, loss):
    """Keras averages over the rows that the mask leaves."""
    with pytest.raises(InputError, match="masks some values"):
        problem_of(network(), loss, world)


WEIGHTS = np.float32([1, 2, 5])


def weighted(y, output):
    weights = tf.gather(WEIGHTS, tf.cast(y, tf.int32))
    return weights * keras.losses.sparse_categorical_crossentropy(y, output, from_logits=True)


def weighted_alike(y, output):
    weights = tf.gather(tf.cast(WEIGHTS, output.dtype), tf.cast(y, tf.int32))
    return weights * keras.losses.sparse_categorical_crossentropy(y, output, from_logits=True)


class Term(keras.regularizers.Regularizer):
    """A regulariser from a function."""

    def __init__(self, function):
        self.function = function

    def __call__(self, w):
        return self.function(w)


@pytest.mark.serial
def test_constants_of_another_precision(world):
    with pytest.raises(InputError, match="the loss weighted computes with constants of a fixed"):
        problem_of(network(), weighted, world)
    problem = problem_of(network(), weighted_alike, world)
    model = network()
    model.compile(loss=weighted_alike)
    wanted = model.evaluate(X, Y, batch_size=ROWS, verbose=0)
    np.testing.assert_allclose(problem.objective_and_gradient(problem.initial)[0], wanted, 1e-6)
    with pytest.raises(InputError, match="a regulariser of net computes with constants of a fixed"):
        decay = Term(lambda w: tf.constant(0.01) * tf.reduce_sum(w**2))
        problem_of(ends_in(regularizer=decay), SPARSE(from_logits=True), world)


@pytest.mark.serial
def test_constant_regularisers(world):
    loss = SPARSE(from_logits=True)
    plain, constant = (
        problem_of(ends_in(regularizer=term), loss, world) for term in (None, Term(lambda w: 0.25))
    )
    values = [each.objective_and_gradient(each.initial) for each in (plain, constant)]
    np.testing.assert_allclose(values[1][0] - values[0][0], 0.25, rtol=1e-14)
    np.testing.assert_allclose(values[0][1], values[1][1])
    V = np.eye(plain.n)[:, :3]
    products = [HessianOperator(each, each.initial) @ V for each in (plain, constant)]
    np.testing.assert_allclose(*products, atol=1e-14)


@keras.saving.register_keras_serializable("tests")
class Stopping(layers.Layer):
    def call(self, x):
        return tf.stop_gradient(x) + x / 2


def test_models_whose_gradient_is_another_are_refused(world):
    loss = SPARSE(from_logits=True)
    with pytest.raises(InputError, match="gradient of the objective of a few rows along"):
        problem_of(ends_in(Stopping()), loss, world)
    stopped = Term(lambda w: tf.reduce_sum(tf.stop_gradient(w) * w**2))
    with pytest.raises(InputError, match="gradient of the regularisers along"):
        problem_of(ends_in(regularizer=stopped), loss, world)


def test_functions_are_given_targets_as_keras_gives_them(world):
    """One number a row against an output of one number, and whole numbers as real ones."""
    model = in_float64(lambda: keras.Sequential([layers.Input((4,)), layers.Dense(1)]))
    loss = lambda y, f: tf.reduce_mean((f - y) ** 2, -1)  # noqa: E731
    problem = KerasProblem(model, loss, mine(world, X, Y), world)
    wanted = np.mean((model.predict(X, verbose=0)[:, 0] - Y) ** 2)
    np.testing.assert_allclose(problem.objective_and_gradient(problem.initial)[0], wanted, 1e-6)


def test_classes_out_of_range_anywhere_are_refused(world):
    model = ends_in(layers.Activation("softmax"), layers.Reshape((3,)))
    data = mine(world, X, np.where(np.arange(ROWS) == 6, 5, Y))
    with pytest.raises(InputError, match="class 5 does not fit a model with 3 outputs"):
        KerasProblem(model, SPARSE(), data, world)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows_are_repeated(rows):
    door = Door.of(KerasProblem(network(), SPARSE(True), (X[:rows], Y[:rows])), SPARSE(True), None)
    assert [len(x) for x, _ in door.batches] == [2, 3]


def test_rows_at_the_door_span_the_targets():
    y = np.zeros(100)
    y[[50, 60, 70]] = 1, 2, -3
    assert set(y[_spanning(y, 5)]) == {0, 1, 2, -3}
    hot = np.eye(4)[np.repeat(range(4), 25)]
    assert set(hot[_spanning(hot, 5)].argmax(1)) == {0, 1, 2, 3}
    assert len(_spanning(rng.standard_normal((2, 3)), 5)) == 2


def test_losses_that_are_no_numbers_are_refused(world):
    with pytest.raises(InputError, match=r"the loss of the first rows is nan at the model's weigh"):
        KerasProblem(
            network(), lambda y, f: tf.math.log(-1 - f[:, 0] ** 2), mine(world, X, Y), world
        )
