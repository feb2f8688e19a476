"""The process that the launcher starts for a rank: it waits for the rank, and says how it died.

A launcher ends the other ranks with SIGKILL as soon as one is gone, so nobody else could.
MPICH's does not notice what happens before MPI's start, and is told.
"""

import ctypes
import mmap
import os
import platform
import signal
import sys
import time
from contextlib import suppress

from hesscomp.cli import patience
from hesscomp.cli.exits import INTERRUPTED
from hesscomp.cli.main import main as command
from hesscomp.parallel import phase
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
    board = mmap.mmap(-1, phase.BOARD_BYTES)  # shared with the child
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != guard:  # it has died already
            os._exit(1)
        phase.show_phase_on(board)
        if any(word.startswith("--run") for word in sys.argv):
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the command listens to them
        status = _run()
        os.kill(guard, signal.SIGCONT)  # whoever stopped it, it must see the end
        return status
    for number in FORWARDED:  # launchers send them to the child too
        signal.signal(number, signal.SIG_IGN)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    number, status = (0, ended) if ended >= 0 else (-ended, 128 - ended)
    if number in ENDED:
        turn = min(int(rank), MOST_TURNS) if number == signal.SIGALRM else 0
        time.sleep(OWN_END * (1 + turn))
        print(_obituary(rank, number, phase.read_phase(board)), file=sys.stderr, flush=True)
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
    if "MPI_LOCALNRANKS" in os.environ:  # it is MPICH's, and not SLURM's with PMI-2
        with suppress(KeyError, ValueError, OSError):  # of a rank that is through with MPI
            os.write(int(os.environ["PMI_FD"]), f"cmd=abort exitcode={status}\n".encode())


def _obituary(rank: str, number: int, doing: str) -> str:
    who = f"hesscomp: error: rank {rank} on {platform.node()}"
    if number == signal.SIGALRM:
        return f"{who} waited longer than --comm-timeout for other ranks{phase.in_words(doing)}"
    text = f"{who} was killed by {signal.Signals(number).name}{phase.in_words(doing)}"
    if number == signal.SIGKILL:
        text += "; where memory ran out, `hesscomp plan` says what a rank needs"
    return text
