"""A data set of labelled rows, cut into one shard for each rank."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse

from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.datasets.labels import agree_on_classes, check_label_type, class_names, signs
from hesscomp.datasets.validation import check_finite
from hesscomp.errors import InputError
from hesscomp.parallel.world import World


@dataclass(frozen=True)
class Shard:
    """One rank's contiguous rows.

    Attributes
    ----------
    X : (rows, features) array or scipy.sparse.csr_array
        float64 or float32; a shard may be empty.
    y : (rows,) float64 array
        Labels, +1 or -1.
    start, total : int
        Index of the first row here among all ranks' rows, and how many those are.
    """

    X: np.ndarray | scipy.sparse.csr_array
    y: np.ndarray
    start: int
    total: int

    @property
    def nbytes(self) -> int:
        """Bytes of this rank's rows and labels."""
        parts = [self.X]
        if scipy.sparse.issparse(self.X):
            parts = [self.X.data, self.X.indices, self.X.indptr]
        return sum(part.nbytes for part in parts) + self.y.nbytes


@dataclass(frozen=True)
class Dataset:
    """Sharded training rows, and test rows where there are any.

    Attributes
    ----------
    name : str
        "adult", or the file as it was named.
    train, test : Shard
    features : int
        n, the number of columns.
    feature_names : tuple of str, or None
    classes : (str, str)
        What -1 and +1 were called in the input.
    fingerprint : str
        SHA-256 of the training rows, independent of the number of ranks.
    """

    name: str
    train: Shard
    test: Shard | None
    features: int
    feature_names: tuple[str, ...] | None
    classes: tuple[str, str]
    fingerprint: str

    @property
    def rows(self) -> int:
        """Training rows of all ranks."""
        return self.train.total


def from_arrays(X, y, world: World, name: str = "arrays", test=None) -> Dataset:
    """A data set from each rank's own rows, of any number on each rank, also none. Collective.

    Parameters
    ----------
    X : (rows, n) array or sparse array
        float32 stays so; everything else becomes float64. Not copied where that can be avoided.
    y : (rows,) array
        Labels: +1/-1, 0/1, 1/2 or two texts.
    test : (X, y), optional
        Test rows, sharded alike.

    Raises
    ------
    InputError
        On all ranks, for shapes that do not fit, values that are not finite, or labels outside
        two classes.
    """
    train = _unlabelled(X, y, world, name)
    classes = agree_on_classes(train.y, train.start, world, name)
    train, n = replace(train, y=signs(train.y, classes)), train.X.shape[1]
    held_out = None
    if test is not None:
        title = f"{name} (test)"
        held_out = _unlabelled(*test, world, title)
        if held_out.X.shape[1] != n:
            raise InputError(f"{title}: has {held_out.X.shape[1]} columns, the training data {n}")
        agree_on_classes(held_out.y, held_out.start, world, title, classes)
        held_out = replace(held_out, y=signs(held_out.y, classes))
    hashed = fingerprint(train, world)
    return Dataset(name, train, held_out, n, None, class_names(classes), hashed)


def _unlabelled(X, y, world: World, name: str) -> Shard:
    """This rank's rows, checked and placed among the others'; labels still as they came."""
    with world.phase(f"checking {name}"):
        X, y = _matrix(X, name), np.asarray(y)
        if y.shape != (X.shape[0],):
            raise InputError(f"{name}: X has {X.shape[0]} rows but y has shape {y.shape}")
        check_label_type(y, name)
    forms = world.gather((*X.shape, scipy.sparse.issparse(X), X.dtype.name))
    start, total = sum(rows for rows, *_ in forms[: world.rank]), sum(rows for rows, *_ in forms)
    if total == 0:
        raise InputError(f"{name}: no rank holds a row")
    kept = {tuple(form) for rows, *form in forms if rows}
    if len(kept) > 1 or {columns for _, columns, *_ in forms} != {X.shape[1]}:
        raise InputError(f"{name}: the ranks hold arrays of different widths or types")
    if X.shape[1] == 0:
        raise InputError(f"{name}: has no columns; pass at least one feature")
    _, sparse, dtype = kept.pop()
    if not len(y):  # a rank without rows takes the others' form
        X = np.empty(X.shape, dtype)
        X = scipy.sparse.csr_array(X) if sparse else X
    with world.phase(f"checking {name}"):
        check_finite(X, start, name)
    return Shard(X, y, start, total)


def _matrix(X, name: str):
    """X as float64 or float32, dense or in canonical CSR (sorted, without duplicates)."""
    sparse = scipy.sparse.issparse(X)
    X = X if sparse else np.asarray(X)
    if X.ndim != 2:
        raise InputError(f"{name}: X has {X.ndim} dimensions; pass (rows, features)")
    if X.dtype.kind not in "fiub":
        raise InputError(f"{name}: X has type {X.dtype}; pass real numbers")
    X = scipy.sparse.csr_array(X) if sparse else X
    if sparse and not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)
