"""A SLURM job script for a command, written and, if asked, submitted."""

import shlex
import subprocess
from dataclasses import dataclass

from hesscomp.errors import HesscompError, InputError
from hesscomp.options import Options, option
from hesscomp.runs.slurm import (
    LAUNCHERS,
    WARNING,
    Job,
    check_names,
    check_replaceable,
    job_script,
)
from hesscomp.storage.files import atomic_path, check_writable, find_files


@dataclass(frozen=True, kw_only=True)
class Allocation(Options, group="allocation", about="what is not given here, sbatch can be told"):
    """What is asked of SLURM."""

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


@dataclass(frozen=True, kw_only=True)
class JobRequest(Allocation, group="run"):
    """A command under SLURM, and where its script goes.

    The command's `words` are those after `hesscomp`; whether it runs on ranks is `parallel`.
    """

    launcher: str = option("srun", choices=LAUNCHERS, help="what starts the ranks")
    stage: tuple[str, ...] = option(
        (), metavar="FILE", help="files of the command to copy to each node's $SLURM_TMPDIR first"
    )
    warning: int = option(
        WARNING, metavar="S",
        help="seconds before the end of `time` at which the ranks are told to save and end: more "
        "than a block product takes, as hesscomp plan says",
    )  # fmt: skip
    array: tuple[str, ...] | None = option(
        None, may_be_empty=True, metavar="ITEM",
        help="a job array: a task for each argument of the script, which the command has as {}, or "
        "its last part as {name}; files or patterns given here are submitted",
    )  # fmt: skip
    out: str | None = option(
        None, group="output", metavar="JOB.sbatch", help="the script; default: it is printed"
    )
    submit: bool = option(False, group="output", help="hand `out` to sbatch")
    words: tuple[str, ...] = ()
    parallel: bool = True

    def _check(self) -> None:
        super()._check()
        if self.submit and self.out is None:
            raise InputError("`submit` needs `out`, the script that is submitted")
        if self.submit and self.array == ():
            raise InputError("`submit` of an array needs its items: `array` 'run/ckpt-*.h5'")
        if self.array and self.out is None:
            raise InputError("the items of `array` go with `out`, the script that is given them")
        if self.out is not None and self.out in self.words:
            raise InputError(
                f"`out` {self.out}: is a file of the command too; give the script another name"
            )

    def items(self) -> list[str]:
        """The items of an array, patterns expanded."""
        items = find_files(list(self.array or ()), "`array`")
        check_names("--array", items if any("{name}" in word for word in self.words) else [])
        return items


@dataclass(frozen=True)
class JobResult:
    """A job script, and the command that submits it.

    Attributes
    ----------
    script : str
    submission : tuple of str or None
        None where the items of an array are not known yet, or the script is in no file.
    """

    script: str
    submission: tuple[str, ...] | None


def job(request: JobRequest, progress=None) -> JobResult:
    """Write the job script of a command, and submit it if asked.

    Raises
    ------
    InputError
        For what SLURM would refuse, and for a file in the way that is no such script.
    HesscompError
        Where sbatch fails.
    """
    items = request.items()
    script = job_script(_job(request))
    if request.out is None:
        return JobResult(script, None)
    check_writable(request.out)
    check_replaceable(request.out)
    with atomic_path(request.out) as temporary:
        temporary.write_text(script)
    if progress is not None:
        progress(f"wrote job script: {request.out}")
    array = [f"--array=0-{len(items) - 1}"] if items else []
    words = ("sbatch", *array, "--", request.out, *items)
    if request.submit:
        _submit(words)
    return JobResult(script, None if request.array == () else words)


def _job(request: JobRequest) -> Job:
    asked = {
        name: getattr(request, name) for name in Job.__dataclass_fields__ if name in vars(request)
    }
    return Job(
        **asked
        | {
            "command": request.words,
            "name": request.name or f"hesscomp-{request.words[0]}",
            "array": request.array is not None,
        }
    )


def _submit(words: tuple[str, ...]) -> None:
    try:
        done = subprocess.run(words)
    except FileNotFoundError as error:
        raise InputError("sbatch: no such program here; submit on a login node") from error
    if done.returncode:
        raise HesscompError(f"{shlex.join(words)}: ended with status {done.returncode}")
