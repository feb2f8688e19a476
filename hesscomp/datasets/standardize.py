"""Columns brought to the standard deviation 1, and dense ones to the mean 0."""

import hashlib
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse

from hesscomp.datasets.dataset import Dataset, Shard, aligned_empty
from hesscomp.datasets.scaling import Scaling
from hesscomp.datasets.targets import INPUT
from hesscomp.datasets.validation import check_columns
from hesscomp.errors import InputError, some
from hesscomp.parallel.exact import sum_blocks
from hesscomp.parallel.rows import RowBlocks
from hesscomp.parallel.world import World

log = logging.getLogger(__name__)

CHUNK = 1024  # dense rows that are widened at once
EPS = float(np.finfo(float).eps)


def standardized(dataset: Dataset, world: World, *, centre: bool) -> Dataset:
    """Divide each column by its standard deviation, dense ones after taking off the mean.

    Collective. `Dataset.scaling` of the result says what was done, and `linear_model` undoes it.

    Parameters
    ----------
    dataset : Dataset
        Means and deviations are those of its training rows, over all ranks and by their weights;
        test rows are scaled alike.
    centre : bool
        Whether to take off means, which needs an intercept to be the same model. Sparse columns are
        never centred, so that they stay sparse: a free intercept does the same there.

    Notes
    -----
    Two passes over the data. A copy of the rows in float64; of sparse ones only of their values. A
    constant column is not scaled; a warning names it.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> from hesscomp.datasets import from_arrays
    >>> from hesscomp.datasets.standardize import standardized
    >>> data = from_arrays(np.array([[1.0], [3.0]]), [0, 1], hc.World())
    >>> standardized(data, hc.World(), centre=True).train.X.ravel()
    array([-1.,  1.])
    """
    if dataset.targets == INPUT:
        raise InputError(f"{dataset.name}: rows that are their own targets cannot be standardised")
    check_columns(dataset.train.X, dataset.name, "standardising")
    shard = dataset.train
    total, sums = _moments(shard, world, np.zeros(dataset.features), 1)
    means = sums / total
    variances = _moments(shard, world, means, 2)[1] / total
    # As scikit-learn tells constant columns: by what rounding leaves of their variance.
    constant = variances <= shard.total * EPS * variances + (shard.total * means * EPS) ** 2
    if constant.any() and world.rank == 0:
        names = dataset.feature_names or [f"x{i + 1}" for i in range(dataset.features)]
        log.warning(
            "%s: constant columns, which are not scaled: %s",
            dataset.name, some(names[i] for i in np.flatnonzero(constant)),
        )  # fmt: skip
    deviations = np.where(constant, 1.0, np.sqrt(variances))
    centred = centre and not scipy.sparse.issparse(shard.X)
    scaling = Scaling(means * centred, deviations, dataset.fingerprint)
    train = _scaled(shard, scaling)
    test = None if dataset.test is None else _scaled(dataset.test, scaling)
    recipe = f"{dataset.fingerprint} standardized {'centred' * centred}"
    hashed = f"sha256:{hashlib.sha256(recipe.encode()).hexdigest()}"
    return replace(dataset, train=train, test=test, fingerprint=hashed, scaling=scaling)


def _moments(shard: Shard, world: World, means: np.ndarray, power: int) -> tuple[float, np.ndarray]:
    """Return the weight of all rows, and the sums of w (X - means)^power over them. Collective."""
    X: Any = shard.X
    parts, blocks = [slice(0, len(shard.y))], None
    if world.reproducible:
        with world.phase("cutting the data"):
            blocks = RowBlocks.of_shard(shard.start, len(shard.y), shard.total)
        parts = list(blocks.local)
    w = np.ones(len(shard.y)) if shard.weights is None else shard.weights
    sums = np.zeros((len(parts), len(means) + 1))
    for out, part in zip(sums, parts, strict=True):
        out[-1] = w[part].sum()
        if scipy.sparse.issparse(X):
            A = X[part].astype(np.float64)
            held = scipy.sparse.csr_array((np.ones(A.nnz), A.indices, A.indptr), shape=A.shape)
            A.data = (A.data - means[A.indices]) ** power
            out[:-1] = A.T @ w[part] + (out[-1] - held.T @ w[part]) * (-means) ** power
            continue
        for first in range(part.start, part.stop, CHUNK):
            rows = slice(first, min(first + CHUNK, part.stop))
            out[:-1] += (w[rows, None] * (X[rows] - means) ** power).sum(axis=0)
    found = world.sum(sums[0]) if blocks is None else sum_blocks(sums, blocks.count, world)
    return float(found[-1]), found[:-1]


def _scaled(shard: Shard, scaling: Scaling) -> Shard:
    X: Any = shard.X
    if scipy.sparse.issparse(X):
        parts = (X.data / scaling.deviations[X.indices], X.indices, X.indptr)
        return replace(shard, X=scipy.sparse.csr_array(parts, shape=X.shape))
    out = aligned_empty(X.shape, np.float64)
    for first in range(0, len(X), CHUNK):
        rows = slice(first, first + CHUNK)
        np.divide(X[rows] - scaling.means, scaling.deviations, out=out[rows])
    return replace(shard, X=out)
