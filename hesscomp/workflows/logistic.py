"""Fit logistic regression by a distributed Newton method."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hesscomp.compression import FactorOptions, compress
from hesscomp.compression.compress import KRYLOV
from hesscomp.errors import InputError
from hesscomp.factors import Factor
from hesscomp.optimizers.options import NewtonOptions
from hesscomp.options import described, option, values
from hesscomp.parallel.world import World
from hesscomp.problems.catalogue import RIDGE
from hesscomp.runs.report import write_json
from hesscomp.storage.files import check_picture_name
from hesscomp.workflows.curvature import Curvature
from hesscomp.workflows.progress import (
    Progress,
    check_outputs,
    costs,
    run_folder,
    silent,
    write,
    write_factor,
)
from hesscomp.workflows.subject import (
    NAMED_DATA,
    HeldOutRequest,
    LogisticRequest,
    make_logistic,
)

if TYPE_CHECKING:  # what loads TensorFlow
    from hesscomp.optimizers.newton import NewtonResult
    from hesscomp.problems.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class NewtonRequest(LogisticRequest, HeldOutRequest, NewtonOptions, FactorOptions, group="solver"):
    """Which data to fit, how, and what to write.

    The sketch's options concern the factor at the final point; `oversample` also the solvers.
    """

    krylov_alone = KRYLOV

    data: str = option(
        metavar="NAME|FILE", group="data",
        help=f"{NAMED_DATA}; no intercept is added: have a column of ones",
    )  # fmt: skip
    ridge: float = option(
        RIDGE, low=0, group="numbers", metavar="R", help="add (R/2) ||x||^2 to the objective"
    )
    factor_out: str | None = option(
        None, group="output", metavar="F.h5",
        help="write a certified factor of the Hessian at the final point to this file",
    )  # fmt: skip
    json: str | None = option(
        None, group="output", former="--report", metavar="R.json",
        help="write the objective, accuracies, history and costs to this file",
    )  # fmt: skip
    plot: str | None = option(None, group="output", metavar="P.png", help="plot the convergence")
    run: str | None = run_folder("checkpoints, and the finished products of `factor_out`")
    save_every: int | None = option(
        None, low=1, group="output", metavar="K", advanced=True,
        help="save in `run` every K steps; default: 1",
    )  # fmt: skip

    def _check(self) -> None:
        super()._check()
        if self.gamma != NewtonOptions.gamma and self.step != "fixed":
            raise InputError("`gamma` goes with `step` fixed")
        if self.tail != NewtonOptions.tail and self.solver != "lowrank":
            raise InputError("`tail` goes with `solver` lowrank")
        if self.save_every is not None and self.run is None:
            raise InputError("`save_every` goes with `run`")
        if self.plot is not None:
            check_picture_name(self.plot)
        for each in described(FactorOptions):
            shared = each.name in ("rank", "oversample", "seed")
            if self.factor_out is None and not shared and getattr(self, each.name) != each.default:
                raise InputError(f"`{each.name}` goes with `factor_out`")


@dataclass(frozen=True)
class NewtonFit:
    """A fitted model."""

    result: "NewtonResult"
    train_accuracy: float
    test: "Evaluation | None"  # where there are test rows
    factor: Factor | None = None  # of the Hessian at the final point, where one was requested


def newton(request: NewtonRequest, world: World, progress: Progress = silent) -> NewtonFit:
    """Fit logistic regression by Newton's method; write a factor, a report, a plot. Collective.

    `progress` gets each row of the history (a dict) at once, and the fit at the end.

    Raises
    ------
    InputError
        For data or outputs that cannot be used, and for a folder that holds another run.
    """
    check_outputs(world, request.factor_out, request.json, request.plot)
    with world.ledger.timed("startup"):
        dataset, problem = make_logistic(request, world, progress)
        from hesscomp.curvature.hessian import HessianOperator
        from hesscomp.optimizers.newton import newton as minimise
        from hesscomp.problems.evaluation import HeldOut

    threads = f" of {count(world.threads, 'thread')}" if world.threads > 0 else ""
    progress(
        f"{dataset.name}: {dataset.rows} rows, {problem.n} coefficients, no intercept added, "
        f"ridge {problem.ridge:g}; {count(world.size, 'rank')}{threads}, {problem.dtype} curvature"
    )
    with world.ledger.timed("compile"):
        problem.compile()
    with world.ledger.timed("newton"):
        result = minimise(
            problem,
            options=request,
            on_iteration=lambda row: progress(row.as_dict()),
            folder=request.run,
            save_every=request.save_every or 1,
        )
    problem.warn_if_separated(result.x)
    test = None if dataset.test is None else HeldOut(problem, dataset)(result.x)
    fit = NewtonFit(result, problem.accuracy(result.x, dataset.train), test)
    progress(fit)
    if request.factor_out is not None:
        final = Curvature(HessianOperator(problem, result.x), problem, result.x, "Hessian")
        asked = values(request, FactorOptions)
        with final.journaled(request.run, request.facts(FactorOptions)) as operator:
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


def count(number: int, noun: str) -> str:
    """Return a number with a noun, in the plural where that is right."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _report(request: NewtonRequest, dataset, problem, fit: NewtonFit) -> dict:
    result, test = fit.result, fit.test
    told = ("objective", "gradient_norm", "iterations", "converged", "reason")
    return {
        "command": "newton",
        "data": dataset.name,
        "rows": dataset.rows,
        "features": problem.n,
        "data_fingerprint": dataset.fingerprint,
        "ridge": problem.ridge,
        "dtype": problem.dtype,
        "seed": request.seed,
        "tolerance": request.tolerance,
        "solver": result.solver,
        "solver_choice": result.choice,
        **{name: getattr(result, name) for name in told},
        "train_accuracy": fit.train_accuracy,
        "test_accuracy": math.nan if test is None else test.accuracy,
        "test_loss": math.nan if test is None else test.loss,
        "history": [row.as_dict() for row in result.history],
        **costs(problem.world, compile="compile", solve="newton"),
    }
