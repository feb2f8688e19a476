"""Jets: networks' derivatives by their inputs, against closed forms and differentiation twice."""

import numpy as np
import pytest
from keras_oracle import in_float64
from marks import slow_but
from oracles import check_operator
from shards import mine

from hesscomp.curvature.chunks import Budget
from hesscomp.curvature.gauss_newton import EmpiricalFisherOperator, GaussNewtonOperator
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.jacobian import Jacobian
from hesscomp.curvature.losses import FunctionLoss
from hesscomp.curvature.networks.engine import cut
from hesscomp.curvature.networks.jets import Level, pairs
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.problems.jet_engine import jet_engine
from hesscomp.problems.network import NetworkProblem
from hesscomp.problems.rows import RowSet

pytestmark = pytest.mark.ranks
layers = keras.layers
ROWS = 7


class Squared(FunctionLoss):
    """Half the square of a sum of a row's numbers, whose root is known."""

    convex = True

    def __init__(self):
        super().__init__(lambda y, F: tf.reduce_sum(F, 1) ** 2 / 2, "squared sum")

    def root(self, output, y):
        return tf.ones_like(output)[:, None]


class JetProblem(NetworkProblem):
    """A loss of a model's jets: one that is not their square, and depends on the rows."""

    name = "jets"

    def __init__(self, model, level, data, world, engine="auto", loss=None):
        super().__init__(RowSet.of(data, world), world, 0.0, "float64", 2**28)
        variables = model.trainable_variables
        pieces = cut(variable.shape for variable in variables)
        loss = loss or FunctionLoss(curved, "curved")
        self._take_loss(loss, None)
        initial = np.concatenate([np.ravel(variable) for variable in variables])
        engine = jet_engine(model, pieces, loss, level, engine)
        self._differentiate(engine, pieces, [str(i) for i in range(len(pieces))], initial)


def curved(y, F):
    weights = tf.cos(tf.range(F.shape[1], dtype=F.dtype))
    s = tf.linalg.matvec(F, weights) - y[:, 0]
    return s**2 / 2 + tf.reduce_sum(tf.sin(F * F), 1) / 5


def points(d=2, seed=1):
    X = np.random.default_rng(seed).standard_normal((ROWS, d))
    return X, X


def shallow(d=2, c=1):
    return keras.Sequential([layers.Input((d,)), layers.Dense(4, "tanh"), layers.Dense(c)])


def by_closed_form(theta, X, d, c):
    """The jets of `shallow`: u, du/dx_i, Laplacian, d2u/dx_i dx_j."""
    W, b, A, a = tf.split(theta, [4 * d, 4, 4 * c, c])
    W, A = tf.reshape(W, [d, 4]), tf.reshape(A, [4, c])
    t = tf.tanh(X @ W + b)
    slope = 1 - t**2
    bend = -2 * t * slope
    second = [(bend * W[i] * W[j]) @ A for i, j in pairs(d)]
    laplacian = (bend * tf.reduce_sum(W**2, 0)) @ A
    return tf.concat([t @ A + a, *((slope * W[i]) @ A for i in range(d)), laplacian, *second], 1)


def dense_matrices(function, theta, X, y):
    """Gradient, Hessian, Gauss-Newton matrix and Jacobian of the losses of a function, by tapes."""
    theta = tf.constant(theta)

    def losses(F):
        return tf.reduce_sum(curved(y, F))

    with tf.GradientTape() as outer:
        outer.watch(theta)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(theta)
            F = function(theta, X)
            loss = losses(F)
        slope = inner.gradient(loss, theta)
    H, J = outer.jacobian(slope, theta), inner.jacobian(F, theta)
    F = tf.constant(F)
    with tf.GradientTape() as outer:
        outer.watch(F)
        with tf.GradientTape() as inner:
            inner.watch(F)
            loss = losses(F)
        slope_of_F = inner.gradient(loss, F)
    B = outer.jacobian(slope_of_F, F)
    B, flat = tf.reshape(B, [len(B) * F.shape[1]] * 2), tf.reshape(J, [-1, len(theta)])
    G = tf.transpose(flat) @ B @ flat
    return [np.asarray(each) for each in (slope, H, G, J)]


def deep(d=2, c=1):
    """A graph with shared layers and all that has a rule for jets."""
    data = layers.Input((d,))
    first = layers.Dense(3, "tanh")(data)
    shared = layers.Dense(3, "softplus")
    waves = layers.Dense(3, tf.sin)(shared(first))
    normal = layers.BatchNormalization()
    merged = layers.Add()([first, normal(shared(first)), layers.Multiply()([waves, first])])
    joined = layers.Concatenate()([data, layers.Subtract()([merged, first])])
    model = keras.Model(data, layers.Dense(c, use_bias=False)(layers.Rescaling(0.5, 0.1)(joined)))
    normal.set_weights([np.array(row) / 4 for row in ([3, 4, 5], [1, 2, 3], [2, 1, -1], [4, 3, 5])])
    return model


def close(found, expected):
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= 1e-12 * np.linalg.norm(expected)


@pytest.mark.ranks(most=2)
@pytest.mark.parametrize(
    "d,c,level", slow_but([(2, 2, Level.D2U)], [(2, 2, Level.D2U), (1, 1, Level.DU)])
)
def test_layerwise_operators_against_closed_forms(world, monkeypatch, d, c, level):
    monkeypatch.setattr(Budget, "rows", lambda *_: 2)  # so that the last chunk is ragged
    monkeypatch.setattr("hesscomp.problems.jet_engine.IN_CACHES", 60)  # so that blocks are small
    model, (X, y) = in_float64(lambda: shallow(d, c)), points(d)
    problem = JetProblem(model, level, mine(world, X, y), world, "layer-wise")
    width, theta = level.channels(d) * c, problem.initial
    gradient, H, G, J = dense_matrices(
        lambda theta, X: by_closed_form(theta, X, d, c)[:, :width], theta, X, y
    )
    assert problem.engine.block in range(1, 7)
    value, found = problem.objective_and_gradient(theta)
    close(found, gradient / ROWS)
    assert problem.objective(theta) == pytest.approx(value, rel=1e-13)
    check_operator(HessianOperator(problem, theta), H / ROWS, 1e-12)
    check_operator(GaussNewtonOperator(problem, theta), G / ROWS, 1e-12)
    V = np.random.default_rng(2).standard_normal((problem.n, 3))
    found = world.gather(Jacobian(problem, theta) @ V)
    close(np.concatenate(found), J @ V)
    # A loss of one number of each row: by the Jacobian's rows.
    problem = JetProblem(model, level, mine(world, X, y), world, "layer-wise", Squared())
    total = J.sum(1)
    close(GaussNewtonOperator(problem, theta) @ V, total.T @ (total @ V) / ROWS)


def compare_engines(world, monkeypatch, d, c, level, kinds):
    monkeypatch.setattr("hesscomp.problems.differentiable.FUSED", 0)
    model, (X, y), found = in_float64(lambda: deep(d, c)), points(d), []
    for name in ("layer-wise", "generic"):
        problem = JetProblem(model, level, (X, y), world, name)
        x = problem.initial
        V = np.random.default_rng(3).standard_normal((problem.n, 2))
        products = [kind(problem, x) @ V for kind in kinds]
        found.append([problem.output(x, X), problem.row_squares(x), *products])
    for layerwise, generic in zip(*found, strict=True):
        close(layerwise, generic)


@pytest.mark.serial
def test_engines_agree(world, monkeypatch):
    compare_engines(world, monkeypatch, 1, 1, Level.DU, [HessianOperator])


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize(
    "d,c,level",
    [(3, 2, Level.D2U), (2, 1, Level.LAPLACIAN), (1, 2, Level.DU), (2, 1, Level.U)],
)
def test_engines_agree_on_every_level(world, monkeypatch, d, c, level):
    kinds = HessianOperator, GaussNewtonOperator, EmpiricalFisherOperator
    compare_engines(world, monkeypatch, d, c, level, kinds)
