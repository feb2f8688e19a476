"""Files from the network, fetched only where somebody asks for it by name."""

import hashlib
import http.client
import urllib.request
from pathlib import Path

from hesscomp.errors import InputError, reason
from hesscomp.storage.files import atomic_path

SECONDS = 30  # without a byte
MOST = 2**28  # bytes


def downloaded_file(url: str, sha256: str, path: Path, instead: str) -> Path:
    """Return `path`, downloaded from `url` if it is missing, after a check of its hash.

    Fetched under another name and renamed, so that the file is whole and several nodes with one
    file system may do it at once.

    Parameters
    ----------
    instead : str
        What to do without a network, for the error's text.

    Raises
    ------
    InputError
        Where there is no network, or the file is not what its hash says.
    """
    if not path.exists():
        data = _fetched(url, instead)
        if not _is(data, sha256):
            raise InputError(f"{url}: sends another file than it used to; {instead}")
        _write(path, data)
    elif not _is(path.read_bytes(), sha256):
        raise InputError(f"{path}: is damaged, or another file; remove it to download it again")
    return path


def _is(data: bytes, sha256: str) -> bool:
    return hashlib.sha256(data).hexdigest() == sha256


def _fetched(url: str, instead: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return answer.read(MOST)
    except (OSError, http.client.HTTPException) as error:
        why = reason(getattr(error, "reason", error))
        raise InputError(f"{url}: cannot be fetched ({why}); {instead}") from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
