"""Checks of values that came from outside."""

import math

import numpy as np
import scipy.sparse

from hesscomp.errors import InputError

CHUNK = 2**20  # entries looked at together


def check_finite(X, start: int, name: str) -> None:
    """Raise InputError naming the first row (1-based, `start` rows precede) that is not finite.

    X is (rows, ...), or sparse.
    """
    if scipy.sparse.issparse(X):
        bad = np.flatnonzero(~np.isfinite(X.data))
        if len(bad):
            row = int(np.searchsorted(X.indptr, bad[0], side="right")) - 1
            _refuse(name, start + row, (int(X.indices[bad[0]]),), X.data[bad[0]])
        return
    rows = max(CHUNK // max(row_size(X), 1), 1)
    for first in range(0, X.shape[0], rows):
        bad = ~np.isfinite(X[first : first + rows])
        if bad.any():
            row, *place = (int(i[0]) for i in np.nonzero(bad))
            _refuse(name, start + first + row, place, X[first + row][tuple(place)])


def check_columns(X, name: str, what: str) -> None:
    """Raise InputError where rows are not vectors, for `what` takes nothing else."""
    if X.ndim != 2:
        raise InputError(
            f"{name}: rows have the shape {extents(X.shape[1:])}, and {what} takes vectors; store "
            f"X.reshape(len(X), -1), of {row_size(X)} columns"
        )


def row_size(X) -> int:
    """Return how many numbers a row of X has, of whatever shape."""
    return math.prod(X.shape[1:])


def extents(shape: tuple[int, ...]) -> str:
    """Return a shape in words: 28 x 28 x 1."""
    return " x ".join(map(str, shape))


def _refuse(name: str, row: int, place, value):
    where = ", ".join(str(i + 1) for i in place)
    column = f"column {where}" if len(place) == 1 else f"entry ({where})"
    raise InputError(f"{name}: row {row + 1}, {column} holds {value}; fill it in or remove the row")
