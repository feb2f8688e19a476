"""PMI between a rank and SLURM: the process that watches the rank passes it on, and shortens it.

Through PMI the ranks of MPICH tell each other how they can be reached. The launcher says how long
a value may be (`vallen_max` of PMI-1), and MPICH cuts its data into such values. SLURM says 1024
(`srun --mpi=pmi2`, seen in 22.05 to 26.05), but it reads at most 1024 bytes of a request, the key
included. It takes the rest of a longer request for another one, and MPI's start fails.

Chance decides whether a request is that long. MPICH sends 4096 bytes for UCX's address of some 300:
the rest is whatever memory lies behind it, as hexadecimal digits, with runs of zeros shortened.
"""

import os
import re
import socket
import threading
from contextlib import suppress

READ = 1024  # bytes of a request that SLURM reads
LONGEST_KEY = 64  # characters that SLURM allows
LONGEST_NAME = len("4294967295.4294967295")  # of the key-value space: job and step
VALUE = READ - len("cmd=put kvsname= key= value=\n") - LONGEST_KEY - LONGEST_NAME
MOST = 2**16  # bytes passed on at once, more than a request or an answer has
LAST_WORDS = 1.0  # seconds for passing on what a rank said before it ended


def started_by_mpich() -> bool:
    """Return whether MPICH's own launcher, which reads requests of any length, started this."""
    return "MPI_LOCALNRANKS" in os.environ


def reads_short_requests() -> bool:
    """Return whether SLURM started this process with the PMI that reads only short requests."""
    slurm = os.environ.get("SLURM_MPI_TYPE") == "pmi2"
    return slurm and "PMI_FD" in os.environ and not started_by_mpich()


class PmiRelay:
    """The line between SLURM and a rank, which is a child of this process.

    Make it before the fork. Then the child calls `use`, and its parent calls `serve`, and `finish`
    when the child has ended. Everything but the length of values passes unchanged.
    """

    def __init__(self):
        self._number = int(os.environ["PMI_FD"])
        self._rank, self._end = socket.socketpair()
        self._requests = threading.Thread(target=self._pass_requests, daemon=True)

    def use(self) -> None:
        """Connect this process, the rank, to the relay instead of SLURM."""
        os.dup2(self._end.fileno(), self._number, inheritable=False)
        self._rank.close()
        self._end.close()

    def serve(self) -> None:
        """Pass on requests and answers, each in a thread of its own."""
        self._end.close()
        self._requests.start()
        threading.Thread(target=self._pass_answers, daemon=True).start()

    def finish(self) -> None:
        """Wait until the last words of the rank have been passed on."""
        self._requests.join(LAST_WORDS)

    def _pass_requests(self) -> None:
        with suppress(OSError):  # the other side has ended
            while request := self._rank.recv(MOST):
                os.write(self._number, request)  # in one piece: SLURM takes a read for a request

    def _pass_answers(self) -> None:
        with suppress(OSError):
            while answer := os.read(self._number, MOST):
                self._rank.sendall(shorten(answer))
            self._rank.shutdown(socket.SHUT_WR)


def shorten(answer: bytes) -> bytes:
    """Return the answer; if it says how long values may be, no longer than fits into a request."""
    if not answer.startswith(b"cmd=maxes "):
        return answer
    return re.sub(rb"(?<= vallen_max=)\d+", lambda found: b"%d" % min(int(found[0]), VALUE), answer)
