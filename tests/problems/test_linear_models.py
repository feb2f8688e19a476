"""Generalised linear models with intercept, weights and offsets, against statsmodels' fits."""

import copy

import numpy as np
import pytest
import scipy.sparse
from marks import several_but, two_ranks_but
from oracles import check_operator
from shards import own_rows

import hesscomp as hc
from hesscomp.curvature.gauss_newton import EmpiricalFisherOperator
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError
from hesscomp.optimizers.loop import Stopping, train
from hesscomp.problems.contract import check_problem

pytestmark = pytest.mark.ranks
ROWS, N = 211, 6
EXACT = {"dtype": "float64", "ridge": 0.02, "intercept": True}


def whole(family="logistic"):
    rng = np.random.default_rng(5)
    X = rng.standard_normal((ROWS, N)) * (rng.random((ROWS, N)) < 0.6)
    weights, offsets = rng.integers(0, 4, ROWS).astype(float), rng.standard_normal(ROWS) / 4
    t = X @ rng.standard_normal(N) / 2 + 0.7 + offsets
    y = {
        "logistic": np.where(rng.random(ROWS) < 1 / (1 + np.exp(-t)), 1.0, -1.0),
        "least-squares": t + rng.standard_normal(ROWS),
        "poisson": rng.poisson(np.exp(t)).astype(float),
        "gamma": rng.gamma(2, np.exp(t) / 2),
        "tweedie": rng.poisson(np.exp(t) / 2) * rng.gamma(3, 1, ROWS),
    }[family]
    return X, y, weights, offsets


def problem(world, family="logistic", how="uneven", storage="dense", **options):
    X, y, weights, offsets = whole(family)
    mine = own_rows(world, ROWS, how)
    part = scipy.sparse.csr_array(X[mine]) if storage == "sparse" else X[mine]
    targets = "signs" if family == "logistic" else "values"
    extras = {"weights": weights[mine], "offsets": offsets[mine]}
    data = from_arrays(part, y[mine], world, targets=targets, **extras)
    made = hc.GeneralizedLinearModel(data, world, family=family, **{**EXACT, **options})
    return made, (np.column_stack([X, np.ones(ROWS)]), y, weights, offsets)


LOSSES = {
    "logistic": lambda t, y: np.logaddexp(0, -y * t),
    "least-squares": lambda t, y: (t - y) ** 2 / 2,
    "poisson": lambda t, y: np.exp(t) - y * t,
    "gamma": lambda t, y: y * np.exp(-t) + t,
    "tweedie": lambda t, y: 2 * y * np.exp(-t / 2) + 2 * np.exp(t / 2),
}


WAYS = [(a, b) for a in ("dense", "sparse") for b in ("uneven", "first empty")]


@pytest.mark.parametrize(
    ("storage", "how"),
    several_but(WAYS[::2], two_ranks_but(WAYS[1:3], WAYS)),  # serially no cut tells
)
@pytest.mark.parametrize("family", LOSSES)
def test_an_intercept_is_a_column_of_ones_without_ridge(world, family, storage, how):
    made, (A, y, w, o) = problem(world, family, how, storage)
    x = np.random.default_rng(0).standard_normal(N + 1) / 3
    penalised = np.append(np.full(N, 0.02), 0.0)
    t = A @ x + o
    expected = w @ LOSSES[family](t, y) / w.sum() + penalised @ x**2 / 2
    objective, gradient = made.objective_and_gradient(x)
    assert objective == pytest.approx(expected, rel=1e-13)
    assert made.objective(x) == pytest.approx(expected, rel=1e-13)
    slope, bend = {
        "logistic": (-y / (1 + np.exp(y * t)), 1 / (2 + np.exp(t) + np.exp(-t))),
        "least-squares": (t - y, np.ones(ROWS)),
        "poisson": (np.exp(t) - y, np.exp(t)),
        "gamma": (1 - y * np.exp(-t), y * np.exp(-t)),
        "tweedie": (
            np.exp(t / 2) - y * np.exp(-t / 2),
            (np.exp(t / 2) + y * np.exp(-t / 2)) / 2,
        ),
    }[family]
    np.testing.assert_allclose(gradient, A.T @ (w * slope) / w.sum() + penalised * x, atol=1e-12)
    dense = (A * (w * bend)[:, None]).T @ A / w.sum()
    check_operator(HessianOperator(made, x), dense, 1e-11)
    scores = A * (w * slope)[:, None]
    check_operator(EmpiricalFisherOperator(made, x), scores.T @ scores / w.sum(), 1e-11)
    squares = (scores**2).sum(0) / w.sum()
    np.testing.assert_allclose(made.squared_gradients(x), squares, rtol=1e-12)
    known = made.margins(x)
    for found in (made.hessian_diagonal(x), made.hessian_diagonal_at(x, known)):
        np.testing.assert_allclose(found, np.diag(dense), rtol=1e-11)
    for margins in (None, known):
        assert made.hessian_trace(x, margins) == pytest.approx(np.trace(dense), rel=1e-11)
    mine = scores[own_rows(world, ROWS, how)]
    here = np.vstack([np.empty((0, N + 1)), *(rows for _, rows in made.row_gradients(x))])
    np.testing.assert_allclose(here, mine, atol=1e-12)
    np.testing.assert_allclose(made.row_squares(x), (mine**2).sum(1), rtol=1e-11)


@pytest.mark.parametrize("family", LOSSES)
def test_the_contract(world, family):
    check_problem(problem(world, family)[0])


@pytest.mark.parametrize("solver", ["pcg", "direct", "lowrank"])
@pytest.mark.parametrize("how", ["even", "on one"])
def test_every_solver_finds_the_optimum_of_scikit_learn(world, solver, how):
    from sklearn.linear_model import LogisticRegression

    X, y, weights, _ = whole()
    mine = own_rows(world, ROWS, how)
    fit = hc.newton(
        (X[mine], y[mine]), world=world, ridge=0.02, intercept=True, weights=weights[mine],
        solver=solver, tolerance=1e-10,
    )  # fmt: skip
    assert fit.converged
    peer = LogisticRegression(C=1 / (0.02 * weights.sum()), tol=1e-12, solver="newton-cholesky")
    peer.fit(X, y, weights)
    np.testing.assert_allclose(fit.x, [*peer.coef_[0], *peer.intercept_], atol=1e-9)


@pytest.mark.parametrize(
    "optimizer",
    [hc.NewtonCG(), hc.HessianFree(), hc.GaussNewton(), hc.NewtonCG("trust-region"), hc.DRSOM()],
    ids=lambda each: each.name,
)
def test_other_optimizers_leave_the_intercept_free(world, optimizer):
    made, _ = problem(world, ridge=0.5)
    exact = hc.newton(made, tolerance=1e-11).x
    found = train(made, optimizer, stopping=Stopping(60, 1e-6))
    np.testing.assert_allclose(found.x, exact, atol=1e-4)


def test_weights_are_repeated_rows_and_a_sample_keeps_them(world):
    made, (A, y, w, o) = problem(world, ridge=0.0)
    x = np.full(N + 1, 0.1)
    again = np.repeat(np.arange(ROWS), w.astype(int))
    t = A[again] @ x + o[again]
    assert made.objective(x) == pytest.approx(np.mean(np.logaddexp(0, -y[again] * t)), rel=1e-13)
    sample = made.sampled(0.5, seed=1)
    assert 0 < sample.total < made.total and sample.rows < ROWS
    whole_rows = hc.LogisticRegression(
        from_arrays(A[:, :-1], y, hc.World.serial(), weights=w, offsets=o), hc.World.serial(),
        **{**EXACT, "ridge": 0.0},
    )  # fmt: skip
    assert sample.objective(x) == pytest.approx(whole_rows.sampled(0.5, seed=1).objective(x))


def test_bits_do_not_depend_on_ranks():
    from hesscomp.parallel.rows import row_range

    x, values = np.full(N + 1, 0.3), []
    alone = copy.copy(hc.World.serial())
    alone.reproducible = True
    for world in (hc.World(reproducible=True), alone):
        X, y, weights, offsets = whole()
        mine = slice(*row_range(ROWS, world.rank, world.size))
        parts = [
            hc.LogisticRegression(
                from_arrays(
                    matrix(X[mine]), y[mine], world, weights=weights[mine], offsets=offsets[mine]
                ),
                world, dtype=dtype, intercept=True,
            )
            for matrix, dtype in ((np.asarray, "float32"), (scipy.sparse.csr_array, "float64"))
        ]  # fmt: skip
        values.append(
            [
                number
                for part in (*parts, parts[0].sampled(0.4))
                for number in (
                    *part.objective_and_gradient(x),
                    HessianOperator(part, x) @ np.eye(N + 1),
                    HessianOperator(part, x).to_dense(),
                )
            ]
        )
    for one, other in zip(*values, strict=True):
        np.testing.assert_array_equal(one, other)


def test_bad_weights_offsets_and_targets(world):
    X, y, weights, offsets = whole()
    for extras, message in (
        ({"weights": -weights}, "weights; give finite numbers of at least 0"),
        ({"weights": weights[1:]}, "pass a real number for each"),
        ({"offsets": offsets + np.nan}, "among the offsets"),
    ):
        with pytest.raises(InputError, match=message):
            from_arrays(X, y, world, **extras)
    with pytest.raises(InputError, match="all rows have the weight 0"):
        hc.newton((X, y), world=world, weights=np.zeros(ROWS))
    values = from_arrays(X, y, world, targets="values")
    with pytest.raises(InputError, match=r"row \d+ has the target -1; poisson-regression takes"):
        hc.GeneralizedLinearModel(values, world, family="poisson")
    with pytest.raises(InputError, match=r"must be one of logistic.*not binomial; that is logi"):
        hc.GeneralizedLinearModel(values, world, family="binomial")
    with pytest.raises(InputError, match="go with data; a problem has its own"):
        hc.newton(hc.LogisticRegression(from_arrays(X, y, world), world), intercept=True)


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_diagonals_of_float32_data_are_formed_in_float64(world, storage):
    """Squares of columns of size 1e4 in float32 would be wrong by up to 6e-8 of themselves."""
    X, mine = (1e4 * whole()[0]).astype(np.float32), own_rows(world, ROWS, "uneven")
    A = scipy.sparse.csr_array(X[mine]) if storage == "sparse" else X[mine]
    data = from_arrays(A, whole()[1][mine], world, targets="signs")
    made = hc.GeneralizedLinearModel(
        data, world, family="logistic", dtype="float32", intercept=True
    )
    rows = np.column_stack([X.astype(np.float64), np.ones(ROWS)])
    expected = np.mean(rows**2, axis=0) / 4  # at zero
    np.testing.assert_allclose(made.hessian_diagonal(np.zeros(made.n)), expected, rtol=1e-12)
    assert made.hessian_trace(np.zeros(made.n)) == pytest.approx(expected.sum(), rel=1e-12)
