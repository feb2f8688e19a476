"""Commands that a signal ends in good order, so that `--run FOLDER` goes on later."""

import math
import os
import signal
import sys
import time

from hesscomp.cli.main import INTERRUPTED
from hesscomp.errors import Interrupted
from hesscomp.parallel.world import World
from hesscomp.runs.slurm import REQUEUE, SIGNALS

ONCE = 1.0  # seconds in which a SIGINT from the terminal and the same one from mpiexec come
WAIT = b"hesscomp: interrupted: ends after the present block product; Ctrl-C again ends it now\n"


class Listener:
    """Hears some signals from now on; calling it says which one came, 0 where none did.

    A second SIGINT is not waited with. `speaks` tells whoever pressed Ctrl-C that the first one is.
    """

    def __init__(self, signals, speaks: bool):
        self.heard, self.speaks, self.first = 0, speaks, math.inf
        for number in signals:
            signal.signal(number, self._hear)

    def _hear(self, number: int, _) -> None:
        self.heard = max(self.heard, number)
        if number != signal.SIGINT:
            return
        if time.monotonic() > self.first + ONCE:
            raise KeyboardInterrupt
        if self.first == math.inf and self.speaks:
            os.write(2, WAIT)
        self.first = min(self.first, time.monotonic())

    def __call__(self) -> int:
        return self.heard


def listen(options, world: World) -> None:
    """From now on signals end a command with `--run` where it can go on later.

    SIGINT does so where it has no folder too, so that it says what it has reached.
    """
    if hasattr(options, "run"):
        signals = (signal.SIGINT, *(() if options.run is None else SIGNALS))
        world.stop_asked = Listener(signals, speaks=world.rank == 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # those that came before come now


def ended(options, world: World, why: Interrupted) -> int:
    """Say that a signal ended the run, and how it goes on; returns the exit status."""
    by_hand = why.signal == signal.SIGINT
    if world.rank == 0:
        how = "interrupted" if by_hand else "ended by a signal"
        kept = "nothing is kept: --run FOLDER would keep what the same command goes on from"
        if options.run is not None:
            kept = f"the same command goes on from {options.run}"
        reached = why.reached and f" {why.reached}"
        print(f"hesscomp: {how}{reached}; {kept}", file=sys.stderr, flush=True)
    return INTERRUPTED if by_hand else REQUEUE
