"""Fitted linear models against statsmodels: errors, tests, likelihoods, predictions, files."""

import csv
import json

import h5py
import numpy as np
import pandas
import pytest
import scipy.sparse
from mpi4py import MPI
from shards import block_rows, own_rows

import hesscomp as hc
from hesscomp.cli.main import main
from hesscomp.errors import InputError
from hesscomp.linear import load_model
from hesscomp.optimizers import standard_errors
from hesscomp.parallel.world import World
from hesscomp.workflows.logistic import NewtonRequest, newton
from hesscomp.workflows.prediction import PredictRequest, predict

ROWS, N = 157, 4
CLOSE = {"rtol": 1e-7, "atol": 1e-9}
FAMILIES = ("logistic", "least-squares", "poisson", "gamma", "tweedie:1.6")


def whole(family="logistic"):
    rng = np.random.default_rng(2)
    X = rng.standard_normal((ROWS, N)) * (rng.random((ROWS, N)) < 0.7)
    weights, offsets = rng.integers(1, 4, ROWS).astype(float), rng.standard_normal(ROWS) / 4
    t = X @ np.array([0.8, -0.5, 0.3, 0.0]) + 0.4 + offsets
    y = {
        "logistic": (rng.random(ROWS) < 1 / (1 + np.exp(-t))).astype(float),
        "least-squares": t + rng.standard_normal(ROWS),
        "poisson": rng.poisson(np.exp(t)).astype(float),
        "gamma": rng.gamma(2, np.exp(t) / 2),
        "tweedie:1.6": rng.poisson(np.exp(t) / 2) * rng.gamma(3, 1, ROWS),
    }[family]
    return X, y, weights, offsets


def peer(family, robust=False, weighted=True):
    import statsmodels.api as sm

    X, y, weights, offsets = whole(family)
    kinds, log = sm.families, sm.families.links.Log()
    kind = {
        "logistic": kinds.Binomial(), "least-squares": kinds.Gaussian(), "poisson": kinds.Poisson(),
        "gamma": kinds.Gamma(log), "tweedie:1.6": kinds.Tweedie(log, 1.6, eql=False),
    }[family]  # fmt: skip
    beside = {"freq_weights": weights, "offset": offsets} if weighted else {}
    model = sm.GLM(y, np.column_stack([X, np.ones(ROWS)]), kind, **beside)
    how = {"cov_type": "HC0" if robust else "nonrobust"}
    if family not in ("gamma", "tweedie:1.6"):
        return model.fit(tol=1e-14, **how)
    found = model.fit(tol=1e-14, tol_criterion="params", maxiter=200)
    # By Newton: errors of the observed information, which is not the expected one here.
    return model.fit(found.params, method="newton", maxiter=3, disp=0, **how)


def fitted(world, family, how="uneven", storage="dense", **options):
    X, y, weights, offsets = whole(family)
    mine = own_rows(world, ROWS, how)
    part = scipy.sparse.csr_array(X[mine]) if storage == "sparse" else X[mine]
    extras = {"weights": weights[mine], "offsets": offsets[mine], "tolerance": 1e-11}
    return hc.fit_linear((part, y[mine]), family, world=world, **{**extras, **options})


@pytest.mark.ranks
@pytest.mark.parametrize("how", ["uneven", "first empty"])
@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_of_statsmodels(world, family, how):
    model, found = fitted(world, family, how), peer(family)
    assert model.converged
    np.testing.assert_allclose(model.coefficients, found.params, **CLOSE)
    np.testing.assert_allclose(model.standard_errors, found.bse, **CLOSE)
    np.testing.assert_allclose(model.z, found.tvalues, **CLOSE)
    np.testing.assert_allclose(model.p_values, found.pvalues, **CLOSE)
    np.testing.assert_allclose(model.intervals(0.9), found.conf_int(0.1), **CLOSE)
    np.testing.assert_allclose(model.covariance, found.cov_params(), **CLOSE)
    assert model.log_likelihood == pytest.approx(found.llf, rel=1e-10)
    assert model.deviance == pytest.approx(found.deviance, rel=1e-10)
    assert model.aic == pytest.approx(found.aic, rel=1e-10)
    assert model.scale == pytest.approx(found.scale, rel=1e-10)


@pytest.mark.parametrize(
    "family, data, log", [
        ("poisson", "cpunish", ("INCOME", "SOUTH")), ("tweedie", "cpunish", ("INCOME",)),
        ("gamma", "scotland", ()),
    ],
)  # fmt: skip
def test_the_problems_of_statsmodels(world, family, data, log):
    import statsmodels.api as sm

    known = getattr(sm.datasets, data).load_pandas()
    X, y = known.exog.to_numpy(float), known.endog.to_numpy(float)
    X = (X - X.mean(0)) / X.std(0)
    kinds, link = sm.families, sm.families.links.Log()
    kind = {
        "poisson": kinds.Poisson(), "tweedie": kinds.Tweedie(link, 1.5), "gamma": kinds.Gamma(link),
    }[family]  # fmt: skip
    found = sm.GLM(y, sm.add_constant(X, prepend=False), kind).fit(
        tol=1e-15, tol_criterion="params", maxiter=300
    )
    model = hc.fit_linear((X, y), family, world=world, tolerance=1e-11)
    np.testing.assert_allclose(model.coefficients, found.params, rtol=1e-8, atol=1e-9)
    assert model.deviance == pytest.approx(found.deviance, rel=1e-9)
    assert model.scale == pytest.approx(found.scale, rel=1e-8)


@pytest.mark.ranks
@pytest.mark.parametrize("family", ["poisson", "tweedie"])
def test_likelihoods_of_reproducible_runs_are_equal_on_any_number_of_ranks(world, family):
    X, y, weights, offsets = whole("tweedie:1.6" if family == "tweedie" else family)
    beside = {"weights": weights, "offsets": offsets, "max_iterations": 2}
    alone = hc.fit_linear((X, y), family, world=World(MPI.COMM_SELF, reproducible=True), **beside)
    mine = block_rows(world, ROWS)
    beside |= {"weights": weights[mine], "offsets": offsets[mine]}
    together = hc.fit_linear((X[mine], y[mine]), family, world=World(reproducible=True), **beside)
    for name in ("log_likelihood", "deviance", "scale"):
        assert getattr(together, name) == getattr(alone, name)


@pytest.mark.parametrize("family", ["tweedie:2", "tweedie:x", "binomial"])
def test_families_that_there_are_not(world, family):
    with pytest.raises(InputError, match="family"):
        hc.fit_linear((np.eye(3), np.ones(3)), family, world=world)


@pytest.mark.ranks
@pytest.mark.parametrize("storage", ["dense", "sparse"])
@pytest.mark.parametrize("family", FAMILIES)
def test_robust_errors_are_those_of_statsmodels(world, family, storage):
    plain = {"weights": None, "offsets": None, "covariance": "robust"}
    model = fitted(world, family, storage=storage, **plain)
    found = peer(family, robust=True, weighted=False)
    np.testing.assert_allclose(model.standard_errors, found.bse, rtol=1e-7)


@pytest.mark.ranks
def test_logit_and_its_odds_ratios(world):
    import statsmodels.api as sm

    X, y, *_ = whole()
    found = sm.Logit(y, np.column_stack([X, np.ones(ROWS)])).fit(disp=0, tol=1e-14)
    model = fitted(world, "logistic", weights=None, offsets=None)
    np.testing.assert_allclose(model.standard_errors, found.bse, rtol=1e-6)
    np.testing.assert_allclose(model.effects()[:, 0], np.exp(found.params), rtol=1e-9)
    np.testing.assert_allclose(model.effects()[:, 1:], np.exp(found.conf_int()), rtol=1e-7)
    text = str(model)
    assert "odds ratio" in text and "(intercept)" in text and "log odds of '1'" in text


@pytest.mark.ranks
@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_are_those_of_statsmodels(world, family):
    X, _, _, offsets = whole(family)
    model, found = fitted(world, family), peer(family)
    rows = np.column_stack([X, np.ones(ROWS)])[:9]
    expected = found.get_prediction(rows, offset=offsets[:9])
    table = expected.summary_frame(0.1)
    for part in (X[:9], scipy.sparse.csr_array(X[:9])):
        here = model.predict(part, offsets[:9], level=0.9)
        np.testing.assert_allclose(here.mean, table["mean"], rtol=1e-8)
        np.testing.assert_allclose(here.low, table["mean_ci_lower"], rtol=1e-6)
        np.testing.assert_allclose(here.high, table["mean_ci_upper"], rtol=1e-6)


@pytest.mark.ranks
def test_single_errors_by_conjugate_gradients(world, monkeypatch):
    covariance = "robust"  # observed ones: test_factored_covariance.py
    dense = fitted(world, "logistic", covariance=covariance)
    monkeypatch.setattr(standard_errors, "DENSE", 3)
    model = fitted(world, "logistic", covariance=covariance, errors_of=("x2", "(intercept)"))
    expected = np.where([False, True, False, False, True], dense.standard_errors, np.nan)
    np.testing.assert_allclose(model.standard_errors, expected, rtol=1e-8)
    assert 0 < model.residual <= 1e-10 and "3 coefficients have none" in str(model)
    assert (
        model.covariance is None and np.isnan(model.predict(np.ones((1, N)), np.zeros(1)).low).all()
    )
    with pytest.raises(InputError, match="height: no coefficient has this name"):
        fitted(world, "logistic", errors_of=("height",))
    monkeypatch.undo()
    with pytest.raises(InputError, match="goes with more than 4000 coefficients"):
        fitted(world, "logistic", errors_of=("x2",))


@pytest.mark.ranks
def test_a_ridge_is_said(world):
    model = fitted(world, "logistic", ridge=0.1)
    X, _, weights, offsets = whole()
    rows = np.column_stack([X, np.ones(ROWS)])
    t = rows @ model.coefficients + offsets
    H = (rows * (weights / (2 + np.exp(t) + np.exp(-t)))[:, None]).T @ rows
    R = np.diag([0.1 * weights.sum()] * N + [0.0])
    np.testing.assert_allclose(model.covariance, np.linalg.inv(H + R), rtol=1e-9)
    trace = np.trace(np.linalg.solve(H + R, H))
    assert model.effective_parameters == pytest.approx(trace, rel=1e-9)
    assert "drawn to 0" in str(model) and "posterior" in str(model)
    assert "drawn to 0" in str(fitted(world, "logistic", ridge=0.1, covariance="robust"))


@pytest.mark.ranks
def test_columns_that_depend_on_others_are_named(world):
    X, y, *_ = whole()
    mine = own_rows(world, ROWS, "uneven")
    for extra in (X[:, :1] - 2 * X[:, 1:2], np.zeros((ROWS, 1)), np.full((ROWS, 1), 3.0)):
        columns = np.hstack([X, extra])[mine]
        for solver in ("pcg", "direct"):
            with pytest.raises(InputError, match=r"column '(x5|\(intercept\))' is zero or depends"):
                hc.fit_linear((columns, y[mine]), solver=solver, world=world)


def write_table(path, rows=90, seed=1):
    rng = np.random.default_rng(seed)
    table = pandas.DataFrame(
        {
            "age": rng.normal(size=rows).round(4),
            "job": rng.choice(["baker", "clerk", "nurse"], rows),
            "w": rng.integers(1, 4, rows),
        }
    )
    t = table["age"] + (table["job"] == "nurse") - 0.3
    table["bought"] = np.where(rng.random(rows) < 1 / (1 + np.exp(-t)), "yes", "no")
    table.to_csv(path, index=False)
    return table


def test_the_command_fits_writes_and_predicts_a_table(tmp_path, monkeypatch, capsys):
    import statsmodels.formula.api as smf

    monkeypatch.chdir(tmp_path)
    table = write_table("a.csv")
    command = ["newton", "--data", "a.csv", "--weights", "w", "--intercept", "--ridge", "0"]
    assert main([*command, "--model-out", "m.h5", "--tol", "1e-11", "--json", "r.json"]) == 0
    printed = capsys.readouterr().out
    assert "job (3 levels, reference baker)" in printed and "wrote model: m.h5" in printed
    assert "job=nurse" in printed and "odds ratio" in printed
    table["y"] = (table["bought"] == "yes").astype(int)
    import statsmodels.api as sm

    found = smf.glm(
        "y ~ age + C(job)", table, family=sm.families.Binomial(), freq_weights=table["w"]
    ).fit(tol=1e-14)
    with h5py.File("m.h5") as file:
        names = [name.decode() for name in file["names"]]
        assert names == ["age", "job=clerk", "job=nurse", "(intercept)"]
        order = ["age", "C(job)[T.clerk]", "C(job)[T.nurse]", "Intercept"]
        np.testing.assert_allclose(file["coefficients"], found.params[order], rtol=1e-7)
        np.testing.assert_allclose(file["standard_errors"], found.bse[order], rtol=1e-6)
        np.testing.assert_allclose(file["covariance"], found.cov_params().loc[order, order], 1e-6)
        assert file.attrs["format"] == "hesscomp-model" and file.attrs["family"] == "logistic"
    model = hc.load("m.h5")
    hc.save(model, "again.h5")
    assert load_model("again.h5").encoding == model.encoding
    assert model.classes == ("no", "yes") and model.label_name == "bought"

    new = table.iloc[::-5][["job", "age"]]
    new.to_csv("new.csv", index=False)
    assert main(["predict", "m.h5", "--data", "new.csv", "--out", "p.csv"]) == 0
    with open("p.csv", newline="") as stream:
        title, *lines = csv.reader(stream)
    assert title == ["bought", "probability of yes", "low", "high"]
    expected = found.get_prediction(new).summary_frame()
    numbers = np.array([line[1:] for line in lines], float)
    np.testing.assert_allclose(numbers[:, 0], expected["mean"], rtol=1e-7)
    np.testing.assert_allclose(numbers[:, 1:], expected[["mean_ci_lower", "mean_ci_upper"]], 1e-6)
    assert [line[0] for line in lines] == np.where(numbers[:, 0] > 0.5, "yes", "no").tolist()
    assert json.loads((tmp_path / "r.json").read_text())["intercept"] is True


BAD = {
    "level": ("age,job\n1,pilot\n", "row 1 (line 2), column job holds 'pilot', which the training"),
    "column": (
        "age,w\n1,2\n",
        "no column is named 'job', which the training data have; it has age",
    ),
    "gap": ("job,age\nclerk,\n", "row 1 (line 2), column age holds '', a missing value, and the"),
    "text": ("job,age\nclerk,old\n", "column age holds 'old'; the training data have numbers"),
}


def test_bad_rows_to_predict_are_one_line_errors(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_table("a.csv")
    hc.save(hc.fit_linear("a.csv", weights="w"), "m.h5")
    for text, message in BAD.values():
        (tmp_path / "new.csv").write_text(text)
        assert main(["predict", "m.h5", "--data", "new.csv", "--out", "p.csv"]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    assert main(["predict", "a.csv", "--data", "new.csv", "--out", "p.csv"]) == 2
    with h5py.File("m.h5", "r+") as file:
        file["encoding/reference"][1] = 7
    with pytest.raises(InputError, match="reference of job is no level"):
        load_model("m.h5")


@pytest.mark.ranks
def test_poisson_with_exposure_from_a_file_on_any_ranks(world, shared_tmp):
    import statsmodels.api as sm

    X, y, _, offsets = whole("poisson")
    if world.rank == 0:
        np.savez(shared_tmp / "a.npz", X=X, y=y, o=offsets)
    world.gather(None)
    path = str(shared_tmp / "a.npz")
    model = hc.fit_linear(path, "poisson", offsets="o", world=world, tolerance=1e-11)
    rows = np.column_stack([X, np.ones(ROWS)])
    found = sm.GLM(y, rows, sm.families.Poisson(), offset=offsets).fit(tol=1e-14)
    np.testing.assert_allclose(model.standard_errors, found.bse, rtol=1e-8)
    alone = hc.fit_linear(path, "poisson", offsets="o", world=hc.World.serial(), tolerance=1e-11)
    np.testing.assert_allclose(model.coefficients, alone.coefficients, rtol=1e-10)
    np.testing.assert_allclose(model.covariance, alone.covariance, rtol=1e-10)


def test_rows_need_the_offsets_that_training_had(world, tmp_path):
    X, _, _, offsets = whole("poisson")
    model = fitted(world, "poisson")
    with pytest.raises(InputError, match="give those of these rows"):
        model.predict(X)
    hc.save(model, tmp_path / "m.h5")
    assert load_model(tmp_path / "m.h5").has_offsets
    table = pandas.DataFrame(X, columns=list("abcd")).assign(e=offsets, y=np.arange(ROWS) % 3)
    table.to_csv(tmp_path / "d.csv", index=False)
    fit = ["newton", "--data", str(tmp_path / "d.csv"), "--family", "poisson", "--offset", "e"]
    named = [*fit, "--label", "y", "--intercept", "--model-out", str(tmp_path / "n.h5")]
    assert main(named) == 0
    assert main(["inspect", str(tmp_path / "n.h5")]) == 0
    out = tmp_path / "p.csv"
    ask = ["predict", str(tmp_path / "n.h5"), "--data", str(tmp_path / "d.csv"), "--out", str(out)]
    assert main(ask) == 2 and not out.exists()
    assert main([*ask, "--offset", "e"]) == 0
    expected = load_model(tmp_path / "n.h5").predict(X, offsets)
    np.testing.assert_allclose(pandas.read_csv(out)["mean"], expected.mean, rtol=1e-12)
    data = hc.load_data(tmp_path / "d.csv", label="y", offset="e", targets="values")
    with pytest.raises(InputError, match="has no offsets"):
        hc.GeneralizedLinearModel(data, family="poisson").over((X, np.ones(ROWS)))


@pytest.mark.parametrize("given", ["--weights", "--offset"])
def test_a_column_is_not_the_label_and_something_else(tmp_path, given, capsys):
    rows = pandas.DataFrame({"a": [1.0, 2, 3, 4], "y": [0, 1, 1, 0], "w": [1.0, 2, 1, 1]})
    rows.to_csv(tmp_path / "d.csv", index=False)
    words = ["newton", "--data", str(tmp_path / "d.csv"), "--family", "least-squares", given, "w"]
    assert main(words) == 2
    assert "w would be the label, and is a feature, a weight or an" in capsys.readouterr().err


def test_the_label_of_test_rows_is_found_by_the_name_of_the_training_rows(tmp_path):
    rows = pandas.DataFrame({"a": [0.0, 1, 0, 1], "y": [0, 1, 1, 0]})
    rows.to_csv(tmp_path / "d.csv", index=False)
    rows[["y", "a"]].to_csv(tmp_path / "t.csv", index=False)
    test = hc.load_data(tmp_path / "d.csv", test=tmp_path / "t.csv").test
    assert test.y.tolist() == [-1, 1, 1, -1] and test.X.ravel().tolist() == [0, 1, 0, 1]
    rows.rename(columns={"y": "z"})[["z", "a"]].to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match="a would be the label"):
        hc.load_data(tmp_path / "d.csv", test=tmp_path / "t.csv")


@pytest.mark.parametrize(
    "form", [scipy.sparse.csr_matrix, scipy.sparse.coo_array, pandas.DataFrame]
)
def test_rows_of_any_form_are_predicted_alike(world, form):
    X, _, _, offsets = whole()
    model = fitted(world, "logistic")
    here, there = model.predict(X, offsets), model.predict(form(X), offsets)
    np.testing.assert_allclose([here.mean, here.low], [there.mean, there.low], rtol=1e-12)


def test_the_model_knows_the_columns_of_libsvm_rows(world, tmp_path):
    """Rows that lack the last feature, or the index 0, are of the training rows' columns."""
    X, y, *_ = whole()
    lines = (
        " ".join([f"{label:g}", *(f"{j}:{value}" for j, value in enumerate(row) if value)])
        for label, row in zip(y, X, strict=True)
    )
    (tmp_path / "train.svm").write_text("\n".join(lines) + "\n")
    (tmp_path / "new.svm").write_text("0 1:0.5\n0 2:1.5\n")
    model, out = str(tmp_path / "m.h5"), str(tmp_path / "p.csv")
    fit = newton(NewtonRequest(data=str(tmp_path / "train.svm"), model_out=model), world)
    assert fit.model.index_base == 0
    request = PredictRequest(model=model, data=str(tmp_path / "new.svm"), out=out)
    found = predict(request, world).predictions.mean
    rows = np.array([[0, 0.5, 0, 0], [0, 0, 1.5, 0]])
    np.testing.assert_allclose(found, fit.model.predict(rows).mean, rtol=1e-14)
    (tmp_path / "new.svm").write_text("0 4:0.5\n")
    with pytest.raises(InputError, match="has the index 4; the training data have 0 to 3"):
        predict(request, world)


def test_images_are_predicted_without_labels(world, tmp_path):
    images, labels = np.arange(48, dtype=np.uint8).reshape(6, 2, 4), np.array([0, 1] * 3, np.uint8)
    for name, kind, values in (
        ("a-images-idx3-ubyte", 3, images), ("a-labels-idx1-ubyte", 1, labels),
        ("new-images-idx3-ubyte", 3, images[:2]),
    ):  # fmt: skip
        head = bytes([0, 0, 8, kind]) + np.array(values.shape, ">u4").tobytes()
        (tmp_path / name).write_bytes(head + values.tobytes())
    model, out = str(tmp_path / "m.h5"), str(tmp_path / "p.csv")
    data = str(tmp_path / "a-images-idx3-ubyte")
    fit = newton(NewtonRequest(data=data, ridge=0.1, model_out=model), world)
    request = PredictRequest(model=model, data=str(tmp_path / "new-images-idx3-ubyte"), out=out)
    found = predict(request, world).predictions.mean
    X = images[:2].reshape(2, 8).astype(np.float32) / np.float32(255)
    np.testing.assert_allclose(found, fit.model.predict(X).mean, rtol=1e-6)


def test_scores_of_classes_are_no_odds_ratios_and_a_prior_counts_the_dispersion(world):
    X, y, *_ = whole()
    y = np.arange(ROWS) % 3
    scores, odds = (hc.fit_linear((X, y), "softmax", ridge=ridge) for ridge in (0.1, 0.0))
    assert "odds ratio" not in str(scores) and "fit with ridge 0" in str(scores)
    assert "odds ratio" in str(odds)
    values = fitted(world, "least-squares", ridge=0.1)
    assert f"variance {values.scale / (values.total * 0.1):.4g};" in str(values)


def test_a_ridge_fit_of_fewer_rows_than_columns_has_no_known_dispersion(world):
    X, y, *_ = whole("least-squares")
    model = hc.fit_linear((X[:3], y[:3]), "least-squares", ridge=0.1, covariance="none")
    assert np.isnan(model.scale) and "dispersion not known" in str(model)
