"""Arrays on disk in slabs of rows: one file for each rank, joined by one virtual data set.

The slabs of the master file `F.h5` are `F.h5.<run>.<rank>.slab`, beside it. HDF5 would fill in NaN
where a slab is missing; this reader opens the slabs itself and refuses the file.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np

from hesscomp.errors import InputError
from hesscomp.storage.files import atomic_path, flush_file, remove_files, writing
from hesscomp.storage.hdf5 import CheckedFile, new_file

SLAB = re.compile(r"([^/\\\0]+)\.[0-9a-f]{8}\.[0-9]+\.slab")  # beside the master, whose name it has


def slab_path(master: str | os.PathLike, run: str, rank: int) -> Path:
    """Return the path at which `rank` of the run writes its rows."""
    master = Path(master)
    return master.with_name(f"{master.name}.{run}.{rank}.slab")


@contextmanager
def replacing_path(path: str | os.PathLike, name: str) -> Iterator[Path]:
    """Replace a file as `atomic_path` does, and remove the slabs of the replaced one.

    Only slabs named after it are removed: a copied or forged file may name slabs of others.
    """
    before = own_slabs(path, name)
    with atomic_path(path) as temporary:
        yield temporary
    remove_files(before)


def save_slabs(
    path: str | os.PathLike,
    name: str,
    rows: np.ndarray,
    ranges: list[tuple[int, int]],
    world,
    write: Callable[[h5py.File], None],
    *,
    replacing: Callable[..., AbstractContextManager[Path]] = replacing_path,
    **how,
) -> None:
    """Write a file whose (n, k) data set `name` lies in slabs, one for each rank. Collective.

    Parameters
    ----------
    path : path
    name : str
    rows : (n_here, k) array
        This rank's rows, ``ranges[world.rank]`` of all; `ranges` ends with n.
    world : World
    write : callable
        Writes everything else to the open master file, on rank 0.
    replacing : callable
        Context manager that replaces the master file, as `replacing_path` does.
    **how
        Options of `h5py.Group.create_dataset` for the data sets in the slabs.

    Raises
    ------
    InputError
        On all ranks, if a file cannot be written; what was written of it is removed.
    """
    run = world.broadcast(secrets.token_hex(4))
    mine = slab_path(path, run, world.rank)
    start, stop = ranges[world.rank]
    try:
        with world.phase(f"writing {mine}"):
            if stop > start:
                write_slab(mine, name, rows, start, ranges[-1][1], **how)
        with world.phase(f"writing {path}"):
            if world.rank == 0:
                with replacing(path, name) as temporary, new_file(temporary) as file:
                    write(file)
                    virtual = virtual_rows(path, name, run, ranges, rows.shape[1], rows.dtype)
                    file.create_virtual_dataset(name, virtual, np.nan)
    except BaseException:
        if mine not in slabs_of(path, name):  # else the new file is in place and needs it
            remove_files([mine])
        raise


def write_slab(path: Path, name: str, rows: np.ndarray, start: int, n: int, **how) -> None:
    """Write rows of an (n, k) array, from `start` on, to a file of their own; flush it to disk."""
    with writing(path), new_file(path) as file:
        file.attrs["format"] = "hesscomp-slab"
        file.attrs["n"], file.attrs["start"] = np.int64(n), np.int64(start)
        file.create_dataset(name, data=rows, **how)
    flush_file(path)


def virtual_rows(
    master: str | os.PathLike, name: str, run: str, ranges: list[tuple[int, int]], k: int, dtype
) -> h5py.VirtualLayout:
    """Return the virtual (n, k) array whose rows ``ranges[r]`` lie in the slab of rank r."""
    layout = h5py.VirtualLayout((ranges[-1][1], k), dtype)
    for rank, (start, stop) in enumerate(ranges):
        if stop > start:
            slab = slab_path(master, run, rank).name
            layout[start:stop] = h5py.VirtualSource(slab, name, (stop - start, k))
    return layout


def own_slabs(
    master: str | os.PathLike, name: str, made_as: str | os.PathLike | None = None
) -> list[Path]:
    """Return the slabs of a file that are named after it, or after the name it was `made_as`."""
    owner = Path(made_as or master).name
    return [path for path in slabs_of(master, name) if _owner(path.name) == owner]


def _owner(slab: str) -> str | None:
    """Return the name of the master file in the name of a slab; None for any other name."""
    found = SLAB.fullmatch(slab)
    return found[1] if found else None


def slabs_of(master: str | os.PathLike, name: str) -> list[Path]:
    """Return the slabs that a file's data set names; none if it cannot be read or has none."""
    try:
        with CheckedFile(master, "file with slabs") as file:
            found = file.object(name)
            if not (isinstance(found, h5py.Dataset) and found.is_virtual):
                return []
            return [path for path, _, _ in _sources(file, name, found)]
    except InputError:
        return []


def read_rows(
    file: CheckedFile, name: str, shape: tuple[int, ...], start: int, stop: int
) -> np.ndarray:
    """Read rows ``start:stop`` of a file's (n, k) data set, in slabs or of one piece.

    Raises
    ------
    InputError
        If the slabs do not cover the array, or one of them is missing or another file's.
    """
    found = file.object(name)
    if not (isinstance(found, h5py.Dataset) and found.is_virtual):
        found = file.dataset(name, "f")
        if found.shape != shape:
            file.refuse(f"/{name} has shape {found.shape}, expected {shape}")
        return found[start:stop]
    n, k = shape
    sources = sorted(_sources(file, name, found), key=lambda source: source[1])
    # Only now: where a source has no end, HDF5 opens files to tell the shape.
    if found.shape != shape or found.dtype.kind != "f":
        file.refuse(f"/{name} has shape {found.shape} and type {found.dtype}, not {shape} numbers")
    ends = [0] + [last for _, _, last in sources]
    if [first for _, first, _ in sources] != ends[:-1] or ends[-1] != n:
        file.refuse(f"its slabs do not cover rows 0 to {n}")
    with ExitStack() as stack:
        parts = []
        for path, first, last in sources:
            if first < stop and start < last:
                slab = stack.enter_context(CheckedFile(path, f"slab of {file.path}"))
                data = slab.dataset(name, "f")
                if data.shape != (last - first, k) or slab.attributes().get("start") != first:
                    slab.refuse(f"it does not hold rows {first} to {last}")
                parts.append(data[max(start - first, 0) : stop - first])
        return np.concatenate(parts) if parts else np.empty((0, k))


def _sources(file: CheckedFile, name: str, found: h5py.Dataset) -> list[tuple[Path, int, int]]:
    """Return the slabs that a virtual data set names: path, first row and one past the last."""
    sources = []
    for source in found.virtual_sources():
        if _owner(source.file_name) is None or source.dset_name.strip("/") != name:
            file.refuse(f"/{name} points at {source.file_name!r}, which is not a slab beside it")
        (first, _), (last, _) = source.vspace.get_select_bounds()
        sources.append((Path(file.path).with_name(source.file_name), int(first), int(last) + 1))
    return sources
