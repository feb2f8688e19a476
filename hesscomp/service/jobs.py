"""The jobs of a service: their states, each in a file that is whole or absent."""

import os
import shutil
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from hesscomp.errors import HesscompError, InputError, describe
from hesscomp.service.wire import Job, JobBody
from hesscomp.storage.files import atomic_path

QUEUED, RUNNING, DONE, FAILED, CANCELLED = STATES = (
    *("queued", "running", "done", "failed", "cancelled"),
)
ENDED = (DONE, FAILED, CANCELLED)
ATTEMPTS = 2  # a job during which ranks died is tried once more
HISTORY = 500  # rows that a job keeps in memory
WHOLE = 50  # jobs that have ended and keep them
WARNINGS = 20  # that it keeps
DRAWN = ("factor.png", "factor.html")  # made of a job's factor when they are asked for
INNER = ("job.json", "point.npy", *DRAWN)  # files of a job that are no results


class Full(HesscompError):
    """The queue is full; asked again later, the service may take the request."""


def check_share(held: int, more: int, most: int, what: str) -> None:
    """Refuse by `Full` what would give a client more than half of what all may have.

    A client that has nothing yet gets it in any case.
    """
    if held and 2 * (held + more) > most:
        raise Full(
            f"{held} {what} of this client wait already, and half of {most} are one client's; ask "
            "again later"
        )


class JobStore:
    """All jobs of a service, in the folder of its workspace. A restart finds them there.

    A job that ran when the service ended is queued again, and goes on from its journal.

    Parameters
    ----------
    folder : path
    most : int
        Jobs that may wait; of one client half of them.
    """

    def __init__(self, folder: Path, most: int = 1000):
        self.folder, self.most = folder, most
        self.jobs: dict[str, Job] = {}
        self.queued: dict[str, Job] = {}
        self.keys: dict[str, Job] = {}
        self.began: dict[str, float] = {}  # by client: when its last job began
        self._counts = dict.fromkeys(STATES, 0)
        self._whole: deque[Job] = deque()  # those with whole histories that ended last
        self.damaged: list[str] = []
        self._writer = ThreadPoolExecutor(1, "job-writer")  # in order, and off the event loop
        for path in sorted(folder.glob("j*/job.json")):
            try:
                job = msgspec.json.decode(path.read_bytes(), type=Job)
            except (msgspec.MsgspecError, UnicodeError, OSError):
                self.damaged.append(path.parent.name)
                continue
            if job.state == RUNNING:
                job.state = QUEUED
            self._hold(job)
        numbers = [int(path.name[1:]) for path in folder.glob("j[0-9]*") if path.name[1:].isdigit()]
        self._next = max(numbers, default=0) + 1
        self.unwritten: set[str] = set()  # jobs whose files, or whose end, are not written yet

    def __getitem__(self, name: str) -> Job:
        """Return a job; KeyError where there is none of this name."""
        return self.jobs[name]

    def _hold(self, job: Job) -> None:
        self.jobs[job.id] = job
        if job.key:
            self.keys.setdefault(job.key, job)
        self.began[job.client] = max(self.began.get(job.client, 0.0), job.started or 0.0)
        self._counts[job.state] += 1
        if job.state == QUEUED:
            self.queued[job.id] = job

    def move(self, job: Job, state: str) -> None:
        """Let a job be in another state, which is not written; one that has ended never leaves it.

        Of the jobs that ended some time ago, the last row of their histories is kept.
        """
        self._counts[job.state] -= 1
        self._counts[state] += 1
        job.state = state
        self.queued.pop(job.id, None)
        if state == QUEUED:
            self.queued[job.id] = job
        elif state == RUNNING:
            job.started = self.began[job.client] = time.time()
        else:
            self._whole.append(job)
            if len(self._whole) > WHOLE:
                old = self._whole.popleft()
                old.history = old.history[-1:]

    def with_key(self, key: str | None) -> Job | None:
        """Return the job that was made with an idempotency key."""
        return self.keys.get(key or "")

    def next(self) -> Job | None:
        """Return what to do next: a job that was interrupted, else the next by turns of clients.

        A client waits since its last job began, or since it asked for the first that waits.
        """
        return min(
            (job for job in self.queued.values() if job.id not in self.unwritten),
            key=lambda job: (job.started is None, max(job.created, self.began[job.client])),
            default=None,
        )

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        return dict(self._counts)

    def place(self, job: Job) -> Path:
        """Return the folder of a job."""
        return self.folder / job.id

    def add(self, body: JobBody, client: str) -> Job:
        """Return a new queued job, with its folder, not yet written.

        Raises
        ------
        Full
            Where too many wait.
        """
        if len(self.queued) >= self.most:
            raise Full(f"{self.most} jobs wait already; ask again later")
        mine = sum(each.client == client for each in self.queued.values())
        check_share(mine, 1, self.most, "jobs")
        job = Job(
            id=_name(self._next), kind=body.kind, options=body.options, point=body.point,
            key=body.key, client=client, created=time.time(),
        )  # fmt: skip
        self._next += 1
        self.place(job).mkdir(mode=0o700)
        self._hold(job)
        return job

    def drop(self, job: Job) -> None:
        """Take back a job that was just added and cannot be written."""
        del self.jobs[job.id]
        if self.keys.get(job.key or "") is job:
            del self.keys[job.key or ""]
        self._counts[job.state] -= 1
        self.queued.pop(job.id, None)
        self.unwritten.discard(job.id)
        shutil.rmtree(self.place(job), ignore_errors=True)
        if job.id == _name(self._next - 1):
            self._next -= 1

    def save(self, job: Job) -> Future[None]:
        """Write a job's state, after what was to be written before; return the future of that."""
        return self._writer.submit(self._write, job.brief())

    def finish(self, job: Job, state: str, error: str = "") -> Future[tuple[Job, str]]:
        """Write how a job ended, and later remove its journal; the job itself stays as it is.

        Returns
        -------
        future of (Job, str)
            The job as it ended, with its results, and why that is not on disk, if so: its journal
            is then kept, so that the next start of the service goes on from it.
        """
        ended = msgspec.structs.replace(job.brief(), state=state, ended=time.time(), error=error)
        return self._writer.submit(self._finish, ended)

    def _finish(self, job: Job) -> tuple[Job, str]:
        try:
            job.files = result_files(self.place(job)) if job.state == DONE else []
            self._write(job)
        except OSError as error:
            return job, describe(error)
        self._writer.submit(shutil.rmtree, self.place(job) / "run", ignore_errors=True)
        return job, ""

    def _write(self, job: Job) -> None:
        with atomic_path(self.place(job) / "job.json") as temporary:
            temporary.write_bytes(msgspec.json.encode(job))

    def result(self, job: Job, name: str) -> Path:
        """Return the path of one of a job's results."""
        if name not in job.files:
            raise InputError(f"job {job.id}: has no file {name[:60]!r}; it has {job.files}")
        return self.place(job) / name

    def close(self) -> None:
        """Wait until everything is written."""
        self._writer.shutdown()


def _name(number: int) -> str:
    return f"j{number:06d}"


def result_files(folder: Path) -> list[str]:
    """Return the names of a job's results."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file()]
    return sorted(name for name in names if name not in INNER and not name.startswith("."))
