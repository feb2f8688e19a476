"""The world of MPI ranks: reductions that are counted, and agreement on errors."""

import copy
import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

import numpy as np

from hesscomp.errors import InputError, Interrupted, RankFailure, describe, whole_story
from hesscomp.parallel import TIMEOUT
from hesscomp.parallel.ledger import Ledger
from hesscomp.parallel.mpi import MPI
from hesscomp.parallel.watchdog.collective_timeout import CollectiveTimeout, RanksMissing
from hesscomp.parallel.watchdog.phase import named_phase

log = logging.getLogger(__name__)

CHUNK = 2**30  # elements in one MPI call: counts stay below 2^31 whatever the MPI
LARGE = 2**18  # bytes of a collective from which on ranks wait for each other first
LAST_WORDS = 0.3  # seconds in which a launcher reads what was said: with the job it drops the rest


class Visitors(Protocol):
    """Short work for ranks that are busy with a long run, done while one of its products rests."""

    def waiting(self) -> bool:
        """Return whether such work waits at this rank."""

    def receive(self) -> None:
        """Do some of it. Collective; it must leave the run as it is."""


class World:
    """The ranks that work together on one sharded data set.

    Everything that crosses ranks goes through this object, which counts it in `ledger`. An
    algorithm that uses it does not know how many ranks there are.

    Make one and pass it on: each takes a communicator, of which MPI has about two thousand.

    Parameters
    ----------
    comm : mpi4py communicator, optional
        Default: all ranks of the job (``MPI.COMM_WORLD``); one rank without ``mpiexec``.
    ledger : Ledger, optional
        Where reductions are counted; a new one by default.
    reproducible : bool
        Whether everything that is summed over data or rows gets the same bits on any number of
        ranks (see `parallel.exact`), the number of threads of a rank being the same.
    threads : int
        Threads that a rank computes with, for the record; -1 if it was not set by hesscomp.
    timeout : float
        Seconds that a rank waits for the others in a collective. After that the lowest rank that
        is there logs which are not, and all are ended.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> world = hc.World()  # with mpiexec -n 4: of size 4
    >>> world.rank, world.size, world.sum(np.ones(2))
    (0, 1, array([1., 1.]))
    >>> world.ledger.words_reduced
    2
    """

    # Returns the signal that asked this rank to stop, 0 for none; set on all ranks or on none.
    stop_asked: Callable[[], int] | None = None
    # Who else asks these ranks during a run; set with `stop_asked`, on all ranks or on none.
    visitors: "Visitors | None" = None

    def __init__(
        self,
        comm: MPI.Comm | None = None,
        ledger: Ledger | None = None,
        *,
        reproducible: bool = False,
        threads: int = -1,
        timeout: float = TIMEOUT,
    ):
        self.comm = MPI.COMM_WORLD if comm is None else comm
        self.rank = self.comm.Get_rank()
        self.size = self.comm.Get_size()
        self.ledger = Ledger() if ledger is None else ledger
        self.reproducible, self.threads = reproducible, threads
        self._deadline = CollectiveTimeout(self.comm, timeout)
        self._control, request = self.comm.Idup()
        self._wait(request, "first meeting")
        self._deadline.comm = self._control
        self._deadline.hosts = self.gather(MPI.Get_processor_name())

    @classmethod
    def of_job(cls) -> "World":
        """All ranks of the job, where nobody names a world; all such share their communicators."""
        return _everyone().with_ledger(Ledger())

    @classmethod
    def serial(cls) -> "World":
        """A world of this rank alone; all such share their communicators, of which MPI has few."""
        return _alone().with_ledger(Ledger())

    def with_ledger(self, ledger: Ledger) -> "World":
        """Return the same ranks, their work counted in another ledger."""
        other = copy.copy(self)
        other.ledger = ledger
        return other

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Return the element-wise sum over the ranks, the same on all of them. One reduction."""
        return self._reduce(array, MPI.SUM)

    def max(self, array: np.ndarray) -> np.ndarray:
        """Return the element-wise maximum over the ranks. One reduction."""
        return self._reduce(array, MPI.MAX)

    def sum_in_place(self, array: np.ndarray) -> np.ndarray:
        """Return a contiguous array that now holds its sum over the ranks. One reduction."""
        return self._reduce(array, MPI.SUM, out=array)

    def _reduce(self, array, operation, out: np.ndarray | None = None) -> np.ndarray:
        send = np.ascontiguousarray(array)
        receive = np.empty_like(send) if out is None else out
        flat_send, flat_receive = send.reshape(-1), receive.reshape(-1)
        for start in range(0, max(send.size, 1), CHUNK):
            part = slice(start, start + CHUNK)
            given = MPI.IN_PLACE if receive is send else flat_send[part]
            request = self.comm.Iallreduce(given, flat_receive[part], op=operation)
            self._wait(request, "reduction", flat_receive[part].nbytes)
        self.ledger.reduced(send.size)
        return receive

    def gather_rows(self, slab: np.ndarray, counts: list[int]) -> np.ndarray:
        """Return all ranks' slabs, one below the other: a (sum(counts), ...) array on each rank."""
        if slab.ndim != 2:
            flat = slab.reshape(len(slab), int(np.prod(slab.shape[1:])))
            return self.gather_rows(flat, counts).reshape(sum(counts), *slab.shape[1:])
        whole = np.empty((sum(counts), slab.shape[1]), slab.dtype)
        for columns in _countable(whole):
            part = np.ascontiguousarray(slab[:, columns])
            width = part.shape[1]
            alone = width == whole.shape[1]
            received = whole if alone else np.empty((len(whole), width), whole.dtype)
            parts = [received, [count * width for count in counts]]
            self._wait(self.comm.Iallgatherv(part, parts), "gather", received.nbytes)
            if not alone:
                whole[:, columns] = received
        self.ledger.words_gathered += whole.size
        return whole

    def sum_rows(self, array: np.ndarray, counts: list[int]) -> np.ndarray:
        """Return this rank's ``counts[rank]`` rows of the sum over the ranks. One reduction."""
        parts = []
        for columns in _countable(array):
            send = np.ascontiguousarray(array[:, columns])
            width = send.shape[1]
            parts.append(np.empty((counts[self.rank], width), array.dtype))
            shares = [count * width for count in counts]
            request = self.comm.Ireduce_scatter(send, parts[-1], shares)
            self._wait(request, "reduction", send.nbytes)
        self.ledger.reduced(array.size)
        return parts[0] if len(parts) == 1 else np.hstack(parts)

    def broadcast(self, value, root: int = 0):
        """Return `root`'s small Python object on every rank."""
        data = _packed(value) if self.rank == root else np.empty(0, np.uint8)
        size = np.empty(1, np.int64)  # all ranks learn it together, so none goes ahead alone
        self._wait(self.comm.Iallreduce(np.array([data.size]), size, op=MPI.MAX), "broadcast")
        if self.rank != root:
            data = np.empty(size[0], np.uint8)
        self._wait(self.comm.Ibcast(data, root), "broadcast", data.nbytes)
        return pickle.loads(data.data)

    def broadcast_array(self, array: np.ndarray, root: int) -> np.ndarray:
        """Return `root`'s array on every rank; the others give one like it, which is filled."""
        array = np.ascontiguousarray(array)
        self._wait(self.comm.Ibcast(array, root), "broadcast", array.nbytes)
        return array

    def on_root(self, work: Callable[..., np.ndarray], *arguments) -> np.ndarray:
        """Return rank 0's ``work(*arguments)``, a float64 array, on every rank.

        For small dense problems whose answer (signs, order, pivots) must be one and the same. If
        `work` raises numpy's LinAlgError, all ranks raise it.
        """
        out, failure = None, None
        if self.rank == 0:
            try:
                out = np.ascontiguousarray(work(*arguments), dtype=np.float64)
            except np.linalg.LinAlgError as error:
                failure = str(error)
        shape, failure = self.broadcast((None if out is None else out.shape, failure))
        if failure is not None:
            raise np.linalg.LinAlgError(failure)
        return self.broadcast_array(np.empty(shape) if out is None else out, 0)

    def through_root(self, work: Callable[[list], list], value):
        """Return this rank's part of ``work(values of all ranks)``, which runs on rank 0."""
        everyone = self.exchange([value] + [None] * (self.size - 1))
        return self.exchange(work(everyone) if self.rank == 0 else [None] * self.size)[0]

    def decide(self, flag: bool | np.bool_) -> bool:
        """Return rank 0's answer, on every rank.

        For control flow on replicated numbers: ranks on unlike processors may round them apart,
        and must not part ways over it.
        """
        answer = np.array([flag], np.int8)
        self._wait(self.comm.Ibcast(answer, root=0), "decision")
        return bool(answer[0])

    def check_interrupt(self) -> None:
        """Raise Interrupted on all ranks if any of them was asked to stop. Collective, not counted.

        Called where a run may end and go on later: after block products and between steps. If
        visitors wait at any rank, all ranks receive them before the run goes on.
        """
        if self.stop_asked is None:
            return
        waiting = self.visitors is not None and self.visitors.waiting()
        asked = np.array([self.stop_asked(), waiting], np.int8)
        by_any = np.empty_like(asked)
        self._wait(self.comm.Iallreduce(asked, by_any, op=MPI.MAX), "meeting")
        if by_any[0]:
            raise Interrupted("ended by a signal", int(by_any[0]))
        if by_any[1] and self.visitors is not None:
            self.visitors.receive()

    def pause(self) -> None:
        """Do as `check_interrupt` within a product, where visitors may come at all. Collective.

        A run without them ends after a product, which it then has.
        """
        if self.visitors is not None:
            self.check_interrupt()

    def gather(self, value) -> list:
        """Return every rank's small Python object, as a list in rank order, on every rank."""
        data = _packed(value)
        sizes = np.empty(self.size, np.int64)
        self._wait(self.comm.Iallgather(np.array([data.size]), sizes), "gather")
        received = np.empty(sizes.sum(), np.uint8)
        self._wait(self.comm.Iallgatherv(data, [received, sizes]), "gather", received.nbytes)
        return _unpacked(received, sizes)

    def exchange(self, values: list) -> list:
        """Send ``values[r]`` to rank r; return what each rank sent here, in rank order."""
        data = [_packed(value) for value in values]
        sizes, coming = np.array([part.size for part in data]), np.empty(self.size, np.int64)
        self._wait(self.comm.Ialltoall(sizes, coming), "exchange")
        most = np.empty(1, np.int64)  # bytes that a rank sends; all ranks learn it
        self._wait(self.comm.Iallreduce(sizes.sum(keepdims=True), most, op=MPI.MAX), "exchange")
        received = np.empty(coming.sum(), np.uint8)
        send = [np.concatenate(data), sizes]
        self._wait(self.comm.Ialltoallv(send, [received, coming]), "exchange", int(most[0]))
        return _unpacked(received, coming)

    def exchange_rows(
        self, block: np.ndarray, counts: np.ndarray, coming: np.ndarray, most: int
    ) -> np.ndarray:
        """Send counts[r] rows of a (rows, k) block to rank r, one rank's below the other's.

        Return the rows that come, coming[r] from rank r; `most` is the most rows that a rank sends
        or gets, which all ranks know.
        """
        block, k = np.ascontiguousarray(block), block.shape[1]
        received = np.empty((int(coming.sum()), k), block.dtype)
        parts = [block, counts * k], [received, coming * k]
        self._wait(self.comm.Ialltoallv(*parts), "exchange", most * k * block.itemsize)
        return received

    def exchange_columns(self, parts: list[np.ndarray], counts: list[int]) -> np.ndarray:
        """Send parts[r], this rank's rows of some columns, to rank r; return what came.

        That is all ranks' rows, `counts` of them, one rank's below the other's. Each rank sends as
        many columns to a rank as the others do.
        """
        here, width = parts[self.rank], parts[self.rank].shape[1]
        received, ends = np.empty((sum(counts), width), here.dtype), np.cumsum([0, *counts])
        received[ends[self.rank] : ends[self.rank + 1]] = here  # which need no packing
        sizes = [0 if rank == self.rank else part.size for rank, part in enumerate(parts)]
        send, stops = np.empty(sum(sizes), here.dtype), np.cumsum(sizes)
        for part, size, stop in zip(parts, sizes, stops, strict=True):
            if size:
                send[stop - size : stop].reshape(part.shape)[...] = part
        words = [0 if r == self.rank else count * width for r, count in enumerate(counts)]
        coming = [received, (words, ends[:-1] * width)]
        # All ranks decide alike whether it is large: by what each of them knows.
        size = received.itemsize * sum(counts) * max(part.shape[1] for part in parts)
        self._wait(self.comm.Ialltoallv([send, sizes], coming), "exchange", size)
        return received

    def ranks_here(self) -> int:
        """Return how many ranks run on this node."""
        return len(self._neighbours())

    def place_here(self) -> int:
        """Return which of the ranks on this node this one is, from 0."""
        return self._neighbours().index(self.rank)

    def node_shares(self, cores: set[int]) -> list[int]:
        """Return how many of this node's ranks may run on each of these cores. Collective."""
        everyone = self.gather(cores)
        here = [everyone[rank] for rank in self._neighbours()]
        return [sum(core in other for other in here) for core in cores]

    def _neighbours(self) -> list[int]:
        """Return the ranks on this node, itself among them: those whose processor has its name."""
        hosts = self._deadline.hosts
        return [rank for rank, host in enumerate(hosts) if host == hosts[self.rank]]

    def _wait(self, request: MPI.Request, what: str, size: int = 0) -> None:
        """Wait for a collective of this world, of `size` bytes; if some ranks do not come, end all.

        Of a large one first for all ranks to be there, with sleep between polls, and then without.
        """
        try:
            if size >= LARGE:
                self._deadline.wait(self.comm.Ibarrier(), what)
            self._deadline.wait(request, what, size if size >= LARGE else 0)
        except RanksMissing as error:
            if error.reports:
                log.error("error: %s; all ranks end", error)
            self.abort(1)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Run a block of *local* work, then agree that no rank failed in it.

        The block must not communicate. If it raises on any rank, all ranks raise together, with
        the message of the lowest failing rank: `InputError` where that rank's error was one (or a
        file could not be used), else `RankFailure`. One reduction of one word.
        """
        with named_phase(name):
            failure = None
            try:
                yield
            except Exception as error:  # whatever it is, the other ranks must hear of it
                failure = error
                if story := whole_story(error):
                    log.error("rank %d failed in %s%s", self.rank, name, story)
            lowest = -int(self.max(np.array([-self.size if failure is None else -self.rank]))[0])
            if lowest == self.size:
                return
            report = None
            if self.rank == lowest and failure is not None:
                bad_input = isinstance(failure, InputError | OSError)
                text = describe(failure)
                prefix = f"rank {lowest}, {name}: " if self.size > 1 else ""
                report = (bad_input, prefix + text)
            bad_input, message = self.broadcast(report, root=lowest)
            raise (InputError if bad_input else RankFailure)(message) from failure

    def everyone_is_here(self, seconds: float = 15.0) -> bool:
        """Return whether all ranks call this within `seconds`, none being in a collective.

        On a communicator of its own, so that it cannot match a reduction the others are in.
        """
        deadline = time.monotonic() + seconds
        try:
            request = self._control.Ibarrier()
            while not request.Test():
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
        except MPI.Exception:  # a connection is broken
            return False
        return True

    def abort(self, status: int) -> None:
        """End the processes of all ranks at once, wherever they are."""
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(LAST_WORDS)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # MPI's own words would follow ours
        self.comm.Abort(status)
        os._exit(status)  # where the launcher is out of reach, MPICH's Abort comes back


@cache
def _everyone() -> World:
    return World()


@cache
def _alone() -> World:
    return World(MPI.COMM_SELF)


def _packed(value) -> np.ndarray:
    """Return a small Python object as bytes."""
    return np.frombuffer(pickle.dumps(value), np.uint8)


def _unpacked(data: np.ndarray, sizes: np.ndarray) -> list:
    """Return the objects whose bytes lie one after the other."""
    return [pickle.loads(part.data) for part in np.split(data, np.cumsum(sizes)[:-1])]


def _countable(array: np.ndarray) -> list[slice]:
    """Return all columns at once where MPI can count the elements, else groups of columns."""
    rows, columns = array.shape
    if array.size <= CHUNK:
        return [slice(None)]
    width = max(CHUNK // rows, 1)
    return [slice(first, min(first + width, columns)) for first in range(0, columns, width)]
