"""Shallow ReLU networks in the plane, by Gauss-Newton, beside linear elements of as many unknowns.

The function has a front along the diagonal, which elements of a uniform mesh do not see.
"""

import numpy as np
import pytest

import hesscomp as hc
from hesscomp.curvature.tensorflow import keras, tf

pytestmark = [pytest.mark.slow, pytest.mark.serial]
UNITS, SQUARE = 32, hc.Box([0, 0], [1, 1])  # 129 parameters
NODES = 13  # along each side of the elements' mesh: 169, of which 121 are inner ones
POINTS, CHECKS = SQUARE.gauss(24, 3), SQUARE.gauss(48, 3)


def front(x):
    return tf.tanh(20 * (x[:, 0] - x[:, 1]))


def bump(x):
    return tf.reduce_prod(4 * x * (1 - x), 1)


def solution(x):
    return bump(x) * front(x)


def laplacian(x):
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            u = solution(x)
        slopes = tf.unstack(inner.gradient(u, x), axis=1)
    return tf.add_n([outer.gradient(slope, x)[:, i] for i, slope in enumerate(slopes)])


def hats(X):
    """Values and slopes at X of the hat functions on squares cut in two: (m, nodes), twice more."""
    cells = NODES - 1
    cell = np.minimum((X * cells).astype(int), cells - 1)
    s = X * cells - cell
    upper = s.sum(1) > 1
    s[upper] = 1 - s[upper]
    found, rows = np.zeros((3, len(X), NODES, NODES)), np.arange(len(X))
    for corner, value in (((0, 0), 1 - s.sum(1)), ((1, 0), s[:, 0]), ((0, 1), s[:, 1])):
        place = np.where(upper[:, None], cell + 1 - corner, cell + corner)
        sides = [-1, -1] if corner == (0, 0) else corner
        slopes = cells * np.where(upper[:, None], -1, 1) * sides
        found[:, rows, place[:, 0], place[:, 1]] = value, *slopes.T
    return found


def network(activation, seed=0):
    keras.utils.set_random_seed(seed)
    bias, dense = keras.initializers.RandomUniform(-0.7, 0.7), keras.layers.Dense
    hidden = dense(UNITS, activation, bias_initializer=bias)
    return keras.Sequential([keras.Input((2,)), hidden, dense(1)])


def trained(posed, activation):
    """Return the objective on other points, after training."""
    model = network(activation)
    found = hc.train(posed(model, POINTS), hc.NaturalGradient(), max_steps=60, verbose=False)
    return posed(model, CHECKS).objective(found.best)


def test_a_fit_moves_its_kinks_to_a_front():
    def posed(model, points):
        return hc.ResidualProblem(model, [hc.Group(points, lambda u, x: u - front(x))])

    X, w = CHECKS.rows(0, None)
    f, phi = front(tf.constant(X)).numpy(), hats(X)[0].reshape(len(X), -1)
    phi, f = np.sqrt(w)[:, None] * phi, np.sqrt(w) * f
    by_elements = np.linalg.lstsq(phi, f, rcond=None)[1][0]
    by_network = 2 * trained(posed, "relu")
    errors = np.sqrt([by_network, by_elements]) / np.linalg.norm(f)
    assert errors[0] < 0.02 and errors[1] > 5 * errors[0]


def test_an_energy_needs_rounded_kinks():
    def posed(model, points):
        return hc.EnergyProblem(
            model, lambda u, du, x: tf.reduce_sum(du**2, 1) / 2 + laplacian(x) * u, points,
            convex=True, distance=bump,
        )  # fmt: skip

    def rounded(z, width=0.05):
        return tf.where(abs(z) < width, (z + width) ** 2 / (4 * width), tf.nn.relu(z))

    X, w = CHECKS.rows(0, None)
    phi = hats(X)[:, :, 1:-1, 1:-1].reshape(3, len(X), -1)
    load = -laplacian(tf.constant(X)).numpy()
    right = (w * load) @ phi[0]
    K = sum((w[:, None] * slopes).T @ slopes for slopes in phi[1:])
    norm = w @ (load * solution(tf.constant(X)).numpy())  # of the gradient, squared
    energies = [-right @ np.linalg.solve(K, right) / 2]
    energies += [trained(posed, activation) for activation in (rounded, "relu")]
    by_elements, by_rounded, by_relu = np.sqrt([1 + 2 * energy / norm for energy in energies])
    assert by_rounded < 0.1 and 0.4 < by_elements < 0.65
    assert by_relu > by_elements
