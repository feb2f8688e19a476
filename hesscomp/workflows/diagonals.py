"""Estimate the diagonal of a Hessian at a point and write it as a factor."""

from dataclasses import dataclass

from hesscomp.estimators import DiagonalOptions, diagonal_factor
from hesscomp.factors import Factor
from hesscomp.options import values
from hesscomp.parallel.world import World
from hesscomp.workflows.curvature import CurvatureRequest, make_curvature
from hesscomp.workflows.output import FactorOutput, FactorResult, JournalRequest, make_factor
from hesscomp.workflows.progress import Progress, check_outputs, silent


@dataclass(frozen=True, kw_only=True)
class DiagonalRequest(
    CurvatureRequest, DiagonalOptions, FactorOutput, JournalRequest, group="operator"
):
    """Which operator, how many products, and where to write the factor."""


def diagonal(request: DiagonalRequest, world: World, progress: Progress = silent) -> FactorResult:
    """Make a certified factor of a Hessian's diagonal at a point, and write it. Collective.

    Costs and memory are those of `estimators.diagonal_factor`.

    Raises
    ------
    InputError
        For a problem, a point or an output that cannot be used.
    Interrupted
        Where a signal stopped the world; with `request.run` the same request resumes.
    """
    check_outputs(world, request.out, request.json, request.save_point)
    curvature = make_curvature(request, world, progress)
    asked = values(request, DiagonalOptions)

    def make(operator) -> Factor:
        return diagonal_factor(operator, **asked)

    return make_factor("diagonal", request, curvature, make, asked, progress)
