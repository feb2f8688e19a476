"""A process that watches one rank of an MPI job and reports how the rank died.

A launcher ends all ranks with SIGKILL as soon as one is gone, so no rank could report it. MPICH's
launcher does not notice a death before MPI's start; it is told.
"""

import ctypes
import mmap
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

from hesscomp.parallel.watchdog.phase import BOARD_BYTES, read_phase, show_phase_on
from hesscomp.parallel.watchdog.pmi_relay import PmiRelay, reads_short_requests, started_by_mpich
from hesscomp.parallel.watchdog.startup_timeout import limit_the_rest

RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")  # MPICH and SLURM, Open MPI, PMIx
CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL)
REPORTED = (*CRASHES, signal.SIGALRM)  # the last: MPI's start or end took too long
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
OWN_END = 0.3  # seconds in which a launcher that ends the whole job ends this process too
ON_ITS_WAY = 0.2  # seconds for a line to pass the launcher, which drops it when it ends the job
MOST_TURNS = 20  # ranks that wait for each other report in turn, the lowest first
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


@dataclass(frozen=True)
class RankDeath:
    """How a rank died."""

    rank: str
    host: str
    signal: signal.Signals  # what ended its process; SIGALRM where a `startup_timeout` was over
    phase: str  # what it was doing; empty where that has no name


def launched_rank() -> str | None:
    """Return which rank of an MPI job a launcher made this process; None outside of jobs."""
    return next((os.environ[name] for name in RANKS if name in os.environ), None)


def run_watched(
    command: Callable[[], int],
    report: Callable[[RankDeath], None],
    agreed: Collection[int],
    blocked: Collection[int] = (),
) -> int:
    """Run a command; as a rank of an MPI job, in a child process that this one watches.

    Parameters
    ----------
    command : callable
        Returns an exit status.
    report : callable
        Called where the rank dies by one of the signals `REPORTED`.
    agreed : collection of int
        Statuses with which all ranks end together; any other one ends the job.
    blocked : collection of int
        Signals that wait, from the start, until the command unblocks them.

    Returns
    -------
    int
        The command's status. The watching process does not return: it ends with the status of its
        rank, 128 and the number of the signal where one ended it.
    """
    rank = launched_rank()
    if rank is None or sys.platform != "linux":
        return _run(command)
    board = mmap.mmap(-1, BOARD_BYTES)  # shared with the child
    watchdog = os.getpid()
    relay = PmiRelay() if reads_short_requests() else None
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != watchdog:  # it has died already
            os._exit(1)
        if relay:
            relay.use()
        show_phase_on(board)
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        status = _run(command)
        os.kill(watchdog, signal.SIGCONT)  # whoever stopped it, it must see the end
        return status
    for forwarded in FORWARDED:  # launchers send them to the child too
        signal.signal(forwarded, signal.SIG_IGN)
    if relay:
        relay.serve()
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if relay:
        relay.finish()
    number, status = (0, ended) if ended >= 0 else (-ended, 128 - ended)
    if number in REPORTED:
        turn = min(int(rank), MOST_TURNS) if number == signal.SIGALRM else 0
        time.sleep(OWN_END * (1 + turn))
        report(RankDeath(rank, platform.node(), signal.Signals(number), read_phase(board)))
        time.sleep(ON_ITS_WAY)
    if number or status not in agreed:  # such as that of a start of MPI that failed
        _tell_launcher(status)
    os._exit(status)


def _run(command: Callable[[], int]) -> int:
    """The command; a signal that it listened to and that comes when it is over changes nothing."""
    status = command()
    for number in FORWARDED:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_IGN)  # to the very end, where Python restores others
    limit_the_rest("MPI's end")
    return status


def _tell_launcher(status: int) -> None:
    """End the job in the words of PMI-1, which MPICH's launcher hears also before MPI's start."""
    if started_by_mpich():
        with suppress(KeyError, ValueError, OSError):  # of a rank that is through with MPI
            os.write(int(os.environ["PMI_FD"]), f"cmd=abort exitcode={status}\n".encode())
