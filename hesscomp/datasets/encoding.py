"""How the columns of a table become features: numbers as they are, texts as columns of 0 and 1."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse

NO_VALUE = "(missing)"  # what the level of missing values is called
GAP, UNSEEN = -1, -3  # in place of a level: a missing value, and a text that is none of them
SHOWN = 8  # columns that are described one by one


@dataclass(frozen=True)
class Column:
    """One column and its features.

    Attributes
    ----------
    name : str
    levels : tuple of str, or None
        The texts that occur in the training data, sorted; None for a column of numbers.
    reference : str or None
        The level that has no feature of its own: its rows are zero in all of them.
    missing : bool
        Whether missing values have a feature, the last one. A missing number counts as 0 beside it.
    """

    name: str
    levels: tuple[str, ...] | None = None
    reference: str | None = None
    missing: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features."""
        last = (f"{self.name}={NO_VALUE}",) if self.missing else ()
        if self.levels is None:
            return (self.name, *last)
        kept = (level for level in self.levels if level != self.reference)
        return (*(f"{self.name}={level}" for level in kept), *last)

    def entries(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows, features and values of what is not zero.

        `values` are numbers with NaN for a missing one, or places in `levels`, `GAP` or `UNSEEN`.
        Rows of `unknown` have none.
        """
        last, known = len(self.features) - 1, ~self.unknown(values)
        if self.levels is None:
            rows, gaps = np.flatnonzero((values != 0) & known), np.isnan(values)
            features = np.where(gaps[rows], last, 0)
            return rows, features, np.where(gaps[rows], 1.0, values[rows])
        dropped = self.levels.index(self.reference) if self.reference is not None else -2
        places = np.where(values == GAP, last, values - ((values > dropped) & (dropped >= 0)))
        rows = np.flatnonzero((values != dropped) & known)
        return rows, places[rows], np.ones(len(rows))

    def unknown(self, values: np.ndarray) -> np.ndarray:
        """Return which values the training data do not have: other texts, and missing ones."""
        gaps = np.isnan(values) if self.levels is None else values == GAP
        unseen = np.zeros(len(values), bool) if self.levels is None else values == UNSEEN
        return unseen if self.missing else gaps | unseen


@dataclass(frozen=True)
class Encoding:
    """The columns of the training data, by which other data are encoded too."""

    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all features."""
        return tuple(name for column in self.columns for name in column.features)

    @property
    def numbers_alone(self) -> bool:
        """Whether the features are the columns themselves."""
        return all(column.levels is None and not column.missing for column in self.columns)

    def encode(self, values: Sequence[np.ndarray], rows: int) -> scipy.sparse.csr_array:
        """Return the features of rows; `values` holds an array for each column (`entries`).

        Rows with a value that the training data do not have get NaN, as the first feature.
        """
        parts, width, unknown = [], 0, np.zeros(rows, bool)
        for column, here in zip(self.columns, values, strict=True):
            at, features, numbers = column.entries(here)
            parts.append((at, features + width, numbers))
            width += len(column.features)
            unknown |= column.unknown(here)
        strange = np.flatnonzero(unknown)
        parts.append((strange, np.zeros(len(strange), int), np.full(len(strange), np.nan)))
        at, features, numbers = (np.concatenate(each) for each in zip(*parts, strict=True))
        return scipy.sparse.csr_array((numbers, (at, features)), shape=(rows, width))

    @property
    def references(self) -> dict[str, str]:
        """The level without a feature of each column that leaves one out."""
        return {
            column.name: column.reference for column in self.columns if column.reference is not None
        }

    def describe(self) -> str:
        """Return what became of columns that are not plain numbers, in words; empty for none."""
        told = []
        for column in self.columns:
            if column.levels is not None:
                what = f"{column.name} ({len(column.levels)} levels"
                what += "" if column.reference is None else f", reference {column.reference}"
                told.append(f"{what}{', and missing values' * column.missing})")
            elif column.missing:
                told.append(f"{column.name} (numbers, and missing values)")
        more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        return ", ".join(told[:SHOWN]) + more
