"""The commands that ask a service: submit, jobs, wait, cancel, fetch, drain."""

import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hesscomp.cli.main import parse
from hesscomp.client import NotRunning, connect, leave, left
from hesscomp.errors import InputError
from hesscomp.options import Options, option
from hesscomp.parallel import import_mpi_unstarted


@dataclass(frozen=True, kw_only=True)
class FolderRequest(Options, group="service"):
    """Which service."""

    folder: str = option(flag="folder", metavar="FOLDER", help="the service's folder")


@dataclass(frozen=True, kw_only=True)
class JobsRequest(FolderRequest):
    """Which service's jobs to list."""


@dataclass(frozen=True, kw_only=True)
class DrainRequest(FolderRequest):
    """Which service to end."""


@dataclass(frozen=True, kw_only=True)
class OneJob(Options):
    """Which job of a service."""

    job: str = option(flag="job", metavar="JOB", help="the job, such as j000001")


@dataclass(frozen=True, kw_only=True)
class CancelRequest(FolderRequest, OneJob):
    """Which job to cancel."""


@dataclass(frozen=True, kw_only=True)
class WaitRequest(FolderRequest, OneJob):
    """Which job to wait for."""

    seconds: float | None = option(
        None, above=0, metavar="S", unit="seconds", help="the longest time to wait; default: any"
    )


@dataclass(frozen=True, kw_only=True)
class FetchRequest(FolderRequest, OneJob):
    """Which file of which job to fetch."""

    file: str | None = option(
        None, metavar="NAME", help="the file, such as factor.h5; default: print what there is"
    )
    out: str | None = option(None, metavar="FILE", help="write it here; default: under its name")


@dataclass(frozen=True, kw_only=True)
class SubmitRequest(FolderRequest):
    """A job for a service: the words after the --."""

    inbox: bool = option(
        False, help="leave it in the folder without a connection, as from a login node"
    )
    command: tuple[str, ...] = ()


def _check_left(point: str | None) -> None:
    if point is not None and point.endswith(".npy"):
        raise InputError(f"{point}: a point of a file needs a service that runs; start it first")


def run_submit(request: SubmitRequest) -> int:
    kind, options, point = _job_of(request.command)
    if request.inbox:
        _check_left(point)
        print(f"left in the inbox: {leave(request.folder, kind, options, point)}")
        return 0
    if not Path(request.folder).exists():
        raise InputError(
            f"{request.folder}: no service has started here; start it by hesscomp serve, or let "
            "the job wait for that by --inbox"
        )
    try:
        service = connect(request.folder)
    except NotRunning as why:
        _check_left(point)
        key = leave(request.folder, kind, options, point)
        print(f"{why}; left in the inbox for its next start: {key}")
        return 0
    service.name = f"{os.getppid()} {platform.node()}"  # all that one shell submits is one client's
    if point is not None and point.endswith(".npy"):
        from hesscomp.factors.point import load_vector

        job = service.submit(kind, load_vector(point), **options)
    else:
        job = service.submit(kind, point, **options)
    print(job.id)
    return 0


def _job_of(words: tuple[str, ...]) -> tuple[str, dict, str | None]:
    """Return kind, options and point of a job from a command's words: of what they name alone.

    What they leave out is the service's, whose problem may have another seed than the command's.
    """
    import_mpi_unstarted()
    from hesscomp.service.requests import KINDS, UNSERVED, settable

    if not words or words[0] not in KINDS:
        raise InputError(f"no job after --; write hesscomp submit FOLDER -- {'|'.join(KINDS)} ...")
    kind = words[0]
    given = parse(list(words), whole=False)
    allowed = settable(kind)
    options, point = {}, None
    for name in given.given:
        value = getattr(given, name)
        if name == "at":
            points = value if isinstance(value, list) else [value]
            if len(points) != 1:
                raise InputError(
                    f"--at {' '.join(points)}: a job of a service takes one point; submit a job "
                    "for each"
                )
            point = points[0]
        elif name in allowed:
            options[name] = value
        else:
            decided = "a service decides it; leave it out, and fetch the job's files"
            why = UNSERVED.get(kind, {}).get(name, decided)
            raise InputError(f"{given.written[name]}: {why}")
    return kind, options, point


def run_jobs(request: JobsRequest) -> int:
    try:
        for known in connect(request.folder).request_json("GET", "/v1/jobs"):
            print(_line(known))
    finally:  # the folder tells of the inbox where no service answers too
        for name, state in left(request.folder):
            print(f"inbox/{name}  {state}")
    return 0


def _line(known: dict) -> str:
    total = "" if known["total"] is None else f"/{known['total']}"
    begun = time.strftime("%F %T", time.localtime(known["created"]))
    text = f"{known['id']}  {known['kind']:<11} {known['state']:<9} {begun}"
    return f"{text}  {known['done']}{total} columns  {known['error']}".rstrip()


def run_wait(request: WaitRequest) -> int:
    job = connect(request.folder).job(request.job)
    state = job.wait(request.seconds)
    print(_line(job.known))
    return 0 if state == "done" else 1


def run_cancel(request: CancelRequest) -> int:
    job = connect(request.folder).job(request.job)
    job.cancel()
    print(_line(job.known))
    return 0


def run_fetch(request: FetchRequest) -> int:
    job = connect(request.folder).job(request.job)
    if request.file is None:
        print("\n".join(job.files))
        return 0
    print(job.fetch(request.file, request.out or Path(request.file).name))
    return 0


def run_drain(request: DrainRequest) -> int:
    connect(request.folder).drain()
    print("draining: the running job is saved, then the service ends", file=sys.stderr)
    return 0
