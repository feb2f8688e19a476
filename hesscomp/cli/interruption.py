"""End a command on a signal in good order, so that `--run FOLDER` can resume it."""

import signal
import sys

from hesscomp.cli.exits import INTERRUPTED
from hesscomp.errors import Interrupted
from hesscomp.parallel.watchdog.stop_signals import STOP_SIGNALS, StopListener
from hesscomp.parallel.world import World
from hesscomp.runs.slurm import REQUEUE

NOTICE = b"hesscomp: interrupted: ends after the current block product; Ctrl-C again ends it now\n"


def listen(options, world: World) -> None:
    """From now on, let signals end a command with `--run` where it can be resumed.

    SIGINT does so without a folder too, so that the command reports what it has reached.
    """
    if hasattr(options, "run"):
        signals = (signal.SIGINT, *(() if options.run is None else STOP_SIGNALS))
        world.stop_asked = StopListener(signals, NOTICE if world.rank == 0 else b"")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # those that came before come now


def ended(options, world: World, why: Interrupted) -> int:
    """Print that a signal ended the run and how to resume it; return the exit status."""
    by_hand = why.signal == signal.SIGINT
    if world.rank == 0:
        how = "interrupted" if by_hand else "ended by a signal"
        kept = "nothing is kept; with --run FOLDER the same command could resume"
        if options.run is not None:
            kept = f"the same command resumes from {options.run}"
        reached = why.reached and f" {why.reached}"
        print(f"hesscomp: {how}{reached}; {kept}", file=sys.stderr, flush=True)
    return INTERRUPTED if by_hand else REQUEUE
