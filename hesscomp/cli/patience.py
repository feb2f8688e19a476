"""MPI's start and end, where a rank cannot look at the clock: SIGALRM ends one that waits too long.

The process that watches the rank says why.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from hesscomp.parallel.phase import set_outer_phase

_seconds: float | None = None


@contextmanager
def at_most(seconds: float, doing: str) -> Iterator[None]:
    """End this process where the block takes longer, and `begin` what is as long from then on."""
    global _seconds
    _seconds = seconds
    begin(doing)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        set_outer_phase("")


def begin(doing: str) -> None:
    """From now on this process may take the seconds of the last `at_most`, if there was one."""
    if _seconds is not None:
        set_outer_phase(doing)
        signal.setitimer(signal.ITIMER_REAL, _seconds)
