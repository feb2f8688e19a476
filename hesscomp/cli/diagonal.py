"""`hesscomp diagonal`: the diagonal of a Hessian at a point as a certified factor."""

from hesscomp.cli.session import Session
from hesscomp.workflows.diagonals import DiagonalRequest, diagonal

REQUEST = DiagonalRequest


def run(request: DiagonalRequest, session: Session) -> int:
    diagonal(request, session.world, session.show)
    return 0
