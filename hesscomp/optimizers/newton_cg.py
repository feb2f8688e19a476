"""Newton-CG: line search or trust region, a factor as preconditioner, saddle-free steps."""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from hesscomp.compression import FORMATS
from hesscomp.compression.formats import LOW_RANK
from hesscomp.errors import InputError
from hesscomp.factors import Factor, LowRank
from hesscomp.krylov.cg import conjugate_gradients, steihaug
from hesscomp.operators.operator import Operator
from hesscomp.optimizers.acceptance import adapt_radius, forcing_term, reduction_ratio
from hesscomp.optimizers.batches import Task
from hesscomp.optimizers.earned import Choice, Earned
from hesscomp.optimizers.optimizer import Outcome, State
from hesscomp.optimizers.options import AUTO
from hesscomp.optimizers.preconditioners import HORIZON, squared_gradients
from hesscomp.options import option

ACCEPTED = 1e-4  # smallest reduction ratio of an accepted step


@dataclass(frozen=True)
class NewtonCG(Earned):
    """Newton's method with steps by conjugate gradients or by a low-rank factor.

    With a batch for the curvature and a semidefinite Hessian, the low-rank preconditioner makes it
    sub-sampled Newton with a Nystrom preconditioner. Systems are solved to `forcing_term`, and
    no further than to half the gradient norm at which the run ends.

    Notes
    -----
    A step costs the gradient, a product for each CG iteration, the sketch of a new factor where one
    pays, and an objective for each trial. Memory: the factor, n (rank + oversample) numbers, and a
    few vectors. Nocedal and Wright, "Numerical Optimization" (2006), algorithms 7.1 and 7.2 (CG
    with a line search, and Steihaug's); Xu, Roosta and Mahoney, "Newton-type methods for non-convex
    optimization under inexact Hessian information" (Mathematical Programming 184, 2020), for the
    batches. InputError for saddle-free steps with a trust region.

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"))
    >>> hc.train(problem, hc.NewtonCG(rank=20), max_steps=4).best_objective < 0.34
    True
    """

    globalization: str = option(
        "line-search", choices=("line-search", "trust-region"),
        help="line-search: CG, ended by negative curvature, then Armijo backtracking by halves; "
        "trust-region: Steihaug's CG, which leaves saddle points",
    )  # fmt: skip
    solver: str = option(
        "cg", choices=("cg", "saddle-free"),
        help="saddle-free, with line search only: -(|F| + shift)^-1 g with a factor F of the "
        "Hessian made in every step and its smallest |w| for the unresolved spectrum (Dauphin and "
        "others 2014, low rank)",
    )  # fmt: skip
    curvature: str = option(
        "hessian", choices=("hessian", "gauss-newton"), help="matrix of the Newton system"
    )
    preconditioner: str | Factor = option(
        AUTO, choices=(AUTO, *FORMATS, "diagonal", "none"),
        help="preconditioner of CG; low-rank, hbs or hodlr: a factor of the matrix, sketched again "
        "when that pays; auto: low-rank, of linear models only where CG and a probe have shown "
        "that it pays; diagonal: from squared gradients, as for hessian-free",
    )  # fmt: skip
    _: KW_ONLY
    max_cg: int = option(500, low=1, help="most CG iterations of a step")
    radius: float = option(
        1.0, above=0, help="first radius, in the norm of the preconditioner's inverse"
    )
    damping: float = option(
        0.0, low=0,
        help="what is added to the matrix' diagonal; it grows after numbers that are not finite",
    )  # fmt: skip
    name = "newton-cg"

    def _check(self) -> None:
        super()._check()
        if self.solver == "saddle-free" and self.globalization != "line-search":
            raise InputError("saddle-free steps take a line search, no trust region")
        given = self.given_factor is not None
        if self.solver == "saddle-free" and (given or self.factor_format != LOW_RANK):
            what = "the one given" if given else self.factor_format
            raise InputError(
                f"saddle-free steps make a {LOW_RANK} factor each, and take not {what}; leave "
                "`preconditioner` out"
            )

    def start(self, x):
        numbers = {"radius": self.radius, "damping": self.damping, "previous_norm": 0.0}
        return {**numbers, **self.first_factor(len(x))}

    def recover(self, state):
        damping = max(10 * state["damping"], 1e-4)
        return {**state, "damping": damping, "radius": state["radius"] / 10}

    def step(self, task: Task, state: State) -> Outcome:
        batch = task.curvature_batch
        base = batch.hessian(task.x) if self.curvature == "hessian" else batch.gauss_newton(task.x)
        forcing = forcing_term(task.gradient_norm, state["previous_norm"])
        state = {**state, "previous_norm": task.gradient_norm}
        if self.solver == "saddle-free":
            return self._saddle_free(task, state, base)
        if self.globalization == "trust-region":
            return self._trust_region(task, state, base, forcing)
        state, result, costs = self._solve(task, state, base, forcing, conjugate_gradients)
        return self._moved(task, state, result.x, costs)

    def _saddle_free(self, task: Task, state: State, base: Operator) -> Outcome:
        shift = task.ridge + state["damping"]
        factor = self.new_factor(base)
        assert isinstance(factor, LowRank)  # as `_check` sees to
        direction = -(factor.positive().preconditioner(shift) @ task.gradient)
        costs = {"cg_iterations": 0.0, "sketch_columns": float(factor.provenance.columns)}
        return self._moved(task, state, direction, costs)

    def _moved(self, task: Task, state: State, direction: np.ndarray, costs: dict) -> Outcome:
        line = task.line(direction)
        search = line.search()
        values = {"step_length": search.length, **costs}
        return Outcome(line.end(search.length), state, values, stuck=search.length == 0)

    def _trust_region(self, task, state, base, forcing) -> Outcome:
        def solve(*arguments, **options):
            return steihaug(*arguments, state["radius"], **options)

        state, result, costs = self._solve(task, state, base, forcing, solve)
        ratio = reduction_ratio(task.value, task.trial(task.x + result.x), -result.model)
        radius = adapt_radius(state["radius"], ratio, result.length, result.boundary)
        state["radius"] = task.world.broadcast(float(radius))
        accepted = task.world.decide(ratio > ACCEPTED)
        values = {
            "step_length": float(np.linalg.norm(result.x)) if accepted else 0.0,
            **costs,
            "ratio": float(ratio),
            "radius": state["radius"],
        }
        stuck = not accepted and state["radius"] < np.finfo(np.float64).eps ** 2
        return Outcome(task.x + result.x if accepted else task.x, state, values, stuck)

    def _solve(self, task, state, base, forcing, solver):
        """The state with the factor that served, the solution by a form of CG, what it cost."""
        shift, choice, batch = task.ridge + state["damping"], Choice(), task.curvature_batch
        norm, goal = task.gradient_norm, task.goal if task.whole else 0.0
        if self.by_factor:
            horizon = np.log10(norm / goal) if goal else -HORIZON * np.log10(forcing)
            choice = self.choose(base, state, horizon, shift, batch.diagonal_of(task.x))
        elif self.preconditioner == "diagonal":
            choice = Choice(squared_gradients(batch, task.x, shift))
        limit = self.max_cg if choice.limit is None else min(choice.limit, self.max_cg)
        result = solver(
            task.regularized(base, state["damping"]),
            -task.gradient,
            tolerance=max(forcing * norm, 0.5 * goal),
            preconditioner=choice.M,
            max_iterations=limit,
        )
        if self.by_factor:
            state = self.solved(state, choice, result, norm)
        return state, result, {"cg_iterations": float(result.iterations), **choice.values}
