"""What a data set is and how it spreads over ranks."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from hesscomp.datasets.dataset import Dataset
from hesscomp.datasets.targets import SIGNS
from hesscomp.errors import InputError
from hesscomp.parallel.rows import row_ranges
from hesscomp.parallel.world import World


@dataclass(frozen=True)
class DatasetSummary:
    """The facts of a data set over all ranks.

    `shape` is that of a row. `classes`, and `counts` of their training rows, are empty for targets
    that are not classes. `density` is the share of entries that are not zero; `storage` is "dense"
    or "sparse". `nbytes` are those of all ranks' training rows, `shard_rows` and `shard_bytes` what
    each of the ranks planned for would hold.
    """

    name: str
    fingerprint: str
    rows: int
    features: int
    shape: tuple[int, ...]
    test_rows: int
    targets: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    density: float
    storage: str
    dtype: str
    feature_names: tuple[str, ...] | None
    nbytes: int
    shard_rows: tuple[int, ...]
    shard_bytes: tuple[int, ...]


def summarize(dataset: Dataset, world: World, ranks: int | None = None) -> DatasetSummary:
    """Summarise a data set, sharded over `ranks` (by default those of the world). Collective."""
    if ranks is not None and ranks < 1:
        raise InputError(f"the number of ranks must be at least 1, not {ranks}")
    shard = dataset.train
    sparse = scipy.sparse.issparse(shard.X)
    nonzeros = np.count_nonzero(shard.X.data if sparse else shard.X)
    counts: np.ndarray = np.empty(0)  # of this rank's rows of each class
    if dataset.classes:
        codes = shard.y > 0 if dataset.targets == SIGNS else shard.y
        counts = np.bincount(codes, minlength=len(dataset.classes))
    local = np.array([nonzeros, shard.nbytes, *counts], dtype=np.int64)
    nonzeros, nbytes, *counts = world.sum(local).tolist()
    planned = ranks or world.size
    ranges = row_ranges(dataset.rows, planned)
    rows = tuple(stop - start for start, stop in ranges)
    return DatasetSummary(
        name=dataset.name,
        fingerprint=dataset.fingerprint,
        rows=dataset.rows,
        features=dataset.features,
        shape=shard.X.shape[1:],
        test_rows=dataset.test.total if dataset.test else 0,
        targets=dataset.targets,
        classes=dataset.classes,
        counts=tuple(counts),
        density=nonzeros / max(dataset.rows * dataset.features, 1),
        storage="sparse" if sparse else "dense",
        dtype=shard.X.dtype.name,
        feature_names=dataset.feature_names,
        nbytes=nbytes,
        shard_rows=rows,
        shard_bytes=tuple(round(nbytes * count / dataset.rows) for count in rows),
    )
