"""Runs that a signal ends so that the same command goes on from there: `--run FOLDER`."""

import signal
import sys
from argparse import ArgumentTypeError

from hesscomp.parallel.world import World
from hesscomp.runs.slurm import REQUEUE, SIGNALS


def add_run_argument(parser, holds: str) -> None:
    """`holds` says what the folder gets."""
    parser.add_argument(
        "--run", metavar="FOLDER", type=_folder,
        help=f"{holds}; where it holds those of this command, the run goes on from them. SIGTERM "
        f"and SIGUSR1 then end the run after the present block product, with status {REQUEUE}",
    )  # fmt: skip


def _folder(text: str) -> str:
    if not text:
        raise ArgumentTypeError("it names no folder")
    return text


class Listener:
    """Hears SIGTERM and SIGUSR1 from now on; calling it says whether one came."""

    def __init__(self):
        self.heard = False
        for number in SIGNALS:
            signal.signal(number, self._hear)

    def _hear(self, *_) -> None:
        self.heard = True

    def __call__(self) -> bool:
        return self.heard


def listen(options, world: World) -> None:
    """From now on a signal ends the command where it can go on later, if it has a folder for it."""
    if getattr(options, "run", None) is not None:
        world.stop_asked = Listener()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # those that came before come now


def ended(options, world: World) -> int:
    """Say that a signal ended the run and how it goes on; returns the exit status."""
    if world.rank == 0:
        print(
            f"hesscomp: ended by a signal; the same command goes on from {options.run}",
            file=sys.stderr,
            flush=True,
        )
    return REQUEUE
