"""Files of arrays X and y: HDF5, NPZ and NPY. Pickles are never read."""

import zipfile
from pathlib import Path

import h5py
import numpy as np

from hesscomp.datasets.arrays import ArraySource, StoredRows
from hesscomp.errors import InputError, some
from hesscomp.storage.hdf5 import CheckedFile
from hesscomp.storage.npy import mapped_member, mapped_npy

CSR = ("data", "indices", "indptr")


class Hdf5Source(ArraySource):
    """/X (m, n) and /y (m,), or a CSR group /X with data, indices, indptr, attribute shape.

    Rows are read as hyperslabs. `label` names another data set than /y.
    """

    kind = "HDF5"
    has_columns = True

    def stored(self) -> StoredRows:
        file = CheckedFile(self.path)
        try:
            labelled = self.reading.labelled
            y = file.dataset((self.label or "y").lstrip("/")) if labelled else None
            named = self.reading.columns().items()
            beside = {what: file.dataset(name.lstrip("/")) for what, name in named}
            if (
                y is not None and y.dtype.kind == "O"
            ):  # a damaged heap of such texts can keep the HDF5 library busy
                raise InputError(
                    f"{self.path}: the labels are texts of variable length; store numbers or "
                    'texts of one length (y.astype("S"))'
                )
            X, shape = file.object("X"), None
            if isinstance(X, h5py.Group):
                shape = np.asarray(file.attributes("X").get("shape", ()))
                if shape.shape != (2,) or shape.dtype.kind not in "iu" or np.any(shape < 0):
                    raise InputError(
                        f"{self.path}: the CSR group /X needs an attribute shape: rows, columns"
                    )
                X = tuple(file.dataset(f"X/{name}") for name in CSR)
            else:
                X = file.dataset("X")
            return StoredRows(self.path, X, y, shape, file, beside)
        except BaseException:
            file.__exit__(None, None, None)
            raise


class NpzSource(ArraySource):
    """X and y; or y beside what ``scipy.sparse.save_npz`` stores for a CSR matrix."""

    kind = "NPZ"
    has_columns = True

    def stored(self) -> StoredRows:
        with zipfile.ZipFile(self.path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

            def array(name: str) -> np.ndarray:
                if name not in members:
                    raise InputError(f"{self.path}: has no array {name!r}; it has {some(members)}")
                return mapped_member(self.path, archive, members[name])

            y = array(self.label or "y") if self.reading.labelled else None
            beside = {what: array(name) for what, name in self.reading.columns().items()}
            if "X" in members or "indptr" not in members:
                return StoredRows(self.path, array("X"), y, beside=beside)
            if array("format").item() not in (b"csr", "csr"):
                raise InputError(f"{self.path}: is sparse but not CSR; save X.tocsr()")
            rows, columns = array("shape").tolist()
            parts = tuple(array(name) for name in CSR)
            return StoredRows(self.path, parts, y, (rows, columns), beside=beside)


class NpySource(ArraySource):
    """A 2-D array whose last column is the label; or X alone, with labels in the file `label`.

    X alone may have more axes.
    """

    kind = "NPY"
    label_is_file = True

    def stored(self) -> StoredRows:
        table = mapped_npy(self.path)
        if not self.reading.labelled:
            return StoredRows(self.path, table, None)
        if self.label is not None:
            return StoredRows(self.path, table, mapped_npy(Path(self.label)))
        if table.ndim != 2 or table.shape[1] < 2:
            raise InputError(
                f"{self.path}: has shape {table.shape}; store rows with the label as last column, "
                "or give label, a .npy file of labels (for test rows of more axes: NPZ with X and "
                "y)"
            )
        return StoredRows(self.path, table[:, :-1], table[:, -1])
