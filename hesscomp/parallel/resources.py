"""The memory and the cores that a rank may use, and how fast it computes and communicates."""

from __future__ import annotations

import math
import os
import timeit
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hesscomp.parallel import threads_of_environment

if TYPE_CHECKING:  # which loads MPI: plans do not
    from hesscomp.parallel.world import World

SHARE = 0.5  # of what is available that blocks of columns may take; the rest is for data
PRODUCT_BYTES = 4 * 2.0**30  # for one product of a network, unless requested otherwise
COLUMN_COPIES = 6  # arrays of a product's size in it: tangents, gradients, both rearranged, sums
REPEATS = 5
LARGEST = 2**22  # numbers in an array that is timed: more would tell no more


def available_bytes() -> int:
    """Return the memory that this node still has, within the control groups of this job."""
    found = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    for group in _control_groups():
        limit, used = _lines(f"{group}/memory.max"), _lines(f"{group}/memory.current")
        if limit and used and limit[0].isdigit():
            found.append(int(limit[0]) - int(used[0]))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(min(found, default=total), 0)


def _control_groups() -> list[Path]:
    """Return this process's control groups (version 2), from its own up to the root."""
    root = Path("/sys/fs/cgroup")
    own = next((line[3:] for line in _lines("/proc/self/cgroup") if line.startswith("0::")), "/")
    path = root / own.lstrip("/")
    return [root] if ".." in path.parts else [*({path, *path.parents} - {*root.parents})]


def sketch_bytes(n: int, columns: int, power: int) -> float:
    """Return what a sketch takes at most where every rank holds all of its rows."""
    return 8.0 * n * min(columns, n) * (4 + power)


def fits_in_memory(world: World, needed: float) -> bool:
    """Return whether every rank has `needed` bytes, and as much again for its data. Collective."""
    share = available_bytes() * SHARE / world.ranks_here()
    return all(world.gather(needed <= share))


def resident_bytes() -> int:
    """Return the memory that this process holds."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the most that this process has held since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Let `peak_bytes` begin again."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    found = next(line for line in _lines("/proc/self/status") if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def threads_per_rank(world: World, requested: int | None = None) -> int:
    """Return this rank's threads: `requested`, or OMP_NUM_THREADS, or its share of the cores.

    Each core counts as one divided by the number of this node's ranks that may run on it, so the
    answer is right whether the launcher binds ranks to cores or leaves them all free. Collective.
    """
    affinity = getattr(os, "sched_getaffinity", lambda pid: set(range(os.cpu_count() or 1)))
    cores = affinity(0)
    share = sum(1 / sharers for sharers in world.node_shares(cores))
    if requested is not None:
        return requested
    return threads_of_environment() or max(1, math.floor(share + 1e-9))


def network_speed(world: World, words: int) -> tuple[float, float] | tuple[None, None]:
    """Latency (seconds a message) and bandwidth (bytes/s) of the model in `compression.counting`.

    From reductions of one and of `words` float32 numbers, at most 2^22; (None, None) on one rank.
    The bandwidth is at most ten times that of the larger reduction with its latency, since a
    difference of two timings may be noise alone. Collective.
    """
    if world.size == 1:
        return None, None
    messages = 2 * np.ceil(np.log2(world.size))
    latency = _seconds(lambda: world.sum(np.zeros(1))) / messages
    array = np.zeros(min(words, LARGEST), dtype=np.float32)
    whole = max(_seconds(lambda: world.sum(array)), 1e-9)
    spent = max(whole - messages * latency, whole / 10)
    bandwidth = 2 * (1 - 1 / world.size) * array.nbytes / spent
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
