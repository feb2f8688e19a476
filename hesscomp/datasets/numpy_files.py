"""NPY and NPZ files, mapped into memory where they are stored plainly. Pickles are never read."""

import zipfile
from pathlib import Path

import numpy as np

from hesscomp.datasets.arrays import ArraySource, StoredRows
from hesscomp.errors import InputError, some
from hesscomp.storage.npy import mapped_member, mapped_npy


class NpzSource(ArraySource):
    """X and y; or y beside what ``scipy.sparse.save_npz`` stores for a CSR matrix."""

    kind = "NPZ"

    def stored(self) -> StoredRows:
        with zipfile.ZipFile(self.path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

            def array(name: str) -> np.ndarray:
                if name not in members:
                    raise InputError(f"{self.path}: has no array {name!r}; it has {some(members)}")
                return mapped_member(self.path, archive, members[name])

            y = array(self.label or "y")
            if "X" in members or "indptr" not in members:
                return StoredRows(self.path, array("X"), y)
            if array("format").item() not in (b"csr", "csr"):
                raise InputError(f"{self.path}: is sparse but not CSR; save X.tocsr()")
            rows, columns = array("shape").tolist()
            parts = tuple(array(name) for name in ("data", "indices", "indptr"))
            return StoredRows(self.path, parts, y, (rows, columns))


class NpySource(ArraySource):
    """A 2-D array whose last column is the label; or X alone, with labels in the file `label`.

    X alone may have more axes.
    """

    kind = "NPY"
    label_is_file = True

    def stored(self) -> StoredRows:
        table = mapped_npy(self.path)
        if self.label is not None:
            return StoredRows(self.path, table, mapped_npy(Path(self.label)))
        if table.ndim != 2 or table.shape[1] < 2:
            raise InputError(
                f"{self.path}: has shape {table.shape}; store rows with the label as last column, "
                "or give label, a .npy file of labels (for test rows of more axes: NPZ with X and "
                "y)"
            )
        return StoredRows(self.path, table[:, :-1], table[:, -1])
