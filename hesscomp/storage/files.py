"""Files that are whole or absent, and checks of paths before the work is done."""

import errno
import glob
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hesscomp.errors import InputError

SPACE, PLACE = "free some space or name another folder", "name a folder that can be written"
REMEDIES = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EROFS: PLACE,
    errno.EACCES: PLACE,
    errno.EPERM: PLACE,
    errno.EFBIG: "raise the limit (ulimit -f) or write less",
    errno.EIO: "the disk may be broken; name another folder",
}


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` once the block succeeds.

    The data are flushed to disk before the rename. If the block raises, the temporary file is
    removed and an earlier file at `path` is left as it was; errors are those of `writing`. What
    killed processes of this machine left of writing the same path is removed too.
    """
    path = Path(path)
    if not path.parent.is_dir():
        text = "its folder does not exist; make it, or name another"
        raise FileNotFoundError(errno.ENOENT, text, os.fspath(path))
    begin = f".{path.name}.{platform.node()}."
    ending = "".join(path.suffixes[-2:])  # by which other libraries go: .npz, .weights.h5
    temporary = path.with_name(f"{begin}{os.getpid()}.tmp{ending}")
    _remove_orphans(path.parent, begin)
    with writing(path):
        try:
            yield temporary
            flush_file(temporary)
            os.replace(temporary, path)
            flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _remove_orphans(folder: Path, begin: str) -> None:
    """Remove temporary files whose names go on, after `begin`, with the number of no process."""
    for path in folder.glob(f"{glob.escape(begin)}*.tmp*"):
        pid = path.name.removeprefix(begin).partition(".")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            remove_files([path])
        except (ValueError, OverflowError, OSError):  # another's file or process
            continue


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn a failure of the block for want of room or rights into an OSError with a remedy.

    The error names `path`: other libraries name the temporary file, and NumPy gives no number.
    """
    try:
        yield
    except Exception as error:
        number = _system_error(error)
        if number is None:
            raise
        text = f"{os.strerror(number)}; {REMEDIES[number]}"
        raise OSError(number, text, os.fspath(path)) from error


def _system_error(error: BaseException | None) -> int | None:
    """Return the error number, one of `REMEDIES`, of an exception or of one that led to it."""
    while error is not None:
        number = getattr(error, "errno", None)
        if number is None and re.fullmatch(r"\d+ requested and \d+ written", str(error)):
            number = errno.ENOSPC  # NumPy, which does not say why
        if number in REMEDIES:
            return number
        error = error.__context__
    return None


def remove_leftovers(folder: str | os.PathLike, name: str) -> None:
    """Remove the temporary files in `folder` of killed processes that wrote files named `name`.

    `name` is a pattern. Call it only where no other process writes such files in the folder.
    """
    remove_files(list(Path(folder).glob(f".{name}.*.tmp*")))


def remove_files(paths: list[Path]) -> None:
    """Remove files; leave those that cannot be removed."""
    for path in paths:
        with suppress(OSError):
            path.unlink()


def flush_file(path: Path) -> None:
    """Flush a file's contents to disk."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


PICTURES = (".png", ".pdf", ".svg")


def check_picture_name(path: str | os.PathLike) -> None:
    """Raise InputError unless `path` ends in one of `PICTURES`."""
    if Path(path).suffix.lower() not in PICTURES:
        raise InputError(f"{path}: pictures end in {', '.join(PICTURES)}; name one of these")


def check_outputs(*paths: str | os.PathLike | None) -> None:
    """Raise InputError unless a file can be written at each path and no two are the same."""
    given = [path for path in paths if path is not None]
    if len(set(given)) < len(given):
        raise InputError("two outputs have the same name; give each its own")
    for path in given:
        check_writable(path)


def check_writable(path: str | os.PathLike) -> None:
    """Raise InputError unless a file can be written at `path`.

    It makes and removes a file beside it: permission bits alone do not tell (read-only mounts,
    quotas, root).
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file to write")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); "
            "name a folder that exists and is writable"
        ) from error


def find_files(words: list[str], what: str) -> list[str]:
    """Return the files that names and patterns stand for, sorted by the numbers in their names.

    Raises InputError for a pattern that fits no file; `what` names its parameter.
    """
    files = []
    for word in words:
        found = [word] if os.path.exists(word) or not glob.has_magic(word) else glob.glob(word)
        if not found:
            raise InputError(f"{what} {word}: no file fits this pattern")
        files += found
    return sorted(
        files, key=lambda name: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", name)]
    )
