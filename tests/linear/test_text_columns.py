"""Models of CSV files with texts, missing values and weights: what is said, and new rows."""

import csv

import h5py
import numpy as np
import pandas
import pytest

import hesscomp as hc
from hesscomp.errors import InputError
from hesscomp.linear import load_model
from hesscomp.workflows.prediction import PredictRequest, predict

ROWS = 120
OFF = {"dtype": "float64", "tolerance": 1e-11}


def write_rows(path, rows=ROWS):
    rng = np.random.default_rng(3)
    table = pandas.DataFrame(
        {
            "age": rng.normal(40, 10, rows).round(1),
            "school": rng.choice(["10th", "BSc", "PhD"], rows),
            "region": rng.choice(["north", "south"], rows),
            "w": rng.integers(1, 4, rows),
        }
    )
    table.loc[::17, "age"] = np.nan
    table["bought"] = rng.choice(["no", "yes"], rows)
    table.to_csv(path, index=False)
    return table


def fitted(path, **options):
    return hc.fit_linear(path, **{"missing": "level", "ignore": ("w",), **OFF, **options})


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_rows("a.csv")


def test_the_foot_and_the_file_name_the_levels_left_out(table):
    model = fitted("a.csv")
    foot = "Reference levels, without a coefficient of their own: school: 10th, region: north."
    for text in (str(model), model._repr_html_()):
        assert foot in text and "A missing number counts as 0" in text and "age." in text
    hc.save(model, "m.h5")
    with h5py.File("m.h5") as file:
        columns, levels = (
            file[f"encoding/{name}"].asstr()[()].tolist() for name in ("columns", "reference_level")
        )
    assert dict(zip(columns, levels, strict=True)) == {
        "age": "",
        "school": "10th",
        "region": "north",
    }
    assert foot in str(load_model("m.h5"))
    full = fitted("a.csv", intercept=False, ridge=0.1)
    assert "Reference" not in str(full) and "school=10th" in full.names


def test_what_weights_mean_is_said(table):
    """Repeated rows for the observed information; observations of their own for the sandwich."""
    design = pandas.get_dummies(table.school, dtype=float).to_numpy()
    y, w = (table.bought == "yes").to_numpy(float), table.w.to_numpy(float)
    same = {"intercept": False, **OFF}
    observed = hc.fit_linear((design, y), weights=w, **same)
    again = np.repeat(np.arange(ROWS), table.w)
    repeated = hc.fit_linear((design[again], y[again]), **same)
    np.testing.assert_allclose(observed.standard_errors, repeated.standard_errors, rtol=1e-9)
    assert "a row of weight w counts as w rows" in str(observed)
    assert "weight" not in str(repeated)
    robust = hc.fit_linear((design, y), weights=w, covariance="robust", **same)
    p = np.array([w @ (design[:, k] * y) / (w @ design[:, k]) for k in range(3)])
    residuals = w * (y - design @ p)
    errors = np.sqrt(residuals**2 @ design) / (w @ design * p * (1 - p))
    np.testing.assert_allclose(robust.standard_errors, errors, rtol=1e-7)
    assert "each one observation whatever its weight" in str(robust)


def test_a_level_without_a_finite_estimate_is_named(table):
    table.loc[table.school == "PhD", "bought"] = "no"
    table.to_csv("q.csv", index=False)
    assert "school=PhD: probably without a finite estimate" in str(fitted("q.csv"))
    assert "finite estimate" not in str(fitted("q.csv", ridge=1e-3))
    assert "finite estimate" not in str(fitted("a.csv"))


def test_classes_that_a_point_on_the_border_keeps_apart(caplog):
    """Newton's steps go on for ever, with any small gradient: R's glm warns of such fits too."""
    x = np.array([-2.0, -1, 0, 0, 1, 2])
    y = np.array([0.0, 0, 0, 1, 1, 1])
    hc.fit_linear((x[:, None], y), ridge=0.0)
    assert "probably no minimum without a ridge" in caplog.text
    assert "x1: where the run ended" in caplog.text
    caplog.clear()
    counts = np.array([2.0, 3, 1, 0, 0, 0])
    group = np.array([[0.0], [0], [0], [1], [1], [1]])
    hc.fit_linear((group, counts), family="poisson", ridge=0.0)
    assert "x1: where the run ended" in caplog.text
    caplog.clear()
    for settings in ({"ridge": 1e-3}, {"ridge": 0.0, "tolerance": 1e-2}):
        hc.fit_linear((x[:, None], np.array([0.0, 1, 0, 1, 0, 1])), **settings)
    assert not caplog.text


def test_tables_of_pandas_are_encoded_by_the_names_of_their_columns(table):
    model, plain = fitted("a.csv"), table[["region", "age", "school"]].assign(id="x")
    data = hc.load_data("a.csv", missing="level", ignore=("w",), reference=True)
    expected = model.predict(data.train.X)
    here = model.predict(plain)
    np.testing.assert_allclose([here.mean, here.low], [expected.mean, expected.low], rtol=1e-12)
    encoded = pandas.DataFrame(np.asarray(data.train.X), columns=list(model.names[:-1]))
    np.testing.assert_allclose(model.predict(encoded).mean, expected.mean, rtol=1e-12)
    for wrong, said in (
        (plain.assign(school="MSc"), "row 1, column school holds 'MSc', which the training data"),
        (plain.assign(region=None), "row 1, column region holds a missing value"),
        (plain.assign(age="old"), "column age is of type"),
        (plain.assign(age=np.inf), "column age holds an infinite number"),
        (plain.drop(columns="age"), "the model needs the columns age, once each"),
    ):
        with pytest.raises(InputError, match=said):
            model.predict(wrong)


def test_codes_beside_missing_ones_are_found_as_a_file_writes_them(tmp_path):
    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"code": rng.integers(1, 4, 60), "y": rng.normal(size=60)})
    table.to_csv(tmp_path / "c.csv", index=False)
    model = hc.fit_linear(tmp_path / "c.csv", "least-squares", categories=("code",))
    whole, floats = model.predict(table).mean, model.predict(table.astype(float)).mean
    np.testing.assert_allclose(whole, table.groupby("code").y.transform("mean"), rtol=1e-7)
    np.testing.assert_array_equal(whole, floats)


@pytest.mark.ranks
@pytest.mark.parametrize("missing", ["drop", "level"])
def test_rows_of_unknown_values_are_left_blank_where_that_is_asked(world, shared_tmp, missing):
    rows = shared_tmp / "a.csv"
    if world.rank == 0:
        write_rows(rows)
        (shared_tmp / "new.csv").write_text(
            "school,age,region\nPhD,30,north\nMSc,30,south\nBSc,,north\nNA,40,south\n10th,0,south\n"
        )
    world.gather(None)
    model = fitted(rows, missing=missing, world=world)
    m, out = str(shared_tmp / "m.h5"), str(shared_tmp / "p.csv")
    hc.save(model, m)
    ask = {"model": m, "data": str(shared_tmp / "new.csv"), "out": out}
    with pytest.raises(InputError, match=r"which the training data do not|a missing value"):
        predict(PredictRequest(**ask), world)
    told = []
    found = predict(PredictRequest(**ask, unknown="blank"), world, told.append)
    blank = np.array([False, True, missing == "drop", True, False])
    np.testing.assert_array_equal(np.isnan(found.predictions.mean), blank)
    np.testing.assert_array_equal(np.isnan(found.predictions.low), blank)
    np.testing.assert_array_equal(found.classes == "", blank)
    if world.rank == 0:
        assert any(f"{blank.sum()} of 5 rows have values" in str(each) for each in told)
        with open(out, newline="") as stream:
            lines = list(csv.reader(stream))[1:]
        assert [line == [""] * 4 for line in lines] == blank.tolist()
    known = np.flatnonzero(~blank)
    few = pandas.DataFrame({"school": ["PhD", "BSc", "10th"], "age": [30, np.nan, 0]}).iloc[
        [0, 2] if missing == "drop" else [0, 1, 2]
    ]
    few["region"] = ["north", "south"] if missing == "drop" else ["north", "north", "south"]
    np.testing.assert_allclose(found.predictions.mean[known], model.predict(few).mean, rtol=1e-12)


def test_blank_rows_are_not_drawn_and_need_names(tmp_path, world):
    rng = np.random.default_rng(1)
    model = hc.fit_linear((rng.normal(size=(40, 2)), np.arange(40) % 2))
    hc.save(model, tmp_path / "m.h5")
    np.savez(tmp_path / "new.npz", X=np.ones((2, 2)), y=np.ones(2))
    ask = {"model": str(tmp_path / "m.h5"), "data": str(tmp_path / "new.npz"), "unknown": "blank"}
    with pytest.raises(InputError, match="goes with models of CSV files"):
        predict(PredictRequest(**ask, out=str(tmp_path / "p.csv")), world)
    with pytest.raises(InputError, match="`plot` goes with `unknown` refuse"):
        PredictRequest(**ask, out="p.csv", plot="c.png")
