"""Residuals and energies of networks, against closed forms of a network of one hidden layer."""

from functools import cache

import numpy as np
import pytest

import hesscomp as hc
from hesscomp.curvature.networks.smoothness import smoothness
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError, NumericalError
from hesscomp.parallel.world import World
from hesscomp.problems.contract import check_problem

pytestmark = pytest.mark.ranks(most=2)
HIDDEN, SQUARE = 5, hc.Box([0, 0], [1, 1])
INSIDE, EDGES = SQUARE.grid(4), SQUARE.boundary_grid(3)


def network(outputs=1):
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((2,)), dense(HIDDEN, "tanh"), dense(outputs)])


def load(x):
    return 3 * x[:, 0] - x[:, 1]


@cache
def poisson():
    inside = hc.Group(INSIDE, lambda laplacian, x: laplacian + load(x))
    edges = hc.Group(EDGES, lambda u: tf.stack([u, u * u], 1), weight=3)
    return hc.ResidualProblem(network(), [inside, edges], World())


def by_hand(x):
    """The residuals of `poisson`, each with its weight, and their Jacobian, by group."""
    W, b, c, c0 = np.split(x, np.cumsum([2 * HIDDEN, HIDDEN, HIDDEN]))
    W, (I, w_in), (B, w_on) = W.reshape(2, HIDDEN), INSIDE.rows(0, None), EDGES.rows(0, None)
    z, square = np.tanh(I @ W + b), (W**2).sum(0)
    slope, bend = 1 - z**2, -2 * z * (1 - z**2)
    third = -2 * (slope**2 + z * bend)
    inner = third * square * c
    by_W = [I[:, [i]] * inner + 2 * W[i] * c * bend for i in (0, 1)]
    J = np.hstack([*by_W, inner, bend * square, np.zeros((len(I), 1))])
    r = (bend * square) @ c + load(I)
    z = np.tanh(B @ W + b)
    u, inner = z @ c + c0, (1 - z**2) * c
    Ju = np.hstack([B[:, [0]] * inner, B[:, [1]] * inner, inner, z, np.ones((len(B), 1))])
    roots = np.sqrt(np.concatenate([w_in, 3 * w_on, 3 * w_on]))
    residuals = np.concatenate([r, u, u**2]) * roots
    return residuals, np.concatenate([J, Ju, 2 * u[:, None] * Ju]) * roots[:, None]


def test_residuals_and_their_jacobian_are_those_by_hand():
    problem = poisson()
    x = problem.initial + 0.1
    residuals, J = by_hand(x)
    value, gradient = problem.objective_and_gradient(x)
    np.testing.assert_allclose(value, residuals @ residuals / 2, rtol=1e-12)
    np.testing.assert_allclose(gradient, J.T @ residuals, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(hc.ggn(problem, at=x).to_dense(), J.T @ J, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_the_rows_and_the_gram_matrix_of_the_jacobian():
    problem = poisson()
    x = problem.initial + 0.1
    residuals, J = by_hand(x)
    jacobian = hc.jacobian(problem, at=x)
    rows = jacobian.rows()
    np.testing.assert_allclose(rows, jacobian @ np.eye(problem.n), rtol=1e-10, atol=1e-12)
    gram = jacobian.gram() / problem.rows
    w = np.linalg.eigvalsh(gram)[-problem.n :]  # the order of the rows differs
    np.testing.assert_allclose(w, np.linalg.eigvalsh(J.T @ J), atol=1e-10 * w[-1])
    R, r = problem.gauss_newton_rows(x)
    total = problem.world.sum(np.column_stack([R.T @ R, R.T @ r])) / problem.rows
    np.testing.assert_allclose(
        total, np.column_stack([J.T @ J, J.T @ residuals]), rtol=1e-9, atol=1e-11
    )


def test_rows_are_named_by_group_and_point_and_fillings_do_not_count():
    problem = poisson()
    x, places = problem.initial + 0.1, problem.row_places()
    J, grid = hc.jacobian(problem, at=x) @ np.eye(problem.n), len(INSIDE.X)
    assert J.shape == (problem.rows_here, 2, problem.n)
    here = np.arange(2) < places.residuals[:, None]
    assert not J[~here].any() and here.any()
    on = places.group == 1
    first = np.where(on, grid + places.point, places.point)  # of `by_hand`
    expected = by_hand(x)[1] * np.sqrt(problem.rows)
    np.testing.assert_allclose(J[:, 0], expected[first], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(J[on, 1], expected[first[on] + len(EDGES.X)], rtol=1e-9, atol=1e-11)
    for part in (problem, problem.sampled(0.5, 1)):
        made = len(part.gauss_newton_rows(x)[1])
        assert part.gauss_newton_count == sum(part.world.gather(made))
    with pytest.raises(InputError, match="take all points"):
        part.row_places()


@pytest.mark.slow
def test_problems_keep_the_contract():
    check_problem(poisson())
    energy = hc.EnergyProblem(
        network(), lambda u, du, x: tf.reduce_sum(du**2, 1) / 2 - load(x) * u, INSIDE,
        [hc.Group(EDGES, lambda u: u, weight=10)], World(), convex=True,
    )  # fmt: skip
    check_problem(energy)
    assert np.linalg.eigvalsh(hc.ggn(energy).to_dense())[0] > -1e-12


@pytest.mark.serial
def test_conditions_that_are_built_in_hold_and_have_right_derivatives():
    """By functions of jets that vanish for any network."""

    def zero(u, du, laplacian, d2u, x):
        return tf.concat([laplacian - tf.einsum("bcii->bc", d2u), du[:, :, 0] * 0], 1)

    def difference(u, du, d2u, x):
        return tf.concat([u, du[:, 0], d2u[:, 1, 0]], 1)

    def distance(x):
        return x[:, 0] * (1 - x[:, 0]) * tf.exp(x[:, 1])

    def values(x):
        return tf.stack([tf.sin(x[:, 0] + 2 * x[:, 1]), x[:, 1] ** 3], 1)

    problem = hc.ResidualProblem(
        network(2), [hc.Group(INSIDE, zero), hc.Group(INSIDE, difference)],
        distance=distance, boundary_values=values,
    )  # fmt: skip
    X, x = np.array([[0.0, 0.3], [1.0, 0.7], [0.4, 0.6]]), problem.initial
    np.testing.assert_allclose(problem.output(x, X)[:2], values(tf.constant(X[:2])), atol=1e-14)
    kept = problem.tensors("float64")[0].numpy()
    found = problem.engine.output(tf.constant(x), tf.constant(kept)).numpy()
    np.testing.assert_allclose(found[kept[:, -1] == 0], 0, atol=1e-13)
    (place, *_), step = np.flatnonzero(kept[:, -1] == 1), 1e-4
    point, weight = kept[place, :2], np.sqrt(kept[place, 2])
    ends = [[i * step, j * step] for i in (-1, 1) for j in (-1, 1)]
    u = problem.output(x, point + np.array(ends)).reshape(2, 2, 2)
    along = problem.output(x, point + np.array([[step, 0], [0, step], [-step, 0], [0, -step]]))
    expected = np.concatenate([
        problem.output(x, point[None])[0], (along[:2] - along[2:])[:, 0] / (2 * step),
        (u[1, 1] - u[1, 0] - u[0, 1] + u[0, 0])[[1]] / (4 * step**2),
    ])  # fmt: skip
    wanted = [0, 1, 2, 3, 5]
    np.testing.assert_allclose(found[place, wanted] / weight, expected, atol=1e-6)


@pytest.mark.serial
def test_what_does_not_fit_is_refused():
    good = hc.Group(INSIDE, lambda u: u)
    for make, words in (
        (lambda: hc.Group(INSIDE, lambda v: v), "takes v"),
        (lambda: hc.Group(INSIDE, lambda x: x), "takes x"),
        (lambda: hc.Group(INSIDE, lambda u: u, weight=0), "weight"),
        (lambda: hc.ResidualProblem(network(), []), "one or more"),
        (lambda: hc.ResidualProblem(network(), [hc.Group([0.0], lambda u: u)]), "1 coordinates"),
        (lambda: hc.ResidualProblem(network(), [good], boundary_values=load), "distance"),
        (lambda: hc.ResidualProblem(network(), [hc.Group(INSIDE, lambda u: u[0])]), "0 axes"),
        (lambda: hc.ResidualProblem(network(), good), "put the one group into brackets"),
        (lambda: hc.EnergyProblem(network(), lambda u: u, INSIDE, good), "brackets"),
        (
            lambda: hc.fisher(hc.EnergyProblem(network(), lambda u: u * u, INSIDE)),
            "an energy has no Fisher matrix",
        ),
        (lambda: hc.Group(load, INSIDE), "function load is given as points; are two"),
        (lambda: hc.Group(([[0.0]], [1.0], [2.0]), load), "not of 3 parts"),
        (lambda: hc.Group("many", lambda u: u), "points must be an array of numbers"),
        (lambda: poisson().output(poisson().initial, np.zeros((4, 3))), r"at points \(B, 2\)"),
    ):
        with pytest.raises(InputError, match=words):
            make()


@pytest.mark.serial
def test_functions_that_take_points_together_or_no_tensors_are_refused():
    keras.utils.set_random_seed(1)
    line = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    ends, good = [0.0, 1.0], hc.Group(INSIDE, lambda u: u)
    for model, points, function, words in (
        (line, ends, lambda u, x: u - x, r"group 1: .*take a column, u - x\[:, 0\]"),
        (line, ends, lambda du: tf.reduce_mean(du, 0), "first axis must be that of the points"),
        (network(), INSIDE, lambda u, x: u - x, r"must be equal.*so that u - x\[:, 0\] fits"),
        (network(), INSIDE, lambda u, x: u - np.sin(x[:, 0]), "tf.sin and not np.sin"),
        (network(), INSIDE, lambda u: u.values, "no attribute 'values'"),
    ):
        groups = [hc.Group(points, lambda u: u), hc.Group(points, function)]
        with pytest.raises(InputError, match=words):
            hc.ResidualProblem(model, groups)
    for make, words in (
        (
            lambda: hc.EnergyProblem(network(), lambda du: du[0], INSIDE),
            "the energy: .* first axis",
        ),
        (lambda: hc.ResidualProblem(network(), [good], distance=lambda x: x[0] - 1), "each point"),
        (lambda: hc.ResidualProblem(network(), [good], distance=np.linalg.norm), "tf.sin"),
    ):
        with pytest.raises(InputError, match=words):
            make()


@pytest.mark.serial
def test_derivatives_that_miss_the_kinks_of_a_network_are_refused_or_told(caplog):
    class Own(keras.layers.Layer):  # of which no rule is known
        def call(self, x):
            return tf.abs(x)

    relu, elu = keras.layers.ReLU(name="kinked"), keras.layers.ELU(name="elu")
    dense = keras.layers.Dense
    laplacian = hc.Group(INSIDE, lambda laplacian: laplacian)
    for layers, whose in (
        ([dense(HIDDEN, "leaky_relu")], "activation leaky_relu"),
        ([dense(HIDDEN), relu], "activation kinked"),
        ([dense(HIDDEN), Own()], "network"),
    ):
        model = keras.Sequential([keras.Input((2,)), *layers, dense(1)], name="bent")
        with pytest.raises(InputError, match=f"bent: the slope of the {whose} jumps, and second"):
            hc.ResidualProblem(model, [laplacian])
    for layer, group, jumps in (
        (relu, hc.Group(INSIDE, lambda du: du), "the slope of the activation kinked jumps"),
        (elu, laplacian, "the second derivative of the activation elu jumps"),
    ):
        model = keras.Sequential([keras.Input((2,)), dense(2), layer, dense(1)])
        hc.ResidualProblem(model, [group])
        assert jumps in caplog.records.pop().getMessage()
    assert not caplog.records


@pytest.mark.serial
def test_the_smoothness_of_activations():
    known = {"relu": 0, "selu": 0, "hard_silu": 0, "elu": 1, "softsign": 1, "gelu": 2, "tanh": 2}
    found = {name: smoothness(keras.activations.get(name)) for name in known}
    assert found == known
    powers = [smoothness(lambda x, p=p: tf.nn.relu(x) ** p) for p in (2, 3)]
    assert powers == [1, 2] and smoothness(tf.sign) == -1


@pytest.mark.parametrize("steep", [False, True])
def test_a_start_that_is_not_finite_names_the_group_and_the_point(steep):
    """By a value or, where it is steep, by a derivative at the last point of the second group."""

    def broken(u, x):
        at = tf.where(x[:, 1] > 0.9, 0 * u, u**2 + 1)
        return 1 + tf.sqrt(at) if steep else 1 / at

    groups = [hc.Group(INSIDE, lambda u: u), hc.Group([[0.5, 0.25], [0.25, 1.0]], broken)]
    problem = hc.ResidualProblem(network(), groups, World())
    with pytest.raises(NumericalError, match=r"function of group 1 or .* at \(0.25, 1\); start"):
        hc.train(problem, "natural-gradient", max_steps=1)
