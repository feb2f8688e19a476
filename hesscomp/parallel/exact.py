"""Sums whose bits do not depend on how the addends are spread over the ranks.

A sum of floating-point numbers depends on their order, a sum of integers does not. So the ranks
agree on a power of two per column from the largest addend, cut every addend to a multiple of it and
add these as int64. What is cut is below 2^-52 of the largest addend for up to 1,023 of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # layouts, which need this module, load no MPI
    from hesscomp.parallel.world import World

CACHED = 2**14  # entries that are scaled and rounded at once, within the cache
SMALLEST = -960  # binary exponent below which addends count as zero: keeps the scale finite


def sum_blocks(
    blocks: np.ndarray,
    count: int,
    world: World,
    reduce: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Sum over the first axis and over the ranks, the same bits on any number of them.

    Parameters
    ----------
    blocks : (b, ..., k) array
        This rank's addends, any number of them; float32 or float64.
    count : int
        Addends of all ranks together.
    world : World
    reduce : callable, optional
        Sums integers over the ranks; ``world.sum`` by default.

    Returns
    -------
    float64 array
        NaN in columns (entries of the last axis) that hold a number that is not finite.

    Notes
    -----
    Two reductions: k words for the scale, then the integers.
    """
    shape, k = blocks.shape[1:], blocks.shape[-1]
    blocks = blocks.reshape(len(blocks), -1, k) if blocks.size else np.zeros((1, 0, k))
    # Axis by axis, and without an array of magnitudes: many times as fast.
    largest = np.maximum(blocks.max(axis=0), -blocks.min(axis=0))
    largest = np.ascontiguousarray(largest.T).max(axis=1, initial=0.0).astype(np.float64)
    largest = world.max(np.where(np.isfinite(largest), largest, np.inf))
    finite = np.isfinite(largest)
    exponent = np.maximum(np.frexp(np.where(finite, largest, 1.0))[1], SMALLEST)
    scale = np.exp2(62.0 - int(count).bit_length() - exponent)
    total = np.zeros((int(np.prod(shape[:-1])), k), np.int64)
    step = max(CACHED // max(k, 1), 1)
    scales = np.tile(scale, (step, 1))  # else NumPy goes row by row, which are short
    scaled = np.empty((step, k))
    with np.errstate(invalid="ignore"):
        for first in range(0, blocks.shape[1], step):
            part = total[first : first + step]
            factor, room = scales[: len(part)], scaled[: len(part)]
            for block in blocks:
                part += np.multiply(block[first : first + step], factor, out=room).astype(np.int64)
    return (reduce or world.sum)(total.reshape(shape)) * np.where(finite, 1 / scale, np.nan)
