"""CSV with a header, dense; separated by commas, or by semicolons or tabs without a comma.

What a header leaves in doubt is said (`doubts`): a file without one, row numbers as pandas and R
write them, another column that is called a label.
"""

import csv
import io
import re
from collections.abc import Iterator

import numpy as np

from hesscomp.datasets.dataset import aligned_empty
from hesscomp.datasets.text import TextSource, shown
from hesscomp.errors import InputError, some

SEPARATORS = ",;\t"
MAX_HEADER = 2**24
MAX_LABEL = 200  # characters: NumPy gives all labels the room of the longest
MISSING = {"", "na", "n/a", "#n/a", "nan", "?", "null", "none", "."}  # as programs write it
NO_LABEL = {"", "NA", "NaN", "nan", "?", "#N/A"}  # other words may be names of classes
UNNAMED = re.compile(r"|Unnamed: \d+")  # a column of row numbers, written and written again
LABELS = {"label", "labels", "target", "class", "y", "outcome"}
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


class CsvSource(TextSource):
    """All columns but the label's are numbers. Cells may be quoted, but hold no line break."""

    columns: tuple[str, ...]
    label_name: str

    def __init__(self, path, label, rank, size):
        super().__init__(path, label, rank, size)
        header = b""
        with self._stream() as stream:
            while line := stream.readline(MAX_HEADER):
                self.begin += len(line)
                if len(line) == MAX_HEADER:
                    raise InputError(f"{path}: has a line of over {MAX_HEADER} bytes at its head")
                header = line.strip(b" \r\n")  # a tab may end a column without a name
                if header.strip() and header[:1] != b"#":
                    break
        try:
            text = header.decode().lstrip("\ufeff")
            self.separator = next((m for m in SEPARATORS if len(_cells(text, m)) > 1), ",")
            self.names = names = _cells(text, self.separator)
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(
                f"{path}: the header is not CSV in UTF-8 ({error}); convert the file"
            ) from error
        if not any(names):
            raise InputError(f"{path}: is empty; the first line must name the columns")
        if all(_number(name) is not None for name in names):
            raise InputError(
                f"{path}: the first line holds numbers; it must name the columns. Most probably "
                "the file has no header: put a line of names before its first row"
            )
        if names[0].lower() == "sep=":
            raise InputError(f"{path}: the first line is for Excel alone; remove it")
        if len(names) < 2:
            raise InputError(f"{path}: has a single column; it needs features and a label")
        if label is not None and names.count(label) != 1:
            listed = some([name or "(no name)" for name in names])
            found = "more than one column is" if label in names else "no column is"
            raise InputError(f"{path}: {found} named {label!r}; it has {listed}")
        self.at = len(names) - 1 if label is None else names.index(label)
        self.columns = tuple(names[: self.at] + names[self.at + 1 :])
        self.label_name = self._called(self.at)

    def doubts(self) -> Iterator[str]:
        """What is probably not meant, with its remedy."""
        numbers = [name for name in self.names if _number(name) is not None]
        counted = len(numbers) > 2 and numbers == [str(i) for i in range(len(numbers))]
        if numbers and not counted:  # pandas counts columns that have no names
            yield (
                f"the header has numbers where names are expected ({some(numbers)}); most probably "
                "the file has no header and its first row is lost: put a line of names before it"
            )
        for i, name in enumerate(self.names):
            if UNNAMED.fullmatch(name) and i != self.at:
                yield (
                    f"{self._called(i)} becomes a feature; pandas and R write row numbers so: "
                    "write the file with index=False (pandas) or row.names=FALSE (R)"
                )
        others = [name for name in self.columns if name.lower() in LABELS]
        if self.label is None and others and self.label_name.lower() not in LABELS:
            yield (
                f"a column is called {others[0]}, but the label is the last column, "
                f"{self.label_name}; name the label where that is not meant (`label` {others[0]})"
            )

    def _called(self, column: int) -> str:
        """Return what to call a column in messages."""
        return self.names[column] or f"column {column + 1} (without a name)"

    def parse(self, lines, row):
        try:
            text, mark = io.BytesIO(b"\n".join(lines)), self.separator
            table = np.loadtxt(text, delimiter=mark, comments=None, ndmin=2, quotechar='"')
            if table.shape == (len(lines), len(self.names)) and np.isfinite(table).all():
                return np.delete(table, self.at, axis=1), table[:, self.at]
        except ValueError:
            pass
        return self._parse_slowly(lines, row)

    def _parse_slowly(self, lines, row):
        """Return rows that are not all numbers: labels in words, or an error to be named."""
        X, labels = [], []
        for i, line in enumerate(lines):
            try:
                cells = _cells(line.decode(), self.separator)
            except (UnicodeDecodeError, csv.Error) as error:
                self.refuse(row + i, f" is not CSV in UTF-8 ({error}); correct or remove it")
            if len(cells) != len(self.names):
                found, named = len(cells), len(self.names)
                fault = f" has {found} columns, the header {named}; correct or remove it"
                if found == named + 1 and row + i == 0:
                    fault += (
                        "; R's write.table leaves out the name of its row names: write.csv with "
                        "row.names=FALSE"
                    )
                self.refuse(row + i, fault)
            labels.append(cells.pop(self.at))
            if labels[-1] in NO_LABEL:
                self.refuse(
                    row + i,
                    f" has no label: {self.label_name} holds {shown(labels[-1])}, a missing value; "
                    "remove the row (or give a class of that name another one)",
                )
            if len(labels[-1]) > MAX_LABEL:
                self.refuse(row + i, f" has a label of over {MAX_LABEL} characters; shorten it")
            values = [_number(cell) for cell in cells]
            if None in values or not np.isfinite(values).all():
                self._refuse_cell(row + i, cells)
            X.append(np.array(values))
        return np.array(X), np.array(labels)

    def _refuse_cell(self, row: int, cells: list[str]):
        columns = (i for i in range(len(self.names)) if i != self.at)
        for column, cell in zip(columns, cells, strict=True):
            value = _number(cell)
            if value is None or not np.isfinite(value):
                name = self.names[column] or f"{column + 1} (without a name)"
                remedy = self._remedy(cell, value, name)
                self.refuse(row, f", column {name} holds {shown(cell)}; {remedy}")

    def _remedy(self, cell: str, value: float | None, name: str) -> str:
        if cell.lower() in MISSING:
            return (
                "the value is missing: fill it in (with the column's median, say), or remove the "
                "row or the column"
            )
        if value is not None:
            return "fill it in or remove the row"
        if DECIMAL_COMMA.fullmatch(cell):
            return "write numbers with a decimal point"
        label = "" if self.label else f", or name it if it is the label (`label` {name})"
        return (
            "encode it as a number: text columns become columns of 0 and 1 by "
            f"pandas.get_dummies(table, dtype=float){label}, or remove the column"
        )

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


def _cells(text: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([text], delimiter=separator), [])]


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None
