"""A data set of labelled rows, cut into one shard for each rank."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.datasets.labels import agree_on_classes, signs
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
    train, labels, features = _shard_of(X, y, world, name)
    classes = agree_on_classes(labels, train.start, world, name)
    shard = Shard(train.X, signs(labels, classes), train.start, train.total)
    held_out = None
    if test is not None:
        part, labels, width = _shard_of(*test, world, f"{name} (test)")
        if width != features:
            raise InputError(f"{name}: {features} training columns but {width} test columns")
        agree_on_classes(labels, part.start, world, f"{name} (test)", classes)
        held_out = Shard(part.X, signs(labels, classes), part.start, part.total)
    names = tuple(str(value) for value in classes)
    return Dataset(name, shard, held_out, features, None, names, fingerprint(shard, world))


def _shard_of(X, y, world: World, name: str):
    with world.phase(f"checking {name}"):
        if scipy.sparse.issparse(X):
            X = scipy.sparse.csr_array(X)
        else:
            X = np.asarray(X)
            if X.ndim != 2:
                raise InputError(f"{name}: X has {X.ndim} dimensions; pass (rows, features)")
        y = np.asarray(y)
        if y.shape != (X.shape[0],):
            raise InputError(f"{name}: X has {X.shape[0]} rows but y has shape {y.shape}")
        if X.dtype.kind not in "fiub":
            raise InputError(f"{name}: X has type {X.dtype}; pass real numbers")
        if X.dtype not in (np.float32, np.float64):
            X = X.astype(np.float64)
    sizes = world.gather(X.shape)
    start, total = sum(rows for rows, _ in sizes[: world.rank]), sum(rows for rows, _ in sizes)
    widths = {columns for _, columns in sizes}
    if len(widths) > 1:
        raise InputError(f"{name}: the ranks hold {sorted(widths)} columns; all need the same")
    if total == 0:
        raise InputError(f"{name}: no rank holds a row")
    with world.phase(f"checking {name}"):
        check_finite(X, start, name)
    return Shard(X, y, start, total), y, widths.pop()
