"""The commands that measure or compress the curvature of a problem."""

from dataclasses import replace
from pathlib import Path

from hesscomp.analysis.reached import request_reached
from hesscomp.cli.session import Session
from hesscomp.cli.tables import sensitivity_table, spectrum_table
from hesscomp.compression.formats import LOW_RANK
from hesscomp.factors import Factor
from hesscomp.influence.result import Sensitivity
from hesscomp.workflows import factors, pictures, sensitivity
from hesscomp.workflows.curvature import find_points

POINTS_HEADER = (
    f"{'point':<28} {'rank':>5} {'eigenvalue 1':>13} {'error':>9} {'columns':>8} {'seconds':>8}"
)


def run_compress(request: factors.CompressRequest, session: Session) -> int:
    # What the patterns stand for is looked up once; later files do not join.
    request = replace(request, at=tuple(find_points(request.at, session.world)))
    if len(request.at) > 1:
        show = session.showing({factors.TrajectoryPoint: _point_line}, POINTS_HEADER)
        missed = factors.trajectory(request, session.world, show).missed
        if missed:
            session.say(f"tolerance NOT reached at {', '.join(missed)}; take a larger --max-rank")
        return 3 if missed else 0
    result = factors.compress(request, session.world, session.show)
    if result.converged:
        return 0
    if request.factor_format == LOW_RANK or request.max_rank is not None:
        what = "the largest allowed; take a larger --max-rank"
    else:
        what = "the most that its sketch allows; take another --ordering, or --format auto"
    session.say(f"{request_reached(result.factor)}, {what}")
    return 3


def _point_line(point: factors.TrajectoryPoint) -> str:
    numbers = f"{point.relative_error:9.2e} {point.columns:8d} {point.seconds:8.2f}"
    if point.rank is None or point.eigenvalues is None:
        return f"{point.point:<28} {'-':>5} {'-':>13} {numbers}  {point.extent}"
    largest = point.eigenvalues[0] if point.rank else 0.0
    return f"{point.point:<28} {point.rank:5d} {largest:13.6g} {numbers}"


def run_diagonal(request: factors.DiagonalRequest, session: Session) -> int:
    factors.diagonal(request, session.world, session.show)
    return 0


def run_update(request: factors.UpdateRequest, session: Session) -> int:
    result = factors.update(request, session.world, session.show)
    factor, before = result.factor, result.before
    session.say(
        f"{_cost(factor)} and {factor.certificate.relative_error:.2e} of ||H||_F; "
        f"{Path(request.file).name}: {_cost(before)} and {before.certificate.relative_error:.2e} "
        "of its own"
    )
    if result.converged:
        return 0
    session.say(request_reached(factor))
    return 3


def _cost(factor: Factor) -> str:
    columns = factor.provenance.columns
    return f"{columns if columns >= 0 else 'unknown'} product columns"


def run_spectrum(request: pictures.SpectrumRequest, session: Session) -> int:
    def table(result: pictures.SpectrumResult) -> str:
        return spectrum_table(result, request.shift)

    pictures.spectrum(request, session.world, session.showing({pictures.SpectrumResult: table}))
    return 0


def run_sensitivity(request: sensitivity.SensitivityRequest, session: Session) -> int:
    show = session.showing({Sensitivity: sensitivity_table})
    return 0 if sensitivity.find_sensitivity(request, session.world, show).converged else 3


def run_figure(request: pictures.FigureRequest, session: Session) -> int:
    pictures.figure(request, session.world, session.showing({pictures.FigureResult: _figure_line}))
    return 0


def _figure_line(result: pictures.FigureResult) -> str:
    factor, errors = result.factor, result.errors
    return (
        f"rank {factor.rank} of n = {factor.n}: {factor.provenance.columns} product columns; "
        f"||H - F||_F is {errors['exact'][-1]:.3e} of ||H||_F, the best {errors['best'][-1]:.3e}, "
        f"estimated {errors['certificate'][-1]:.3e}"
    )
