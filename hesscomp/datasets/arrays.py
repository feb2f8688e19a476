"""Binary files of labelled rows: HDF5, NPZ and NPY. A rank reads its own rows only."""

import zipfile
from pathlib import Path

import numpy as np
import scipy.sparse

from hesscomp.errors import InputError
from hesscomp.runs.hdf5 import MAX_COMPRESSION, CheckedFile
from hesscomp.runs.memory import aligned_empty

LOCAL_HEADER = 30  # bytes of a zip member's fixed local header


class ArraySource:
    """Rows of arrays X (dense, or the parts of a CSR matrix) and y, sliced where they lie."""

    columns = None
    grows = False

    def __init__(self, path: Path, label: str | None, rank: int, size: int):
        self.path, self.label = path, label

    def count(self) -> int:
        """All rows of the file: every rank sees the whole shape."""
        with self.opened() as parts:
            return parts.rows

    def total(self, counts: list[int]) -> int:
        return counts[0]

    def read(self, start: int, stop: int, counts: list[int]):
        with self.opened() as parts:
            self.width = parts.width
            return parts.slab(start, stop)

    def agree(self, X, gather):
        return X, self.width


class Parts:
    """Array-likes of one file and their checks; a context manager that closes the file."""

    def __init__(self, path, X, y, closes=None, sparse_shape=None):
        self.path, self.X, self.y, self.closes = path, X, y, closes
        self.sparse = sparse_shape is not None
        shape = sparse_shape if self.sparse else X.shape
        if len(shape) != 2:
            raise InputError(f"{path}: X has {len(shape)} dimensions; store (rows, features)")
        self.rows, self.width = int(shape[0]), int(shape[1])
        if y.shape != (self.rows,):
            raise InputError(f"{path}: X has {self.rows} rows but the labels have shape {y.shape}")
        for array in (*X,) if self.sparse else (X,):
            if array.dtype.kind not in "fiub":
                raise InputError(f"{path}: X has type {array.dtype}; store real numbers")
        if self.sparse and X[2].shape != (self.rows + 1,):
            raise InputError(f"{path}: indptr has shape {X[2].shape}, expected {(self.rows + 1,)}")

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_) -> None:
        if self.closes is not None:
            self.closes.__exit__(None, None, None)

    def slab(self, start: int, stop: int):
        labels = np.asarray(self.y[start:stop])
        if self.sparse:
            return self._sparse_slab(start, stop), labels
        kind = self.X.dtype if self.X.dtype in (np.float32, np.float64) else np.float64
        out = aligned_empty((stop - start, self.width), kind)
        if out.size:
            out[:] = self.X[start:stop]
        return out, labels

    def _sparse_slab(self, start: int, stop: int):
        data, indices, indptr = self.X
        ends = np.asarray(indptr[start : stop + 1], dtype=np.int64)
        increasing = len(ends) > 0 and ends[0] >= 0 and np.all(np.diff(ends) >= 0)
        if not increasing or ends[-1] > min(data.shape[0], indices.shape[0]):
            raise InputError(f"{self.path}: indptr does not fit data and indices")
        inside = slice(int(ends[0]), int(ends[-1]))
        columns = np.asarray(indices[inside])
        if len(columns) and not 0 <= columns.min() <= columns.max() < self.width:
            raise InputError(f"{self.path}: column indices leave the {self.width} columns")
        values = np.asarray(data[inside])
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float64)
        matrix = scipy.sparse.csr_array(
            (values, columns, ends - ends[0]), shape=(stop - start, self.width)
        )
        matrix.sum_duplicates()
        return matrix


class Hdf5Source(ArraySource):
    """/X (m, n) and /y (m,), or a CSR group /X with data, indices, indptr and attribute shape."""

    def opened(self) -> Parts:
        file = CheckedFile(self.path)
        try:
            y = file.dataset((self.label or "y").lstrip("/"))
            if not hasattr(file.object("X"), "keys"):
                return Parts(self.path, file.dataset("X"), _texts(y), file)
            shape = np.asarray(file.object("X").attrs.get("shape", ()))
            if shape.shape != (2,) or shape.dtype.kind not in "iu" or np.any(shape < 0):
                raise InputError(
                    f"{self.path}: the sparse group /X needs an attribute shape (m, n)"
                )
            X = tuple(file.dataset(f"X/{name}") for name in ("data", "indices", "indptr"))
            return Parts(self.path, X, _texts(y), file, shape.tolist())
        except BaseException:
            file.__exit__(None, None, None)
            raise


def _texts(dataset):
    """Labels stored as text are read as text."""
    return dataset.asstr() if dataset.dtype.kind == "O" else dataset


class NpzSource(ArraySource):
    """X and y; or y beside what ``scipy.sparse.save_npz`` stores for a CSR matrix."""

    def opened(self) -> Parts:
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

                def array(name: str) -> np.ndarray:
                    if name not in members:
                        raise InputError(
                            f"{self.path}: has no array {name}; it has {', '.join(members)}"
                        )
                    return _npz_member(self.path, archive, members[name])

                y = array(self.label or "y")
                if "X" in members or "indptr" not in members:
                    return Parts(self.path, array("X"), y)
                if array("format").item() not in (b"csr", "csr"):
                    raise InputError(f"{self.path}: is sparse but not CSR; save it with tocsr()")
                shape = array("shape").tolist()
                X = tuple(array(name) for name in ("data", "indices", "indptr"))
                return Parts(self.path, X, y, sparse_shape=shape)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OSError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path}: cannot be read as NPZ ({error})") from error


def _npz_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """An array of the archive: mapped where it is stored plainly, else unpacked."""
    if info.file_size > MAX_COMPRESSION * max(info.compress_size, 1):
        raise InputError(f"{path}: {info.filename} claims {info.file_size} bytes unpacked")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = np.lib.format._read_array_header(stream, version)
        offset = stream.tell()
        _check_header(path, info.filename, shape, dtype, info.file_size - offset)
        if info.compress_type != zipfile.ZIP_STORED:
            values = np.frombuffer(stream.read(), dtype, count=int(np.prod(shape, dtype=object)))
            return values.reshape(shape, order="F" if fortran else "C")
    with open(path, "rb") as raw:
        raw.seek(info.header_offset)
        header = raw.read(LOCAL_HEADER)
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return _mapped(path, dtype, info.header_offset + LOCAL_HEADER + names + offset, shape, fortran)


class NpySource(ArraySource):
    """A 2-D array whose last column is the label, or X alone with --label LABELS.npy."""

    def opened(self) -> Parts:
        table = _map_npy(self.path)
        if self.label is not None:
            return Parts(self.path, table, _map_npy(Path(self.label)))
        if table.ndim != 2 or table.shape[1] < 2:
            raise InputError(
                f"{self.path}: has shape {table.shape}; store rows with the label as last column"
            )
        return Parts(self.path, table[:, :-1], table[:, -1])


def _map_npy(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            shape, fortran, dtype = np.lib.format._read_array_header(stream, version)
            offset = stream.tell()
        _check_header(path, path.name, shape, dtype, path.stat().st_size - offset)
        return _mapped(path, dtype, offset, shape, fortran)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as NPY ({error})") from error


def _mapped(path, dtype, offset, shape, fortran) -> np.ndarray:
    if 0 in shape:
        return np.empty(shape, dtype)
    order = "F" if fortran else "C"
    return np.memmap(path, dtype, "r", offset, shape, order)


def _check_header(path, name, shape, dtype, available: int) -> None:
    if dtype.hasobject:
        raise InputError(f"{path}: {name} holds Python objects, which are never read")
    needed = dtype.itemsize * int(np.prod(shape, dtype=object))
    if needed > available:
        raise InputError(f"{path}: {name} is cut short: {available} bytes of {needed}")
