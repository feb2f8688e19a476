"""DRSOM: steps along a few directions, by an exact quadratic model (Zhang and others 2022).

Zhang, Ge, He, Jiang, Jiang and Ye, "DRSOM: a dimension reduced second-order method",
arXiv 2208.00208.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from hesscomp.compression import compress
from hesscomp.errors import InputError
from hesscomp.factors import KINDS, UNKNOWN, Factor, from_contents
from hesscomp.optimizers.acceptance import adapt_radius, reduction_ratio
from hesscomp.optimizers.batches import Task
from hesscomp.optimizers.first_order import AdaBelief, Adam
from hesscomp.optimizers.optimizer import Optimizer, Outcome, State
from hesscomp.optimizers.options import NewtonOptions
from hesscomp.optimizers.subproblem import Step, cubic, damped, trust_region
from hesscomp.options import option, option_of
from hesscomp.parallel import random
from hesscomp.parallel.layout import Replicated

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
    vectors twice. With an approximation of the Hessian for the model there is no such pass: from
    the means of `adam` or `adabelief` (two vectors) it costs nothing; a Kronecker or low-rank
    factor is made every so many steps. Zhang, Ge, He, Jiang, Jiang and Ye, arXiv 2208.00208,
    algorithm 1.

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
    curvature: str | Factor = option(
        "products",
        choices=(
            "products", "gauss-newton", "differences", "interpolation", "adam", "adabelief",
            "kronecker", "low-rank",
        ),
        help="how Q = D^T H D is found; products: by a block product; gauss-newton: by one with "
        "the Gauss-Newton matrix; differences: of m gradients; interpolation: by m (m + 1) + 1 "
        "function values, whose second differences along the sums of two directions are right for "
        "any m; or with an approximation of H: adam, adabelief: the diagonal by which they divide; "
        "kronecker, low-rank: a factor of the curvature batch (K-FAC; the Hessian's, of any signs)",
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
    same_batch: bool = option(
        False, help="whether a step is accepted by the gradient's own batch, as its authors do"
    )
    averaging: float = option(
        0.0, low=0, below=1,
        help="the last move d_k counts as this times d_k-1, and the rest of the move",
    )  # fmt: skip
    every: int = option(10, low=1, help="`curvature` kronecker, low-rank: steps between factors")
    rank: int = option_of(NewtonOptions, "rank", default=10)
    name = "drsom"

    def start(self, x):
        kept = {"momentum": self.count - 1, "random": 0, "krylov": 1}[self.directions]
        if isinstance(self._approximation, Made):
            kept = max(kept, 1)  # a checkpoint takes a length of 0 for that of the factor
        return {
            "control": getattr(self, self._control.first), "moves": np.zeros((len(x), kept)),
            **self._approximation.first(len(x)),
        }  # fmt: skip

    @property
    def _approximation(self) -> "Approximation":
        if isinstance(self.curvature, Factor):
            return Given(self.curvature)
        return APPROXIMATIONS.get(self.curvature, NONE)

    def recover(self, state):
        return {**state, "control": self._control.tightened(state["control"], CAREFUL)}

    @property
    def _control(self) -> "Control":
        return CONTROLS[self.control]

    def step(self, task: Task, state: State) -> Outcome:
        D = _unit_columns(self._directions(task, state))
        if not D.shape[1]:
            return Outcome(task.x, state, _values(None, np.nan, state["control"], 0), True)
        state = {**state, **self._approximation.renewed(task, state, self)}
        model = D.T @ task.gradient, self._approximation.quadratic(task, D, state, self), D.T @ D
        move, values, control = self._search(task, D, model, state["control"])
        if move is None:
            state |= {"control": control, "moves": np.zeros_like(state["moves"])}
            return Outcome(task.x, state, values, stuck=True)
        last = move
        if self.averaging and state["moves"].shape[1]:
            last = self.averaging * state["moves"][:, 0] + (1 - self.averaging) * move
        moves = np.column_stack([last, state["moves"]])[:, : state["moves"].shape[1]]
        return Outcome(task.x + move, {**state, "control": control, "moves": moves}, values)

    def _search(self, task: Task, D, model: tuple[Any, Any, Any], control):
        """Return the first accepted move or None, the values for the log, the next control."""
        rules = self._control
        same = self.accept and self.same_batch and not task.whole
        objective = task.gradient_batch.objective if same else task.trial
        value = task.objective if same or not self.accept else task.value
        for trials in range(1, TRIALS + 1):
            step, used = task.world.broadcast(rules.solve(*model, control)), control
            move = D @ step.coefficients
            if not self.accept:
                return move, _values(step, np.nan, used, trials), control
            promised = rules.promise(step, control)
            ratio = reduction_ratio(value, objective(task.x + move), promised)
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


def _by_gauss_newton(task: Task, D: np.ndarray) -> np.ndarray:
    return task.regularized(task.curvature_batch.gauss_newton(task.x)).quadratic(D)


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
    "gauss-newton": _by_gauss_newton,
    "differences": _by_differences,
    "interpolation": _by_interpolation,
}


# Approximations of the Hessian in place of products with it


class Approximation:
    """No approximation: the curvature along the directions is computed."""

    def first(self, n: int) -> State:
        """Return what the state keeps of it."""
        return {}

    def renewed(self, task: Task, state: State, options: DRSOM) -> State:
        """Return what changes of that in a step."""
        return {}

    def quadratic(self, task: Task, D: np.ndarray, state: State, options: DRSOM) -> np.ndarray:
        """Return D^T H D."""
        return CURVATURES[str(options.curvature)](task, D)


class Moments(Approximation):
    """The diagonal by which Adam or AdaBelief divide; the ridge is in their gradients."""

    def __init__(self, rule: Adam):
        self.rule = rule

    def first(self, n):
        return self.rule.start(np.zeros(n))

    def renewed(self, task, state, options):
        kept = {**state, "steps": state["steps"] + 1}
        self.rule.renew(task.gradient, kept)
        return kept

    def quadratic(self, task, D, state, options):
        return D.T @ (self.rule.denominator(state)[:, None] * D)


class Made(Approximation, ABC):
    """A factor that is made every so many steps, without the ridge."""

    kind: str

    @abstractmethod
    def make(self, task: Task, options: DRSOM) -> Factor: ...

    def first(self, n):
        return {**KINDS[self.kind].blank(n).contents(), "made": 0}

    def renewed(self, task, state, options):
        if task.step % options.every and state["made"]:  # none where the first step was taken back
            return {}
        return {**self.make(task, options).contents(), "made": 1}

    def quadratic(self, task, D, state, options):
        return _with_ridge(task, D, from_contents(state, UNKNOWN))


class Given(Approximation):
    """A factor that does not change."""

    def __init__(self, factor: Factor):
        self.factor = factor

    def first(self, n):
        if self.factor.n != n:
            raise InputError(
                f"the curvature is a factor of {self.factor.n} parameters, and there are {n}"
            )
        return {}

    def quadratic(self, task, D, state, options):
        return _with_ridge(task, D, self.factor.in_layout(Replicated(len(D), task.world)))


def _with_ridge(task: Task, D: np.ndarray, factor: Factor) -> np.ndarray:
    penalized = D[task.batches.problem.penalized]
    Q = D.T @ (factor @ D) + task.ridge * penalized.T @ penalized
    return (Q + Q.T) / 2


class MadeKronecker(Made):
    kind = "kronecker"

    def make(self, task, options):
        return task.curvature_batch.problem.kronecker(task.x, "sampled", seed=task.step)

    def first(self, n):  # a checkpoint takes all lengths of 0 in matrices for the same
        return {**super().first(n), "layers": np.empty(0)}

    def renewed(self, task, state, options):
        kept = super().renewed(task, state, options)
        return {name: np.ravel(kept[name]) if name != "made" else kept[name] for name in kept}

    def quadratic(self, task, D, state, options):
        return super().quadratic(
            task, D, {**state, "layers": state["layers"].reshape(-1, 3)}, options
        )


class MadeEigenpairs(Made):
    kind = "low-rank"

    def make(self, task, options):
        hessian = task.curvature_batch.hessian(task.x)
        return compress(hessian, options.rank, seed=task.step, layout="replicated")


NONE = Approximation()
APPROXIMATIONS: dict[str, Approximation] = {
    "adam": Moments(Adam()),
    "adabelief": Moments(AdaBelief()),
    "kronecker": MadeKronecker(),
    "low-rank": MadeEigenpairs(),
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
