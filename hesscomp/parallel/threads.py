"""How many threads a rank may use: the cores it may run on, shared fairly with its neighbours."""

import math
import os

from hesscomp.parallel.world import World


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
    fixed = os.environ.get("OMP_NUM_THREADS", "")
    if fixed.isdigit() and int(fixed) > 0:
        return int(fixed)
    return max(1, math.floor(share + 1e-9))
