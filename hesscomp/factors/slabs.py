"""Eigenvectors on disk in slabs of rows, one file for each rank, under one virtual data set.

The master file `F.h5` names its slabs `F.h5.<run>.<rank>.slab`, beside it. HDF5 fills in NaN where
a slab is missing; this reader opens the slabs itself and refuses.
"""

import os
import re
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

from hesscomp.errors import InputError
from hesscomp.runs.files import flush_file
from hesscomp.runs.hdf5 import CheckedFile

NAME = "eigenvectors"
SLAB = re.compile(r"[^/\\\0]+\.[0-9a-f]{8}\.[0-9]+\.slab")  # in the master's folder, nowhere else


def slab_path(master: str | os.PathLike, run: str, rank: int) -> Path:
    """Where `rank` of the run writes its rows."""
    master = Path(master)
    return master.with_name(f"{master.name}.{run}.{rank}.slab")


def write_slab(path: Path, rows: np.ndarray, start: int, n: int) -> None:
    """Write rows ``start:`` of an (n, k) array to a file of their own, flushed to disk."""
    with h5py.File(path, "x") as file:
        file.attrs["format"] = "hesscomp-slab"
        file.attrs["n"], file.attrs["start"] = np.int64(n), np.int64(start)
        file[NAME] = rows
    flush_file(path)


def virtual_rows(
    master: str | os.PathLike, run: str, ranges: list[tuple[int, int]], k: int, dtype
) -> h5py.VirtualLayout:
    """The (n, k) array whose rows ``ranges[r]`` lie in rank r's slab."""
    layout = h5py.VirtualLayout((ranges[-1][1], k), dtype)
    for rank, (start, stop) in enumerate(ranges):
        if stop > start:
            name = slab_path(master, run, rank).name
            layout[start:stop] = h5py.VirtualSource(name, NAME, (stop - start, k))
    return layout


def slabs_of(master: str | os.PathLike) -> list[Path]:
    """The slabs that a factor file names; none if it has none or is no such file."""
    try:
        with CheckedFile(master, "factor file") as file:
            found = file.object(NAME)
            if not (isinstance(found, h5py.Dataset) and found.is_virtual):
                return []
            return [path for path, _, _ in _sources(file, found)]
    except InputError:
        return []


def read_slabs(file: CheckedFile, shape: tuple[int, int], start: int, stop: int) -> np.ndarray:
    """Rows ``start:stop`` of the master's (n, k) virtual data set, from the slabs that hold them.

    Raises
    ------
    InputError
        If the slabs do not cover the array, or one of them is missing or no slab of it.
    """
    n, k = shape
    found = file.object(NAME)
    sources = sorted(_sources(file, found), key=lambda source: source[1])
    # Only now: where a source has no end, HDF5 opens files to tell the shape.
    if found.shape != shape or found.dtype.kind != "f":
        file.refuse(f"/{NAME} has shape {found.shape} and type {found.dtype}, not {shape} numbers")
    ends = [0] + [last for _, _, last in sources]
    if [first for _, first, _ in sources] != ends[:-1] or ends[-1] != n:
        file.refuse(f"its slabs do not cover rows 0 to {n}")
    with ExitStack() as stack:
        parts = []
        for path, first, last in sources:
            if first < stop and start < last:
                slab = stack.enter_context(CheckedFile(path, f"slab of {file.path}"))
                data = slab.dataset(NAME, "f")
                if data.shape != (last - first, k) or slab.file.attrs.get("start") != first:
                    slab.refuse(f"it does not hold rows {first} to {last}")
                parts.append(data[max(start - first, 0) : stop - first])
        return np.concatenate(parts) if parts else np.empty((0, k))


def _sources(file: CheckedFile, found: h5py.Dataset) -> list[tuple[Path, int, int]]:
    """The slabs that a virtual data set names: path, first row and one past the last."""
    sources = []
    for source in found.virtual_sources():
        if not SLAB.fullmatch(source.file_name) or source.dset_name.strip("/") != NAME:
            file.refuse(f"/{NAME} points at {source.file_name!r}, which is no slab beside it")
        (first, _), (last, _) = source.vspace.get_select_bounds()
        sources.append((Path(file.path).with_name(source.file_name), int(first), int(last) + 1))
    return sources
