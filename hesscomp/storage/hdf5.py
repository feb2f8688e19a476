"""HDF5 files: those that are not trusted, read through checks, and new ones."""

import copy
import io
import math
import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import h5py
import numpy as np

import hesscomp
from hesscomp.errors import HesscompError, InputError, reason
from hesscomp.storage import heaps
from hesscomp.storage.archives import MAX_COMPRESSION

LINEAR_MODEL = "hesscomp-model"  # the format of files of `hesscomp.linear`, whose import loads MPI
CHECKSUM = 4  # bytes of one by fletcher32


class CheckedFile:
    """An open HDF5 file that is not trusted, and the checks of it.

    Objects are reached by hard links only and data must lie in the file itself, so that reading a
    file never opens another. Sizes are compared with the file's length before anything is
    allocated. Heaps are checked before the HDF5 library reads them.

    As a context manager it closes the file, and turns what h5py raises, which may be nearly
    anything, into an InputError that names the file.

    Parameters
    ----------
    path : path
    what : str
        What the file should be, for messages.
    called : str, optional
        Its name in messages, where the file was unpacked from another one.
    """

    def __init__(self, path: str | os.PathLike, what: str = "data file", called: str | None = None):
        self.path, self.what = called or path, what
        try:
            self.stream = _Stream(path, self.path)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except IsADirectoryError:
            raise InputError(f"{path}: is a folder, not a {what}") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        self.size = os.fstat(self.stream.fileno()).st_size
        self.claims: Counter[str] = Counter()  # bytes of each data set requested, and of all
        try:
            self.file = h5py.File(self.stream, "r")
        except Exception as error:
            self.stream.close()
            raise self._damaged(error) from error

    def __enter__(self) -> "CheckedFile":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.file.close()
        self.stream.close()
        if isinstance(error, Exception) and not isinstance(error, HesscompError | MemoryError):
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"{self.path}: cannot be read as a {self.what} ({reason(error)})")

    def refuse(self, why: str) -> NoReturn:
        """Raise InputError with the file's name and the reason `why`."""
        raise InputError(f"{self.path}: not a valid {self.what}: {reason(why)}")

    def object(self, name: str):
        """Return the group or data set at `name`."""
        at = self.file
        for part in name.strip("/").split("/"):
            if not isinstance(at, h5py.Group) or part not in at:
                self.refuse(f"/{name} is missing")
            if not isinstance(at.get(part, getlink=True), h5py.HardLink):
                self.refuse(f"/{name} is a link to elsewhere")
            at = at[part]
        return at

    def within(self, name: str) -> "CheckedFile":
        """Return this file as seen from one of its groups."""
        other = copy.copy(self)
        other.file, other.path = self.group(name), f"{self.path}/{name}"
        return other

    def group(self, name: str) -> h5py.Group:
        found = self.object(name)
        if not isinstance(found, h5py.Group):
            self.refuse(f"/{name} is not a group")
        return found

    def dataset(self, name: str, kinds: str | None = None, packed: bool = True) -> h5py.Dataset:
        """Return the data set at `name`; refuse it if this file cannot hold what it claims.

        `kinds` are the NumPy type kinds that are accepted, all by default; `packed` says whether
        the data may be compressed. The claims of all data sets that were requested add up, because
        many names may lead to one place.
        """
        found = self.object(name)
        if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
            self.refuse(f"/{name} is not a data set stored in this file")
        if _has_sequences(found.id.get_type()):
            self.refuse(f"/{name} holds sequences of variable length")
        chunk = math.prod(found.chunks or ()) * found.dtype.itemsize
        if _has_short_chunks(found):
            self.refuse(f"/{name} has chunks without their checksum")
        place, claimed = f"{self.path}/{name}", max(found.nbytes, chunk)
        self.claims["all"] += claimed - self.claims[place]
        self.claims[place] = claimed
        most = self.size * (MAX_COMPRESSION if packed else 1)
        if claimed > most:
            self.refuse(f"/{name} claims {claimed} bytes in a file of {self.size}")
        if self.claims["all"] > most:  # one has many names
            self.refuse(f"its data claim {self.claims['all']} bytes in a file of {self.size}")
        if kinds is not None and found.dtype.kind not in kinds:
            self.refuse(f"/{name} has type {found.dtype}, not numbers of the kind expected")
        return found

    def attributes(self, name: str | None = None) -> h5py.AttributeManager:
        """Return the attributes of the group `name` (default: the root), all safe to read."""
        group = self.file if name is None else self.group(name)
        self._check_attributes(group)
        return group.attrs

    def _check_attributes(self, found: h5py.Group | h5py.Dataset) -> None:
        """Refuse sequences of variable length, on which HDF5 1.14.6 may crash."""
        for i in range(h5py.h5a.get_num_attrs(found.id)):
            if _has_sequences(h5py.h5a.open(found.id, index=i).get_type()):
                self.refuse("an attribute is a sequence of variable length")

    def check_all(self) -> None:
        """Refuse the file unless another reader can safely read all that it holds."""
        self.stream.check_heaps()
        self._check_attributes(self.file)
        links = []
        self.file.visititems_links(lambda *found: links.append(found))
        for name, link in links:
            if not isinstance(link, h5py.HardLink):
                self.refuse(f"/{name} is a link to elsewhere")
            found = self.file[name]
            if isinstance(found, h5py.Dataset):
                self.dataset(name)
            if isinstance(found, h5py.Dataset | h5py.Group):
                self._check_attributes(found)


@contextmanager
def new_file(path: str | os.PathLike) -> Iterator[h5py.File]:
    """Open a new HDF5 file to write to; raise the system's OSError where it cannot be written.

    The HDF5 library (1.14.6) cannot close a file that it failed to write, and may crash when it
    closes another one. So the error is kept from the library and raised in the end.
    """
    with _Sink(path) as sink:
        try:
            with h5py.File(sink, "w") as file:
                yield file
        finally:
            if sink.error is not None:
                raise sink.error


class _Sink(io.FileIO):
    """A file that keeps its first error of writing and ignores what is written after it."""

    def __init__(self, path: str | os.PathLike):
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, data) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while self.error is None and done < len(view):
            done += self._kept(super().write, view[done:]) or 0
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        if self.error is None:
            self._kept(super().truncate, size)
        return size

    def _kept(self, work: Callable, *arguments):
        try:
            return work(*arguments)
        except OSError as error:
            self.error = error


class _Stream(io.FileIO):
    """A file as the HDF5 library reads it, piece by piece; global heaps are checked on the way."""

    def __init__(self, path: str | os.PathLike, called: str | os.PathLike):
        super().__init__(path)
        self.called = called

    def readinto(self, buffer) -> int:
        at, view, done = self.tell(), memoryview(buffer), 0
        while done < len(view) and (got := super().readinto(view[done:])):
            done += got
        if view[:4] == heaps.SIGNATURE:
            self._check_heap(at)
        return done

    def check_heaps(self) -> None:
        """Find and check the heaps in all of the file."""
        with mmap.mmap(self.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.find(heaps.SIGNATURE + b"\1")
            while at >= 0:
                self._check_heap(at)
                at = content.find(heaps.SIGNATURE + b"\1", at + 1)

    def _check_heap(self, start: int) -> None:
        head = os.pread(self.fileno(), heaps.HEAD.size, start)
        _, size = heaps.HEAD.unpack(head.ljust(heaps.HEAD.size, b"\0"))
        fits = start + size <= os.fstat(self.fileno()).st_size
        if not (fits and heaps.is_sound(os.pread(self.fileno(), size, start))):
            raise InputError(
                f"{self.called}: its global heap is damaged, or holds numbers in sequences of "
                "variable length; fetch it again, or write it without them"
            )


def _has_short_chunks(found: h5py.Dataset) -> bool:
    """Return whether chunks lack their checksums, on which HDF5 1.14.6 crashes.

    A checksum is at the end of a stored chunk, where other libraries write it too.
    """
    if not found.fletcher32:
        return False
    sizes = []
    found.id.chunk_iter(lambda chunk: sizes.append(chunk.size))
    pipeline = found.id.get_create_plist()
    last = pipeline.get_filter(pipeline.get_nfilters() - 1)[0]
    return last != h5py.h5z.FILTER_FLETCHER32 or min(sizes, default=CHECKSUM) < CHECKSUM


def _has_sequences(kind: h5py.h5t.TypeID) -> bool:
    """Return whether a type contains sequences of variable length; texts are none.

    Such a sequence may claim any length. HDF5's own `detect_class` mistakes texts in compound types
    for sequences.
    """
    if isinstance(kind, h5py.h5t.TypeCompoundID):
        members = map(kind.get_member_type, range(kind.get_nmembers()))
        return any(map(_has_sequences, members))
    if isinstance(kind, h5py.h5t.TypeArrayID):
        return _has_sequences(kind.get_super())
    return kind.get_class() == h5py.h5t.VLEN


def count(file: CheckedFile, name: str) -> int:
    """Return an attribute that counts something."""
    value = file.attributes().get(name)
    if not isinstance(value, np.integer) or value < 0:
        file.refuse(f"attribute {name} is missing or not a count")
    return int(value)


def finite(file: CheckedFile, name: str, values: np.ndarray) -> np.ndarray:
    """Return the values of the data set `name`; refuse the file unless all are finite."""
    if not np.isfinite(values).all():
        file.refuse(f"/{name} holds numbers that are not finite")
    return values


def write_header(group: h5py.Group, form: str, version: int, **more: str) -> None:
    """Write the header of a file, or of a group that is laid out as one.

    `form` is the format's name, such as "hesscomp-factor"; `more` are attributes of this format.
    """
    group.attrs["format"], group.attrs["format_version"] = form, np.int64(version)
    group.attrs["hesscomp_version"] = hesscomp.__version__
    group.attrs.update(more)


def mapped_dataset(path: str | os.PathLike, found: h5py.Dataset) -> np.ndarray:
    """Return a data set of a file as an array that is mapped into memory, read-only.

    Raises
    ------
    InputError
        Where its rows do not stand one after the other in the file: in chunks, so where it is
        compressed or may grow.
    """
    offset = found.id.get_offset()
    if found.size == 0:
        return np.empty(found.shape, found.dtype)
    if found.chunks is not None or offset is None:
        raise InputError(
            f"{path}: {found.name} is stored in chunks, which cannot be mapped into memory; "
            "store it plainly (create_dataset without chunks and compression, or h5repack -l CONTI)"
        )
    return np.memmap(path, found.dtype, "r", offset, found.shape)


def is_linear_model(path: str | os.PathLike) -> bool:
    """Return whether a file is one of a fitted linear model; InputError if it is not HDF5."""
    return format_of(path) == LINEAR_MODEL


def format_of(path: str | os.PathLike) -> str | None:
    """Return what a file says that it is; InputError if it is not HDF5."""
    with CheckedFile(path, "hesscomp file") as file:
        return file.attributes().get("format")


def check_header(file: CheckedFile, form: str, version: int) -> None:
    """Refuse a file of another format, and one of a newer version than `version`."""
    found = file.attributes().get("format")
    if found != form:
        file.refuse(f"its format attribute is {found!r}, not {form!r}")
    stored = count(file, "format_version")
    if not 1 <= stored <= version:
        file.refuse(f"its format version is {stored}, this hesscomp reads up to {version}")
