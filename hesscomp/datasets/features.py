"""Features made from features."""

import hashlib
import math
from dataclasses import replace

import numpy as np

from hesscomp.datasets.dataset import Dataset, Shard, aligned_empty
from hesscomp.datasets.targets import INPUT
from hesscomp.datasets.validation import check_columns
from hesscomp.errors import InputError
from hesscomp.parallel import random
from hesscomp.parallel.world import World

BLOCK = 64  # rows lifted together; they and what is made of them stay in cache


def fourier_features(
    dataset: Dataset, world: World, count: int, bandwidth: float, seed: int = 0,
    dtype: str = "float64",
) -> Dataset:  # fmt: skip
    """Make random Fourier features sqrt(2/D) cos(W a / S + b) of every row a.

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
        Of W (D, n), standard normal, and b (D,), uniform on [0, 2 pi).
    dtype : {"float32", "float64"}
        Of the features; they are computed in float64.

    Notes
    -----
    Each rank lifts its own rows, with the same bits on any number of ranks: 2 rows n D
    operations and a cosine for each feature, and the result's memory plus W.
    """
    if count < 1:
        raise InputError(f"the number of Fourier features must be at least 1, not {count}")
    if not (math.isfinite(bandwidth) and bandwidth > 0):
        raise InputError(f"the bandwidth must be a positive number, not {bandwidth}")
    random.check_seed(seed)
    if dtype not in ("float32", "float64"):
        raise InputError(f"the features' dtype must be float32 or float64, not {dtype}")
    if dataset.targets == INPUT:
        raise InputError(f"{dataset.name}: rows that are their own targets cannot be lifted")
    check_columns(dataset.train.X, dataset.name, "a Fourier lift")
    bandwidth = float(bandwidth)
    with world.phase("making Fourier features"):
        W = random.standard_normal(seed, random.FEATURE_WEIGHTS, (0, count), (0, dataset.features))
        W = np.ascontiguousarray((W / bandwidth).T)
        b = random.uniform(seed, random.FEATURE_PHASES, (0, count), (0, 1))[:, 0] * (2 * np.pi)
        train = _lift(dataset.train, W, b, dtype)
        test = None if dataset.test is None else _lift(dataset.test, W, b, dtype)
    recipe = f"{dataset.fingerprint} fourier {count} {bandwidth!r} {seed} {dtype}"
    hashed = f"sha256:{hashlib.sha256(recipe.encode()).hexdigest()}"
    name = f"{dataset.name}, {count} Fourier features (bandwidth {bandwidth:g})"
    lifted = replace(dataset, name=name, train=train, test=test, features=count)
    return replace(lifted, feature_names=None, encoding=None, fingerprint=hashed)


def _lift(shard: Shard, W: np.ndarray, b: np.ndarray, dtype: str) -> Shard:
    """Return the shard with the features sqrt(2/D) cos(a W + b).

    Blocks begin on a global grid and are filled up with zeros at a shard's ends, so every product
    has one shape: its rounding, and so a row's features, do not depend on the shard.
    """
    rows, count = len(shard.y), len(b)
    lifted = aligned_empty((rows, count), dtype)
    block = np.zeros((BLOCK, W.shape[0]))
    angles = np.empty((BLOCK, count))
    for first in range(-(shard.start % BLOCK), rows, BLOCK):
        start, stop = max(first, 0), min(first + BLOCK, rows)
        part = shard.X[start:stop]
        here = slice(start - first, stop - first)
        block[here] = part if isinstance(part, np.ndarray) else part.toarray()
        np.matmul(block, W, out=angles)
        angles += b
        np.cos(angles, out=angles)
        np.multiply(angles[here], math.sqrt(2 / count), out=lifted[start:stop], casting="same_kind")
    return replace(shard, X=lifted)
