"""Write the SLURM job script of a command, and submit it if asked."""

import shlex
import subprocess
from dataclasses import dataclass

from hesscomp.errors import HesscompError, InputError
from hesscomp.options import Options, option
from hesscomp.runs.job_script import check_replaceable, job_script
from hesscomp.runs.slurm import Job, check_names
from hesscomp.storage.files import atomic_path, check_writable, find_files


@dataclass(frozen=True, kw_only=True)
class ScriptOutput(Options, group="output"):
    """Where to write a job script."""

    out: str | None = option(None, metavar="JOB.sbatch", help="the script; default: print it")
    submit: bool = option(
        False, help="submit the script with sbatch; without `out` it is written to NAME.sbatch"
    )


@dataclass(frozen=True, kw_only=True)
class JobRequest(Job, ScriptOutput):
    """A command under SLURM, and where to write its script."""

    def _check(self) -> None:
        super()._check()
        if self.submit and self.array == ():
            raise InputError("`submit` of an array needs its items: `array` 'run/ckpt-*.h5'")
        if self.array and self.file is None:
            raise InputError("items of `array` need a script in a file; name one with `out`")
        if self.file is not None and self.file in self.command:
            raise InputError(
                f"`out` {self.file}: the command uses this file; give the script another name"
            )

    @property
    def file(self) -> str | None:
        """The file of the script: `out`, or what `submit` writes without it."""
        return f"{self.title}.sbatch" if self.submit and self.out is None else self.out

    def items(self) -> list[str]:
        """Return the items of an array, with patterns expanded."""
        items = find_files(list(self.array or ()), "`array`")
        check_names("`array`", items if any("{name}" in word for word in self.command) else [])
        return items


@dataclass(frozen=True)
class JobResult:
    """A job script, and the words of the command that submits it.

    There is none where an array's items are not known yet, or where the script is not in a file.
    """

    script: str
    submission: tuple[str, ...] | None


def job(request: JobRequest, progress=None) -> JobResult:
    """Write the job script of a command, and submit it if asked.

    Raises
    ------
    InputError
        For what SLURM would refuse, and where `out` exists and is not such a script.
    HesscompError
        Where sbatch fails.
    """
    items = request.items()
    script = job_script(request)
    if request.file is None:
        return JobResult(script, None)
    check_writable(request.file)
    check_replaceable(request.file)
    with atomic_path(request.file) as temporary:
        temporary.write_text(script)
    if progress is not None:
        progress(f"wrote job script: {request.file}")
    array = [f"--array=0-{len(items) - 1}"] if items else []
    words = ("sbatch", *array, "--", request.file, *items)
    if request.submit:
        try:
            done = subprocess.run(words)
        except FileNotFoundError as error:
            raise InputError("sbatch: not on this machine; submit on a login node") from error
        if done.returncode:
            raise HesscompError(f"{shlex.join(words)}: ended with status {done.returncode}")
    return JobResult(script, None if request.array == () else words)
