"""Tables of pandas as arrays; pandas itself is not imported."""

import numpy as np
import scipy.sparse

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
