"""Newton's method for convex sharded problems, with a compressed Hessian."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace

import numpy as np
import scipy.linalg

from hesscomp.compression import blank_factor, compress
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.errors import InputError, Interrupted, NumericalError
from hesscomp.factors import Certificate, Factor, from_contents
from hesscomp.factors.lowrank import tail_number
from hesscomp.krylov.cg import conjugate_gradients
from hesscomp.optimizers.upkeep import VECTOR_PENALTY, Upkeep
from hesscomp.parallel.layout import Replicated
from hesscomp.parallel.ledger import Ledger
from hesscomp.runs.checkpoint import Checkpoint, open_run, save_checkpoint
from hesscomp.runs.history import History
from hesscomp.storage.lock import sole_use

SOLVERS = ("auto", "pcg", "lowrank", "direct")
STEPS = ("line-search", "fixed")

ARMIJO = 1e-4  # sufficient decrease (Nocedal and Wright 2006, equation 3.4)
TRIALS = 0.5 ** np.arange(4)  # steps tried together; then as many smaller ones
TRIAL_ROUNDS = 8
ROUNDING = 16 * np.finfo(np.float64).eps  # relative noise of an objective, for the line search
FORCING = 0.1  # largest relative residual of a Newton system (Eisenstat and Walker 1996)
USUAL_CG = 12  # lone columns that a preconditioned Newton step takes, for the choice of a solver
USUAL_STEPS = 8
NUMBERS = ("objective", "norm", "previous", "least", "idle")  # of a run, in checkpoints
TOTALS = ("passes", "words_reduced", "seconds")  # of the history, in checkpoints
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


KINDS = {field.name: field.type for field in fields(NewtonIteration)}


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
    *,
    folder: str | os.PathLike | None = None,
    save_every: int = 1,
) -> NewtonResult:
    """Minimise a convex problem by Newton's method: x <- x - gamma H^-1 g.

    Parameters
    ----------
    problem : LogisticRegression
        Or any problem with its methods `margins`, `evaluate`, `losses_along`, `curvature_at`, and
        for a folder `known_margins` and `shard`.
    x0 : (n,) array, optional
        The start; zero by default.
    options : NewtonOptions
    on_iteration : callable, optional
        Called with each row of the history as it is made, on every rank.
    folder : path, optional
        Gets `checkpoint.h5` and the one before it. Where it holds a checkpoint of the same run,
        that is where the run goes on; `max_iterations` may be another one.
    save_every : int
        Steps between checkpoints; one is made at the end too.

    Returns
    -------
    NewtonResult
        The last iterate; with the line search it is also the best. With the same numbers, bit for
        bit on the same number of ranks and threads, whether the run was stopped and gone on with or
        not; in reproducible mode on any number of ranks.

    Raises
    ------
    InputError
        For options out of range, a start that does not fit, a folder with another run.
    Interrupted
        If a rank was asked to stop (`World.stop_asked`): the run ends after the present block
        product, with a checkpoint of the last step.
    NumericalError
        If objective or gradient are no longer finite, or a direct factorisation fails.

    Notes
    -----
    A step costs one pass for A d, one for the gradient, and its solve: CG iterations of one pass
    each (pcg), a sketch (lowrank) or one pass and n^2 words (direct). Newton systems are solved
    to a relative residual min(0.1, 0.9 (||g_k|| / ||g_k-1||)^2) (Eisenstat and Walker 1996,
    choice 2), never further than half the tolerance on g. The line search evaluates four steps in
    one reduction from cached margins, and takes a decrease within the rounding of the objective
    for a decrease. Cached margins are part of a checkpoint, each rank writing those of its rows.
    """
    options.validate()
    if save_every < 1:
        raise InputError(f"checkpoints are made every 1 or more steps, not {save_every}")
    run = _Run(problem, options, on_iteration, folder, save_every)
    with sole_use(folder, problem.world):
        return run.run(x0)


class _Run:
    """One run's progress: what a checkpoint holds, and the rules for moving on."""

    def __init__(self, problem, options: NewtonOptions, on_iteration, folder, save_every: int):
        self.problem, self.world, self.options = problem, problem.world, options
        self.on_iteration, self.folder, self.save_every = on_iteration, folder, save_every
        self.begun = time.perf_counter()
        self.quiet = self.world.with_ledger(Ledger())  # totals are those of the method alone
        self.before = dict.fromkeys(TOTALS, 0)  # what the totals were when a checkpoint was made
        self.history: list[NewtonIteration] = []
        self.idle, self.saved = 0, -1

    @property
    def steps(self) -> int:
        return len(self.history) - 1

    def run(self, x0) -> NewtonResult:
        problem = self.problem
        self.x = np.zeros(problem.n) if x0 is None else problem.check_point(x0).copy()
        found = self._found()
        if found is None:
            self._start()
        else:
            self._restore(found)
        ended = None
        while ended is None:
            checkpoint = self._checkpoint()
            ended = self._judge()
            if ended is not None or self.steps % self.save_every == 0:
                self._save(checkpoint)
            if ended is None:
                try:
                    self.world.check_interrupt()
                    ended = self._step()
                except Interrupted as why:
                    self._save(checkpoint)
                    why.reached = (
                        f"after {self.steps} steps at objective {self.objective:.10g} with "
                        f"||gradient|| {self.norm:.3g}"
                    )
                    raise
        return NewtonResult(
            self.x, self.objective, self.norm, self.steps, *ended, self.solver, self.choice,
            tuple(self.history),
        )  # fmt: skip

    def _start(self) -> None:
        problem, options = self.problem, self.options
        self.solver, self.choice = options.solver, ""
        if self.solver == "auto":
            ranks = 1 if self.world.reproducible else self.world.size  # it must not depend on it
            self.solver, self.choice = cheapest_solver(
                problem.n, problem.rows, ranks, options.rank, options.oversample
            )
        self.solve = _Solvers(problem, options, self.solver)
        self.margins = problem.margins(self.x)
        self.objective, self.gradient = problem.evaluate(self.x, self.margins)
        self.norm = self.previous = self.least = float(np.linalg.norm(self.gradient))
        self._record(0.0, 0, None)

    def _record(self, step: float, cg_iterations: int, factor: Factor | None) -> None:
        totals = self._totals()
        row = NewtonIteration(
            len(self.history),
            self.objective,
            self.norm,
            step,
            cg_iterations,
            factor.rank if factor else 0,
            factor.certificate.relative_error if factor else float("nan"),
            totals["passes"],
            totals["words_reduced"],
            totals["seconds"],
        )
        self.history.append(row)
        if self.on_iteration is not None:
            self.on_iteration(row)

    def _totals(self) -> dict[str, float]:
        ledger, seconds = self.world.ledger, time.perf_counter() - self.begun
        now = dict(zip(TOTALS, (ledger.passes, ledger.words_reduced, seconds), strict=True))
        return {name: self.before[name] + value for name, value in now.items()}

    def _judge(self) -> tuple[bool, str] | None:
        """Whether the run ends here: converged or not, and why."""
        world, options = self.world, self.options
        if not world.decide(np.isfinite(self.objective) and np.isfinite(self.norm)):
            raise NumericalError(
                f"objective {self.objective} or gradient norm {self.norm} is not finite after "
                f"{self.steps} steps; take a smaller `gamma` or the line search"
            )
        if world.decide(self.norm <= options.tolerance):
            return True, "the gradient norm reached the tolerance"
        if world.decide(self.idle == IDLE):
            return False, "steps gain nothing: at the rounding level, or too long"
        if self.steps >= options.max_iterations:
            return False, f"max_iterations is {options.max_iterations}"
        return None

    def _step(self) -> tuple[bool, str] | None:
        """Take a step; where there is none to take, as `_judge`."""
        problem, options, ledger = self.problem, self.options, self.world.ledger
        forcing = forcing_term(self.norm, self.previous if self.steps else 0.0)
        goal = max(forcing * self.norm, 0.5 * options.tolerance)
        direction, cg_iterations, factor = self.solve(self.x, self.margins, self.gradient, goal)
        along = problem.margins(direction)
        slope = float(self.gradient @ direction)
        if options.step == "fixed":
            step = options.gamma
        else:
            with ledger.timed("line search"):
                step = _line_search(
                    problem, self.x, direction, slope, self.objective, self.margins, along
                )
        if step == 0.0:
            return False, "no step decreases the objective: at the rounding level"
        self.x = self.x + step * direction
        self.margins = self.margins + step * along
        self.previous, before = self.norm, self.objective
        with ledger.timed("gradient"):
            self.objective, self.gradient = problem.evaluate(self.x, self.margins)
        self.norm = float(np.linalg.norm(self.gradient))
        self._record(step, cg_iterations, factor)
        gained = self.norm < 0.9 * self.least or self.objective < before - ROUNDING * abs(before)
        self.idle = 0 if gained else self.idle + 1
        self.least = min(self.norm, self.least)
        return None

    # Checkpoints

    def _found(self) -> Checkpoint | None:
        if self.folder is None:
            return None
        problem, shard = self.problem, self.problem.shard
        self.facts = {
            "optimizer": "newton",
            "options": str(replace(self.options, max_iterations=0)),
            **problem.facts(self.x),
        }
        rows = shard.start, shard.start + len(shard.y)
        self.ranges = self.world.gather(rows)
        return open_run(self.folder, self._blank(len(shard.y)), self.quiet, rows)

    def _blank(self, rows: int) -> Checkpoint:
        """What has the form of a checkpoint before the first step."""
        x, start = np.zeros(self.problem.n), NewtonIteration(0, *[0.0] * 5, np.nan, *[0.0] * 3)
        facts = {**self.facts, **dict.fromkeys((*NUMBERS, *TOTALS), 0.0)}
        state = _Solvers(self.problem, self.options, "pcg").state()
        history = History([start.as_dict()])
        return Checkpoint(
            0, {"x": x, "gradient": x}, state, {}, facts, history, np.zeros((rows, 1))
        )

    def _checkpoint(self) -> Checkpoint | None:
        """All that the next step depends on; arrays are not copied, since none is changed."""
        if self.folder is None:
            return None
        history = History([row.as_dict() for row in self.history])
        return Checkpoint(
            self.steps,
            {"x": self.x, "gradient": self.gradient},
            self.solve.state(),
            {},
            {
                **self.facts,
                **{name: getattr(self, name) for name in NUMBERS},
                **self._totals(),
                "solver": self.solver,
                "choice": self.choice,
            },
            history,
            np.asarray(self.margins)[:, None],
            self.ranges,
        )

    def _save(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None and self.saved != checkpoint.step:
            save_checkpoint(checkpoint, self.folder, self.quiet)
            self.saved = checkpoint.step

    def _restore(self, found: Checkpoint) -> None:
        facts, totals = found.facts, self._totals()
        self.x, self.gradient = found.arrays["x"], found.arrays["gradient"]
        self.margins = self.problem.known_margins(found.rows[:, 0])
        for name in NUMBERS:
            setattr(self, name, facts[name])
        self.before = {name: facts[name] - totals[name] for name in TOTALS}
        self.solver, self.choice = facts.get("solver"), facts.get("choice")
        if self.solver not in SOLVERS[1:]:
            raise InputError(f"{self.folder}: its checkpoint names no solver; remove it")
        self.solve = _Solvers(self.problem, self.options, self.solver)
        self.solve.restore(found.state)
        self.history = [
            NewtonIteration(**{name: kind(row[name]) for name, kind in KINDS.items()})
            for row in found.history.rows
        ]
        self.saved = found.step


class _Solvers:
    """Solves (H + ridge I) d = -g in one of three ways, keeping the factor between steps."""

    def __init__(self, problem, options: NewtonOptions, solver: str):
        self.problem, self.options = problem, options
        self.solve = getattr(self, solver)
        self.factor: Factor | None = None
        self.upkeep = Upkeep()

    def state(self) -> dict[str, np.ndarray | float]:
        """The factor and how it has served, for checkpoints."""
        factor = blank_factor(self.problem.n) if self.factor is None else self.factor
        certificate = factor.certificate
        return {
            **{name: float(value) for name, value in asdict(self.upkeep).items()},
            **factor.contents(),
            "error": certificate.frobenius_error_estimate,
            "norm": certificate.frobenius_norm_estimate,
        }

    def restore(self, state: dict[str, np.ndarray | float]) -> None:
        """Go on from a `state`."""
        self.upkeep = Upkeep(state["rate"], state["fresh_rate"])
        layout = Replicated(self.problem.n, self.problem.world)
        factor = from_contents(state, Certificate(state["error"], state["norm"]), layout)
        if not factor.is_blank:
            self.factor = factor

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
                "the Hessian plus ridge is not positive definite; raise `ridge` or use `solver` pcg"
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

    def _compress(self, hessian) -> Factor:
        with self.problem.world.ledger.timed("compress"):
            options = self.options
            return compress(
                hessian,
                options.rank,
                method="nystrom" if hessian.psd else "eigh",
                oversample=options.oversample,
                power=0,
                seed=options.seed,
                layout="replicated",
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
