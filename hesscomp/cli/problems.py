"""`hesscomp problems`: the problems that have names."""

import argparse

from hesscomp.cli.tables import problem_table
from hesscomp.problems.catalogue import NAMED_PROBLEMS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: the list is short."""


def run(options: argparse.Namespace) -> int:
    print(problem_table(NAMED_PROBLEMS))
    return 0
