"""HDF5: /X (m, n) and /y (m,), or a CSR group /X with data, indices, indptr, attribute shape."""

import h5py
import numpy as np

from hesscomp.datasets.arrays import ArraySource, StoredRows
from hesscomp.errors import InputError
from hesscomp.storage.hdf5 import CheckedFile

CSR = ("data", "indices", "indptr")


class Hdf5Source(ArraySource):
    """Rows are read as hyperslabs. `label` names another data set than /y."""

    kind = "HDF5"

    def stored(self) -> StoredRows:
        file = CheckedFile(self.path)
        try:
            y = file.dataset((self.label or "y").lstrip("/"))
            if y.dtype.kind == "O":  # a damaged heap of such texts can keep the HDF5 library busy
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
            return StoredRows(self.path, X, y, shape, file)
        except BaseException:
            file.__exit__(None, None, None)
            raise
