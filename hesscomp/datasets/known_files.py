"""Files that are known by their SHA-256: those that hesscomp carries, and downloads."""

import hashlib
import importlib.resources
from pathlib import Path

from hesscomp.errors import InputError, reason

SECONDS = 30  # without a byte


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

    Pooch fetches it under another name and renames it, so that the file is whole and several nodes
    with one file system may do it at once. `instead` says, in errors, what to do without a network.

    Raises InputError where there is no network, or the file is not what its hash says.
    """
    if path.exists():
        if not _is(path.read_bytes(), sha256):
            raise InputError(f"{path}: is damaged, or another file; remove it to download it again")
        return path
    import pooch  # here: few download, and it takes a while to load

    pooch.get_logger().setLevel("WARNING")
    get = pooch.HTTPDownloader(timeout=SECONDS)
    try:
        pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent, downloader=get)
    except ValueError as error:
        raise InputError(f"{url}: sends another file than it used to; {instead}") from error
    except OSError as error:
        raise InputError(f"{url}: cannot be fetched ({reason(error)}); {instead}") from error
    return path


def _is(data: bytes, sha256: str) -> bool:
    return hashlib.sha256(data).hexdigest() == sha256
