"""Files that hesscomp carries."""

import hashlib
import importlib.resources
from pathlib import Path

from hesscomp.errors import InputError


def packaged_file(folder: str, name: str) -> Path:
    """Return the file `name` in a folder of this package, after a check of its SHA-256.

    Raises
    ------
    InputError
        If it is not what the folder's SHA256SUMS says.
    """
    inside = Path(str(importlib.resources.files("hesscomp.datasets") / folder))
    sums = dict(line.split()[::-1] for line in (inside / "SHA256SUMS").read_text().splitlines())
    if hashlib.sha256((inside / name).read_bytes()).hexdigest() != sums[name]:
        raise InputError(f"{name}: the packaged file is damaged; install hesscomp again")
    return inside / name
