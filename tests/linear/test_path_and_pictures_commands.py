"""From the shell: the ridge by cross-validation, and how well a model predicts rows."""

import json
from pathlib import Path

import numpy as np
import pytest

import hesscomp as hc
from hesscomp.cli.main import main
from hesscomp.linear import load_model
from hesscomp.optimizers.options import NewtonOptions

RIDGES = ["1.0", "0.03", "1e-3"]


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    X = rng.standard_normal((90, 2)).round(5)
    happened = rng.random(90) < 1 / (1 + np.exp(-X[:, 0]))
    with open("a.csv", "w") as stream:
        stream.write("bought,age,height\n")
        for (age, height), yes in zip(X, happened, strict=True):
            stream.write(f"{'yes' if yes else 'no'},{age},{height}\n")
    return X, happened


def test_the_ridge_is_chosen_and_the_model_is_its_fit(table, capsys):
    data = ["--data", "a.csv", "--label", "bought", "--intercept", "--tol", "1e-11"]
    command = ["newton", *data, "--ridges", *RIDGES, "--folds", "3", "--json", "r.json"]
    assert main([*command, "--model-out", "m.h5"]) == 0
    assert "loss left out" in (said := capsys.readouterr().out) and "lowest" in said
    data = hc.load_data("a.csv", label="bought", reference=True)
    problem = hc.LogisticRegression(data, dtype="float64", intercept=True)
    options = NewtonOptions("pcg", 1e-11)
    path = hc.ridge_path(problem, [float(ridge) for ridge in RIDGES], folds=3, options=options)
    model = load_model("m.h5")
    assert model.ridge == path.ridges[path.best]
    np.testing.assert_allclose(model.coefficients, path.coefficients[path.best], rtol=1e-8)
    told = json.loads(Path("r.json").read_text())["ridges"]
    assert told["best"] == model.ridge
    np.testing.assert_allclose(told["losses"], path.losses, rtol=1e-8)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--folds", "3"], "--folds goes with --ridges"),
        (["--ridges", "1", "--ridge", "2"], "give one of them"),
        (["--ridges", "0", "1"], "finite numbers above 0"),
    ],
)
def test_what_does_not_go_together(table, words, said, capsys):
    assert main(["newton", "--data", "a.csv", "--label", "bought", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_picture_of_predictions_needs_labels(table, capsys, tmp_path):
    model = hc.fit_linear("a.csv", label="bought")
    hc.save(model, "m.h5")
    ask = ["predict", "m.h5", "--out", "p.csv", "--data"]
    assert main([*ask, "a.csv", "--plot", "c.png"]) == 0
    assert (tmp_path / "c.png").stat().st_size > 1000
    with open("new.csv", "w") as stream:
        stream.write("age,height,bought\n0.5,1,yes\n0.1,2,maybe\n")
    assert main([*ask, "new.csv", "--plot", "d.png"]) == 2
    assert "has the label 'maybe'; the training data have no and yes" in capsys.readouterr().err
    with open("new.csv", "w") as stream:
        stream.write("age,height\n0.5,1\n")
    assert main([*ask, "new.csv", "--plot", "d.png"]) == 2
    assert "no column is named 'bought'" in capsys.readouterr().err
    assert not (tmp_path / "d.png").exists()
    hc.save(hc.fit_linear("a.csv", "least-squares", label="age", ignore="bought"), "v.h5")
    assert main(["predict", "v.h5", "--out", "p.csv", "--data", "a.csv", "--plot", "d.png"]) == 2
    assert "is least-squares" in capsys.readouterr().err
