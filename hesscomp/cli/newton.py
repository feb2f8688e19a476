"""`hesscomp newton`: distributed Newton for logistic regression."""

import argparse
import math

from hesscomp.cli.curvature import Curvature
from hesscomp.cli.interruption import add_run_argument
from hesscomp.cli.options import (
    add_data_arguments,
    add_problem_arguments,
    add_sketch_arguments,
    check_features,
    check_sketch,
    load_logistic,
    sketch_request,
)
from hesscomp.cli.output import write_factor
from hesscomp.cli.session import Session, seconds_since
from hesscomp.compression import check_request, compress
from hesscomp.errors import InputError
from hesscomp.runs.report import write_json
from hesscomp.storage.files import check_picture_name

HEADER = (
    f"{'iter':>4} {'objective':>14} {'||gradient||':>15} {'step':>9} {'CG':>4} {'rank':>5} "
    f"{'error':>10} {'passes':>8} {'words':>12} {'seconds':>8}"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser, test=True)
    solver = parser.add_argument_group("solver")
    solver.add_argument(
        "--solver",
        choices=("auto", "pcg", "lowrank", "direct"),
        default="auto",
        help="auto picks direct or pcg by a cost model and says why",
    )
    solver.add_argument("--tol", type=float, default=1e-8, metavar="T", help="stop at ||g||_2 <= T")
    solver.add_argument("--max-iter", type=int, default=100, metavar="K", help="most Newton steps")
    solver.add_argument(
        "--step", choices=("line-search", "fixed"), default="line-search", help="Armijo"
    )
    solver.add_argument(
        "--gamma", type=float, default=None, metavar="G", help="the fixed step; default: 1"
    )
    solver.add_argument("--rank", type=int, default=40, metavar="K", help="of the low-rank factor")
    solver.add_argument(
        "--tail",
        metavar="last|zero|FLOAT",
        help="with --solver lowrank: the value taken for the unresolved spectrum; default: last",
    )
    factor = parser.add_argument_group(
        "factor", "how --factor-out is made; the solvers take --oversample too"
    )
    add_sketch_arguments(factor)
    add_problem_arguments(solver)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--factor-out", metavar="F.h5", help="certified factor of the Hessian at the final point"
    )
    output.add_argument("--report", metavar="R.json", help="objective, accuracies, history, costs")
    output.add_argument("--plot", metavar="P.png", help="convergence plot")
    add_run_argument(output, "checkpoints, and products of --factor-out that are done")
    output.add_argument("--save-every", type=int, metavar="K", help="with --run: steps; default: 1")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    if options.gamma is not None and options.step != "fixed":
        raise InputError("--gamma goes with --step fixed")
    if options.tail is not None and options.solver != "lowrank":
        raise InputError("--tail goes with --solver lowrank")
    if options.save_every is not None and options.run is None:
        raise InputError("--save-every goes with --run")
    check_request(options.rank, None)
    check_sketch(options)
    if options.factor_out is None:
        _refuse_factor_options(options)
    if options.plot is not None:
        check_picture_name(options.plot)
    check_features(options)


def run(options: argparse.Namespace, session: Session) -> int:
    world = session.world
    check(options)
    session.check_outputs(options.factor_out, options.report, options.plot)
    with world.ledger.timed("startup"):
        dataset, problem = load_logistic(options, session)
        from hesscomp.curvature.hessian import HessianOperator
        from hesscomp.optimizers.newton import NewtonOptions, newton
        from hesscomp.problems.evaluation import HeldOut

        settings = NewtonOptions(
            solver=options.solver,
            tolerance=options.tol,
            max_iterations=options.max_iter,
            step=options.step,
            gamma=1.0 if options.gamma is None else options.gamma,
            rank=options.rank,
            oversample=options.oversample,
            seed=options.seed,
            tail="last" if options.tail is None else options.tail,
        )
        settings.validate()
    startup = seconds_since(session.started)
    session.say(
        f"{dataset.name}: {dataset.rows} rows, {problem.n} coefficients, ridge {problem.ridge:g}; "
        f"{_count(world.size, 'rank')} of {_count(session.threads, 'thread')}, "
        f"{problem.dtype} curvature"
    )
    with world.ledger.timed("compile"):
        problem.compile()
    session.say(HEADER)
    with world.ledger.timed("newton"):
        result = newton(
            problem,
            options=settings,
            on_iteration=lambda row: session.say(_line(row)),
            folder=options.run,
            save_every=1 if options.save_every is None else options.save_every,
        )
    session.say(
        f"{'converged' if result.converged else 'not converged'} after "
        f"{_count(result.iterations, 'step')}: {result.reason}"
    )
    if result.choice:
        session.say(f"solver auto took {result.solver}: {result.choice}")
    train = problem.accuracy(result.x, dataset.train)
    test = None if dataset.test is None else HeldOut(problem, dataset)(result.x)
    session.say(f"accuracy: train {train:.5f}" + ("" if test is None else f"; test: {test}"))

    if options.factor_out is not None:
        final = Curvature(HessianOperator(problem, result.x), problem, result.x, "Hessian")
        request = {"rank": options.rank, **sketch_request(options)}
        with final.journaled(options.run, request) as operator:
            with world.ledger.timed("final factor"):
                factor = compress(operator, **request)
            write_factor(final.describe(factor), options.factor_out, session)
    history = [row.as_dict() for row in result.history]
    ledger = world.ledger.as_dict()
    report = {
        "command": "newton",
        "data": dataset.name,
        "rows": dataset.rows,
        "features": problem.n,
        "data_fingerprint": dataset.fingerprint,
        "ridge": problem.ridge,
        "dtype": problem.dtype,
        "seed": options.seed,
        "tolerance": options.tol,
        "solver": result.solver,
        "solver_choice": result.choice,
        "objective": result.objective,
        "gradient_norm": result.gradient_norm,
        "iterations": result.iterations,
        "converged": result.converged,
        "reason": result.reason,
        "train_accuracy": train,
        "test_accuracy": math.nan if test is None else test.accuracy,
        "test_loss": math.nan if test is None else test.loss,
        "ranks": world.size,
        "threads_per_rank": session.threads,
        "seconds": {
            "startup": startup,
            "compile": ledger["seconds"]["compile"],
            "solve": ledger["seconds"]["newton"],
        },
        "history": history,
        "ledger": ledger,
    }
    session.write("report", options.report, lambda path: write_json(path, report))
    if options.plot is not None:
        from hesscomp.analysis.plots import plot_convergence

        title = (
            f"{dataset.name}: Newton, {result.solver}, ridge {problem.ridge:g}, "
            f"{_count(world.size, 'rank')}"
        )
        session.write(
            "convergence plot", options.plot, lambda path: plot_convergence(history, path, title)
        )
    return 0 if result.converged else 3


def _refuse_factor_options(options) -> None:
    """Options that would change nothing."""
    parser = argparse.ArgumentParser()
    add_sketch_arguments(parser)
    for name, default in vars(parser.parse_args([])).items():
        if name != "oversample" and getattr(options, name) != default:
            raise InputError(f"--{name.replace('_', '-')} goes with --factor-out")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _line(row) -> str:
    if row.factor_rank:
        factor = f"{row.factor_rank:5d} {row.factor_error:10.1e}"
    else:
        factor = f"{'-':>5} {'-':>10}"
    return (
        f"{row.iteration:4d} {row.objective:14.10f} {row.gradient_norm:15.6e} {row.step:9.3g} "
        f"{row.cg_iterations:4d} {factor} {row.passes:8d} {row.words_reduced:12d} "
        f"{row.seconds:8.2f}"
    )
