"""Newton's method for convex sharded problems, with a compressed Hessian."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import scipy.linalg

from hesscomp.errors import NumericalError
from hesscomp.factors import Factor
from hesscomp.krylov.cg import conjugate_gradients
from hesscomp.operators.operator import Operator
from hesscomp.optimizers.acceptance import ROUNDING, forcing_term
from hesscomp.optimizers.batches import Task
from hesscomp.optimizers.earned import VALUES, Choice, Earned
from hesscomp.optimizers.former_newton import upgraded
from hesscomp.optimizers.loop import train
from hesscomp.optimizers.optimizer import Outcome, State
from hesscomp.optimizers.options import NewtonOptions, Saving, Stopping, check_solver, check_tail
from hesscomp.optimizers.preconditioners import HORIZON, Refreshed
from hesscomp.options import option, option_of, values
from hesscomp.problems.problem import Problem
from hesscomp.runs.checkpoint import Checkpoint

USUAL_CG = 12  # lone columns that a preconditioned Newton step takes, for the choice of a solver
USUAL_STEPS = 8
OPTIONS = NewtonOptions()
IDLE = 3  # steps in a row without a gain, after which there is none to be had


@dataclass(frozen=True)
class Newton(Earned):
    """x <- x - t (H + ridge I)^-1 g for convex problems, with t from a line search.

    The solver pcg is conjugate gradients on the true Hessian, preconditioned by a factor where
    plain CG has shown that its sketch pays (`Earned`), which is sketched again when that pays;
    lowrank is a low-rank factor alone, made in every step; direct is the assembled Hessian's
    Cholesky factor; auto is pcg or direct, whichever `cheapest_solver` expects to cost less.

    Notes
    -----
    A step costs one pass for A d and one for the gradient, where the problem has margins A x (one
    more where the first length is rejected), and its solve: CG iterations of one pass each (pcg), a
    sketch (lowrank) or one pass and n^2 words (direct). Newton systems are solved to a relative
    residual min(0.1, 0.9 (||g_k|| / ||g_k-1||)^2) (Eisenstat and Walker 1996, choice 2). Memory:
    the factor, n (rank + oversample) numbers, or n^2 (direct). NumericalError if the Hessian plus
    ridge is not positive definite. `hesscomp.newton` is the same method as one call.

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"))
    >>> hc.train(problem, hc.Newton(solver="direct"), max_steps=4).best_objective < 0.33
    True
    """

    solver: str = option_of(NewtonOptions, "solver")
    tolerance: float = option(
        0.0, low=0,
        help="||g||_2 at which the run ends, 0 if unknown; pcg solves no system further than half "
        "of it, and expects no more digits to be solved for",
    )  # fmt: skip
    fixed_step: float = option(0.0, low=0, help="length of every step; 0: line search")
    tail: float | str = option_of(NewtonOptions, "tail")
    preconditioner: str | Factor = option_of(NewtonOptions, "preconditioner")
    name = "newton"
    keeps_margins = True

    def _check(self) -> None:
        super()._check()
        check_tail(self.tail)
        check_solver(self.solver, self.preconditioner)

    def start(self, x):
        return {
            "previous_norm": 0.0, "previous_objective": np.nan, "least_norm": np.inf, "idle": 0,
            "factor_error": np.nan if self.given_factor is None
            else self.given_factor.certificate.relative_error,
            **self.first_factor(len(x)),
        }  # fmt: skip

    def upgraded(self, saved: Checkpoint) -> Checkpoint:
        own_loop = saved.facts.get("optimizer") == "newton"
        return super().upgraded(upgraded(saved, self) if own_loop else saved)

    def solver_for(self, problem: Problem) -> tuple[str, str]:
        """Return the solver that a problem gets, and why where it is chosen for it."""
        if self.solver != "auto":
            return self.solver, ""
        if self.given_factor is not None:
            return "pcg", "a factor is given"
        ranks = 1 if problem.world.reproducible else problem.world.size  # it must not depend on it
        return cheapest_solver(problem.n, problem.rows, ranks, self.rank, self.oversample)

    def step(self, task: Task, state: State) -> Outcome:
        norm, before = task.gradient_norm, state["previous_objective"]
        lower = task.objective < before - ROUNDING * abs(before)
        gained = lower or norm < 0.9 * state["least_norm"]
        idle = 0 if gained else state["idle"] + 1
        if task.whole and task.world.decide(idle == IDLE):
            why = "steps gain nothing: at the rounding level, or too long"
            return Outcome(task.x, state, stuck=True, why=why)
        solver, _ = self.solver_for(task.batches.problem)
        with task.world.ledger.timed("solve"):
            hessian = task.curvature_batch.hessian(task.x)
            direction, solved, values = getattr(self, f"_{solver}")(task, state, hessian)
            del hessian  # the line search holds vectors of rows of its own
        line = task.line(direction)
        if self.fixed_step:
            length = self.fixed_step
        else:
            with task.world.ledger.timed("line search"):
                length = line.search().length
        progress = {
            "previous_norm": norm, "previous_objective": task.objective,
            "least_norm": min(norm, state["least_norm"]), "idle": idle,
        }  # fmt: skip
        state, values = {**state, **solved, **progress}, {"step_length": length, **values}
        return Outcome(line.end(length), state, values, stuck=length == 0)

    def _pcg(self, task: Task, state: State, hessian: Operator):
        norm = task.gradient_norm
        forcing = forcing_term(norm, state["previous_norm"])
        known = self.tolerance > 0
        horizon = np.log10(norm / self.tolerance) if known else -HORIZON * np.log10(forcing)
        diagonal = task.curvature_batch.diagonal_of(task.x)
        choice = self.choose(hessian, state, horizon, task.ridge, diagonal)
        result = conjugate_gradients(
            task.regularized(hessian),
            -task.gradient,
            tolerance=max(forcing * norm, 0.5 * self.tolerance),
            preconditioner=choice.M,
            max_iterations=choice.limit,
            shared=True,
        )
        factor, error = choice.factor, state["factor_error"]
        if factor is not None and choice.sketched:
            error = factor.certificate.relative_error
        state = {**self.solved(state, choice, result, norm), "factor_error": error}
        return result.x, state, _values(result.iterations, factor, error, choice)

    def _lowrank(self, task: Task, state: State, hessian: Operator):
        factor, g = self.new_factor(hessian), task.gradient
        direction = factor.solve(-g, task.ridge, self.tail)  # type: ignore[call-arg]  # it has a tail
        return direction, {}, _values(0, factor, factor.certificate.relative_error)

    def _direct(self, task: Task, state: State, hessian: Operator):
        H = hessian.to_dense()
        H[np.diag_indices_from(H)] += task.batches.problem.ridge_diagonal()
        try:
            direction = task.world.on_root(_cholesky_solve, H, -task.gradient)
        except np.linalg.LinAlgError:
            raise NumericalError(
                "the Hessian plus ridge is not positive definite, as where columns of the data "
                "depend on each other; remove such columns, raise `ridge`, or use `solver` pcg"
            ) from None
        return direction, {}, _values(0, None, np.nan)


def _values(
    iterations: int, factor: Factor | None, error: float, choice: Choice | None = None
) -> dict[str, float]:
    rank = factor.rank if factor is not None and factor.has_eigenpairs else 0
    told = dict.fromkeys(VALUES, np.nan) if choice is None else choice.values
    return {"cg_iterations": iterations, "factor_rank": rank, "factor_error": error, **told}


def _cholesky_solve(H: np.ndarray, b: np.ndarray) -> np.ndarray:
    return scipy.linalg.cho_solve(scipy.linalg.cho_factor(H, lower=True, check_finite=False), b)


def cheapest_solver(n: int, rows: int, ranks: int, rank: int, oversample: int) -> tuple[str, str]:
    """Return "direct" or "pcg", and why, by costs in product columns (4 m n operations each).

    direct: n/2 columns a step to assemble H and n^3/3 operations to factorise it on one rank.
    pcg: a sketch of rank + oversample columns every few steps, and about a dozen lone columns a
    step, each of which costs as much as `Operator.lone_cost` columns of a wide block.
    """
    column = 4 * max(rows / ranks, 1) * n
    direct = n / 2 + n**3 / 3 / column
    pcg = min(rank + oversample, n) * 2 / USUAL_STEPS + USUAL_CG * Operator.lone_cost
    solver = "direct" if direct <= pcg else "pcg"
    return solver, f"about {direct:.0f} product columns a step for direct, {pcg:.0f} for pcg"


@dataclass(frozen=True)
class NewtonIteration:
    """One row of the history, the first at the start. Counts and seconds are running totals.

    `step` is the accepted step length. `factor_rank` and `factor_error` (relative, Frobenius) are
    those of the factor that served the step; 0 and NaN where none did, and rank 0 of one without
    eigenpairs.
    """

    iteration: int
    objective: float
    gradient_norm: float
    step: float
    cg_iterations: int
    factor_rank: int
    factor_error: float
    passes: int
    words_reduced: int
    seconds: float

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class NewtonResult:
    """Where Newton's method ended, and how it got there."""

    x: np.ndarray = field(repr=False)  # (n,)
    objective: float
    gradient_norm: float
    iterations: int  # Newton steps taken
    converged: bool  # whether ||g||_2 reached the tolerance
    reason: str  # why it stopped, in words
    solver: str  # the one used
    choice: str  # why, where it was chosen automatically
    history: tuple[NewtonIteration, ...] = field(repr=False, default=())
    preconditioning: str = ""  # how pcg's solves were, in one line; empty for other solvers
    factor: Factor | None = field(repr=False, default=None)  # the last that pcg made, if any


def newton(
    problem: Problem,
    x0: np.ndarray | None = None,
    options: NewtonOptions = OPTIONS,
    on_iteration: Callable[[NewtonIteration], None] | None = None,
    *,
    folder: str | os.PathLike | None = None,
    save_every: int = 1,
) -> NewtonResult:
    """Minimise a convex problem by Newton's method: `train` with `Newton`, over all rows.

    Parameters
    ----------
    problem : Problem
    x0 : (n,) array, optional
        The start; the problem's own or zero by default.
    options : NewtonOptions
    on_iteration : callable, optional
        Called with each row of the history as it is made, on every rank.
    folder, save_every : path, int
        As `folder` and `every` of `Saving`, without the files of the history. A run may resume with
        another `max_iterations`.

    Returns
    -------
    NewtonResult
        The last iterate; with the line search it is also the best. The numbers are as reproducible
        as those of `train`.

    Raises
    ------
    InputError, Interrupted
        As `train`.
    NumericalError
        If objective or gradient are no longer finite, or a direct factorisation fails.
    """
    fixed_step = options.gamma if options.step == "fixed" else 0.0
    optimizer = Newton(
        options.solver, options.tolerance, fixed_step, options.tail, options.preconditioner,
        factor_options=options.factor_options, **values(options, Refreshed),
    )  # fmt: skip
    ledger = problem.world.ledger
    passes, words = ledger.passes, ledger.words_reduced

    def row(found: dict[str, float]) -> NewtonIteration:
        length, iterations, rank = (
            float(np.nan_to_num(found.get(name, 0.0)))  # NaN in the first row
            for name in ("step_length", "cg_iterations", "factor_rank")
        )
        totals = passes + int(found["passes"]), words + int(found["words"]), found["seconds"]
        return NewtonIteration(
            int(found["step"]), found["objective"], found["gradient_norm"], length,
            int(iterations), int(rank), found.get("factor_error", np.nan), *totals,
        )  # fmt: skip

    result = train(
        problem,
        optimizer,
        x0,
        stopping=Stopping(options.max_iterations, options.tolerance),
        saving=Saving(folder, save_every, history=False),
        callbacks=() if on_iteration is None else (lambda found, x: on_iteration(row(found)),),
    )
    return NewtonResult(
        result.x, result.objective, result.gradient_norm, result.steps, result.converged,
        result.reason.replace("max_steps", "max_iterations"), *optimizer.solver_for(problem),
        tuple(map(row, result.history.rows)), result.remark, optimizer.made_factor(result.state),
    )  # fmt: skip
