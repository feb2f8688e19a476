"""The history of a run: one row of numbers a step, as CSV, JSON and TensorBoard scalars."""

import csv
import os
from dataclasses import dataclass, field

import numpy as np

from hesscomp.errors import InputError, one_line
from hesscomp.runs.report import write_json
from hesscomp.storage.files import atomic_path, writing


@dataclass
class History:
    """Rows of named numbers, all rows with the same names, and what happened beside them.

    Attributes
    ----------
    rows : list of dict of str to float
    events : list of (step, text)
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<history: {len(self)} rows of {', '.join(self.names)}; {len(self.events)} events>"

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> np.ndarray:
        """Return one number of all rows; NaN in rows without it."""
        return np.array([row.get(name, np.nan) for row in self.rows], dtype=np.float64)

    @property
    def names(self) -> list[str]:
        """The names of all numbers, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def columns(self) -> dict[str, np.ndarray]:
        return {name: self.column(name) for name in self.names}

    @classmethod
    def of_columns(cls, columns: dict[str, np.ndarray], events) -> "History":
        names = list(columns)
        rows = [
            dict(zip(names, map(float, row), strict=True))
            for row in zip(*columns.values(), strict=True)
        ]
        return cls(rows, [(int(step), one_line(str(text))) for step, text in events])

    @classmethod
    def read_csv(cls, path: str | os.PathLike, separator: str = ",") -> "History":
        """Read the rows of a file that `write_csv` wrote.

        Raises InputError if the file cannot be read, or holds other columns than numbers by steps.
        """
        try:
            with open(path, newline="", encoding="utf-8") as stream:
                lines = list(csv.DictReader(stream, delimiter=separator, restval="nan"))
            rows = [{name: float(text) for name, text in line.items()} for line in lines]
            if not all(np.isfinite(row["step"]) for row in rows):
                raise ValueError("a step is no number")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise InputError(
                f"{path}: is no history with a column step and numbers between {separator!r}; "
                "name another file, or remove it"
            ) from error
        return cls(rows)

    def write_csv(self, path: str | os.PathLike, separator: str = ",") -> None:
        """Write a header and one line a row, whole or not at all; numbers in full precision."""
        names = self.names
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.writer(stream, delimiter=separator)
            writer.writerow(names)
            writer.writerows(_texts(row, names) for row in self.rows)

    def append_csv(self, path: str | os.PathLike, names: list[str], separator: str = ",") -> None:
        """Append the last row to a file that `write_csv` wrote with columns of these names."""
        with writing(path), open(path, "a", newline="", encoding="utf-8") as stream:
            csv.writer(stream, delimiter=separator).writerow(_texts(self.rows[-1], names))

    def write_json(self, path: str | os.PathLike, **facts) -> None:
        """Write rows and events, and `facts` beside them."""
        events = [{"step": step, "event": text} for step, text in self.events]
        write_json(path, {**facts, "history": self.rows, "events": events})


def _texts(row: dict[str, float], names: list[str]) -> list[str]:
    """Return a row's numbers as texts, in the order of their names; nan where it has none."""
    return [repr(row.get(name, np.nan)) for name in names]
