"""Covariances by a factor and a diagonal, against the inverse of the whole Hessian."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import scipy.sparse
from shards import own_rows

import hesscomp as hc
from hesscomp.cli.main import main
from hesscomp.errors import InputError
from hesscomp.linear import load_model
from hesscomp.linear.covariance import FactoredCovariance
from hesscomp.optimizers import standard_errors

ROWS, WORDS = 2000, 40
FAMILIES = ("logistic", "least-squares", "poisson")


def words(seed=4):
    """Return counts of words, a few in each row, of which some are frequent and most are rare."""
    rng = np.random.default_rng(seed)
    shares = np.maximum(0.3 / np.arange(1, WORDS + 1), 0.03)
    return (rng.random((ROWS, WORDS)) < shares) * rng.integers(1, 4, (ROWS, WORDS)).astype(float)


def twins(seed=5):
    """Return columns that come in pairs that are nearly equal: no low rank and no diagonal."""
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((ROWS, WORDS // 2))
    return np.hstack([half, half + 0.05 * rng.standard_normal(half.shape)])


def targets(X, family, seed=6):
    rng = np.random.default_rng(seed)
    t = X @ (0.2 * rng.standard_normal(X.shape[1])) - 0.2
    if family == "least-squares":
        return t + 0.5 * rng.standard_normal(len(t))
    if family == "softmax":
        return rng.integers(0, 3, len(t))
    p = np.exp(t)
    return rng.poisson(p) if family == "poisson" else (rng.random(len(t)) < p / (1 + p)).astype(int)


def fitted(world, X, family="logistic", storage="sparse", **options):
    mine, y = own_rows(world, ROWS, "uneven"), targets(X, family)
    part = scipy.sparse.csr_array(X[mine]) if storage == "sparse" else X[mine]
    return hc.fit_linear(
        (part, y[mine]), family, world=world, **{"ridge": 1e-3, "tolerance": 1e-9, **options}
    )


@pytest.fixture
def many(monkeypatch):
    """More than three coefficients are many, of which a factor takes 8 directions."""

    def limit(rank=8):
        monkeypatch.setattr(standard_errors, "DENSE", 3)
        monkeypatch.setattr(standard_errors, "FACTOR_RANK", rank)

    return limit


def differences(model, dense):
    """Return the relative differences of all the factor's standard errors."""
    return np.abs(model.factored.standard_errors() / dense.standard_errors - 1)


@pytest.mark.ranks
@pytest.mark.parametrize("family", FAMILIES)
def test_errors_of_words_are_near_those_of_the_whole_hessian(world, many, family):
    X = words()
    dense = fitted(world, X, family)
    many()
    model = fitted(world, X, family, errors_of=("x2", "(intercept)"))
    assert model.covariance is None and model.has_covariance and model.has_errors
    checked = model.factored.checked
    assert len(checked) == 9 and 1 in checked and WORDS not in checked
    # The dispersion of least squares counts all parameters, and not the effective ones.
    dense = replace(
        dense, standard_errors=dense.standard_errors * np.sqrt(model.scale / dense.scale)
    )
    off = differences(model, dense)
    np.testing.assert_allclose(model.standard_errors[checked], dense.standard_errors[checked], 1e-6)
    assert model.factored.error == pytest.approx(off[checked].max(), abs=1e-6)
    assert model.factored.intercept_error == pytest.approx(off[WORDS], abs=1e-6)
    assert model.standard_errors[WORDS] == pytest.approx(dense.standard_errors[WORDS], rel=1e-6)
    assert model.factored.error < 0.06 and off.max() < 0.08
    assert np.all(np.abs(model.standard_errors / dense.standard_errors - 1) <= off + 1e-6)
    assert "and a diagonal" in str(model) and "9 were also solved for" in str(model)
    for rows in (X[:50], scipy.sparse.csr_array(X[:50])):
        near, exact = model.predict(rows), dense.predict(rows)
        np.testing.assert_allclose(near.mean, exact.mean, rtol=1e-9)
        np.testing.assert_allclose(near.high - near.low, exact.high - exact.low, rtol=0.06)


@pytest.mark.ranks
def test_twins_have_a_large_stated_error(world, many):
    X = twins()
    dense = fitted(world, X, storage="dense")
    many(rank=3)
    model = fitted(world, X, storage="dense")
    off = differences(model, dense)
    assert model.factored.error == pytest.approx(off[model.factored.checked].max(), abs=1e-5)
    assert model.factored.error > 0.5 and np.median(off) > 0.5
    assert f"at most {100 * model.factored.error:.2g}%" in str(model)


@pytest.mark.ranks
@pytest.mark.parametrize("storage", ["dense", "sparse"])
@pytest.mark.parametrize("family", ["logistic", "softmax"])
def test_few_directions_are_exact_in_the_units_of_the_columns(world, many, storage, family):
    """Columns in six directions, whose means are far from 0, and a ridge for all others."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((ROWS, 6)) @ rng.standard_normal((6, WORDS)) + 2
    X *= np.linspace(0.1, 10, WORDS)
    options = {"storage": storage, "standardize": True, "ridge": 0.1}
    dense = fitted(world, X, family, **options)
    many(rank=22)
    model = fitted(world, X, family, **options)
    assert model.factored.error < 1e-5
    np.testing.assert_allclose(model.standard_errors, dense.standard_errors, rtol=1e-5)
    if family == "logistic":
        near, exact = model.predict(X[:20]), dense.predict(X[:20])
        np.testing.assert_allclose(near.low, exact.low, rtol=1e-5)


def test_all_numbers_are_those_of_the_inverse():
    rng = np.random.default_rng(0)
    U, w, d = rng.standard_normal((9, 3)), rng.random(3), rng.random(9) + 0.1
    C = np.linalg.inv(np.diag(d) + U * w @ U.T)
    found, rows = FactoredCovariance(d, w, U), rng.standard_normal((5, 9))
    np.testing.assert_allclose(found.variances(), np.diag(C), rtol=1e-10)
    np.testing.assert_allclose(found.scaled(3).variances(), 3 * np.diag(C), rtol=1e-10)
    expected = np.einsum("ij,jk,ik->i", rows, C, rows)
    np.testing.assert_allclose(found.of_rows(rows, False), expected, rtol=1e-10)
    rows[:, -1] = 1
    expected = np.einsum("ij,jk,ik->i", rows, C, rows)
    for part in (rows[:, :-1], scipy.sparse.csr_array(rows[:, :-1])):
        np.testing.assert_allclose(found.of_rows(part, True), expected, rtol=1e-10)


def test_robust_errors_of_many_are_those_of_named_coefficients(world, many):
    many()
    model = fitted(world, words(), covariance="robust", errors_of=("x2",))
    assert model.factored is None and not model.has_covariance
    assert np.isfinite(model.standard_errors).sum() == 1
    assert f"{WORDS} coefficients have none" in str(model) and "each robust one takes" in str(model)


def test_a_singular_hessian_has_no_errors_and_a_warning(world, many, caplog):
    X = words()
    X[:, -1] = 0
    many()
    model = fitted(world, X, ridge=0.0, solver="pcg")
    assert model.factored is None and not model.has_errors
    assert "could not be checked" in caplog.text


def test_files_hold_the_factor_and_give_it_back(world, many, tmp_path):
    X = words()
    many()
    model, path = fitted(world, X, "least-squares"), tmp_path / "m.h5"
    hc.save(model, path)
    with h5py.File(path) as file:
        group = file["factored_covariance"]
        d, w, U = (group[name][()] for name in ("diagonal", "weights", "vectors"))
        assert "covariance" not in file and group["diagonal"].attrs["what"].startswith("d of")
        C, checked = np.linalg.inv(np.diag(d) + U * w @ U.T), group["checked"][()]
        off = np.sqrt(np.diag(C)) / file["standard_errors"][()] - 1
        assert group.attrs["error"] == pytest.approx(np.abs(off[checked]).max(), rel=1e-6)
    again = load_model(path)
    assert str(again) == str(model)
    np.testing.assert_array_equal(again.predict(X[:9]).low, model.predict(X[:9]).low)
    for name, value, why in (
        ("diagonal", 0.0, "not positive"), ("weights", np.nan, "not finite"),
        ("checked", 99, "places of no coefficient"),
    ):  # fmt: skip
        hc.save(model, path)
        with h5py.File(path, "r+") as file:
            file["factored_covariance"][name][0] = value
        with pytest.raises(InputError, match=why):
            load_model(path)


def test_the_command_predicts_intervals_from_the_file(many, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    X = words()
    lines = np.column_stack([targets(X, "logistic"), X])
    titles = ",".join(["y", *(f"w{j}" for j in range(WORDS))])
    np.savetxt("a.csv", lines, "%g", ",", header=titles, comments="")
    many()
    command = ["newton", "--data", "a.csv", "--label", "y", "--intercept", "--model-out", "m.h5"]
    assert main([*command, "--errors-of", "w3"]) == 0
    assert "from a factor of rank" in capsys.readouterr().out
    assert main(["predict", "m.h5", "--data", "a.csv", "--out", "p.csv"]) == 0
    low, high = np.genfromtxt("p.csv", delimiter=",", skip_header=1, usecols=(2, 3)).T
    expected = hc.load("m.h5").predict(X)
    np.testing.assert_allclose([low, high], [expected.low, expected.high], rtol=1e-9)


@pytest.mark.parametrize("storage", ["sparse", "dense"])
@pytest.mark.parametrize("intercept", [True, False])
def test_intervals_of_several_classes_are_those_of_the_whole_covariance(storage, intercept):
    X = words()[:300, :5]
    rows = scipy.sparse.csr_array(X) if storage == "sparse" else X
    known = hc.fit_linear((rows, targets(X, "softmax")), "softmax", ridge=1e-2, intercept=intercept)
    assert known.covariance is not None
    rng, n = np.random.default_rng(1), len(known.covariance)
    C = FactoredCovariance(1 + rng.random(n), rng.random(3), rng.standard_normal((n, 3)))
    inverse = np.linalg.inv(np.diag(C.diagonal) + C.vectors * C.weights @ C.vectors.T)
    found = replace(known, covariance=None, factored=C).predict(rows)
    expected = replace(known, covariance=inverse).predict(rows)
    np.testing.assert_allclose(found.low, expected.low, rtol=1e-10)
    np.testing.assert_allclose(found.high, expected.high, rtol=1e-10)
