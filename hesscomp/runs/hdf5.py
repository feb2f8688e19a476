"""HDF5 objects from files that are not trusted."""

import copy
import os

import h5py

from hesscomp.errors import InputError

MAX_COMPRESSION = 1100  # deflate cannot shrink further: a larger claim is a forged size


class CheckedFile:
    """An open HDF5 file, and the checks that stand between it and memory.

    Objects are reached by hard links only and data must lie in the file itself, so that reading a
    file never opens another; sizes are compared with the file's own length before anything is
    allocated.
    """

    def __init__(self, path: str | os.PathLike, what: str = "data file"):
        self.path, self.what = path, what
        try:
            self.file = h5py.File(path, "r")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except IsADirectoryError:
            raise InputError(f"{path}: is a folder, not a {what}") from None
        except OSError as error:
            text = " ".join(str(error).split())
            raise InputError(f"{path}: cannot be read as a {what} ({text})") from error
        self.size = os.path.getsize(path)

    def __enter__(self) -> "CheckedFile":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()

    def refuse(self, reason: str):
        """Raise InputError with the file's name and `reason`."""
        raise InputError(f"{self.path}: not a valid {self.what}: {reason}")

    def object(self, name: str):
        """The group or data set at `name`."""
        at = self.file
        for part in name.strip("/").split("/"):
            if not isinstance(at, h5py.Group) or part not in at:
                self.refuse(f"/{name} is missing")
            if not isinstance(at.get(part, getlink=True), h5py.HardLink):
                self.refuse(f"/{name} is a link to elsewhere")
            at = at[part]
        return at

    def within(self, name: str) -> "CheckedFile":
        """This file as seen from one of its groups."""
        other = copy.copy(self)
        other.file, other.path = self.group(name), f"{self.path}/{name}"
        return other

    def group(self, name: str) -> h5py.Group:
        found = self.object(name)
        if not isinstance(found, h5py.Group):
            self.refuse(f"/{name} is no group")
        return found

    def dataset(self, name: str, kinds: str | None = None) -> h5py.Dataset:
        """The data set at `name`, stored here, no larger than the file can hold.

        `kinds` lists the NumPy type kinds that are accepted.
        """
        found = self.object(name)
        if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
            self.refuse(f"/{name} is no data set stored in this file")
        if found.nbytes > MAX_COMPRESSION * self.size:
            self.refuse(f"/{name} claims {found.nbytes} bytes in a file of {self.size}")
        if kinds is not None and found.dtype.kind not in kinds:
            self.refuse(f"/{name} has type {found.dtype}, not numbers of the kind expected")
        return found
