"""Make a trajectory: factors at several points, each started from the factor before it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hesscomp.compression import CompressionOptions
from hesscomp.compression import compress as compress_operator
from hesscomp.errors import InputError
from hesscomp.factors import Factor, trajectory_writer
from hesscomp.options import values
from hesscomp.parallel.layout import Replicated
from hesscomp.parallel.world import World
from hesscomp.runs.report import write_json
from hesscomp.workflows.curvature import find_points, make_operator, make_point, sampled
from hesscomp.workflows.factors import CompressRequest
from hesscomp.workflows.output import costs
from hesscomp.workflows.progress import Progress, check_outputs, counted, silent, write
from hesscomp.workflows.subject import make_problem


@dataclass(frozen=True)
class TrajectoryPoint:
    """The numbers of a trajectory's point and its factor; see `Factor` and its certificate."""

    point: str
    rank: int
    eigenvalues: np.ndarray
    relative_error: float
    converged: bool
    columns: int
    seconds: float


@dataclass(frozen=True)
class TrajectoryResult:
    """A finished trajectory, and what it cost (see `Ledger.as_dict`)."""

    points: tuple[TrajectoryPoint, ...]
    ledger: dict

    @property
    def missed(self) -> list[str]:
        """The points at which the requested tolerance is not met."""
        return [point.point for point in self.points if not point.converged]


def trajectory(
    request: CompressRequest, world: World, progress: Progress = silent
) -> TrajectoryResult:
    """Compress at each point of a request; write all factors to one file. Collective.

    `progress` gets each `TrajectoryPoint` at once. Memory and cost at each point are those of
    `compression.compress`, which after the first point starts from the last factor.

    Raises
    ------
    InputError
        For a problem, a point or an output that cannot be used.
    """
    if request.out is None:
        raise InputError("a trajectory is written to a file; name one with `out`")
    if request.save_point is not None:
        raise InputError("`save_point` goes with one point, not with a trajectory; leave it out")
    check_outputs(world, request.out, request.json)
    places = find_points(request.at, world)
    with world.ledger.timed("startup"):
        subject = make_problem(request, world, progress)
        problem = sampled(request, subject.problem)
    points, factor = [], None
    # The journals are the outer context: they are deleted after the file is written.
    with ExitStack() as journals, _collective_writer(request.out, world) as add:
        for number, place in enumerate(places):
            x = make_point(request, subject, progress, place)
            curvature = make_operator(request, problem, x)
            folder = None if request.run is None else Path(request.run) / f"point-{number:04d}"
            facts = request.facts(CompressionOptions)
            operator = journals.enter_context(curvature.journaled(folder, facts))
            with world.ledger.timed("compress"), counted(world, progress):
                factor = _next(operator, factor, request)
            label = Path(place).name
            add(label, curvature.describe(factor))
            known, source = factor.certificate, factor.provenance
            points.append(
                TrajectoryPoint(
                    label, factor.rank, factor.eigenvalues, known.relative_error, known.converged,
                    source.columns, source.seconds,
                )
            )  # fmt: skip
            progress(points[-1])
    progress(f"wrote trajectory: {request.out}")
    report = {
        "command": "compress",
        "points": [vars(point) for point in points],
        **costs(world, solve="compress"),
    }
    write(world, progress, "numbers", request.json, lambda path: write_json(path, report))
    return TrajectoryResult(tuple(points), world.ledger.as_dict())


def _next(operator, last: Factor | None, request: CompressRequest) -> Factor:
    factor = compress_operator(operator, start=last, **values(request, CompressionOptions))
    if last is None or factor.provenance.method == "dense":
        return factor
    method = f"{factor.provenance.method} started from the factor before"
    return replace(factor, provenance=replace(factor.provenance, method=method))


@contextmanager
def _collective_writer(path, world: World) -> Iterator[Callable[[str, Factor], None]]:
    """Yield a function that writes a factor on rank 0; a failure there is raised on all ranks.

    Where the block fails, nothing is written and no rank waits for another.
    """
    with ExitStack() as stack:
        with world.phase(f"writing {path}"):
            if world.rank == 0:
                write = stack.enter_context(trajectory_writer(path))

        def add(label: str, factor: Factor) -> None:
            whole = factor.in_layout(Replicated(factor.n))
            with world.phase(f"writing {path}"):
                if world.rank == 0:
                    write(label, whole)

        yield add
        with world.phase(f"writing {path}"):
            stack.close()
