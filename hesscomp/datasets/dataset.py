"""A data set of labelled rows, cut into one shard for each rank."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse

from hesscomp.datasets.encoding import Encoding
from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.datasets.scaling import Scaling
from hesscomp.datasets.tables import is_table, plain
from hesscomp.datasets.targets import (
    CLASSES,
    INPUT,
    SIGNS,
    VALUES,
    check_label_type,
    check_targets,
    class_names,
    is_one_hot,
    with_targets,
)
from hesscomp.datasets.validation import check_finite, extents, row_size
from hesscomp.errors import InputError
from hesscomp.parallel.world import World

ALIGNMENT = 64  # bytes; what TensorFlow asks of memory that it did not allocate


@dataclass(frozen=True)
class Shard:
    """One rank's contiguous rows.

    Attributes
    ----------
    X : (rows, ...) array or scipy.sparse.csr_array
        float64 or float32; a shard may be empty. (rows, features), but where rows came in another
        shape, which networks take.
    y : array
        What `Dataset.targets` says: (rows,) float64, +1 or -1; (rows,) int64, class numbers from
        0; (rows,) or (rows, outputs) float64 values; or X itself, the same object.
    start, total : int
        Index of the first row here among all ranks' rows, and how many those are.
    weights : (rows,) float64 array or None
        How much each row counts, at least 0; None where each counts once.
    offsets : (rows,) float64 array or None
        What a generalised linear model adds to each row's linear predictor.
    """

    X: np.ndarray | scipy.sparse.csr_array
    y: np.ndarray
    start: int
    total: int
    weights: np.ndarray | None = None
    offsets: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of this rank's rows and targets."""
        X = self.X
        parts = [X] if isinstance(X, np.ndarray) else [X.data, X.indices, X.indptr]
        if self.y is not X:
            parts.append(self.y)
        parts += [part for part in (self.weights, self.offsets) if part is not None]
        return sum(part.nbytes for part in parts)


@dataclass(frozen=True)
class Dataset:
    """Sharded training rows, and test rows where there are any.

    Attributes
    ----------
    name : str
        Of a named data set, or the file as it was named.
    train, test : Shard
    features : int
        n, the number of columns, or of numbers in a row of another shape.
    feature_names : tuple of str, or None
        Of the columns, where they have names.
    targets : {"signs", "classes", "values", "input"}
        What the shards' y holds.
    classes : tuple of str
        What the labels were called in the input: two for -1 and +1, one for each class number,
        none for other targets.
    fingerprint : str
        SHA-256 of the training rows, independent of the number of ranks.
    label_name : str or None
        Of the label's column, where a file names its columns.
    encoding : Encoding or None
        How named columns became features, where a file names its columns.
    index_base : int or None
        Of a LIBSVM file the index of the first feature, 0 or 1.
    scaling : Scaling or None
        How the columns were standardised, where they were (`datasets.scaling`).
    """

    name: str
    train: Shard
    test: Shard | None
    features: int
    feature_names: tuple[str, ...] | None
    targets: str
    classes: tuple[str, ...]
    fingerprint: str
    label_name: str | None = None
    encoding: Encoding | None = None
    index_base: int | None = None
    scaling: Scaling | None = None

    @property
    def rows(self) -> int:
        """Training rows of all ranks."""
        return self.train.total


def aligned_empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Return ``numpy.empty`` on a multiple of `ALIGNMENT` bytes; TensorFlow takes it uncopied."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def from_arrays(
    X, y, world: World, name: str = "arrays", test: tuple[Any, Any] | None = None,
    targets: str = SIGNS, *, weights=None, offsets=None,
) -> Dataset:  # fmt: skip
    """Make a data set from each rank's own rows, which may be none. Collective.

    Parameters
    ----------
    X : (rows, n) or (rows, ...) array, sparse array, or DataFrame of numbers
        float32 stays so; everything else becomes float64. Not copied where that can be avoided.
    y : (rows,) array
        Labels, as `targets` asks for them; values may be (rows, outputs), and where the input is
        the target, y is None.
    test : (X, y), optional
        Test rows, sharded alike.
    targets : {"signs", "classes", "values", "input"}
        What becomes of the labels. "signs": -1.0 and +1.0 for +1/-1, 0/1, 1/2 or two texts in
        sorted order. "classes": int64 numbers from 0 of at most 1,000 classes; integers from 0 stay
        as they are, also where some do not occur, other integers and texts are numbered in sorted
        order; of one-hot rows the place of the 1 is taken. "values": real numbers, as float64.
        "input": X itself, not copied.
    weights : (rows,) array, optional
        How much each training row counts in means over the rows, at least 0.
    offsets : (rows,) array, optional
        What a generalised linear model adds to each training row's linear predictor.

    Raises
    ------
    InputError
        On all ranks, for shapes that do not fit, values that are not finite, or labels that
        `targets` does not allow.
    """
    check_targets(targets, name)
    train, classes = with_targets(_unlabelled(X, y, world, name, targets), targets, world, name)
    train = with_columns(train, world, name, weights=weights, offsets=offsets)
    held_out = None
    if test is not None:
        if offsets is not None:
            raise InputError(
                f"{name}: the test rows have no offsets, and the others have; load files that have "
                "them, or leave `test` out"
            )
        title = f"{name} (test)"
        held_out = _unlabelled(*test, world, title, targets)
        if held_out.X.shape[1:] != train.X.shape[1:]:
            here, there = extents(held_out.X.shape[1:]), extents(train.X.shape[1:])
            raise InputError(f"{title}: has {here} columns, the training data {there}")
        held_out, _ = with_targets(held_out, targets, world, title, classes)
        if held_out.y.shape[1:] != train.y.shape[1:]:
            raise InputError(f"{title}: has other outputs a row than the training data")
    hashed = fingerprint(train, world)
    n, classes = row_size(train.X), class_names(classes)
    titles = tuple(map(str, X.columns)) if is_table(X) and X.ndim == 2 else None
    return Dataset(name, train, held_out, n, titles, targets, classes, hashed)


def with_columns(shard: Shard, world: World, name: str, **columns) -> Shard:
    """Return a shard with the weights and offsets of its rows, checked; None for none. Collective.

    A rank without rows need not pass any.
    """
    for what, values in columns.items():
        here = values is not None or not len(shard.y)
        given = world.gather((values is not None, here))
        with world.phase(f"checking {name}"):
            if any(any_here for any_here, _ in given):
                if not here:
                    raise InputError(f"{name}: other ranks pass {what}; pass those of all rows")
                values = _column(() if values is None else values, shard, name, what)
        shard = replace(shard, **{what: values})
    return shard


def _column(values, shard: Shard, name: str, what: str) -> np.ndarray:
    values = np.asarray(values)
    if not len(shard.y) and not values.size:
        return np.empty(0)
    if values.shape != (len(shard.y),) or values.dtype.kind not in "fiub":
        raise InputError(
            f"{name}: {what} have shape {values.shape} and type {values.dtype}; pass a real number "
            f"for each of the {len(shard.y)} rows"
        )
    values = values.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values) | ((values < 0) & (what == "weights")))
    if len(wrong):
        row, rule = shard.start + int(wrong[0]) + 1, " of at least 0" * (what == "weights")
        value = values[wrong[0]]
        raise InputError(
            f"{name}: row {row} has {value:g} among the {what}; give finite numbers{rule}"
        )
    return values


def _unlabelled(X, y, world: World, name: str, targets: str) -> Shard:
    """Return this rank's rows, checked and placed among the others'; labels still as they came."""
    with world.phase(f"checking {name}"):
        X = as_matrix(X, name)
        y = _labels(y, X.shape[0], name, targets)
    forms = world.gather((len(y), X.shape[1:], scipy.sparse.issparse(X), X.dtype.name, y.shape[1:]))
    start, total = sum(rows for rows, *_ in forms[: world.rank]), sum(rows for rows, *_ in forms)
    if total == 0:
        raise InputError(f"{name}: no rank holds a row")
    kept = {tuple(form) for rows, *form in forms if rows}
    if len(kept) > 1 or {columns for _, columns, *_ in forms} != {X.shape[1:]}:
        raise InputError(f"{name}: the ranks hold arrays of different widths or types")
    if row_size(X) == 0:
        raise InputError(f"{name}: has no columns; pass at least one feature")
    _, sparse, dtype, outputs = kept.pop()
    if not len(y):  # a rank without rows takes the others' form
        y = y.reshape(0, *outputs)
        X = np.empty(X.shape, dtype)
        X = scipy.sparse.csr_array(X) if sparse else X
    with world.phase(f"checking {name}"):
        check_finite(X, start, name)
    return Shard(X, y, start, total)


def _labels(y, rows: int, name: str, targets: str) -> np.ndarray:
    if targets == INPUT:
        if y is not None:
            raise InputError(f"{name}: where the input is the target, pass None for y")
        return np.zeros(rows)
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1 and targets != VALUES:  # a table of one column
        y = y[:, 0]
    if targets == CLASSES and y.ndim == 2 and y.dtype.kind in "fiub":
        if not is_one_hot(y):
            raise InputError(
                f"{name}: y has shape {y.shape}, and not a single 1 among zeros in each row; "
                "give class numbers, or one-hot rows"
            )
        y = y.argmax(1)
    if y.shape[:1] != (rows,) or y.ndim > (2 if targets == VALUES else 1):
        raise InputError(f"{name}: X has {rows} rows but y has shape {y.shape}")
    check_label_type(y, name)
    return y


def as_matrix(X, name: str):
    """Return X as float64 or float32, dense or in canonical CSR (sorted, without duplicates)."""
    sparse = scipy.sparse.issparse(X)
    X = X if sparse else plain(X, name, "X")
    if X.ndim < 2:
        raise InputError(f"{name}: X has {X.ndim} dimensions; pass (rows, features)")
    if X.dtype.kind not in "fiub":
        raise InputError(f"{name}: X has type {X.dtype}; pass real numbers")
    X = scipy.sparse.csr_array(X) if sparse else X
    if sparse and not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)
