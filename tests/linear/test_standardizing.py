"""Standardised columns, undone in the coefficients: against scikit-learn and statsmodels."""

import numpy as np
import pytest
import scipy.sparse
from shards import block_rows, own_rows
from sklearn import linear_model as peers
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hesscomp as hc
import hesscomp.sklearn as ours
from hesscomp.cli.main import main
from hesscomp.datasets import from_arrays
from hesscomp.datasets.standardize import standardized
from hesscomp.errors import InputError
from hesscomp.linear import load_model
from hesscomp.optimizers import standard_errors
from hesscomp.parallel.world import World

ROWS = 160
pytestmark = pytest.mark.ranks


def whole(classes=2):
    """Columns of very different sizes and means, one of them rare, and labels."""
    rng = np.random.default_rng(3)
    columns = rng.normal(2000, 5, ROWS), rng.normal(0, 1e-3, ROWS), rng.poisson(0.3, ROWS)
    X = np.column_stack(columns).astype(float)
    T = (X - X.mean(0)) / X.std(0) @ rng.standard_normal((3, classes))
    return X, np.argmax(T + rng.gumbel(size=T.shape), axis=1), rng.integers(1, 4, ROWS) * 1.0


def fitted(world, X, y, *, storage="dense", **options):
    mine = own_rows(world, ROWS, "uneven")
    form = scipy.sparse.csr_array if storage == "sparse" else np.array
    options = {"standardize": True, "world": world, "tolerance": 1e-12, **options}
    if "weights" in options:
        options["weights"] = options["weights"][mine]
    return hc.fit_linear((form(X[mine]), y[mine]), **options)


@pytest.mark.parametrize("classes, storage", [(2, "dense"), (2, "sparse"), (3, "sparse")])
def test_it_is_the_pipeline_of_scikit_learn(world, classes, storage):
    X, y, weights = whole(classes)
    X = np.column_stack([X, np.full(ROWS, 3.0)])  # a constant column gets no coefficient
    family = "logistic" if classes == 2 else "softmax"
    mine = fitted(world, X, y, storage=storage, family=family, ridge=0.01, weights=weights)
    peer = make_pipeline(
        StandardScaler(),
        peers.LogisticRegression(C=100 / weights.sum(), tol=1e-13, solver="newton-cholesky"),
    ).fit(
        X, y, standardscaler__sample_weight=weights, logisticregression__sample_weight=weights
    )  # fmt: skip
    expected, found = peer.predict_proba(X), mine.predict(X).mean
    np.testing.assert_allclose(found, expected if classes > 2 else expected[:, 1], atol=1e-10)
    assert mine.standardized and "standardised columns coefficients are drawn to 0" in str(mine)


@pytest.mark.parametrize("classes, storage", [(2, "sparse"), (3, "dense")])
def test_errors_are_those_of_statsmodels_in_the_units_of_the_columns(world, classes, storage):
    import statsmodels.api as sm

    X, y, _ = whole(classes)
    kind = sm.Logit if classes == 2 else sm.MNLogit
    found = kind(y, sm.add_constant(X, prepend=False)).fit(disp=0, maxiter=100)
    family = "logistic" if classes == 2 else "softmax"
    model = fitted(world, X, y, storage=storage, family=family)
    np.testing.assert_allclose(model.coefficients, np.ravel(found.params), rtol=1e-7)
    np.testing.assert_allclose(model.standard_errors, np.ravel(found.bse), rtol=1e-7)
    plain = fitted(world, X / X.std(0), y, storage=storage, family=family, standardize=False)
    assert model.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-10)


def test_robust_and_single_errors_are_undone_too(world, monkeypatch):
    X, y, _ = whole()
    dense = fitted(world, X, y, covariance="robust", ridge=0.02)
    for rows in (X, scipy.sparse.csr_array(X)):
        assert np.all(dense.predict(rows[:5]).low < dense.predict(rows[:5]).high)
    monkeypatch.setattr(standard_errors, "DENSE", 3)
    names = ("x2", "(intercept)")
    single = fitted(world, X, y, covariance="robust", ridge=0.02, errors_of=names)
    np.testing.assert_allclose(single.standard_errors[[1, 3]], dense.standard_errors[[1, 3]], 1e-8)


def test_without_an_intercept_columns_are_scaled_and_not_centred(world):
    X, y, _ = whole()
    mine = fitted(world, X, y, intercept=False, ridge=0.01)
    peer = make_pipeline(
        StandardScaler(with_mean=False),
        peers.LogisticRegression(
            C=100 / ROWS, tol=1e-13, fit_intercept=False, solver="newton-cholesky"
        ),
    ).fit(X, y)
    np.testing.assert_allclose(mine.predict(X).mean, peer.predict_proba(X)[:, 1], atol=1e-10)


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_reproducible_scales_are_equal_on_any_number_of_ranks(world, storage):
    X, y, weights = whole()
    form = scipy.sparse.csr_array if storage == "sparse" else np.array
    scales = []
    for there, rows in ((World(reproducible=True), block_rows(world, ROWS)), (None, slice(None))):
        there = there or World(hc.World.serial().comm, reproducible=True)
        data = from_arrays(form(X[rows]), y[rows], there, weights=weights[rows])
        scaling = standardized(data, there, centre=True).scaling
        scales.append(np.append(scaling.means, scaling.deviations))
    np.testing.assert_array_equal(*scales)


@pytest.mark.serial
def test_estimators_scale_by_the_rows_of_all_ranks_and_start_warm(world):
    X, y, _ = whole(3)
    mine = ours.LogisticRegression(C=0.5, standardize=True, tol=1e-11, warm_start=True).fit(X, y)
    peer = make_pipeline(
        StandardScaler(), peers.LogisticRegression(C=0.5, tol=1e-12, solver="newton-cholesky")
    ).fit(X, y)
    np.testing.assert_allclose(mine.predict_proba(X), peer.predict_proba(X), atol=1e-8)
    assert mine.fit(X, y).n_iter_ <= 1
    ridge = ours.Ridge(alpha=2.0, standardize=True, tol=1e-12).fit(X, y)
    both = make_pipeline(StandardScaler(), peers.Ridge(alpha=2.0)).fit(X, y)
    np.testing.assert_allclose(ridge.predict(X), both.predict(X), rtol=1e-8)


@pytest.mark.serial
def test_the_command_standardises_and_predicts_in_the_units_of_the_file(tmp_path, capsys, caplog):
    X, y, _ = whole()
    lines = [
        "a,b,c,k,y",
        *(",".join(map(str, [*row, 7, label])) for row, label in zip(X, y, strict=True)),
    ]
    data, model, out = (str(tmp_path / name) for name in ("d.csv", "m.h5", "p.csv"))
    (tmp_path / "d.csv").write_text("\n".join(lines) + "\n")
    fit = ["newton", "--data", data, "--intercept", "--standardize", "--ridge", "0.01"]
    assert main([*fit, "--model-out", model, "--tol", "1e-12"]) == 0
    assert "constant columns, which are not scaled: k" in caplog.text
    assert load_model(model).standardized and "standardised" in capsys.readouterr().out
    assert main(["predict", model, "--data", data, "--out", out]) == 0
    peer = make_pipeline(
        StandardScaler(),
        peers.LogisticRegression(C=100 / ROWS, tol=1e-13, solver="newton-cholesky"),
    ).fit(X, y)
    found = np.loadtxt(out, delimiter=",", skiprows=1)
    np.testing.assert_allclose(found[:, 1], peer.predict_proba(X)[:, 1], atol=1e-8)
    assert main([*fit, "--factor-out", str(tmp_path / "f.h5")]) == 2
    assert "does not go with" in capsys.readouterr().err


def test_what_cannot_be_standardised(world):
    data = from_arrays(np.eye(3), None, world, targets="input")
    with pytest.raises(InputError, match="their own targets"):
        standardized(data, world, centre=False)
