"""A lock on a folder: one run uses it at a time."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from hesscomp.errors import InputError
from hesscomp.parallel.ledger import Ledger

NAME = ".lock"
TAKEN = (errno.EACCES, errno.EAGAIN)


@contextmanager
def sole_use(folder: str | os.PathLike | None, world) -> Iterator[None]:
    """Keep other jobs out of a run's folder while the block runs. Collective.

    Without a folder nothing happens. A missing folder is made, and an empty one removed in the end.
    Rank 0 holds a lock of the operating system on a file in the folder, which ends with the
    process, however that ends. A file system without locks keeps no job out.

    Raises
    ------
    InputError
        If another process holds the lock.
    """
    if folder is None:
        yield
        return
    folder, held = Path(folder), None
    with world.with_ledger(Ledger()).phase(f"opening {folder}"):
        if world.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            held = _lock(folder)
    try:
        yield
    finally:
        if held is not None:
            with suppress(OSError):
                (folder / NAME).unlink()
                folder.rmdir()
            held.close()


def _lock(folder: Path) -> TextIO:
    stream = open(folder / NAME, "w")  # noqa: SIM115 (closed at the end of the use)
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = not _is_at(folder / NAME, stream)  # a run that ended removed it meanwhile
    except OSError as error:
        taken = error.errno in TAKEN
    if taken:
        stream.close()
        raise InputError(f"{folder}: another run is using it; wait for its end, or name another")
    return stream


def _is_at(path: Path, stream: TextIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False
