"""Fit a generalised linear model by a distributed Newton method."""

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hesscomp.compression import FactorOptions, compress
from hesscomp.compression.compress import KRYLOV
from hesscomp.errors import InputError
from hesscomp.factors import Factor
from hesscomp.linear import LinearModel, save_model
from hesscomp.linear.families import NAMES, known_family
from hesscomp.optimizers.options import NewtonOptions
from hesscomp.options import described, option, option_of, values
from hesscomp.parallel.world import World
from hesscomp.problems.capabilities import CLASSIFICATION
from hesscomp.problems.catalogue import COVARIANCES, RIDGE
from hesscomp.runs.report import write_json
from hesscomp.storage.files import check_picture_name
from hesscomp.workflows.curvature import Curvature, read_ordering
from hesscomp.workflows.minimum import warn_without_minimum
from hesscomp.workflows.prediction import PredictRequest
from hesscomp.workflows.progress import (
    Checkpoints,
    Progress,
    check_outputs,
    costs,
    silent,
    write,
    write_factor,
)
from hesscomp.workflows.subject import (
    NAMED_DATA,
    HeldOutRequest,
    LogisticRequest,
    Subject,
    make_logistic,
    with_dtype,
)

if TYPE_CHECKING:  # what loads TensorFlow
    from hesscomp.optimizers.newton import NewtonResult
    from hesscomp.optimizers.ridge_path import RidgePath
    from hesscomp.problems.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class NewtonRequest(
    LogisticRequest, HeldOutRequest, NewtonOptions, FactorOptions, Checkpoints, group="solver"
):
    """Which data to fit, how, and what to write.

    The sketch's options concern the factor at the final point; `oversample` also the solvers.
    """

    krylov_alone = KRYLOV

    data: str = option(
        metavar="NAME|FILE", group="data",
        help=f"{NAMED_DATA}; an intercept is only there with `intercept`, or a column of ones",
    )  # fmt: skip
    ridge: float = option(
        RIDGE, low=0, group="numbers", metavar="R", help="add (R/2) ||x||^2 to the objective"
    )
    family: str = option(
        "logistic", group="data", metavar="NAME",
        help=f"the model: {NAMES}; counts, gamma and tweedie with the logarithm as link",
    )  # fmt: skip
    ridges: tuple[float, ...] = option(
        (), group="numbers", metavar="R",
        help="choose the ridge among these by cross-validation, the one with the lowest loss of "
        "rows left out; the model is then the fit of all rows with it",
    )  # fmt: skip
    folds: int | None = option(
        None, low=2, group="numbers", metavar="K", help="folds for `ridges`; default: 5"
    )
    standardize: bool = option(
        False, group="data",
        help="fit columns of standard deviation 1, and undo it in the coefficients; dense columns "
        "are centred too where there is an intercept, sparse ones stay sparse",
    )  # fmt: skip
    model_out: str | None = option(
        None, group="output", metavar="M.h5",
        help="write coefficients with names, encoding and covariance to this file, for `hesscomp "
        "predict`; and print their table",
    )  # fmt: skip
    covariance: str | None = option(
        None, choices=COVARIANCES, group="output",
        help="print the table of coefficients, with standard errors from the observed information, "
        "the default with `model_out`, or robust ones (sandwich); products are then in float64 by "
        "default",
    )  # fmt: skip
    errors_of: tuple[str, ...] = option(
        (), group="output", metavar="NAME", advanced=True,
        help="above 4000 coefficients, those whose standard errors are computed exactly, by CG; "
        "the others have approximate ones, with a stated error, and no robust ones",
    )  # fmt: skip
    level: float = option_of(PredictRequest, "level")
    factor_out: str | None = option(
        None, group="output", metavar="F.h5",
        help="write a certified factor of the Hessian at the final point to this file",
    )  # fmt: skip
    json: str | None = option(
        None, group="output", former="--report", metavar="R.json",
        help="write the objective, accuracies, history and costs to this file",
    )  # fmt: skip
    plot: str | None = option(None, group="output", metavar="P.png", help="plot the convergence")

    @property
    def statistics(self) -> bool:
        """Whether the table of coefficients is wanted."""
        return self.model_out is not None or self.covariance is not None

    @property
    def usual_dtype(self) -> str:
        return "float64" if self.statistics else super().usual_dtype

    def _check(self) -> None:
        super()._check()
        known_family(self.family)
        if self.gamma != NewtonOptions.gamma and self.step != "fixed":
            raise InputError("`gamma` goes with `step` fixed")
        if self.tail != NewtonOptions.tail and self.solver != "lowrank":
            raise InputError("`tail` goes with `solver` lowrank")
        for name in ("errors_of", "level"):
            if getattr(self, name) != getattr(NewtonRequest, name) and not self.statistics:
                raise InputError(f"`{name}` goes with `model_out` or `covariance`")
        if self.statistics and self.features != "raw":
            raise InputError("`model_out` and `covariance` do not go with `features` fourier")
        if self.folds is not None and not self.ridges:
            raise InputError("`folds` goes with `ridges`, which are chosen among; give them")
        if self.ridges and self.ridge != NewtonRequest.ridge:
            raise InputError("`ridge` and `ridges`: give one of them")
        if self.ridges and self.solver == "lowrank":
            raise InputError("`ridges` goes with the solvers auto, pcg and direct")
        if self.standardize and self.factor_out is not None:
            raise InputError(
                "`standardize` does not go with `factor_out`, whose Hessian would be that of "
                "standardised columns; scale the data before, or leave one out"
            )
        if self.plot is not None:
            check_picture_name(self.plot)
        for each in described(FactorOptions):
            shared = each.name in ("rank", "oversample", "seed")
            if self.factor_out is None and not shared and getattr(self, each.name) != each.default:
                raise InputError(f"`{each.name}` goes with `factor_out`")


@dataclass(frozen=True)
class NewtonFit:
    """A fitted model."""

    result: "NewtonResult"  # of the standardised columns, where they were standardised
    train_accuracy: float  # NaN where the model is no classification
    test: "Evaluation | None"  # where there are test rows
    factor: Factor | None = None  # of the Hessian at the final point, where one was requested
    path: "RidgePath | None" = None  # of ridges, where one was chosen
    model: LinearModel | None = None  # with its statistics, where they were requested


def newton(
    request: NewtonRequest,
    world: World,
    progress: Progress = silent,
    subject: Subject | None = None,
) -> NewtonFit:
    """Fit a linear model by Newton's method; write a factor, a report, a plot. Collective.

    `progress` gets each row of the history (a dict) at once, and the fit at the end. `subject` is
    the problem, where the caller has it already, and stays as it is; the request's `family` and
    `standardize` then do not count.

    Raises
    ------
    InputError
        For data or outputs that cannot be used, and for a folder that holds another run.
    """
    check_outputs(world, request.factor_out, request.model_out, request.json, request.plot)
    with world.ledger.timed("startup"):
        if subject is None or subject.data is None:
            dataset, problem = make_logistic(request, world, progress)
        else:
            subject = with_dtype(subject, request.dtype or request.usual_dtype)
            dataset, problem = subject.data, subject.problem
        from hesscomp.curvature.hessian import HessianOperator
        from hesscomp.optimizers.newton import newton as minimise
        from hesscomp.optimizers.standard_errors import (
            OBSERVED,
            check_statistics,
            linear_model,
            named_columns,
        )
        from hesscomp.problems.evaluation import HeldOut

    kind = request.covariance or OBSERVED
    if request.statistics:
        check_statistics(problem, dataset, kind, request.errors_of)
    constant = "with an intercept" if problem.intercept else "no intercept added"
    threads = f" of {count(world.threads, 'thread')}" if world.threads > 0 else ""
    constant += ", standardised" * request.standardize
    few = f"one of {len(request.ridges)} ridges" if request.ridges else f"ridge {problem.ridge:g}"
    progress(
        f"{dataset.name}: {dataset.rows} rows, {problem.n} coefficients, {constant}, "
        f"{few}; {count(world.size, 'rank')}{threads}, {problem.dtype} curvature"
    )
    with world.ledger.timed("compile"):
        problem.compile()
    options = replace(request, ordering=read_ordering(request.ordering, world))
    path, start = None, None
    if request.ridges:
        with world.ledger.timed("cross-validation"), named_columns(problem, dataset):
            path = _path(request, problem, options)
        problem = copy.copy(problem)  # the caller's keeps its ridge
        problem.ridge, start = float(path.ridges[path.best]), path.coefficients[path.best]
        progress(str(path))
    with world.ledger.timed("newton"), named_columns(problem, dataset):
        result = minimise(
            problem,
            start,
            options=options,
            on_iteration=lambda row: progress(row.as_dict()),
            folder=request.run,
            save_every=request.save_every or 1,
        )
    warn_without_minimum(problem, dataset, result)
    test = None if dataset.test is None else HeldOut(problem, dataset)(result.x)
    classifies = problem.can(CLASSIFICATION)
    accuracy = problem.accuracy(result.x, dataset.train) if classifies else math.nan
    fit = NewtonFit(result, accuracy, test, path=path)
    progress(fit)
    if request.statistics:
        with world.ledger.timed("statistics"):
            model = linear_model(problem, dataset, result, kind, request.errors_of)
        progress(model.summary(request.level))
        write(world, progress, "model", request.model_out, lambda path: save_model(model, path))
        fit = replace(fit, model=model)
    if request.factor_out is not None:
        final = Curvature(HessianOperator(problem, result.x), problem, result.x, "Hessian")
        asked = values(request, FactorOptions)
        with final.journaled(request.run, request.run_identity(FactorOptions)) as operator:
            with world.ledger.timed("final factor"):
                factor = compress(operator, **asked)
            write_factor(progress, request.factor_out, factor)
        fit = replace(fit, factor=factor)
    report = _report(request, dataset, problem, fit)
    write(world, progress, "numbers", request.json, lambda path: write_json(path, report))

    def draw(path) -> None:
        from hesscomp.analysis.plots import convergence_figure
        from hesscomp.analysis.style import save_figure

        title = f"{dataset.name}: Newton, {result.solver}, ridge {problem.ridge:g}, "
        title += count(world.size, "rank")
        save_figure(convergence_figure(report["history"], title), path)

    write(world, progress, "convergence plot", request.plot, draw)
    return fit


def _path(request: NewtonRequest, problem, options: NewtonOptions) -> "RidgePath":
    from hesscomp.optimizers.ridge_path import ridge_path

    solver = "pcg" if options.solver == "auto" else options.solver  # whose factors serve all ridges
    plain = NewtonOptions(**{**values(options, NewtonOptions), "solver": solver})
    return ridge_path(
        problem, request.ridges, folds=request.folds or 5, seed=request.seed, options=plain
    )


def count(number: int, noun: str) -> str:
    """Return a number with a noun, in the plural where that is right."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _path_numbers(path: "RidgePath | None") -> dict | None:
    if path is None:
        return None
    chosen = {"best": float(path.ridges[path.best]), "simplest": float(path.ridges[path.simplest])}
    return {"ridges": path.ridges, "losses": path.losses, "errors": path.errors, **chosen}


def _report(request: NewtonRequest, dataset, problem, fit: NewtonFit) -> dict:
    result, test = fit.result, fit.test
    told = ("objective", "gradient_norm", "iterations", "converged", "reason")
    return {
        "command": "newton",
        "data": dataset.name,
        "rows": dataset.rows,
        "family": problem.family_name,
        "features": problem.features,
        "coefficients": problem.n,
        "data_fingerprint": dataset.fingerprint,
        "ridge": problem.ridge,
        "ridges": _path_numbers(fit.path),
        "intercept": problem.intercept,
        "standardized": request.standardize,
        "dtype": problem.dtype,
        "seed": request.seed,
        "tolerance": request.tolerance,
        "solver": result.solver,
        "solver_choice": result.choice,
        **{name: getattr(result, name) for name in told},
        "train_accuracy": fit.train_accuracy,
        "test_accuracy": math.nan if test is None or test.accuracy is None else test.accuracy,
        "test_loss": math.nan if test is None else test.loss,
        "history": [row.as_dict() for row in result.history],
        **costs(problem.world, compile="compile", solve="newton"),
    }
