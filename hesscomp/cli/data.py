"""`hesscomp data`: what a data set is and what each rank would hold."""

import argparse

from hesscomp.cli.options import add_format_arguments
from hesscomp.cli.session import Session, add_rank_arguments
from hesscomp.cli.tables import data_table
from hesscomp.datasets import load_dataset
from hesscomp.datasets.load import NAMED
from hesscomp.datasets.summary import summarize
from hesscomp.datasets.targets import TARGETS
from hesscomp.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="NAME|FILE", help=f"{', '.join(NAMED)}, or a file")
    add_format_arguments(parser, test=True)
    parser.add_argument(
        "--targets",
        choices=TARGETS,
        help="what becomes of the labels; default: classes for MNIST and IDX, input for curves, "
        "else signs",
    )
    parser.add_argument(
        "--ranks", type=int, metavar="P", help="ranks to plan for; default: those that run this"
    )
    add_rank_arguments(parser)


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    if options.ranks is not None and options.ranks < 1:
        raise InputError(f"--ranks must be at least 1, not {options.ranks}")


def run(options: argparse.Namespace, session: Session) -> int:
    check(options)
    world = session.world
    dataset = load_dataset(
        options.data,
        world,
        format=options.format,
        label=options.label,
        test=options.test,
        targets=options.targets,
    )
    summary = summarize(dataset, world, options.ranks)
    session.say(data_table(summary))
    return 0
