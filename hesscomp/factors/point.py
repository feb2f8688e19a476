"""Read points of the parameter space from files."""

import os
from pathlib import Path

import numpy as np

from hesscomp.errors import InputError, reason
from hesscomp.factors.hdf5 import load_parameters
from hesscomp.runs.checkpoint import FORMAT, load_best
from hesscomp.storage.hdf5 import CheckedFile
from hesscomp.storage.npy import mapped_npy

MAGIC_HDF5 = b"\x89HDF\r\n\x1a\n"
MAGIC_ZIP = b"PK\x03\x04"


def load_point(source: str | os.PathLike, n: int) -> np.ndarray:
    """Return the point ``zero``, or that of a NumPy file, a factor or a run's checkpoint.

    The content, not the name, says which kind of file it is. InputError unless it holds n finite
    numbers.
    """
    if str(source) == "zero":
        return np.zeros(n)
    if _magic(source) == MAGIC_HDF5:
        with CheckedFile(source, "point") as file:
            ours = load_best if file.attributes().get("format") == FORMAT else load_parameters
        point = ours(source)
    else:
        point = load_vector(source)
    if point.shape != (n,):
        raise InputError(
            f"{source}: holds {point.shape} numbers, but the problem has {n} parameters"
        )
    return point


def is_keras_file(source: str | os.PathLike) -> bool:
    """Return whether Keras wrote a file: it is a zip, or HDF5 that hesscomp did not write."""
    magic = _magic(source)
    if magic != MAGIC_HDF5:
        return magic.startswith(MAGIC_ZIP)
    with CheckedFile(source) as file:
        return "format" not in file.file.attrs


def _magic(source) -> bytes:
    try:
        with open(source, "rb") as stream:
            return stream.read(8)
    except FileNotFoundError:
        raise InputError(
            f"{source}: no such file; a point is zero, initial, trained, or a file: .npy, a "
            "factor, a run's checkpoint, Keras' weights or model"
        ) from None


def load_vector(path: str | os.PathLike) -> np.ndarray:
    """Return a .npy file's array as float64; see `load_array`."""
    return load_array(path).astype(np.float64)


def load_array(path: str | os.PathLike) -> np.ndarray:
    """Return an array of finite numbers from a .npy file; nothing in it is ever executed."""
    try:
        array = mapped_npy(Path(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # NumPy's parser of headers raises anything
        raise InputError(
            f"{path}: cannot be read as a NumPy .npy file ({reason(error)})"
        ) from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: holds no real numbers; save one array with numpy.save")
    values = np.array(array)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds numbers that are not finite")
    return values
