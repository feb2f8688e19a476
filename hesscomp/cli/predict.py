"""`hesscomp predict`: predict rows by a fitted linear model."""

from hesscomp.cli.session import RankOptions, Session
from hesscomp.workflows.prediction import PredictRequest, predict

RANKS = RankOptions  # no curvature is computed


def run_predict(request: PredictRequest, session: Session) -> int:
    predict(request, session.world, session.show)
    return 0
