"""CSV with a header, dense; separated by commas, or by semicolons or tabs without a comma."""

import csv
import io

import numpy as np

from hesscomp.datasets.text import TextSource, shown
from hesscomp.errors import InputError, some
from hesscomp.runs.memory import aligned_empty

SEPARATORS = ",;\t"
MAX_HEADER = 2**24
MAX_LABEL = 200  # characters: NumPy gives all labels the room of the longest


class CsvSource(TextSource):
    """All columns but the label's are numbers. Cells may be quoted, but hold no line break."""

    def __init__(self, path, label, rank, size):
        super().__init__(path, label, rank, size)
        header = b""
        with self._stream() as stream:
            while line := stream.readline(MAX_HEADER):
                self.begin += len(line)
                if len(line) == MAX_HEADER:
                    raise InputError(f"{path}: has a line of over {MAX_HEADER} bytes at its head")
                if (header := line.strip()) and header[:1] != b"#":
                    break
        try:
            text = header.decode().lstrip("\ufeff")
            self.separator = next((mark for mark in SEPARATORS if mark in text), ",")
            self.names = names = self._cells(text)
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(
                f"{path}: the header is not CSV in UTF-8 ({error}); convert the file"
            ) from error
        if not any(names):
            raise InputError(f"{path}: is empty; the first line must name the columns")
        if all(_number(name) is not None for name in names):
            raise InputError(f"{path}: the first line holds numbers; it must name the columns")
        if len(names) < 2:
            raise InputError(f"{path}: has a single column; it needs features and a label")
        if label is not None and names.count(label) != 1:
            found = "more than one column is" if label in names else "no column is"
            raise InputError(f"{path}: {found} named {label!r}; it has {some(names)}")
        self.at = len(names) - 1 if label is None else names.index(label)
        self.columns = tuple(names[: self.at] + names[self.at + 1 :])

    def parse(self, lines, row):
        try:
            table = np.loadtxt(
                io.BytesIO(b"\n".join(lines)), delimiter=self.separator, comments=None, ndmin=2,
                quotechar='"',
            )  # fmt: skip
        except ValueError:
            return self._parse_slowly(lines, row)
        if table.shape != (len(lines), len(self.names)) or not np.isfinite(table).all():
            return self._parse_slowly(lines, row)
        return np.delete(table, self.at, axis=1), table[:, self.at]

    def _parse_slowly(self, lines, row):
        """Rows that are not all numbers: labels in words, or an error to be named."""
        X, labels = [], []
        for i, line in enumerate(lines):
            try:
                cells = self._cells(line.decode())
            except (UnicodeDecodeError, csv.Error) as error:
                self.refuse(row + i, f" is not CSV in UTF-8 ({error}); mend or remove it")
            if len(cells) != len(self.names):
                self.refuse(
                    row + i,
                    f" has {len(cells)} columns, the header {len(self.names)}; mend or remove it",
                )
            labels.append(cells.pop(self.at))
            if not labels[-1]:
                self.refuse(row + i, " has no label; mend or remove it")
            if len(labels[-1]) > MAX_LABEL:
                self.refuse(row + i, f" has a label of over {MAX_LABEL} characters; shorten it")
            try:
                X.append(np.array(cells, dtype=np.float64))
            except ValueError:
                self._refuse_cell(row + i, cells)
            if not np.isfinite(X[-1]).all() or any("_" in cell for cell in cells):
                self._refuse_cell(row + i, cells)
        return np.array(X), np.array(labels)

    def _refuse_cell(self, row: int, cells: list[str]):
        for column, cell in zip(self.columns, cells, strict=True):
            value = _number(cell)
            if value is None or not np.isfinite(value):
                remedy = "encode it as a number" if value is None else "fill it in"
                remedy += " or remove the row"
                self.refuse(row, f", column {column} holds {shown(cell)}; {remedy}")

    def _cells(self, text: str) -> list[str]:
        return [cell.strip() for cell in next(csv.reader([text], delimiter=self.separator), [])]

    def join(self, parts):
        tables, labels = zip(*parts, strict=True) if parts else ((), (np.empty(0),))
        X = aligned_empty((sum(len(table) for table in tables), len(self.columns)), np.float64)
        if tables:
            np.concatenate(tables, out=X)
        if any(part.dtype.kind == "U" for part in labels):
            labels = [part.astype(str) for part in labels]
        return X, np.concatenate(labels)

    def agree(self, X, start, gather, train):
        if train is not None and train.columns != self.columns:
            raise InputError(
                f"{self.path}: its columns are not those of {train.path}, in that order; "
                "write both files alike"
            )
        return X, len(self.columns)


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None
