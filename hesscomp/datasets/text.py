"""Text files of labelled rows: LIBSVM and CSV, parsed by all ranks together.

A rank first counts the rows in its share of the file's bytes; from all ranks' counts it knows where
its own rows begin, and reads no others but those that share a byte range with them.
"""

import bz2
import csv
import gzip
import io
import lzma
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse

from hesscomp.errors import InputError

BATCH_BYTES = 2**23  # of text parsed at a time
MAX_LINE = 2**28
MAX_INDEX = 2**31 - 1
OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class TextSource:
    """Rows of a text file, one a line; blank lines and lines that begin with # are none."""

    columns: tuple[str, ...] | None = None
    grows = False  # whether the number of columns is only known once all rows are read
    header_lines = 0

    def __init__(self, path: Path, label: str | None, rank: int, size: int):
        self.path, self.label, self.rank, self.size = path, label, rank, size
        self.open = OPENERS.get(path.suffix.lower(), open)
        self.compressed = self.open is not open
        self.length = path.stat().st_size

    def _share(self, rank: int) -> tuple[int, int]:
        """The byte range whose line beginnings are this rank's to count."""
        if self.compressed:  # cannot be entered in the middle: rank 0 counts for all
            return (0, 2**62) if rank == 0 else (2**62, 2**62)
        return self.length * rank // self.size, self.length * (rank + 1) // self.size

    def count(self) -> int:
        """Rows that begin in this rank's byte range."""
        first, last = self._share(self.rank)
        return sum(len(batch) for batch in self._batches(first, last))

    def total(self, counts: list[int]) -> int:
        return sum(counts)

    def read(self, start: int, stop: int, counts: list[int]):
        """Rows start:stop as (X, labels)."""
        owner = int(np.searchsorted(np.cumsum(counts), start, side="right"))
        row = sum(counts[:owner])
        parts = []
        if start < stop:
            for batch in self._batches(self._share(owner)[0], 2**62):
                lines = batch[max(start - row, 0) : max(stop - row, 0)]
                if lines:
                    parts.append(self.parse(lines, max(start, row)))
                row += len(batch)
                if row >= stop:
                    break
        return self.join(parts)

    def _batches(self, first: int, last: int) -> Iterator[list[bytes]]:
        """The rows whose lines begin in bytes first:last, some at a time."""
        if first >= last or (not self.compressed and first >= self.length):
            return
        try:
            with self.open(self.path, "rb") as stream:
                position = first
                if first > 0:  # a line that began earlier is not ours
                    stream.seek(first - 1)
                    position = first - 1 + len(stream.readline(MAX_LINE))
                skip = self.header_lines if first == 0 else 0
                while position < last:
                    data = stream.read(max(min(BATCH_BYTES, last - position), 1))
                    if not data:
                        return
                    if not data.endswith(b"\n"):
                        data += stream.readline(MAX_LINE)
                        if len(data) > MAX_LINE:
                            raise InputError(f"{self.path}: has a line of over {MAX_LINE} bytes")
                    position += len(data)
                    lines = data.split(b"\n")
                    rows = [s for line in lines if (s := line.strip()) and s[:1] != b"#"]
                    if skip:
                        taken = min(skip, len(rows))
                        rows, skip = rows[taken:], skip - taken
                    yield rows
        except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise InputError(f"{self.path}: the compressed file is damaged ({error})") from error


class LibsvmSource(TextSource):
    """LIBSVM or SVMlight text: ``label index:value ...``, indices from 1 (from 0 if one is 0)."""

    grows = True
    ROW = re.compile(rb"[^\s:]+(?:\s+\d+:[^\s:]+)*")
    QUERY = re.compile(rb"\sqid:\S*")

    def parse(self, lines: list[bytes], row: int):
        text = b"\n".join(lines)
        if b"#" in text:
            lines = [line.split(b"#", 1)[0].rstrip() for line in lines]
            text = b"\n".join(lines)
        if b"qid:" in text:
            lines = [self.QUERY.sub(b"", line) for line in lines]
            text = b"\n".join(lines)
        for i, line in enumerate(lines):
            if not self.ROW.fullmatch(line):
                self._refuse(row + i, _first_bad_token(line), "write label index:value ...")
        lengths = np.array([line.count(b":") for line in lines], dtype=np.int64)
        numbers = _numbers(text.replace(b":", b" "))
        if numbers is None or len(numbers) != len(lines) + 2 * lengths.sum():
            self._find_bad_number(lines, row)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        labels_at = 2 * indptr[:-1] + np.arange(len(lines))
        rest = np.delete(numbers, labels_at)
        indices, values = rest[0::2], rest[1::2]
        if len(indices) and indices.max() > MAX_INDEX:
            at = int(np.argmax(indices))
            self._refuse(row + _row_of(indptr, at), f"index {indices[at]:.0f}", "it is too large")
        return numbers[labels_at], self._sorted(indptr, indices.astype(np.int64), values, row)

    def _sorted(self, indptr, indices, values, row):
        rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        same = rows[1:] == rows[:-1]
        if np.any(same & (indices[1:] <= indices[:-1])):
            order = np.lexsort((indices, rows))
            indices, values = indices[order], values[order]
        twice = np.flatnonzero(same & (indices[1:] == indices[:-1]))
        if len(twice):
            at = int(twice[0])
            self._refuse(row + int(rows[at]), f"index {indices[at]} twice", "give each index once")
        return indptr, indices, values

    def join(self, parts):
        labels = np.concatenate([np.empty(0)] + [labels for labels, _ in parts])
        indices = np.concatenate([np.empty(0, np.int64)] + [part[1] for _, part in parts])
        values = np.concatenate([np.empty(0)] + [part[2] for _, part in parts])
        lengths = np.concatenate([np.empty(0, np.int64)] + [np.diff(part[0]) for _, part in parts])
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        width = int(indices.max(initial=-1)) + 1
        return scipy.sparse.csr_array((values, indices, indptr), shape=(len(labels), width)), labels

    def agree(self, X, gather):
        """Indices from 0, and one width for all ranks."""
        found = gather((int(X.indices.min(initial=1)), int(X.indices.max(initial=0))))
        base = min(1, *(low for low, _ in found)) if len(found) > 1 else min(1, found[0][0])
        width = max(high for _, high in found) + 1 - base
        index_type = np.int32 if max(width, X.nnz) <= MAX_INDEX else np.int64
        indices, indptr = (X.indices - base).astype(index_type), X.indptr.astype(index_type)
        return scipy.sparse.csr_array((X.data, indices, indptr), shape=(X.shape[0], width)), width

    def _find_bad_number(self, lines, row):
        for i, line in enumerate(lines):
            for token in line.replace(b":", b" ").split():
                if _numbers(token) is None:
                    self._refuse(row + i, _shown(token), "write numbers")
        raise InputError(f"{self.path}: rows {row + 1} to {row + len(lines)} cannot be read")

    def _refuse(self, row: int, found: str, remedy: str):
        raise InputError(f"{self.path}: row {row + 1} has {found}; {remedy}")


class CsvSource(TextSource):
    """CSV with a header; separated by commas, or by semicolons or tabs where it has no comma."""

    header_lines = 1

    def __init__(self, path: Path, label: str | None, rank: int, size: int):
        super().__init__(path, label, rank, size)
        header = b""
        with self.open(path, "rb") as stream:
            for line in stream:
                if (header := line.strip()) and header[:1] != b"#":
                    break
        text = _decoded(header, path, "the header").lstrip("\ufeff")
        self.separator = next((mark for mark in ",;\t" if mark in text), ",")
        names = [name.strip() for name in next(csv.reader([text], delimiter=self.separator), [])]
        if not any(names):
            raise InputError(f"{path}: is empty; the first line must name the columns")
        if label is not None and label not in names:
            raise InputError(f"{path}: no column is named {label!r}; it has {', '.join(names)}")
        self.names = names
        self.at = len(names) - 1 if label is None else names.index(label)
        self.columns = tuple(names[: self.at] + names[self.at + 1 :])
        if not self.columns:
            raise InputError(f"{path}: has a single column; it needs features and a label")

    def parse(self, lines: list[bytes], row: int):
        try:
            table = np.loadtxt(
                io.BytesIO(b"\n".join(lines)), delimiter=self.separator, comments=None, ndmin=2,
                quotechar='"',
            )  # fmt: skip
            if table.shape != (len(lines), len(self.names)):
                raise ValueError
            return np.delete(table, self.at, axis=1), table[:, self.at]
        except (ValueError, UnicodeDecodeError):
            return self._parse_slowly(lines, row)

    def _parse_slowly(self, lines, row):
        """Rows that are not all numbers: labels in words, or an error to be named."""
        X, labels = np.empty((len(lines), len(self.columns))), []
        for i, line in enumerate(lines):
            text = _decoded(line, self.path, f"row {row + i + 1}")
            cells = next(csv.reader([text], delimiter=self.separator))
            if len(cells) != len(self.names):
                raise InputError(
                    f"{self.path}: row {row + i + 1} has {len(cells)} columns, the header "
                    f"{len(self.names)}; mend or remove the row"
                )
            labels.append(cells.pop(self.at).strip())
            for j, cell in enumerate(cells):
                try:
                    X[i, j] = float(cell)
                except ValueError:
                    raise InputError(
                        f"{self.path}: row {row + i + 1}, column {self.columns[j]} holds "
                        f"{cell.strip()[:40]!r}; encode it as a number"
                    ) from None
        return X, np.array(labels)

    def join(self, parts):
        if not parts:
            return np.empty((0, len(self.columns))), np.empty(0)
        labels = [part for _, part in parts]
        if any(part.dtype.kind == "U" for part in labels):
            labels = [part.astype(str) for part in labels]
        return np.concatenate([X for X, _ in parts]), np.concatenate(labels)

    def agree(self, X, gather):
        return X, len(self.columns)


def _numbers(text: bytes) -> np.ndarray | None:
    """All numbers of a text separated by white space; None if there is anything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text, sep=" ")
        except (DeprecationWarning, ValueError):
            return None


def _first_bad_token(line: bytes) -> str:
    label, *tokens = line.split()
    if b":" in label:
        return f"no label before {_shown(label)}"
    bad = [token for token in tokens if not re.fullmatch(rb"\d+:[^\s:]+", token)]
    return _shown(bad[0] if bad else line[:40])


def _shown(token: bytes) -> str:
    return repr(token[:40].decode(errors="replace"))


def _row_of(indptr: np.ndarray, entry: int) -> int:
    return int(np.searchsorted(indptr, entry, side="right")) - 1


def _decoded(text: bytes, path: Path, where: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {where} is not UTF-8 text ({error.reason})") from None
