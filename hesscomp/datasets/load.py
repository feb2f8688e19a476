"""Data sets by name or from files, each rank reading its own rows."""

import os
from dataclasses import replace
from pathlib import Path

import scipy.sparse

from hesscomp.datasets.adult import load_adult
from hesscomp.datasets.dataset import Dataset, Shard
from hesscomp.datasets.delimited import CsvSource
from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.datasets.hdf5 import Hdf5Source
from hesscomp.datasets.labels import agree_on_classes, class_names, signs
from hesscomp.datasets.libsvm import LibsvmSource
from hesscomp.datasets.numpy_files import NpySource, NpzSource
from hesscomp.errors import InputError
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.runs.memory import aligned_empty

SOURCES = {
    "libsvm": LibsvmSource,
    "csv": CsvSource,
    "hdf5": Hdf5Source,
    "npz": NpzSource,
    "npy": NpySource,
}
ENDINGS = {
    ".svm": "libsvm", ".libsvm": "libsvm", ".svmlight": "libsvm", ".txt": "libsvm",
    ".csv": "csv", ".tsv": "csv", ".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz", ".npy": "npy",
}  # fmt: skip
COMPRESSED = (".gz", ".bz2", ".xz")


def load_dataset(
    source: str | os.PathLike,
    world: World,
    *,
    format: str | None = None,
    label: str | None = None,
    test: str | os.PathLike | None = None,
) -> Dataset:
    """The packaged "adult" data, or a file. Collective; each rank keeps its own rows only.

    Parameters
    ----------
    source : str or path
        "adult", or a file of labelled rows: LIBSVM text, CSV with a header, HDF5 with /X and /y,
        NPZ with X and y, or NPY. Text may be compressed (.gz, .bz2, .xz); every rank then reads
        through all of it.
    format : {"libsvm", "csv", "hdf5", "npz", "npy"}, optional
        By default what the file's ending says.
    label : str, optional
        The label column of a CSV file (default: the last), the data set of an HDF5 or NPZ file
        (default: y), or a .npy file of labels beside a .npy file (default: its last column).
    test : path, optional
        Test rows, in a file with the same columns. (Beside a .npy file with `label`, a .npy file
        whose last column is the label.)

    Raises
    ------
    InputError
        On all ranks, naming file, row and remedy: a missing or damaged file, a row of another
        length, a label outside the two classes, NaN or infinity.

    Notes
    -----
    Rows go to ranks as `row_range` says. Sparse rows stay sparse unless `prefer_dense`.
    """
    if str(source) == "adult":
        if format or label or test:
            raise InputError("the packaged adult data take no format, label or test file")
        return load_adult(world)
    train, reader = _read(source, world, format, label)
    classes = agree_on_classes(train.y, train.start, world, str(source), where=reader.where)
    train = replace(train, y=signs(train.y, classes))
    held_out = None
    if test is not None:
        label = None if isinstance(reader, NpySource) else label
        held_out, other = _read(test, world, format, label, reader)
        agree_on_classes(held_out.y, held_out.start, world, str(test), classes, other.where)
        held_out = replace(held_out, y=signs(held_out.y, classes))
    n, names, hashed = train.X.shape[1], class_names(classes), fingerprint(train, world)
    return Dataset(str(source), train, held_out, n, reader.columns, names, hashed)


def prefer_dense(n: int, density: float) -> bool:
    """Whether rows with this share of nonzeros are better stored densely.

    A dense product runs at the processor's full rate and a sparse one at a tenth of it or less;
    but rows of text data must never be filled up.
    """
    return density > 0.25 or (n <= 2000 and density > 0.05)


def _read(path, world: World, format: str | None, label: str | None, train=None):
    """This rank's rows of a file, labels as they came, and the source that read them.

    `train` is the source of the training data where these are the test data.
    """
    path = Path(path)
    source = X = labels = None
    count = 0
    with world.phase(f"opening {path.name}"):
        kind = SOURCES[_format(path, format)]
        if train is not None and type(train) is not kind:
            raise InputError(f"{path}: is not of the format of {train.path}; both need the same")
        if not path.exists():
            raise InputError(f"{path}: no such file; check the path")
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file")
        source = kind(path, label, world.rank, world.size)
        count = source.count()
    counts = world.gather(count)
    total = source.total(counts)
    if total == 0:
        raise InputError(f"{path}: is empty: it holds no rows")
    start, stop = row_range(total, world.rank, world.size)
    with world.phase(f"reading {path.name}"):
        X, labels = source.read(start, stop, counts)
    X, width = source.agree(X, start, world.gather, train)
    if width == 0:
        raise InputError(f"{path}: holds no features")
    if scipy.sparse.issparse(X):
        nonzeros = sum(world.gather(X.nnz))
        if prefer_dense(width, nonzeros / (total * width)):
            with world.phase(f"filling {path.name} up"):
                dense = aligned_empty(X.shape, X.dtype)
                X = X.toarray(out=dense)
    return Shard(X, labels, start, total), source


def _format(path: Path, format: str | None) -> str:
    if format is not None:
        if format not in SOURCES:
            raise InputError(f"{path}: unknown format {format}; use one of {', '.join(SOURCES)}")
        return format
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in COMPRESSED:
        endings.pop()
    if not endings or endings[-1] not in ENDINGS:
        raise InputError(
            f"{path}: its ending names no format; give format as one of {', '.join(SOURCES)}"
        )
    return ENDINGS[endings[-1]]
