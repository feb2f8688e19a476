"""The named differential equations: their solutions, samples, runs and pictures."""

import json
import re

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from marks import slow_but

import hesscomp as hc
from hesscomp.analysis.plots import file_figure
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.problems import committor, equations
from hesscomp.problems.catalogue import EQUATIONS
from hesscomp.workflows import CompressRequest, SpectrumRequest, TrainRequest, compress, spectrum
from hesscomp.workflows.training import train


def slopes(function, X, i, h=1e-4):
    """First and second differences of a function of points by one coordinate."""
    step = h * np.eye(X.shape[1])[i]
    before, here, after = (np.asarray(function(X + s * step)) for s in (-1, 0, 1))
    return (after - before) / (2 * h), (after - 2 * here + before) / h**2


def test_each_equation_of_the_catalogue_is_posed():
    assert set(EQUATIONS) == set(equations.POSED)
    with pytest.raises(InputError, match="take one of poisson-1d"):
        hc.equation("poisson")


def cole_hopf(t, x, nu):
    """Burgers' solution by adaptive quadrature, scaled by the least potential."""

    def potential(y):
        return (np.cos(np.pi * y) - 1) / (2 * np.pi * nu) + (x - y) ** 2 / (4 * nu * t)

    found = scipy.optimize.minimize_scalar(
        potential, bounds=(x - t, x + t), method="bounded", options={"xatol": 1e-12}
    )
    least, peaks = found.fun, sorted([-found.x, found.x])

    far = t + 12 * np.sqrt(nu * t)

    def integral(factor):
        return scipy.integrate.quad(
            lambda y: factor(y) * np.exp(least - potential(y)), x - far, x + far, points=peaks,
            epsabs=1e-14, epsrel=1e-11, limit=500,
        )[0]  # fmt: skip

    return integral(lambda y: (x - y) / t) / integral(lambda y: 1)


@pytest.mark.parametrize("nu", [1e-3, 0.01 / np.pi, 0.1 / np.pi])
def test_the_solution_of_burgers_is_that_by_quadrature(nu):
    X = np.array([[0.2, -0.7], [0.4, 0.03], [0.7, 0.001], [1, -0.02], [1, 0.6]])
    expected = [cole_hopf(*point, nu) for point in X]
    found = equations.burgers_solution(X, nu)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_the_solution_of_burgers_begins_and_steepens_as_it_should():
    x = np.linspace(-1, 1, 51)
    start = equations.burgers_solution(np.column_stack([0 * x, x]))
    np.testing.assert_allclose(start, -np.sin(np.pi * x), atol=1e-12)
    # The largest slope at 0.01 / pi, and when, as Basdevant and others (1986) give them.
    h, nu = 1e-6, 0.01 / np.pi
    ends = equations.burgers_solution([[1.6037 / np.pi, -h], [1.6037 / np.pi, h]], nu)
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(152.00516, abs=1e-3)


def test_a_viscosity_is_of_burgers_alone_and_in_range():
    for name, viscosity, message in (
        ("poisson-1d", 0.1, "`viscosity` goes with `problem` burgers; leave it out"),
        ("burgers", 0.0, "`viscosity` must be a number from 1e-06 to 1, not 0.0"),
        ("burgers", float("nan"), "not nan"),
        ("burgers", "thick", "not 'thick'"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            hc.equation(name, viscosity=viscosity)
        with pytest.raises(InputError, match="`viscosity`"):
            TrainRequest(problem=name, optimizer="adam", viscosity=viscosity)


@pytest.mark.slow
def test_a_viscosity_is_that_of_the_equation_and_of_its_solution():
    thick, thin = (hc.equation("burgers", viscosity=nu) for nu in (0.5, 0.25))
    x = thick.initial
    assert thick.objective(x) > 1.0001 * thin.objective(x)
    X = thick.solution.X
    np.testing.assert_allclose(thick.solution.u, equations.burgers_solution(X, 0.5), rtol=1e-12)
    assert thick.run_identity(x)["model"] != thin.run_identity(x)["model"]


def test_the_solution_on_the_l():
    posed = equations.POSED["l-shape"]()
    X = posed.domain.random(50, 1).rows(0, 50)[0]
    X = X[(X**2).sum(1) > 0.01]

    def exact(X):
        return np.asarray(posed.exact(tf.constant(X)))

    np.testing.assert_allclose(slopes(exact, X, 0)[1], -slopes(exact, X, 1)[1], atol=1e-4)
    sides = np.array([[0.0, -0.5], [0.5, 0.0]])
    np.testing.assert_allclose(exact(sides), 0, atol=1e-12)


def test_walkers_are_the_same_in_any_parts(monkeypatch):
    y = np.random.default_rng(1).uniform(-1, 1, (9, 2))
    gradient = committor.surface(y)[1]
    for i in (0, 1):
        found = slopes(lambda y: committor.surface(y)[0], y, i, 1e-5)[0]
        np.testing.assert_allclose(found, gradient[:, i], rtol=1e-6)
    for name, value in {"SAMPLES": 5, "BEFORE": 10, "BETWEEN": 2}.items():
        monkeypatch.setattr(committor, name, value)
    walkers = committor.Trajectories()
    X, w = walkers.rows(0, 23)
    parts = [walkers.rows(*part) for part in ((0, 8), (8, 15), (15, 23))]
    assert np.array_equal(X, np.concatenate([part for part, _ in parts]))
    plane = (X @ committor.rotation())[:, :2]
    log = (1 / committor.HOT - 1 / committor.KT) * committor.surface(plane)[0]
    np.testing.assert_allclose(w / w[0], np.exp(log - log[0]), rtol=1e-10)


@pytest.mark.slow
def test_the_weights_of_all_walkers_sum_to_one():
    assert committor.Trajectories().rows(0, None)[1].sum() == pytest.approx(1, abs=0.06)


RATE = 0.0049143  # kT times the least mean of |grad q|^2, by linear finite elements, extrapolated


@pytest.mark.slow
def test_the_least_energy_of_the_committor_is_the_rate():
    problem = hc.equation("committor", ridge=1e-12)
    direct = hc.train(problem, hc.Newton(solver="direct"), max_steps=1)
    assert direct.best_objective == pytest.approx(RATE, rel=0.1)
    g = problem.objective_and_gradient(direct.best)[1]
    H = hc.hessian(problem, at=direct.best).to_dense()
    assert abs(np.linalg.solve(H, g)).max() < 1e-6 * abs(direct.best).max()
    by_cg = hc.train(problem, hc.Newton(solver="pcg", rank=100), max_steps=3)
    assert by_cg.best_objective == pytest.approx(direct.best_objective, rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "error"),
    [
        ("poisson-1d", 30, 1e-4), ("poisson-2d", 60, 1e-5), ("poisson-2d-deep", 20, 1e-4),
        ("poisson-5d", 20, 1e-1), ("l-shape", 60, 1e-2), ("helmholtz-2d", 60, 1e-2),
        ("burgers", 60, 1e-1), ("eigen-laplace", 40, 1e-3),
    ],
)  # fmt: skip
def test_the_default_optimizer_solves_each_equation(name, steps, error):
    found = hc.train(hc.equation(name), "natural-gradient", max_steps=steps, verbose=False)
    assert hc.equation(name).solution(found.best).relative_error < error


def test_a_run_tells_its_error_and_draws_it(tmp_path):
    said = []
    request = TrainRequest(
        problem="poisson-1d", optimizer="natural-gradient", max_steps=12, run=str(tmp_path / "r")
    )
    found = train(request, World.serial(), said.append)
    assert found.test.relative_error < 1e-3
    assert "relative L2 error" in str(found.test) and any("solution.json" in str(s) for s in said)
    errors = found.result.history.column("relative_error")
    assert errors[0] > 0.1 and errors.min() == found.test.relative_error
    figure = file_figure(tmp_path / "r")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:3] == ["Solution", "Error", "Points of training"]
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == ["x"] * 3
    (axis,) = json.loads((tmp_path / "r" / "solution.json").read_text())["axes"]
    assert axis[0] == 0.5 / len(axis) and axis[-1] == 1 - axis[0]  # the whole domain
    (tmp_path / "r" / "solution.json").write_text('{"axes": [[1, 2]], "u": [3], "points": [[1]]}')
    with pytest.raises(InputError, match="do not fit"):
        file_figure(tmp_path / "r")
    (tmp_path / "r" / "solution.json").write_text('{"axes": [[1]], "names": ["$x"]}')
    with pytest.raises(InputError, match="words"):
        file_figure(tmp_path / "r")


@pytest.mark.usefixtures("eager")
def test_an_equation_in_two_dimensions_has_its_pictures(tmp_path):
    train(
        TrainRequest(
            problem="poisson-2d", optimizer="natural-gradient", max_steps=1, run=str(tmp_path / "r")
        ),
        World.serial(),
    )
    titled = {axes.get_title(loc="left"): axes for axes in file_figure(tmp_path / "r").axes}
    for title in ("Solution", "Error", "Points of training"):
        assert titled[title].get_xlabel() == "x" and titled[title].get_ylabel() == "y"
    drawn = tmp_path / "spectrum.png"
    request = SpectrumRequest(problem="poisson-2d", probes=2, steps=3, out=str(drawn))
    lowest, largest = spectrum(request, World.serial()).extremes
    assert -1e-9 * largest < lowest < largest and drawn.stat().st_size > 1000


def test_the_fisher_matrix_of_residuals_is_their_gauss_newton_matrix():
    problem = hc.ResidualProblem(
        keras.Sequential([keras.Input((1,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]),
        [hc.Group(hc.Box([0], [1]).grid(7), lambda laplacian: laplacian + 1)],
    )
    J, G = hc.jacobian(problem) @ np.eye(problem.n), hc.ggn(problem).to_dense()
    J = J.reshape(-1, problem.n)
    np.testing.assert_allclose(J.T @ J / problem.rows, G, atol=1e-12 * abs(G).max())
    np.testing.assert_allclose(hc.fisher(problem).to_dense(), G, atol=1e-12 * abs(G).max())
    with pytest.raises(InputError, match="lacks the capability 'Kronecker factors'"):
        hc.kfac(problem)
    with pytest.raises(InputError, match="at=x"):
        hc.jacobian(problem, problem.initial)


def test_a_compression_takes_the_gauss_newton_matrix():
    factor = compress(CompressRequest(problem="poisson-1d", rank=3), World.serial()).factor
    assert factor.provenance.operator == "GaussNewtonOperator" and factor.eigenvalues[-1] > 0
    with pytest.raises(InputError, match="differential equation"):
        CompressRequest(problem="poisson-1d", rank=3, data="adult")


@pytest.mark.ranks(most=3)
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("reproducible", slow_but([False], [False, True]))
def test_a_rayleigh_quotient_and_its_matrices(reproducible):
    keras.utils.set_random_seed(5)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((1,)), dense(3, "tanh"), dense(1)])
    points = hc.Box([0], [1]).gauss(4, 2)
    problem = hc.RayleighProblem(
        model, lambda du: du[:, 0] ** 2, lambda u: u**2, points, World(reproducible=reproducible),
        distance=lambda x: x[:, 0] * (1 - x[:, 0]),
    )  # fmt: skip
    t, w = (tf.constant(part) for part in points.rows(0, 8))
    t = t[:, 0]

    def sides(x):  # by hand: u = t (1 - t) N
        a, b, c, c0 = x[:3], x[3:6], x[6:9], x[9]
        z = tf.tanh(t[:, None] * a + b)
        N, slope = tf.linalg.matvec(z, c) + c0, tf.linalg.matvec((1 - z**2) * a, c)
        return (1 - 2 * t) * N + t * (1 - t) * slope, t * (1 - t) * N

    x = tf.constant(problem.initial + 0.2)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            du, u = sides(x)
            value = tf.reduce_sum(w * du**2) / tf.reduce_sum(w * u**2)
        gradient = inner.gradient(value, x)
    hessian = outer.jacobian(gradient, x).numpy()
    found = problem.objective_and_gradient(x.numpy())
    np.testing.assert_allclose(found[0], value, rtol=1e-12)
    np.testing.assert_allclose(found[1], gradient, rtol=1e-9, atol=1e-11)
    H = hc.hessian(problem, at=x.numpy()).to_dense()
    np.testing.assert_allclose(H, hessian, rtol=1e-7, atol=1e-8 * abs(hessian).max())
    with tf.GradientTape() as tape:
        tape.watch(x)
        du, u = sides(x)
    J = tape.jacobian(du, x).numpy()
    G = 2 * J.T @ (w.numpy()[:, None] * J) / float(tf.reduce_sum(w * u**2))
    np.testing.assert_allclose(
        hc.ggn(problem, at=x.numpy()).to_dense(), G, rtol=1e-9, atol=1e-9 * abs(G).max()
    )
