"""`hesscomp problems`: list the named problems."""

from dataclasses import dataclass

from hesscomp.cli.tables import problem_table
from hesscomp.options import Options
from hesscomp.problems.catalogue import NAMED_PROBLEMS


@dataclass(frozen=True)
class ProblemsRequest(Options):
    """No options: the list is short."""


REQUEST = ProblemsRequest


def run(_: ProblemsRequest) -> int:
    print(problem_table(NAMED_PROBLEMS))
    return 0
