"""`hesscomp data`: what a data set is and what each rank would hold."""

import argparse

from hesscomp.cli.options import add_format_arguments
from hesscomp.cli.session import Session, add_thread_argument
from hesscomp.cli.tables import data_table
from hesscomp.datasets import load_dataset
from hesscomp.datasets.summary import summarize
from hesscomp.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="adult|FILE", help="data set or file")
    add_format_arguments(parser)
    parser.add_argument(
        "--ranks", type=int, metavar="P", help="ranks to plan for; default: those that run this"
    )
    add_thread_argument(parser)


def run(options: argparse.Namespace, session: Session) -> int:
    if options.ranks is not None and options.ranks < 1:
        raise InputError(f"--ranks must be at least 1, not {options.ranks}")
    world = session.world
    dataset = load_dataset(
        options.data, world, format=options.format, label=options.label, test=options.test
    )
    summary = summarize(dataset, world, options.ranks)
    session.say(data_table(summary))
    return 0
