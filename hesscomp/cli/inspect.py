"""`hesscomp inspect`: what a factor file holds."""

import argparse

from hesscomp.cli.tables import factor_table, trajectory_table
from hesscomp.errors import InputError
from hesscomp.factors import is_trajectory, load_factor, load_trajectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F.h5", help="a factor or trajectory file")
    parser.add_argument(
        "--leading", type=int, default=10, metavar="K", help="how many eigenvalues to show"
    )


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    if options.leading < 1:
        raise InputError(f"--leading must be at least 1, not {options.leading}")


def run(options: argparse.Namespace) -> int:
    check(options)
    if is_trajectory(options.file):
        print(trajectory_table(load_trajectory(options.file), options.leading))
    else:
        print(factor_table(load_factor(options.file), options.leading))
    return 0
