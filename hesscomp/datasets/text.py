"""Text files of labelled rows, one row a line, read by all ranks together.

A rank first counts the rows in its share of the file's bytes; from all ranks' counts it knows where
its own rows begin, and reads no others but those that share a byte range with them.
"""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hesscomp.datasets.encoding import Encoding
from hesscomp.datasets.reading import Reading
from hesscomp.datasets.targets import SIGNS
from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.storage.archives import MAX_COMPRESSION, open_xz

BATCH_BYTES = 2**23  # of text parsed at a time
MAX_LINE = 2**28
TO_THE_END = 2**62
# What a row may begin with although it begins with #.
EXCEL_ERRORS = (b"#N/A", b"#DIV/0!", b"#VALUE!", b"#REF!", b"#NAME?", b"#NUM!", b"#NULL!")
OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": open_xz}


class TextSource:
    """Rows of a text file; blank lines and lines that begin with # are none.

    A format parses lines and joins what it has parsed (`parse`, `join`), agrees over the ranks on
    what only the whole file tells (`agree`), and may begin after a header (`begin`).
    """

    columns: tuple[str, ...] | None = None
    has_columns = False  # whether weights and offsets may stand in columns of it
    is_table = False  # whether it is encoded by columns (`encoding`)
    targets = SIGNS  # what its labels are by default
    dtype: str | None = None
    label_is_file = False
    begin = 0  # the byte at which the rows begin
    label_name: str | None = None  # of the label's column, where columns have names
    encoding: Encoding | None = None  # of columns that have names, once the ranks have agreed
    dropped = 0  # rows that were left out for missing values
    extras: dict[str, np.ndarray]  # weights and offsets of the rows that were read

    def __init__(self, path: Path, reading: Reading, rank: int, size: int, like=None):
        self.path, self.reading, self.rank, self.size = path, reading, rank, size
        self.label, self.extras = reading.label, {}
        self.compressed = path.suffix.lower() in OPENERS
        self.length = path.stat().st_size

    def _share(self, rank: int) -> tuple[int, int]:
        """Return the byte range whose line beginnings are this rank's to count."""
        if self.compressed:  # cannot be entered in the middle: rank 0 counts for all
            return (self.begin, TO_THE_END) if rank == 0 else (TO_THE_END, TO_THE_END)
        rows = max(self.length - self.begin, 0)
        first, last = (self.begin + rows * r // self.size for r in (rank, rank + 1))
        return first, last

    def count(self) -> int:
        """Return rows that begin in this rank's byte range."""
        return sum(len(batch) for batch in self._batches(*self._share(self.rank)))

    def total(self, counts: list[int]) -> int:
        """Return rows of the file, from every rank's count."""
        return sum(counts)

    def read(self, start: int, stop: int, counts: list[int]):
        """Return rows start:stop as (X, labels)."""
        owner = int(np.searchsorted(np.cumsum(counts), start, side="right"))
        row = sum(counts[:owner])
        parts = []
        if start < stop:
            for batch in self._batches(self._share(owner)[0], TO_THE_END):
                lines = batch[max(start - row, 0) : max(stop - row, 0)]
                if lines:
                    parts.append(self.parse(lines, max(start, row)))
                row += len(batch)
                if row >= stop:
                    break
        return self.join(parts)

    def is_row(self, stripped: bytes) -> bool:
        """Return whether a stripped line is a row."""
        return bool(stripped) and (stripped[:1] != b"#" or stripped.startswith(EXCEL_ERRORS))

    def parse(self, lines: list[bytes], row: int):
        """Stripped lines, of which the first is data row `row` (from 0), for `join`."""
        raise NotImplementedError

    def join(self, parts: list):
        """All that was parsed, as (X, labels)."""
        raise NotImplementedError

    def agree(self, X, start: int, world: World, train):
        """X as all ranks must have it, and the number of columns. Collective."""
        raise NotImplementedError

    def doubts(self) -> Iterator[str]:
        """Return what the file leaves in doubt, each with its remedy."""
        return iter(())

    def where(self, row: int) -> str:
        """Return what to call a data row (from 0) in messages; reads the file up to there."""
        line, left, position = 0, row, 0
        with self._stream() as stream:
            while text := stream.readline(MAX_LINE):
                line, position = line + 1, position + len(text)
                if position > self.begin and self.is_row(text.strip()):
                    if left == 0:
                        break
                    left -= 1
        return f"row {row + 1} (line {line})"

    def refuse(self, row: int, reason: str):
        """Raise InputError for a data row (from 0)."""
        raise InputError(f"{self.path}: {self.where(row)}{reason}")

    @contextmanager
    def _stream(self):
        """The file opened as bytes; an error in its compression is an InputError."""
        try:
            with OPENERS.get(self.path.suffix.lower(), open)(self.path, "rb") as stream:
                yield stream
        except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            if getattr(error, "filename", None) is not None:
                raise
            raise InputError(
                f"{self.path}: is damaged or cut short ({error}); fetch or write it again"
            ) from error

    def _batches(self, first: int, last: int) -> Iterator[list[bytes]]:
        """The rows whose lines begin in bytes first:last, some at a time, stripped."""
        if first >= last or (not self.compressed and first >= self.length):
            return
        with self._stream() as stream:
            position = first
            if first > 0:  # a line that began earlier is not ours
                stream.seek(first - 1)
                position = first - 1 + len(stream.readline(MAX_LINE))
            while position < last:
                data = stream.read(max(min(BATCH_BYTES, last - position), 1))
                if not data:
                    return
                if not data.endswith(b"\n"):
                    data += stream.readline(MAX_LINE)
                    if len(data) > MAX_LINE:
                        raise InputError(
                            f"{self.path}: has a line of over {MAX_LINE} bytes; is it text?"
                        )
                position += len(data)
                if position > MAX_COMPRESSION * self.length:
                    raise InputError(
                        f"{self.path}: unpacks to over {MAX_COMPRESSION} times its length; "
                        "unpack it first"
                    )
                yield [s for line in data.split(b"\n") if self.is_row(s := line.strip())]


def shown(text: bytes | str) -> str:
    """Return the beginning of a piece of text, quoted, on one line, for messages."""
    return repr(text[:40].decode(errors="replace") if isinstance(text, bytes) else text[:40])
