"""The history of a run: one row of numbers a step, as CSV, JSON and TensorBoard scalars."""

import csv
import os
from dataclasses import dataclass, field

import numpy as np

from hesscomp.errors import one_line
from hesscomp.runs.report import write_json
from hesscomp.storage.files import atomic_path


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

    def write_csv(self, path: str | os.PathLike) -> None:
        """Write a header and one line a row, whole or not at all; numbers in full precision."""
        names = self.names
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.writer(stream)
            writer.writerow(names)
            writer.writerows([repr(row.get(name, np.nan)) for name in names] for row in self.rows)

    def write_json(self, path: str | os.PathLike, **facts) -> None:
        """Write rows and events, and `facts` beside them."""
        events = [{"step": step, "event": text} for step, text in self.events]
        write_json(path, {**facts, "history": self.rows, "events": events})
