"""What the ranks' network and processors do, measured."""

import timeit

import numpy as np

from hesscomp.parallel.world import World

REPEATS = 5
LARGEST = 2**22  # numbers in an array that is timed: more would tell no more


def network_speed(world: World, words: int) -> tuple[float, float] | tuple[None, None]:
    """Latency (seconds a message) and bandwidth (bytes/s) of the model in `compression.counting`.

    From reductions of one and of `words` float32 numbers, at most 2^22; (None, None) on one rank.
    Collective.
    """
    if world.size == 1:
        return None, None
    messages = 2 * np.ceil(np.log2(world.size))
    latency = _seconds(lambda: world.sum(np.zeros(1))) / messages
    array = np.zeros(min(words, LARGEST), dtype=np.float32)
    spent = _seconds(lambda: world.sum(array)) - messages * latency
    bandwidth = 2 * (1 - 1 / world.size) * array.nbytes / max(spent, 1e-9)
    return world.broadcast((latency, bandwidth))


def algebra_rate(n: int, columns: int) -> float:
    """Operations a second of this rank in Q^T Q for an (n, columns) block, or its first rows."""
    n = max(min(n, LARGEST // columns), 1)
    Q = np.ones((n, columns))
    return 2 * n * columns**2 / max(_seconds(lambda: Q.T @ Q), 1e-9)


def _seconds(work) -> float:
    """Return the median time of a few repeats after a first."""
    work()
    return float(np.median(timeit.repeat(work, number=1, repeat=REPEATS)))
