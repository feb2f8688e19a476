"""Job scripts for SLURM: what they ask for, how they start the ranks, and preemption."""

import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from hesscomp.errors import InputError
from hesscomp.options import Options, described, option

LAUNCHERS = ("srun", "mpiexec")
REQUEUE = 75  # exit status of a run that saved a checkpoint and is to be resumed (EX_TEMPFAIL)
MOST_WARNING = 65535  # that SLURM takes
WARNING = 60  # seconds before the end of the time at which SLURM sends the signal, unless told
RESTARTS = 50  # how often a job goes back to the queue, unless told
TIME = r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d\d?(:\d\d){0,2}"
SINGLE_QUOTES = "# shellcheck disable=SC2016 # the nodes expand it"
SRUN_MPI = """\
# HESSCOMP_SRUN_MPI  how srun starts MPI: pmi2 for the mpich wheel and most MPICH-based systems,
#                    pmix for Open MPI; `srun --mpi=list` shows what there is"""
SRUN = """\
# srun does not take --cpus-per-task over from sbatch since SLURM 22.05. --wait: when a rank has
# ended, the others have ten seconds; --kill-on-bad-exit would give them none to save and end."""
MPIEXEC = """\
# mpiexec starts one process on each node by srun, which must hold all of the node's CPUs.
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_ON_NODE\""""
GO_BACK = """\
# Requeue the job, at most {restarts} times, so that a job that never reaches a checkpoint does
# not loop forever. HESSCOMP_RESTARTS changes the number.
go_back() {{
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt "${{HESSCOMP_RESTARTS:-{restarts}}}" ]; then
        scontrol requeue "{job}"
    else
        echo "requeued ${{SLURM_RESTART_COUNT:-0}} times: no more (HESSCOMP_RESTARTS)" >&2
    fi
}}
"""
EARLY = "# A signal that comes before the work has begun: the job goes back to the queue."
MADE_BY = "hesscomp job"
BEGINNING = f"#!/usr/bin/env bash\n# Made by: {MADE_BY}"  # by which a script of ours is known
PLACEHOLDERS = {
    "%j": "$SLURM_JOB_ID",
    "%A": "$SLURM_ARRAY_JOB_ID",
    "%a": "$SLURM_ARRAY_TASK_ID",
    "{}": "$item",
    "{name}": "${item##*/}",
}


@dataclass(frozen=True, kw_only=True)
class Job(Options, group="allocation", about="what is not given here, sbatch can be told"):
    """A hesscomp command under SLURM: the words after `hesscomp`.

    In the command ``%j`` is the job's id, ``%A`` and ``%a`` those of an array and of its task, as
    in `sbatch --output`; folders whose names hold one of these are made. In an array ``{}`` is
    the task's item and ``{name}`` the last part of its path. A command that is not `parallel` is
    started alone. Without an `array` the script's arguments are further options of the command.
    """

    command: tuple[str, ...]
    parallel: bool = True
    name: str | None = option(None, metavar="NAME", help="of the job; default: hesscomp-COMMAND")
    nodes: int = option(1, low=1, metavar="N", help="nodes")
    ranks_per_node: int = option(1, low=1, metavar="R", help="MPI ranks on each")
    cpus_per_rank: int = option(1, low=1, metavar="C", help="CPUs, and threads, of a rank")
    time: str = option("1:00:00", metavar="T", help="such as 30, 2:00:00, 1-12")
    mem: str | None = option(
        None, one_of="memory", metavar="SIZE", help="memory of a node, such as 64G"
    )
    mem_per_cpu: str | None = option(
        None, one_of="memory", metavar="SIZE", help="memory of a CPU, as hesscomp plan advises"
    )
    partition: str | None = option(None, metavar="NAME", help="of the nodes")
    account: str | None = option(None, metavar="NAME", help="that pays")
    launcher: str = option("srun", choices=LAUNCHERS, group="run", help="what starts the ranks")
    stage: tuple[str, ...] = option(
        (), group="run", metavar="FILE",
        help="files of the command to copy to each node's $SLURM_TMPDIR first",
    )  # fmt: skip
    warning: int = option(
        WARNING, low=1, high=MOST_WARNING, group="run", metavar="S",
        help="seconds before the end of `time` at which the ranks are told to save and end: more "
        "than a block product takes, as hesscomp plan says",
    )  # fmt: skip
    array: tuple[str, ...] | None = option(
        None, may_be_empty=True, group="run", metavar="ITEM",
        help="a job array: a task for each argument of the script, which the command has as {}, or "
        "its last part as {name}; files or patterns given here are submitted",
    )  # fmt: skip

    def _check(self) -> None:
        super()._check()
        if not self.parallel and self.nodes * self.ranks_per_node > 1:
            raise InputError(
                f"hesscomp {self.command[0]} runs on one rank; leave out `nodes` and "
                "`ranks_per_node`"
            )
        if not re.fullmatch(TIME, self.time):
            raise InputError(f"`time` {self.time}: take minutes, 2:00:00 or 1-12:00:00")
        for name in ("name", "mem", "mem_per_cpu", "partition", "account"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[\w.,:+@=-]+", value):
                raise InputError(f"`{name}` {value!r}: SLURM takes no such name")
        for word in (*self.command, *self.stage):
            if not word.isprintable():
                raise InputError(f"{word!r}: a job script cannot hold line breaks in its command")
        for file in self.stage:
            if file not in self.command:
                raise InputError(f"`stage` {file}: is no word of the command")
            if any(mark in file for mark in PLACEHOLDERS):
                raise InputError(f"`stage` {file}: name the file itself")
        check_names("`stage`", self.stage)
        items = any("{}" in word or "{name}" in word for word in self.command)
        if items and self.array is None:
            raise InputError("{} in the command stands for an array's item; add `array`")
        if self.array is not None and not (items or any("%a" in word for word in self.command)):
            raise InputError(
                "`array`: all tasks would do the same; put {}, {name} or %a into the command"
            )

    @property
    def title(self) -> str:
        """The job's name."""
        return self.name or f"hesscomp-{self.command[0]}"

    @property
    def resumes(self) -> bool:
        """Whether the command goes on from where a signal ended it."""
        return any(word.partition("=")[0] == "--run" for word in self.command)


def fill_in(word: str, item: str) -> str:
    """A word of a command as a job may have it, in an array the task of this item."""
    values = {"{}": item, "{name}": item.rpartition("/")[2]}
    marks = "|".join(re.escape(mark) for mark in PLACEHOLDERS)
    return re.sub(marks, lambda found: values.get(found[0], "1"), word)


def check_replaceable(path: str | os.PathLike) -> None:
    """Raise InputError where a file is at `path` that is no job script that hesscomp wrote."""
    with suppress(FileNotFoundError), open(path, "rb") as stream:
        if not stream.read(len(BEGINNING)) == BEGINNING.encode():
            raise InputError(
                f"{path}: exists and is no job script of hesscomp's, so it is not overwritten; "
                "name another file, or remove it first"
            )


def check_names(option: str, files: Sequence[str]) -> None:
    """Refuse files of which two have the same last part of their path."""
    names = [file.rpartition("/")[2] for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{option}: two files have the name {twice}; rename one")


def recipe(job: Job) -> str:
    """The command line that makes the job's script."""
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
    """The script for `sbatch`.

    Exit status: the command's. Before the time ends (or on `scancel --signal=USR1 --batch`) the
    ranks get SIGUSR1; if they then end with status 75, the job, or the task of an array, is
    requeued.
    """
    sections = (_header(job), _directives(job), _environment(job), _work(job))
    return "\n".join(sections)


def _header(job: Job) -> str:
    rest = "ITEM..." if job.array is not None else f"[more options of `hesscomp {job.command[0]}`]"
    array = "--array=0-LAST " if job.array is not None else ""
    lines = [
        f"{BEGINNING}{recipe(job).removeprefix(MADE_BY)}",
        "#",
        f"#   sbatch {array}[options of sbatch] SCRIPT {rest}",
        "#",
        "# HESSCOMP_VENV      the Python environment (default: .venv in the folder where you call "
        "sbatch)",
    ]
    if job.parallel and job.launcher == "srun":
        lines.append(SRUN_MPI)
    return "\n".join(lines)


def _directives(job: Job) -> str:
    asked = {
        "job-name": job.title,
        "nodes": job.nodes,
        "ntasks-per-node": job.ranks_per_node,
        "cpus-per-task": job.cpus_per_rank,
        "time": job.time,
        "mem": job.mem,
        "mem-per-cpu": job.mem_per_cpu,
        "partition": job.partition,
        "account": job.account,
        "output": "%x-%A_%a.out" if job.array is not None else "%x-%j.out",
        "open-mode": "append",
        "signal": f"B:USR1@{job.warning}",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in asked.items() if value is not None]
    return "\n".join([*lines, "#SBATCH --requeue"])


def _environment(job: Job) -> str:
    me = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if job.array is not None else "$SLURM_JOB_ID"
    lines = ["set -euo pipefail", "", GO_BACK.format(restarts=RESTARTS, job=me)]
    if job.resumes:
        lines += [EARLY, f"trap 'go_back; exit {REQUEUE}' USR1 TERM", ""]
    lines += [
        "# module load python mpich     # the system's MPI, where there is no mpich wheel",
        "",
        'PATH="${HESSCOMP_VENV:-$SLURM_SUBMIT_DIR/.venv}/bin:$PATH"',
        'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
    ]
    if job.array is not None:
        lines += [
            "",
            'item="${*:SLURM_ARRAY_TASK_ID+1:1}" # this task\'s argument',
            'export item="${item:?there are fewer arguments than tasks of the array}"',
            "set --",
        ]
    folders = {
        word.rpartition("/")[0]: None
        for word in job.command
        if any(mark in word.rpartition("/")[0] for mark in ("%j", "%A", "%a"))
    }
    if folders:
        lines.append(f"mkdir -p {' '.join(_shell(folder) for folder in folders)}")
    if job.stage:
        lines += [
            "",
            "# A copy of these files on each node's own scratch.",
            ': "${SLURM_TMPDIR:?set it to a folder on the disk of each node}"',
            SINGLE_QUOTES,
            'srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 \\',
            f"""    bash -c 'cp -- "$@" "$SLURM_TMPDIR/"' stage {shlex.join(job.stage)} &""",
            'wait "$!" # a signal ends the waiting at once',
        ]
    return "\n".join(lines)


def _work(job: Job) -> str:
    return f"""
{_launch(job)}
work=$!

# SLURM sends USR1 to this shell {job.warning} seconds before the time ends, and the shell to the
# ranks (for TERM too, on which srun would kill them). A command with --run FOLDER ends the present
# block product, saves what it has and ends with status {REQUEUE}: the job goes back to the queue,
# and on from there.
trap 'kill -USR1 "$work" 2>/dev/null || true' USR1 TERM
while kill -0 "$work" 2>/dev/null; do sleep 0.5; done # a signal in a `wait` may cost the status
status=0
wait "$work" || status=$?
if [ "$status" = {REQUEUE} ]; then go_back; fi
exit "$status"
"""


def _launch(job: Job) -> str:
    if not job.parallel:
        comments, launcher = [], []
    elif job.launcher == "mpiexec":
        comments, launcher = [MPIEXEC], ["mpiexec", "-n", '"$SLURM_NTASKS"']
    else:
        comments = [SRUN]
        launcher = [
            *("srun", '--mpi="${HESSCOMP_SRUN_MPI:-pmi2}"'),
            *('--cpus-per-task="$OMP_NUM_THREADS"', "--wait=10"),
        ]
    if not job.stage:
        words = [*launcher, "hesscomp", *map(_shell, job.command), '"$@"', "&"]
        return "\n".join([*comments, _wrapped(words)])
    # Where a node's scratch is, only the node's own processes know.
    inner = [_staged(word) if word in job.stage else _shell(word) for word in job.command]
    task = _wrapped(["exec", "hesscomp", *inner, '"$@"'])
    words = [*launcher, "bash -c", shlex.quote(task), "hesscomp", '"$@"', "&"]
    return "\n".join([*comments, SINGLE_QUOTES, _wrapped(words)])


def _wrapped(words: list[str]) -> str:
    """The words on lines of about 100 characters, options beside their values."""
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


def _staged(file: str) -> str:
    return '"$SLURM_TMPDIR"/' + shlex.quote(file.rpartition("/")[2])


def _shell(word: str) -> str:
    """A word for the shell, its placeholders being variables."""
    marks = "|".join(re.escape(mark) for mark in PLACEHOLDERS)
    pieces = re.split(f"({marks})", word)
    if len(pieces) == 1:
        return shlex.quote(word)
    escaped = (PLACEHOLDERS.get(piece) or re.sub(r'([\\"$`])', r"\\\1", piece) for piece in pieces)
    return f'"{"".join(escaped)}"'
