"""The folder of a service: token, sockets, the file that tells clients where it is, the inbox."""

import fcntl
import hashlib
import json
import os
import platform
import re
import secrets
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hesscomp.errors import InputError, one_line
from hesscomp.storage.files import atomic_path, remove_files

LONGEST = 107  # bytes of a Unix socket's path: 108 with the zero at its end
TOKEN = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
ANSWER = "answer-"  # how the names of arrays begin that the service writes for clients
PARTS = "jobs", "inbox", "arrays"


def checked_name(name: str, what: str = "name") -> str:
    """Return a name of a file; InputError for a path or another text that could leave a folder."""
    if not NAME.fullmatch(name):
        raise InputError(f"{what} {name[:60]!r}: take letters, digits, '_', '-' and '.'")
    return name


@dataclass(frozen=True)
class Workspace:
    """The folder of one service, of mode 0700."""

    folder: Path

    @classmethod
    def made(cls, folder: str | os.PathLike) -> "Workspace":
        """Return the workspace in a folder, which is made if it is missing.

        Raises
        ------
        InputError
            For a folder of another user, or one that others may enter and that is not empty.
        """
        path = Path(folder).absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.getuid():
            raise InputError(f"{path}: belongs to another user; name a folder of yours")
        if status.st_mode & 0o077:
            if any(path.iterdir()):
                raise InputError(f"{path}: others may enter it; chmod 700 it, or name another")
            path.chmod(0o700)
        for part in PARTS:
            (path / part).mkdir(mode=0o700, exist_ok=True)
        return cls(path)

    @property
    def name(self) -> str:
        """What the service is called in its cookie: the same after a restart."""
        return hashlib.sha256(os.fsencode(self.folder.resolve())).hexdigest()[:12]

    @property
    def jobs(self) -> Path:
        return self.folder / "jobs"

    @property
    def log(self) -> Path:
        """What the launcher and the ranks say."""
        return self.folder / "ranks.log"

    def lock(self) -> int:
        """Keep other services out of the folder while the handle that it returns is open."""
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            why = f"cannot be locked ({error.strerror}); name a folder where `flock` works"
            if isinstance(error, BlockingIOError):
                why = "another service is using it; `hesscomp drain` ends that, or name another"
            raise InputError(f"{self.folder}: {why}") from error
        return handle

    def token(self) -> str:
        """Return the service's secret, 256 random bits; made where there is none."""
        path = self.folder / "token"
        if not path.exists():
            with atomic_path(path) as temporary:
                handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "w") as stream:
                    stream.write(secrets.token_hex(32))
        if path.stat().st_mode & 0o077:
            raise InputError(f"{path}: others may read it; remove it, a new one is made")
        token = path.read_text().strip()
        if not TOKEN.fullmatch(token):
            raise InputError(f"{path}: holds no token of a service; remove it, a new one is made")
        return token

    def bound(self, name: str) -> socket.socket:
        """Return a listening Unix socket of mode 0600 in the folder.

        Where the folder's file system or the length of its path does not allow it, the socket is
        in a folder of mode 0700 in the first of $XDG_RUNTIME_DIR, the folder of temporary files and
        /tmp that takes it: a variable may be another host's.
        """
        with suppress(OSError):
            return _listening(self.folder / name)
        elsewhere = os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"
        for folder in filter(None, elsewhere):
            place = Path(folder) / f"hesscomp-{os.getuid()}-{self.name}"
            with suppress(OSError):
                place.mkdir(mode=0o700, exist_ok=True)
                status = place.lstat()
                mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
                if not mine or status.st_mode & 0o077:
                    raise InputError(f"{place}: others may enter it; remove it")
                return _listening(place / name)
        raise InputError(
            f"{self.folder}: takes no sockets, nor does $XDG_RUNTIME_DIR, $TMPDIR or /tmp"
        )

    def announce(self, path: str, url: str | None, certificates: list[str]) -> None:
        """Tell clients where the service listens, and which certificates they may trust there."""
        known = {
            "version": 1,
            "name": self.name,
            "pid": os.getpid(),
            "host": platform.node(),
            "started": time.time(),
            "socket": path,
            "url": url,
            "certificates": certificates,
        }
        with atomic_path(self.folder / "service.json") as temporary:
            temporary.write_text(json.dumps(known) + "\n")

    def withdraw(self) -> None:
        """Tell clients that the service has ended."""
        (self.folder / "service.json").unlink(missing_ok=True)

    def inbox(self) -> Iterator[Path]:
        """Yield the jobs that clients without a connection left, the oldest first."""
        found: list[tuple[int, Path]] = []
        for path in (self.folder / "inbox").glob("*.json"):
            with suppress(OSError):  # its client may take it back meanwhile
                if path.is_file():
                    found.append((path.stat().st_mtime_ns, path))
        yield from (path for _, path in sorted(found))

    def refuse(self, path: Path, why: str) -> None:
        """Set a job of the inbox aside, with the reason beside it, for `hesscomp jobs`."""
        path.rename(path.with_suffix(".refused"))
        with atomic_path(path.with_suffix(".reason")) as temporary:
            temporary.write_text(one_line(why) + "\n")

    def remove_answers(self) -> None:
        """Remove answers that clients of an earlier service have not taken."""
        remove_files(list((self.folder / "arrays").glob(f"{ANSWER}*.npy")))

    def answer(self) -> str:
        """Return a new name of a large array that answers a request."""
        return ANSWER + secrets.token_hex(16)

    def array(self, name: str) -> Path:
        """Return the path of a large array that a request names."""
        return self.folder / "arrays" / f"{checked_name(name, 'array')}.npy"


def _listening(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > LONGEST:
        raise OSError(f"{path} is too long for a socket")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen(128)
    return listener
