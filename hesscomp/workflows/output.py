"""What workflows leave behind: a factor's file and report, and the folder of a run."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass

from hesscomp.errors import InputError
from hesscomp.factors import Factor
from hesscomp.options import Options, option
from hesscomp.parallel.world import World
from hesscomp.runs.report import write_json
from hesscomp.runs.slurm import REQUEUE
from hesscomp.storage.files import check_picture_name
from hesscomp.workflows.progress import Progress, counted, write, write_factor


@dataclass(frozen=True, kw_only=True)
class FactorOutput(Options, group="output"):
    """Where a factor goes."""

    out: str | None = option(None, required=True, metavar="F.h5", help="the factor file")
    report: str | None = option(None, metavar="R.json", help="certificate, provenance and costs")


@dataclass(frozen=True, kw_only=True)
class PictureOutput(Options, group="output"):
    """Where a picture goes."""

    out: str | None = option(None, required=True, metavar="P.png", help="png, pdf or svg")

    def _check(self) -> None:
        super()._check()
        if self.out is not None:
            check_picture_name(self.out)


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


@dataclass(frozen=True)
class FactorResult:
    """A factor, and what making it cost.

    Attributes
    ----------
    factor : Factor
    ledger : dict
        As `Ledger.as_dict` has it.
    """

    factor: Factor
    ledger: dict

    @property
    def converged(self) -> bool:
        """Whether a tolerance that was asked for is met."""
        return self.factor.certificate.converged


def make_factor(
    command: str,
    request,
    curvature,
    make: Callable,
    asked: dict,
    progress: Progress,
) -> FactorResult:
    """Make a factor of an operator; tell of it, write it and its report. Collective.

    Parameters
    ----------
    command : str
        Under whose name the time is counted.
    request : FactorOutput and JournalRequest
    curvature : Curvature
    make : callable
        Makes the factor of an operator.
    asked : dict
        What the products depend on beside the operator. They are kept in the run's folder, if there
        is one, until the factor is written.
    progress : callable
    """
    world = curvature.problem.world
    with curvature.journaled(request.run, asked) as operator:
        with world.ledger.timed(command), counted(world, progress):
            factor = make(operator)
        factor = curvature.describe(factor)
        progress(factor)
        write_factor(progress, request.out, factor)
        report = _report(command, factor, world)
        write(world, progress, "report", request.report, lambda path: write_json(path, report))
    return FactorResult(factor, world.ledger.as_dict())


def _report(command: str, factor: Factor, world: World) -> dict:
    pairs = {}
    if factor.has_eigenpairs:
        pairs = {"rank": factor.rank, "eigenvalues": factor.eigenvalues.tolist()}
    return {
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
