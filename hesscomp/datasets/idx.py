"""IDX files, the format of MNIST: rows in one file, their labels in another.

Big-endian: two zero bytes, the type, the number of dimensions, each dimension as uint32, then the
numbers, last dimension fastest (LeCun, Cortes and Burges, "The MNIST database of handwritten
digits", file formats).
"""

import gzip
import math
import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from hesscomp.datasets.arrays import ArraySource, StoredRows
from hesscomp.datasets.targets import CLASSES
from hesscomp.errors import InputError
from hesscomp.storage.archives import MAX_COMPRESSION

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MAX_DIMENSIONS = 8
IDX_NAME = re.compile(r"[-.]idx\d-\w+(\.gz)?$")  # train-images-idx3-ubyte.gz


class IdxSource(ArraySource):
    """Rows of any shape, flattened; unsigned bytes are pixels and become value/255.

    Pixels are float32 unless `dtype` says otherwise. Labels stand in the file `label`; by default
    the one that is called labels-idx1 where this one is called images-idx3.
    """

    kind = "IDX"
    targets = CLASSES
    label_is_file = True

    def stored(self) -> StoredRows:
        with ExitStack() as files:
            X = files.enter_context(_IdxFile(self.path, self.dtype or "float32"))
            y = None
            if self.reading.labelled:
                labels = self._beside() if self.label is None else Path(self.label)
                y = files.enter_context(_IdxFile(labels))
            return StoredRows(self.path, X, y, file=files.pop_all())

    def _beside(self) -> Path:
        name = re.sub(r"images([-.])idx\d", r"labels\1idx1", self.path.name)
        if name == self.path.name:
            raise InputError(
                f"{self.path}: is not called ...images-idx...; give label, the file of its labels"
            )
        if not self.path.with_name(name).exists():
            raise InputError(f"{self.path}: its labels, {name}, are not beside it; give label")
        return self.path.with_name(name)


class _IdxFile:
    """An open IDX file as an array that is read when it is sliced: forwards costs least.

    With `pixels`, a type, rows are flattened and unsigned bytes become value/255 of that type;
    without it everything is as it is stored.
    """

    def __init__(self, path: Path, pixels: str | None = None):
        self.path, length = path, path.stat().st_size
        packed = path.suffix.lower() == ".gz"
        self.stream = (gzip.open if packed else open)(path, "rb")
        zeros, kind, dimensions = self._read(2), *self._read(2)
        if zeros != b"\0\0" or kind not in TYPES or not 1 <= dimensions <= MAX_DIMENSIONS:
            self.refuse("is not an IDX file; check the path, and unpack what is not plain or .gz")
        self.stored = np.dtype(TYPES[kind])
        self.begin = 4 + 4 * dimensions
        count, *row = np.frombuffer(self._read(4 * dimensions), ">u4").tolist()
        claimed = self.begin + count * math.prod(row) * self.stored.itemsize
        if claimed > MAX_COMPRESSION * length or (claimed != length and not packed):
            self.refuse(f"claims {claimed} bytes in a file of {length}; fetch it again")
        self.shape = (count, math.prod(row)) if row and pixels else (count, *row)
        self.pixels = pixels if self.stored == np.uint8 else None
        self.dtype = np.dtype(self.pixels or self.stored.newbyteorder("="))
        self.itemsize = self.dtype.itemsize

    def __enter__(self) -> "_IdxFile":
        return self

    def __exit__(self, *_) -> None:
        self.stream.close()

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return rows from `start` to `stop`."""
        start, stop, _ = rows.indices(self.shape[0])
        size = math.prod(self.shape[1:]) * self.stored.itemsize
        self.stream.seek(self.begin + start * size)
        data = self._read((stop - start) * size)
        if stop == self.shape[0] and self.stream.read(1):
            self.refuse(f"continues after its {stop} rows; fetch it again")
        values = np.frombuffer(data, self.stored).reshape(stop - start, *self.shape[1:])
        return values if self.pixels is None else np.divide(values, 255, dtype=self.dtype)

    def refuse(self, reason: str):
        self.stream.close()
        raise InputError(f"{self.path}: {reason}")

    def _read(self, size: int) -> bytes:
        data = self.stream.read(size)
        if len(data) < size:
            self.refuse("is cut short; fetch it again")
        return data
