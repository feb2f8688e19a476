"""Compress a Hessian at a point to a certified low-rank factor."""

from dataclasses import dataclass

from hesscomp.compression import CompressionOptions
from hesscomp.compression import compress as compress_operator
from hesscomp.compression.compress import KRYLOV
from hesscomp.factors import Factor
from hesscomp.options import option, values
from hesscomp.parallel.world import World
from hesscomp.workflows.curvature import (
    POINT_HELP,
    POINTS,
    CurvatureRequest,
    make_curvature,
)
from hesscomp.workflows.output import FactorOutput, FactorResult, JournalRequest, make_factor
from hesscomp.workflows.progress import Progress, check_outputs, silent

RANK = 40  # where neither a rank nor a tolerance is requested


@dataclass(frozen=True, kw_only=True)
class CompressRequest(
    CurvatureRequest, CompressionOptions, FactorOutput, JournalRequest, group="operator"
):
    """What to compress, how, and where to write the factor."""

    krylov_alone = KRYLOV

    at: tuple[str, ...] = option(  # type: ignore[assignment]  # others take one point
        (), metavar=POINTS, help=f"{POINT_HELP}; several files or a pattern make a trajectory"
    )

    def __post_init__(self):
        if self.rank is None and self.tolerance is None:
            object.__setattr__(self, "rank", RANK)
        super().__post_init__()


def compress(request: CompressRequest, world: World, progress: Progress = silent) -> FactorResult:
    """Compress a Hessian at a point to a certified factor, and write it. Collective.

    Costs and memory are those of `compression.compress`. `request.at` names one point at most;
    `trajectory` takes several.

    Raises
    ------
    InputError
        For a problem, a point or an output that cannot be used.
    Interrupted
        Where a signal stopped the world; with `request.run` the same request resumes.
    """
    check_outputs(world, request.out, request.json, request.save_point)
    curvature = make_curvature(request, world, progress)
    asked = values(request, CompressionOptions)

    def make(operator) -> Factor:
        return compress_operator(operator, **asked)

    return make_factor(
        "compress", request, curvature, make, request.facts(CompressionOptions), progress
    )
