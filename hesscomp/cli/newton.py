"""`hesscomp newton`: fit a generalised linear model by a distributed Newton method."""

import math

from hesscomp.cli.session import Session
from hesscomp.cli.tables import OBJECTIVE_WIDTH, objective_text
from hesscomp.workflows.logistic import NewtonFit, NewtonRequest, count, newton

HEADER = (
    f"{'iter':>4} {'objective':>{OBJECTIVE_WIDTH}} {'||gradient||':>15} {'step':>9} {'CG':>4} "
    f"{'rank':>5} {'error':>10} {'passes':>8} {'words':>12} {'seconds':>8}"
)


def run_newton(request: NewtonRequest, session: Session) -> int:
    show = session.showing({dict: _line, NewtonFit: _summary}, HEADER)
    return 0 if newton(request, session.world, show).result.converged else 3


def _summary(fit: NewtonFit) -> str:
    result = fit.result
    lines = [
        f"{'converged' if result.converged else 'not converged'} after "
        f"{count(result.iterations, 'step')}: {result.reason}"
    ]
    if result.choice:
        lines.append(f"solver auto took {result.solver}: {result.choice}")
    if result.preconditioning:
        lines.append(result.preconditioning)
    test = "" if fit.test is None else f"; test: {fit.test}"
    if not math.isnan(fit.train_accuracy):
        lines.append(f"accuracy: train {fit.train_accuracy:.5f}{test}")
    elif fit.test is not None:
        lines.append(f"test: {fit.test}")
    return "\n".join(lines)


def _line(row: dict) -> str:
    factor = f"{'-':>5} {'-':>10}"
    if row["factor_rank"]:
        factor = f"{row['factor_rank']:5d} {row['factor_error']:10.1e}"
    return (
        f"{row['iteration']:4d} {objective_text(row['objective'])} "
        f"{row['gradient_norm']:15.6e} {row['step']:9.3g} {row['cg_iterations']:4d} "
        f"{factor} {row['passes']:8d} {row['words_reduced']:12d} {row['seconds']:8.2f}"
    )
