"""Softmax regression against scikit-learn, statsmodels and dense matrices."""

import numpy as np
import pytest
import scipy.sparse
import scipy.special
from oracles import by_rank_0, check_operator
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
    assert made.hessian_trace(x, made.margins(x)) == pytest.approx(np.trace(dense), rel=1e-11)
    np.testing.assert_allclose(made.squared_gradients(x), (rows**2).sum(0) / w.sum(), atol=1e-13)
    mine = rows[own_rows(world, ROWS, how)]
    here = np.vstack([np.empty((0, made.n)), *(part for _, part in made.row_gradients(x))])
    np.testing.assert_allclose(here, mine, atol=1e-13)
    np.testing.assert_allclose(made.row_squares(x), (mine**2).sum(1), rtol=1e-11, atol=1e-15)
    V = np.random.default_rng(1).standard_normal((made.n, 2))
    np.testing.assert_allclose(made.row_slopes(x, V), mine @ V, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 1e-6)])
@pytest.mark.parametrize("ridge, intercept", [(0.02, True), (0.0, True), (0.02, False)])
@pytest.mark.parametrize("narrow", [0, 40])
def test_wide_and_narrow_products_of_sparse_rows(
    world, dtype, tolerance, ridge, intercept, narrow, monkeypatch
):
    """By TensorFlow from some columns on, and a few at once; also of an empty shard."""
    options = {"dtype": dtype, "ridge": ridge, "intercept": intercept}
    monkeypatch.setattr("hesscomp.curvature.classes.SPARSE_BYTES", 8 * ROWS * K * 4)
    monkeypatch.setattr("hesscomp.curvature.classes.NARROW", narrow)
    monkeypatch.setattr("hesscomp.curvature.classes.WIDE", {"float32": 0, "float64": 0})
    monkeypatch.setattr("hesscomp.curvature.sparse.CHUNK", 40)
    made, dense = (problem(world, "first empty", each, **options) for each in ("sparse", "dense"))
    x = np.random.default_rng(0).standard_normal(made.n) / 3
    for columns in (1, 4, 9):
        V = np.random.default_rng(columns).standard_normal((made.n, columns))
        found, expected = (HessianOperator(each, x) @ V for each in (made, dense))
        np.testing.assert_allclose(found, expected, atol=tolerance)


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


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_reproducible_bits(world, storage):
    alone = World.serial()
    alone.reproducible = True

    def numbers(each):
        made = problem(each, "blocks", storage)
        H = HessianOperator(made, np.full(made.n, 0.1))
        fit = hc.newton(made, solver="pcg", max_iterations=1)
        return fit.x, H @ np.eye(made.n)[:, :3], H @ fit.x

    found = numbers(World(reproducible=True))
    for one, other in zip(found, by_rank_0(world, numbers, alone), strict=True):
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


def deltas(parameters, covariance, table, rows):
    """Return the probabilities of rows and their logits' errors, by statsmodels' delta method."""
    from statsmodels.stats._delta_method import NonlinearDeltaCov

    def probabilities(b):
        odds = np.exp(rows @ table(b))
        return (odds / odds.sum(1, keepdims=True)).ravel()

    P = probabilities(parameters)
    spread = NonlinearDeltaCov(probabilities, parameters, covariance).cov()
    errors = np.sqrt(np.diag(spread)) / (P * (1 - P))
    return P.reshape(-1, K), errors.reshape(-1, K)


def check_intervals(found, P, errors, quantile):
    logits = scipy.special.logit(P)
    np.testing.assert_allclose(found.mean, P, atol=1e-9)
    np.testing.assert_allclose(found.low, scipy.special.expit(logits - quantile * errors), 1e-6)
    np.testing.assert_allclose(found.high, scipy.special.expit(logits + quantile * errors), 1e-6)


@pytest.mark.parametrize("storage", [np.asarray, scipy.sparse.csr_array, np.float32])
@pytest.mark.parametrize("covariance", ["observed", "robust"])
def test_intervals_of_classes_are_those_of_mnlogit(world, covariance, storage):
    """The parameters and the covariance are MNLogit's, which itself predicts no intervals."""
    import statsmodels.api as sm

    X, y, _ = whole()
    rows = np.column_stack([X, np.ones(ROWS)])
    kind = "nonrobust" if covariance == "observed" else "HC0"
    peer = sm.MNLogit(y, rows).fit(disp=0, tol=1e-14, method="newton", cov_type=kind)
    model = fitted(world, covariance=covariance, tolerance=1e-11)
    given = storage(X[:9])
    rows[:9, :N] = given.toarray() if scipy.sparse.issparse(given) else given
    expected = deltas(
        np.asarray(peer.params).ravel(order="F"),
        np.asarray(peer.cov_params()),
        lambda b: np.column_stack([np.zeros(N + 1), b.reshape(K - 1, -1).T]),
        rows[:9],
    )
    check_intervals(model.predict(given, level=0.9), *expected, 1.6448536269514722)


@pytest.mark.parametrize("storage", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("ridge, intercept", [(0.02, True), (0.02, False), (0.0, False)])
def test_intervals_of_scores_in_chunks_of_rows(world, monkeypatch, ridge, intercept, storage):
    model = fitted(world, ridge=ridge, intercept=intercept)
    X, _, _ = whole()

    def table(b):
        full = np.zeros(model.pinned.shape, b.dtype)
        full[~model.pinned] = b
        return full

    rows = np.column_stack([X, np.ones(ROWS)])[:9, : N + intercept]
    expected = deltas(model.coefficients, model.covariance, table, rows)
    at_once = model.predict(storage(X[:9]))
    check_intervals(at_once, *expected, 1.959963984540054)
    monkeypatch.setattr("hesscomp.linear.model.CHUNK_BYTES", 1000)  # one row or two
    in_chunks = model.predict(storage(X[:9]))
    np.testing.assert_allclose(in_chunks.low, at_once.low, rtol=1e-12)
    np.testing.assert_allclose(in_chunks.high, at_once.high, rtol=1e-12)


@pytest.mark.parametrize("ridge", [0.0, 0.02])
def test_intervals_of_two_classes_are_those_of_logistic_regression(world, ridge):
    """With a ridge on the scores of both classes, it is half as large on their difference."""
    X, y, _ = whole()
    mine = own_rows(world, ROWS, "uneven")
    data, options = (X[mine], (y[mine] > 0).astype(int)), {"world": world, "tolerance": 1e-11}
    both = hc.fit_linear(data, "softmax", ridge=ridge, **options).predict(X)
    one = hc.fit_linear(data, "logistic", ridge=ridge / 2, **options).predict(X)
    np.testing.assert_allclose(both.mean[:, 1], one.mean, atol=1e-8)
    np.testing.assert_allclose(both.low[:, 1], one.low, atol=1e-8)
    np.testing.assert_allclose(both.high[:, 1], one.high, atol=1e-8)
    np.testing.assert_allclose(both.low[:, 0], 1 - one.high, atol=1e-8)
    np.testing.assert_allclose(both.high[:, 0], 1 - one.low, atol=1e-8)


def test_intervals_of_classes_where_probabilities_round_and_without_covariance(world):
    X, _, _ = whole()
    model = fitted(world)
    far = model.predict(1e4 * X[:9])
    assert (far.mean == 1).any() and (far.mean == 0).any()
    assert np.all((far.low >= 0) & (far.low <= far.mean) & (far.mean <= far.high))
    assert np.all(far.high <= 1)
    gap = X[:3].copy()
    gap[1, 0] = np.nan
    found = model.predict(gap)
    assert np.isnan(found.low).tolist() == [[False] * K, [True] * K, [False] * K]
    bare = fitted(world, covariance="none").predict(X[:3])
    assert np.isfinite(bare.mean).all() and np.isnan([bare.low, bare.high]).all()


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
    assert rows[0] == (
        "kind,probability of ant,probability of bee,probability of cow,"
        "low of ant,high of ant,low of bee,high of bee,low of cow,high of cow"
    )
    numbers = np.array([row.split(",")[1:] for row in rows[1:]], float)
    np.testing.assert_allclose(numbers[:, :K].sum(1), 1, rtol=1e-12)
    expected = fit.model.predict(X)
    np.testing.assert_allclose(numbers[:, :K], expected.mean, rtol=1e-12)
    np.testing.assert_allclose(numbers[:, K::2], expected.low, rtol=1e-12)
    np.testing.assert_allclose(numbers[:, K + 1 :: 2], expected.high, rtol=1e-12)
    kinds = [row.split(",")[0] for row in rows[1:]]
    assert np.mean(np.array(kinds) == names) == pytest.approx(fit.train_accuracy)
