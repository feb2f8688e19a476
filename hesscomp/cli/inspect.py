"""`hesscomp inspect`: show the contents of a factor file."""

from dataclasses import dataclass

from hesscomp.cli.tables import factor_table, trajectory_table
from hesscomp.factors import is_trajectory, load_factor, load_trajectory
from hesscomp.options import Options, option


@dataclass(frozen=True, kw_only=True)
class InspectRequest(Options):
    """Which file to show."""

    file: str = option(flag="file", metavar="F.h5", help="a factor or trajectory file")
    leading: int = option(10, low=1, metavar="K", help="number of eigenvalues to show")


REQUEST = InspectRequest


def run(request: InspectRequest) -> int:
    if is_trajectory(request.file):
        print(trajectory_table(load_trajectory(request.file), request.leading))
    else:
        print(factor_table(load_factor(request.file), request.leading))
    return 0
