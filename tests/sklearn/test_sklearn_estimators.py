"""The estimators: scikit-learn's own checks, its optima, and each rank's own rows."""

import numpy as np
import pytest
import scipy.sparse
from marks import slow_but
from regressions import ROWS, whole
from shards import own_rows
from sklearn import linear_model as peers
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import hesscomp.sklearn as ours
from hesscomp.errors import InputError

ESTIMATORS = {
    "poisson": ours.PoissonRegressor(), "logistic": ours.LogisticRegression(),
    "gamma": ours.GammaRegressor(), "tweedie": ours.TweedieRegressor(power=1.5, alpha=0.1),
    "ridge": ours.Ridge(), "linear": ours.LinearRegression(),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", slow_but(["poisson"], ESTIMATORS))
def test_scikit_learns_own_checks(name):
    found = check_estimator(ESTIMATORS[name], on_fail="raise", on_skip=None)
    assert len(found) > 50
    assert {each["check_name"] for each in found if each["status"] != "passed"} <= {
        "check_array_api_input"  # which needs an environment variable of SciPy
    }


EXACT = {"tol": 1e-11, "dtype": "float64"}
PAIRS = {
    "two": ("two", ours.LogisticRegression(C=0.7, **EXACT),
            peers.LogisticRegression(C=0.7, tol=1e-12, solver="newton-cholesky")),
    "three": ("three", ours.LogisticRegression(C=0.7, class_weight="balanced", **EXACT),
              peers.LogisticRegression(
                  C=0.7, class_weight="balanced", tol=1e-12, solver="newton-cholesky")),
    "poisson": ("count", ours.PoissonRegressor(alpha=0.3, **EXACT),
                peers.PoissonRegressor(alpha=0.3, tol=1e-12, solver="newton-cholesky")),
    "gamma": ("positive", ours.GammaRegressor(alpha=0.3, **EXACT),
              peers.GammaRegressor(alpha=0.3, tol=1e-12, solver="newton-cholesky")),
    "tweedie": ("count", ours.TweedieRegressor(power=1.4, alpha=0.1, **EXACT),
                peers.TweedieRegressor(power=1.4, alpha=0.1, tol=1e-12, solver="newton-cholesky")),
    "ridge": ("value", ours.Ridge(alpha=3.0, **EXACT), peers.Ridge(alpha=3.0, solver="cholesky")),
    "linear": ("value", ours.LinearRegression(), peers.LinearRegression()),
}  # fmt: skip


@pytest.mark.ranks
@pytest.mark.parametrize("name", PAIRS)
def test_each_rank_gives_its_rows_and_all_get_the_optimum_of_scikit_learn(world, name):
    kind, mine, peer = PAIRS[name]
    X, y, weights = whole(kind)
    rows = own_rows(world, ROWS, "uneven")
    mine.fit(X[rows], y[rows], weights[rows])
    peer.fit(X, y, weights)
    np.testing.assert_allclose(mine.coef_, peer.coef_, atol=1e-7)
    np.testing.assert_allclose(np.ravel(mine.intercept_), np.ravel(peer.intercept_), atol=1e-7)
    np.testing.assert_array_equal(mine.predict(X[:3]).shape, peer.predict(X[:3]).shape)
    if hasattr(peer, "predict_proba"):
        np.testing.assert_allclose(mine.predict_proba(X), peer.predict_proba(X), atol=1e-7)
        np.testing.assert_array_equal(mine.predict(X), peer.predict(X))
    else:
        np.testing.assert_allclose(mine.predict(X), peer.predict(X), rtol=1e-6)
    score = mine.score(X[rows], y[rows], weights[rows])
    assert score == pytest.approx(peer.score(X, y, weights), abs=1e-7)


def test_a_warm_start_begins_where_the_last_fit_ended(world):
    for kind in ("two", "three"):
        X, y, _ = whole(kind)
        model = ours.LogisticRegression(C=1.0, warm_start=True).fit(X, y)
        first = model.n_iter_
        again = model.set_params(C=1.05).fit(X, y).n_iter_
        assert again < first
        cold = ours.LogisticRegression(C=1.05).fit(X, y)
        np.testing.assert_allclose(model.coef_, cold.coef_, atol=1e-6)


def test_they_work_inside_scikit_learn(world):
    X, y, _ = whole("three")
    pipe = make_pipeline(StandardScaler(), ours.LogisticRegression())
    search = GridSearchCV(pipe, {"logisticregression__C": [0.01, 1.0]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.4
    sparse = ours.LogisticRegression().fit(scipy.sparse.csr_array(X), y)
    np.testing.assert_allclose(sparse.coef_, ours.LogisticRegression().fit(X, y).coef_, atol=1e-6)


def test_columns_of_very_different_sizes_have_their_coefficients(world):
    rng = np.random.default_rng(3)
    t, flag = 1e5 * rng.standard_normal(200), rng.integers(0, 2, 200)
    X = np.column_stack([1e9 + t, flag, np.full(200, 7.0)])
    y = 2e-5 * t + 3 * flag + rng.standard_normal(200) / 10
    found, peer = ours.LinearRegression().fit(X, y), peers.LinearRegression().fit(X, y)
    np.testing.assert_allclose(found.coef_, peer.coef_, rtol=1e-5, atol=1e-12)


@pytest.mark.ranks
def test_what_one_rank_refuses_all_refuse(world):
    X, y, _ = whole("two")
    bad = X.copy()
    bad[0, 0] = np.nan if world.rank == world.size - 1 else 0.0
    model = ours.LogisticRegression().fit(X, y)
    for call in (model.score, ours.Ridge().fit, model.fit):
        with pytest.raises(ValueError, match="NaN"):
            call(bad, y)


def test_weights_of_classes_that_cannot_be_are_refused(world):
    X, y, _ = whole("two")
    for given, said in (("equal", "must be a dict"), ({5: 2.0}, "no row has the label 5")):
        with pytest.raises(InputError, match=said):
            ours.LogisticRegression(class_weight=given).fit(X, y)
    with pytest.raises(InputError, match="has the weight 0"):
        ours.LogisticRegression(class_weight="balanced").fit(X, y, y.astype(float))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_refused_and_warned_of(world):
    X, y, _ = whole("two")
    with pytest.raises(InputError, match="C must be above 0"):
        ours.LogisticRegression(C=0).fit(X, y)
    with pytest.raises(InputError, match="one class"):
        ours.LogisticRegression().fit(X, 0 * y)
    with pytest.raises(InputError, match="power must be 0, or from 1 to 2"):
        ours.TweedieRegressor(power=3).fit(X, y + 1.0)
    with pytest.raises(InputError, match="alpha must be at least 0"):
        ours.Ridge(alpha=-1).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        ours.LogisticRegression(max_iter=1).fit(X, y)
