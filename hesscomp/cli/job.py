"""`hesscomp job`: write the SLURM job script of a command, and submit it if asked."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hesscomp.cli import plan
from hesscomp.cli.arguments import request_from, warn_of_old_names
from hesscomp.cli.commands import COMMANDS, PARALLEL
from hesscomp.cli.main import parse, request_of
from hesscomp.errors import Incomplete, InputError
from hesscomp.options import nearest
from hesscomp.parallel import import_mpi_unstarted
from hesscomp.runs.slurm import fill_in
from hesscomp.workflows.jobs import JobRequest, job

USAGE = "hesscomp job [options of the job] -- COMMAND [options of the command]"
INPUTS = ("model", "data", "test")  # options that name files to read
EPILOG = (
    "COMMAND is a command of hesscomp with all its options; they are checked before the script "
    "is written. In them %j stands for the job's id, %A for an array's id, and %a for the number "
    "of its task."
)


@dataclass(frozen=True, kw_only=True)
class JobCommand(JobRequest):
    """A job that runs the command after the --."""

    def _check(self) -> None:
        if not self.command:
            raise InputError(
                "hesscomp job: no command after --, which separates the command's options from the "
                f"job's; write {USAGE}"
            )
        super()._check()


def run_job(request: JobCommand) -> int:
    parallel, missing = _check_command(request)
    needs = f"what hesscomp {request.command[0]} still needs on submission: {missing}"
    made = job(replace(request, parallel=parallel), print)
    if request.file is None:
        print(made.script, end="")
        if missing:
            print(f"hesscomp: {needs}", file=sys.stderr)
        return 0
    if missing:
        print(needs)
    if made.submission is not None and not request.submit:
        print(f"submit it with: {shlex.join(made.submission)}")
    return 0


def _note_absent(options: argparse.Namespace, words: Sequence[str]) -> None:
    """Say which files that the command reads are not here; they may come before the job starts."""
    from hesscomp.datasets.load import NAMED  # here: it loads MPI, which may not be started

    for name in INPUTS:
        given: str = getattr(options, name, None) or ""
        if given in words and given not in NAMED and not Path(given).exists():  # not of a job's id
            print(f"hesscomp: {given}: is not here; the job will need it", file=sys.stderr)


def _check_command(request: JobRequest) -> tuple[bool, str]:
    """Refuse a command that its own parser or its checks refuse; no data are read.

    Return whether it runs on MPI ranks, and which options it lacks; these may be given on
    submission.
    """
    name, submit = request.command[0], request.submit
    if name not in COMMANDS or name == "job":
        near = nearest(name, [each for each in COMMANDS if each != "job"])
        hint = f"did you mean {near}?" if near else "see hesscomp --help"
        if name.startswith("python") or name.endswith(".py"):
            hint = "a Python script of yours is started by srun: docs/slurm.md"
        raise InputError(f"hesscomp {name}: no such command; {hint}")
    import_mpi_unstarted()
    for item in request.items() or ["1"]:
        options = parse([fill_in(word, item) for word in request.command], whole=submit)
        missing = ", ".join(options.absent)
        if missing:
            continue
        try:
            request_from(options, request_of(name))
        except Incomplete as error:
            if submit:
                raise
            missing = str(error)
    warn_of_old_names(options)
    _note_absent(options, request.command)
    return name in PARALLEL or (name == "plan" and plan.on_ranks(options)), missing
