"""Files of labelled rows, of which each rank reads its own."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import scipy.sparse

from hesscomp.datasets.array_files import Hdf5Source, NpySource, NpzSource
from hesscomp.datasets.arrays import ArraySource
from hesscomp.datasets.dataset import Dataset, Shard, aligned_empty, with_columns
from hesscomp.datasets.delimited import CsvSource
from hesscomp.datasets.encoding import Encoding
from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.datasets.idx import IDX_NAME, IdxSource
from hesscomp.datasets.libsvm import LibsvmSource
from hesscomp.datasets.reading import Reading
from hesscomp.datasets.targets import class_names, with_targets
from hesscomp.datasets.text import OPENERS, TextSource
from hesscomp.datasets.validation import row_size
from hesscomp.errors import InputError
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World

log = logging.getLogger(__name__)

READING = Reading()

SOURCES: dict[str, type[TextSource] | type[ArraySource]] = {
    "libsvm": LibsvmSource,
    "csv": CsvSource,
    "hdf5": Hdf5Source,
    "npz": NpzSource,
    "npy": NpySource,
    "idx": IdxSource,
}
ENDINGS = {
    ".svm": "libsvm", ".libsvm": "libsvm", ".svmlight": "libsvm", ".txt": "libsvm",
    ".csv": "csv", ".tsv": "csv", ".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz", ".npy": "npy",
    ".idx": "idx",
}  # fmt: skip


def load_file(
    source: str | os.PathLike, world: World, *, format: str | None = None,
    reading: Reading = READING, test: str | os.PathLike | None = None, targets: str | None = None,
    dtype: str | None = None, name: str | None = None,
) -> Dataset:  # fmt: skip
    """Load a file of labelled rows; see `load_dataset` for the arguments. Collective.

    `name` is what to call the data set, by default the file as it was named.
    """
    called = str(source) if name is None else name
    train, reader = _read(source, world, format, reading, dtype)
    if world.rank == 0:
        for doubt in reader.doubts():
            log.warning("%s: %s", source, doubt)
    targets = reader.targets if targets is None else targets
    train, classes = with_targets(train, targets, world, called, where=reader.where)
    held_out = None
    if test is not None:
        label = None if reader.label_is_file else reading.label
        other_reading = replace(reading, label=label, usual_label=reader.label_name)
        held_out, other = _read(test, world, format, other_reading, dtype, reader)
        if other.dropped and world.rank == 0:
            log.warning("%s: %d rows with missing values are left out", test, other.dropped)
        title = str(test) if name is None else f"{name} (test)"
        held_out, _ = with_targets(held_out, targets, world, title, classes, other.where)
    n, names, hashed = row_size(train.X), class_names(classes), fingerprint(train, world)
    encoding, label_name = reader.encoding, reader.label_name
    columns = reader.columns if encoding is None else encoding.names
    return Dataset(
        called, train, held_out, n, columns, targets, names, hashed, label_name, encoding,
        getattr(reader, "base", None),
    )  # fmt: skip


def load_rows(
    source: str | os.PathLike, world: World, encoding: Encoding | None, n: int,
    offset: str | None = None, index_base: int | None = None, *, labelled: bool = False,
    label: str | None = None, blank: bool = False,
) -> Shard:  # fmt: skip
    """Load rows without labels, encoded as other rows were or of n numbers. Collective.

    A file of labelled rows will do: labels of CSV files are ignored with all other columns that the
    encoding does not name, and those of other formats too. `offset` names the column of offsets,
    and `index_base` is the index of the first feature in LIBSVM files, where it is known. With
    `labelled` the rows keep their labels as they come, in CSV files those of the column `label`.
    With `blank`, rows of values that the encoding does not have hold NaN; else they are refused.
    """
    reading = Reading(
        label=label, labelled=labelled, offset=offset, width=n, index_base=index_base, blank=blank
    )
    shard, _ = _read(source, world, None, reading, None, like=encoding)
    if row_size(shard.X) != n:
        raise InputError(f"{source}: has {row_size(shard.X)} columns, the model {n}")
    return shard


def prefer_dense(n: int, density: float) -> bool:
    """Return whether rows with this share of nonzeros are better stored densely.

    A dense product runs at the processor's full rate and a sparse one at a tenth of it or less;
    but rows of text data must never be filled up.
    """
    return density > 0.25 or (n <= 2000 and density > 0.05)


def _read(
    path, world: World, format: str | None, reading: Reading, dtype, train=None,
    like: Encoding | None = None,
):  # fmt: skip
    """Read this rank's rows of a file, with their labels unchanged; also return the source.

    `train` is the source of the training data where these are the test data, and `like` the
    encoding that they must have.
    """
    path = Path(path)
    with world.phase(f"opening {path.name}"):
        kind = SOURCES[_format(path, format)]
        if train is not None and type(train) is not kind:
            raise InputError(f"{path}: is not of the format of {train.path}; both need the same")
        if not path.exists():
            raise InputError(f"{path}: no such file; check the path")
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file")
        if reading.columns() and not kind.has_columns:
            raise InputError(f"{path}: `weights` and `offset` go with CSV, HDF5 and NPZ files")
        of_tables = reading.missing != "refuse" or reading.categories or reading.ignore
        if of_tables and not kind.is_table:
            raise InputError(f"{path}: `missing`, `categories` and `ignore` go with CSV files")
        if reading.memory_map and not issubclass(kind, ArraySource):
            raise InputError(f"{path}: `memory_map` goes with HDF5, NPZ and NPY files")
        if reading.memory_map and dtype is not None:
            raise InputError(f"{path}: give `dtype` or `memory_map`; mapped rows stay as they are")
        if like is not None and not kind.is_table:
            raise InputError(f"{path}: the model's columns have names; give a CSV file with them")
        like = like if train is None else train.encoding
        source = kind(path, reading, world.rank, world.size, like)
        source.dtype = dtype
        count = source.count()
    counts = world.gather(count)
    total = source.total(counts)
    if total == 0:
        raise InputError(f"{path}: is empty: it holds no rows")
    start, stop = row_range(total, world.rank, world.size)
    with world.phase(f"reading {path.name}"):
        X, labels = source.read(start, stop, counts)
    X, width = source.agree(X, start, world, train)
    if width == 0:
        raise InputError(f"{path}: holds no features")
    if scipy.sparse.issparse(X):
        nonzeros = sum(world.gather(X.nnz))
        if prefer_dense(width, nonzeros / (total * width)):
            with world.phase(f"filling {path.name} up"):
                X = X.toarray(out=aligned_empty(X.shape, X.dtype))
    if dtype is not None and X.dtype != dtype:
        with world.phase(f"converting {path.name} to {dtype}"):
            X = X.astype(dtype)
    shard = Shard(X, labels, start, total)
    return with_columns(shard, world, str(path), **source.extras), source


def _format(path: Path, format: str | None) -> str:
    if format is not None:
        if format not in SOURCES:
            raise InputError(f"{path}: unknown format {format}; use one of {', '.join(SOURCES)}")
        return format
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in OPENERS:
        endings.pop()
    if IDX_NAME.search(path.name):
        return "idx"
    if not endings or endings[-1] not in ENDINGS:
        raise InputError(
            f"{path}: its ending names no format; give format as one of {', '.join(SOURCES)}"
        )
    return ENDINGS[endings[-1]]
