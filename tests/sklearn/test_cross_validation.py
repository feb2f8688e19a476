"""Penalties by cross-validation: against scikit-learn's own, on any number of ranks."""

import numpy as np
import pytest
from marks import serial_but
from regressions import ROWS, whole
from shards import own_rows
from sklearn import linear_model as peers
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import hesscomp.sklearn as ours
from hesscomp.errors import InputError

PENALTIES = [10.0, 0.01, 0.3]
EXACT = {"tol": 1e-11, "dtype": "float64"}
CHECKED = {
    "logistic": ours.LogisticRegressionCV(Cs=[0.1, 1.0], cv=2),
    "poisson": ours.TweedieRegressorCV(power=1, alphas=[0.1, 1.0], cv=2),
    "linear": ours.TweedieRegressorCV(alphas=[0.1, 1.0], cv=2, solver="direct"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHECKED)
def test_scikit_learns_own_checks(name):
    found = check_estimator(CHECKED[name], on_fail="raise", on_skip=None)
    assert {each["check_name"] for each in found if each["status"] != "passed"} <= {
        "check_array_api_input"
    }


CASES = [("two", "accuracy"), ("two", "neg_log_loss"), ("three", "neg_log_loss")]


@pytest.mark.ranks
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind, scoring", serial_but(CASES[-1:], CASES))
def test_choices_and_scores_are_those_of_scikit_learn(world, kind, scoring):
    X, y, weights = whole(kind, 1)
    rows = own_rows(world, ROWS, "uneven")
    same = {"Cs": PENALTIES, "cv": 3, "scoring": scoring, "class_weight": "balanced"}
    mine = ours.LogisticRegressionCV(**same, **EXACT).fit(X[rows], y[rows], weights[rows])
    peer = peers.LogisticRegressionCV(**same, tol=1e-12, solver="newton-cholesky")
    peer.fit(X, y, sample_weight=weights)
    assert np.ravel(peer.C_)[0] == mine.C_
    scores = peer.scores_  # of each class the same ones, in former versions
    scores = next(iter(scores.values())) if isinstance(scores, dict) else scores
    np.testing.assert_allclose(mine.scores_, np.reshape(scores, (3, 3)), atol=1e-9)
    np.testing.assert_allclose(mine.coef_, peer.coef_, atol=1e-8)
    np.testing.assert_allclose(mine.predict_proba(X), peer.predict_proba(X), atol=1e-8)


@pytest.mark.ranks
@pytest.mark.parametrize("kind, power", serial_but([("count", 1)], [("count", 1), ("value", 0)]))
def test_regressors_choose_as_a_search_does(world, kind, power):
    X, y, _ = whole(kind, 1)
    rows, cv = own_rows(world, ROWS, "uneven"), KFold(4, shuffle=True, random_state=1)
    mine = ours.TweedieRegressorCV(power=power, alphas=PENALTIES, cv=cv, **EXACT)
    mine.fit(X[rows], y[rows])
    peer = GridSearchCV(
        peers.TweedieRegressor(power=power, tol=1e-12, solver="newton-cholesky"),
        {"alpha": PENALTIES}, cv=cv,
    ).fit(X, y)  # fmt: skip
    assert mine.alpha_ == peer.best_params_["alpha"]
    scores = [peer.cv_results_[f"split{i}_test_score"] for i in range(4)]
    np.testing.assert_allclose(mine.scores_, scores, atol=1e-8)
    np.testing.assert_allclose(mine.coef_, peer.best_estimator_.coef_, atol=1e-8)


def test_deviations_of_all_rows_stand_for_a_scaler_before_the_search(world):
    X, y, _ = whole("two", 1)
    X = X * [1.0, 1e3, 1e-3, 5.0, 1.0] + 7
    mine = ours.LogisticRegressionCV(Cs=PENALTIES, cv=3, standardize=True, **EXACT).fit(X, y)
    peer = peers.LogisticRegression(C=mine.C_, tol=1e-12, solver="newton-cholesky")
    pipe = make_pipeline(StandardScaler(), peer).fit(X, y)
    np.testing.assert_allclose(mine.predict_proba(X), pipe.predict_proba(X), atol=1e-8)


@pytest.mark.ranks
@pytest.mark.parametrize(
    "how, said",
    [
        ({"Cs": [1.0, -1.0]}, "finite numbers above 0"), ({"scoring": "f1"}, "must be one of acc"),
        ({"cv": ShuffleSplit(2, random_state=0)}, "each row into one test set"),
    ],
)  # fmt: skip
def test_what_is_refused(world, how, said):
    X, y, _ = whole("two", 1)
    with pytest.raises(InputError, match=said):
        ours.LogisticRegressionCV(**how).fit(X, y)
