"""Data sets: readers against scikit-learn, NumPy and plain Python, on any number of ranks."""

import bz2
import csv
import gzip
import hashlib
import io
import logging
import lzma
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import block_rows

import hesscomp.datasets
from hesscomp.cli.main import main
from hesscomp.cli.tables import data_table
from hesscomp.datasets import fourier_features, from_arrays, load_dataset, text
from hesscomp.datasets.files import prefer_dense
from hesscomp.datasets.summary import summarize
from hesscomp.errors import InputError
from hesscomp.parallel import random
from hesscomp.parallel.rows import row_block, row_range
from hesscomp.parallel.world import World
from hesscomp.problems.logistic import LogisticRegression

ROWS, WIDTH = 301, 7


@pytest.fixture(scope="module")
def table():
    """X with exact decimals and zeros, and labels."""
    rng = np.random.default_rng(3)
    X = np.round(rng.standard_normal((ROWS, WIDTH)), 3)
    X[rng.random(X.shape) < 0.3] = 0.0
    X[0, -1] = 1.5
    return X, np.where(rng.random(ROWS) < 0.4, 1.0, -1.0)


def on_root(world, write, *arguments):
    """Let rank 0 write; all ranks go on when it is there."""
    if world.rank == 0:
        write(*arguments)
    world.gather(None)


def whole(dataset, world):
    """All ranks' training rows, densely, after checks of this rank's shard."""
    shard = dataset.train
    assert (shard.start, shard.start + len(shard.y)) == row_range(
        shard.total, world.rank, world.size
    )
    assert shard.X.shape == (len(shard.y), dataset.features) and dataset.rows == shard.total
    assert shard.y.dtype == np.float64 and set(shard.y) <= {-1.0, 1.0}
    X = shard.X.toarray() if scipy.sparse.issparse(shard.X) else shard.X
    parts = world.gather((X, shard.y))
    return np.concatenate([X for X, _ in parts]), np.concatenate([y for _, y in parts])


def libsvm_text(X, y, base=1) -> str:
    rows = (
        " ".join([f"{label:g}", *(f"{j + base}:{value:g}" for j, value in enumerate(row) if value)])
        for row, label in zip(X, y, strict=True)
    )
    return "\n".join(rows) + "\n"


def csv_text(X, y, separator=",", at=None, words=None) -> str:
    at = X.shape[1] if at is None else at
    names = [f"f{j}" for j in range(X.shape[1])]
    lines = [separator.join([*names[:at], "target", *names[at:]])]
    for row, label in zip(X, y, strict=True):
        cells = [f"{value:g}" for value in row]
        label = f"{label:g}" if words is None else words[int(label > 0)]
        lines.append(separator.join([*cells[:at], label, *cells[at:]]))
    return "\n".join(lines) + "\n"


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            if scipy.sparse.issparse(value):
                group = file.create_group(name)
                group.attrs["shape"] = value.shape
                for part in ("data", "indices", "indptr"):
                    group[part] = getattr(value, part)
            else:
                file[name] = value


def write_sparse_npz(path, X, y):
    parts = {name: getattr(X, name) for name in ("data", "indices", "indptr", "shape")}
    np.savez_compressed(path, format=b"csr", y=y, **parts)


# Adult


def plain_adult():
    """The encoding again, cell by cell."""
    folder = Path(hesscomp.datasets.__file__).parent / "adult"
    tables = []
    for name in ("adult.data.xz", "adult.test.xz"):
        lines = csv.reader(io.StringIO(lzma.decompress((folder / name).read_bytes()).decode()))
        tables.append([[cell.strip() for cell in line] for line in lines if len(line) == 15])
    train = tables[0]
    encoded = [[[] for _ in rows] for rows in tables]
    names = []
    for column in range(14):
        if column in (0, 2, 4, 10, 11, 12):
            values = np.array([float(row[column]) for row in train])
            mean, deviation = values.mean(), values.std(ddof=0)
            names.append(column)
            for rows, out in zip(tables, encoded, strict=True):
                for row, cells in zip(rows, out, strict=True):
                    cells.append((float(row[column]) - mean) / deviation)
        else:
            categories = sorted({row[column] for row in train})
            names += categories
            for rows, out in zip(tables, encoded, strict=True):
                for row, cells in zip(rows, out, strict=True):
                    cells.extend(1.0 if row[column] == value else 0.0 for value in categories)
    for out in encoded:
        for cells in out:
            cells.append(1.0)
    labels = [np.array([1.0 if row[14][0] == ">" else -1.0 for row in rows]) for rows in tables]
    return [np.array(out) for out in encoded], labels


def test_adult_is_the_documented_encoding():
    adult = load_dataset("adult", World.serial())
    (train, test), (y, y_test) = plain_adult()
    assert adult.features == 109 and adult.rows == 32561 and adult.test.total == 16281
    np.testing.assert_allclose(adult.train.X, train, atol=1e-13)
    np.testing.assert_allclose(adult.test.X, test, atol=1e-13)
    np.testing.assert_array_equal(adult.train.y, y)
    np.testing.assert_array_equal(adult.test.y, y_test)
    assert np.sum(adult.train.y > 0) == 7841 and np.sum(adult.test.y > 0) == 3846
    names = adult.feature_names
    numeric = [j for j, name in enumerate(names) if "=" not in name][:-1]
    assert [names[j] for j in numeric] == [
        "age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week",
    ]  # fmt: skip
    assert np.abs(adult.train.X[:, numeric].mean(axis=0)).max() <= 1e-12
    assert np.abs(adult.train.X[:, numeric].var(axis=0) - 1).max() <= 1e-12
    assert len(names) == len(set(names)) == 109
    assert {"workclass=Private", "native-country=?"} <= set(names) and names[-1] == "ones"
    assert adult.classes == ("<=50K", ">50K")
    assert adult.train.X.dtype == np.float64


@pytest.mark.ranks
def test_adult_on_ranks_is_adult(world):
    adult, alone = load_dataset("adult", world), load_dataset("adult", World.serial())
    assert adult.fingerprint == alone.fingerprint
    for shard, all_rows in ((adult.train, alone.train), (adult.test, alone.test)):
        rows = block_rows(world, shard.total)
        assert shard.start == rows.start
        np.testing.assert_array_equal(shard.X, all_rows.X[rows])
        np.testing.assert_array_equal(shard.y, all_rows.y[rows])


def test_adult_refuses_a_damaged_package(monkeypatch, tmp_path):
    source = Path(hesscomp.datasets.__file__).parent / "adult"
    (tmp_path / "adult").mkdir()
    for file in source.iterdir():
        (tmp_path / "adult" / file.name).write_bytes(file.read_bytes())
    packed = bytearray((tmp_path / "adult" / "adult.test.xz").read_bytes())
    packed[1000] ^= 1
    (tmp_path / "adult" / "adult.test.xz").write_bytes(packed)
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    with pytest.raises(InputError, match="damaged; install hesscomp again"):
        load_dataset("adult", World.serial())


# Readers: every way of storing one table gives that table, on any number of ranks

STORED = {
    "a.svm": lambda path, X, y: path.write_text(libsvm_text(X, y)),
    "zero.libsvm": lambda path, X, y: path.write_text(libsvm_text(X, y, base=0)),
    "a.svmlight.gz": lambda path, X, y: path.write_bytes(gzip.compress(libsvm_text(X, y).encode())),
    "a.txt.bz2": lambda path, X, y: path.write_bytes(bz2.compress(libsvm_text(X, y).encode())),
    "a.csv": lambda path, X, y: path.write_text(csv_text(X, y)),
    "zero-one.csv": lambda path, X, y: path.write_text(csv_text(X, y > 0)),
    "words.csv": lambda path, X, y: path.write_text(csv_text(X, y, words=("ham", "spam"))),
    "quoted.csv": lambda path, X, y: path.write_text(csv_text(X, y, words=('"a,b"', '"c"'))),
    "semicolon.csv": lambda path, X, y: path.write_text(csv_text(X, y, ";")),
    "a.tsv": lambda path, X, y: path.write_text(csv_text(X, y, "\t").replace("\n", "\r\n")),
    "a.csv.xz": lambda path, X, y: path.write_bytes(lzma.compress(csv_text(X, y).encode())),
    "a.h5": lambda path, X, y: write_hdf5(path, X=X, y=y),
    "text.h5": lambda path, X, y: write_hdf5(path, X=X, y=np.where(y > 0, b"yes", b"no")),
    "sparse.hdf5": lambda path, X, y: write_hdf5(path, X=scipy.sparse.csr_array(X), y=y),
    "a.npz": lambda path, X, y: np.savez(path, X=X, y=y),
    "fortran.npz": lambda path, X, y: np.savez(path, X=np.asfortranarray(X), y=y.astype(int)),
    "packed.npz": lambda path, X, y: np.savez_compressed(path, X=X, y=y > 0),
    "sparse.npz": lambda path, X, y: write_sparse_npz(path, scipy.sparse.csr_array(X), y),
    "a.npy": lambda path, X, y: np.save(path, np.c_[X, y]),
}


@pytest.mark.ranks
@pytest.mark.parametrize("name", STORED)
def test_reader(world, shared_tmp, table, name):
    path = shared_tmp / name
    on_root(world, STORED[name], path, *table)
    dataset = load_dataset(path, world)
    X, y = whole(dataset, world)
    np.testing.assert_array_equal(X, table[0])
    np.testing.assert_array_equal(y, table[1])
    assert dataset.name == str(path) and dataset.test is None
    assert dataset.fingerprint == load_dataset(str(path), World.serial()).fingerprint


@pytest.mark.ranks
@pytest.mark.parametrize("batch", [1, 50, 1000])
def test_text_is_cut_at_any_byte(world, shared_tmp, table, monkeypatch, batch):
    """Small batches, comments before the header, blank lines, no newline at the end."""
    monkeypatch.setattr(text, "BATCH_BYTES", batch)
    content = csv_text(*table).replace("\n", "\n\n# a comment, with a comma\n", 40)
    content = "# first\n" * 200 + content.rstrip()
    path = shared_tmp / "a.csv"
    on_root(world, path.write_text, content)
    X, y = whole(load_dataset(path, world), world)
    np.testing.assert_array_equal(X, table[0])
    np.testing.assert_array_equal(y, table[1])


@pytest.mark.ranks
def test_sparse_libsvm_agrees_with_sklearn(world, shared_tmp):
    datasets = pytest.importorskip("sklearn.datasets")
    X = scipy.sparse.random(2000, 5000, density=0.004, random_state=5, format="csr")
    X.data -= 0.5
    path = shared_tmp / "a.svm"
    y = np.where(np.arange(2000) % 3, 1, -1)
    on_root(world, lambda: datasets.dump_svmlight_file(X, y, str(path), zero_based=False))
    dataset = load_dataset(path, world)
    theirs, labels = datasets.load_svmlight_file(str(path))
    shard = dataset.train
    assert scipy.sparse.issparse(shard.X) and isinstance(shard.X, scipy.sparse.csr_array)
    rows = slice(shard.start, shard.start + len(shard.y))
    assert dataset.features == theirs.shape[1]
    assert abs(scipy.sparse.csr_array(theirs[rows]) - shard.X).max() == 0
    np.testing.assert_array_equal(shard.y, labels[rows])
    assert shard.X.indices.dtype == np.int32 and shard.X.has_canonical_format


@pytest.mark.ranks
def test_libsvm_is_lenient_where_nothing_is_lost(world, shared_tmp):
    path = shared_tmp / "a.svm"
    lines = ["# header", "+1 qid:3 3:1.5 1:-2 # a note", "", "0\t2:1e-3 \r", "1", "0 qid:7"]
    on_root(world, path.write_text, "\n".join(lines))
    dataset = load_dataset(path, world)
    X, y = whole(dataset, world)
    np.testing.assert_array_equal(X, [[-2, 0, 1.5], [0, 1e-3, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(y, [1, -1, 1, -1])
    assert dataset.classes == ("0", "1")


@pytest.mark.ranks
def test_more_ranks_than_rows(world, shared_tmp):
    for name, text_ in {"a.csv": "a,b\n2,1\n", "a.svm": "1 2:3\n"}.items():
        on_root(world, (shared_tmp / name).write_text, text_)
        X, y = whole(load_dataset(shared_tmp / name, world), world)
        assert len(X) == 1 and y.tolist() == [1.0]


@pytest.mark.ranks
def test_label_column_names(world, shared_tmp, table):
    X, y = table

    def write():
        (shared_tmp / "a.csv").write_text(csv_text(X, y, at=2))
        write_hdf5(shared_tmp / "a.h5", X=X, target=y)
        np.savez(shared_tmp / "a.npz", X=X, target=y)
        np.save(shared_tmp / "a.npy", X)
        np.save(shared_tmp / "labels.npy", y)

    on_root(world, write)
    labels = dict.fromkeys(("a.csv", "a.h5", "a.npz"), "target")
    for name, label in (labels | {"a.npy": str(shared_tmp / "labels.npy")}).items():
        dataset = load_dataset(shared_tmp / name, world, label=label)
        found = whole(dataset, world)
        np.testing.assert_array_equal(found[0], X)
        np.testing.assert_array_equal(found[1], y)
        if name == "a.csv":
            assert dataset.feature_names == tuple(f"f{j}" for j in range(WIDTH))


def write_images(folder, X, y):
    np.savez(folder / "a.npz", X=X, y=y)
    np.savez(folder / "fortran.npz", X=np.asfortranarray(X), y=y)
    np.savez_compressed(folder / "packed.npz", X=X, y=y)
    np.savez(folder / "flat.npz", X=X.reshape(len(X), -1), y=y)
    write_hdf5(folder / "a.h5", X=X, y=y)
    np.save(folder / "a.npy", X)
    np.save(folder / "y.npy", y)


@pytest.mark.ranks
@pytest.mark.parametrize("shape", [(3, 2), (4, 3, 2), (2, 1, 3, 2)])
def test_rows_of_any_number_of_axes(world, shared_tmp, shape):
    """Sharded by rows, in their shape; the fingerprint is that of the same rows as vectors."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((11, *shape)), rng.integers(0, 2, 11) * 2.0 - 1
    on_root(world, write_images, shared_tmp, X, y)
    flat = load_dataset(shared_tmp / "flat.npz", world)
    rows = block_rows(world, 11)
    for name in ("a.npz", "fortran.npz", "packed.npz", "a.h5", "a.npy"):
        label = str(shared_tmp / "y.npy") if name == "a.npy" else None
        data = load_dataset(shared_tmp / name, world, label=label)
        np.testing.assert_array_equal(data.train.X, X[rows])
        np.testing.assert_array_equal(data.train.y, y[rows])
        assert data.features == np.prod(shape) and data.fingerprint == flat.fingerprint
        summary = summarize(data, world)
        assert summary.shape == shape and f"({' x '.join(map(str, shape))})" in data_table(summary)
        assert summary.nbytes == X.nbytes + y.nbytes
    data = load_dataset(
        shared_tmp / "a.npz", world, test=shared_tmp / "packed.npz", targets="input"
    )
    assert data.test.X.shape[1:] == shape and data.test.y is data.test.X
    with pytest.raises(InputError, match=r"has \d+ features, .*a.npz has rows of shape \d+ x"):
        load_dataset(shared_tmp / "a.npz", world, test=shared_tmp / "flat.npz")
    arrays = from_arrays(X[rows], y[rows], world, test=(X[rows], y[rows]))
    assert arrays.fingerprint == flat.fingerprint and arrays.test.X.shape[1:] == shape
    with pytest.raises(InputError, match=r"has \d+ columns, the training data \d+ x"):
        from_arrays(X[rows], y[rows], world, test=(flat.train.X, y[rows]))
    for refused in (
        lambda: fourier_features(arrays, world, 5, 1.0),
        lambda: LogisticRegression(arrays, world),
    ):
        with pytest.raises(InputError, match=r"takes vectors; store X.reshape\(len\(X\), -1\)"):
            refused()


WRITTEN = {  # text, label, its name and the features' names, and words of the warnings
    "pandas": ("a,b,y\n1.5,2,0\n3,4,1\n", None, "y", ("a", "b"), []),
    "pandas, index": (",a,y\n0,1.5,0\n1,3,1\n", None, "y", ("", "a"),
                      [r"column 1 \(without a name\) becomes a feature; .*index=False"]),
    "pandas, twice": ("Unnamed: 0,a,y\n0,1.5,0\n1,3,1\n", None, "y", ("Unnamed: 0", "a"),
                      ["Unnamed: 0 becomes a feature"]),
    "pandas, tabs": ("\ta\ty\n0\t1.5\t0\n1\t3\t1\n", None, "y", ("", "a"),
                     ["column 1 .* becomes a feature"]),
    "pandas, no names": (",0,1,2,y\n0,1.5,7,8,0\n1,3,7,8,1\n", None, "y", ("", "0", "1", "2"),
                         ["column 1 .* becomes a feature"]),
    "R": ('"","a","y"\n"1",1.5,0\n"2",3,1\n', None, "y", ("", "a"),
          ["becomes a feature; .*row.names=FALSE"]),
    "Excel": ("\ufeff\"Income; net\";b;y\r\n1.5;2;0\r\n3;4;1\r\n", None, "y",
              ("Income; net", "b"), []),
    "comma in a name": ('"a, b";c;y\n1.5;2;0\n3;4;1\n', None, "y", ("a, b", "c"), []),
    "no header": ("5.1,3.5,setosa\n1.5,2,setosa\n3,4,virginica\n", None, "setosa",
                  ("5.1", "3.5"), [r"numbers where names are expected \(5.1, 3.5\); .*no header"]),
    "label first": ("target,a,b\n0,1.5,0\n1,3,1\n", None, "b", ("target", "a"),
                    ["a column is called target, but the label is the last column, b; name"]),
    "label named": ("target,a,b\n0,1.5,0\n1,3,1\n", "target", "target", ("a", "b"), []),
}  # fmt: skip


@pytest.mark.ranks
@pytest.mark.parametrize("name", WRITTEN)
def test_csv_as_programs_write_it(world, shared_tmp, caplog, name):
    content, label, called, features, warnings = WRITTEN[name]
    on_root(world, (shared_tmp / "a.csv").write_bytes, content.encode())
    with caplog.at_level(logging.WARNING):
        data = load_dataset(shared_tmp / "a.csv", world, label=label)
    assert (data.label_name, data.feature_names) == (called, features)
    X, y = whole(data, world)
    assert 1.5 in X[0] and y.tolist() == [-1, 1] and data.rows == 2
    found = [record.getMessage() for record in caplog.records if "hesscomp" in record.name]
    assert len(found) == (len(warnings) if world.rank == 0 else 0)
    for text_, wanted in zip(found, warnings, strict=False):
        assert re.search(wanted, text_) and str(shared_tmp / "a.csv") in text_


@pytest.mark.serial
def test_commands_say_the_label_and_the_features_of_a_csv(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("a,b,c,d,e,f,y\n" + "".join(f"{i},1,2,3,4,5,{i % 2}\n" for i in range(9)))
    for words in (["data", str(path)], ["newton", "--data", str(path)]):
        assert main(words) == 0
        assert "label: y; 6 features: a, b, c, d, ... f\n" in capsys.readouterr().out
    path.with_name("i.csv").write_text(",a,y\n0,2,0\n1,3,1\n")
    assert main(["data", str(path.with_name("i.csv"))]) == 0
    assert "label: y; 2 features: (no name), a\n" in capsys.readouterr().out
    assert main(["data", str(path), "--label", "a", "--targets", "values"]) == 0
    assert "label: a; 6 features: b, c, d, e, ... y\n" in capsys.readouterr().out


@pytest.mark.ranks
def test_types(world, shared_tmp, table):
    X, y = table
    for stored, loaded in {"f4": "f4", ">f4": "f8", "f2": "f8", "i2": "f8", ">f8": "f8"}.items():
        arrays = {"X": np.round(X).astype(stored), "y": y}
        on_root(world, lambda arrays=arrays: np.savez(shared_tmp / "a.npz", **arrays))
        on_root(world, lambda arrays=arrays: write_hdf5(shared_tmp / "a.h5", **arrays))
        for name in ("a.npz", "a.h5"):
            dataset = load_dataset(shared_tmp / name, world)
            assert dataset.train.X.dtype == np.dtype(loaded)
            np.testing.assert_array_equal(whole(dataset, world)[0], np.round(X))


@pytest.mark.ranks
def test_format_overrides_the_ending(world, shared_tmp, table):
    path = shared_tmp / "a.data"
    on_root(world, path.write_text, csv_text(*table))
    assert load_dataset(path, world, format="csv").rows == ROWS
    with pytest.raises(InputError, match="libsvm, csv, hdf5, npz, npy"):
        load_dataset(path, world)


@pytest.mark.ranks
def test_test_rows(world, shared_tmp, table):
    X, y = table
    few, labels = X[:9].copy(), y[:9]
    few[:, [0, -1]] = 0  # as LIBSVM: no index 0 in the test file, and one column less

    def write():
        (shared_tmp / "a.svm").write_text(libsvm_text(X, y > 0, base=0))
        (shared_tmp / "t.svm").write_text(libsvm_text(few, labels > 0, base=0))
        (shared_tmp / "a.csv").write_text(csv_text(X, y, words=("ham", "spam")))
        (shared_tmp / "t.csv").write_text(csv_text(few, labels, words=("ham", "spam")))
        np.save(shared_tmp / "a.npy", X)
        np.save(shared_tmp / "y.npy", y)
        np.save(shared_tmp / "t.npy", np.c_[few, labels])

    on_root(world, write)
    for ending, label in (("svm", None), ("csv", None), ("npy", str(shared_tmp / "y.npy"))):
        files = shared_tmp / f"a.{ending}", shared_tmp / f"t.{ending}"
        test = load_dataset(files[0], world, test=files[1], label=label).test
        rows = block_rows(world, 9)
        assert test.total == 9 and test.start == rows.start
        np.testing.assert_array_equal(test.X, few[rows])
        np.testing.assert_array_equal(test.y, labels[rows])


def test_one_class_is_a_warning(tmp_path, caplog):
    for name, content, classes in (
        ("a.svm", "1 1:2\n1 1:3\n", ("-1", "1")),
        ("b.svm", "0 1:2\n", ("0", "1")),
        ("a.csv", "x,label\n1,yes\n2,yes\n", ("", "yes")),
    ):
        (tmp_path / name).write_text(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            dataset = load_dataset(tmp_path / name, World.serial())
        assert dataset.classes == classes
        assert "all rows have the label" in caplog.text


@pytest.mark.parametrize(
    ("n", "density", "dense"),
    [(2000, 0.06, True), (2001, 0.06, False), (2000, 0.05, False), (10**6, 0.26, True)],
)
def test_prefer_dense(n, density, dense):
    assert prefer_dense(n, density) is dense


@settings(max_examples=60)
@given(data=st.data())
def test_libsvm_round_trip(data, tmp_path_factory):
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    rows = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(["1", "-1", "+1"]),
                st.dictionaries(st.integers(1, 10**6), numbers, max_size=5),
            ),
            min_size=1,
            max_size=30,
        )
    )
    width = max((index for _, row in rows for index in row), default=0)
    path = tmp_path_factory.mktemp("svm") / "a.svm"
    path.write_text(
        "\n".join(" ".join([y, *(f"{i}:{v!r}" for i, v in row.items())]) for y, row in rows)
    )
    if width == 0:
        with pytest.raises(InputError, match="no features"):
            load_dataset(path, World.serial())
        return
    dataset = load_dataset(path, World.serial())
    assert dataset.features == width and dataset.rows == len(rows)
    X = scipy.sparse.csr_array(dataset.train.X)
    for i, (label, row) in enumerate(rows):
        found = X[[i]].tocoo()
        kept = {j + 1: v for j, v in zip(found.col.tolist(), found.data.tolist(), strict=True) if v}
        assert kept == {j: v for j, v in row.items() if v}
        assert dataset.train.y[i] == float(label)


# Bad input: one line that names file, place and remedy

GOOD_SVM = "1 1:2\n-1 1:3\n"
PICKLED = np.array([[1, None], [2, 3]], dtype=object)

TEXT_ERRORS = {
    "empty.svm": ("", "holds no rows"),
    "comments.csv": ("# nothing\n\n", "is empty; the first line must name the columns"),
    "header.csv": ("a,b,label\n", "holds no rows"),
    "no-header.csv": ("1,2,0\n3,4,1\n", "first line holds numbers"),
    "single.csv": ("label\n1\n", "a single column"),
    "short.csv": ("a,b,label\n1,2,0\n\n1,0\n", "row 2 (line 4) has 2 columns, the header 3"),
    "long.csv": ("a,b,label\n1,2,0\n1,2,3,0\n", "row 2 (line 3) has 4 columns, the header 3"),
    "all-long.csv": ("a,label\n1,2,0\n1,3,0\n", "row 1 (line 2) has 3 columns, the header 2"),
    "cell.csv": ("a,b,label\n1,2,0\n1,x,1\n", "row 2 (line 3), column b holds 'x'; encode"),
    "blank.csv": ("a,b,label\n1,,0\n", "row 1 (line 2), column b holds ''; the value is missing"),
    "underscore.csv": ("a,b,label\n1,1_0,no\n", "column b holds '1_0'"),
    "nan.csv": ("a,b,label\n1,2,0\n1,nan,1\n", "column b holds 'nan'; the value is missing: fill"),
    "na.csv": ("a,b,label\n1,2,0\n1,NA,1\n", "row 2 (line 3), column b holds 'NA'; the value is"),
    "question.csv": ("a,b,label\n1, ?,0\n", "column b holds '?'; the value is missing"),
    "excel-error.csv": ("a,label\n1,0\n#N/A,1\n", "row 2 (line 3), column a holds '#N/A'; the"),
    "text.csv": (
        "age,work,label\n1,Private,0\n2,3,1\n",
        "column work holds 'Private'; encode it as a number, or remove the column; where its "
        "numbers are codes, name it among `categories`, or name it if it is the label (`label` wo",
    ),
    "comma.csv": ("a;b;label\n1,5;2;0\n", "column a holds '1,5'; write numbers with a decimal"),
    "sep.csv": ("sep=;\na;label\n1;0\n", "the first line is for Excel alone; remove it"),
    "na-label.csv": ("a,y\n1,yes\n2,NA\n", "row 2 (line 3) has no label: y holds 'NA'"),
    "names.csv": ('"","cyl","am"\n"Mazda RX4",6,1\n', "column 1 (without a name) holds 'Mazda"),
    "write.table.csv": ('"a","y"\n"1",1,0\n', "R's write.table leaves out the name"),
    "inf.csv": ("a,b,label\n-inf,2,yes\n", "row 1 (line 2), column a holds '-inf'; fill it in"),
    "label.csv": ("a,label\n1,0\n1,1\n1,7\n", "has the label 7; labels must be"),
    "third.csv": ("a,label\n1,x\n1,x\n1,y\n1,z\n1,z\n", "row 3 (line 4) has the label 'y'"),
    "mixed.csv": ("a,label\n1,x\n1,x\n1,1\n", "has the label 'x'; labels must be"),
    "unlabelled.csv": ("a,label\n1,x\n1,\n", "row 2 (line 3) has no label"),
    "long-label.csv": (f"a,label\n1,x\n1,{'y' * 201}\n", "row 2 (line 3) has a label of over 200"),
    "nan-label.csv": ("a,label\n1,0\n1,nan\n", "row 2 (line 3) has no label: label holds 'nan'"),
    "latin.csv": (b"a,b,label\n1,2,0\n1,\xe9,1\n", "row 2 (line 3) is not CSV in UTF-8"),
    "latin-header.csv": (b"\xe9,label\n1,0\n", "the header is not CSV in UTF-8"),
    "token.svm": ("1 1:2\n\n-1 1:3 4\n", "row 2 (line 3) has '4'; write label index:value"),
    "value.svm": ("1 1:2\n-1 1:x\n", "row 2 (line 2) has 'x', which is not a number"),
    "missing.svm": ("1 1:2\n-1 1:\n", "row 2 (line 2) has '1:'"),
    "no-label.svm": ("1 1:2\n1:3 2:4\n", "row 2 (line 2) has no label before '1:3'"),
    "negative.svm": ("1 1:2\n-1 -1:3\n", "row 2 (line 2) has '-1:3'"),
    "twice.svm": ("1 1:2\n-1 2:3 1:1 2:4\n", "row 2 (line 2) has the index 2; give each index"),
    "huge.svm": ("1 1:2\n-1 2147483648:3\n", "row 2 (line 2) has the index 2147483648"),
    "nan.svm": ("1 1:2\n-1 3:nan\n", "row 2 (line 2) has the index 3; its value is not finite"),
    "label.svm": ("1 1:2\n-1 1:3\n\n3 1:1\n", "row 3 (line 4) has the label 3; labels must be"),
    "words.svm": ("1 1:2\nyes 1:3\n", "row 2 (line 2) has 'yes', which is not a number"),
    "binary.svm": (bytes(range(256)) * 4, "write label index:value"),
    "nothing.svm": ("1\n-1\n", "holds no features"),
    "cut.csv.gz": (gzip.compress(b"a,label\n1,0\n" * 50)[:-9], "is damaged or cut short"),
    "cut.svm.bz2": (bz2.compress(GOOD_SVM.encode())[:-9], "is damaged or cut short"),
    "cut.svm.xz": (lzma.compress(GOOD_SVM.encode())[:-9], "is damaged or cut short"),
    "no.csv.gz": (b"a,label\n1,0\n", "is damaged or cut short"),
    "no.svm.bz2": (b"1 1:2\n", "is damaged or cut short"),
    "a.dat": ("1 1:2\n", "its ending names no format; give format as one of libsvm, csv"),
}


def forged_npz(path, claim, X=b""):
    """An archive whose X claims a shape that its bytes do not hold."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {claim}, }}".encode()
    npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + X
    labels = io.BytesIO()
    np.save(labels, np.ones(3))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X.npy", npy)
        archive.writestr("y.npy", labels.getvalue())


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("y.npy", bytes(2**22))


def cut(path, write, keep):
    write(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def save_csr(path, parts, y=(0, 1), shape=(2, 3), kind="csr"):
    names = ("data", "indices", "indptr")
    arrays = dict(zip(names, map(np.array, parts), strict=True))
    np.savez(path, y=np.array(y), shape=shape, format=kind, **arrays)


ONES = np.ones((3, 2))
Y = np.array([0, 1, 1])
ARRAY_ERRORS = {
    "missing-x.h5": (lambda p: write_hdf5(p, y=Y), "/X is missing"),
    "missing-y.h5": (lambda p: write_hdf5(p, X=ONES), "/y is missing"),
    "lengths.h5": (lambda p: write_hdf5(p, X=ONES, y=Y[:2]), "X has 3 rows but the labels have"),
    "flat.h5": (lambda p: write_hdf5(p, X=ONES[0], y=Y), "X has 1 dimensions"),
    "text.h5": (lambda p: write_hdf5(p, X=[["a", "b"]] * 3, y=Y), "X has type"),
    "variable.h5": (lambda p: write_hdf5(p, X=ONES, y=["a", "b", "a"]), "variable length"),
    "rows.h5": (lambda p: write_hdf5(p, X=ONES[:0], y=Y[:0]), "holds no rows"),
    "group.h5": (lambda p: h5py.File(p, "w").create_group("X").file.create_dataset("y", data=Y),
                 "needs an attribute shape"),
    "cut.h5": (lambda p: cut(p, lambda q: write_hdf5(q, X=np.ones((99, 99)), y=np.ones(99)), 0.5),
               "cannot be read as a data file"),
    "not.h5": (lambda p: p.write_text("hello"), "cannot be read as a data file"),
    "claims.h5": (lambda p: h5py.File(p, "w").create_dataset("y", (10**12,)), "claims"),
    "nan.h5": (lambda p: write_hdf5(p, X=[[1, 2], [3, np.nan], [1, 1]], y=Y),
               "row 2, column 2 holds nan; fill it in"),
    "nan.npz": (lambda p: np.savez(p, X=np.array([[1, 2], [3, 4], [np.inf, 1]], "f4"), y=Y),
                "row 3, column 1 holds inf; fill it in"),
    "missing.npz": (lambda p: np.savez(p, A=ONES, y=Y), "has no array 'X'; it has A, y"),
    "no-labels.npz": (lambda p: np.savez(p, X=ONES), "has no array 'y'; it has X"),
    "lengths.npz": (lambda p: np.savez(p, X=ONES, y=Y[:2]), "X has 3 rows but the labels have"),
    "cube.npz": (lambda p: np.savez(p, X=ONES[None], y=Y), "X has 1 rows but the labels have"),
    "no-axis.npz": (lambda p: np.savez(p, X=np.ones((3, 2, 0)), y=Y), "holds no features"),
    "huge-axis.npz": (lambda p: forged_npz(p, "(3, 100000, 100000, 0)"), "holds no features"),
    "axes.npz": (lambda p: forged_npz(p, "(3, 1000, 1000, 1000000)"), "is cut short"),
    "inf-images.npz": (lambda p: np.savez(p, X=np.full((3, 2, 2), np.inf), y=Y),
                       "row 1, entry (1, 1) holds inf; fill it in"),
    "complex.npz": (lambda p: np.savez(p, X=1j * ONES, y=Y), "X has type complex128"),
    "complex-y.npz": (lambda p: np.savez(p, X=ONES, y=1j * Y), "the labels have type complex128"),
    "label.npz": (lambda p: np.savez(p, X=ONES, y=[0, 1, 5]), "row 3 has the label 5"),
    "pickle.npz": (lambda p: np.savez(p, X=PICKLED, y=Y), "holds Python objects"),
    "forged.npz": (lambda p: forged_npz(p, "(3, 10000000000000)"), "is cut short"),
    "negative.npz": (lambda p: forged_npz(p, "(3, -5)"), "is cut short"),
    "strange.npz": (lambda p: forged_npz(p, "'no'"), "cannot be read as NPZ"),
    "bomb.npz": (bomb, "y.npy is packed otherwise than by deflate"),
    "cut.npz": (lambda p: cut(p, lambda q: np.savez(q, X=ONES, y=Y), 0.6), "cannot be read as NPZ"),
    "not.npz": (lambda p: p.write_text("hello"), "cannot be read as NPZ"),
    "csc.npz": (lambda p: save_csr(p, ([1.0], [0], [0, 1, 1]), kind="csc"), "not CSR"),
    "indptr.npz": (lambda p: save_csr(p, ([1.0], [0], [0, 3, 1])), "indptr does not fit"),
    "short.npz": (lambda p: save_csr(p, ([1.0], [0], [0, 1])), "not a CSR matrix of 2 rows"),
    "index.npz": (lambda p: save_csr(p, ([1.0], [3], [0, 0, 1])), "row 2 has the column index 3"),
    "float.npz": (lambda p: save_csr(p, ([1.0], [0.0], [0, 0, 1])), "integer indices"),
    "shape.npz": (lambda p: save_csr(p, ([1.0], [0], [0, 0, 1]), shape=4), "cannot be read as NPZ"),
    "flat.npy": (lambda p: np.save(p, Y), "store rows with the label as last column"),
    "images.npy": (lambda p: np.save(p, np.ones((3, 2, 2))), "or give label, a .npy file"),
    "pickle.npy": (lambda p: np.save(p, PICKLED), "holds Python objects"),
    "cut.npy": (lambda p: cut(p, lambda q: np.save(q, np.ones((50, 3))), 0.8), "is cut short"),
    "not.npy": (lambda p: p.write_text("hello"), "cannot be read as NPY"),
    "rows.npy": (lambda p: np.save(p, np.ones((0, 3))), "holds no rows"),
}  # fmt: skip


def one_line_error(path, world, **options) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(path, world, **options)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    assert len(set(world.gather(message))) == 1
    return message


@pytest.mark.ranks
def test_an_index_beyond_memory_is_refused(world, shared_tmp, monkeypatch):
    monkeypatch.setattr("hesscomp.datasets.libsvm.available_bytes", lambda: 10**6)
    path = shared_tmp / "a.svm"
    if world.rank == 0:
        path.write_text("1 1:2\n-1 40000:3\n")
    world.gather(None)
    with pytest.raises(InputError, match="the index 40000, and vectors of so many"):
        load_dataset(path, world)


@pytest.mark.ranks
@pytest.mark.parametrize("name", TEXT_ERRORS)
def test_bad_text(world, shared_tmp, name):
    content, expected = TEXT_ERRORS[name]
    content = content.encode() if isinstance(content, str) else content
    on_root(world, (shared_tmp / name).write_bytes, content)
    assert expected in one_line_error(shared_tmp / name, world)


@pytest.mark.ranks
@pytest.mark.parametrize("name", ARRAY_ERRORS)
def test_bad_arrays(world, shared_tmp, name):
    write, expected = ARRAY_ERRORS[name]
    on_root(world, write, shared_tmp / name)
    assert expected in one_line_error(shared_tmp / name, world)


@pytest.mark.ranks
def test_bad_paths_and_options(world, shared_tmp):
    on_root(world, (shared_tmp / "a.csv").write_text, "a,b,b\n1,2,0\n")
    on_root(world, (shared_tmp / "folder.csv").mkdir)
    assert "no such file" in one_line_error(shared_tmp / "none.csv", world)
    assert "is a folder" in one_line_error(shared_tmp / "folder.csv", world)
    assert "unknown format arff" in one_line_error(shared_tmp / "a.csv", world, format="arff")
    message = one_line_error(shared_tmp / "a.csv", world, label="c")
    assert "no column is named 'c'; it has a, b, b" in message
    assert "more than one column" in one_line_error(shared_tmp / "a.csv", world, label="b")
    with pytest.raises(InputError, match="adult data take no"):
        load_dataset("adult", world, label="age")


BAD_TESTS = {
    "index.svm": ("1 1:2 3:1\n-1 1:3\n", "1 2:2\n\n-1 3:1 4:2\n",
                  "row 2 (line 3) has the index 4; the training data have 1 to 3"),
    "zero.svm": ("1 1:2\n-1 1:3\n", "1 0:2\n", "row 1 (line 1) has the index 0"),
    "label.svm": (GOOD_SVM, "1 1:1\n0 1:1\n",
                  "row 2 (line 2) has the label 0; the training data have -1 and 1"),
    "words.csv": ("a,label\n1,x\n2,y\n", "a,label\n1,x\n2,z\n",
                  "row 2 (line 3) has the label 'z'; the training data have x and y"),
    "columns.csv": ("a,b,label\n1,2,0\n", "b,label\n2,0\n",
                    "no column is named 'a', which the training data have; it has b, label"),
    "level.csv": ("job,label\nx,0\ny,1\n", "label,job\n0,x\n1,z\n",
                  "row 2 (line 3), column job holds 'z', which the training data do not have; "
                  "they have x, y"),
    "gap.csv": ("a,label\n1,0\n", "a,label\n,0\n",
                "row 1 (line 2), column a holds '', a missing value, and the training data have"),
    "slip.csv": ("a,label\n1,0\n", "a,label\nx,0\n",
                 "column a holds 'x'; the training data have numbers there"),
}  # fmt: skip


@pytest.mark.ranks
@pytest.mark.parametrize("name", BAD_TESTS)
def test_bad_test_files(world, shared_tmp, name):
    train, test, expected = BAD_TESTS[name]
    on_root(world, (shared_tmp / name).write_text, train)
    bad = shared_tmp / f"test-{name}"
    on_root(world, bad.write_text, test)
    with pytest.raises(InputError) as caught:
        load_dataset(shared_tmp / name, world, test=bad)
    assert str(bad) in str(caught.value) and expected in str(caught.value)


@pytest.mark.ranks
def test_the_first_bad_row_is_named_whichever_rank_has_it(world, shared_tmp):
    rows = ["1 1:2"] * 600
    rows[300] = rows[430] = "1 1:z"
    on_root(world, (shared_tmp / "a.svm").write_text, "\n\n".join(rows))
    assert "row 301 (line 601)" in one_line_error(shared_tmp / "a.svm", world)


# Arrays


@pytest.mark.ranks
def test_from_arrays_any_cut(world, table):
    X, y = table
    alone = from_arrays(X, y, World.serial(), test=(X[:5], y[:5]))
    assert alone.name == "arrays" and alone.test.total == 5 and alone.classes == ("-1", "1")
    for sizes in cuts(world.size):
        edges = np.concatenate([[0], np.cumsum(sizes)])
        rows = slice(edges[world.rank], edges[world.rank + 1])
        for kind in (np.asarray, scipy.sparse.csr_array, np.float32):
            part, reference = kind(X[rows]), from_arrays(kind(X), y, World.serial())
            dataset = from_arrays(part, y[rows], world)
            assert dataset.fingerprint == reference.fingerprint
            assert dataset.train.start == rows.start and dataset.rows == ROWS
    assert len({from_arrays(kind(X), y, World.serial()).fingerprint
                for kind in (np.asarray, scipy.sparse.csr_array, np.float32)}) == 3  # fmt: skip


def cuts(size):
    """Rows on each rank: all on one, none on the first, uneven, one each and the rest."""
    yield [ROWS, *[0] * (size - 1)]
    yield [*[0] * (size - 1), ROWS]
    uneven = [ROWS * (r + 1) ** 2 // sum((s + 1) ** 2 for s in range(size)) for r in range(size)]
    yield [*uneven[:-1], ROWS - sum(uneven[:-1])]
    yield [*[1] * (size - 1), ROWS - size + 1]


def test_fingerprint_is_the_documented_hash(table):
    X, y = table
    found = from_arrays(X, y, World.serial()).fingerprint
    hashes, step = [], row_block(ROWS)
    for first in range(0, ROWS, step):
        block = X[first : first + step].astype("<f8"), y[first : first + step].astype("<f8")
        hashes.append(hashlib.sha256(block[0].tobytes() + block[1].tobytes()).digest())
    header = f"float64 {ROWS} x {WIDTH}\n".encode()
    assert found == "sha256:" + hashlib.sha256(header + b"".join(hashes)).hexdigest()
    changed = X.copy()
    changed[-1, 0] += 1e-9
    assert from_arrays(changed, y, World.serial()).fingerprint != found
    assert from_arrays(X, -y, World.serial()).fingerprint != found


@pytest.mark.ranks
def test_an_empty_rank_takes_the_others_form(world):
    here = 0 if world.rank == world.size - 1 and world.size > 1 else 4
    X = scipy.sparse.csr_array(np.eye(4)) if here else np.empty((0, 4), np.float32)
    dataset = from_arrays(X, np.ones(here), world)
    assert scipy.sparse.issparse(dataset.train.X) and dataset.train.X.dtype == np.float64


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("X", "y", "expected"),
    [
        (np.ones(3), np.ones(3), "1 dimensions"),
        (np.ones((3, 2)), np.ones(2), r"X has 3 rows but y has shape \(2,\)"),
        (np.array([["a"]]), np.ones(1), "pass real numbers"),
        (np.array([[1.0, np.nan]]), np.ones(1), "row 1, column 2 holds nan"),
        (np.ones((2, 2)), np.array([1.0, 3.0]), "row . has the label 3"),
        (np.ones((2, 2)), np.array([None, 1]), "the labels have type object"),
        (np.ones((0, 2)), np.ones(0), "no rank holds a row"),
        (np.ones((2, 0)), np.ones(2), "has no columns"),
    ],
)
def test_bad_arrays_in_memory(world, X, y, expected):
    with pytest.raises(InputError, match=expected):
        from_arrays(X, y, world)


@pytest.mark.ranks
def test_ranks_that_do_not_fit_together(world):
    if world.size == 1:
        pytest.skip("needs several ranks")
    width = 3 if world.rank else 2
    with pytest.raises(InputError, match="different widths or types"):
        from_arrays(np.ones((2, width)), np.ones(2), world)
    with pytest.raises(InputError, match="different widths or types"):
        from_arrays(np.ones((2, 2), "f4" if world.rank else "f8"), np.ones(2), world)
    bad = np.array([[np.nan if world.rank == 1 else 1.0]])
    with pytest.raises(InputError, match=r"rank 1, .* row 2, column 1 holds nan"):
        from_arrays(bad, np.ones(1), world)


def test_csr_is_canonical_and_the_given_one_untouched():
    X = scipy.sparse.csr_array(([1.0, 2.0, 3.0], [2, 0, 2], [0, 3]), shape=(1, 3))
    dataset = from_arrays(X, [1], World.serial())
    np.testing.assert_array_equal(dataset.train.X.toarray(), [[2, 0, 4]])
    assert dataset.train.X.has_canonical_format and X.nnz == 3


# Targets

LABELS = {
    "digits": np.arange(ROWS) % 7,
    "letters": np.array(list("bca"))[np.arange(ROWS) % 3],
    "gap": np.array([-4, 900, 17])[np.arange(ROWS) % 3],
}


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("labels", "classes", "numbers", "warned"),
    [
        ([0, 2, 2, 0], ("0", "1", "2"), [0, 2, 2, 0], False),
        ([1, 3, 2, 1], ("1", "2", "3"), [0, 2, 1, 0], True),
        ([-1, 0, 2, 2], ("-1", "0", "2"), [0, 1, 2, 2], True),
        ([0, 5000, 0, 5000], ("0", "5000"), [0, 1, 0, 1], True),
    ],
)
def test_class_numbers_stay_or_a_warning_says_what_they_become(
    world, caplog, labels, classes, numbers, warned
):
    """A subset of the rows, in which a class does not occur, keeps the numbers of the others."""
    rows = block_rows(world, 4)
    with caplog.at_level("WARNING"):
        data = from_arrays(np.eye(4)[rows], np.array(labels)[rows], world, targets="classes")
    assert data.classes == classes and data.train.y.tolist() == numbers[rows]
    told = f"{classes[0]} is class 0, {classes[-1]} is class {len(classes) - 1}" in caplog.text
    assert told == (warned and world.rank == 0)


@pytest.mark.parametrize(
    ("shape", "remedy"), [((3, 1), r"a row: y\.ravel\(\)$"), ((2,), "one label a row$")]
)
def test_labels_of_another_shape_get_their_remedy(tmp_path, shape, remedy):
    np.savez(tmp_path / "d.npz", X=np.ones((3, 2)), y=np.zeros(shape))
    with pytest.raises(InputError, match=remedy):
        load_dataset(tmp_path / "d.npz", World.serial(), targets="classes")


@pytest.mark.ranks
@pytest.mark.parametrize("labels", LABELS)
def test_classes(world, shared_tmp, table, labels):
    X, y = table[0], LABELS[labels]
    expected, names = np.searchsorted(np.unique(y), y), tuple(map(str, np.unique(y)))

    def write():
        shape = [f"{value:g}" for value in X[:, 0]], y.tolist()
        rows = "".join(f"{x},{label}\n" for x, label in zip(*shape, strict=True))
        (shared_tmp / "a.csv").write_text("x,label\n" + rows)
        (shared_tmp / "t.csv").write_text(f"x,label\n1,{y[1]}\n")
        (shared_tmp / "bad.csv").write_text(f"x,label\n1,{y[0]}\n1,3000\n")
        write_hdf5(shared_tmp / "a.h5", X=X, y=y.astype("S") if y.dtype.kind == "U" else y)

    on_root(world, write)
    for name in ("a.csv", "a.h5"):
        data = load_dataset(shared_tmp / name, world, targets="classes")
        rows = block_rows(world, ROWS)
        assert data.targets == "classes" and data.classes == names
        assert data.train.y.dtype == np.int64
        np.testing.assert_array_equal(data.train.y, expected[rows])
        counts = summarize(data, world).counts
        assert counts == tuple(np.bincount(expected).tolist())
    csv_file = shared_tmp / "a.csv"
    test = load_dataset(csv_file, world, targets="classes", test=shared_tmp / "t.csv").test
    assert world.gather(test.y.tolist())[-1] == [expected[1]]
    with pytest.raises(InputError, match=r"row 2 \(line 3\) has the label .?3000.?; the training"):
        load_dataset(csv_file, world, targets="classes", test=shared_tmp / "bad.csv")
    for sizes in cuts(world.size):
        start = sum(sizes[: world.rank])
        part = slice(start, start + sizes[world.rank])
        cut_here = from_arrays(X[part], y[part], world, targets="classes")
        np.testing.assert_array_equal(cut_here.train.y, expected[part])
        assert (
            cut_here.fingerprint
            == load_dataset(shared_tmp / "a.h5", World.serial(), targets="classes").fingerprint
        )


@pytest.mark.ranks
def test_values_and_rows_as_targets(world, table):
    X, Y = table[0], table[0][:, :3] - 0.5
    alone = from_arrays(X, Y, World.serial(), targets="values", test=(X[:4], Y[:4]))
    assert alone.train.y.shape == (ROWS, 3) and alone.test.y.shape == (4, 3)
    assert alone.classes == () and alone.targets == "values"
    itself = from_arrays(X, None, World.serial(), targets="input", test=(X[:4], None))
    assert itself.train.y is itself.train.X and itself.test.y is itself.test.X
    assert itself.train.nbytes == X.nbytes and itself.fingerprint != alone.fingerprint
    assert summarize(itself, World.serial()).counts == ()
    for sizes in cuts(world.size):
        start = sum(sizes[: world.rank])
        rows = slice(start, start + sizes[world.rank])
        values = from_arrays(X[rows], Y[rows], world, targets="values")
        np.testing.assert_array_equal(values.train.y, Y[rows])
        assert values.fingerprint == alone.fingerprint
        found = from_arrays(X[rows], None, world, targets="input")
        assert found.fingerprint == itself.fingerprint and found.train.y is found.train.X
    with pytest.raises(InputError, match="cannot be lifted"):
        fourier_features(itself, World.serial(), 5, 1.0)


def test_the_fingerprint_of_rows_as_targets_is_the_documented_hash(table):
    X = table[0].astype(np.float32)
    found = from_arrays(X, None, World.serial(), targets="input").fingerprint
    step = row_block(ROWS)
    blocks = [X[first : first + step].astype("<f4").tobytes() for first in range(0, ROWS, step)]
    hashes = b"".join(hashlib.sha256(block).digest() for block in blocks)
    header = f"float32 {ROWS} x {WIDTH} to itself\n".encode()
    assert found == "sha256:" + hashlib.sha256(header + hashes).hexdigest()


@pytest.mark.ranks
def test_adult_with_other_targets(world):
    signs = load_dataset("adult", world)
    classes = load_dataset("adult", world, targets="classes", dtype="float32")
    np.testing.assert_array_equal(classes.train.y, signs.train.y > 0)
    np.testing.assert_array_equal(classes.train.X, signs.train.X.astype(np.float32))
    assert classes.classes == signs.classes and classes.train.y.dtype == np.int64
    itself = load_dataset("adult", world, targets="input")
    assert itself.test.y is itself.test.X


@pytest.mark.ranks
def test_dtype_of_files(world, shared_tmp, table):
    X, y = table
    on_root(world, (shared_tmp / "a.csv").write_text, csv_text(X, y))
    on_root(world, lambda: np.savez(shared_tmp / "a.npz", X=X, y=y))
    for name in ("a.csv", "a.npz"):
        shard = load_dataset(shared_tmp / name, world, dtype="float32").train
        assert shard.X.dtype == np.float32
        np.testing.assert_array_equal(shard.X, X[block_rows(world, ROWS)].astype(np.float32))


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("y", "targets", "expected"),
    [
        ([0.0, 1.5], "classes", "row 2 has the label 1.5; classes .*take them as values"),
        ([0.0, np.nan], "classes", "row 2 has the label nan; classes must be all integers or all"),
        (["a", "3"], "classes", "row 1 has the label 'a'; classes must be all .*recode them$"),
        ([0.0, 1.0, 7.0], "signs", r"label 7; .*take them as classes \(`targets` classes\)"),
        (["a", ""], "classes", "row 2 has the label ''; classes must be all"),
        (np.arange(1001), "classes", "more than 1000 distinct labels; are they classes"),
        (["a", "b"], "values", "label 'a'; values must be real numbers: .*`targets` classes"),
        ([0.0, np.inf], "values", r"\(labels\): row 2, column 1 holds inf"),
        (np.ones((2, 2, 2)), "values", r"y has shape \(2, 2, 2\)"),
        (np.ones((2, 2)), "classes", r"y has shape \(2, 2\)"),
        ([0.0, 1.0], "input", "pass None for y"),
        ([0.0, 1.0], "rows", "unknown targets rows; use one of signs, classes, values, input"),
    ],
)
def test_bad_targets(world, y, targets, expected):
    y = np.array(y)
    with pytest.raises(InputError, match=expected):
        from_arrays(np.ones((len(y), 2)), y, world, targets=targets)


def test_rows_as_targets_are_dense_and_outputs_agree():
    sparse = scipy.sparse.csr_array(np.eye(3))
    with pytest.raises(InputError, match="must be dense"):
        from_arrays(sparse, None, World.serial(), targets="input")
    test = np.ones((3, 2)), np.ones((3, 2))
    with pytest.raises(InputError, match="other outputs a row"):
        from_arrays(np.ones((3, 2)), np.ones(3), World.serial(), test=test, targets="values")


# Fourier features


def fourier_by_definition(X, count, bandwidth, seed):
    W = random.standard_normal(seed, random.FEATURE_WEIGHTS, (0, count), (0, X.shape[1]))
    b = random.uniform(seed, random.FEATURE_PHASES, (0, count), (0, 1))[:, 0] * 2 * np.pi
    return np.sqrt(2 / count) * np.cos(X @ W.T / bandwidth + b)


@pytest.mark.ranks
@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array])
def test_fourier_features_on_any_cut(world, table, kind):
    X, y = table
    base = from_arrays(kind(X), y, World.serial(), test=(kind(X[:9]), y[:9]))
    alone = fourier_features(base, World.serial(), 50, 1.3, seed=4)
    np.testing.assert_allclose(alone.train.X, fourier_by_definition(X, 50, 1.3, 4), atol=1e-14)
    np.testing.assert_array_equal(alone.test.X, alone.train.X[:9])
    assert alone.features == 50 and alone.fingerprint != base.fingerprint
    assert "Fourier" in alone.name and alone.feature_names is None
    for sizes in cuts(world.size):
        start = sum(sizes[: world.rank])
        rows = slice(start, start + sizes[world.rank])
        lifted = fourier_features(from_arrays(kind(X[rows]), y[rows], world), world, 50, 1.3, 4)
        np.testing.assert_array_equal(lifted.train.X, alone.train.X[rows])  # bit by bit
        assert lifted.fingerprint == alone.fingerprint


def test_fourier_features_approximate_the_gaussian_kernel(table):
    X, y = table
    base = from_arrays(X[:40], y[:40], World.serial())
    Z = fourier_features(base, World.serial(), 20000, 2.0, dtype="float32").train.X
    assert Z.dtype == np.float32
    squares = ((X[:40, None] - X[None, :40]) ** 2).sum(axis=2)
    assert np.abs(Z @ Z.T - np.exp(-squares / 8)).max() <= 0.05


def test_fourier_fingerprint_says_the_parameters(table):
    base = from_arrays(*table, World.serial())
    options = [(8, 1.0, 0, "float64"), (9, 1.0, 0, "float64"), (8, 2.0, 0, "float64"),
               (8, 1.0, 1, "float64"), (8, 1.0, 0, "float32")]  # fmt: skip
    prints = {fourier_features(base, World.serial(), *each).fingerprint for each in options}
    assert len(prints) == len(options)
    same = fourier_features(base, World.serial(), 8, 1).fingerprint
    assert same in prints


@pytest.mark.parametrize(
    ("count", "bandwidth", "seed", "dtype", "expected"),
    [
        (0, 1.0, 0, "float64", "number of Fourier features"),
        (5, 0.0, 0, "float64", "bandwidth must be"),
        (5, float("nan"), 0, "float64", "bandwidth must be"),
        (5, float("inf"), 0, "float64", "bandwidth must be"),
        (5, 1.0, -1, "float64", "seed must be"),
        (5, 1.0, 0, "float16", "must be float32 or float64"),
    ],
)
def test_bad_fourier_parameters(table, count, bandwidth, seed, dtype, expected):
    base = from_arrays(*table, World.serial())
    with pytest.raises(InputError, match=expected):
        fourier_features(base, World.serial(), count, bandwidth, seed, dtype)


# Summary


@pytest.mark.ranks
@pytest.mark.parametrize("sparse", [False, True])
def test_summary(world, table, sparse):
    X, y = table
    rows = block_rows(world, ROWS)
    part = scipy.sparse.csr_array(X[rows]) if sparse else X[rows]
    dataset = from_arrays(part, y[rows], world, name="t", test=(part, y[rows]))
    summary = summarize(dataset, world, ranks=5)
    assert (summary.name, summary.rows, summary.features) == ("t", ROWS, WIDTH)
    assert summary.test_rows == ROWS and summary.dtype == "float64"
    assert summary.counts == (np.sum(y < 0), np.sum(y > 0)) and summary.classes == ("-1", "1")
    assert summary.density == np.count_nonzero(X) / X.size
    assert summary.storage == ("sparse" if sparse else "dense")
    assert summary.fingerprint == dataset.fingerprint and summary.feature_names is None
    ranges = [row_range(ROWS, rank, 5) for rank in range(5)]
    assert summary.shard_rows == tuple(stop - start for start, stop in ranges)
    assert len(summary.shard_bytes) == 5
    if not sparse:
        assert summary.nbytes == X.nbytes + y.nbytes
    assert len(summarize(dataset, world).shard_rows) == world.size
    with pytest.raises(InputError, match="at least 1"):
        summarize(dataset, world, ranks=0)
