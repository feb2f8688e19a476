"""Make factors: compress an operator at one point or several, take its diagonal, or update one."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hesscomp.analysis.reached import warn_of_inaccurate_pairs
from hesscomp.compression import CompressionOptions, FactorOptions, FormatOptions, update_factor
from hesscomp.compression import compress as compress_operator
from hesscomp.compression.compress import KRYLOV, RANK
from hesscomp.compression.formats import AUTO, LOW_RANK, TOLERANCE
from hesscomp.compression.updating import WAYS
from hesscomp.errors import InputError
from hesscomp.estimators import DiagonalOptions, diagonal_factor
from hesscomp.factors import Factor, trajectory_writer
from hesscomp.options import option, option_of, values
from hesscomp.parallel.layout import Replicated
from hesscomp.parallel.world import World
from hesscomp.runs.report import write_json
from hesscomp.workflows.curvature import (
    POINT_HELP,
    POINTS,
    Curvature,
    CurvatureRequest,
    find_points,
    make_curvature,
    make_operator,
    make_point,
    read_factor,
    read_ordering,
    sampled,
)
from hesscomp.workflows.progress import (
    Progress,
    RunFolder,
    check_outputs,
    costs,
    counted,
    silent,
    write,
    write_factor,
)
from hesscomp.workflows.subject import Subject, make_problem


class Unasked(int):
    """A rank that nobody asked for, so that it stays known as such."""


DEFAULT = Unasked(RANK)
LOOK_RANK, LOOK_SIZE, LOOK_ROWS = 10, 2.5e7, 200  # of a first look: rows x parameters, least rows


@dataclass(frozen=True, kw_only=True)
class FactorOutput(RunFolder, group="output"):
    """Where to write a factor, and where to keep its products until it is finished."""

    out: str | None = option(None, required=True, metavar="F.h5", help="write the factor here")
    json: str | None = option(
        None, former="--report", metavar="R.json",
        help="write the certificate, the provenance and the costs to this file",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CompressRequest(CurvatureRequest, FormatOptions, FactorOutput, group="operator"):
    """What to compress, how, and where to write the factor.

    Of a large model of a user's, `compress` takes less for a `first_look`, and says so.
    """

    krylov_alone = KRYLOV

    at: tuple[str, ...] = option(  # type: ignore[assignment]  # others take one point
        (), metavar=POINTS, help=f"{POINT_HELP}; several files or a pattern make a trajectory"
    )

    def __post_init__(self):
        if self.rank is None and self.tolerance is None:
            usual = (
                ("rank", DEFAULT) if self.factor_format == LOW_RANK else ("tolerance", TOLERANCE)
            )
            object.__setattr__(self, *usual)
        super().__post_init__()

    @property
    def products_of(self) -> type[CompressionOptions]:
        """The options on which the products of a run depend."""
        return CompressionOptions if self.factor_format == LOW_RANK else FormatOptions

    @property
    def first_look(self) -> bool:
        """Whether it says of a user's model neither rank nor tolerance nor sample."""
        return isinstance(self.rank, Unasked) and self.model is not None and self.sample is None


@dataclass(frozen=True, kw_only=True)
class DiagonalRequest(CurvatureRequest, DiagonalOptions, FactorOutput, group="operator"):
    """Which operator, how many products, and where to write the factor."""


@dataclass(frozen=True, kw_only=True)
class UpdateRequest(CurvatureRequest, FactorOptions, FactorOutput, group="correction"):
    """Which factor to correct, for which operator, and where to write the result."""

    krylov_alone = KRYLOV

    file: str = option(flag="file", metavar="F.h5", help="the factor to start from")
    by: str = option(
        "auto", choices=WAYS,
        help="refit: compress H in the format of F, over its tree and with its ranks; difference: "
        "compress H - F and add that; auto: refit of hbs and hodlr, difference of others",
    )  # fmt: skip
    rank: int | None = option(
        None, low=1, metavar="K",
        help="number of eigenpairs of H - F to add, 10 by default; of a refit the largest rank of "
        "a node, by default those of F",
    )  # fmt: skip
    tolerance: float | None = option_of(
        CompressionOptions, "tolerance", one_of=None,
        help="of a refit: take the smallest ranks with ||H - F|| <= T ||H||",
    )  # fmt: skip
    max_rank: int | None = option(
        None, low=1, metavar="K",
        help="most eigenpairs kept of the sum, or of the low rank beside F; default: all",
    )  # fmt: skip
    at: str | None = option(None, metavar=POINTS, help="parameter values; default: those in F.h5")
    ridge: float | None = option(
        None, low=0, metavar="R", group="numbers", help="as for compress; default: that of F.h5"
    )

    def _check(self) -> None:
        super()._check()
        if self.run is None or self.out is None:
            return
        if os.path.realpath(self.out) == os.path.realpath(self.file):
            raise InputError(
                f"`out` {self.out}: is the factor that the run starts from and needs when it "
                "resumes; with `run` name another file"
            )


@dataclass(frozen=True)
class FactorResult:
    """A factor, and what it cost (see `Ledger.as_dict`)."""

    factor: Factor
    ledger: dict

    @property
    def converged(self) -> bool:
        """Whether the tolerance is met, where one was requested."""
        return self.factor.certificate.converged


@dataclass(frozen=True)
class UpdateResult(FactorResult):
    """A factor that is up to date, and the one `before`."""

    before: Factor


@dataclass(frozen=True)
class TrajectoryPoint:
    """The numbers of a trajectory's point and its factor; see `Factor` and its certificate.

    Rank and eigenvalues are None for kinds that have none.
    """

    point: str
    rank: int | None
    eigenvalues: np.ndarray | None
    relative_error: float
    converged: bool
    columns: int
    seconds: float
    extent: str


@dataclass(frozen=True)
class TrajectoryResult:
    """A finished trajectory, and what it cost (see `Ledger.as_dict`)."""

    points: tuple[TrajectoryPoint, ...]
    ledger: dict

    @property
    def missed(self) -> list[str]:
        """The points at which the requested tolerance is not met."""
        return [point.point for point in self.points if not point.converged]


def compress(
    request: CompressRequest,
    world: World,
    progress: Progress = silent,
    subject: Subject | None = None,
) -> FactorResult:
    """Compress a Hessian at a point to a certified factor, and write it. Collective.

    Costs and memory are those of `compression.compress`. `request.at` names one point at most;
    `trajectory` takes several. `subject` is the problem, where the caller has it already.

    Raises
    ------
    InputError
        For a problem, a point or an output that cannot be used.
    Interrupted
        Where a signal stopped the world; with `request.run` the same request resumes.
    """
    check_outputs(world, request.out, request.json, request.save_point)
    with world.ledger.timed("startup"):
        subject = subject or make_problem(request, world, progress)
        x = make_point(request, subject, progress)
    request = first_look(request, subject.problem, progress)
    curvature = make_operator(request, sampled(request, subject.problem), x)
    make = partial(compress_operator, **_asked(request, world, progress))
    identity = request.run_identity(request.products_of)
    return _make_factor("compress", request, curvature, make, identity, progress)


def _asked(request: CompressRequest, world: World, progress: Progress) -> dict[str, Any]:
    """Return the options of `compression.compress`. Collective."""
    asked = values(request, FormatOptions)
    asked["format"] = asked.pop("factor_format")
    asked["ordering"] = read_ordering(request.ordering, world)
    if request.factor_format == AUTO:
        asked["on_choice"] = progress
    return asked


def first_look(request: CompressRequest, problem, progress: Progress) -> CompressRequest:
    """Return the request; for a first look at a large problem, of few rows and a low rank."""
    fewest = min(LOOK_ROWS / problem.rows, 1.0)
    share = max(LOOK_SIZE / (problem.rows * problem.n), fewest)
    if not request.first_look or share >= 1:
        return request
    progress(
        f"first look: rank {LOOK_RANK}, on about {share * problem.rows:.0f} of the {problem.rows} "
        "rows; give a rank, a tolerance or a sample (1: all rows) for more"
    )
    return replace(request, rank=LOOK_RANK, sample=share)


def diagonal(request: DiagonalRequest, world: World, progress: Progress = silent) -> FactorResult:
    """Make a certified factor of a Hessian's diagonal at a point, and write it. Collective.

    Costs and memory are those of `estimators.diagonal_factor`, errors those of `compress`.
    """
    check_outputs(world, request.out, request.json, request.save_point)
    curvature = make_curvature(request, world, progress)
    asked = values(request, DiagonalOptions)
    make = partial(diagonal_factor, **asked)
    return _make_factor("diagonal", request, curvature, make, asked, progress)


def update(request: UpdateRequest, world: World, progress: Progress = silent) -> UpdateResult:
    """Bring a factor of any kind to an operator, such as at a new point; write it. Collective.

    Costs and memory are those of `compression.update_factor`.

    Raises
    ------
    InputError
        Where neither the factor nor the request has a point or a ridge, where the factor does not
        fit the operator, and for what `compress` refuses.
    """
    check_outputs(world, request.out, request.json, request.save_point)
    before = read_factor(request.file, world)
    if request.at is None and before.parameters is None:
        raise InputError(f"{request.file}: holds no point; give one, `at` zero or `at` FILE")
    if request.ridge is None and ":" not in (request.problem or ""):
        if np.isnan(before.provenance.ridge):
            raise InputError(f"{request.file}: holds no ridge; give one, `ridge` R")
        request = replace(request, ridge=before.provenance.ridge)
    curvature = make_curvature(request, world, progress, request.at or request.file)
    curvature.check_fit(before, request.file)
    # F is accurate on the test vectors that made it; the same vectors would not see its error.
    asked = values(request, FactorOptions) | {
        name: getattr(request, name) for name in ("tolerance", "by", "max_rank")
    }
    asked["seed"] = max(request.seed, before.provenance.seed) + 1
    from hesscomp.curvature.digest import array_digest

    known = " ".join(map(array_digest, before.contents().values())) if request.run else ""
    identity = request.run_identity(FactorOptions) | asked | {"known factor": known}

    def make(operator) -> Factor:
        return _named(update_factor(operator, before, **asked), before, request.file)

    made = _make_factor("update", request, curvature, make, identity, progress)
    return UpdateResult(made.factor, made.ledger, before)


def _named(factor: Factor, before: Factor, path: str) -> Factor:
    """Return `factor` with a provenance that names the factor it was started from."""
    source = before.provenance
    origin = [f"{source.method or 'a factor'} at {before.extent}"]
    if source.rows >= 0:
        origin.append(f"{source.rows} rows")
    if source.data_fingerprint:
        origin.append(f"data {source.data_fingerprint[:19]}")
    method = f"{factor.provenance.method} update of {Path(path).name} ({'; '.join(origin)})"
    return replace(factor, provenance=replace(factor.provenance, method=method))


def trajectory(
    request: CompressRequest, world: World, progress: Progress = silent
) -> TrajectoryResult:
    """Compress at each point of a request; write all factors to one file. Collective.

    `progress` gets each `TrajectoryPoint` at once. Memory and cost at each point are those of
    `compression.compress`, which after the first point starts from the last factor: from its range,
    or with its tree and ranks. The format auto is chosen at the first point.

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
    points, factor, asked = [], None, _asked(request, world, progress)
    # The journals are the outer context: they are deleted after the file is written.
    with ExitStack() as journals, _collective_writer(request.out, world) as add:
        for number, place in enumerate(places):
            x = make_point(request, subject, progress, place)
            curvature = make_operator(request, problem, x)
            folder = None if request.run is None else Path(request.run) / f"point-{number:04d}"
            identity = request.run_identity(request.products_of)
            operator = journals.enter_context(curvature.journaled(folder, identity))
            with world.ledger.timed("compress"), counted(world, progress):
                factor = _next(operator, factor, asked)
            label = Path(place).name
            add(label, curvature.describe(factor))
            known, source = factor.certificate, factor.provenance
            rank, w = (factor.rank, factor.eigenvalues) if factor.has_eigenpairs else (None, None)
            points.append(
                TrajectoryPoint(
                    label, rank, w, known.relative_error, known.converged, source.columns,
                    source.seconds, factor.extent,
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


def _next(operator, last: Factor | None, asked: dict[str, Any]) -> Factor:
    if last is None:
        return compress_operator(operator, **asked)
    later = {"format": last.kind, "ordering": None, "start": last, "on_choice": None}
    factor = compress_operator(operator, **asked | later)
    if factor.provenance.method == "dense":
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


def _make_factor(
    command: str, request, curvature: Curvature, make: Callable, identity: dict, progress: Progress
) -> FactorResult:
    """Return ``make(operator)``; report it, and write it and its numbers. Collective.

    The time is counted under the command's name. `identity` is what the products depend on besides
    the operator: a run's folder, if there is one, keeps the products until the factor is written.
    """
    world = curvature.problem.world
    with curvature.journaled(request.run, identity) as operator:
        with world.ledger.timed(command), counted(world, progress):
            factor = make(operator)
        factor = curvature.describe(factor)
        progress(factor)
        if world.rank == 0:
            warn_of_inaccurate_pairs(factor)
        write_factor(progress, request.out, factor)
        report = _report(command, factor, world)
        write(world, progress, "numbers", request.json, lambda path: write_json(path, report))
    return FactorResult(factor, world.ledger.as_dict())


def _report(command: str, factor: Factor, world: World) -> dict:
    pairs = {}
    if factor.has_eigenpairs:
        pairs = {"rank": factor.rank, "eigenvalues": factor.eigenvalues.tolist()}
    return {
        "command": command,
        "kind": factor.kind,
        **pairs,
        "certificate": {
            name: value
            for name, value in asdict(factor.certificate).items()
            if isinstance(value, float | bool | str)
        },
        "provenance": asdict(factor.provenance),
        **costs(world, compile="compile", solve=command),
    }
