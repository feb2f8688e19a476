"""A time limit on collectives: ranks that wait too long find out which ranks are missing."""

import os
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from hesscomp.errors import RankFailure
from hesscomp.parallel.mpi import MPI
from hesscomp.parallel.watchdog.phase import current_phase, in_words

SPIN = 0.01  # seconds of polling at full speed; most waits are shorter
CROWDED_SPIN = 1e-5  # where ranks share cores: a poll takes time from who is waited for
SLOWEST = 1e8  # bytes a second of a transfer between ranks that are there
CORES = os.cpu_count() or 1  # asked once: asking costs as much as a small collective
LONGEST_SLEEP = 1e-3  # between two polls, once a wait has lasted a second
ANSWERS = 3.0  # seconds in which ranks that are here answer a roll call
GRACE = 5.0  # seconds after which a rank that the reporting rank did not stop ends itself
LISTENERS = 4  # the lowest ranks: they call everyone and everyone calls them
NAMED = 8  # ranks named in a message
TAG = 1
HERE, GONE, LOST = range(3)  # messages: I wait; not any more; ranks are missing, all end


class RanksMissing(RankFailure):
    """Other ranks did not come to a collective; the lowest of those that came `reports` it."""

    def __init__(self, text: str, reports: bool):
        super().__init__(text)
        self.reports = reports


class CollectiveTimeout:
    """Waits for the non-blocking collectives of one world, for at most `seconds` each.

    A rank that has waited too long calls the roll: it tells the others that it waits, and the ranks
    that wait too answer. If the collective completes meanwhile, all go on. Else the caller says
    that ranks are lost, all ranks that wait raise `RanksMissing`, and the lowest of them reports
    the silent ones. A rank calls the ranks of its host and the `LISTENERS` lowest ranks only;
    these call everyone. So many ranks need few messages, and a host that is cut off can report too.

    Parameters
    ----------
    comm : mpi4py communicator
        On which nothing else is sent from rank to rank.
    seconds : float
    """

    def __init__(self, comm: MPI.Comm, seconds: float):
        self.comm, self.seconds = comm, seconds
        self.hosts: list[str] = []  # of each rank; empty while they are not known
        self._here: set[int] = set()  # ranks that say that they wait
        self._calls: dict[int, int] = {}  # by rank, the number of its last known call
        self._answered: dict[int, int] = {}  # by rank, the number of its last answered call
        self._lost = False  # whether a rank says that ranks are lost
        self._sent: list[MPI.Request] = []  # never waited for

    def wait(self, request: MPI.Request, what: str, size: int = 0) -> None:
        """Return once the request, of a collective called `what`, is complete.

        It polls, which costs what blocking does. Where all ranks are there and `size` bytes move,
        it does so at full speed for as long as that may take: MPI moves data in polls.

        Raises
        ------
        RanksMissing
            If the time is over or MPI finds a connection broken, and the collective does not
            complete during a roll call.
        """
        try:
            end = time.monotonic() + self.seconds
            while not self._poll(request, end, size):
                if not self._call_roll(request.Test, self._unanswered()):
                    why = f"within {self.seconds:g} s (--comm-timeout)"
                    break
            else:
                return
        except MPI.Exception as error:
            why = f"(MPI: {str(error).splitlines()[0]})"
            self._call_roll(lambda: False)
        here = self._here | {self.comm.rank}
        reports = min(here) == self.comm.rank
        if not reports:
            time.sleep(GRACE)
        missing = self._silent(here)
        raise RanksMissing(
            f"{missing} did not come to the {what}{in_words(current_phase())} {why}", reports
        )

    def _poll(self, request: MPI.Request, end: float, size: int) -> bool:
        """Whether the request is complete; False once the time is over or another rank calls."""
        start, spin = time.monotonic(), self._spin(size)
        while not request.Test():
            waited = time.monotonic() - start
            if waited > spin:
                self._hear()
                if self._unanswered() or start + waited > end:
                    return False
                time.sleep(min(waited / 1000, LONGEST_SLEEP))
        return True

    def _spin(self, size: int) -> float:
        here = self.hosts.count(self.hosts[self.comm.rank]) if self.hosts else 1
        return SPIN + size / SLOWEST if here <= CORES else CROWDED_SPIN

    def _called(self) -> list[int]:
        """Return the ranks that hear this one's roll call."""
        rank, hosts = self.comm.rank, self.hosts
        return [
            other
            for other in range(self.comm.size)
            if rank < LISTENERS or other < LISTENERS or not hosts or hosts[other] == hosts[rank]
        ]

    def _call_roll(self, arrived: Callable[[], bool], call: tuple[int, int] | None = None) -> bool:
        """Answer a call, or make one; whether to wait on, or the collective has completed.

        A rank answers whatever collective it waits for: others may wait for a later one, where data
        of this one were lost. It answers for twice as long as the caller listens.
        """
        own = call is None
        caller, number = call or (self.comm.rank, self._calls.get(self.comm.rank, 0) + 1)
        self._calls[caller] = self._answered[caller] = number
        self._lost, came = False, False
        self._tell(HERE, caller, number)
        end = time.monotonic() + (ANSWERS if own else 2 * ANSWERS)
        while time.monotonic() < end and not self._lost and not (came := arrived()):
            self._hear()
            time.sleep(LONGEST_SLEEP)
        lost = self._lost or (own and not came)
        self._tell(LOST if lost else GONE, caller, number)
        return not lost

    def _unanswered(self) -> tuple[int, int] | None:
        """Return a call that was heard and not answered: the caller and the number of the call."""
        calls = self._calls.items()
        return next((call for call in calls if call[1] > self._answered.get(call[0], 0)), None)

    def _tell(self, what: int, caller: int, number: int) -> None:
        word = np.array([what, caller, number], np.int64)
        self._sent += [self.comm.Isend(word, rank, TAG) for rank in self._called()]

    def _hear(self) -> None:
        """Note the messages that have come, in the order in which each rank sent them."""
        status, word = MPI.Status(), np.empty(3, np.int64)
        while self.comm.Iprobe(MPI.ANY_SOURCE, TAG, status):
            self.comm.Recv(word, status.source, TAG)
            what, caller, number = map(int, word)
            self._lost |= what == LOST
            (self._here.discard if what == GONE else self._here.add)(status.source)
            self._calls[caller] = max(number, self._calls.get(caller, 0))
            if what == GONE and caller == status.source:  # its call is over
                self._answered[caller] = number

    def _silent(self, here: set[int]) -> str:
        """Return the called ranks that did not answer, by host, in words."""
        silent = [rank for rank in self._called() if rank not in here]
        if not silent:
            return "all ranks answer, but their data"
        by_host = defaultdict(list)
        for rank in silent[:NAMED]:
            by_host[self.hosts[rank] if self.hosts else ""].append(str(rank))
        names = [
            f"rank{'s' * (len(ranks) > 1)} {', '.join(ranks)}" + f" on {host}" * bool(host)
            for host, ranks in by_host.items()
        ]
        more = [f"{len(silent) - NAMED} more"] if len(silent) > NAMED else []
        return " and ".join([*names, *more])
