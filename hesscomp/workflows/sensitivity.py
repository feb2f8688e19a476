"""Find how a minimum depends on its data; write the numbers and a picture."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hesscomp.errors import InputError
from hesscomp.influence.options import SensitivityOptions
from hesscomp.influence.result import Sensitivity
from hesscomp.options import Options, option, values
from hesscomp.parallel.world import World
from hesscomp.runs.report import write_json
from hesscomp.storage.files import check_picture_name
from hesscomp.workflows.curvature import (
    POINTS,
    TRAINED,
    Curvature,
    CurvatureRequest,
    make_point,
    read_factor,
    sampled,
)
from hesscomp.workflows.progress import Progress, check_outputs, costs, counted, silent, write
from hesscomp.workflows.subject import HeldOutRequest, Subject, make_problem, with_dtype

if TYPE_CHECKING:
    from hesscomp.problems.problem import Problem


@dataclass(frozen=True, kw_only=True)
class SensitivityOutput(Options, group="output"):
    """What to write."""

    out: str | None = option(None, metavar="S.h5", help="write all arrays to this HDF5 file")
    json: str | None = option(
        None, metavar="R.json", help="write the numbers of the rows shown, residuals and costs"
    )
    plot: str | None = option(None, metavar="P.png", help="draw the influential rows")

    def _check(self) -> None:
        super()._check()
        if self.plot is not None:
            check_picture_name(self.plot)


@dataclass(frozen=True, kw_only=True)
class SensitivityRequest(
    CurvatureRequest, HeldOutRequest, SensitivityOptions, SensitivityOutput, group="sensitivity"
):
    """Which problem, at which point, what to find, and what to write."""

    operator: str = option(
        "hessian", choices=("hessian", "ggn"), group="operator",
        help="the matrix that is solved with; ggn needs a network, and no minimum",
    )  # fmt: skip
    # The whole matrix is solved with, and it is none that samples.
    blocks: str | None = option(None)
    fisher_samples: int | None = option(None)
    fisher_seed: int | None = option(None)
    at: str | None = option(
        None, metavar=POINTS, group="operator",
        help="the parameter values, as for compress; default: trained, or a model's own weights",
    )  # fmt: skip
    dtype: str | None = option(
        None, choices=("float32", "float64"), group="numbers",
        help="precision of products; default: float64",
    )  # fmt: skip
    factor: str | None = option(
        None, metavar="F.h5",
        help="the preconditioner, and the inverse in what the factor alone gives; default: one is "
        "made, of rank n up to n = 256, else of rank 100",
    )  # fmt: skip

    def _check(self) -> None:
        if self.blocks is not None:
            raise InputError("`blocks` does not go with a sensitivity; leave it out")
        super()._check()
        if self.dtype is None and not self.from_python:
            object.__setattr__(self, "dtype", "float64")


def find_sensitivity(
    request: SensitivityRequest,
    world: World,
    progress: Progress = silent,
    subject: Subject | None = None,
) -> Sensitivity:
    """Find how a minimum, and its loss on test rows, depend on the data. Collective.

    The target is the loss on the test rows, where the data have some. `subject` is the problem,
    where the caller has it already; its products then run in the request's precision too, unless
    a Python function made it, which decides that.

    Raises
    ------
    InputError
        For data, a factor or outputs that cannot be used, and as `hc.sensitivity`.
    """
    check_outputs(world, request.out, request.json, request.plot, request.save_point)
    factor = None if request.factor is None else read_factor(request.factor, world)
    with world.ledger.timed("startup"):
        if subject is None:
            subject = make_problem(request, world, progress)
        elif request.dtype is not None:
            subject = with_dtype(subject, request.dtype)
        own = request.model is not None or subject.data is None  # weights that were trained
        at = TRAINED if request.at is None and not own else request.at
        x = make_point(request, subject, progress, at)
        problem = sampled(request, subject.problem)
    with world.ledger.timed("compile"):
        problem.compile()
    from hesscomp.curvature.hessian import HessianOperator
    from hesscomp.influence.file import save_sensitivity
    from hesscomp.influence.sensitivity import sensitivity

    if factor is not None and request.factor is not None:
        Curvature(HessianOperator(problem, x), problem, x, "Hessian").check_fit(
            factor, request.factor
        )
    test = None if subject.data is None or subject.data.test is None else subject.data
    with world.ledger.timed("sensitivity"), counted(world, progress):
        result = sensitivity(problem, x, factor, test=test, **values(request, SensitivityOptions))
    names = () if subject.data is None else subject.data.feature_names or ()
    result = replace(result, columns=tuple(name or "" for name in names))
    progress(result)
    write(world, progress, "arrays", request.out, lambda path: save_sensitivity(result, path))
    report = _report(request, problem, result)
    write(world, progress, "numbers", request.json, lambda path: write_json(path, report))

    def draw(path) -> None:
        from hesscomp.analysis.influence import sensitivity_figure
        from hesscomp.analysis.style import save_figure

        save_figure(sensitivity_figure(result), path)

    write(world, progress, "picture", request.plot, draw)
    return result


def _report(request: SensitivityRequest, problem: "Problem", result: Sensitivity) -> dict:
    told = (
        *("problem", "dataset", "operator", "rows", "n", "shift", "objective", "gradient_norm"),
        *("gradient_rows", "stationary", "targets", "values", "by_ridge", "factor", "factor_gap"),
        *("tolerance", "residuals", "iterations", "converged", "chosen", "self_influence"),
    )
    chosen = result.chosen
    report = {"command": "sensitivity", **{name: getattr(result, name) for name in told}}
    report["influence"] = result.influence[chosen]
    if result.statistics is not None:
        found = vars(result.statistics)
        single = {name: found[name] for name in ("effective_parameters", "dispersion")}
        listed = {name: found[name][chosen] for name in ("leverage", "cook", "left_out")}
        report |= single | listed
    if result.shifts is not None:
        report |= {name: getattr(result, name) for name in ("columns", "shifts", "scales")}
    phases = {"compile": "compile", "solve": "sensitivity"}
    return report | {"seed": request.seed, **costs(problem.world, **phases)}
