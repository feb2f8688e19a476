"""A time limit on MPI's start and end, where a rank is inside MPI and cannot look at the clock.

SIGALRM ends a process that takes longer; the process that watches it (`rank_watchdog`) says so.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from hesscomp.parallel.watchdog.phase import set_outer_phase

_seconds: float | None = None


@contextmanager
def startup_timeout(seconds: float, phase: str) -> Iterator[None]:
    """End this process if the block, a phase of this name, takes longer than `seconds`."""
    global _seconds
    _seconds = seconds
    limit_the_rest(phase)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        set_outer_phase("")


def limit_the_rest(phase: str) -> None:
    """End this process if the rest of it, a phase of this name, takes longer than its start might.

    Without a `startup_timeout` before it, nothing is limited.
    """
    if _seconds is not None:
        set_outer_phase(phase)
        signal.setitimer(signal.ITIMER_REAL, _seconds)
