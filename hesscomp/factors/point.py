"""Points of the parameter space, read from files."""

import os

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors.hdf5 import load_parameters

MAGIC_HDF5 = b"\x89HDF\r\n\x1a\n"


def load_point(source: str | os.PathLike, n: int) -> np.ndarray:
    """The point named by ``zero``, a NumPy file or an HDF5 file (a factor's `/parameters`).

    The content, not the name, says which kind of file it is. InputError unless it holds n finite
    numbers.
    """
    if str(source) == "zero":
        return np.zeros(n)
    try:
        with open(source, "rb") as stream:
            magic = stream.read(8)
    except FileNotFoundError:
        raise InputError(f"{source}: no such file; --at takes zero, FILE.npy or FILE.h5") from None
    point = load_parameters(source) if magic == MAGIC_HDF5 else load_vector(source)
    if point.shape != (n,):
        raise InputError(
            f"{source}: holds {point.shape} numbers, but the problem has {n} parameters"
        )
    return point


def load_vector(path: str | os.PathLike) -> np.ndarray:
    """A float array from a .npy file; nothing in it is ever executed."""
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read as a NumPy .npy file ({error})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise InputError(f"{path}: holds no real numbers; save one array with numpy.save")
    values = np.array(array, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds numbers that are not finite")
    return values
