"""Tables of pandas as arrays; pandas itself is not imported."""

import numpy as np
import scipy.sparse

from hesscomp.datasets.encoding import GAP, UNSEEN, Column, Encoding
from hesscomp.errors import InputError, some


def is_table(values) -> bool:
    """Return whether this is a DataFrame or a Series of pandas."""
    return type(values).__module__.partition(".")[0] == "pandas" and hasattr(values, "to_numpy")


def plain(values, name: str, what: str) -> np.ndarray:
    """Return arrays and lists as an array; a table's columns must be real numbers.

    Columns of one type keep it. Raises InputError that names columns of texts or categories, and
    those with missing values; also for sparse matrices, and for arrays with masked entries.
    """
    if scipy.sparse.issparse(values):
        raise InputError(
            f"{name}: {what} is sparse, which goes with linear models; give its toarray()"
        )
    if np.ma.is_masked(values):
        raise InputError(
            f"{name}: {what} has masked entries; fill them in (filled) or leave out their rows"
        )
    if not is_table(values):
        return np.asarray(values)
    frame = values.to_frame() if values.ndim == 1 else values
    columns = list(zip(map(str, frame.columns), frame.dtypes, strict=True))
    strange = [f"{title} ({dtype})" for title, dtype in columns if dtype.kind not in "fiub"]
    if strange:
        remedy = (
            "give numbers: pandas.get_dummies(X, dtype=float) makes a column of each text"
            if what == "X"
            else "give numbers: y.astype('category').cat.codes numbers the classes"
        )
        raise InputError(
            f"{name}: {what} has columns that are no numbers: {some(strange)}; {remedy}"
        )
    missing = [
        title for title, empty in zip(frame.columns, frame.isna().any(), strict=True) if empty
    ]
    if missing:
        raise InputError(
            f"{name}: {what} has missing values in {some(map(str, missing))}; fill them in "
            "(fillna) or drop their rows (dropna)"
        )
    kinds = [getattr(dtype, "numpy_dtype", dtype) for _, dtype in columns]
    array = frame.to_numpy(dtype=np.result_type(*kinds) if kinds else float)
    return array[:, 0] if values.ndim == 1 else array


def encoded(table, encoding: Encoding, name: str) -> scipy.sparse.csr_array:
    """Return the features of a DataFrame's rows, whose columns are found by name.

    InputError that names a column that is missing, a text that the encoding does not have, and a
    missing value where it has none.
    """
    titles = list(map(str, table.columns))
    if lost := [c.name for c in encoding.columns if titles.count(c.name) != 1]:
        raise InputError(
            f"{name}: the model needs the columns {some(lost)}, once each; there are {some(titles)}"
        )
    values = [
        _column_values(table.iloc[:, titles.index(column.name)], column, name)
        for column in encoding.columns
    ]
    return encoding.encode(values, len(table))


def _column_values(series, column: Column, name: str) -> np.ndarray:
    """Return a column as numbers with NaN, or as places in its levels."""
    gaps = np.asarray(series.isna(), bool)
    if column.levels is None:
        if series.dtype.kind not in "fiub":
            raise InputError(
                f"{name}: column {column.name} is of type {series.dtype}, and the training data "
                "have numbers there"
            )
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isinf(values).any():
            raise InputError(f"{name}: column {column.name} holds an infinite number")
    else:
        texts = [_level(value) for value in series]
        places = {level: place for place, level in enumerate(column.levels)}
        values = np.array([places.get(text, UNSEEN) for text in texts], np.int64)
        values[gaps] = GAP
        if (strange := np.flatnonzero(values == UNSEEN)).size:
            raise InputError(
                f"{name}: row {strange[0] + 1}, column {column.name} holds {texts[strange[0]]!r}, "
                f"which the training data do not have; they have {some(column.levels)}"
            )
    if gaps.any() and not column.missing:
        raise InputError(
            f"{name}: row {np.argmax(gaps) + 1}, column {column.name} holds a missing value, and "
            "the training data have none there; fill it in (fillna) or drop the row (dropna)"
        )
    return values


def _level(value) -> str:
    """Return a cell as a CSV file writes it; whole numbers beside missing ones are floats."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value).strip()
