"""The factor file: one HDF5 file, whole or absent, readable without hesscomp.

The layout is documented in docs/factor-file.md. Reading trusts nothing: attributes, shapes and
sizes are checked before an array is allocated, and links out of the file are refused.
"""

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np

from hesscomp.errors import InputError, one_line
from hesscomp.factors.certificate import Certificate
from hesscomp.factors.factor import Factor
from hesscomp.factors.kinds import KINDS
from hesscomp.factors.known import IN_MEMORY
from hesscomp.factors.provenance import Provenance
from hesscomp.parallel.layout import Layout, Replicated, RowLayout
from hesscomp.storage import hdf5
from hesscomp.storage.files import atomic_path, remove_files
from hesscomp.storage.hdf5 import CheckedFile, count, finite, new_file
from hesscomp.storage.slabs import own_slabs, read_rows, save_slabs

FORMAT = "hesscomp-factor"
VERSION = 1
TRAJECTORY = "trajectory"
CHUNK_BYTES = 2**20
REQUIRED = ("frobenius_error_estimate", "frobenius_norm_estimate", "converged")  # of a certificate
PATIENCE = 300.0  # seconds that ranks wait for each other before they write


def save_factor(
    factor: Factor, path: str | os.PathLike, *, dtype: str = "float64", compress: bool = False
) -> None:
    """Write a factor to `path`; an earlier file there is replaced only by a whole new one.

    Collective, for a factor made by ranks together: a replicated one is written by rank 0, of one
    in the row layout each rank writes its slab of rows, into one file where h5py was built with
    parallel HDF5, else to files of their own beside `path` (see docs/factor-file.md). A factor
    that one process read from a file is written by whoever calls.

    Parameters
    ----------
    dtype : {"float64", "float32"}
        On disk, of the array of which ranks hold rows: of a low-rank factor the eigenvectors; of a
        hierarchical one all numbers.
    compress : bool
        Deflate that array of a replicated factor (slower, rarely much smaller).

    Raises
    ------
    OSError
        If the file cannot be written; where ranks write together, InputError on all of them, also
        if some do not call this within five minutes.
    """
    _check_storable(factor)
    world = factor.world
    if world is not None and not world.everyone_is_here(PATIENCE):
        raise InputError(f"{path}: not all ranks call save_factor, and it needs them all")
    name = factor.row_array()
    if getattr(factor, name).ndim < 2:  # n numbers, as the point has: in the file itself
        factor = factor.in_layout(Replicated(factor.n, world))
    rows, layout = getattr(factor, name), factor.layout
    if not isinstance(layout, RowLayout):
        with _phase(world, f"writing {path}"):
            if world is None or world.rank == 0:
                with _replacing(path) as temporary, new_file(temporary) as file:
                    write_group(file, factor, dtype, compress)
    elif rows.shape[1] and not h5py.get_config().mpi:
        save_slabs(
            *(path, name, rows.astype(dtype), layout.ranges, layout.world),
            lambda file: _write(file, factor),
            replacing=_replacing,
        )
    else:
        _save_together(factor, layout, path, dtype)


@contextmanager
def _replacing(path: str | os.PathLike, _name: str = "") -> Iterator[Path]:
    """Replace a file as `slabs.replacing_path` does, whatever the kind of the factor in it."""
    before = [slab for kind in KINDS.values() for slab in own_slabs(path, kind.row_array())]
    with atomic_path(path) as temporary:
        yield temporary
    remove_files(before)


def _save_together(factor: Factor, layout: RowLayout, path: str | os.PathLike, dtype: str) -> None:
    """Write one file, into which all ranks write their rows with parallel HDF5."""
    world, name = layout.world, factor.row_array()
    rows = getattr(factor, name)
    with ExitStack() as stack:
        place = None
        with world.phase(f"writing {path}"):
            if world.rank == 0:
                temporary = stack.enter_context(_replacing(path))
                with new_file(temporary) as file:
                    _write(file, factor)
                    _reserve(file, name, (factor.n, rows.shape[1]), dtype)
                place = str(temporary)
        place = world.broadcast(place)
        if rows.shape[1]:
            with (
                world.phase(f"writing {path}"),
                h5py.File(place, "r+", driver="mpio", comm=world.comm) as file,
            ):
                file[name][layout.start : layout.stop] = rows
        with world.phase(f"writing {path}"):
            stack.close()


def _reserve(file: h5py.File, name: str, shape: tuple[int, int], dtype: str) -> None:
    """Create a data set whose place in the file is taken at once, as parallel writing needs."""
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype))
    h5py.h5d.create(file.id, name.encode(), kind, space, create)


def write_group(
    group: h5py.Group, factor: Factor, dtype: str = "float64", compress: bool = False
) -> None:
    """Write a replicated factor to a file, or to a group of one."""
    _check_storable(factor)
    name = factor.row_array()
    rows = _as_stored(factor, name, dtype)
    _write(group, factor, dtype)
    width = math.prod(rows.shape[1:])
    taken = min(max(CHUNK_BYTES // (8 * max(width, 1)), 1), max(len(rows), 1))  # by one reader
    chunked = rows.ndim > 1 or compress
    group.create_dataset(
        name,
        data=rows,
        chunks=(taken, *rows.shape[1:]) if width and chunked else None,
        compression="gzip" if compress and width else None,
        shuffle=compress and width > 0,
    )


def _check_storable(factor: Factor) -> None:
    """Raise InputError for a factor that is no kind of `KINDS`: it holds an object in memory."""
    if factor.kind not in KINDS:
        raise InputError(IN_MEMORY)


def write_header(file: h5py.Group, kind: str) -> None:
    """Write what factor and trajectory files begin with."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    hdf5.write_header(file, FORMAT, VERSION, kind=kind, created=created)


def _as_stored(factor: Factor, name: str, dtype: str) -> np.ndarray:
    """Return an array with the type that it has in the file."""
    return getattr(factor, name).astype(np.int64 if name in factor.integers else dtype, copy=False)


def _write(file: h5py.Group, factor: Factor, dtype: str = "float64") -> None:
    """Write all but the array with n rows; of a kind that is not in slabs with this precision."""
    write_header(file, factor.kind)
    file.attrs["n"] = np.int64(factor.n)
    for name, size in factor.sizes().items():
        file.attrs[name] = np.int64(size)
    for name in factor.arrays:
        if name != factor.row_array():
            file[name] = _as_stored(factor, name, "float64" if factor.in_slabs else dtype)
    if factor.parameters is not None:
        file["parameters"] = factor.parameters.astype(np.float64)
    _write_blocks(file, factor.blocks)
    _write_record(file.create_group("certificate"), factor.certificate)
    _write_record(file.create_group("provenance"), factor.provenance)


def _write_record(group: h5py.Group, record: Certificate | Provenance) -> None:
    """Write numbers and texts as attributes and arrays as data sets; leave out what is None."""
    values = vars(record).items()
    arrays = {name: value for name, value in values if isinstance(value, np.ndarray)}
    for name, value in values:
        if value is not None and name not in arrays:
            group.attrs[name] = np.int64(value) if type(value) is int else value
    for name, value in arrays.items():
        group[name] = value


def _write_blocks(file: h5py.File, blocks) -> None:
    text = h5py.string_dtype("utf-8")
    kind = np.dtype([("name", text), ("shape", text), ("offset", "i8"), ("size", "i8")])
    table = np.empty(len(blocks), dtype=kind)
    for i, (name, shape, offset) in enumerate(blocks):
        table[i] = (name, ",".join(map(str, shape)), offset, int(np.prod(shape)))
    file.create_dataset("blocks", data=table)


def load_factor(path: str | os.PathLike, world=None) -> Factor:
    """Read a factor file of any kind, of one piece or in slabs, whoever wrote it.

    Parameters
    ----------
    world : World, optional
        Read the factor into the row layout: all ranks together, each its own slab of rows,
        whatever the number of ranks that wrote it. Without it all rows are read.

    Raises
    ------
    InputError
        If the file is missing, is not a factor file, is of a newer format, or contradicts itself;
        the message names the file and what is wrong in it.
    """
    with _phase(world, f"reading {path}"), CheckedFile(path, "factor file") as file:
        factor = read_group(file, world)
    return factor


def _phase(world, what: str) -> AbstractContextManager:
    """Return `World.phase`, or nothing for one process without MPI."""
    return nullcontext() if world is None else world.phase(what)


def load_parameters(path: str | os.PathLike) -> np.ndarray:
    """Read only the point, `/parameters`, of a factor file; errors as `load_factor`."""
    with CheckedFile(path, "factor file") as file:
        _check_kind(file)
        return _array(file, "parameters", (count(file, "n"),))


def read_group(file: CheckedFile, world=None) -> Factor:
    """Return the factor in a file, or in a group of one (`CheckedFile.within`)."""
    kind, n = KINDS[_check_kind(file)], count(file, "n")
    sizes = {name: count(file, name) for name in kind.size_names()}
    for name, size in sizes.items():
        if size > kind.most(n):
            file.refuse(f"{name} {size} is more than n = {n} allows")
    layout: Layout = Replicated(n) if world is None else RowLayout(n, world)
    arrays = {
        name: _rows(file, name, shape, layout)
        if name == kind.row_array() and kind.in_slabs
        else _array(file, name, shape, "i" if name in kind.integers else "f")
        for name, shape in kind.shapes(n, sizes).items()
    }
    parameters = _optional(file, "parameters", (n,))
    pairs = (sizes.get("rank", 0),)
    certificate = Certificate(
        **_record(file, "certificate", Certificate, REQUIRED),
        residual_norms=_optional(file, "certificate/residual_norms", pairs),
        eigenvalue_converged=_optional(file, "certificate/eigenvalue_converged", pairs, "b"),
    )
    factor = kind(
        **arrays,
        certificate=certificate,
        provenance=Provenance(**_record(file, "provenance", Provenance)),
        parameters=parameters,
        blocks=_blocks(file, n),
        layout=layout if kind.in_slabs else Replicated(n),
    )
    try:
        factor.check()
    except InputError as error:
        file.refuse(str(error))
    return factor if kind.in_slabs else factor.in_layout(layout)


def _rows(file: CheckedFile, name: str, shape: tuple[int, ...], layout: Layout) -> np.ndarray:
    """Return the layout's rows of an array."""
    if len(shape) < 2:
        return layout.local(_array(file, name, shape))
    values = read_rows(file, name, shape, layout.start, layout.stop)
    return finite(file, name, values.astype(np.float64, copy=False))


def _check_kind(file: CheckedFile) -> str:
    kind = kind_of(file)
    if kind == TRAJECTORY:
        file.refuse("it holds a trajectory, not one factor; see load_trajectory and hesscomp plot")
    return kind


def kind_of(file: CheckedFile) -> str:
    """Return a file's kind, of a factor or a trajectory; refuse other or newer files."""
    hdf5.check_header(file, FORMAT, VERSION)
    kind, known = file.attributes().get("kind"), (*KINDS, TRAJECTORY)
    if kind not in known:
        readable = f"{', '.join(map(repr, known[:-1]))} and {known[-1]!r}"
        file.refuse(f"its kind is {kind!r}; this hesscomp reads {readable}")
    return kind


def _record(file: CheckedFile, name: str, kind: type, required: tuple[str, ...] = ()) -> dict:
    """Return the fields of a record that the attributes of a group tell; others are absent."""
    attributes = file.attributes(name)
    return {
        field.name: _told(file, attributes[field.name], field.type)
        for field in fields(kind)
        if isinstance(field.type, type)  # not an array, which has a data set
        and (field.name in attributes or field.name in required)
    }


def _told(file: CheckedFile, value, kind):
    """Return what an attribute says: one line of text, or a number."""
    value = value.decode() if isinstance(value, bytes) else value
    if np.ndim(value) or (kind is str) != isinstance(value, str):
        file.refuse(f"an attribute holds {str(value)[:40]!r} where it needs a {kind.__name__}")
    return one_line(value) if kind is str else kind(value)


def _array(file: CheckedFile, name: str, shape: tuple[int, ...], kind: str = "f") -> np.ndarray:
    found = file.dataset(name, kind)
    if found.shape != shape:
        file.refuse(f"/{name} has shape {found.shape}, expected {shape}")
    values = found[()]
    if kind != "f":
        return values
    values = values.astype(np.float64, copy=False)
    return values if name.startswith("certificate/") else finite(file, name, values)


def _optional(file: CheckedFile, name: str, shape, kind: str = "f") -> np.ndarray | None:
    return _array(file, name, shape, kind) if name in file.file else None


def _blocks(file: CheckedFile, n: int) -> tuple:
    blocks, offset = [], 0
    for row in file.dataset("blocks")[()]:
        name, shape = row["name"].decode(), row["shape"].decode()
        shape = tuple(int(size) for size in shape.split(",") if size)
        sound = min(shape, default=0) >= 0 and int(row["size"]) == math.prod(shape)
        if int(row["offset"]) != offset or not sound:
            file.refuse(f"/blocks: {name} does not follow the block before it")
        blocks.append((one_line(name), shape, offset))
        offset += int(row["size"])
    if blocks and offset != n:
        file.refuse(f"/blocks cover {offset} parameters of {n}")
    return tuple(blocks)
