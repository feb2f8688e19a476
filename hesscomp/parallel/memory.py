"""How much memory a rank may take."""

import os
from pathlib import Path

from hesscomp.parallel.world import World

SHARE = 0.5  # of what is available that blocks of columns may take; the rest is for data


def available_bytes() -> int:
    """Memory that this node still has, within the control group of this job."""
    found = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    group = "/sys/fs/cgroup"
    limit, used = _lines(f"{group}/memory.max"), _lines(f"{group}/memory.current")
    if limit and used and limit[0].isdigit():
        found.append(int(limit[0]) - int(used[0]))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(min(found, default=total), 0)


def fits_in_memory(world: World, needed: float) -> bool:
    """Whether every rank has `needed` bytes, and as much again for its data. Collective."""
    share = available_bytes() * SHARE / world.ranks_here()
    return all(world.gather(needed <= share))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
