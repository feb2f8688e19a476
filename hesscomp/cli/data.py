"""`hesscomp data`: what a data set is and what each rank would hold."""

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
        help="what becomes of the labels; default: classes for MNIST and IDX, input for curves, "
        "else signs",
    )
    ranks: int | None = option(
        None, low=1, metavar="P", help="ranks to plan for; default: those that run this"
    )


REQUEST, RANKS = DataRequest, RankOptions


def run(request: DataRequest, session: Session) -> int:
    dataset = read_data(request, session.world, session.show, request.targets)
    session.say(data_table(summarize(dataset, session.world, request.ranks)))
    return 0
