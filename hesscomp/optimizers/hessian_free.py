"""Hessian-free optimization: damped Gauss-Newton systems by truncated conjugate gradients.

Martens, "Deep learning via Hessian-free optimization" (ICML 2010); Martens and Sutskever,
"Training deep and recurrent networks with Hessian-free optimization" (2012).
"""

import math
from dataclasses import dataclass

import numpy as np

from hesscomp.compression import FORMATS
from hesscomp.factors import Factor
from hesscomp.krylov.cg import Recurrence
from hesscomp.operators.operator import Operator
from hesscomp.optimizers.acceptance import ROUNDING, backtrack, levenberg_marquardt, reduction_ratio
from hesscomp.optimizers.batches import Task, View
from hesscomp.optimizers.optimizer import Outcome, State
from hesscomp.optimizers.preconditioners import HORIZON, Refreshed, kronecker, squared_gradients
from hesscomp.options import option

PROGRESS = 5e-4  # least relative decrease of the quadratic an iteration, over the last k
SHORTEST_LOOK = 10  # k is at least this,
LOOK = 0.1  # and at least this share of the iterations
SPACING = 1.3  # iterates are kept at iterations ceil(1.3^j)
SUFFICIENT, SHRINK, TRIALS = 1e-2, 0.8, 60  # of the line search


@dataclass(frozen=True)
class HessianFree(Refreshed):
    """Martens' method. The gradient batch should be larger than that of the curvature.

    Notes
    -----
    A step costs the gradient, one curvature product for each CG iteration, some objectives, and
    for the diagonal a pass of squared gradients, for Kronecker factors two passes and the
    inverses of matrices of each layer's width. Memory: about 20 kept iterates for 250
    iterations. InputError from a problem that has no Gauss-Newton matrix, no squared gradients
    (diagonal) or no Kronecker factors (kronecker).

    Examples
    --------
    >>> import keras, numpy as np
    >>> import hesscomp as hc
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> data = np.eye(2), np.array([1.0, 2.0])
    >>> found = hc.train(model, hc.HessianFree(damping=0.1), "mse", data, max_steps=5)
    >>> found.best_objective < 1e-3
    True
    """

    damping: float = option(
        45.0, above=0, help="first lambda; then by the Levenberg-Marquardt rule"
    )
    decay: float = option(
        0.95, low=0, high=1,
        help="CG starts from this times the last solution, as it was before backtracking",
    )  # fmt: skip
    max_cg: int = option(250, low=1, help="most CG iterations of a step")
    preconditioner: str | Factor = option(
        "diagonal", choices=("diagonal", "kronecker", *FORMATS, "none"),
        help="diagonal: (mean of squared per-example gradients + lambda + ridge)^0.75, over the "
        "curvature batch; kronecker: K-FAC, products of small factors for each dense or "
        "convolutional layer, the diagonal elsewhere (Martens and Grosse 2015); low-rank, hbs "
        "or hodlr: a factor of the Gauss-Newton matrix, sketched again when that pays",
    )  # fmt: skip
    name = "hessian-free"

    def start(self, x):
        return {"damping": self.damping, "solution": np.zeros_like(x), **self.first_factor(len(x))}

    def recover(self, state):
        return {
            **state, "damping": 10 * state["damping"], "solution": np.zeros_like(state["solution"])
        }  # fmt: skip

    def step(self, task: Task, state: State) -> Outcome:
        matrix = task.curvature_batch.gauss_newton(task.x)
        shift = task.ridge + state["damping"]
        M, factor, sketched = self._preconditioner(task, state, matrix, shift)
        solved = truncated_cg(
            task.regularized(matrix, state["damping"]), -task.gradient,
            self.decay * state["solution"], M, self.max_cg,
        )  # fmt: skip
        state = {**state, "solution": solved.iterates[-1][0]}
        if factor is not None:
            solve = solved.iterations, solved.first_norm, solved.last_norm
            state.update(self.served(state, factor, sketched, solve))
        direction, quadratic, value = best_iterate(task, solved)
        slope, objective = float(task.gradient @ direction), task.acceptance_batch.objective
        undamped = slope + (quadratic - state["damping"] * (direction @ direction)) / 2
        ratio = reduction_ratio(task.value, value, -undamped) if undamped < 0 else -np.inf
        search = backtrack(
            lambda lengths: [
                value if length == 1 else objective(task.x + length * direction)
                for length in lengths
            ],
            task.value, slope, task.world,
            sufficient=SUFFICIENT, shrink=SHRINK, trials=TRIALS,
        )  # fmt: skip
        damping = state["damping"]
        state["damping"] = task.world.broadcast(float(levenberg_marquardt(damping, ratio)))
        values = {
            "step_length": search.length,
            "cg_iterations": float(solved.iterations),
            "sketch_columns": float(sketched),
            "damping": damping,
            "ratio": float(ratio),
        }
        return Outcome(task.x + search.length * direction, state, values)

    def _preconditioner(self, task: Task, state: State, matrix: Operator, shift: float):
        """Return it, the factor that it is made of, and the columns that were sketched for that."""
        if self.preconditioner == "none":
            return None, None, 0
        if self.preconditioner == "diagonal":
            return squared_gradients(task.curvature_batch, task.x, shift), None, 0
        if self.preconditioner == "kronecker":
            return kronecker(task.curvature_batch, task.x, shift, self.seed + task.step), None, 0
        factor, sketched = self.current_factor(matrix, state, HORIZON)
        return factor.preconditioner(shift), factor, sketched


@dataclass(frozen=True)
class Truncated:
    """What `truncated_cg` leaves."""

    iterates: list[tuple[np.ndarray, float]]  # those kept, the last one last, with p^T A p
    iterations: int  # products, that of a start included
    first_norm: float  # ||b - A p|| at the start
    last_norm: float  # and at the end


def truncated_cg(A: Operator, b: np.ndarray, start: np.ndarray, M, limit: int) -> Truncated:
    """Minimise phi(p) = p^T A p / 2 - b^T p by CG until phi stops falling (Martens 2010, 4.4).

    Stops after iteration i > k with phi_i < 0 and (phi_i - phi_{i-k}) / phi_i < 5e-4 k, where
    k = max(10, 0.1 i); at most `limit` products. Iterates at ceil(1.3^j) are kept (section 4.6).
    """
    cg = Recurrence(A, b, M, start if np.any(start) else None)
    first_norm, values, kept, due = cg.norm, [_phi(cg, b)], [], 0
    iteration = kept_at = 0
    while cg.products < limit and A.world.decide(cg.norm > 0):
        if A.world.decide(not cg.probe() > 0):
            break
        cg.advance()
        iteration += 1
        values.append(_phi(cg, b))
        k = max(SHORTEST_LOOK, math.ceil(LOOK * iteration))
        done = (
            iteration > k
            and values[-1] < 0
            and (values[-1] - values[-1 - k]) / values[-1] < k * PROGRESS
        )
        if iteration == math.ceil(SPACING**due):
            kept.append((cg.x.copy(), float(cg.x @ (b - cg.r))))
            kept_at = iteration
            while math.ceil(SPACING**due) <= iteration:
                due += 1
        if A.world.decide(done):
            break
    if not kept or kept_at < iteration:
        kept.append((cg.x, float(cg.x @ (b - cg.r))))
    return Truncated(kept, cg.products, first_norm, cg.norm)


def _phi(cg: Recurrence, b: np.ndarray) -> float:
    return float(-cg.x @ (b + cg.r) / 2)


def best_iterate(task: Task, solved: Truncated) -> tuple[np.ndarray, float, float]:
    """Go back from the last iterate while the acceptance batch's objective does not rise.

    Return p, p^T A p and the objective there (Martens 2010, section 4.6).
    """
    view: View = task.acceptance_batch
    (best, quadratic), *others = reversed(solved.iterates)
    value = view.objective(task.x + best)
    for p, form in others:
        earlier = view.objective(task.x + p)
        lower = earlier <= value + ROUNDING * abs(value)  # a plateau of rounding is no rise
        if task.world.decide(np.isfinite(value) and not lower):
            break
        best, quadratic, value = p, form, earlier
    return best, quadratic, value
