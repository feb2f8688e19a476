"""Zip archives from files that are not trusted."""

import os
import zipfile

from hesscomp.errors import InputError, reason

MAX_COMPRESSION = 1100  # deflate cannot shrink further: a larger claim is a forged size


def check_member(path: str | os.PathLike, info: zipfile.ZipInfo) -> None:
    """Refuse what would unpack to more than the archive at `path` can hold.

    What an archive says of itself is not believed: nothing in it is longer packed than the file.
    And only plain or deflated members unpack no further than they are read (bzip2's and LZMA's do
    at once, whatever length was claimed).

    Raises
    ------
    InputError
        If the member is packed in another way, or claims too much.
    """
    name, packed = reason(info.filename), min(info.compress_size, os.path.getsize(path))
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{path}: {name} is packed otherwise than by deflate; write it anew")
    if info.file_size > MAX_COMPRESSION * max(packed, 1):
        raise InputError(f"{path}: {name} claims {info.file_size} bytes unpacked")
