"""Data sets by name or from files, each rank reading its own rows."""

import os
from pathlib import Path

import numpy as np
import scipy.sparse

from hesscomp.datasets.adult import load_adult
from hesscomp.datasets.arrays import Hdf5Source, NpySource, NpzSource
from hesscomp.datasets.dataset import Dataset, Shard
from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.datasets.labels import agree_on_classes, signs
from hesscomp.datasets.text import CsvSource, LibsvmSource
from hesscomp.datasets.validation import check_finite
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
        Test rows in a file of the same kind.

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
    train = _read(source, world, format, label)
    classes = agree_on_classes(train.labels, train.start, world, train.name)
    shard = train.shard(train.width, classes)
    held_out = None
    if test is not None:
        part = _read(test, world, format, label)
        agree_on_classes(part.labels, part.start, world, part.name, classes)
        if part.width != train.width and not (part.grows and part.width < train.width):
            raise InputError(
                f"{test}: has {part.width} features but {source} has {train.width}; "
                "both files need the same"
            )
        held_out = part.shard(train.width, classes)
    shown = tuple(f"{value:g}" if isinstance(value, float) else value for value in classes)
    return Dataset(
        str(source), shard, held_out, train.width, train.columns, shown, fingerprint(shard, world)
    )


def prefer_dense(n: int, density: float) -> bool:
    """Whether rows with this share of nonzeros are better stored densely.

    A dense product runs at the processor's full rate and a sparse one at a tenth of it or less;
    but rows of text data must never be filled up.
    """
    return density > 0.25 or (n <= 2000 and density > 0.05)


class _Rows:
    """One file's rows on this rank, and what all ranks know of them."""

    def __init__(self, name, X, labels, start, total, width, columns, grows):
        self.name, self.X, self.labels = name, X, labels
        self.start, self.total, self.width = start, total, width
        self.columns, self.grows = columns, grows

    def shard(self, width: int, classes: tuple) -> Shard:
        X = self.X
        if scipy.sparse.issparse(X):
            X = scipy.sparse.csr_array((X.data, X.indices, X.indptr), shape=(X.shape[0], width))
        elif X.shape[1] < width:
            X = np.hstack([X, np.zeros((X.shape[0], width - X.shape[1]))])
        return Shard(X, signs(self.labels, classes), self.start, self.total)


def _read(path, world: World, format: str | None, label: str | None) -> _Rows:
    path = Path(path)
    source, count = None, 0
    with world.phase(f"opening {path.name}"):
        kind = SOURCES[_format(path, format)]
        if not path.exists():
            raise InputError(f"{path}: no such file")
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file")
        source = kind(path, label, world.rank, world.size)
        count = source.count()
    counts = world.gather(count)
    total = source.total(counts)
    if total == 0:
        raise InputError(f"{path}: holds no rows")
    start, stop = row_range(total, world.rank, world.size)
    X = labels = None
    with world.phase(f"reading {path.name}"):
        X, labels = source.read(start, stop, counts)
        check_finite(X, start, str(path), source.columns)
    X, width = source.agree(X, world.gather)
    if scipy.sparse.issparse(X):
        nonzeros = sum(world.gather(X.nnz))
        if prefer_dense(width, nonzeros / max(total * width, 1)):
            dense = aligned_empty((X.shape[0], width), X.dtype)
            X.toarray(out=dense)
            X = dense
    return _Rows(str(path), X, labels, start, total, width, source.columns, source.grows)


def _format(path: Path, format: str | None) -> str:
    if format is not None:
        if format not in SOURCES:
            raise InputError(f"{path}: unknown format {format}; known: {', '.join(SOURCES)}")
        return format
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in COMPRESSED:
        endings.pop()
    if not endings or endings[-1] not in ENDINGS:
        raise InputError(f"{path}: its ending names no format; say --format {'|'.join(SOURCES)}")
    return ENDINGS[endings[-1]]
