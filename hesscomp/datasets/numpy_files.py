"""NPY and NPZ files, mapped into memory where they are stored plainly. Pickles are never read."""

import math
import zipfile
from pathlib import Path

import numpy as np

from hesscomp.datasets.arrays import ArraySource, StoredRows
from hesscomp.errors import InputError, some
from hesscomp.storage.archives import check_member
from hesscomp.storage.npy import mapped, mapped_npy, read_header

LOCAL_HEADER = 30  # bytes of a zip member's fixed local header; two lengths stand at its end


class NpzSource(ArraySource):
    """X and y; or y beside what ``scipy.sparse.save_npz`` stores for a CSR matrix."""

    kind = "NPZ"

    def stored(self) -> StoredRows:
        with zipfile.ZipFile(self.path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

            def array(name: str) -> np.ndarray:
                if name not in members:
                    raise InputError(f"{self.path}: has no array {name!r}; it has {some(members)}")
                return _member(self.path, archive, members[name])

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


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """An array of the archive: mapped where it is stored plainly, else unpacked."""
    check_member(path, info)
    with archive.open(info) as stream:
        shape, fortran, dtype = read_header(path, info.filename, stream, info.file_size)
        if info.compress_type != zipfile.ZIP_STORED:
            values = np.frombuffer(stream.read(), dtype, count=math.prod(shape))
            return values.reshape(shape, order="F" if fortran else "C")
        inside = stream.tell()
    with open(path, "rb") as raw:
        raw.seek(info.header_offset)
        header = raw.read(LOCAL_HEADER)
    before = sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28)) + LOCAL_HEADER
    return mapped(path, dtype, info.header_offset + before + inside, shape, fortran)
