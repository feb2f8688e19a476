"""Softmax regression against scikit-learn, statsmodels and dense matrices."""

import numpy as np
import pytest
import scipy.sparse
import scipy.special
from oracles import check_operator
from shards import block_rows, own_rows

import hesscomp as hc
from hesscomp.curvature.gauss_newton import EmpiricalFisherOperator
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.problems.contract import check_problem
from hesscomp.workflows.logistic import NewtonRequest, newton
from hesscomp.workflows.prediction import PredictRequest, predict

pytestmark = pytest.mark.ranks
ROWS, N, K = 97, 4, 3


def whole():
    rng = np.random.default_rng(3)
    X = rng.standard_normal((ROWS, N)) * (rng.random((ROWS, N)) < 0.6)
    y = np.argmax(X @ rng.standard_normal((N, K)) + rng.gumbel(size=(ROWS, K)), axis=1)
    return X, y, rng.integers(0, 4, ROWS).astype(float)


def problem(world, how="uneven", storage="dense", **options):
    X, y, weights = whole()
    mine = own_rows(world, ROWS, how) if how != "blocks" else block_rows(world, ROWS)
    part = scipy.sparse.csr_array(X[mine]) if storage == "sparse" else X[mine]
    data = from_arrays(part, y[mine], world, targets="classes", weights=weights[mine])
    return hc.SoftmaxRegression(
        data, world, **{"ridge": 0.02, "dtype": "float64", "intercept": True, **options}
    )


@pytest.mark.parametrize("storage, how", [("dense", "uneven"), ("sparse", "first empty")])
@pytest.mark.parametrize("ridge, intercept", [(0.02, True), (0.0, True), (0.0, False)])
def test_it_is_the_model_that_it_says(world, storage, how, ridge, intercept):
    made = problem(world, how, storage, ridge=ridge, intercept=intercept)
    (X, y, w), free = whole(), K - (not ridge)
    A = np.column_stack([X, np.ones(ROWS)])[:, : N + intercept]
    assert made.n == N * free + intercept * (K - 1)
    x = np.random.default_rng(0).standard_normal(made.n) / 3
    table, chosen = made.table(x), ~made.pinned
    T, one = A @ table, np.eye(K)[y]
    losses = scipy.special.logsumexp(T, axis=1) - T[np.arange(ROWS), y]
    penalty = ridge / 2 * (table[:N] ** 2).sum()
    objective, gradient = made.objective_and_gradient(x)
    assert objective == pytest.approx(w @ losses / w.sum() + penalty, rel=1e-13)
    assert made.objective(x) == pytest.approx(objective, rel=1e-13)
    P = scipy.special.softmax(T, axis=1)
    rows = np.einsum("rf,rk->rfk", A, w[:, None] * (P - one))[:, chosen]
    slope = rows.sum(0) / w.sum()
    slope[made.penalized] += ridge * x[made.penalized]
    np.testing.assert_allclose(gradient, slope, atol=1e-13)
    bends = P[:, :, None] * np.eye(K) - P[:, :, None] * P[:, None]
    dense = np.einsum("r,rf,rkl,rg->fkgl", w, A, bends, A)[chosen][:, chosen] / w.sum()
    check_operator(HessianOperator(made, x), dense, 1e-11)
    check_operator(EmpiricalFisherOperator(made, x), rows.T @ rows / w.sum(), 1e-11)
    np.testing.assert_allclose(made.hessian_diagonal(x), np.diag(dense), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(made.squared_gradients(x), (rows**2).sum(0) / w.sum(), atol=1e-13)
    mine = rows[own_rows(world, ROWS, how)]
    here = np.vstack([np.empty((0, made.n)), *(part for _, part in made.row_gradients(x))])
    np.testing.assert_allclose(here, mine, atol=1e-13)
    np.testing.assert_allclose(made.row_squares(x), (mine**2).sum(1), rtol=1e-11, atol=1e-15)
    V = np.random.default_rng(1).standard_normal((made.n, 2))
    np.testing.assert_allclose(made.row_slopes(x, V), mine @ V, atol=1e-12)


def test_the_contract(world):
    check_problem(problem(world))


@pytest.mark.parametrize("storage", ["dense", "sparse"])
@pytest.mark.parametrize("solver", ["pcg", "direct"])
def test_the_optimum_is_that_of_scikit_learn(world, solver, storage, shared_tmp):
    from sklearn.linear_model import LogisticRegression

    X, y, weights = whole()
    made = problem(world, "uneven", storage)
    options = {"solver": solver, "tolerance": 1e-11}
    fit = hc.newton(made, **options)
    peer = LogisticRegression(C=1 / (0.02 * weights.sum()), tol=1e-11, solver="newton-cholesky")
    peer.fit(X, y, weights)
    table = np.vstack([peer.coef_.T, peer.intercept_ - peer.intercept_[0]])
    assert fit.converged
    assert abs(fit.objective - made.objective(table[~made.pinned])) < 1e-12
    np.testing.assert_allclose(made.table(fit.x), table, atol=1e-7)
    assert made.accuracy(fit.x, made.shard) == pytest.approx(peer.score(X, y), abs=1e-12)
    hc.newton(made, **options, max_iterations=2, folder=shared_tmp)  # it goes on from its margins
    np.testing.assert_allclose(hc.newton(made, **options, folder=shared_tmp).x, fit.x, atol=1e-10)


def test_reproducible_bits(world):
    alone = World.serial()
    alone.reproducible = True
    results = []
    for each in (World(reproducible=True), alone):
        made = problem(each, "blocks")
        H = HessianOperator(made, np.full(made.n, 0.1))
        results.append((hc.newton(made, max_iterations=1).x, H @ np.eye(made.n)[:, :3]))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_refused(world):
    X, y, _ = whole()
    with pytest.raises(InputError, match="softmax regression needs labels of classes"):
        hc.SoftmaxRegression(from_arrays(X, y > 0, world), world)
    with pytest.raises(InputError, match="two classes or more"):
        hc.SoftmaxRegression(from_arrays(X, 0 * y, world, targets="classes"), world)
    offsets = from_arrays(X, y, world, targets="classes", offsets=np.ones(ROWS))
    with pytest.raises(InputError, match="offsets do not go with softmax regression"):
        hc.SoftmaxRegression(offsets, world)


def fitted(world, how="uneven", **options):
    X, y, _ = whole()
    mine = own_rows(world, ROWS, how)
    labels = np.array(["ant", "bee", "cow"])[y]
    return hc.fit_linear((X[mine], labels[mine]), "softmax", world=world, **options)


@pytest.mark.parametrize("covariance", ["observed", "robust"])
def test_statistics_are_those_of_statsmodels(world, covariance, shared_tmp):
    import statsmodels.api as sm

    X, y, _ = whole()
    kind = "nonrobust" if covariance == "observed" else "HC0"
    found = sm.MNLogit(y, np.column_stack([X, np.ones(ROWS)])).fit(
        disp=0, tol=1e-14, method="newton", cov_type=kind
    )
    model = fitted(world, covariance=covariance, tolerance=1e-11)
    np.testing.assert_allclose(model.table[:, 1:], np.asarray(found.params), atol=1e-8)
    np.testing.assert_allclose(
        model.standard_errors, np.asarray(found.bse).reshape(N + 1, -1).ravel(), rtol=1e-6
    )
    assert model.log_likelihood == pytest.approx(found.llf, rel=1e-10)
    assert model.aic == pytest.approx(found.aic, rel=1e-10)
    assert model.names[:2] == ("bee: x1", "cow: x1") and "against 'ant'" in str(model)
    P = model.predict(X[:5]).mean
    np.testing.assert_allclose(P, found.predict(np.column_stack([X[:5], np.ones(5)])), atol=1e-9)
    hc.save(model, shared_tmp / "m.h5")
    again = hc.load(shared_tmp / "m.h5")
    np.testing.assert_array_equal(again.predict(X[:5]).mean, P)
    assert list(again.likeliest(P)) == [("ant", "bee", "cow")[k] for k in P.argmax(1)]


@pytest.mark.serial
def test_the_command_fits_and_predicts_classes(tmp_path):
    X, y, _ = whole()
    names = np.array(["ant", "bee", "cow"])[y]
    lines = [f"{kind},{','.join(map(str, row))}" for row, kind in zip(X, names, strict=True)]
    table = "\n".join(["kind,a,b,c,d", *lines])
    (tmp_path / "t.csv").write_text(table + "\n")
    data, model, out = (str(tmp_path / name) for name in ("t.csv", "m.h5", "p.csv"))
    request = NewtonRequest(
        data=data, label="kind", family="softmax", intercept=True, ridge=0.1, model_out=model
    )
    fit = newton(request, World.serial())
    assert fit.result.converged and fit.train_accuracy > 0.5 and fit.model.features == N
    predict(PredictRequest(model=model, data=data, out=out), World.serial())
    rows = (tmp_path / "p.csv").read_text().splitlines()
    assert rows[0] == "kind,probability of ant,probability of bee,probability of cow"
    numbers = np.array([row.split(",")[1:] for row in rows[1:]], float)
    np.testing.assert_allclose(numbers.sum(1), 1, rtol=1e-12)
    kinds = [row.split(",")[0] for row in rows[1:]]
    assert np.mean(np.array(kinds) == names) == pytest.approx(fit.train_accuracy)
