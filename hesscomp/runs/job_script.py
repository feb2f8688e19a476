"""Job scripts for SLURM: the text is job.sbatch.jinja, what is filled in is made here."""

import os
import re
import shlex
from contextlib import suppress

from jinja2 import Environment, PackageLoader, StrictUndefined

from hesscomp.errors import InputError
from hesscomp.options import described
from hesscomp.runs.slurm import PLACEHOLDERS, REQUEUE, Job

RESTARTS = 50  # how often a job goes back to the queue, unless told
MADE_BY = "hesscomp job"
BEGINNING = f"#!/usr/bin/env bash\n# Made by: {MADE_BY}"  # by which a script of ours is known

# Nothing is escaped here: what users choose is quoted for the shell before, or `Job` refuses it.
TEMPLATES = Environment(
    loader=PackageLoader("hesscomp.runs", ""),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


def check_replaceable(path: str | os.PathLike) -> None:
    """Raise InputError where a file is at `path` that is not a job script of hesscomp."""
    with suppress(FileNotFoundError), open(path, "rb") as stream:
        if not stream.read(len(BEGINNING)) == BEGINNING.encode():
            raise InputError(
                f"{path}: exists and is not a job script of hesscomp, so it is not overwritten; "
                "name another file, or remove it first"
            )


def recipe(job: Job) -> str:
    """Return the command line that makes the job's script."""
    words = [*MADE_BY.split(), "--name", job.title]
    for each in described(Job):
        value = getattr(job, each.name)
        if each.name == "name" or value == each.default:
            continue
        words.append(each.flag)
        if each.name != "array":  # its items are given when it is submitted
            words += map(str, value if each.many else [value])
    return shlex.join([*words, "--", *job.command])


def job_script(job: Job) -> str:
    """Return the script for `sbatch`.

    Exit status: the command's. Before the time ends (or on `scancel --signal=USR1 --batch`) the
    ranks get SIGUSR1; if they then end with status 75, the job, or the task of an array, is
    requeued.
    """
    return TEMPLATES.get_template("job.sbatch.jinja").render(
        job=job,
        recipe=recipe(job),
        is_array=job.array is not None,
        restarts=RESTARTS,
        requeue=REQUEUE,
        folders=_folders(job),
        staged=shlex.join(job.stage),
        launch=_launch(job),
    )


def _folders(job: Job) -> str:
    """Return the folders of the command's files that are named by the job."""
    folders = dict.fromkeys(word.rpartition("/")[0] for word in job.command)
    named = [folder for folder in folders if any(mark in folder for mark in ("%j", "%A", "%a"))]
    return " ".join(map(_shell, named))


def _launch(job: Job) -> str:
    """Start the command on its ranks, in the background."""
    if job.is_service:
        return _service(job)
    if not job.parallel:
        launcher = []
    elif job.launcher == "mpiexec":
        launcher = ["mpiexec", "-n", '"$SLURM_NTASKS"']
    else:
        launcher = [
            *("srun", '--mpi="${HESSCOMP_SRUN_MPI:-pmi2}"'),
            *('--cpus-per-task="$OMP_NUM_THREADS"', "--wait=10"),
        ]
    if not job.stage:
        return _wrapped([*launcher, "hesscomp", *map(_shell, job.command), '"$@"', "&"])
    # Where a node's scratch is, only the node's own processes know.
    scratch = {
        word: f'"$SLURM_TMPDIR"/{shlex.quote(word.rpartition("/")[2])}' for word in job.stage
    }
    inner = [scratch.get(word) or _shell(word) for word in job.command]
    task = _wrapped(["exec", "hesscomp", *inner, '"$@"'])
    return _wrapped([*launcher, "bash -c", shlex.quote(task), "hesscomp", '"$@"', "&"])


def _service(job: Job) -> str:
    """Start a service on the batch node, in the background; it starts the ranks."""
    name, *words = job.command
    ranks = ["--ranks", '"$SLURM_NTASKS"'] if job.launcher == "mpiexec" else []
    started = ["hesscomp", name, "--launcher", job.launcher, *ranks, *map(_shell, words)]
    return _wrapped([*started, '"$@"', "&"])


def _wrapped(words: list[str]) -> str:
    """Return the words on lines of about 100 characters, options beside their values."""
    groups = [words[0]]
    for word in words[1:]:
        if word.startswith("-") or word in ("hesscomp", "bash -c", '"$@"'):
            groups.append(word)
        else:
            groups[-1] += f" {word}"
    lines = [groups[0]]
    for group in groups[1:]:
        if len(lines[-1]) + len(group) < 98:
            lines[-1] += f" {group}"
        else:
            lines.append(f"    {group}")
    return " \\\n".join(lines)


def _shell(word: str) -> str:
    """Return a word for the shell, its placeholders being variables."""
    marks = "|".join(re.escape(mark) for mark in PLACEHOLDERS)
    pieces = re.split(f"({marks})", word)
    if len(pieces) == 1:
        return shlex.quote(word)
    escaped = (PLACEHOLDERS.get(piece) or re.sub(r'([\\"$`])', r"\\\1", piece) for piece in pieces)
    return f'"{"".join(escaped)}"'
