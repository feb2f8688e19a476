"""The trajectory file: the factors at several points of one model, in one HDF5 file.

The layout is documented in docs/factor-file.md. Reading trusts nothing, as for factor files.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import h5py
import numpy as np

from hesscomp.errors import one_line
from hesscomp.factors.factor import Factor
from hesscomp.factors.hdf5 import TRAJECTORY, kind_of, read_group, write_group, write_header
from hesscomp.storage.files import atomic_path
from hesscomp.storage.hdf5 import CheckedFile, count, new_file

GROUP = "factors/{:04d}"


@dataclass(frozen=True)
class Trajectory:
    """Factors of one operator at several points, in order.

    Attributes
    ----------
    labels : tuple of str
        What each point is called: the file that it came from.
    factors : tuple of Factor
    """

    labels: tuple[str, ...]
    factors: tuple[Factor, ...]


@contextmanager
def trajectory_writer(path: str | os.PathLike) -> Iterator[Callable[[str, Factor], None]]:
    """Write a trajectory file factor by factor: ``add(label, factor)`` for each, in order.

    Nothing is kept in memory. A file at `path` is replaced only by a whole new one, at the end of
    the block; OSError if it cannot be written. Factors are replicated ones of one order; one rank
    writes.
    """
    labels: list[str] = []
    with atomic_path(path) as temporary, new_file(temporary) as file:

        def add(label: str, factor: Factor) -> None:
            write_group(file.create_group(GROUP.format(len(labels))), factor)
            labels.append(label)
            file.attrs["n"] = np.int64(factor.n)

        yield add
        write_header(file, TRAJECTORY)
        file.attrs["count"] = np.int64(len(labels))
        file.create_dataset("labels", data=labels, dtype=h5py.string_dtype("utf-8"))


def load_trajectory(path: str | os.PathLike) -> Trajectory:
    """Read a trajectory file, all factors with all their rows; errors as `load_factor`."""
    with CheckedFile(path, "trajectory file") as file:
        if kind_of(file) != TRAJECTORY:
            file.refuse(f"its kind is {kind_of(file)!r}, not {TRAJECTORY!r}; read it as a factor")
        size, labels = count(file, "count"), file.dataset("labels", "O")
        if labels.shape != (size,):
            file.refuse(f"/labels has shape {labels.shape}, expected {(size,)}")
        factors = tuple(read_group(file.within(GROUP.format(i))) for i in range(size))
        if any(factor.n != count(file, "n") for factor in factors):
            file.refuse("its factors are not all of the order that attribute n says")
        return Trajectory(tuple(one_line(label.decode()) for label in labels[()]), factors)


def is_trajectory(path: str | os.PathLike) -> bool:
    """Return whether a file of ours holds a trajectory; errors as `load_factor`."""
    with CheckedFile(path, "factor file") as file:
        return kind_of(file) == TRAJECTORY
