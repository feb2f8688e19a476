"""What a reader may do with any file: give a value, or one line that names the file."""

import ctypes
import logging
import os
import resource
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from hesscomp.errors import InputError

STEM = "crafted"  # of all files' names: a line that holds it names the file
EXPANSION = 1200  # times the file's length: what its data may take unpacked, and a little more
MOST = 2000  # characters of a message
CANARY = Path(tempfile.gettempdir()) / f"hesscomp-canary-{os.getuid()}.h5"
IN_OPEN = 0x20
PAGE = resource.getpagesize()


@dataclass(frozen=True)
class Finding:
    """What a reader did and must not do.

    Attributes
    ----------
    where : str
        Kind and place; the same for the same mistake.
    text : str
        All that is known, for people.
    """

    where: str
    text: str


class Canary:
    """A file that crafted files point at, and that no reader may open (Linux: inotify)."""

    def __init__(self):
        if not CANARY.exists():
            with h5py.File(CANARY, "w") as file:
                file["eigenvectors"] = file["X"] = np.ones((12, 4))
        self.libc = ctypes.CDLL(None)
        self.events = self.libc.inotify_init1(os.O_NONBLOCK)
        self.libc.inotify_add_watch(self.events, os.fsencode(CANARY), IN_OPEN)

    def was_opened(self) -> bool:
        """Since the last call."""
        try:
            return bool(os.read(self.events, 4096))
        except BlockingIOError:
            return False


@cache
def canary() -> Canary:
    return Canary()


def judge(read: Callable[[Path], object], path: Path, spare: int) -> Finding | None:
    """Let `read` read a file with little memory, `spare` beside its due; None if it did well.

    It does well if it returns, or raises InputError or OSError with one line that names the file
    (of several, any); and if it leaves the canary alone.
    """
    canary().was_opened()
    finding = _judge(read, path, spare)
    return Finding("opens another file", str(CANARY)) if canary().was_opened() else finding


def _judge(read, path: Path, spare: int) -> Finding | None:
    try:
        with_little_memory(read, path, spare)
    except (InputError, OSError) as error:
        line = _line(error)
        if len(line) > MOST or not line.isprintable():
            return Finding(f"not one printable line: {_place(error)}", repr(line))
        if STEM not in line:
            return Finding(f"does not name the file: {_place(error)}", line)
        return None
    except BaseException as error:
        return Finding(f"{type(error).__name__}: {_place(error)}", traceback.format_exc())
    return None


def with_little_memory(read: Callable[[Path], object], path: Path, spare: int) -> object:
    """``read(path)``, its address space limited by the file's length."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as stream:
        used = int(stream.read().split()[0]) * PAGE
    limit = used + spare + EXPANSION * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        return read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, hard))


def _line(error: Exception) -> str:
    """What the command line would print of it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _place(error: BaseException) -> str:
    """The innermost lines of hesscomp and of all."""
    while error.__cause__ is not None and not isinstance(error, InputError):
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/hesscomp/" in frame.filename]
    places = dict.fromkeys(f"{Path(f.filename).name}:{f.lineno}" for f in (ours[-1:] + frames[-1:]))
    return " ".join(places)


def keep_quiet() -> None:
    """No logging, no warnings: only errors count."""
    logging.disable(logging.CRITICAL)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
