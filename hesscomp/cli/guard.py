"""The process that the launcher starts for a rank: it waits for the rank, and says how it died.

A launcher ends the other ranks with SIGKILL as soon as one is gone, so nobody else could.
"""

import ctypes
import mmap
import os
import platform
import signal
import sys
import time

from hesscomp.cli.main import main as command
from hesscomp.runs import activity

RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")  # MPICH and SLURM, Open MPI, PMIx
CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL)
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
OWN_END = 0.3  # seconds in which a launcher that ends the whole job ends this process too
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def main() -> int:
    """The `hesscomp` command; a rank of an MPI job runs it in a child process."""
    rank = next((os.environ[name] for name in RANKS if name in os.environ), None)
    if rank is None or sys.platform != "linux":
        return _run()
    board = mmap.mmap(-1, activity.WIDTH)  # shared with the child
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != guard:  # it has died already
            os._exit(1)
        activity.show_on(board)
        return _run()
    for number in FORWARDED:  # launchers send them to the child too
        signal.signal(number, signal.SIG_IGN)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if -status in CRASHES:
        time.sleep(OWN_END)
        print(_obituary(rank, -status, activity.read(board)), file=sys.stderr, flush=True)
    os._exit(status if status >= 0 else 128 - status)


def _run() -> int:
    """The command; a signal that it listened to and that comes when it is over changes nothing."""
    status = command()
    for number in FORWARDED:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_IGN)  # to the very end, where Python restores others
    return status


def _obituary(rank: str, number: int, doing: str) -> str:
    text = (
        f"hesscomp: error: rank {rank} on {platform.node()} was killed by "
        f"{signal.Signals(number).name}{activity.inside(doing)}"
    )
    if number == signal.SIGKILL:
        text += "; where memory ran out, `hesscomp plan` says what a rank needs"
    return text
