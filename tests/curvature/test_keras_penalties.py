"""Regularisers: every kind at every place, against differences of what Keras adds to its loss."""

import numpy as np
import pytest
from keras_oracle import Oracle, in_float64
from marks import slow_but
from oracles import by_rank_0, check_operator
from shards import own_rows

from hesscomp.curvature.gauss_newton import GaussNewtonOperator
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.restriction import Restricted
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError, RankFailure
from hesscomp.parallel.world import World
from hesscomp.problems.keras import KerasProblem

pytestmark = pytest.mark.ranks(most=3)
R, layers = keras.regularizers, keras.layers
ROWS = 5
X = np.random.default_rng(0).standard_normal((ROWS, 3))
WORDS = np.random.default_rng(1).integers(0, 4, (ROWS, 2))
Y = np.array([2, 0, 1, 1, 0])
LOSS = keras.losses.SparseCategoricalCrossentropy


def quartic(weights):
    """A user's: sum of the fourth powers, coupled by the square of their sum."""
    return 0.1 * (tf.reduce_sum(weights**4) + tf.reduce_sum(weights) ** 2)


KINDS = {
    "none": lambda: None,
    "l1": lambda: R.L1(0.03),
    "l2": lambda: R.L2(0.05),
    "l1l2": lambda: R.L1L2(0.02, 0.03),
    "by name": lambda: "l2",
    "orthogonal": lambda: R.OrthogonalRegularizer(0.1),
    "custom": lambda: quartic,
}


def dense(units=3, activation="tanh", **options):
    return layers.Dense(units, activation=activation, **options)


def net(*stack):
    return keras.Sequential([layers.Input((3,)), *stack, dense(activation="softmax")], name="net")


def on_kernel(r):
    return net(dense(2, kernel_regularizer=r))


def on_bias(r):
    return net(dense(2, bias_regularizer=r))


def on_gamma(r):
    options = {"gamma_regularizer": r}
    more = layers.LayerNormalization(epsilon=0.5, **options)  # of two numbers: far from a jump
    return net(dense(2), layers.BatchNormalization(epsilon=0.5, **options), more)


def on_embeddings(r):
    words = layers.Embedding(4, 2, embeddings_regularizer=r)
    return keras.Sequential(
        [layers.Input((2,), dtype="int32"), words, layers.Flatten(), dense(activation="softmax")],
        name="net",
    )


def in_a_nested_model(r):
    inner = [layers.Input((3,)), dense(3, kernel_regularizer=r)]
    return net(keras.Sequential(inner), dense(2, kernel_regularizer=r))


def in_a_shared_layer(r):
    """Whose regulariser Keras counts once."""
    data, shared = layers.Input((3,)), dense(3, kernel_regularizer=r)
    return keras.Model(data, dense(activation="softmax")(shared(shared(data))), name="net")


def in_a_frozen_layer(r):
    """Of whose weights Keras adds no loss."""
    model = net(dense(2, kernel_regularizer=r), dense(2, kernel_regularizer=r))
    model.layers[0].trainable = False
    return model


PLACES = [
    on_kernel, on_bias, on_gamma, on_embeddings, in_a_nested_model, in_a_shared_layer,
    in_a_frozen_layer,
]  # fmt: skip
MATRICES = ("on_kernel", "on_embeddings", "in_a_nested_model", "in_a_shared_layer",
            "in_a_frozen_layer")  # fmt: skip


def quick_places(kind):
    """Where a kind is tested in every run; the others are slow tests."""
    if kind == "custom":
        return (on_embeddings, in_a_nested_model, in_a_shared_layer)
    return (on_kernel,) if kind in ("l2", "orthogonal") else ()


def data_of(model):
    return WORDS if "int" in model.inputs[0].dtype else X


def matrices(problem):
    x, eye = problem.initial, np.eye(problem.n)
    return HessianOperator(problem, x) @ eye, GaussNewtonOperator(problem, x) @ eye


@pytest.mark.serial
@pytest.mark.parametrize(
    "kind, place",
    [
        pytest.param(kind, place, marks=[] if place in quick_places(kind) else [pytest.mark.slow])
        for kind in KINDS
        for place in PLACES
    ],
)
def test_every_regulariser_at_every_place(eager, kind, place):
    """What a regulariser adds to the Hessian it adds to the Gauss-Newton matrix too."""
    if kind == "orthogonal" and place.__name__ not in MATRICES:
        model = in_float64(lambda: place(KINDS[kind]()))
        with pytest.raises((RankFailure, ValueError), match="must have rank 2"):
            KerasProblem(model, LOSS(), (data_of(model), Y), dtype="float64")
        return
    model, plain = (in_float64(lambda k=k: place(KINDS[k]())) for k in (kind, "none"))
    data = data_of(model), Y
    gradient, H = Oracle(model, LOSS(), *data).gradient_and_hessian()
    value = Oracle(model, LOSS(), *data).value()
    without = matrices(KerasProblem(plain, LOSS(), data, dtype="float64"))
    for engine in ("layer-wise", "generic"):
        problem = KerasProblem(model, LOSS(), data, dtype="float64", engine=engine, check="full")
        assert problem.engine.name == engine
        objective, slope = problem.objective_and_gradient(problem.initial)
        assert objective == pytest.approx(value, rel=1e-12)
        assert np.linalg.norm(slope - gradient) <= 1e-6 * np.linalg.norm(gradient)
        found = matrices(problem)
        assert np.linalg.norm(found[0] - H) <= 1e-4 * np.linalg.norm(H)
        added = [with_it - of_data for with_it, of_data in zip(found, without, strict=True)]
        np.testing.assert_allclose(*added, atol=1e-12 * np.linalg.norm(H))
        if kind == "none":
            assert problem.penalty is None
        elif kind == "l2" and place is on_kernel:  # as one writes it down
            np.testing.assert_allclose(added[0], np.diag([0.1] * 6 + [0.0] * 11), atol=1e-13)


@pytest.mark.ranks(most=2)
@pytest.mark.parametrize("kind", slow_but(["custom"], ["l1l2", "orthogonal", "custom"]))
def test_ranks_layouts_and_blocks(world, kind):
    """On any number of ranks, in both layouts, of some parameters alone."""
    model = in_float64(lambda: in_a_nested_model(KINDS[kind]()))
    oracle = Oracle(model, LOSS(), X, Y)
    gradient, H = by_rank_0(world, oracle.gradient_and_hessian)
    alone = KerasProblem(model, LOSS(), (X, Y), World.serial(), dtype="float64")
    exact, G = matrices(alone)
    assert np.linalg.norm(exact - H) <= 1e-4 * np.linalg.norm(H)
    here = own_rows(world, ROWS)
    problem = KerasProblem(model, LOSS(), (X[here], Y[here]), world, dtype="float64")
    x = problem.initial
    objective, slope = problem.objective_and_gradient(x)
    assert objective == pytest.approx(oracle.value(), rel=1e-12)
    assert np.linalg.norm(slope - gradient) <= 1e-6 * np.linalg.norm(gradient)
    names = [problem.parameter_blocks[0].name, problem.parameter_blocks[3].name]
    for operator, matrix in ((HessianOperator, exact), (GaussNewtonOperator, G)):
        whole = operator(problem, x)
        check_operator(whole, matrix, 1e-11)
        part = Restricted(whole, names)
        check_operator(part, matrix[np.ix_(part.indices, part.indices)], 1e-11)
        slabs, V = whole.in_rows(3), np.random.default_rng(0).standard_normal((problem.n, 4))
        product = slabs.layout.whole(slabs @ slabs.layout.local(V))
        np.testing.assert_allclose(product, matrix @ V, atol=1e-11 * np.linalg.norm(matrix))


def test_reproducible_on_any_number_of_ranks(eager):
    world = World(reproducible=True)
    model = in_float64(lambda: in_a_nested_model(R.L1L2(0.02, 0.03)))
    here = own_rows(world, ROWS)
    problem = KerasProblem(model, LOSS(), (X[here], Y[here]), world, check="off")
    serial = World(World.serial().comm, reproducible=True)
    alone = KerasProblem(model, LOSS(), (X, Y), serial, check="off")
    x, V = problem.initial, np.random.default_rng(0).standard_normal((problem.n, 3))
    for operator in (HessianOperator, GaussNewtonOperator):
        np.testing.assert_array_equal(operator(problem, x) @ V, operator(alone, x) @ V)
    for left, right in zip(
        problem.objective_and_gradient(x), alone.objective_and_gradient(x), strict=True
    ):
        np.testing.assert_array_equal(left, right)


class AddsLoss(layers.Layer):
    """A layer that adds a loss of what passes through it."""

    def call(self, x):
        self.add_loss(keras.ops.mean(x**2))
        return x


def masked():
    words = layers.Embedding(4, 2, mask_zero=True)
    return keras.Sequential(
        [layers.Input((2,), dtype="int32"), words, dense(activation="softmax")], name="net"
    )


@pytest.mark.serial
@pytest.mark.parametrize("engine", ["auto", "layer-wise", "generic"])
@pytest.mark.parametrize("make, message", [
    (lambda: net(dense(2, activity_regularizer="l2")), "has an activity regulariser.*take it out"),
    (lambda: net(layers.ActivityRegularization(l2=0.1)),
     "has an activity regulariser|add losses .add_loss.*take them out"),
    (lambda: net(AddsLoss()), "add losses .add_loss.*take them out, or write the loss as"),
    (masked, "carries a mask.*build the model without it"),
], ids=["activity", "activity layer", "add_loss", "mask"])  # fmt: skip
def test_what_is_no_mean_over_rows_is_refused(make, message, engine):
    model = make()
    y = np.stack([Y, Y], 1) if make is masked else Y
    with pytest.raises(InputError, match=message):
        KerasProblem(model, LOSS(), (data_of(model), y), engine=engine)
