"""Report a workflow's progress and costs, and write its files.

A workflow calls ``progress(event)`` on every rank. An event is a line of text, a row of a history,
a finished factor, or the number of product columns so far (`Columns`).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors import Factor, save_factor
from hesscomp.options import Options, option
from hesscomp.parallel.ledger import Ledger
from hesscomp.parallel.world import World
from hesscomp.runs.slurm import REQUEUE
from hesscomp.storage import files
from hesscomp.storage.npy import save_npy

Progress = Callable[[object], None]


def silent(event: object) -> None:
    """Ignore an event."""


@dataclass(frozen=True)
class Columns:
    """How many product columns a piece of work has taken so far; the last one says that it ends.

    It takes `total` at most, rounded up to whole blocks; None where that is not known.
    """

    done: int
    total: int | None = None
    finished: bool = False


@contextmanager
def counted(world: World, progress: Progress) -> Iterator[None]:
    """Report the product columns that the block has taken, after each product."""
    ledger = world.ledger
    first = ledger.columns
    ledger.expected = None

    def tell(ledger: Ledger, finished: bool = False) -> None:
        total = None if ledger.expected is None else ledger.expected - first
        progress(Columns(ledger.columns - first, total, finished))

    tell(ledger)
    ledger.listener = tell
    try:
        yield
    finally:
        ledger.listener = None
        tell(ledger, finished=True)


def folder(text: str) -> str:
    """Check that a text can name a run's folder; return it."""
    if not text:
        raise InputError("the name is empty; name a folder")
    if os.path.exists(text) and not os.path.isdir(text):
        raise InputError(f"{text} is a file; name a folder")
    return text


@dataclass(frozen=True, kw_only=True)
class RunFolder(Options, group="output"):
    """Where a run keeps what it resumes from."""

    run: str | None = option(
        None, metavar="FOLDER", parse=folder,
        help="keep finished products, history and checkpoints in this folder; where it holds those "
        "of the same command, the run resumes from them. SIGTERM and SIGUSR1 then end the run "
        f"after the current block product, with status {REQUEUE}, and Ctrl-C with 130",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checkpoints(RunFolder):
    """Where an optimizer's run keeps its checkpoints, and how often."""

    save_every: int | None = option(
        None, low=1, group="output", metavar="K", advanced=True,
        help="save in `run` every K steps; default: 1 in newton, 10 in train",
    )  # fmt: skip

    def _check(self) -> None:
        super()._check()
        if self.save_every is not None and self.run is None:
            raise InputError("`save_every` goes with `run`")


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


def check_outputs(world: World, *paths) -> None:
    """Refuse outputs that cannot be written, before the work begins. Collective."""
    with world.phase("checking the output files"):
        if world.rank == 0:
            files.check_outputs(*paths)


def write(world: World, progress: Progress, what: str, path, writer: Callable) -> None:
    """Call ``writer(path)`` on rank 0 where a path is given; a failure is raised on all ranks."""
    if path is None:
        return
    with world.phase(f"writing {path}"):
        if world.rank == 0:
            writer(path)
    progress(f"wrote {what}: {path}")


def write_factor(progress: Progress, path, factor: Factor) -> None:
    """Write a factor to a file where a path is given. Collective."""
    if path is None:
        return
    save_factor(factor, path)
    in_slabs = factor.layout.name == "rows" and factor.in_slabs
    beside = " and the ranks' rows beside it" if in_slabs else ""
    progress(f"wrote factor: {path}{beside}")


def save_vector(x: np.ndarray) -> Callable:
    """Return a function that writes one array as a .npy file, atomically."""
    return lambda path: save_npy(path, x)
