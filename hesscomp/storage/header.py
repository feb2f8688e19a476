"""What every HDF5 file of hesscomp begins with: its format, the format's version, who wrote it."""

import h5py
import numpy as np

import hesscomp
from hesscomp.storage.hdf5 import CheckedFile, count


def write_header(group: h5py.Group, form: str, version: int, **more: str) -> None:
    """Write the header of a file, or of a group that is laid out as one.

    Parameters
    ----------
    group : h5py.Group
    form : str
        The format's name, such as "hesscomp-factor".
    version : int
        Of the format, from 1.
    **more : str
        Attributes of this format alone.
    """
    group.attrs["format"], group.attrs["format_version"] = form, np.int64(version)
    group.attrs["hesscomp_version"] = hesscomp.__version__
    group.attrs.update(more)


def check_header(file: CheckedFile, form: str, version: int) -> None:
    """Refuse a file of another format, and one of a newer version than `version`.

    Raises
    ------
    InputError
        With the file's name, what its header says and what it should say.
    """
    found = file.attributes().get("format")
    if found != form:
        file.refuse(f"its format attribute is {found!r}, not {form!r}")
    stored = count(file, "format_version")
    if not 1 <= stored <= version:
        file.refuse(f"its format version is {stored}, this hesscomp reads up to {version}")
