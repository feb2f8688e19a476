"""Sensitivities against differences of refitted minima, hat matrices and dense inverses."""

import importlib
import logging
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
import scipy.sparse
from marks import two_ranks_but
from mpi4py import MPI
from oracles import by_rank_0
from shards import block_rows, own_rows

import hesscomp as hc
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError
from hesscomp.estimators import diagonal_factor
from hesscomp.influence.sensitivity import TOLERANCES
from hesscomp.krylov.cg import solve_columns
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.parallel.layout import RowLayout
from hesscomp.parallel.world import World
from hesscomp.problems.keras import KerasProblem
from hesscomp.workflows import SensitivityRequest, find_sensitivity
from hesscomp.workflows.subject import Subject

M, TEST, N, RIDGE = 60, 25, 4, 0.05
UNITS = np.eye(M)


def rows_of_logistic_regression():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((M + TEST, N)) * (rng.random((M + TEST, N)) < 0.7)
    p = 1 / (1 + np.exp(-X @ np.linspace(-1, 2, N)))
    return X, np.where(rng.random(M + TEST) < p, 1, -1)


def fit(X, p, weights, ridge, x=None):
    """Newton's method in NumPy: labels as probabilities of +1, weights of rows."""
    x = np.zeros(X.shape[1]) if x is None else x
    for _ in range(30):
        s = 1 / (1 + np.exp(-X @ x))
        g = X.T @ (weights * (s - p)) / M + ridge * x
        H = (X.T * (weights * s * (1 - s))) @ X / M + ridge * np.eye(len(x))
        x = x - np.linalg.solve(H, g)
    return x


def weighted_fit(A, y, weights, offsets, family, free=0, by=0.0, x=None):
    """Newton's method in NumPy, without ridge on the last `free` columns; mean over TOTAL."""
    x = np.zeros(A.shape[1]) if x is None else x
    ridge = (RIDGE + by) * (np.arange(A.shape[1]) < A.shape[1] - free)
    for _ in range(30):
        t = A @ x + offsets
        s = 1 / (1 + np.exp(-t)) if family == "logistic" else np.exp(t)
        bend = s * (1 - s) if family == "logistic" else s
        g = A.T @ (weights * (s - y)) / TOTAL + ridge * x
        x = x - np.linalg.solve((A.T * (weights * bend)) @ A / TOTAL + np.diag(ridge), g)
    return x


def loss(X, b, x):
    return np.logaddexp(0, -b * (X @ x))


def slope(function, step=1e-4):
    return (function(step) - function(-step)) / (2 * step)


def logistic_problem(world, cut, form=np.asarray, **options):
    X, b = rows_of_logistic_regression()
    parts = []
    for first, total in ((0, M), (M, TEST)):
        here = own_rows(world, total, cut)
        parts.append((form(X[first:][here]), b[first:][here]))
    data = from_arrays(*parts[0], world, test=parts[1])
    problem = hc.LogisticRegression(data, world, ridge=RIDGE, dtype="float64", **options)
    return problem, data


@pytest.mark.ranks(most=4)
@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("cut", ["uneven", "first empty", "on one"])
def test_derivatives_against_differences_of_refits(world, form, cut):
    X, b = rows_of_logistic_regression()
    X, b, Xt, bt = X[:M], b[:M], X[M:], b[M:]
    p, ones = (b + 1) / 2, np.ones(M)
    x = fit(X, p, ones, RIDGE)
    problem, data = logistic_problem(world, cut, form)
    found = hc.sensitivity(
        problem, x, test=data, test_rows=(3, 20), target=np.eye(N)[1], by_data=True, leading=5
    )
    assert found.converged and found.stationary and found.residuals.max() < 1e-8
    assert found.targets == ("test loss", "loss of test row 3", "loss of test row 20", "target 0")
    assert found.values[0] == pytest.approx(loss(Xt, bt, x).mean())

    def targets(x):
        single = loss(Xt, bt, x)
        return np.array([single.mean(), single[3], single[20], x[1]])

    def close(values, move):
        expected = slope(lambda t: targets(fit(*move(t), x=x)))
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-8)

    close(found.by_ridge, lambda t: (X, p, ones, RIDGE + t))
    for i in (0, 17, M - 1):
        close(found.influence[i], lambda t, e=UNITS[i]: (X, p, ones + t * e, RIDGE))
        close(found.labels[i], lambda t, e=UNITS[i]: (X, p + t * e, ones, RIDGE))
    for j in range(N):
        e = np.eye(N)[j]
        close(found.shifts[j], lambda t, e=e: (X + t * e, p, ones, RIDGE))
        close(found.scales[j], lambda t, e=e: (X * (1 + t * e), p, ones, RIDGE))
    strongest = np.argsort(-np.abs(found.influence[:, 0]), kind="stable")[:5]
    np.testing.assert_array_equal(found.chosen, strongest)
    for i, moved in zip(found.chosen, found.parameters.T, strict=True):
        expected = slope(lambda t, e=UNITS[i]: fit(X, p, ones + t * e, RIDGE, x))
        np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-8)
    expected = slope(lambda t: fit(X, p, ones, RIDGE + t, x))
    np.testing.assert_allclose(found.parameters_by_ridge, expected, rtol=1e-5)


def weighted_rows(family):
    X, b = rows_of_logistic_regression()
    rng = np.random.default_rng(1)
    A = np.column_stack([X[:M], np.ones(M)])
    weights, offsets = rng.integers(0, 4, M).astype(float), rng.standard_normal(M) / 3
    return A, (b[:M] + 1) / 2 if family == "logistic" else rng.poisson(2.0, M), weights, offsets


TOTAL = weighted_rows("logistic")[2].sum()


@pytest.mark.ranks
@pytest.mark.parametrize("family", ["logistic", "poisson"])
def test_weights_offsets_and_an_intercept_without_ridge(world, family):
    A, y, w, o = weighted_rows(family)
    x = weighted_fit(A, y, w, o, family, 1)
    here, signs = own_rows(world, M, "uneven"), family == "logistic"
    data = from_arrays(
        A[here, :-1], (2 * y - 1 if signs else y)[here], world, weights=w[here], offsets=o[here],
        targets="signs" if signs else "values",
    )  # fmt: skip
    problem = hc.GeneralizedLinearModel(
        data, world, family=family, ridge=RIDGE, dtype="float64", intercept=True
    )
    found = hc.sensitivity(
        problem, x, target=np.eye(N + 1)[:, [0, N]], by_data=True, leverage=True, laplace=True,
        leading=M,
    )  # fmt: skip
    assert found.converged and found.stationary

    def close(values, move, **more):
        expected = slope(lambda t: weighted_fit(*move(t), family, 1, x=x, **more)[[0, N]])
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-8)

    ridged = [weighted_fit(A, y, w, o, family, 1, t, x)[[0, N]] for t in (1e-4, -1e-4)]
    np.testing.assert_allclose(found.by_ridge, (ridged[0] - ridged[1]) / 2e-4, rtol=1e-5)
    for i in (0, 17, int(np.argmax(w))):
        close(found.influence[i], lambda t, e=UNITS[i]: (A, y, w * (1 + t * e), o))
        close(found.labels[i], lambda t, e=UNITS[i]: (A, y + t * e, w, o))
    for e in np.eye(N, N + 1)[[0, 2]]:
        close(found.shifts[np.argmax(e)], lambda t, e=e: (A + t * e, y, w, o))
        close(found.scales[np.argmax(e)], lambda t, e=e: (A * (1 + t * e), y, w, o))
    t = A @ x + o
    s = 1 / (1 + np.exp(-t)) if signs else np.exp(t)
    bend, r = w * (s * (1 - s) if signs else s), w * (s - y)
    H = (A.T * bend) @ A / TOTAL + np.diag(RIDGE * (np.arange(N + 1) < N))
    K = np.einsum("ij,jk,ik->i", A, np.linalg.inv(H), A) / TOTAL
    rows, z = found.statistics, r / (1 - bend * K)
    np.testing.assert_allclose(rows.leverage, bend * K, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(rows.cook, z * K * z / (bend @ K), rtol=1e-8, atol=1e-12)
    moved = z[:, None] * (A @ np.linalg.inv(H))[:, [0, N]] / TOTAL
    np.testing.assert_allclose(rows.left_out, moved, rtol=1e-6, atol=1e-9)
    deviations = np.sqrt(np.diag(np.linalg.inv(H)) / TOTAL)
    np.testing.assert_allclose(found.laplace.parameters, deviations, rtol=1e-8)
    assert found.factor_gap < 1e-8


@pytest.mark.ranks
def test_the_scale_of_least_squares_comes_from_weighted_residuals(world):
    A, _, w, o = weighted_rows("logistic")
    y, here = A @ np.arange(N + 1) + o + np.sin(np.arange(M)), own_rows(world, M, "uneven")
    data = from_arrays(
        A[here], y[here], world, weights=w[here], offsets=o[here], targets="values"
    )  # fmt: skip
    problem = hc.GeneralizedLinearModel(
        data, world, family="least-squares", ridge=0.0, dtype="float64"
    )
    x = np.linalg.solve((A.T * w) @ A, A.T @ (w * (y - o)))
    found = hc.sensitivity(problem, x, leverage=True, leading=0)
    left = w @ (A @ x + o - y) ** 2 / (w.sum() - N - 1)
    assert found.statistics.dispersion == pytest.approx(left)
    assert found.statistics.effective_parameters == pytest.approx(N + 1)


@pytest.mark.ranks
def test_statistics_of_rows_against_dense_formulas(world):
    X, b = rows_of_logistic_regression()
    X, b, Xt = X[:M], b[:M], X[M:]
    p = (b + 1) / 2
    x = fit(X, p, np.ones(M), RIDGE)
    s = 1 / (1 + np.exp(-X @ x))
    w = s * (1 - s)
    inverse = np.linalg.inv((X.T * w) @ X / M + RIDGE * np.eye(N))
    K = np.einsum("ij,jk,ik->i", X, inverse, X) / M
    h, r = w * K, (s - p) / np.sqrt(w)
    problem, data = logistic_problem(world, "first empty")
    found = hc.sensitivity(problem, x, test=data, leverage=True, laplace=True, leading=M)
    rows, posterior = found.statistics, found.laplace
    np.testing.assert_allclose(rows.leverage, h, rtol=1e-8)
    np.testing.assert_allclose(rows.self_influence, (s - p) ** 2 * K, rtol=1e-8)
    np.testing.assert_allclose(found.self_influence, rows.self_influence[found.chosen], rtol=1e-8)
    np.testing.assert_allclose(rows.cook, r**2 * h / ((1 - h) ** 2 * h.sum()), rtol=1e-8)
    assert rows.dispersion == 1 and rows.effective_parameters == pytest.approx(h.sum())
    assert found.factor_gap < 1e-8
    np.testing.assert_allclose(posterior.parameters, np.sqrt(np.diag(inverse) / M), rtol=1e-8)
    spread = np.sqrt(np.einsum("ij,jk,ik->i", Xt, inverse, Xt) / M)
    np.testing.assert_allclose(posterior.outputs[:, 0], spread, rtol=1e-8)
    alone = hc.sensitivity(problem, x, leverage=True, leading=3)
    assert alone.targets == () and alone.influence.shape == (M, 0)
    np.testing.assert_array_equal(alone.chosen, np.argsort(-rows.cook)[:3])


@pytest.mark.ranks
@pytest.mark.parametrize("name", ["squared-error", "mse"])
def test_least_squares_against_the_hat_matrix(world, name):
    """Leverage, Cook's distance, variances and left-out fits of ordinary least squares."""
    rng = np.random.default_rng(1)
    X, Xt = rng.standard_normal((40, 3)), rng.standard_normal((6, 3))
    y = X @ [1.0, -2, 0.5] + 3 + 0.3 * rng.standard_normal(40)
    A, At = (np.column_stack([each, np.ones(len(each))]) for each in (X, Xt))
    x, residual, _, _ = np.linalg.lstsq(A, y, rcond=None)
    hat, s2 = A @ np.linalg.pinv(A), residual[0] / (40 - 4)
    h, e = np.diag(hat), y - A @ x
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.set_weights([x[:3, None], x[3:]])
    here, there = own_rows(world, 40, "uneven"), own_rows(world, 6, "on one")
    problem = KerasProblem(model, name, (X[here], y[here, None]), world, dtype="float64")
    found = hc.sensitivity(
        problem, x, test=(Xt[there], np.zeros((6, 1))[there]), target=np.eye(4)[0], leverage=True,
        laplace=True, by_data=True,
    )  # fmt: skip
    rows = found.statistics
    np.testing.assert_allclose(rows.leverage, h, rtol=1e-6)
    np.testing.assert_allclose(rows.cook, e**2 * h / (4 * s2 * (1 - h) ** 2), rtol=1e-6)
    scale = 2 if name == "mse" else 1  # of the loss, and so of its likelihood
    assert rows.dispersion == pytest.approx(scale * s2)
    covariance = s2 * np.linalg.inv(A.T @ A)
    np.testing.assert_allclose(found.laplace.parameters, np.sqrt(np.diag(covariance)), rtol=1e-6)
    spread = np.sqrt(np.diag(At @ covariance @ At.T))
    np.testing.assert_allclose(found.laplace.outputs[:, 0], spread, rtol=1e-6)
    for i in (0, 39):
        left_out = np.linalg.lstsq(np.delete(A, i, 0), np.delete(y, i), rcond=None)[0]
        np.testing.assert_allclose(rows.left_out[i, 1], left_out[0] - x[0], rtol=1e-6)
    by_labels = np.linalg.pinv(A)[0]
    np.testing.assert_allclose(found.labels[:, 0, 1], by_labels, rtol=1e-6, atol=1e-9)


def small_network(world, cut="first empty", **options):
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((30, 3)), rng.integers(0, 3, 30)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "tanh", kernel_regularizer="l2"),
         keras.layers.Dense(3)]
    )  # fmt: skip
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    here = block_rows(world, 30) if cut == "blocks" else own_rows(world, 30, cut)
    return KerasProblem(
        model, "softmax-cross-entropy", (X[here], y[here]), world, ridge=0.1, dtype="float64",
        check="off", **options,
    )  # fmt: skip


@pytest.mark.ranks
@pytest.mark.parametrize("engine", two_ranks_but(["layer-wise"], ["layer-wise", "generic"]))
def test_a_network_against_dense_matrices(world, engine, caplog):
    problem = small_network(world, engine=engine)
    x, n, m = problem.initial, problem.n, problem.rows
    alone = small_network(World.serial(), engine=engine)
    terms = alone.output_terms(x, slice(None))
    J, B, r = terms.jacobian, terms.curvature, terms.slopes
    G = np.einsum("rcn,rc->rn", J, r)
    inverse = np.linalg.inv(hc.ggn(alone, at=x).to_dense() + 0.1 * np.eye(n))
    rng = np.random.default_rng(5)
    c = rng.standard_normal(n)
    with caplog.at_level(logging.WARNING):
        found = hc.sensitivity(
            problem, x, target=c, operator="ggn", leverage=True, leading=4, by_data=True
        )
    assert not found.stationary and found.converged
    if world.rank == 0:
        assert "not stationary" in caplog.text
    np.testing.assert_allclose(found.influence[:, 0], -G @ inverse @ c / m, rtol=1e-6)
    K = np.einsum("rcn,nk,rdk->rcd", J, inverse, J) / m
    own = np.einsum("rc,rcd,rd->r", r, K, r)
    np.testing.assert_allclose(found.statistics.self_influence, own, rtol=1e-6)
    np.testing.assert_allclose(found.statistics.leverage, np.einsum("rcd,rdc->r", B, K), rtol=1e-6)
    H = np.linalg.inv(inverse)
    for i in (0, 29):  # one Newton step without the row, whole
        step = np.linalg.solve(H - J[i].T @ B[i] @ J[i] / m, G[i] / m)
        assert found.statistics.left_out[i, 0] == pytest.approx(c @ step, rel=1e-6)
        p = found.statistics.effective_parameters
        distance = m * step @ H @ step / p
        assert found.statistics.cook[i] == pytest.approx(distance, rel=1e-6)
    direction = np.eye(3)[0]

    def along(t):
        tensors = alone.tensors("float64")
        alone._tensors["float64"] = (tensors[0] + t * direction, tensors[1])
        slopes = alone.row_slopes(x, (inverse @ c)[:, None]).sum()
        alone._tensors["float64"] = tensors
        return -slopes / m

    np.testing.assert_allclose(found.shifts[0, 0], by_rank_0(world, slope, along), rtol=1e-6)
    # Raising one class's probability and lowering another's swaps their share of the gradient.
    swap = (J[7, 0] - J[7, 2]) @ inverse @ c / m
    np.testing.assert_allclose(found.labels[7, 0, 0] - found.labels[7, 2, 0], swap, rtol=1e-6)


@pytest.mark.ranks
def test_factors_of_any_kind_and_layout_precondition(world):
    problem, data = logistic_problem(world, "uneven")
    x = hc.newton(problem, tolerance=1e-12).x
    H = hc.hessian(problem, at=x)
    low = hc.compress(H, rank=2)
    factors = [None, low, low.in_layout(RowLayout(N, world)), diagonal_factor(H)]
    found = [hc.sensitivity(problem, x, factor, test=data, tolerance=1e-12) for factor in factors]
    for each in found:
        assert each.converged
        np.testing.assert_allclose(each.influence, found[0].influence, rtol=1e-9, atol=1e-14)
    spread = hc.sensitivity(problem, x, low, test=data, laplace=True).laplace
    dense = np.linalg.inv(low.to_dense() + RIDGE * np.eye(N)) / M
    np.testing.assert_allclose(spread.parameters, np.sqrt(np.diag(dense)), rtol=1e-10)
    gap = hc.sensitivity(problem, x, low, test=data, leverage=True).factor_gap
    assert gap > 1e-3  # of rank 2: the result says that the factor is not the inverse


@pytest.mark.ranks
@pytest.mark.parametrize("format", ["hbs", "hodlr"])
def test_error_bars_by_hierarchical_factors(world, format):
    """Of parameters and predictions, by an accurate factor and by a coarse one."""
    n, rows, tests = 64, 120, 20
    rng = np.random.default_rng(4)
    X = np.cumsum(rng.standard_normal((rows + tests, n)), axis=1) / 8
    b = np.where(X[:, 40] > 0, 1, -1)
    train, test = own_rows(world, rows, "uneven"), own_rows(world, tests, "uneven")
    held_out = X[rows:][test], b[rows:][test]
    data = from_arrays(X[:rows][train], b[:rows][train], world, test=held_out)
    problem = hc.LogisticRegression(data, world, ridge=RIDGE, dtype="float64")
    x = hc.newton(problem, tolerance=1e-12).x
    H, Xt = hc.hessian(problem, at=x), X[rows:]
    for layout in ("replicated", "rows"):
        for asked, true in (({"tolerance": 1e-10}, H), ({"rank": 2}, None)):
            factor = hc.compress(H, format=format, leaf_size=8, layout=layout, **asked)
            assert factor.kind == format
            dense = (factor if true is None else true).to_dense()
            posterior = np.linalg.inv(dense + RIDGE * np.eye(n)) / rows
            found = hc.sensitivity(problem, x, factor, test=data, laplace=True, leading=1)
            np.testing.assert_allclose(
                found.laplace.parameters, np.sqrt(np.diag(posterior)), rtol=1e-6
            )
            spread = np.sqrt(np.einsum("ij,jk,ik->i", Xt, posterior, Xt))
            np.testing.assert_allclose(found.laplace.outputs[:, 0], spread, rtol=1e-6)
            assert found.converged and found.factor.startswith(format)


@pytest.mark.ranks
def test_error_bars_by_kronecker_factors(world):
    problem = small_network(world)
    K, c = hc.kfac(problem), np.eye(problem.n)[0]
    found = hc.sensitivity(
        problem, problem.initial, K, target=c, operator="ggn", laplace=True, leading=2
    )
    dense = np.linalg.inv(K.to_dense() + 0.1 * np.eye(problem.n)) / problem.rows
    np.testing.assert_allclose(found.laplace.parameters, np.sqrt(np.diag(dense)), rtol=1e-6)
    assert found.converged and found.statistics is None


@pytest.mark.ranks
def test_reproducible_bits_do_not_depend_on_the_ranks(world):
    found = []
    for each in (World(world.comm, reproducible=True), World(MPI.COMM_SELF, reproducible=True)):
        X, b = rows_of_logistic_regression()
        here = block_rows(each, M)
        there = block_rows(each, TEST)
        data = from_arrays(X[:M][here], b[:M][here], each, test=(X[M:][there], b[M:][there]))
        problem = hc.LogisticRegression(data, each, ridge=RIDGE, dtype="float64")
        x = hc.newton(problem).x
        found.append(hc.sensitivity(problem, x, test=data, leverage=True, by_data=True))
    for name in ("influence", "by_ridge", "labels", "shifts", "scales", "parameters", "residuals"):
        np.testing.assert_array_equal(*(getattr(each, name) for each in found))


@pytest.mark.ranks
def test_reproducible_bits_of_a_network_do_not_depend_on_the_ranks(world):
    spread, one = (
        small_network(World(comm, reproducible=True), "blocks")
        for comm in (world.comm, MPI.COMM_SELF)
    )

    def numbers(problem):
        asked = {"target": np.eye(problem.n)[0], "leverage": True, "by_data": True, "leading": 4}
        result = hc.sensitivity(problem, problem.initial, operator="ggn", **asked)
        rows = result.statistics
        return [result.influence, result.shifts, rows.leverage, rows.left_out, rows.cook]

    found, alone = numbers(spread), by_rank_0(world, numbers, one)
    for together, expected in zip(found, alone, strict=True):
        np.testing.assert_array_equal(together, expected)


def adult_problem(X, b, ridge, world):
    return hc.LogisticRegression(from_arrays(X, b, world), ridge=ridge, dtype="float64")


def refits(X, b, ridge, x, rows, test):
    """Return the true change of the test loss when each of the rows is left out."""
    world, before, changes = World.serial(), test.objective(x), []
    for i in rows:
        without = np.delete(X, i, 0), np.delete(b, i)
        problem = adult_problem(*without, ridge * len(b) / (len(b) - 1), world)
        x_i = hc.newton(problem, x, tolerance=1e-12, solver="direct").x
        changes.append(test.objective(x_i) - before)
    return np.array(changes)


@pytest.mark.parametrize(
    ("size", "count"), [(2000, 12), pytest.param(None, 100, marks=pytest.mark.slow)]
)
def test_influence_against_rows_of_adult_left_out(size, count):
    data, world = hc.load_data("adult", World.serial(), dtype="float64"), World.serial()
    X, b = data.train.X[:size], data.train.y[:size]
    problem = adult_problem(X, b, 0.1 if size else 1e-3, world)
    x = hc.newton(problem, tolerance=1e-12, solver="direct").x
    test = problem.over(data)
    found = hc.sensitivity(problem, x, test=data, leverage=True, leading=count)
    random = np.random.default_rng(0).choice(len(b), count, replace=False)
    for rows in (found.chosen, random):
        changes = refits(X, b, problem.ridge, x, rows, test)
        for predicted in (-found.influence, found.statistics.left_out):
            assert np.corrcoef(predicted[rows, 0], changes)[0, 1] >= 0.999


BAD = {
    "no target": ({}, "nothing to compute"),
    "test row": ({"test_rows": (-1,)}, "`test_rows` must be at least 0, not -1"),
    "data": ({"by_data": True, "leverage": True}, "by_data"),
    "test rows": ({"test_rows": (0,), "leverage": True}, "test_rows"),
    "target": ({"target": np.zeros(3)}, "finite array of 4"),
    "no numbers": ({"target": "a"}, "`target` is an array of derivatives .*, not str; for the"),
    "complex": ({"target": 1j * np.ones(N)}, "real numbers, not ndarray"),
    "limit": ({"target": np.eye(N)[0], "gradient_limit": 1e-3}, "gradient_limit"),
    "factor": ({"target": np.eye(N)[0], "factor": hc.compress(np.eye(3), 3)}, "n = 3"),
    "operator": ({"target": np.eye(N)[0], "operator": "ggn"}, "lacks the capability"),
    "leading": ({"target": np.eye(N)[0], "leading": -1}, "`leading`"),
    "tail": ({"target": np.eye(N)[0], "tail": "none"}, "tail must be"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_found_is_refused(world, case):
    problem, _ = logistic_problem(world, "even")
    options, words = BAD[case]
    with pytest.raises(InputError, match=words):
        hc.sensitivity(problem, np.ones(N), **options)


@pytest.mark.ranks
def test_rows_that_are_not_there_are_refused(world):
    problem, data = logistic_problem(world, "first empty")
    with pytest.raises(InputError, match=r"`test_rows` 25: there are the test rows 0 to 24"):
        hc.sensitivity(problem, np.ones(N), test=data, test_rows=(25,))


def test_points_that_are_no_minima_are_refused_or_damped(world):
    problem = small_network(world)
    c = np.eye(problem.n)[0]
    with pytest.raises(InputError, match="negative curvature"):
        hc.sensitivity(problem, problem.initial, target=c)
    least = np.linalg.eigvalsh(hc.hessian(problem, at="initial").to_dense())[0]
    found = hc.sensitivity(problem, problem.initial, target=c, damping=-least)
    assert found.converged and found.shift == pytest.approx(0.1 - least)
    indefinite = hc.compress(-np.eye(problem.n), problem.n)
    with pytest.raises(InputError, match="negative eigenvalues"):
        hc.sensitivity(
            problem, problem.initial, indefinite, target=c, operator="ggn", leverage=True
        )


def test_unreached_residuals_are_told(world, caplog):
    problem, data = logistic_problem(world, "even")
    x = hc.newton(problem).x
    poor = diagonal_factor(hc.hessian(problem, at=x))
    with caplog.at_level(logging.WARNING):
        found = hc.sensitivity(problem, x, poor, test=data, max_iterations=1)
    assert not found.converged and found.residuals.max() > found.tolerance
    assert "residual" in caplog.text and found.iterations.max() == 1


def test_a_stopped_gradient_by_the_data_is_refused():
    def loss_sum(theta, X, y):
        return tf.reduce_sum((tf.linalg.matvec(tf.stop_gradient(X), theta) - y) ** 2)

    rng = np.random.default_rng(0)
    problem = hc.FunctionProblem(
        loss_sum, np.zeros(2), (rng.standard_normal((9, 2)), rng.standard_normal(9)),
        World.serial(), ridge=0.1, dtype="float64",
    )  # fmt: skip
    options = {"target": np.eye(2)[0], "test": None}
    assert hc.sensitivity(problem, np.zeros(2), **options).converged
    with pytest.raises(InputError, match="derivative of a gradient by the data"):
        hc.sensitivity(problem, np.zeros(2), by_data=True, **options)


def test_columns_that_share_products_against_dense_solves():
    rng = np.random.default_rng(3)
    Q = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    A = (Q * np.geomspace(1e-2, 1, 20)) @ Q.T
    B = rng.standard_normal((20, 3))
    B[:, 1] = 0
    found = solve_columns(MatrixOperator((A + A.T) / 2), B, tolerance=1e-10)
    np.testing.assert_allclose(found.X, np.linalg.solve(A, B), atol=1e-7)
    assert found.converged.all() and found.iterations[1] == 0 and found.iterations[0] > 10
    gaps = np.linalg.norm(B - A @ found.X, axis=0)[[0, 2]]
    np.testing.assert_allclose(
        found.residuals[[0, 2]] * np.linalg.norm(B, axis=0)[[0, 2]], gaps, rtol=1e-3
    )
    bent = solve_columns(MatrixOperator(np.diag([1.0, -1, 2])), np.ones((3, 1)), tolerance=1e-8)
    assert bent.negative_curvature.all() and not bent.converged.any()


@pytest.mark.ranks
def test_the_workflow_writes_what_others_read(world, shared_tmp):
    X, b = rows_of_logistic_regression()
    train, test = str(shared_tmp / "d.npz"), str(shared_tmp / "t.npz")
    if world.rank == 0:
        np.savez(train, X=X[:M], y=b[:M])
        np.savez(test, X=X[M:], y=b[M:])
    world.gather(0)
    out, picture, json = (str(shared_tmp / name) for name in ("s.h5", "s.png", "s.json"))
    request = SensitivityRequest(
        data=train, test=test, ridge=RIDGE, leverage=True, by_data=True, laplace=True, out=out,
        plot=picture, json=json, leading=3,
    )  # fmt: skip
    events = []
    found = find_sensitivity(request, world, events.append)
    assert found.converged and found.stationary
    with h5py.File(out) as file:
        np.testing.assert_array_equal(file["influence"], found.influence)
        np.testing.assert_array_equal(file["statistics/cook"], found.statistics.cook)
        np.testing.assert_array_equal(file["laplace/outputs"], found.laplace.outputs)
        assert file.attrs["format"] == "hesscomp-sensitivity" and file.attrs["converged"]
        assert list(file.attrs["targets"]) == ["test loss"]
    assert (shared_tmp / "s.png").stat().st_size > 10_000
    assert '"command": "sensitivity"' in (shared_tmp / "s.json").read_text()
    titles = [axes.get_title(loc="left") for axes in hc.plot(found).axes]
    assert titles[0] == "Most influential rows: test loss" and len(titles) == 3


OWN = """
import numpy as np
import hesscomp as hc
from hesscomp.datasets import from_arrays
from hesscomp.parallel.rows import row_range

def made(world, dtype):
    rng = np.random.default_rng(0)
    X, b = rng.standard_normal((40, 3)), np.where(rng.random(40) < 0.5, 1, -1)
    here = slice(*row_range(40, world.rank, world.size))
    data = from_arrays(X[here], b[here], world)
    return hc.LogisticRegression(data, world, ridge=0.1, dtype=dtype)

def double(world):
    return made(world, "float64")

def single(world):
    return made(world, "float32")
"""


@pytest.mark.ranks(most=2)
@pytest.mark.parametrize(("name", "dtype"), [("double", "float64"), ("single", "float32")])
def test_a_problem_of_a_python_function_decides_its_precision(
    world, shared_tmp, monkeypatch, name, dtype
):
    """Nothing was given that it refuses; made beforehand, as in a service, it is the same."""
    if world.rank == 0:
        (shared_tmp / "own_problem.py").write_text(OWN)
    world.gather(0)
    monkeypatch.chdir(shared_tmp)
    monkeypatch.syspath_prepend(str(shared_tmp))
    monkeypatch.setattr("hesscomp.curvature.tensorflow.set_threads", lambda threads: None)
    importlib.invalidate_caches()
    sys.modules.pop("own_problem", None)  # of another folder
    request = SensitivityRequest(problem=f"own_problem:{name}", leverage=True, damping=0.5)
    assert request.dtype is None
    found = find_sensitivity(request, world)
    problem = getattr(importlib.import_module("own_problem"), name)(world)
    assert problem.dtype == dtype and found.tolerance == TOLERANCES[dtype]
    again = find_sensitivity(request, world, subject=Subject(problem, None))
    expected = hc.sensitivity(problem, np.zeros(3), leverage=True, damping=0.5)
    for each in (again, expected):
        np.testing.assert_allclose(
            found.statistics.leverage, each.statistics.leverage, rtol=TOLERANCES[dtype]
        )
    for given in ("float32", "float64"):
        with pytest.raises(InputError, match=r"`dtype` does not go with .*, which"):
            replace(request, dtype=given)


def test_other_sensitivities_are_in_float64_by_default():
    assert SensitivityRequest(data="adult").dtype == "float64"
    assert SensitivityRequest(data="adult", dtype="float32").dtype == "float32"
