"""CSV with texts, missing values and weights: encodings, the same on any number of ranks."""

import logging
import math

import numpy as np
import pandas
import pytest
import scipy.sparse

from hesscomp.datasets import load_dataset
from hesscomp.errors import InputError
from hesscomp.parallel.world import World

pytestmark = pytest.mark.ranks
JOBS, CODES = ("baker", "clerk", "nurse", "pilot"), (10, 20, 30)


def frame(rows=97, seed=0) -> pandas.DataFrame:
    """Texts of which one occurs in the last row only; gaps in numbers and texts."""
    rng = np.random.default_rng(seed)
    table = pandas.DataFrame(
        {
            "age": rng.normal(size=rows).round(3),
            "job": rng.choice(JOBS[:3], rows).astype(object),
            "w": rng.integers(0, 3, rows),
            "code": rng.choice(CODES, rows),
            "bought": rng.choice(["no", "yes"], rows),
        }
    )
    table.loc[rows - 1, "job"] = JOBS[3]
    table.loc[rng.random(rows) < 0.1, "age"] = np.nan
    table.loc[rng.random(rows) < 0.1, "job"] = None
    table.loc[rows - 1, "job"] = JOBS[3]
    return table


def write(world, path, table) -> None:
    if world.rank == 0:
        table.to_csv(path, index=False)
    world.gather(None)


def together(world, shard):
    parts = world.gather((shard.X, shard.y, shard.weights))
    X, y, weights = zip(*parts, strict=True)
    X = np.concatenate([x.toarray() if scipy.sparse.issparse(x) else x for x in X])
    return X, np.concatenate(y), None if weights[0] is None else np.concatenate(weights)


@pytest.mark.parametrize("reference", [False, True])
def test_texts_become_columns_as_pandas_makes_them(world, shared_tmp, reference):
    table = frame().dropna().reset_index(drop=True)
    write(world, shared_tmp / "a.csv", table)
    data = load_dataset(
        shared_tmp / "a.csv", world, weights="w", categories=("code",), reference=reference
    )
    X, y, weights = together(world, data.train)
    expected = pandas.get_dummies(
        table[["age", "job", "code"]], columns=["job", "code"], drop_first=reference, dtype=float,
        prefix_sep="=",
    )  # fmt: skip
    assert data.feature_names == tuple(expected.columns)
    np.testing.assert_array_equal(X, expected.to_numpy())
    np.testing.assert_array_equal(y, np.where(table["bought"] == "yes", 1, -1))
    np.testing.assert_array_equal(weights, table["w"])
    assert [column.levels for column in data.encoding.columns][1] == JOBS
    alone = load_dataset(
        shared_tmp / "a.csv", World.serial(), weights="w", categories=("code",),
        reference=reference,
    )  # fmt: skip
    assert alone.fingerprint == data.fingerprint and alone.encoding == data.encoding


def test_columns_may_be_ignored(world, shared_tmp):
    """Also the last one, one with missing values, and in test rows, which need not have them."""
    table = frame().dropna(subset="age").reset_index(drop=True)
    write(world, shared_tmp / "a.csv", table.assign(id=range(len(table))))
    write(world, shared_tmp / "t.csv", table[["age", "bought"]])
    data = load_dataset(
        shared_tmp / "a.csv", world, ignore=("id", "job", "w", "code"), test=shared_tmp / "t.csv"
    )
    assert data.feature_names == ("age",) and data.label_name == "bought"
    for shard in (data.train, data.test):
        np.testing.assert_array_equal(together(world, shard)[0][:, 0], table["age"])


def test_missing_values_are_levels(world, shared_tmp):
    table = frame()
    write(world, shared_tmp / "a.csv", table)
    data = load_dataset(shared_tmp / "a.csv", world, missing="level", reference=True)
    X = pandas.DataFrame(together(world, data.train)[0], columns=data.feature_names)
    assert data.feature_names[:2] == ("age", "age=(missing)")
    assert data.feature_names[2:6] == ("job=clerk", "job=nurse", "job=pilot", "job=(missing)")
    np.testing.assert_array_equal(X["age"], table["age"].fillna(0))
    np.testing.assert_array_equal(X["age=(missing)"], table["age"].isna())
    np.testing.assert_array_equal(X["job=(missing)"], table["job"].isna())
    np.testing.assert_array_equal(X["job=nurse"], table["job"] == "nurse")
    assert "job (4 levels, reference baker, and missing values)" in data.encoding.describe()


def test_a_table_with_texts_may_have_numbers_as_labels(world, shared_tmp):
    table = frame().dropna().reset_index(drop=True)
    write(world, shared_tmp / "a.csv", table)
    data = load_dataset(shared_tmp / "a.csv", world, label="age", targets="values")
    np.testing.assert_array_equal(together(world, data.train)[1], table["age"])
    with pytest.raises(InputError, match=r"row 1 .*has the label .*values must be real numbers"):
        load_dataset(shared_tmp / "a.csv", world, label="job", targets="values")


def test_rows_with_missing_values_are_dropped(world, shared_tmp, caplog):
    table, kept = frame(), frame().dropna()
    write(world, shared_tmp / "a.csv", table)
    write(world, shared_tmp / "kept.csv", kept)
    with caplog.at_level(logging.WARNING):
        data = load_dataset(shared_tmp / "a.csv", world, missing="drop")
    assert data.rows == len(kept)
    assert data.fingerprint == load_dataset(shared_tmp / "kept.csv", world).fingerprint
    if world.rank == 0:
        assert f"{len(table) - len(kept)} rows with missing values are left out" in caplog.text
    with pytest.raises(
        InputError, match=r"row \d+ .*the value is missing.*`missing` drop or level"
    ):
        load_dataset(shared_tmp / "a.csv", world)


def test_test_rows_are_encoded_by_name(world, shared_tmp):
    table = frame()
    write(world, shared_tmp / "a.csv", table)
    few = table.iloc[::-7][["bought", "code", "job", "age", "w"]].assign(note="x")
    write(world, shared_tmp / "t.csv", few)
    data = load_dataset(
        shared_tmp / "a.csv", world, test=shared_tmp / "t.csv", label="bought", missing="level"
    )
    train, test = together(world, data.train), together(world, data.test)
    np.testing.assert_array_equal(test[0], train[0][::-7])
    np.testing.assert_array_equal(test[1], train[1][::-7])


BAD = {
    "mixed": ("a,y\n1,0\n2,1\nx,1\n", {}, "row 3 (line 4), column a holds 'x'; encode it as a"),
    "many": (
        "a,b,y\n" + "".join(f"t{i},{i},{i % 2}\n" for i in range(1001)), {},
        "column a has over 1000 different texts; `ignore` it if it is an identifier",
    ),
    "unknown": ("a,y\n1,0\n", {"categories": ("b",)}, "no column is named 'b'; it has a, y"),
    "label": ("a,y\n1,0\n", {"categories": ("y",)}, "y is no feature; leave it out"),
    "weights": ("a,w,y\n1,x,0\n", {"weights": "w"}, "has 'x' in w; weights must be numbers"),
    "negative": ("a,w,y\n1,-1,0\n", {"weights": "w"}, "row 1 has -1 among the weights"),
    "none": ("a,y\n1,0\n", {"weights": "w"}, "no column is named 'w'; it has a, y"),
    "needed": ("a,y\n1,0\n", {"label": "y", "ignore": "y"}, "y is needed; do not ignore it"),
    "mode": ("a,y\n1,0\n", {"missing": "fill"}, "missing must be one of refuse, drop, level"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_tables(world, shared_tmp, name):
    text, options, message = BAD[name]
    if world.rank == 0:
        (shared_tmp / "a.csv").write_text(text)
    world.gather(None)
    with pytest.raises(InputError) as caught:
        load_dataset(shared_tmp / "a.csv", world, **options)
    assert message in str(caught.value)


def test_weights_and_offsets_of_arrays_in_files(world, shared_tmp):
    import h5py

    X, y, w = np.arange(10.0).reshape(5, 2), np.array([0, 1, 1, 0, 1]), np.arange(5)
    if world.rank == 0:
        np.savez(shared_tmp / "a.npz", X=X, y=y, w=w, o=w / 2)
        with h5py.File(shared_tmp / "a.h5", "w") as file:
            file.update({"X": X, "y": y, "w": w, "o": w / 2})
    world.gather(None)
    hashes = set()
    for name in ("a.npz", "a.h5"):
        data = load_dataset(shared_tmp / name, world, weights="w", offset="o")
        np.testing.assert_array_equal(together(world, data.train)[2], w)
        assert math.isclose(data.train.offsets.sum() * 2, data.train.weights.sum())
        hashes.add(data.fingerprint)
    plain = load_dataset(shared_tmp / "a.npz", world).fingerprint
    assert len(hashes) == 1 and plain not in hashes
    for options, message in (
        ({"weights": "nothing"}, "nothing"),
        ({"weights": "X"}, "the weights have shape"),
        ({"missing": "drop"}, "go with CSV files"),
    ):
        with pytest.raises(InputError, match=message):
            load_dataset(shared_tmp / "a.npz", world, **options)
