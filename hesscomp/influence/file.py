"""The HDF5 file of a sensitivity."""

import os
from dataclasses import fields

import numpy as np

from hesscomp.influence.result import Sensitivity
from hesscomp.storage.files import atomic_path
from hesscomp.storage.hdf5 import new_file, write_header


def save_sensitivity(result: Sensitivity, path: str | os.PathLike) -> None:
    """Write a result to an HDF5 file, whole or not at all; any HDF5 reader reads it.

    Arrays are data sets and numbers and texts attributes, by the names of `Sensitivity`; its parts
    `statistics` and `laplace` are groups. What was not asked for is not there.
    """
    with atomic_path(path) as temporary, new_file(temporary) as file:
        write_header(file, "hesscomp-sensitivity", 1)
        _write(file, result)


def _write(group, part) -> None:
    for each in fields(part):
        value = getattr(part, each.name)
        if value is None:
            continue
        if each.name in ("statistics", "laplace"):
            _write(group.create_group(each.name), value)
        elif isinstance(value, np.ndarray):
            group.create_dataset(each.name, data=value)
        else:
            group.attrs[each.name] = list(value) if isinstance(value, tuple) else value
