"""The rows that a rank holds for a problem of any kind: inputs and targets of any shape."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse

from hesscomp.datasets import Dataset, Shard
from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.datasets.tables import plain
from hesscomp.datasets.validation import CHUNK, row_size
from hesscomp.errors import InputError
from hesscomp.parallel import random
from hesscomp.parallel.world import World
from hesscomp.problems.handed import as_arrays


@dataclass(frozen=True)
class RowSet(Shard):
    """One rank's contiguous rows, of any shape, and the data set that they are of.

    Attributes
    ----------
    name, fingerprint : str
        Of the data set; always given.
    targets : str or None
        What y holds, where the data set says (`Dataset.targets`).
    """

    name: str = ""
    fingerprint: str = ""
    targets: str | None = None

    @classmethod
    def of(cls, data, world: World) -> "RowSet":
        """From a `Dataset`, a pair (X, y) or a tf.data.Dataset of each rank's own rows. Collective.

        Raises
        ------
        InputError
            If rows are sparse, do not fit or are not finite, or no rank holds one.
        """
        if isinstance(data, Dataset):
            if scipy.sparse.issparse(data.train.X):
                raise InputError(f"{data.name}: networks take dense rows; store them as an array")
            if data.train.weights is not None or data.train.offsets is not None:
                raise InputError(
                    f"{data.name}: networks take no sample weights and no offsets; leave them out, "
                    "or write the loss as a FunctionProblem"
                )
            return cls(
                **vars(data.train),
                name=data.name,
                fingerprint=data.fingerprint,
                targets=data.targets,
            )
        with world.phase("checking arrays"):
            data = as_arrays(data, world)
            if isinstance(data, tuple | list) and len(data) == 3:
                raise InputError(
                    "data has three parts, and hesscomp takes no sample weights; give (X, y), and "
                    "repeat rows that count more than once or write the loss as a FunctionProblem"
                )
            if not (isinstance(data, tuple | list) and len(data) == 2):
                if isinstance(data, str | os.PathLike):
                    raise InputError(
                        f"data: {os.fspath(data)} is a name; read it with load_data, and pass what "
                        "that returns"
                    )
                raise InputError(
                    "data must be a Dataset, a pair (X, y) of arrays or a tf.data.Dataset, not a "
                    f"{type(data).__name__}; of a generator or loader give what its batches hold, "
                    "put together (np.concatenate)"
                )
            X, y = (_checked(part, name) for part, name in zip(data, "Xy", strict=True))
            if len(X) != len(y):
                raise InputError(f"arrays: X has {len(X)} rows but y has {len(y)}")
        forms = world.gather((len(X), X.shape[1:], y.shape[1:], X.dtype.kind))
        counts = [rows for rows, *_ in forms]
        if len({tuple(form) for rows, *form in forms if rows}) > 1:
            raise InputError("arrays: the ranks hold rows of different shapes or types")
        if not sum(counts):
            raise InputError("arrays: no rank holds a row")
        start, total = sum(counts[: world.rank]), sum(counts)
        hashed = fingerprint(Shard(X[:], y, start, total), world)  # y counts, even where it is X
        return cls(X, y, start, total, name="arrays", fingerprint=hashed)

    @classmethod
    def held_out(cls, data, world: World) -> "RowSet":
        """Return the test rows of a `Dataset`, made dense if sparse, or of a pair as in `of`."""
        if not isinstance(data, Dataset):
            return cls.of(data, world)
        shard, name = data.test, f"{data.name} (test)"
        assert shard is not None  # who evaluates on test rows has looked
        if not isinstance(shard.X, np.ndarray):
            with world.phase(f"filling {name} up"):
                shard = replace(shard, X=shard.X.toarray())
        hashed = fingerprint(shard, world)
        return cls(**vars(shard), name=name, fingerprint=hashed, targets=data.targets)

    def picked(self, fraction: float, seed: int) -> np.ndarray:
        """Return which rows here a sample takes: (rows,) booleans.

        All rows are a ring, which is cut at a random place into as many arcs as rows are taken, of
        lengths that differ by one at most; of each arc one row is taken. So each row is as likely
        as any other, every rank has its share up to two rows, and the rows are the same on any
        number of ranks.
        """
        if not 0 < fraction <= 1:
            raise InputError(f"a sample must be a fraction above 0 and at most 1, not {fraction}")
        kept, total, count = np.zeros(len(self.X), bool), self.total, round(fraction * self.total)
        if not count:
            return kept
        cut = int(total * random.uniform(seed, random.ROW_SAMPLE, (0, 1), (1, 2))[0, 0])
        first, last = self.start - cut, self.start + len(self.X) - cut  # after the cut
        for start, stop in ((first + total, min(last, 0) + total), (max(first, 0), last)):
            if start >= stop:
                continue
            arcs = start * count // total, min(stop * count // total + 1, count)
            ends = np.arange(arcs[0], arcs[1] + 1) * total // count
            places = random.uniform(seed, random.ROW_SAMPLE, arcs, (0, 1))[:, 0]
            taken = ends[:-1] + (places * np.diff(ends)).astype(int)
            taken = taken[(start <= taken) & (taken < stop)]
            kept[(taken + cut) % total - self.start] = True
        return kept

    def only(self, kept: np.ndarray, name: str, world: World) -> "RowSet":
        """Return the rows that are `kept` here and on the other ranks. Collective."""
        counts = world.gather(int(np.count_nonzero(kept)))
        if not sum(counts):
            raise InputError(f"{name} of {self.total} rows is empty; take more")
        start = sum(counts[: world.rank])
        weights, offsets = (
            None if values is None else values[kept] for values in (self.weights, self.offsets)
        )
        return replace(
            self, X=self.X[kept], y=self.y[kept], start=start, total=sum(counts),
            weights=weights, offsets=offsets, name=name,
        )  # fmt: skip


def _pieces(values: np.ndarray) -> Iterator[slice]:
    rows = max(CHUNK // max(row_size(values), 1), 1)
    return (slice(first, first + rows) for first in range(0, len(values), rows))


def _checked(values, name: str) -> np.ndarray:
    if isinstance(values, dict):
        raise InputError(f"arrays: {name} is a dict, which goes with a model of several of them")
    values = plain(values, "arrays", name)
    if values.dtype.kind not in "fiub":
        raise InputError(f"arrays: {name} has type {values.dtype}; pass real numbers")
    if values.ndim == 0:
        raise InputError(f"arrays: {name} is a single number; pass a row for each example")
    if not all(np.isfinite(values[part]).all() for part in _pieces(values)):
        raise InputError(f"arrays: {name} holds numbers that are not finite; clean the data")
    return values


def __getattr__(name: str):
    if name != "Rows":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "`Rows` is now `RowSet`; the next version has only that", DeprecationWarning, stacklevel=2
    )
    return RowSet
