"""The ranks' side: rank 0 takes work from the front, all ranks do it together.

Idle ranks wait by the doorbell. During a job they serve waiting short work between its products
and in pauses within them (`parallel.world.Visitors`); cancelling and draining end the job there, by
the numbers of the signals that do so elsewhere. A solve takes many products too: it visits a job,
is itself visited by other short work, and ends there when its client has gone, or the job that it
visits or the service is to end.
"""

import logging
import os
import select
import signal
import socket
import time
from collections import OrderedDict, deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from hesscomp.errors import (
    HesscompError,
    InputError,
    Interrupted,
    NumericalError,
    describe,
    one_line,
)
from hesscomp.krylov.cg import solve_columns
from hesscomp.parallel.doorbell import Doorbell
from hesscomp.parallel.ledger import Ledger
from hesscomp.parallel.resources import available_bytes, resident_bytes
from hesscomp.parallel.watchdog.stop_signals import STOP_SIGNALS, StopListener
from hesscomp.parallel.world import World
from hesscomp.runs.report import plain, write_json
from hesscomp.service.batching import block_width
from hesscomp.service.jobs import CANCELLED, DONE, FAILED, QUEUED
from hesscomp.service.requests import (
    NAMED_POINTS,
    ServedProblem,
    check_memory,
    curvature_request,
    job_request,
    kind_of,
)
from hesscomp.service.wire import pack, receive
from hesscomp.workflows.curvature import Curvature, known_point, make_operator
from hesscomp.workflows.progress import Columns
from hesscomp.workflows.subject import Subject, make_problem

BEAT = 10.0  # seconds of idleness after which the ranks meet: a stopped one is noticed
CURVATURES = 4  # operators that ranks keep, each with up to an eighth of a product's memory
SHARE = 0.1  # of a job's time that visitors may take without waiting
PATIENCE = 1.5  # of a job's products, for which each waits beyond that: the job gets on meanwhile
TOLD = 0.1  # seconds between two tellings of a job's columns


class Mailbox:
    """Rank 0's connection to the front; on other ranks it is always empty."""

    def __init__(self, address: str, rank: int):
        self.frames: deque[tuple[dict, list]] = deque()
        self.asked = 0  # SIGTERM where the service drains
        self.cancelled: set[str] = set()  # jobs
        self.left = 0  # the number of the last solve whose client has gone
        self.stream: socket.socket | None = None
        if rank == 0:
            self.stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.stream.connect(address)

    def look(self, seconds: float = 0.0) -> None:
        """Take what has come; wait for the first at most so long.

        Raises
        ------
        EOFError
            Where the front has ended.
        """
        assert self.stream is not None
        while select.select([self.stream], [], [], 0.0 if self.frames else seconds)[0]:
            header, arrays = receive(self.stream)
            if header["do"] == "cancel":
                self.cancelled.add(header["job"])
            elif header["do"] == "leave":
                self.left = header["id"]
            elif header["do"] == "drain":
                self.asked = signal.SIGTERM
            else:
                self.frames.append((header, arrays))

    @property
    def visitor(self) -> tuple[dict, list] | None:
        """The first short work that waits; jobs, and the end, visit nobody."""
        return next((frame for frame in self.frames if frame[0]["do"] == "work"), None)

    def say(self, header: dict[str, Any], *arrays: np.ndarray) -> None:
        """Tell the front, from rank 0; one that has ended is noticed by the next `look`."""
        if self.stream is not None:
            with suppress(OSError):
                for piece in pack(header, arrays):
                    self.stream.sendall(piece)


class RankLoop:
    """What the ranks of a service do from start to end. Collective.

    Parameters
    ----------
    address : str
        The Unix socket at which the front waits for rank 0.
    served : ServedProblem
    world : World
    """

    def __init__(self, address: str, served: ServedProblem, world: World):
        self.served, self.world = served, world
        with world.phase("connecting to the front"):
            self.mail = Mailbox(address, world.rank)
        self.bell = Doorbell(world)
        self.signals = StopListener(STOP_SIGNALS)
        self.points: dict[str, np.ndarray] = {}
        self.curvatures: OrderedDict[tuple[str, str], Curvature] = OrderedDict()
        self.job: JobUnderWay | None = None
        self.work: int | None = None  # the number of the short work under way
        self.host: ManyProducts | None = None  # what visitors may interrupt: a job or a solve
        self.over = False
        self.subject: Subject
        world.stop_asked, world.visitors = self.stop_asked, self

    def run(self) -> int:
        """Do what the front says until it says that it is over; return an exit status."""
        subject = make_problem(self.served, self.world)
        self.subject, problem = subject, subject.problem
        self._say_hello(problem)
        while not self.over:
            header, arrays = self._next()
            what = header["do"]
            if what == "end":
                break
            if what == "beat":
                self.mail.say({"say": "beat", "ranks": self._describe_ranks()})
            elif what == "job":
                self._do_job(header["job"], header["folder"], header["at"])
            else:
                self._do_work(header, arrays)
        return 0

    def _say_hello(self, problem) -> None:
        self.mail.say(
            {
                "say": "hello",
                "problem": f"{problem.name} on {problem.dataset_name}",
                "n": problem.n,
                "rows": problem.rows,
                "ranks": self._describe_ranks(),
            }
        )

    def _describe_ranks(self) -> list[dict]:
        return self.world.gather(
            {
                "rank": self.world.rank,
                "host": os.uname().nodename,
                "pid": os.getpid(),
                "threads": self.world.threads,
                "resident_bytes": resident_bytes(),
                "free_bytes": available_bytes() // self.world.ranks_here(),
            }
        )

    def _next(self) -> tuple[dict, list[np.ndarray]]:
        """Wait for what comes next, and return it on all ranks."""
        frame: tuple[dict, list] = ({"do": "beat"}, [])
        if self.world.rank == 0:
            try:
                self.mail.look(BEAT)
                if self.mail.frames:
                    frame = self.mail.frames.popleft()
                elif self.mail.asked == signal.SIGTERM or self.signals():
                    frame = ({"do": "end"}, [])
            except (EOFError, OSError):
                frame = ({"do": "end"}, [])
            return self.bell.ring(frame)
        return self.bell.wait()

    # What `World.check_interrupt` asks during a job and during short work

    def stop_asked(self) -> int:
        """Return SIGTERM where the service drains, SIGINT where nobody waits any more, else 0."""
        if self.work is None and self.job is None:
            return 0
        self._look()
        cancelled = self.job is not None and self.job.name in self.mail.cancelled
        left = self.work is not None and self.work == self.mail.left
        return self.signals() or self.mail.asked or (signal.SIGINT if cancelled or left else 0)

    def waiting(self) -> bool:
        """Return whether short work waits, and this is the time for it."""
        if self.host is None:
            return False
        self._look()  # else what came meanwhile would wait for the next pause too
        self.host.look()
        return self.mail.visitor is not None and self.host.receives()

    def _look(self) -> None:
        """Take what the front has sent, on rank 0; where it has ended, so do the ranks."""
        if self.mail.stream is not None:
            try:
                self.mail.look()
            except (EOFError, OSError):
                self.mail.asked = signal.SIGTERM

    def receive(self) -> None:
        """Serve one piece of short work; the costs of what it visits do not count it."""
        host, ledger, start = self.host, self.world.ledger, time.monotonic()
        assert host is not None
        self.host, self.world.ledger = None, Ledger()
        try:
            visitor = self.mail.visitor
            self.mail.frames = deque(frame for frame in self.mail.frames if frame is not visitor)
            self._do_work(*self.world.broadcast(visitor))
        finally:
            self.host, self.world.ledger = host, ledger
        host.visited(time.monotonic() - start)

    # Jobs

    def _do_job(self, job: dict, folder: str, at: str | None) -> None:
        self.world.ledger = Ledger()
        self.host = self.job = JobUnderWay(self.mail, job["id"], self.world.ledger)
        place = Path(folder)
        state, error = DONE, ""
        root, heard = logging.getLogger(), Warnings(self.job)
        root.addHandler(heard)
        try:
            request = job_request(job["kind"], job["options"], self.served, place, at)
            problem = self.subject.problem  # when the job came in, it was perhaps not known yet
            check_memory(job["kind"], request, problem.n, problem.rows, self._describe_ranks())
            result = kind_of(job["kind"]).run(request, self.world, self.job.tell, self.subject)
            if "json" not in kind_of(job["kind"]).files:
                with self.world.phase("writing the numbers"):
                    if self.world.rank == 0:
                        write_json(place / "numbers.json", _numbers(job["kind"], result))
        except Interrupted as why:
            state = CANCELLED if why.signal == signal.SIGINT else QUEUED
            self.over = state == QUEUED
        except HesscompError as why:  # which all ranks have; what one has alone ends it
            state, error = FAILED, describe(why)
        finally:
            root.removeHandler(heard)
            self.host = self.job = None
        self.mail.cancelled.discard(job["id"])
        self.mail.say({"say": "ended", "job": job["id"], "state": state, "error": error})

    # Short work

    def _do_work(self, header: dict, arrays: list[np.ndarray]) -> None:
        start, answer, out = time.perf_counter(), {}, ()
        visited, self.work = self.work, header["id"]
        try:
            self._learn(header, arrays)
            answer, out = getattr(self, f"_{header['kind']}")(header, arrays)
        except Interrupted as why:
            answer = {"unfinished": True}
            self.over = self.job is None and why.signal != signal.SIGINT
        except HesscompError as why:
            answer = {"error": str(why), "status": 422 if _of_request(why) else 500}
        finally:
            self.work = visited
        seconds = time.perf_counter() - start
        self.mail.say({"say": "answer", "id": header["id"], "seconds": seconds, **answer}, *out)

    def _learn(self, header: dict, arrays: list[np.ndarray]) -> None:
        """Take the points that come with some work; forget those that the front has dropped."""
        for name in header["drop"]:
            self.points.pop(name, None)
            for key in [key for key in self.curvatures if key[0] == name]:
                del self.curvatures[key]
        if header["brings"]:
            self.points[header["point"]] = np.array(arrays.pop(0))

    def _point(self, name: str) -> np.ndarray:
        if name in NAMED_POINTS:
            return known_point(name, self.subject.problem)
        return self.points[name]

    def _operator(self, header: dict):
        """Return the operator of some work, at its point; the last few are kept."""
        key = header["point"], header["operator"]
        if key not in self.curvatures:
            request = curvature_request(self.served, header["operator"])
            x = self._point(header["point"])
            self.curvatures[key] = make_operator(request, self.subject.problem, x)
            while len(self.curvatures) > CURVATURES:
                self.curvatures.popitem(last=False)
        self.curvatures.move_to_end(key)
        return self.curvatures[key].operator

    def _noop(self, header: dict, arrays: list) -> tuple[dict, tuple]:
        self.world.max(np.zeros(1))  # it has gone to all ranks
        return {}, ()

    def _point_itself(self, header: dict, arrays: list) -> tuple[dict, tuple]:
        return {}, (self._point(header["point"]),)

    def _gradient(self, header: dict, arrays: list) -> tuple[dict, tuple]:
        value, gradient = self.subject.problem.objective_and_gradient(self._point(header["point"]))
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            raise NumericalError("the objective or its gradient is not finite at this point")
        return {"value": value}, (gradient,)

    def _product(self, header: dict, arrays: list) -> tuple[dict, tuple]:
        """Multiply a block; a column that leaves the finite numbers is named, the others stand."""
        operator, (V,) = self._operator(header), arrays
        columns = V.shape[1]
        width = block_width(columns)
        if not header["alone"] and width > columns:
            V = np.hstack([V, np.zeros((len(V), width - columns))])
        with np.errstate(over="ignore", invalid="ignore"):  # it is looked for below
            product = operator.block_product(operator.checked(V))[:, :columns]
        self.world.ledger.product(columns)
        finite = np.isfinite(product).all(axis=0)
        return {"failed": np.flatnonzero(~finite).tolist()}, (product,)

    def _solve(self, header: dict, arrays: list) -> tuple[dict, tuple]:
        operator, (B,) = self._operator(header), arrays
        visited, self.host = self.host, ManyProducts(self.world.ledger)
        try:
            found = solve_columns(
                operator.shifted(header["shift"]),
                B,
                tolerance=header["tolerance"],
                max_iterations=header["iterations"],
            )
        finally:
            self.host = visited
        told = ("iterations", "residuals", "converged", "negative_curvature")
        return {name: getattr(found, name).tolist() for name in told}, (found.X,)


def _of_request(error: HesscompError) -> bool:
    return isinstance(error, InputError | NumericalError | ValueError)


class ManyProducts:
    """Work of many products, in whose pauses the ranks receive visitors: the time that they take.

    Its products count in `ledger`.
    """

    def __init__(self, ledger: Ledger):
        self.ledger, self.passes = ledger, ledger.passes
        self.start, self.lent = time.monotonic(), 0.0
        self.asked: float | None = None  # since when a visitor waits
        # When the first product and the last were done, visits left out, and how many were then.
        self.first = self.last = (0.0, 0)

    def look(self) -> None:
        """Note which products are done. The first takes longer than those that follow."""
        if self.ledger.passes > self.passes:
            self.passes = self.ledger.passes
            self.last = time.monotonic() - self.lent, self.passes
            self.first = self.first if self.first[1] else self.last

    def receives(self) -> bool:
        """Return whether a visitor who waits is received now: they took little, or it waited."""
        now = time.monotonic()
        self.asked = self.asked or now
        little = self.lent <= SHARE * (now - self.start)
        return little or now - self.asked >= PATIENCE * self._product()

    def _product(self) -> float:
        """Return the seconds that one of its products takes; 0 before that is known."""
        (start, before), (end, after) = self.first, self.last
        return (end - start) / max(after - before, 1)

    def visited(self, seconds: float) -> None:
        self.lent += seconds
        self.asked = None


class JobUnderWay(ManyProducts):
    """A job that the ranks do, and its progress for the front."""

    def __init__(self, mail: Mailbox, name: str, ledger: Ledger):
        super().__init__(ledger)
        self.mail, self.name, self.told = mail, name, 0.0

    def warn(self, text: str) -> None:
        """Tell the front of a warning."""
        self.mail.say({"say": "event", "job": self.name, "warning": text})

    def tell(self, event: object) -> None:
        """Pass a workflow's event on to the front."""
        if self.mail.stream is None:
            return
        said: dict[str, Any] = {"say": "event", "job": self.name}
        if isinstance(event, Columns):
            now = time.monotonic()
            if now - self.told < TOLD and not event.finished:
                return
            self.told = now
            self.mail.say({**said, "done": event.done, "total": event.total})
        elif isinstance(event, dict):
            self.mail.say({**said, "row": plain(event)})
        elif isinstance(event, str):
            self.mail.say({**said, "text": event})


class Warnings(logging.Handler):
    """Tells the front of what a job warns of, which the ranks' log has too."""

    def __init__(self, job: JobUnderWay):
        super().__init__(logging.WARNING)
        self.job = job

    def emit(self, record: logging.LogRecord) -> None:
        self.job.warn(one_line(record.getMessage()))


def _numbers(kind: str, result) -> dict:
    """Return the numbers of a training, which writes none itself."""
    found = result.result
    told = ("best_objective", "objective", "gradient_norm", "steps", "status", "reason")
    test = None if result.test is None else vars(result.test)
    return {
        "command": kind,
        **{name: getattr(found, name) for name in told},
        "succeeded": result.succeeded,
        "test": test,
        "history": found.history.rows,
    }
