"""`hesscomp compress`: compress a Hessian at one point or at several."""

from hesscomp.analysis.reached import request_reached
from hesscomp.cli.session import Session
from hesscomp.workflows.compression import CompressRequest, compress
from hesscomp.workflows.curvature import find_points
from hesscomp.workflows.trajectories import TrajectoryPoint, trajectory

REQUEST = CompressRequest
HEADER = (
    f"{'point':<28} {'rank':>5} {'eigenvalue 1':>13} {'error':>9} {'columns':>8} {'seconds':>8}"
)


def run(request: CompressRequest, session: Session) -> int:
    if len(find_points(request.at, session.world)) > 1:
        return _trajectory(request, session)
    result = compress(request, session.world, session.show)
    if result.converged:
        return 0
    session.say(f"{request_reached(result.factor)}, the largest allowed; take a larger --max-rank")
    return 3


def _trajectory(request: CompressRequest, session: Session) -> int:
    result = trajectory(request, session.world, session.showing({TrajectoryPoint: _line}, HEADER))
    if not result.missed:
        return 0
    session.say(f"tolerance NOT reached at {', '.join(result.missed)}; take a larger --max-rank")
    return 3


def _line(point: TrajectoryPoint) -> str:
    largest = point.eigenvalues[0] if point.rank else 0.0
    return (
        f"{point.point:<28} {point.rank:5d} {largest:13.6g} {point.relative_error:9.2e} "
        f"{point.columns:8d} {point.seconds:8.2f}"
    )
