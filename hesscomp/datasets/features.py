"""Features made from features."""

import hashlib
from dataclasses import replace

import numpy as np
import scipy.sparse

from hesscomp.datasets.dataset import Dataset, Shard
from hesscomp.errors import InputError
from hesscomp.parallel import random
from hesscomp.parallel.world import World
from hesscomp.runs.memory import aligned_empty

BLOCK = 512  # rows lifted together, on a global grid: a row's rounding does not depend on the ranks


def fourier_features(
    dataset: Dataset,
    world: World,
    count: int,
    bandwidth: float,
    seed: int = 0,
    dtype: str = "float64",
) -> Dataset:
    """Random Fourier features sqrt(2/D) cos(W a / S + b) of every row a.

    Their inner products approximate the Gaussian kernel exp(-||a - a'||^2 / (2 S^2)) (Rahimi and
    Recht 2007, algorithm 1).

    Parameters
    ----------
    dataset : Dataset
        Its training and test rows are lifted, all n features of them.
    count : int
        D, the number of features made.
    bandwidth : float
        S.
    seed : int
        Of W (D, n), standard normal, and b (D,), uniform on [0, 2 pi); the same features on any
        number of ranks.
    dtype : {"float32", "float64"}
        Of the features; they are computed in float64.

    Notes
    -----
    Each rank lifts its own rows: 2 rows n D operations, and the result's memory plus W.
    """
    if count < 1:
        raise InputError(f"the number of Fourier features must be at least 1, not {count}")
    if not (np.isfinite(bandwidth) and bandwidth > 0):
        raise InputError(f"the bandwidth must be a positive number, not {bandwidth}")
    if seed < 0:
        raise InputError(f"the seed must be at least 0, not {seed}")
    n = dataset.features
    weights = random.standard_normal(seed, random.FEATURE_WEIGHTS, (0, count), (0, n)).T
    weights = np.ascontiguousarray(weights / bandwidth)
    phases = 2 * np.pi * random.uniform(seed, random.FEATURE_PHASES, (0, count), (0, 1))[:, 0]
    with world.phase("making Fourier features"):
        train = _lift(dataset.train, weights, phases, dtype)
        test = None if dataset.test is None else _lift(dataset.test, weights, phases, dtype)
    recipe = f"{dataset.fingerprint} fourier {count} {bandwidth!r} {seed} {dtype}"
    return replace(
        dataset,
        name=f"{dataset.name}, {count} Fourier features (bandwidth {bandwidth:g})",
        train=train,
        test=test,
        features=count,
        feature_names=None,
        fingerprint=f"sha256:{hashlib.sha256(recipe.encode()).hexdigest()}",
    )


def _lift(shard: Shard, weights: np.ndarray, phases: np.ndarray, dtype: str) -> Shard:
    rows, count = len(shard.y), len(phases)
    lifted = aligned_empty((rows, count), dtype)
    first = 0
    while first < rows:
        last = min(first + BLOCK - (shard.start + first) % BLOCK, rows)
        block = shard.X[first:last]
        if scipy.sparse.issparse(block):
            block = block.toarray()
        angles = np.asarray(block, dtype=np.float64) @ weights
        angles += phases
        np.cos(angles, out=angles)
        angles *= np.sqrt(2 / count)
        lifted[first:last] = angles
        first = last
    return replace(shard, X=lifted)
