"""DRSOM: steps along a few directions, by an exact quadratic model (Zhang and others 2022).

Zhang, Ge, He, Jiang, Jiang and Ye, "DRSOM: a dimension reduced second-order method",
arXiv 2208.00208.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hesscomp.optimizers.acceptance import adapt_radius, reduction_ratio
from hesscomp.optimizers.batches import Task
from hesscomp.optimizers.optimizer import Optimizer, Outcome, State
from hesscomp.optimizers.subproblem import Step, cubic, damped, trust_region
from hesscomp.options import option
from hesscomp.parallel import random

EPS = np.finfo(np.float64).eps
ACCEPTED = 1e-4  # smallest reduction ratio of an accepted step
TRIALS = 30  # models tried in one step
CAREFUL = 100.0  # how much more careful a control gets after numbers that were not finite


@dataclass(frozen=True)
class DRSOM(Optimizer):
    """Minimise a quadratic model over the span of m directions, the gradient the first of them.

    Notes
    -----
    After the gradient, a step costs one pass and reduces m (m + 1) / 2 words with products (krylov
    needs further products of n words a column), and one word for each objective tried. Memory: m
    vectors twice. Zhang, Ge, He, Jiang, Jiang and Ye, arXiv 2208.00208, algorithm 1.

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"))
    >>> hc.train(problem, hc.DRSOM(count=3), max_steps=10).best_objective < 0.4
    True
    """

    directions: str = option(
        "momentum", choices=("momentum", "random", "krylov"),
        help="directions beside the gradient g; momentum: the last moves d_k = x_k - x_k-1, "
        "d_k-1, ...; random: orthogonal to g and each other; krylov: d_k, then H g, H d_k, H^2 g, "
        "...",
    )  # fmt: skip
    count: int = option(2, low=2, high=20, help="number m of directions")
    curvature: str = option(
        "products", choices=("products", "differences", "interpolation"),
        help="how Q = D^T H D is found; products: by a block product; differences: of m gradients; "
        "interpolation: by m (m + 1) + 1 function values, whose second differences along the sums "
        "of two directions are right for any m",
    )  # fmt: skip
    control: str = option(
        "radius", choices=("radius", "radius-free", "cubic"),
        help="what keeps steps where the model is good, adapted by the reduction ratio; radius: a "
        "trust region; radius-free: a multiplier from gamma; cubic: a term (weight / 3) ||a||^3",
    )  # fmt: skip
    radius: float = option(1.0, above=0, help="first radius")
    gamma: float = option(1e-6, above=0, help="first gamma")
    weight: float = option(1.0, above=0, help="first weight")
    accept: bool = option(
        True,
        help="whether a step must lower the acceptance batch's objective; if not, the control "
        "stays as it is: for small batches",
    )  # fmt: skip
    name = "drsom"

    def start(self, x):
        kept = {"momentum": self.count - 1, "random": 0, "krylov": 1}[self.directions]
        return {"control": getattr(self, self._control.first), "moves": np.zeros((len(x), kept))}

    def recover(self, state):
        return {**state, "control": self._control.tightened(state["control"], CAREFUL)}

    @property
    def _control(self) -> "Control":
        return CONTROLS[self.control]

    def step(self, task: Task, state: State) -> Outcome:
        D = _unit_columns(self._directions(task, state))
        if not D.shape[1]:
            return Outcome(task.x, state, _values(None, np.nan, state["control"], 0), True)
        model = D.T @ task.gradient, CURVATURES[self.curvature](task, D), D.T @ D
        move, values, control = self._search(task, D, model, state["control"])
        if move is None:
            state = {"control": control, "moves": np.zeros_like(state["moves"])}
            return Outcome(task.x, state, values, stuck=True)
        moves = np.column_stack([move, state["moves"]])[:, : state["moves"].shape[1]]
        return Outcome(task.x + move, {"control": control, "moves": moves}, values)

    def _search(self, task: Task, D, model: tuple[Any, Any, Any], control):
        """Return the first accepted move or None, the values for the log, the next control."""
        rules = self._control
        for trials in range(1, TRIALS + 1):
            step, used = task.world.broadcast(rules.solve(*model, control)), control
            move = D @ step.coefficients
            if not self.accept:
                return move, _values(step, np.nan, used, trials), control
            promised = rules.promise(step, control)
            ratio = reduction_ratio(task.value, task.trial(task.x + move), promised)
            control = task.world.broadcast(rules.adapt(control, ratio, step))
            if task.world.decide(ratio > ACCEPTED):
                return move, _values(step, ratio, used, trials), control
        return None, _values(None, ratio, control, TRIALS), control

    def _directions(self, task: Task, state: State) -> np.ndarray:
        g = task.gradient[:, None]
        if self.directions == "momentum":
            return np.hstack([g, state["moves"]])
        if self.directions == "random":
            m, seed, rows = self.count - 1, task.batches.sampling.seed, (0, len(task.x))
            columns = task.step * m, (task.step + 1) * m
            normals = random.standard_normal(seed, random.DIRECTIONS, rows, columns)
            Q, _ = np.linalg.qr(np.hstack([g, normals]))
            return np.hstack([g, Q[:, 1:]])
        block = _unit_columns(np.hstack([g, state["moves"]]))
        D, hessian = block, task.regularized(task.curvature_batch.hessian(task.x))
        while block.shape[1] and D.shape[1] < self.count:
            block = _unit_columns(hessian @ block)
            D = np.hstack([D, block])
        return D[:, : self.count]


def _values(step: Step | None, ratio: float, control: float, trials: int) -> dict[str, float]:
    return {
        "step_length": step.length if step else 0.0,
        "multiplier": step.multiplier if step else np.nan,
        "ratio": ratio,
        "control": control,
        "trials": float(trials),
    }


def _unit_columns(D: np.ndarray) -> np.ndarray:
    """Scale the columns to unit length, and leave out those that are zero."""
    lengths = np.linalg.norm(D, axis=0)
    return D[:, lengths > 0] / lengths[lengths > 0]


# Curvature along unit directions D: (m, m), symmetric, ridge included


def _by_products(task: Task, D: np.ndarray) -> np.ndarray:
    return task.regularized(task.curvature_batch.hessian(task.x)).quadratic(D)


def _by_differences(task: Task, D: np.ndarray) -> np.ndarray:
    """Forward differences of gradients; relative error about sqrt(eps)."""
    view, x = task.curvature_batch, task.x
    h = np.sqrt(EPS) * (1 + np.linalg.norm(x))
    _, g = view.objective_and_gradient(x)
    images = [view.problem.objective_and_gradient(x + h * d)[1] - g for d in D.T]
    Q = D.T @ np.column_stack(images) / h
    return (Q + Q.T) / 2


def _by_interpolation(task: Task, D: np.ndarray) -> np.ndarray:
    """Second differences of values, along orthonormal directions; relative error about sqrt(eps).

    f'' along u_i + u_j is q_ii + 2 q_ij + q_jj, and q_ii along u_i.
    """
    view, x = task.curvature_batch, task.x
    U, R = np.linalg.qr(D)
    m = U.shape[1]  # fewer than the directions where those are more than n
    h = EPS**0.25 * (1 + np.linalg.norm(x))
    middle = view.objective(x)

    def second(u):
        ends = [view.problem.objective(x + sign * h * u) for sign in (1, -1)]
        return (ends[0] - 2 * middle + ends[1]) / h**2

    Q = np.diag([second(u) for u in U.T])
    for i in range(m):
        for j in range(i):
            Q[i, j] = Q[j, i] = (second(U[:, i] + U[:, j]) - Q[i, i] - Q[j, j]) / 2
    return R.T @ Q @ R


CURVATURES = {
    "products": _by_products,
    "differences": _by_differences,
    "interpolation": _by_interpolation,
}


# Controls: one number each


class Control:
    """How a model is kept from reaching too far: by a radius."""

    first = "radius"  # the option with the first value

    def solve(self, c, Q, G, radius: float) -> Step:
        return trust_region(c, Q, G, radius)

    def promise(self, step: Step, radius: float) -> float:
        """Return the decrease that the model expects."""
        return step.decrease

    def adapt(self, radius: float, ratio: float, step: Step) -> float:
        return adapt_radius(radius, ratio, step.length, step.length >= 0.99 * radius)

    def tightened(self, radius: float, factor: float) -> float:
        return radius / factor


class RadiusFree(Control):
    """By a multiplier lambda from gamma; the factors are those of the authors' code (DRSOM.jl)."""

    first, least = "gamma", 1e-16

    def solve(self, c, Q, G, gamma):
        return damped(c, Q, G, gamma)

    def adapt(self, gamma, ratio, step):
        if not ratio > 0.1:
            return 5 * gamma
        if ratio >= 0.5:
            return max(min(np.sqrt(gamma), np.log10(1 + gamma)), self.least)
        return gamma

    def tightened(self, gamma, factor):
        return gamma * factor


class Cubic(RadiusFree):
    """By a cubic term (adaptive regularisation: Cartis, Gould and Toint 2011)."""

    first, least = "weight", 1e-8

    def solve(self, c, Q, G, weight):
        return cubic(c, Q, G, weight)

    def promise(self, step, weight):
        return step.decrease - weight / 3 * step.length**3

    def adapt(self, weight, ratio, step):
        if not ratio > 0.1:
            return 2 * weight
        return max(weight / 2, self.least) if ratio > 0.9 else weight


CONTROLS = {"radius": Control(), "radius-free": RadiusFree(), "cubic": Cubic()}
