"""Random arrays of which any rank can make any part, whatever the number of ranks.

Philox is a counter-based generator: a key and a counter give the numbers, nothing is stored or
sent. The key is (seed, stream); the counter's upper words are (row block, column), so each block
of each column stands alone, and a matrix that grows by columns keeps its earlier ones.
"""

import numpy as np

from hesscomp.errors import InputError

SEEDS = 2**32  # so that training can key its batches with seed 2^32 + step, in 64 bits
BLOCK = 8192  # rows that one (key, counter) pair generates together

# Streams: one number for each use, so that no two uses share numbers.
SKETCH, PROBE, FEATURE_WEIGHTS, FEATURE_PHASES, POWER_START, SIGNS, FREQUENCIES, PLACES = range(8)
ESTIMATOR, ESTIMATOR_SKETCH, LANCZOS, FACTOR_SAMPLES = range(8, 12)
CURVE_POINTS, ROW_SAMPLE, TARGET_SAMPLES, DIRECTIONS, INITIAL_WEIGHTS, GUARD = range(12, 18)
DOMAIN_POINTS, WALKS, WALK_TESTS, ADDED_COORDINATES, FOLDS, RATE_START = range(18, 24)


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that is none."""
    if not 0 <= seed < SEEDS:
        raise InputError(f"seed must be at least 0 and below 2^32, not {seed}")


def standard_normal(
    seed: int, stream: int, rows: tuple[int, int], columns: tuple[int, int]
) -> np.ndarray:
    """Return these rows and columns, given as ranges (first, last + 1), of a normal matrix.

    A column-contiguous float64 array; about 10 ns an entry.
    """
    return _fill(seed, stream, rows, columns, np.random.Generator.standard_normal)


def uniform(seed: int, stream: int, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Return numbers as `standard_normal` does, but uniform on [0, 1)."""
    return _fill(seed, stream, rows, columns, np.random.Generator.random)


def _fill(seed, stream, rows, columns, draw) -> np.ndarray:
    (start, stop), (first, last) = rows, columns
    out = np.empty((last - first, stop - start))
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        base = block * BLOCK
        begin, end = max(start, base), min(stop, base + BLOCK)
        for column in range(first, last):
            bits = np.random.Philox(key=[seed % 2**64, stream], counter=[0, 0, block, column])
            # A shorter draw is a prefix of a longer one, so rows past `end` need not be made.
            values = draw(np.random.Generator(bits), end - base)
            out[column - first, begin - start : end - start] = values[begin - base :]
    return out.T
