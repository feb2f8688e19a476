"""`hesscomp figure`: draw a compression's error beside the smallest possible one."""

from hesscomp.cli.session import Session
from hesscomp.workflows.figures import FigureRequest, FigureResult, figure

REQUEST = FigureRequest


def run(request: FigureRequest, session: Session) -> int:
    figure(request, session.world, session.showing({FigureResult: _line}))
    return 0


def _line(result: FigureResult) -> str:
    factor, errors = result.factor, result.errors
    return (
        f"rank {factor.rank} of n = {factor.n}: {factor.provenance.columns} product columns; "
        f"||H - F||_F is {errors['exact'][-1]:.3e} of ||H||_F, the best {errors['best'][-1]:.3e}, "
        f"estimated {errors['certificate'][-1]:.3e}"
    )
