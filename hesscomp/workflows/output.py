"""What several workflows write: the folder of a run, and costs."""

import os

from hesscomp.errors import InputError
from hesscomp.options import option
from hesscomp.parallel.world import World
from hesscomp.runs.slurm import REQUEUE


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
