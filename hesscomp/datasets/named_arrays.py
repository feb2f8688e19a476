"""Files of arrays by names of their own, NPZ or HDF5: one for each input and output of a model."""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from hesscomp.datasets.files import ENDINGS
from hesscomp.errors import InputError, some
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.storage.hdf5 import CheckedFile
from hesscomp.storage.npy import mapped_member


def own_names(path: str | os.PathLike, format: str | None = None) -> list[str]:
    """Return the arrays of an NPZ or HDF5 file that holds no X; of any other file none.

    A file that cannot be read has none either: `load_dataset` says what is wrong with it.
    """
    path = Path(path)
    kind = format or ENDINGS.get(path.suffix.lower())
    try:
        if kind == "npz":
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
        elif kind == "hdf5":
            with CheckedFile(path) as file:
                names = [name for name, kind in file.file.items() if isinstance(kind, h5py.Dataset)]
                names = [] if "X" in file.file else names
        else:
            return []
    except (OSError, zipfile.BadZipFile, InputError):
        return []
    return [] if {"X", "indptr"} & set(names) else names


def read_named(
    path: str | os.PathLike, names: Iterable[str], world: World
) -> dict[str, np.ndarray]:
    """Return this rank's rows of some arrays of an NPZ or HDF5 file. Collective.

    InputError for arrays that are missing, are no numbers or have different numbers of rows.
    """
    path = Path(path)
    with world.phase(f"reading {path.name}"), _opened(path) as get:
        arrays = {name: get(name) for name in names}
        for name, array in arrays.items():
            if not array.shape or array.dtype.kind not in "fiub":
                raise InputError(f"{path}: {name} is no array of rows of numbers; store such a one")
        lengths = {name: array.shape[0] for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{name} {rows}" for name, rows in lengths.items())
            raise InputError(f"{path}: its arrays differ in their rows: {said}; store as many")
        total = next(iter(lengths.values()), 0)
        start, stop = row_range(total, world.rank, world.size)
        return {name: np.array(array[start:stop]) for name, array in arrays.items()}


@contextmanager
def _opened(path: Path) -> Iterator[Callable]:
    """Yield a function from an array's name to what can be sliced."""
    if not zipfile.is_zipfile(path):
        with CheckedFile(path) as file:
            yield file.dataset
        return
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

        def member(name: str) -> np.ndarray:
            if name not in members:
                raise InputError(f"{path}: has no array {name!r}; it has {some(members)}")
            return mapped_member(path, archive, members[name])

        yield member
