"""What workflows leave behind: a factor's file and report, and the folder of a run."""

import os
from dataclasses import asdict, dataclass

from hesscomp.errors import InputError
from hesscomp.factors import Factor
from hesscomp.options import Options, option
from hesscomp.parallel.world import World
from hesscomp.runs.report import write_json
from hesscomp.runs.slurm import REQUEUE
from hesscomp.workflows.progress import Progress, write, write_factor


@dataclass(frozen=True, kw_only=True)
class FactorOutput(Options, group="output"):
    """Where a factor goes."""

    out: str | None = option(None, required=True, metavar="F.h5", help="the factor file")
    report: str | None = option(None, metavar="R.json", help="certificate, provenance and costs")


def folder(text: str) -> str:
    """A text that may name a run's folder."""
    if not text:
        raise InputError("it names no folder")
    if os.path.exists(text) and not os.path.isdir(text):
        raise InputError(f"{text} is a file; name a folder")
    return text


def run_folder(holds: str):
    """The option of a run's folder; `holds` says what it gets."""
    return option(
        None, metavar="FOLDER", parse=folder, group="output",
        help=f"{holds}; where it holds those of this command, the run goes on from them. SIGTERM "
        f"and SIGUSR1 then end the run after the present block product, with status {REQUEUE}, and "
        "Ctrl-C with 130",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JournalRequest(Options, group="output"):
    """Where the products of a factor are kept while it is made."""

    run: str | None = run_folder("products that are done")


def deliver_factor(command: str, request: FactorOutput, factor: Factor, world: World,
                   progress: Progress) -> None:  # fmt: skip
    """Show a factor, write it and its report; the time under the command's name is the solve."""
    progress(factor)
    write_factor(progress, request.out, factor)
    pairs = {}
    if factor.has_eigenpairs:
        pairs = {"rank": factor.rank, "eigenvalues": factor.eigenvalues.tolist()}
    report = {
        "command": command,
        "kind": factor.kind,
        **pairs,
        "certificate": {
            name: value
            for name, value in asdict(factor.certificate).items()
            if isinstance(value, float | bool | str)
        },
        "provenance": asdict(factor.provenance),
        **costs(world, compile="compile", solve=command),
    }
    write(world, progress, "report", request.report, lambda path: write_json(path, report))


def costs(world: World, **phases: str) -> dict:
    """What a report says of its costs: ranks, threads, the seconds of some phases, the ledger."""
    ledger = world.ledger.as_dict()
    seconds = {name: ledger["seconds"][phase] for name, phase in phases.items()}
    return {
        "ranks": world.size,
        "threads_per_rank": world.threads,
        "seconds": {"startup": ledger["seconds"]["startup"], **seconds},
        "ledger": ledger,
    }
