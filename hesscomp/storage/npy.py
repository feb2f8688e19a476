"""NumPy's .npy files, alone or in an archive, mapped into memory. Pickles are never read.

`numpy.load` maps no members of archives: of a file of arrays every rank would read all rows. And it
believes a header's lengths: 12 bytes make it ask for 2 GiB.
"""

import io
import math
import os
import zipfile
from pathlib import Path

import numpy as np

from hesscomp.errors import InputError, reason
from hesscomp.storage.archives import check_member
from hesscomp.storage.files import atomic_path

HEADERS = {  # by version: bytes of the header's length, what reads both
    (1, 0): (2, np.lib.format.read_array_header_1_0),
    (2, 0): (4, np.lib.format.read_array_header_2_0),
}
MOST = 2**16  # bytes of a header
LOCAL_HEADER = 30  # bytes of a zip member's fixed local header; two lengths stand at its end


def mapped_npy(path: Path) -> np.ndarray:
    """Return the array of a .npy file."""
    with open(path, "rb") as stream:
        shape, fortran, dtype = _read_header(path, path.name, stream, path.stat().st_size)
        return _mapped(path, dtype, stream.tell(), shape, fortran)


def read_npy(data: bytes, name: str) -> np.ndarray:
    """Return the array in the bytes of a .npy file, called `name` in errors; read-only.

    Raises
    ------
    InputError
        For bytes that are no such file, of another length, or with Python objects.
    """
    stream = io.BytesIO(data)
    try:
        shape, fortran, dtype = _read_header(Path(name), "the array", stream, len(data))
    except InputError:
        raise
    except Exception as error:  # whatever NumPy makes of bytes that are no header
        raise InputError(f"{name}: is no .npy file ({reason(error)})") from error
    values = np.frombuffer(data, dtype, math.prod(shape), stream.tell())
    return values.reshape(shape, order="F" if fortran else "C")


def mapped_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Return an array of an archive: mapped where it is stored plainly, else unpacked."""
    check_member(path, info)
    with archive.open(info) as stream:
        shape, fortran, dtype = _read_header(path, info.filename, stream, info.file_size)
        if info.compress_type != zipfile.ZIP_STORED:
            values = np.frombuffer(stream.read(), dtype, count=math.prod(shape))
            return values.reshape(shape, order="F" if fortran else "C")
        inside = stream.tell()
    with open(path, "rb") as raw:
        raw.seek(info.header_offset)
        header = raw.read(LOCAL_HEADER)
    before = sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28)) + LOCAL_HEADER
    return _mapped(path, dtype, info.header_offset + before + inside, shape, fortran)


def _read_header(path: Path, name: str, stream, length: int):
    """Return shape, order and type of an array stored in `length` bytes, which must hold it."""
    version = np.lib.format.read_magic(stream)
    if version not in HEADERS:
        raise InputError(f"{path}: {name} is of NPY version {version}, not of plain numbers")
    width, parse = HEADERS[version]
    stored = stream.read(width)
    size = int.from_bytes(stored, "little")
    if size > MOST:
        raise InputError(f"{path}: {name} has a damaged header; fetch or write it again")
    shape, fortran, dtype = parse(io.BytesIO(stored + stream.read(size)))
    if dtype.itemsize == 0:
        raise InputError(f"{path}: {name} holds entries of no bytes; store numbers or texts")
    if dtype.hasobject:
        raise InputError(f"{path}: {name} holds Python objects, which are never read")
    needed, there = dtype.itemsize * math.prod(shape), length - stream.tell()
    if needed > there or min(shape, default=0) < 0:
        raise InputError(f"{path}: {name} is cut short: {there} bytes of {needed}")
    return shape, fortran, dtype


def _mapped(path: Path, dtype, offset: int, shape, fortran: bool) -> np.ndarray:
    """Return an array that stands at `offset` of a file."""
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def is_mapped(array: np.ndarray | None) -> bool:
    """Return whether an array is a file's that is mapped into memory, or a view of one."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def save_npy(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an array to a .npy file, which is whole or absent."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array)
