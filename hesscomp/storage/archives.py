"""Members of zip archives that are not trusted."""

import os
import zipfile

from hesscomp.errors import InputError, reason

MAX_COMPRESSION = 1100  # deflate cannot shrink further: a larger claim is a forged size


def check_member(path: str | os.PathLike, info: zipfile.ZipInfo) -> None:
    """Refuse a member that would unpack to more than the archive at `path` can hold.

    The archive's own lengths are not trusted: no packed member is longer than the file. Only plain
    and deflated members are accepted, which unpack no further than they are read; bzip2 and LZMA
    unpack at once, whatever length was claimed.

    Raises
    ------
    InputError
        If the member is packed in another way, or claims too much.
    """
    name, packed = reason(info.filename), min(info.compress_size, os.path.getsize(path))
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{path}: {name} is packed otherwise than by deflate; write it again")
    if info.file_size > MAX_COMPRESSION * max(packed, 1):
        raise InputError(f"{path}: {name} claims {info.file_size} bytes unpacked")
