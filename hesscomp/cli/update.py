"""`hesscomp update`: bring a factor up to date with new data or a new point."""

from pathlib import Path

from hesscomp.cli.session import Session
from hesscomp.factors import Factor
from hesscomp.workflows.correction import UpdateRequest, update

REQUEST = UpdateRequest


def run(request: UpdateRequest, session: Session) -> int:
    result = update(request, session.world, session.show)
    factor, before = result.factor, result.before
    session.say(
        f"{_cost(factor)} and {factor.certificate.relative_error:.2e} of ||H||_F; "
        f"{Path(request.file).name}: {_cost(before)} and {before.certificate.relative_error:.2e} "
        "of its own"
    )
    return 0


def _cost(factor: Factor) -> str:
    columns = factor.provenance.columns
    return f"{columns if columns >= 0 else 'unknown'} product columns"
