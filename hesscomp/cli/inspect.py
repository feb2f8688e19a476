"""`hesscomp inspect`: what a factor file holds."""

import argparse

from hesscomp.cli.tables import factor_table
from hesscomp.factors import load_factor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F.h5", help="a factor file")
    parser.add_argument(
        "--leading", type=int, default=10, metavar="K", help="how many eigenvalues to show"
    )


def run(options: argparse.Namespace) -> int:
    print(factor_table(load_factor(options.file), max(options.leading, 1)))
    return 0
