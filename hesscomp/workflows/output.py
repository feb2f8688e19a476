"""What workflows write: a factor's file, its numbers, and the folder of a run."""

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
    """Where to write a factor."""

    out: str | None = option(None, required=True, metavar="F.h5", help="write the factor here")
    json: str | None = option(
        None, former="--report", metavar="R.json",
        help="write the certificate, the provenance and the costs to this file",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PictureOutput(Options, group="output"):
    """Where to write a picture."""

    out: str | None = option(None, required=True, metavar="P.png", help="a png, pdf or svg file")

    def _check(self) -> None:
        super()._check()
        if self.out is not None:
            check_picture_name(self.out)


def folder(text: str) -> str:
    """Check that a text can name a run's folder; return it."""
    if not text:
        raise InputError("the name is empty; name a folder")
    if os.path.exists(text) and not os.path.isdir(text):
        raise InputError(f"{text} is a file; name a folder")
    return text


def run_folder(holds: str):
    """Return the option that names a run's folder; `holds` says what is kept there."""
    return option(
        None, metavar="FOLDER", parse=folder, group="output",
        help=f"keep {holds} in this folder; where it holds those of the same command, the run "
        "resumes from them. SIGTERM and SIGUSR1 then end the run after the current block product, "
        f"with status {REQUEUE}, and Ctrl-C with 130",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JournalRequest(Options, group="output"):
    """Where to keep the products of a factor until it is finished."""

    run: str | None = run_folder("the finished products")


@dataclass(frozen=True)
class FactorResult:
    """A factor and its costs.

    Attributes
    ----------
    factor : Factor
    ledger : dict
        See `Ledger.as_dict`.
    """

    factor: Factor
    ledger: dict

    @property
    def converged(self) -> bool:
        """Whether the tolerance is met, where one was requested."""
        return self.factor.certificate.converged


def make_factor(
    command: str,
    request,
    curvature,
    make: Callable,
    asked: dict,
    progress: Progress,
) -> FactorResult:
    """Make a factor of an operator; report it, and write it and its numbers. Collective.

    Parameters
    ----------
    command : str
        The name under which the time is counted.
    request : FactorOutput and JournalRequest
    curvature : Curvature
    make : callable
        Makes the factor of an operator.
    asked : dict
        What the products depend on besides the operator. If there is a run's folder, it keeps the
        products until the factor is written.
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
        write(world, progress, "numbers", request.json, lambda path: write_json(path, report))
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
    """Return the costs for a report: ranks, threads, the seconds of phases, the ledger."""
    ledger = world.ledger.as_dict()
    seconds = {name: ledger["seconds"][phase] for name, phase in phases.items()}
    return {
        "ranks": world.size,
        "threads_per_rank": world.threads,
        "seconds": {"startup": ledger["seconds"]["startup"], **seconds},
        "ledger": ledger,
    }
