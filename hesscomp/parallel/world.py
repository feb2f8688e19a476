"""The world of MPI ranks: reductions that are counted, and agreement on errors."""

import copy
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from hesscomp.errors import HesscompError, InputError, Interrupted, RankFailure
from hesscomp.runs.ledger import Ledger

log = logging.getLogger(__name__)

CHUNK = 2**30  # elements in one MPI call: counts stay below 2^31 whatever the MPI


class World:
    """The ranks that work together on one sharded data set.

    Everything that crosses ranks goes through this object, so that it is counted in `ledger`
    and written once. An algorithm that uses it does not know how many ranks there are.

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

    Attributes
    ----------
    stop_asked : callable, optional
        Whether this rank was asked to stop (``heed``); set on all ranks or on none.
    """

    stop_asked: Callable[[], bool] | None = None

    def __init__(
        self,
        comm: MPI.Comm | None = None,
        ledger: Ledger | None = None,
        *,
        reproducible: bool = False,
        threads: int = -1,
    ):
        self.comm = MPI.COMM_WORLD if comm is None else comm
        self._control = self.comm.Dup()
        self.rank = self.comm.Get_rank()
        self.size = self.comm.Get_size()
        self.ledger = Ledger() if ledger is None else ledger
        self.reproducible, self.threads = reproducible, threads

    @classmethod
    def serial(cls) -> "World":
        """A world of this rank alone."""
        return cls(MPI.COMM_SELF)

    def with_ledger(self, ledger: Ledger) -> "World":
        """The same ranks, their work counted in another ledger."""
        other = copy.copy(self)
        other.ledger = ledger
        return other

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Element-wise sum over the ranks, the same array on all of them. One reduction."""
        return self._reduce(array, MPI.SUM)

    def max(self, array: np.ndarray) -> np.ndarray:
        """Element-wise maximum over the ranks. One reduction."""
        return self._reduce(array, MPI.MAX)

    def _reduce(self, array, operation) -> np.ndarray:
        send = np.ascontiguousarray(array)
        receive = np.empty_like(send)
        flat_send, flat_receive = send.reshape(-1), receive.reshape(-1)
        for start in range(0, max(send.size, 1), CHUNK):
            part = slice(start, start + CHUNK)
            self.comm.Allreduce(flat_send[part], flat_receive[part], op=operation)
        self.ledger.reduced(send.size)
        return receive

    def gather_rows(self, slab: np.ndarray, counts: list[int]) -> np.ndarray:
        """All ranks' slabs of a (sum(counts), k) array, one below the other, on every rank."""
        whole = np.empty((sum(counts), slab.shape[1]), slab.dtype)
        for columns in _countable(whole):
            part = np.ascontiguousarray(slab[:, columns])
            width = part.shape[1]
            received = (
                whole if width == whole.shape[1] else np.empty((len(whole), width), whole.dtype)
            )
            self.comm.Allgatherv(part, [received, [count * width for count in counts]])
            if received is not whole:
                whole[:, columns] = received
        self.ledger.words_gathered += whole.size
        return whole

    def sum_rows(self, array: np.ndarray, counts: list[int]) -> np.ndarray:
        """This rank's rows of the sum over the ranks of a (sum(counts), k) array.

        Rank r gets ``counts[r]`` rows. One reduction.
        """
        parts = []
        for columns in _countable(array):
            send = np.ascontiguousarray(array[:, columns])
            width = send.shape[1]
            parts.append(np.empty((counts[self.rank], width), array.dtype))
            self.comm.Reduce_scatter(send, parts[-1], [count * width for count in counts])
        self.ledger.reduced(array.size)
        return parts[0] if len(parts) == 1 else np.hstack(parts)

    def broadcast(self, value, root: int = 0):
        """`root`'s small Python object on every rank."""
        return self.comm.bcast(value, root=root)

    def on_root(self, work: Callable[..., np.ndarray], *arguments) -> np.ndarray:
        """Rank 0's ``work(*arguments)``, a float64 array, on every rank.

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
        if out is None:
            out = np.empty(shape)
        self.comm.Bcast(out, root=0)
        return out

    def through_root(self, work: Callable[[list], list], value):
        """Rank 0 turns the list of all ranks' small values into as many answers, one for each."""
        everyone = self.comm.gather(value)
        return self.comm.scatter(work(everyone) if self.rank == 0 else None)

    def decide(self, flag: bool) -> bool:
        """Rank 0's answer, on every rank.

        For control flow on replicated numbers: ranks on unlike processors may round them apart,
        and must not part ways over it.
        """
        return self.broadcast(bool(flag))

    def heed(self) -> None:
        """Raise Interrupted on all ranks if any of them was asked to stop. Collective, not counted.

        Called where a run may end and go on later: after block products and between steps.
        """
        if self.stop_asked is not None and any(self.gather(self.stop_asked())):
            raise Interrupted("ended by a signal")

    def gather(self, value) -> list:
        """Every rank's small Python object, as a list in rank order, on every rank."""
        return self.comm.allgather(value)

    def exchange(self, values: list) -> list:
        """Send ``values[r]`` to rank r; return what each rank sent here, in rank order."""
        return self.comm.alltoall(values)

    def ranks_here(self) -> int:
        """How many ranks run on this node. Collective."""
        return self._here()[1]

    def place_here(self) -> int:
        """Which of the ranks on this node this one is, from 0. Collective."""
        return self._here()[0]

    def _here(self) -> tuple[int, int]:
        node = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        here = node.Get_rank(), node.Get_size()
        node.Free()
        return here

    def node_shares(self, cores: set[int]) -> list[int]:
        """For each of this rank's `cores`, how many ranks of this node may run on it."""
        node = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        everyone = node.allgather(cores)
        node.Free()
        return [sum(core in other for other in everyone) for core in cores]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Run a block of *local* work, then agree that no rank failed in it.

        The block must not communicate. If it raises on any rank, all ranks raise together, with
        the message of the lowest failing rank: `InputError` where that rank's error was one (or a
        file could not be used), else `RankFailure`. One reduction of one word.
        """
        failure = None
        try:
            yield
        except Exception as error:  # whatever it is, the other ranks must hear of it
            failure = error
            if not isinstance(error, HesscompError | OSError):
                log.error("rank %d failed in %s\n%s", self.rank, name, traceback.format_exc())
        lowest = -int(self.max(np.array([-self.size if failure is None else -self.rank]))[0])
        if lowest == self.size:
            return
        report = None
        if self.rank == lowest:
            bad_input = isinstance(failure, InputError | OSError)
            text = _describe(failure)
            prefix = f"rank {lowest}, {name}: " if self.size > 1 else ""
            report = (bad_input, prefix + text)
        bad_input, message = self.broadcast(report, root=lowest)
        raise (InputError if bad_input else RankFailure)(message) from failure

    def everyone_is_here(self, seconds: float = 15.0) -> bool:
        """Whether all ranks call this within `seconds`: false where some wait elsewhere.

        On a communicator of its own, so that it cannot match a reduction the others are in.
        """
        request = self._control.Ibarrier()
        deadline = time.monotonic() + seconds
        while not request.Test():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def abort(self, status: int) -> None:
        """End the processes of all ranks at once, wherever they are."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.comm.Abort(status)


def _countable(array: np.ndarray) -> list[slice]:
    """All columns at once where MPI can count the elements, else groups of columns."""
    rows, columns = array.shape
    if array.size <= CHUNK:
        return [slice(None)]
    width = max(CHUNK // rows, 1)
    return [slice(first, min(first + width, columns)) for first in range(0, columns, width)]


def _describe(error: BaseException) -> str:
    """One line for the user."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    if isinstance(error, HesscompError):
        return str(error)
    return f"{type(error).__name__}: {error}"
