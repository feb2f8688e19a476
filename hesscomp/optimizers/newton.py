"""Newton's method for convex sharded problems, with a compressed Hessian."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import scipy.linalg

from hesscomp.compression import compress
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.errors import InputError, NumericalError
from hesscomp.factors import LowRank
from hesscomp.factors.lowrank import tail_number
from hesscomp.krylov.cg import conjugate_gradients
from hesscomp.optimizers.upkeep import VECTOR_PENALTY, Upkeep

SOLVERS = ("auto", "pcg", "lowrank", "direct")
STEPS = ("line-search", "fixed")

ARMIJO = 1e-4  # sufficient decrease (Nocedal and Wright 2006, equation 3.4)
TRIALS = 0.5 ** np.arange(4)  # steps tried together; then as many smaller ones
TRIAL_ROUNDS = 8
ROUNDING = 16 * np.finfo(np.float64).eps  # relative noise of an objective, for the line search
FORCING = 0.1  # largest relative residual of a Newton system (Eisenstat and Walker 1996)
USUAL_CG = 12  # lone columns that a preconditioned Newton step takes, for the choice of a solver
USUAL_STEPS = 8
IDLE = 3  # steps in a row without a gain, after which there is none to be had


@dataclass(frozen=True)
class NewtonOptions:
    """How to run Newton's method; `validate` says what is allowed.

    Attributes
    ----------
    solver : {"auto", "pcg", "lowrank", "direct"}
        pcg: conjugate gradients on the true Hessian, preconditioned by a low-rank factor.
        lowrank: the factor alone. direct: the assembled Hessian's Cholesky factor. auto: pcg or
        direct, whichever `cheapest_solver` expects to cost less.
    tolerance : float
        Stop when ||g||_2 <= tolerance.
    max_iterations : int
    step : {"line-search", "fixed"}
    gamma : float
        The fixed step.
    rank, oversample, seed : int
        Of the low-rank factor, a Nystrom sketch without power steps.
    tail : {"last", "zero"} or float
        With lowrank, the value taken for the unresolved spectrum.
    """

    solver: str = "auto"
    tolerance: float = 1e-8
    max_iterations: int = 100
    step: str = "line-search"
    gamma: float = 1.0
    rank: int = 40
    oversample: int = 10
    seed: int = 0
    tail: float | str = "last"

    def validate(self) -> None:
        """Raise InputError for a value out of range."""
        if self.solver not in SOLVERS:
            raise InputError(f"solver must be one of {', '.join(SOLVERS)}, not {self.solver}")
        if self.step not in STEPS:
            raise InputError(f"step must be one of {', '.join(STEPS)}, not {self.step}")
        for name, value in (("tolerance", self.tolerance), ("gamma", self.gamma)):
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"{name} must be a positive number, not {value}")
        if self.max_iterations < 0 or self.rank < 1 or self.oversample < 0:
            raise InputError("max-iter and oversample must be at least 0, rank at least 1")
        if self.tail not in ("last", "zero"):
            tail_number(self.tail)


@dataclass(frozen=True)
class NewtonIteration:
    """One row of the history; entry 0 is the start. Counts and seconds are running totals.

    `step` is the accepted step length, `factor_rank` and `factor_error` (relative, Frobenius)
    those of the factor that served the step (0 and NaN where none did).
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
    """Where Newton's method ended.

    Attributes
    ----------
    x : (n,) array
    objective, gradient_norm : float
    iterations : int
        Newton steps taken.
    converged : bool
        Whether ||g||_2 reached the tolerance.
    reason : str
        Why it stopped, in words.
    solver : str
        The one used; `choice` says why where it was chosen automatically.
    history : tuple of NewtonIteration
    """

    x: np.ndarray
    objective: float
    gradient_norm: float
    iterations: int
    converged: bool
    reason: str
    solver: str
    choice: str
    history: tuple[NewtonIteration, ...] = field(repr=False, default=())


def forcing_term(norm: float, previous: float) -> float:
    """The relative residual of a Newton system (Eisenstat and Walker 1996, choice 2).

    Parameters
    ----------
    norm, previous : float
        Of the gradient, now and a step ago (0 in the first step).
    """
    return min(FORCING, 0.9 * (norm / previous) ** 2) if previous > 0 else FORCING


def cheapest_solver(n: int, rows: int, ranks: int, rank: int, oversample: int) -> tuple[str, str]:
    """ "direct" or "pcg", and why, by a cost model in product columns (4 m n operations each).

    direct: n/2 columns a step to assemble H and n^3/3 operations to factorise it on one rank.
    pcg: a sketch of rank + oversample columns every few steps, and some dozen lone columns a
    step, each as dear as `VECTOR_PENALTY` columns of a wide block.
    """
    column = 4 * max(rows / ranks, 1) * n
    direct = n / 2 + n**3 / 3 / column
    pcg = min(rank + oversample, n) * 2 / USUAL_STEPS + USUAL_CG * VECTOR_PENALTY
    solver = "direct" if direct <= pcg else "pcg"
    return solver, f"about {direct:.0f} product columns a step for direct, {pcg:.0f} for pcg"


def newton(
    problem,
    x0: np.ndarray | None = None,
    options: NewtonOptions = NewtonOptions(),
    on_iteration: Callable[[NewtonIteration], None] | None = None,
) -> NewtonResult:
    """Minimise a convex problem by Newton's method: x <- x - gamma H^-1 g.

    Parameters
    ----------
    problem : LogisticRegression
        Or any problem with its methods `margins`, `evaluate`, `losses_along`, `curvature_at`.
    x0 : (n,) array, optional
        The start; zero by default.
    options : NewtonOptions
    on_iteration : callable, optional
        Called with each row of the history as it is made, on every rank.

    Returns
    -------
    NewtonResult
        The last iterate; with the line search it is also the best.

    Raises
    ------
    InputError
        For options out of range or a start that does not fit.
    NumericalError
        If objective or gradient are no longer finite, or a direct factorisation fails.

    Notes
    -----
    A step costs one pass for A d, one for the gradient, and its solve: CG iterations of one pass
    each (pcg), a sketch (lowrank) or one pass and n^2 words (direct). Newton systems are solved
    to a relative residual min(0.1, 0.9 (||g_k|| / ||g_k-1||)^2) (Eisenstat and Walker 1996,
    choice 2), never further than half the tolerance on g. The line search evaluates four steps in
    one reduction from cached margins, and takes a decrease within the rounding of the objective
    for a decrease.
    """
    options.validate()
    start = time.perf_counter()
    world, ledger = problem.world, problem.world.ledger
    x = np.zeros(problem.n) if x0 is None else problem.check_point(x0).copy()
    solver, choice = options.solver, ""
    if solver == "auto":
        ranks = 1 if world.reproducible else world.size  # the choice must not depend on it then
        solver, choice = cheapest_solver(
            problem.n, problem.rows, ranks, options.rank, options.oversample
        )
    solve = _Solvers(problem, options, solver)
    margins = problem.margins(x)
    objective, gradient = problem.evaluate(x, margins)
    norm = previous = least = float(np.linalg.norm(gradient))
    history: list[NewtonIteration] = []

    def record(step: float, cg_iterations: int, factor: LowRank | None) -> None:
        row = NewtonIteration(
            len(history),
            objective,
            norm,
            step,
            cg_iterations,
            factor.rank if factor else 0,
            factor.certificate.relative_error if factor else float("nan"),
            ledger.passes,
            ledger.words_reduced,
            time.perf_counter() - start,
        )
        history.append(row)
        if on_iteration is not None:
            on_iteration(row)

    record(0.0, 0, None)
    idle = 0
    while True:
        if not world.decide(np.isfinite(objective) and np.isfinite(norm)):
            raise NumericalError(
                f"objective {objective} or gradient norm {norm} is not finite after "
                f"{len(history) - 1} steps; take a smaller --gamma or the line search"
            )
        if world.decide(norm <= options.tolerance):
            converged, reason = True, "the gradient norm reached the tolerance"
            break
        if world.decide(idle == IDLE):
            converged, reason = False, "steps gain nothing: at the rounding level, or too long"
            break
        if len(history) > options.max_iterations:
            converged, reason = False, f"stopped after {options.max_iterations} iterations"
            break
        forcing = forcing_term(norm, previous if len(history) > 1 else 0.0)
        goal = max(forcing * norm, 0.5 * options.tolerance)
        direction, cg_iterations, factor = solve(x, margins, gradient, goal)
        along = problem.margins(direction)
        slope = float(gradient @ direction)
        if options.step == "fixed":
            step = options.gamma
        else:
            with ledger.timed("line search"):
                step = _line_search(problem, x, direction, slope, objective, margins, along)
        if step == 0.0:
            converged, reason = False, "no step decreases the objective: at the rounding level"
            break
        x = x + step * direction
        margins = margins + step * along
        previous, before = norm, objective
        with ledger.timed("gradient"):
            objective, gradient = problem.evaluate(x, margins)
        norm = float(np.linalg.norm(gradient))
        record(step, cg_iterations, factor)
        gained = norm < 0.9 * least or objective < before - ROUNDING * abs(before)
        idle = 0 if gained else idle + 1
        least = min(norm, least)
    return NewtonResult(
        x, objective, norm, len(history) - 1, converged, reason, solver, choice, tuple(history)
    )


class _Solvers:
    """Solves (H + ridge I) d = -g in one of three ways, keeping the factor between steps."""

    def __init__(self, problem, options: NewtonOptions, solver: str):
        self.problem, self.options = problem, options
        self.solve = getattr(self, solver)
        self.factor: LowRank | None = None
        self.upkeep = Upkeep()

    def __call__(self, x, margins, gradient, goal):
        with self.problem.world.ledger.timed("solve"):
            hessian = HessianOperator(self.problem, x, self.problem.curvature_at(margins))
            return self.solve(hessian, gradient, goal)

    def direct(self, hessian, gradient, goal):
        H = hessian.to_dense()
        H[np.diag_indices_from(H)] += self.problem.ridge
        try:
            direction = self.problem.world.on_root(_cholesky_solve, H, -gradient)
        except np.linalg.LinAlgError:
            raise NumericalError(
                "the Hessian plus ridge is not positive definite; raise --ridge or use --solver pcg"
            ) from None
        return direction, 0, None

    def lowrank(self, hessian, gradient, goal):
        self.factor = self._compress(hessian)
        direction = self.factor.solve(-gradient, self.problem.ridge, self.options.tail)
        return direction, 0, self.factor

    def pcg(self, hessian, gradient, goal):
        norm = float(np.linalg.norm(gradient))
        to_go = np.log10(norm / self.options.tolerance)
        columns = self.options.rank + self.options.oversample
        fresh = self.factor is None or self.upkeep.refresh_pays(to_go, columns)
        if self.problem.world.decide(fresh):
            self.factor = self._compress(hessian)
        ridge = self.problem.ridge
        result = conjugate_gradients(
            hessian.shifted(ridge),
            -gradient,
            tolerance=goal,
            preconditioner=self.factor.preconditioner(ridge),
        )
        self.upkeep = self.upkeep.after(result.iterations, norm, result.residual_norm, fresh)
        return result.x, result.iterations, self.factor

    def _compress(self, hessian) -> LowRank:
        with self.problem.world.ledger.timed("compress"):
            options = self.options
            return compress(
                hessian,
                options.rank,
                method="nystrom" if hessian.psd else "eigh",
                oversample=options.oversample,
                power=0,
                seed=options.seed,
            )


def _cholesky_solve(H: np.ndarray, b: np.ndarray) -> np.ndarray:
    return scipy.linalg.cho_solve(scipy.linalg.cho_factor(H, lower=True, check_finite=False), b)


def _line_search(problem, x, direction, slope, objective, margins, along) -> float:
    """The largest of the trial steps with sufficient decrease; 0.0 if there is none."""
    xx, xd, dd = x @ x, x @ direction, direction @ direction
    for trial_round in range(TRIAL_ROUNDS):
        steps = TRIALS * (TRIALS[-1] / 2) ** trial_round
        losses = problem.losses_along(margins, along, steps)
        trials = losses + problem.ridge / 2 * (xx + 2 * steps * xd + steps**2 * dd)
        enough = trials <= objective + ARMIJO * steps * slope + ROUNDING * abs(objective)
        accepted = problem.world.broadcast(int(np.argmax(enough)) if enough.any() else -1)
        if accepted >= 0:
            return float(steps[accepted])
    return 0.0
