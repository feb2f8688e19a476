"""Rows of stored arrays X and y, of which a rank reads its own only.

X is dense, of two axes or more, or CSR.
"""

import math
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import h5py
import numpy as np
import scipy.sparse

from hesscomp.datasets.dataset import aligned_empty
from hesscomp.datasets.encoding import Encoding
from hesscomp.datasets.reading import Reading
from hesscomp.datasets.targets import SIGNS, check_label_type
from hesscomp.datasets.validation import check_finite, extents
from hesscomp.errors import InputError, reason
from hesscomp.storage.hdf5 import mapped_dataset
from hesscomp.storage.npy import is_mapped

MAX_WIDTH = 2**31 - 1
CHUNK_BYTES = 2**24  # copied at a time


class ArraySource:
    """A file of arrays; a format says how to find them (`stored`)."""

    kind = ""
    columns: tuple[str, ...] | None = None
    targets = SIGNS
    dtype: str | None = None
    label_is_file = False
    label_name: str | None = None
    has_columns = False
    is_table = False
    encoding: Encoding | None = None
    dropped = 0
    extras: dict[str, np.ndarray]

    def __init__(self, path: Path, reading: Reading, rank: int, size: int, like=None):
        self.path, self.reading, self.label, self.extras = path, reading, reading.label, {}

    def stored(self) -> "StoredRows":
        """Open the file."""
        raise NotImplementedError

    def count(self) -> int:
        """Return all rows of the file: every rank sees the whole shape."""
        with self._undamaged(), self.stored() as rows:
            self.width, self.row = rows.width, rows.row
            return rows.count

    def total(self, counts: list[int]) -> int:
        return counts[0]

    def read(self, start: int, stop: int, counts: list[int]):
        with self._undamaged(), self.stored() as rows:
            X, labels = rows.part(start, stop, self.reading.memory_map)
            self.extras = {name: np.asarray(row[start:stop]) for name, row in rows.beside.items()}
        check_finite(X, start, str(self.path))
        return X, labels

    def agree(self, X, start, world, train):
        if train is not None and train.row != self.row:
            raise InputError(
                f"{self.path}: has {_features(self.row)}, {train.path} has {_features(train.row)}; "
                "both files need the same"
            )
        return X, self.width

    def doubts(self) -> tuple[str, ...]:
        return ()

    def where(self, row: int) -> str:
        return f"row {row + 1}"

    @contextmanager
    def _undamaged(self):
        """What goes wrong inside a file is an InputError: h5py and NumPy raise nearly anything."""
        try:
            yield
        except (InputError, FileNotFoundError, PermissionError, MemoryError):
            raise
        except Exception as error:
            raise InputError(
                f"{self.path}: cannot be read as {self.kind} ({reason(error)}); "
                "fetch or write it again"
            ) from error


class StoredRows:
    """Array-likes X and y whose shapes and types fit, sliced alike.

    X is (data, indices, indptr) of a CSR matrix where `shape` is given. `file` is closed with it.
    `beside` has weights and offsets, where there are any; y is None for rows without labels.
    """

    def __init__(
        self, path: Path, X, y, shape=None, file: AbstractContextManager | None = None, beside=None
    ):
        self.path, self.X, self.y, self.beside = path, X, y, beside or {}
        self.file = nullcontext() if file is None else file
        self.sparse = shape is not None
        shape = shape if self.sparse else X.shape
        if len(shape) < 2:
            raise InputError(f"{path}: X has {len(shape)} dimensions; store (rows, features)")
        self.count, *row = (int(extent) for extent in shape)
        self.row, self.width = tuple(row), math.prod(row)
        for what, column in self.beside.items():
            if column.shape != (self.count,) or column.dtype.kind not in "fiub":
                raise InputError(
                    f"{path}: X has {self.count} rows but the {what} have shape {column.shape} and "
                    f"type {column.dtype}; store one number a row"
                )
        if y is None:
            self.y = y = np.broadcast_to(0.0, (self.count,))
        if y.shape != (self.count,):
            remedy = "store one label a row"
            if len(y.shape) > 1:
                one_hot = "of one-hot rows y.argmax(axis=1), which are classes (`targets` classes)"
                remedy += ": " + ("y.ravel()" if math.prod(y.shape[1:]) == 1 else one_hot)
            raise InputError(
                f"{path}: X has {self.count} rows but the labels have shape {y.shape}; {remedy}"
            )
        if self.width > MAX_WIDTH:
            raise InputError(f"{path}: X has {self.width} columns; at most {MAX_WIDTH} are allowed")
        if self.sparse:
            self._check_sparse(*X)
        elif X.dtype.kind not in "fiub":
            raise InputError(f"{path}: X has type {X.dtype}; store real numbers")

    def _check_sparse(self, data, indices, indptr) -> None:
        if data.dtype.kind not in "fiub" or {indices.dtype.kind, indptr.dtype.kind} - set("iu"):
            raise InputError(f"{self.path}: CSR needs data of real numbers and integer indices")
        if data.ndim != 1 or indices.shape != data.shape or indptr.shape != (self.count + 1,):
            raise InputError(
                f"{self.path}: data, indices and indptr of shapes {data.shape}, {indices.shape} "
                f"and {indptr.shape} are not a CSR matrix of {self.count} rows"
            )

    def __enter__(self) -> "StoredRows":
        self.file.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.file.__exit__(*error)

    def part(self, start: int, stop: int, memory_map: bool = False):
        """Return rows and labels from `start` on; rows are left in the file where it is mapped."""
        labels = np.asarray(self.y[start:stop])
        check_label_type(labels, str(self.path))
        taken = self._mapped if memory_map else self._csr if self.sparse else self._dense
        return taken(start, stop), labels

    def _mapped(self, start: int, stop: int) -> np.ndarray:
        X, kind = self.X, "" if self.sparse else self.X.dtype
        if kind not in (np.float32, np.float64):
            found = f"X has type {kind}" if kind else "X is sparse"
            raise InputError(
                f"{self.path}: `memory_map` takes rows as they are stored, and {found}; store a "
                "dense array of float32 or float64 in the machine's byte order"
            )
        if isinstance(X, h5py.Dataset):
            X = mapped_dataset(self.path, X)
        if not is_mapped(X) and X.size:
            raise InputError(
                f"{self.path}: `memory_map` takes arrays that are not compressed; store X plainly"
            )
        return X[start:stop]

    def _dense(self, start: int, stop: int) -> np.ndarray:
        kind = self.X.dtype if self.X.dtype in (np.float32, np.float64) else np.float64
        X = aligned_empty((stop - start, *self.row), kind)
        step = max(CHUNK_BYTES // max(self.width * X.itemsize, 1), 1)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            X[first - start : last - start] = self.X[first:last]
        return X

    def _csr(self, start: int, stop: int) -> scipy.sparse.csr_array:
        data, indices, indptr = self.X
        ends = np.asarray(indptr[start : stop + 1], dtype=np.int64)
        if ends[0] < 0 or ends[-1] > len(data) or np.any(np.diff(ends) < 0):
            raise InputError(f"{self.path}: indptr does not fit data and indices; write it again")
        inside = slice(int(ends[0]), int(ends[-1]))
        columns, values = np.asarray(indices[inside]), np.asarray(data[inside])
        bad = np.flatnonzero((columns < 0) | (columns >= self.width))
        if len(bad):
            row = start + int(np.searchsorted(ends - ends[0], bad[0], side="right")) - 1
            raise InputError(
                f"{self.path}: row {row + 1} has the column index {columns[bad[0]]}; "
                f"they must be 0 to {self.width - 1}"
            )
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float64)
        parts = (values, columns, ends - ends[0])
        matrix = scipy.sparse.csr_array(parts, shape=(stop - start, self.width), copy=True)
        matrix.sum_duplicates()
        return matrix


def _features(row: tuple[int, ...]) -> str:
    return f"{extents(row)} features" if len(row) == 1 else f"rows of shape {extents(row)}"
