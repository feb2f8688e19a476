"""How much memory a rank may take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hesscomp.parallel.world import World

SHARE = 0.5  # of what is available that blocks of columns may take; the rest is for data
PRODUCT_BYTES = 4 * 2.0**30  # for one product of a network, unless requested otherwise
COLUMN_COPIES = 6  # arrays of a product's size in it: tangents, gradients, both rearranged, sums


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
