"""Checks of values that came from outside."""

import numpy as np
import scipy.sparse

from hesscomp.errors import InputError

CHUNK = 2**20  # entries looked at together


def check_finite(X, start: int, name: str) -> None:
    """Raise InputError naming the first row (1-based, `start` rows precede) that is not finite."""
    if scipy.sparse.issparse(X):
        bad = np.flatnonzero(~np.isfinite(X.data))
        if len(bad):
            row = int(np.searchsorted(X.indptr, bad[0], side="right")) - 1
            _refuse(name, start + row, int(X.indices[bad[0]]), X.data[bad[0]])
        return
    rows = max(CHUNK // max(X.shape[1], 1), 1)
    for first in range(0, X.shape[0], rows):
        bad = ~np.isfinite(X[first : first + rows])
        if bad.any():
            row, column = (int(i[0]) for i in np.nonzero(bad))
            _refuse(name, start + first + row, column, X[first + row, column])


def _refuse(name: str, row: int, column: int, value):
    raise InputError(
        f"{name}: row {row + 1}, column {column + 1} holds {value}; fill it in or remove the row"
    )
