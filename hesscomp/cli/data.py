"""`hesscomp data`: describe a data set and what each rank would hold."""

from dataclasses import dataclass

from hesscomp.cli.session import RankOptions, Session
from hesscomp.cli.tables import data_table
from hesscomp.datasets.summary import summarize
from hesscomp.datasets.targets import TARGETS
from hesscomp.options import option
from hesscomp.workflows.subject import NAMED_DATA, HeldOutRequest, SourceRequest, read_data


@dataclass(frozen=True, kw_only=True)
class DataRequest(SourceRequest, HeldOutRequest):
    """Which data to describe."""

    data: str = option(flag="data", metavar="NAME|FILE", help=NAMED_DATA)
    targets: str | None = option(
        None,
        choices=TARGETS,
        help="how labels become targets; default: classes for MNIST and IDX, input for curves, "
        "signs for others",
    )
    ranks: int | None = option(
        None, low=1, metavar="P", help="number of ranks to plan for; default: those that run this"
    )


RANKS = RankOptions  # it computes nothing


def run_data(request: DataRequest, session: Session) -> int:
    dataset = read_data(request, session.world, session.show, request.targets)
    session.say(data_table(summarize(dataset, session.world, request.ranks)))
    return 0
