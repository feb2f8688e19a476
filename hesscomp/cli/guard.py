"""The process that the launcher starts for a rank: it waits for the rank, and says how it died.

A launcher ends the other ranks with SIGKILL as soon as one is gone, so nobody else could.
MPICH's does not notice what happens before MPI's start, and is told. With SLURM's it passes on
what MPI says.
"""

import ctypes
import mmap
import os
import platform
import signal
import sys
import time
from contextlib import suppress

from hesscomp.cli import patience, pmi
from hesscomp.cli.main import INTERRUPTED
from hesscomp.cli.main import main as command
from hesscomp.runs import activity
from hesscomp.runs.slurm import REQUEUE, SIGNALS

RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")  # MPICH and SLURM, Open MPI, PMIx
CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL)
ENDED = (*CRASHES, signal.SIGALRM)  # the last: MPI's start or end took too long
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
OWN_END = 0.3  # seconds in which a launcher that ends the whole job ends this process too
ON_ITS_WAY = 0.2  # seconds for a line to pass the launcher, which drops it when it ends the job
MOST_TURNS = 20  # ranks that wait for each other speak in turn, the lowest first
AGREED = (0, 2, 3, REQUEUE, INTERRUPTED)  # statuses with which all ranks end
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def main() -> int:
    """The `hesscomp` command; a rank of an MPI job runs it in a child process."""
    rank = next((os.environ[name] for name in RANKS if name in os.environ), None)
    if rank is None or sys.platform != "linux":
        return _run()
    board = mmap.mmap(-1, activity.WIDTH)  # shared with the child
    guard = os.getpid()
    relay = pmi.Relay() if pmi.is_short() else None
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != guard:  # it has died already
            os._exit(1)
        if relay:
            relay.use()
        activity.show_on(board)
        if any(word.startswith("--run") for word in sys.argv):
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the command listens to them
        status = _run()
        os.kill(guard, signal.SIGCONT)  # whoever stopped it, it must see the end
        return status
    for number in FORWARDED:  # launchers send them to the child too
        signal.signal(number, signal.SIG_IGN)
    if relay:
        relay.serve()
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if relay:
        relay.finish()
    number, status = (0, ended) if ended >= 0 else (-ended, 128 - ended)
    if number in ENDED:
        turn = min(int(rank), MOST_TURNS) if number == signal.SIGALRM else 0
        time.sleep(OWN_END * (1 + turn))
        print(_obituary(rank, number, activity.read(board)), file=sys.stderr, flush=True)
        time.sleep(ON_ITS_WAY)
    if number or status not in AGREED:  # such as that of a start of MPI that failed
        _tell_launcher(status)
    os._exit(status)


def _run() -> int:
    """The command; a signal that it listened to and that comes when it is over changes nothing."""
    status = command()
    for number in FORWARDED:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_IGN)  # to the very end, where Python restores others
    patience.begin("MPI's end")
    return status


def _tell_launcher(status: int) -> None:
    """End the job in the words of PMI-1, which MPICH's launcher hears also before MPI's start."""
    if pmi.of_mpich():
        with suppress(KeyError, ValueError, OSError):  # of a rank that is through with MPI
            os.write(int(os.environ["PMI_FD"]), f"cmd=abort exitcode={status}\n".encode())


def _obituary(rank: str, number: int, doing: str) -> str:
    who = f"hesscomp: error: rank {rank} on {platform.node()}"
    if number == signal.SIGALRM:
        return f"{who} waited longer than --comm-timeout for other ranks{activity.inside(doing)}"
    text = f"{who} was killed by {signal.Signals(number).name}{activity.inside(doing)}"
    if number == signal.SIGKILL:
        text += "; where memory ran out, `hesscomp plan` says what a rank needs"
    return text
