"""The front: the queue, the states and the points of a service, and what the ranks do next."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hesscomp.client import point_id
from hesscomp.errors import HesscompError, InputError, describe, one_line
from hesscomp.service.batching import BLOCKED, MOST_COLUMNS, WIDTHS, Room, Work, WorkQueue
from hesscomp.service.events import Events
from hesscomp.service.jobs import (
    ATTEMPTS,
    CANCELLED,
    ENDED,
    FAILED,
    HISTORY,
    QUEUED,
    RUNNING,
    WARNINGS,
    JobStore,
)
from hesscomp.service.points import Points
from hesscomp.service.ranks import Ranks
from hesscomp.service.requests import (
    NAMED_POINTS,
    TRAINED,
    ServedProblem,
    check_array_memory,
    check_memory,
    check_operator,
    job_request,
    most_array_bytes,
)
from hesscomp.service.wire import Job, JobBody, numbers_of, off_loop
from hesscomp.storage.npy import read_npy, save_npy

log = logging.getLogger(__name__)
STARTING, READY, DRAINING = "starting", "ready", "draining"
SOLVE = "solve"  # the kind of requests that take many products
ENDING = "the service is ending; ask again when it has started again"


class Unavailable(HesscompError):
    """The service does not take this now; asked again later, it may."""


class Gone(HesscompError):
    """The client has gone away, and waits for no answer."""


class Failed(HesscompError):
    """The ranks could not do what was asked."""

    def __init__(self, text: str, status: int = 500):
        super().__init__(text)
        self.status = status


class Front:
    """A service without its doors: what HTTP asks is a method here.

    Parameters
    ----------
    served : ServedProblem
    store : JobStore
    points : Points
    queue : WorkQueue
    """

    def __init__(self, served: ServedProblem, store: JobStore, points: Points, queue: WorkQueue):
        self.served, self.store, self.points, self.queue = served, store, points, queue
        self.events, self.room = Events(), Room()
        self.ranks: Ranks | None = None
        self.about: dict[str, Any] = {"problem": "", "n": None, "rows": None, "ranks": []}
        self.state, self.restarts, self.last_failure = STARTING, 0, ""
        self.running: Job | None = None
        self.solves = WorkQueue(batching=False, most=queue.most)  # long, so others visit them
        self.under_way: dict[int, list[Work]] = {}  # blocks by number: one of each queue at most
        self.number = 0
        self.counts: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.last_product = 0.0
        self._sent: set[str] = set()  # points that the ranks have
        self._left: set[str] = set()  # of these, those that have left since the ranks were told
        self._cancelled: set[str] = set()  # jobs that run and are to end
        self._ending: dict[str, asyncio.Task] = {}  # by job: its end is being written
        self._timer: asyncio.TimerHandle | None = None
        self.drained = asyncio.Event()

    # What clients ask

    def status(self) -> dict[str, Any]:
        """Return how the service is, in plain values."""
        return {
            "state": self.state,
            **self.about,
            "waiting": self.waiting,
            "running": None if self.running is None else self.running.id,
            "jobs": self.store.counts(),
            "damaged": self.store.damaged,
            "points": len(self.points.held),
            "point_bytes": self.points.bytes,
            "waiting_bytes": self.room.taken,
            "restarts": self.restarts,
            "last_failure": self.last_failure,
            "event": self.events.id,
        }

    @property
    def waiting(self) -> int:
        """How many short requests have no answer yet."""
        return len(self.queue) + len(self.solves) + sum(map(len, self.under_way.values()))

    @property
    def n(self) -> int:
        """The number of parameters; Unavailable until the ranks have told it."""
        if self.about["n"] is None:
            raise Unavailable("the ranks are starting; ask again")
        return self.about["n"]

    async def add_point(self, x: np.ndarray) -> str:
        """Hold a point; return its name."""
        name = await off_loop(x.nbytes, point_id, x)
        self._left.update(gone for gone in self.points.add(name, x) if gone in self._sent)
        self.events.add("point", {"id": name, "bytes": x.nbytes})
        return name

    async def ask(
        self,
        kind: str,
        point: str,
        client: str,
        array: np.ndarray | None = None,
        operator: str = "hessian",
        alone: bool = False,
        leaving: list[Callable[[], None]] | None = None,
        **given,
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Return the ranks' answer to a short request.

        What is to be called if the client goes away meanwhile is appended to `leaving`.

        Raises
        ------
        InputError, Failed, Unavailable, Full, KeyError, Gone
        """
        self._check_open()
        check_operator(operator)
        if point not in NAMED_POINTS:
            self.points[point]
        future = asyncio.get_running_loop().create_future()
        work = Work(kind, point, operator, client, future, array, given, alone)
        self._check_memory(work)
        self._queue_of(work).add(work)
        if leaving is not None:
            leaving.append(partial(self._leave, work))
        self.counts[kind] += 1
        self._advance()
        return await future

    def _check_memory(self, work: Work) -> None:
        if work.array is not None:
            check_array_memory(work.width * work.array[:, 0].nbytes, self.about["ranks"])

    def _leave(self, work: Work) -> None:
        """Do no more for a request whose client has gone; a solve ends at its next pause."""
        _fail(work, Gone())
        if self._queue_of(work).remove(work) or work.kind != SOLVE or self.ranks is None:
            return
        for number, block in self.under_way.items():
            if block[0] is work:
                self.ranks.send({"do": "leave", "id": number})

    def _queue_of(self, work: Work) -> WorkQueue:
        return self.solves if work.kind == SOLVE else self.queue

    def _check_open(self) -> None:
        if self.state == DRAINING:
            raise Unavailable(ENDING)

    async def add_job(self, body: JobBody, client: str) -> tuple[Job, bool]:
        """Queue a job; return it, and whether it is new: a known key gives the job that has it.

        Raises
        ------
        InputError, Unavailable, Full, KeyError
        """
        self._check_open()
        if body.point_of is not None:
            body = self._with_point(body)
        x, known = None, self.store.with_key(body.key)
        if known is None:
            await asyncio.to_thread(self._check_job, body)  # the first of a kind loads modules
            x = await self._point_of(body)
            known = self.store.with_key(body.key)  # perhaps it came twice meanwhile
        if known is not None:
            if (known.kind, known.options, known.point) != (body.kind, body.options, body.point):
                raise InputError(f"`key` {body.key}: belongs to {known.id}, another job")
            return known, False
        try:
            job = self.store.add(body, client)
        except OSError as error:
            raise _not_kept(error) from error
        self.store.unwritten.add(job.id)
        try:
            if x is not None:
                await asyncio.to_thread(save_npy, self.store.place(job) / "point.npy", x)
            await asyncio.wrap_future(self.store.save(job))
        except OSError as error:
            self.store.drop(job)
            raise _not_kept(error) from error
        if job.id not in self._ending:
            self.store.unwritten.discard(job.id)
        self._told(job)
        self._advance()
        return job, True

    def _with_point(self, body: JobBody) -> JobBody:
        """Return what is asked with the name of the point of the job that it refers to."""
        known = self.store[body.point_of or ""]
        if body.point not in (None, known.point):
            raise InputError(f"`point` and `point_of` {known.id} differ; give one of them")
        return msgspec.structs.replace(body, point=known.point)

    async def _point_of(self, body: JobBody) -> np.ndarray | None:
        """Return the point of a job that its folder is to keep: a held one, or an earlier job's."""
        name = body.point
        if name is None or name in (TRAINED, *NAMED_POINTS):
            return None
        if body.point_of is None or name in self.points:
            return self.points[name]
        path = self.store.place(self.store[body.point_of]) / "point.npy"
        try:
            kept = read_npy(await asyncio.to_thread(path.read_bytes), f"{path}")
            return await off_loop(kept.nbytes, numbers_of, kept, self.n, f"{path}")
        except OSError as error:
            raise InputError(f"the point of {body.point_of}: {describe(error)}") from error

    def _check_job(self, body: JobBody) -> None:
        folder = Path("jobs")
        request = job_request(body.kind, body.options, self.served, folder, self._at(body, folder))
        if self.about["ranks"]:
            sizes = self.n, self.about["rows"], self.about["ranks"]
            check_memory(body.kind, request, *sizes)

    def _at(self, body: JobBody | Job, folder: Path) -> str | None:
        if body.point in (None, TRAINED, *NAMED_POINTS):
            return body.point
        return str(folder / "point.npy")

    async def cancel(self, job: Job) -> Job:
        """Cancel a job; one that runs ends at its next pause."""
        if job.state == QUEUED:
            await self._finish(job, CANCELLED)
        elif job is self.running and self.ranks is not None:
            self._cancelled.add(job.id)
            self.ranks.send({"do": "cancel", "job": job.id})
        return job

    async def ended(self, job: Job, seconds: float) -> Job:
        """Wait until a job has ended, at most so long and while this service runs; return it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while job.state not in ENDED and self.events.open:
                    await self.events.next()
        return job

    def drain(self) -> None:
        """Take nothing new; let what runs be saved, and end."""
        if self.state == DRAINING:
            return
        self.state = DRAINING
        self._tell_ranks()
        for queue in (self.queue, self.solves):
            for work in queue.cleared():
                _fail(work, Unavailable(ENDING))
        if self.ranks is not None and (self.running is not None or self.under_way):
            self.ranks.send({"do": "drain"})
        self._advance()

    def _finish(self, job: Job, state: str, error: str = "") -> asyncio.Task:
        """End a job. Nobody is told of a state before it is on disk, so a crash loses none."""
        if job.id not in self._ending:
            self.store.unwritten.add(job.id)
            self._ending[job.id] = asyncio.create_task(self._finished(job, state, error))
        return self._ending[job.id]

    async def _finished(self, job: Job, state: str, error: str) -> None:
        ended, failure = await asyncio.wrap_future(self.store.finish(job, state, error))
        job.ended, job.error, job.files = ended.ended, error, ended.files
        self.store.move(job, state)
        self.store.unwritten.discard(job.id)
        del self._ending[job.id]
        if failure:
            self._warn_unwritten(job, failure)
        self.counts[f"jobs {state}"] += 1
        self._told(job)
        self._advance()

    async def settled(self) -> None:
        """Wait until the ends of jobs are on disk."""
        while self._ending:
            await asyncio.gather(*self._ending.values())

    def _save(self, job: Job) -> None:
        """Write a job's state; where that fails, say so."""
        loop = asyncio.get_running_loop()

        def written(future) -> None:
            if future.exception() is not None:
                text = describe(future.exception())
                loop.call_soon_threadsafe(self._warn_unwritten, job, text)

        self.store.save(job).add_done_callback(written)

    def _warn_unwritten(self, job: Job, why: str) -> None:
        log.error("job %s: its state %s is not on disk: %s", job.id, job.state, why)
        self._warn(
            job, f"the state {job.state} is not on disk, and a restart will not know it: {why}"
        )
        self._told(job)

    def _warn(self, job: Job, text: str) -> None:
        job.warnings = [*job.warnings, text][-WARNINGS:]

    @property
    def unfinished(self) -> bool:
        """Whether jobs wait, for the next start of the service."""
        counts = self.store.counts()
        return counts[QUEUED] + counts[RUNNING] > 0

    # What the ranks do

    def _advance(self) -> None:
        """Give the ranks what comes next, where they are free for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ranks = self.ranks
        if self.state == DRAINING:
            if self.running is None and not self.under_way and not self._ending:
                self.drained.set()
            return
        if ranks is None or not ranks.ready:
            return
        for queue in (self.queue, self.solves):
            under_way = (self._queue_of(block[0]) for block in self.under_way.values())
            if not len(queue) or any(other is queue for other in under_way):
                continue
            wait = queue.linger()
            if wait > 0:
                self._timer = asyncio.get_running_loop().call_later(wait, self._advance)
            else:
                self._send_work(queue.take(self._most_columns()))
        if self.running is None and (job := self.store.next()) is not None:
            self._start(job)

    def _most_columns(self) -> int:
        """Return how wide a block of several requests may be, by the memory of the ranks."""
        column = self.n * np.dtype(np.float64).itemsize
        most = most_array_bytes(self.about["ranks"]) // column
        return max((width for width in (*WIDTHS, MOST_COLUMNS) if width <= most), default=1)

    def _send_work(self, block: list[Work]) -> None:
        first, arrays = block[0], []
        self.number += 1
        brings = first.point not in NAMED_POINTS and first.point not in self._sent
        try:
            if len(block) == 1:  # one of several is as wide as the memory allows
                self._check_memory(first)  # of other ranks perhaps than when it came
            if brings:
                arrays.append(self.points[first.point])
                self._sent.add(first.point)
        except (InputError, KeyError) as why:  # the point has left while the request waited
            for work in block:
                _fail(work, why)
            asyncio.get_running_loop().call_soon(self._advance)
            return
        drop = [name for name in self._left - {first.point} if name not in self.points]
        self._left &= {first.point}
        self._sent.difference_update(drop)
        columns = [work.array for work in block if work.array is not None]
        if columns:
            arrays.append(columns[0] if len(columns) == 1 else np.hstack(columns))
        self.under_way[self.number] = block
        assert self.ranks is not None
        self.ranks.send(
            {
                "do": "work", "id": self.number, "kind": first.kind, "point": first.point,
                "operator": first.operator, "alone": first.alone, "brings": brings, "drop": drop,
                **first.given,
            },
            *arrays,
        )  # fmt: skip

    def _start(self, job: Job) -> None:
        assert self.ranks is not None
        self.store.move(job, RUNNING)
        job.error, job.done, job.total, job.history, job.warnings = "", 0, None, [], []
        self.running = job
        self._save(job)
        self._told(job)
        folder = self.store.place(job)
        known = {"id": job.id, "kind": job.kind, "options": job.options}
        at = self._at(job, folder)
        self.ranks.send({"do": "job", "job": known, "folder": str(folder), "at": at})

    def hear(self, header: dict[str, Any], arrays: list[np.ndarray]) -> None:
        """Take a frame of rank 0."""
        getattr(self, f"_heard_{header.pop('say')}")(header, arrays)
        self._advance()

    def _heard_hello(self, header: dict[str, Any], arrays: list) -> None:
        self.about.update(header)
        self._sent.clear()
        self._left.clear()
        if self.state == STARTING:
            self.state = READY
        self._tell_ranks()

    def _heard_beat(self, header: dict[str, Any], arrays: list) -> None:
        self.about["ranks"] = header["ranks"]
        self._tell_ranks()

    def _tell_ranks(self) -> None:
        self.events.add("ranks", {"state": self.state, "ranks": self.about["ranks"]})

    def _heard_answer(self, header: dict[str, Any], arrays: list[np.ndarray]) -> None:
        block = self.under_way.pop(header.pop("id"), None)
        if block is None:
            return
        first, seconds = block[0], header["seconds"]
        self.seconds[first.kind] += seconds
        self.counts[f"{first.kind} blocks"] += 1
        self.counts[f"{first.kind} columns"] += sum(work.columns for work in block)
        self._queue_of(first).ended(block, seconds)
        if "unfinished" in header:
            self._wait_again(block)
            return
        if "error" in header:
            for work in block:
                _fail(work, Failed(header["error"], header["status"]))
            return
        if first.kind != BLOCKED:
            _answer(first, header, arrays)
            return
        at, failed = 0, header["failed"]
        for work in block:
            mine = range(at, at + work.columns)
            bad = [column - at for column in failed if column in mine]
            if bad:
                _fail(work, Failed(_overflow(bad, work), 422))
            else:
                _answer(work, {}, [arrays[0][:, mine.start : mine.stop]])
            at += work.columns

    def _wait_again(self, block: list[Work]) -> None:
        """Put requests that were not answered back to the head of the queue."""
        for work in reversed(block):
            if self.state == DRAINING:
                _fail(work, Unavailable(ENDING))
            elif not _is_over(work):
                self._queue_of(work).add(work, first=True)

    def _heard_event(self, header: dict[str, Any], arrays: list) -> None:
        job = self.running
        if job is None or header.pop("job") != job.id:
            return
        if "row" in header:
            job.history = [*job.history[-HISTORY:], header["row"]]
            self.events.add("row", {"job": job.id, "row": header["row"]})
        elif "warning" in header:
            self._warn(job, header["warning"])
            self._told(job)
        elif "text" in header:
            self.events.add("line", {"job": job.id, "text": header["text"]})
        else:
            job.done, job.total = header["done"], header["total"]
            self._told(job)

    def _heard_ended(self, header: dict[str, Any], arrays: list) -> None:
        job, self.running = self.running, None
        if job is None or header["job"] != job.id:
            return
        state = header["state"]
        if state == QUEUED and job.id in self._cancelled:
            state = CANCELLED
        self._cancelled.discard(job.id)
        if state == QUEUED:
            self.store.move(job, QUEUED)
            self._save(job)
            self._told(job)
        else:
            self._finish(job, state, one_line(header["error"]))
        if header["state"] == QUEUED:  # by a signal that the ranks got: they end, and so does this
            self.drain()

    def lost(self, why: str) -> None:
        """The ranks have ended unasked: what they did is tried once more."""
        self.restarts += 1
        self.last_failure = one_line(why)
        self._sent.clear()
        self._left.clear()
        self.about["ranks"] = []
        if self.state == READY:
            self.state = STARTING
        blocks, self.under_way = self.under_way, {}
        for block in blocks.values():
            for work in block:
                work.attempts += 1
                if work.attempts == ATTEMPTS:
                    _fail(work, Failed(self.last_failure))
            self._wait_again(block)
        job, self.running = self.running, None
        if job is not None:
            job.attempts += 1
            if job.id in self._cancelled:
                self._cancelled.discard(job.id)
                self._finish(job, CANCELLED)
            elif job.attempts < ATTEMPTS or self.state == DRAINING:
                self.store.move(job, QUEUED)
                job.error = self.last_failure
                self._save(job)
                self._told(job)
            else:
                self._finish(job, FAILED, self.last_failure)
        self._tell_ranks()
        self._advance()

    def _told(self, job: Job) -> None:
        self.events.add("job", job.brief())


def _overflow(bad: list[int], work: Work) -> str:
    which = f"columns {', '.join(map(str, bad[:10]))} of" if work.columns > 1 else ""
    return f"{which} the product is not finite; check the scale of the array and the point".strip()


def _not_kept(error: OSError) -> Failed:
    return Failed(f"the job cannot be kept: {describe(error)}", 507)


def _is_over(work: Work) -> bool:
    return work.future.done()


def _answer(work: Work, header: dict[str, Any], arrays: list[np.ndarray]) -> None:
    if not _is_over(work):
        work.future.set_result((header, arrays))


def _fail(work: Work, error: Exception) -> None:
    if not _is_over(work):
        work.future.set_exception(error)
