"""Signals that ask a run to stop: remembered when they come, acted on where the run can stop."""

import math
import os
import signal
import time
from collections.abc import Iterable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # after which a run saves what it has and ends
ONCE = 1.0  # seconds in which a SIGINT from the terminal and the same one from mpiexec come


class StopListener:
    """Remembers from now on which of some signals came; a call returns its number, 0 for none.

    A second SIGINT raises KeyboardInterrupt. Set as `World.stop_asked`.

    Parameters
    ----------
    signals : iterable of int
    notice : bytes
        Written to the standard error when the first SIGINT comes, so that whoever pressed Ctrl-C
        knows that the run will stop. Empty for none.
    """

    def __init__(self, signals: Iterable[int], notice: bytes = b""):
        self.heard, self.notice, self.first = 0, notice, math.inf
        for number in signals:
            signal.signal(number, self._hear)

    def _hear(self, number: int, _) -> None:
        self.heard = max(self.heard, number)
        if number != signal.SIGINT:
            return
        if time.monotonic() > self.first + ONCE:
            raise KeyboardInterrupt
        if self.first == math.inf:
            os.write(2, self.notice)
        self.first = min(self.first, time.monotonic())

    def __call__(self) -> int:
        return self.heard
