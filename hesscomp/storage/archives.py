"""Packed files that are not trusted: members of zip archives, and xz read in bounded memory."""

import io
import lzma
import os
import zipfile

from hesscomp.errors import InputError, reason

MAX_COMPRESSION = 1100  # deflate cannot shrink further: a larger claim is a forged size
MEMORY = 2**28  # for the dictionary, which a file may claim to be 4 GiB; `xz -9` makes it 64 MiB
CHUNK = 2**16


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


def open_xz(path: str | os.PathLike, mode: str = "rb") -> io.BufferedReader:
    """Open a file of one or more xz streams for reading, as `lzma.open` but in bounded memory.

    Reading raises InputError where unpacking needs more than 256 MiB, and what `lzma.open` raises.
    """
    return io.BufferedReader(_Unpacked(path, mode))


class _Unpacked(io.RawIOBase):
    def __init__(self, path, mode):
        self.file = open(path, mode)  # noqa: SIM115 (closed with this one)
        self._rewind()

    def _rewind(self) -> None:
        self.file.seek(0)
        self.decoder, self.at = lzma.LZMADecompressor(memlimit=MEMORY), 0

    def close(self) -> None:
        self.file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset: forward by unpacking, backward by beginning again."""
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end of a packed file is not known")
        goal = offset + (self.at if whence == io.SEEK_CUR else 0)
        if goal < self.at:
            self._rewind()
        while self.at < goal and self.read(min(CHUNK, goal - self.at)):
            pass
        return self.at

    def readinto(self, buffer) -> int:
        data = b""
        while not data and len(buffer) and self._goes_on():
            packed = self.file.read(CHUNK) if self.decoder.needs_input else b""
            if self.decoder.needs_input and not packed:
                raise EOFError("it ends before its end-of-stream marker")
            data = self._unpack(packed, len(buffer))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def _goes_on(self) -> bool:
        """Return whether there is more to unpack, such as a stream after this one's padding."""
        if not self.decoder.eof:
            return True
        packed = self.decoder.unused_data.lstrip(b"\0")
        while not packed:
            if not (read := self.file.read(CHUNK)):
                return False
            packed = read.lstrip(b"\0")
        self.file.seek(-len(packed), io.SEEK_CUR)
        self.decoder = lzma.LZMADecompressor(memlimit=MEMORY)
        return True

    def _unpack(self, packed: bytes, most: int) -> bytes:
        try:
            return self.decoder.decompress(packed, most)
        except lzma.LZMAError as error:
            if "limit" not in str(error):
                raise
            raise InputError(
                f"{self.file.name}: unpacking takes over {MEMORY >> 20} MiB; do it first (xz -d)"
            ) from error
