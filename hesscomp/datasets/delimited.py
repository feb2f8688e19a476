"""CSV with a header; separated by commas, or by semicolons or tabs without a comma.

Columns of numbers are features as they are; each text of a column of texts becomes a feature of
0 and 1 (`encoding`). What a header leaves in doubt is said (`doubts`): a file without one, row
numbers as pandas and R write them, another column that is called a label.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from hesscomp.datasets.dataset import aligned_empty
from hesscomp.datasets.encoding import GAP, UNSEEN, Column, Encoding
from hesscomp.datasets.reading import Reading
from hesscomp.datasets.text import TextSource, shown
from hesscomp.errors import InputError, some
from hesscomp.parallel.world import World

SEPARATORS = ",;\t"
MAX_HEADER = 2**24
MAX_LABEL = 200  # characters: NumPy gives all labels the room of the longest
MAX_LEVELS = 1000  # of a column of texts
MISSING = {"", "na", "n/a", "#n/a", "nan", "?", "null", "none", "."}  # as programs write it
# What is taken for a missing value; other words may be names of levels and classes.
NO_VALUE = {"", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "?", "null", "NULL"}
NO_LABEL = {"", "NA", "NaN", "nan", "?", "#N/A"}  # of labels, where rows are not dropped
UNNAMED = re.compile(r"|Unnamed: \d+")  # a column of row numbers, written and written again
LABELS = {"label", "labels", "target", "class", "y", "outcome"}
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
IDENTIFIER = 0.5  # levels a row, above which a column of texts is probably no category


class Part(NamedTuple):
    """Some rows: their numbers, the places of their texts among the levels, and what is beside."""

    numbers: np.ndarray
    places: np.ndarray
    labels: np.ndarray
    beside: np.ndarray  # weights and offsets, where there are any


class _FoundTextError(Exception):
    """Raised where a column of numbers has a text: the rows are then read again."""


class CsvSource(TextSource):
    """Cells may be quoted, but hold no line break.

    With an encoding, `like`, columns are found by name, whatever their order, and all others but
    the label are ignored.
    """

    columns: tuple[str, ...]
    label_name: str | None
    has_columns = True
    is_table = True

    def __init__(
        self, path: Path, reading: Reading, rank: int, size: int, like: Encoding | None = None
    ):
        super().__init__(path, reading, rank, size)
        self.like, self.dropped, self.skipped = like, 0, 0
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
        if len(names) < 2 and reading.labelled:
            raise InputError(f"{path}: has a single column; it needs features and a label")
        ignored = set() if like is not None else {self._place(name) for name in reading.ignore}
        kept = [i for i in range(len(names)) if i not in ignored]
        self.at = None
        if reading.labelled and kept:
            named = self.label or (reading.usual_label if reading.usual_label in names else None)
            self.at = kept[-1] if named is None else self._place(named)
        self.beside = {what: self._place(name) for what, name in reading.columns().items()}
        taken = {self.at, *self.beside.values()}
        for i in sorted(ignored):
            if i in taken:
                raise InputError(f"{path}: {self._called(i)} is needed; do not ignore it")
        self.used = [i for i in kept if i not in taken]
        alike = like and [names[i] for i in self.used] == [column.name for column in like.columns]
        if like is not None and not alike:
            what = "which the training data have"
            self.used = [self._place(column.name, what) for column in like.columns]
        self.columns = tuple(names[i] for i in self.used)
        self.label_name = None if self.at is None else self._called(self.at)
        if self.at in (*self.used, *self.beside.values()):
            raise InputError(
                f"{path}: {self.label_name} would be the label, and is a feature, a weight or an "
                "offset; name the column of the labels (`label`)"
            )
        self.forced = {self._place(name) for name in reading.categories}
        if wrong := self.forced - set(self.used):
            raise InputError(f"{path}: {self._called(min(wrong))} is no feature; leave it out")
        self.text = set(self.forced)
        if like is not None:
            pairs = zip(self.used, like.columns, strict=True)
            self.text = {i for i, column in pairs if column.levels is not None}
        self._forget()

    def _place(self, name: str, what: str = "") -> int:
        """Return which column has a name; InputError where none or several have."""
        if self.names.count(name) != 1:
            listed = some([other or "(no name)" for other in self.names])
            found = "more than one column is" if name in self.names else "no column is"
            raise InputError(
                f"{self.path}: {found} named {name!r}{what and f', {what}'}; it has {listed}"
            )
        return self.names.index(name)

    def _forget(self) -> None:
        """Begin to read: no text has been met yet but those of the training data."""
        known: dict[int, tuple[str, ...] | None] = {}
        if self.like is not None:
            levels = (column.levels for column in self.like.columns)
            known = dict(zip(self.used, levels, strict=True))
        self.levels = {
            i: {level: place for place, level in enumerate(known.get(i) or ())} for i in self.text
        }
        self.first_rows: dict[int, list[int]] = {i: [] for i in self.text}

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
        label = self.label_name
        if self.label is None and others and label and label.lower() not in LABELS:
            yield (
                f"a column is called {others[0]}, but the label is the last column, "
                f"{self.label_name}; name the label where that is not meant (`label` {others[0]})"
            )

        if self.dropped:
            yield f"{self.dropped} rows with missing values are left out"
        for column in () if self.encoding is None else self.encoding.columns:
            if column.levels is not None and len(column.levels) == 1 and not column.missing:
                yield f"column {column.name} has one value only, {column.levels[0]!r}"
            elif column.levels is not None and len(column.levels) > IDENTIFIER * self.rows > 10:
                yield (
                    f"column {column.name} has {len(column.levels)} different texts in {self.rows} "
                    "rows; `ignore` it if it is an identifier"
                )

    def _called(self, column: int) -> str:
        """Return what to call a column in messages."""
        return self.names[column] or f"column {column + 1} (without a name)"

    def is_row(self, stripped):
        if not super().is_row(stripped):
            return False
        if self.reading.missing != "drop":
            return True
        try:
            cells = _cells(stripped.decode(), self.separator)
        except (UnicodeDecodeError, csv.Error):
            return True  # what is wrong is said when the row is read
        needed = [*self.used, *self.beside.values(), *([] if self.at is None else [self.at])]
        gap = len(cells) == len(self.names) and any(cells[i] in NO_VALUE for i in needed)
        self.skipped += gap
        return not gap

    def count(self):
        rows = super().count()
        self.dropped, self.skipped = self.skipped, 0
        return rows

    def read(self, start, stop, counts):
        self.range = start, stop, counts
        while True:
            self._forget()
            try:
                return super().read(start, stop, counts)
            except _FoundTextError:
                continue

    def parse(self, lines, row):
        if not self.text:
            try:
                text, mark = io.BytesIO(b"\n".join(lines)), self.separator
                table = np.loadtxt(text, delimiter=mark, comments=None, ndmin=2, quotechar='"')
                if table.shape == (len(lines), len(self.names)) and np.isfinite(table).all():
                    labels = np.zeros(len(lines)) if self.at is None else table[:, self.at]
                    none = np.empty((len(lines), 0), np.int32)
                    beside = table[:, list(self.beside.values())]
                    return Part(table[:, self.used], none, labels, beside)
            except ValueError:
                pass
        columns = self._split(lines, row)
        labels = self._labels(columns, row, len(lines))
        numbers = [self._numbers(i, columns[i], row) for i in self.used if i not in self.text]
        if self.text - self.levels.keys():
            raise _FoundTextError
        places = [self._places(i, columns[i], row) for i in self.used if i in self.text]
        beside = [self._beside(what, columns[i], row) for what, i in self.beside.items()]
        tables = (
            np.column_stack(found) if found else np.empty((len(lines), 0))
            for found in (numbers, places, beside)
        )
        numbers_, places_, beside_ = tables
        return Part(numbers_, places_.astype(np.int32), labels, beside_)

    def _split(self, lines, row: int) -> list[tuple[str, ...]]:
        """Return the cells column by column."""
        try:
            text = [line.decode() for line in lines]
            rows = [
                [cell.strip() for cell in cells]
                for cells in csv.reader(text, delimiter=self.separator)
            ]
            if len(rows) == len(lines) and all(len(cells) == len(self.names) for cells in rows):
                return list(zip(*rows, strict=True))
        except (UnicodeDecodeError, csv.Error):
            pass  # line by line it is found which one is wrong
        rows = []
        for i, line in enumerate(lines):
            try:
                cells = _cells(line.decode(), self.separator)
            except (UnicodeDecodeError, csv.Error) as error:
                self.refuse(row + i, f" is not CSV in UTF-8 ({error}); correct or remove it")
            if len(cells) != len(self.names):
                found, named = len(cells), len(self.names)
                mark = {",": "commas", ";": "semicolons"}.get(self.separator, "tabs")
                fault = (
                    f" has {found} columns, the header {named}, where {mark} separate them; "
                    "correct or remove it, and quote names that hold a comma"
                )
                if found == named + 1 and row + i == 0:
                    fault += (
                        "; R's write.table leaves out the name of its row names: write.csv with "
                        "row.names=FALSE"
                    )
                self.refuse(row + i, fault)
            rows.append(cells)
        return list(zip(*rows, strict=True))

    def _labels(self, columns, row: int, count: int) -> np.ndarray:
        if self.at is None:
            return np.zeros(count)
        for i, label in enumerate(columns[self.at]):
            if label in NO_LABEL:
                dropped = "(`missing` drop does) " if label in NO_VALUE else ""
                self.refuse(
                    row + i,
                    f" has no label: {self.label_name} holds {shown(label)}, a missing value; "
                    f"remove the row {dropped}or give a class of that name another one",
                )
            if len(label) > MAX_LABEL:
                self.refuse(row + i, f" has a label of over {MAX_LABEL} characters; shorten it")
        return np.array(columns[self.at])

    def _beside(self, what: str, cells, row: int) -> np.ndarray:
        values = [_number(cell) for cell in cells]
        for i, (cell, value) in enumerate(zip(cells, values, strict=True)):
            if value is None or not np.isfinite(value):
                name = self._called(self.beside[what])
                self.refuse(row + i, f" has {shown(cell)} in {name}; {what} must be numbers")
        return np.array(values)

    def _numbers(self, i: int, cells, row: int) -> np.ndarray:
        """Return a column of numbers, with NaN for missing ones; note it where it has a text."""
        try:
            exact = np.array(list(map(float, cells)))
            if np.isfinite(exact).all() and "_" not in "".join(cells):
                return exact
        except ValueError:
            pass
        values = [_number(cell) for cell in cells]
        for j, (cell, value) in enumerate(zip(cells, values, strict=True)):
            if cell in NO_VALUE:
                values[j] = np.nan
                self._check_gap(i, cell, row + j)
            elif value is None and self._may_be_text(i, cell):
                self.text.add(i)
                return np.zeros(len(cells))
            elif value is None or not np.isfinite(value):
                self._refuse_cell(row + j, i, cell)
        return np.array(values, dtype=np.float64)

    def _may_be_text(self, i: int, cell: str) -> bool:
        """Whether a cell of this column, which is no number, can be one of a column of texts."""
        misspelt = DECIMAL_COMMA.fullmatch(cell) or _number(cell.replace("_", "")) is not None
        return self.like is None and bool(self.names[i]) and not misspelt

    def _places(self, i: int, cells, row: int) -> np.ndarray:
        """Return the places of a column's texts among its levels, or `GAP` or `UNSEEN`."""
        levels, first_rows, name = self.levels[i], self.first_rows[i], self._called(i)
        places = np.fromiter(map(levels.get, cells, repeat(-2)), np.int32, len(cells))
        for j in np.flatnonzero(places == -2).tolist():
            cell = cells[j]
            if cell in NO_VALUE:
                self._check_gap(i, cell, row + j)
                places[j] = GAP
                continue
            place = levels.get(cell)
            if place is None:
                if self.like is not None and self.reading.blank:
                    places[j] = UNSEEN
                    continue
                if self.like is not None:
                    self.refuse(
                        row + j,
                        f", column {name} holds {shown(cell)}, which the training data do not "
                        f"have; they have {some(levels)}",
                    )
                place = levels[cell] = len(levels)
                first_rows.append(row + j)
                self._check_many(i, len(levels))
            places[j] = place
        return places

    def _check_many(self, i: int, count: int) -> None:
        if count > MAX_LEVELS:
            raise InputError(
                f"{self.path}: column {self._called(i)} has over {MAX_LEVELS} different texts; "
                "`ignore` it if it is an identifier, or join its rare texts"
            )

    def _check_gap(self, i: int, cell: str, row: int) -> None:
        """Refuse a missing value unless it is a level."""
        if self.like is None:
            if self.reading.missing != "level":
                self._refuse_cell(row, i, cell)
        elif not self.like.columns[self.used.index(i)].missing and not self.reading.blank:
            self.refuse(
                row,
                f", column {self._called(i)} holds {shown(cell)}, a missing value, and the "
                "training data have none there; fill it in or remove the row",
            )

    def _refuse_cell(self, row: int, i: int, cell: str) -> NoReturn:
        name = self.names[i] or f"{i + 1} (without a name)"
        remedy = self._remedy(cell, _number(cell), name)
        self.refuse(row, f", column {name} holds {shown(cell)}; {remedy}")
        raise AssertionError

    def _remedy(self, cell: str, value: float | None, name: str) -> str:
        if cell.lower() in MISSING:
            return (
                "the value is missing: fill it in (with the column's median, say), remove the row "
                "or the column, or leave an empty cell and choose `missing` drop or level"
            )
        if value is not None:
            return "fill it in or remove the row"
        if DECIMAL_COMMA.fullmatch(cell):
            return "write numbers with a decimal point"
        if self.like is not None:
            return "the training data have numbers there"
        label = "" if self.label else f", or name it if it is the label (`label` {name})"
        return (
            "encode it as a number, or remove the column; where its numbers are codes, name it "
            f"among `categories`{label}"
        )

    def join(self, parts):
        width, texts = len(self.used) - len(self.text), len(self.text)
        none = Part(
            np.empty((0, width)), np.empty((0, texts), np.int32), np.empty(0),
            np.empty((0, len(self.beside))),
        )  # fmt: skip
        tables, places, labels, beside = zip(*(parts or [none]), strict=True)
        numbers = aligned_empty((sum(map(len, tables)), width), np.float64)
        np.concatenate(tables, out=numbers)
        if any(part.dtype.kind == "U" for part in labels):
            labels = tuple(part.astype(str) for part in labels)
        self.extras = dict(zip(self.beside, np.concatenate(beside).T, strict=True))
        return (numbers, np.concatenate(places)), np.concatenate(labels)

    def agree(self, X, start, world, train):
        everywhere = [set(found) for found in world.gather(sorted(self.text))]
        together = set().union(*everywhere)
        with world.phase(f"reading {self.path.name} again"):  # on ranks that met fewer texts
            if self.text != together:
                self.text = together
                X = self.read(*self.range)[0]
        numbers, places = X
        if self.like is None:
            self.encoding, places = self._encoding(numbers, places, world)
        else:
            self.encoding = self.like
        self.dropped, self.rows = sum(world.gather(self.dropped)), sum(world.gather(len(numbers)))
        if self.encoding.numbers_alone:
            return numbers, numbers.shape[1]
        by_number, by_text = iter(numbers.T), iter(places.T)
        values = [next(by_text if i in self.text else by_number) for i in self.used]
        return self.encoding.encode(values, len(numbers)), len(self.encoding.names)

    def _encoding(self, numbers, places, world: World) -> tuple[Encoding, np.ndarray]:
        """Return the encoding that the rows of all ranks make, and the places in its levels."""
        texts = [i for i in self.used if i in self.text]
        counts = [np.bincount(column[column >= 0]) for column in places.T]
        here = {
            i: list(zip(self.levels[i], self.first_rows[i], count.tolist(), strict=True))
            for i, count in zip(texts, counts, strict=True)
        }
        gaps = {i for i, column in zip(texts, places.T, strict=True) if (column < 0).any()}
        plain = [i for i in self.used if i not in self.text]
        gaps |= {i for i, column in zip(plain, numbers.T, strict=True) if np.isnan(column).any()}
        everywhere = world.gather((here, sorted(gaps)))
        missing = {i for _, found in everywhere for i in found}
        columns, moved = [], []
        with world.phase(f"encoding {self.path.name}"):
            for i in self.used:
                if i not in self.text:
                    columns.append(Column(self.names[i], missing=i in missing))
                    continue
                found = [entry for told, _ in everywhere for entry in told[i]]
                levels = tuple(sorted({level for level, _, _ in found}))
                self._check_many(i, len(levels))
                if i not in self.forced:
                    self._check_mixed(i, found)
                reference = levels[0] if self.reading.reference and levels else None
                columns.append(Column(self.names[i], levels, reference, i in missing))
                order = {level: place for place, level in enumerate(levels)}
                moved.append(np.array([*(order[level] for level in self.levels[i]), -1], np.int32))
        if moved:
            places = np.column_stack([m[p] for m, p in zip(moved, places.T, strict=True)])
        return Encoding(tuple(columns)), places

    def _check_mixed(self, i: int, found: list[tuple[str, int, int]]) -> None:
        """Refuse a column half of whose cells or more are numbers: the others may be slips."""
        counts: Counter[bool] = Counter()
        for level, _, count in found:
            counts[_number(level) is not None] += count
        if counts[True] >= counts[False]:
            texts = [(row, level) for level, row, _ in found if _number(level) is None]
            if texts:
                row, level = min(texts)
                self._refuse_cell(row, i, level)


def _cells(text: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([text], delimiter=separator), [])]


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None
