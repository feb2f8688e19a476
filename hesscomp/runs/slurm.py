"""Jobs for SLURM: what they ask for, and what their commands may hold."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hesscomp.errors import InputError
from hesscomp.options import Options, option

LAUNCHERS = ("srun", "mpiexec")
REQUEUE = 75  # exit status of a run that saved a checkpoint and is to be resumed (EX_TEMPFAIL)
MOST_WARNING = 65535  # that SLURM takes
WARNING = 60  # seconds before the end of the time at which SLURM sends the signal, unless told
TIME = r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d\d?(:\d\d){0,2}"
SERVICES = ("serve",)  # commands that start ranks of their own, go on with work, and never end
PLACEHOLDERS = {
    "%j": "$SLURM_JOB_ID",
    "%A": "$SLURM_ARRAY_JOB_ID",
    "%a": "$SLURM_ARRAY_TASK_ID",
    "{}": "$item",
    "{name}": "${item##*/}",
}


@dataclass(frozen=True, kw_only=True)
class Job(Options, group="allocation", about="sbatch takes further options on submission"):
    """A hesscomp command under SLURM: the words after `hesscomp`.

    In the command ``%j`` is the job's id, ``%A`` and ``%a`` those of an array and of its task, as
    in `sbatch --output`; folders whose names hold one of these are made. In an array ``{}`` is
    the task's item and ``{name}`` the last part of its path. A command that is not `parallel` is
    started alone; a service too, and its ranks have the allocation. Without an `array` the script's
    arguments are further options of the command.
    """

    command: tuple[str, ...]
    parallel: bool = True
    name: str | None = option(
        None, metavar="NAME", help="name of the job; default: hesscomp-COMMAND"
    )
    nodes: int = option(1, low=1, metavar="N", help="number of nodes")
    ranks_per_node: int = option(1, low=1, metavar="R", help="MPI ranks on each node")
    cpus_per_rank: int = option(
        1, low=1, metavar="C", advanced=True, help="CPUs and threads of each rank"
    )
    time: str = option("1:00:00", metavar="T", help="time limit: minutes, 2:00:00 or 1-12")
    mem: str | None = option(
        None, one_of="memory", metavar="SIZE", help="memory of each node, such as 64G"
    )
    mem_per_cpu: str | None = option(
        None, one_of="memory", metavar="SIZE", advanced=True,
        help="memory for each CPU; hesscomp plan advises one",
    )  # fmt: skip
    partition: str | None = option(None, metavar="NAME", help="partition of the nodes")
    account: str | None = option(None, metavar="NAME", help="account that pays")
    launcher: str = option(
        "srun", choices=LAUNCHERS, group="run", advanced=True, help="program that starts ranks"
    )
    stage: tuple[str, ...] = option(
        (), group="run", metavar="FILE", advanced=True,
        help="files that the command reads, to copy to each node's $SLURM_TMPDIR first",
    )  # fmt: skip
    warning: int = option(
        WARNING, low=1, high=MOST_WARNING, group="run", metavar="S", advanced=True,
        help="seconds before the end of `time` at which the ranks are told to save and end; must "
        "exceed the time of a block product, which hesscomp plan states",
    )  # fmt: skip
    array: tuple[str, ...] | None = option(
        None, may_be_empty=True, group="run", metavar="ITEM",
        help="make a job array with one task for each item; the command writes {} for the item and "
        "{name} for the last part of its path; items are files or patterns, or follow later",
    )  # fmt: skip

    def _check(self) -> None:
        super()._check()
        if not self.has_ranks and self.nodes * self.ranks_per_node > 1:
            raise InputError(
                f"hesscomp {self.command[0]} runs on one rank; leave out `nodes` and "
                "`ranks_per_node`"
            )
        if not re.fullmatch(TIME, self.time):
            raise InputError(f"`time` {self.time}: take minutes, 2:00:00 or 1-12:00:00")
        if self.warning >= self.seconds:
            raise InputError(
                f"`time` {self.time}: leaves no time before the `warning`, {self.warning} seconds "
                "from its end; raise `time` or lower `warning`"
            )
        for name in ("name", "mem", "mem_per_cpu", "partition", "account"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[\w.,:+@=-]+", value):
                raise InputError(f"`{name}` {value!r}: SLURM takes no such name")
        for word in (*self.command, *self.stage):
            if not word.isprintable():
                raise InputError(f"{word!r}: a job script cannot hold line breaks in its command")
        if self.is_service and (self.stage or self.array is not None):
            raise InputError(
                "hesscomp serve: takes neither `stage` nor `array` in a job; leave it out"
            )
        for file in self.stage:
            if file not in self.command:
                raise InputError(f"`stage` {file}: is not a word of the command")
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
    def seconds(self) -> int:
        """The time limit, written as minutes[:seconds], h:m:s or days-hours[:minutes[:seconds]]."""
        days, dash, clock = self.time.rpartition("-")
        given = [int(part) for part in clock.split(":")]
        if dash or len(given) == 3:
            hours, minutes, seconds = given + [0] * (3 - len(given))
        else:
            hours, (minutes, seconds) = 0, given + [0] * (2 - len(given))
        return 86400 * int(days or 0) + 3600 * hours + 60 * minutes + seconds

    @property
    def title(self) -> str:
        """The job's name."""
        return self.name or f"hesscomp-{self.command[0]}"

    @property
    def is_service(self) -> bool:
        """Whether the command is a service, which starts its ranks itself."""
        return self.command[0] in SERVICES

    @property
    def has_ranks(self) -> bool:
        """Whether a launcher starts ranks in the allocation, by the script or by a service."""
        return self.parallel or self.is_service

    @property
    def resumes(self) -> bool:
        """Whether the command resumes from where a signal ended it."""
        return self.is_service or any(word.partition("=")[0] == "--run" for word in self.command)


def fill_in(word: str, item: str) -> str:
    """Return a word of a command as a job may have it, in an array the task of this item."""
    values = {"{}": item, "{name}": item.rpartition("/")[2]}
    marks = "|".join(re.escape(mark) for mark in PLACEHOLDERS)
    return re.sub(marks, lambda found: values.get(found[0], "1"), word)


def check_names(option: str, files: Sequence[str]) -> None:
    """Refuse files of which two have the same last part of their path."""
    names = [file.rpartition("/")[2] for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{option}: two files have the name {twice}; rename one")
