"""Files that are known by their SHA-256: those that hesscomp carries, and downloads."""

import hashlib
import http.client
import importlib.resources
import urllib.request
from pathlib import Path

from hesscomp.errors import InputError, reason
from hesscomp.storage.files import atomic_path

SECONDS = 30  # without a byte
MOST = 2**28  # bytes


def packaged_file(folder: str, name: str) -> Path:
    """Return the file `name` in a folder of this package.

    Raises InputError if it is not what the folder's SHA256SUMS says.
    """
    inside = Path(str(importlib.resources.files("hesscomp.datasets") / folder))
    sums = dict(line.split()[::-1] for line in (inside / "SHA256SUMS").read_text().splitlines())
    if not _is((inside / name).read_bytes(), sums[name]):
        raise InputError(f"{name}: the packaged file is damaged; install hesscomp again")
    return inside / name


def downloaded_file(url: str, sha256: str, path: Path, instead: str) -> Path:
    """Return `path`, downloaded from `url` if it is missing.

    Fetched under another name and renamed, so that the file is whole and several nodes with one
    file system may do it at once. `instead` says, in errors, what to do without a network.

    Raises InputError where there is no network, or the file is not what its hash says.
    """
    if path.exists():
        if not _is(path.read_bytes(), sha256):
            raise InputError(f"{path}: is damaged, or another file; remove it to download it again")
        return path
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            data = answer.read(MOST)
    except (OSError, http.client.HTTPException) as error:
        why = reason(getattr(error, "reason", error))
        raise InputError(f"{url}: cannot be fetched ({why}); {instead}") from error
    if not _is(data, sha256):
        raise InputError(f"{url}: sends another file than it used to; {instead}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


def _is(data: bytes, sha256: str) -> bool:
    return hashlib.sha256(data).hexdigest() == sha256
