"""Stochastic Newton by sketches: mini-batch gradients, and low-rank factors of mini-batch matrices.

Frangella, Rathore, Zhao and Udell, "SketchySGD: reliable stochastic optimization via randomized
curvature estimates" (SIAM Journal on Mathematics of Data Science 6, 2024; arXiv 2211.08597);
O'Leary-Roseberry, Alger and Ghattas, "Low rank saddle free Newton" (arXiv 2002.02881).
"""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np

from hesscomp.compression import compress
from hesscomp.factors import KINDS, UNKNOWN, LowRank, from_contents
from hesscomp.operators.operator import Operator
from hesscomp.optimizers.batches import Task, View
from hesscomp.optimizers.first_order import FirstOrder
from hesscomp.optimizers.options import NewtonOptions
from hesscomp.optimizers.schedules import EXAMPLE, Schedule, parse_rate
from hesscomp.options import option, option_of
from hesscomp.parallel import random

POWERS = 10  # products of the power method for the automatic rate
EPS = float(np.finfo(np.float64).eps)  # the least smoothness


@dataclass(frozen=True)
class Sketched(FirstOrder):
    """x <- x - rate (|F| + (damping + ridge) I)^-1 g, F a low-rank factor of a mini-batch's matrix.

    g is the gradient of a batch. F is made of the curvature batch of its step, and serves for
    `every` steps; outside its range only the damping and the ridge count.
    """

    gradients_only = False
    moments = ()
    damping: float = option(1e-3, above=0, help="added to the matrix, besides the ridge")
    _: KW_ONLY
    rank: int = option_of(NewtonOptions, "rank", default=10)
    oversample: int = option_of(NewtonOptions, "oversample")
    every: int | None = option(
        None, low=1, help="steps from one factor to the next; default: as many as make a pass"
    )

    def start(self, x):
        blank = KINDS[LowRank.kind].blank(len(x)).contents()
        return {**super().start(x), **blank, "made": 0, "smoothness": 1.0}

    def step(self, task, state):
        columns = 0
        if state["steps"] % self._every(task) == 0 or not state["made"]:
            state, columns = self._with_new_factor(task, state)
        outcome = super().step(task, state)
        told = {"sketch_columns": float(columns), "smoothness": state["smoothness"]}
        return replace(outcome, values={**outcome.values, **told})

    def _every(self, task: Task) -> int:
        share = task.batches.sampling.share(0, task.batches.problem.rows)
        return max(round(1 / share), 1) if self.every is None else self.every

    def _with_new_factor(self, task: Task, state) -> tuple[dict, int]:
        """Return the state with the factor and the smoothness of this step, and the columns."""
        seed = (task.batches.sampling.seed + task.step) % random.SEEDS
        with task.world.ledger.timed("compress"):
            factor = compress(
                self._matrix(task.curvature_batch, task.x), self.rank, power=0, seed=seed,
                oversample=self.oversample, layout="replicated",
            ).positive()  # fmt: skip
        smoothness = self._smoothness(task, factor, seed)
        columns = factor.provenance.columns
        return {**state, **factor.contents(), "made": 1, "smoothness": smoothness}, columns

    def _direction(self, task, state):
        factor = from_contents(state, UNKNOWN)
        return -self._solved(task, factor, task.gradient) / state["smoothness"]

    def _solved(self, task: Task, factor, v: np.ndarray) -> np.ndarray:
        return factor.solve(v, self.damping + task.ridge, tail="zero")

    @abstractmethod
    def _matrix(self, batch: View, x: np.ndarray) -> Operator:
        """Return the matrix of a batch, without the ridge."""

    def _smoothness(self, task: Task, factor: LowRank, seed: int) -> float:
        """Return what the rate is divided by while this factor serves."""
        return 1.0


@dataclass(frozen=True)
class SketchySGD(Sketched):
    """Stochastic gradients preconditioned by a low-rank Gauss-Newton matrix, at a rate of its own.

    The step is x - rate / L (F + (damping + ridge) I)^-1 g, with g the gradient of a batch and F a
    Nystrom factor of the Gauss-Newton matrix of the curvature batch, the Hessian where that is
    semidefinite. L is the largest eigenvalue of the matrix of g's own batch, preconditioned so.

    Notes
    -----
    A step costs the gradient of its batch, and one with a new factor `rank` + `oversample` products
    with the curvature batch and ten with the gradient's (power method). Memory: the factor, n rank
    numbers, and while it is made twice that. Frangella, Rathore, Zhao and Udell (2024), algorithm
    3.1; they take a rank of 10, a factor for each pass, and a rate of 1/2. InputError from a
    problem that has no Gauss-Newton matrix.

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"))
    >>> found = hc.train(problem, hc.SketchySGD(), gradient=0.01, curvature=0.01, max_steps=300)
    >>> found.best_objective < 0.34
    True
    """

    learning_rate: float | str | Schedule = option(
        0.5, above=0, parse=parse_rate,
        help=f"rate times the smoothness L of the preconditioned batch, or a schedule: {EXAMPLE}",
    )  # fmt: skip
    name = "sketchy-sgd"

    def _matrix(self, batch, x):
        return batch.gauss_newton(x)

    def _smoothness(self, task, factor, seed):
        """Return the largest eigenvalue of P^-1/2 H P^-1/2, P = F + shift I, by the power method.

        Of an iterate z only w = P^1/2 z is made: ||z||^2 = w^T P^-1 w, then w <- H P^-1 w / ||z||.
        """
        H = task.regularized(self._matrix(task.gradient_batch, task.x))
        w = random.standard_normal(seed, random.RATE_START, (0, len(task.x)), (0, 1))[:, 0]
        for _ in range(POWERS):
            solved = self._solved(task, factor, w)
            length = np.sqrt(w @ solved)
            if not task.world.decide(length > 0):
                break
            w = H @ (solved / length)
        found = float(np.sqrt(w @ self._solved(task, factor, w)))
        return task.world.broadcast(max(found, EPS))


@dataclass(frozen=True)
class SaddleFree(Sketched):
    """Low-rank saddle-free Newton: gradients of batches, and the absolute eigenvalues of a Hessian.

    The step is x - rate (|F| + (damping + ridge) I)^-1 g, with g the gradient of a batch and F the
    leading eigenpairs, of either sign, of the Hessian of the curvature batch.

    Notes
    -----
    A step costs the gradient of its batch, and one with a new factor the products of a block Krylov
    method with the curvature batch. Memory: the factor, n rank numbers, and while it is made some
    blocks of `rank` + `oversample` columns. O'Leary-Roseberry, Alger and Ghattas, algorithm 1;
    they take a rank of 20.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import hesscomp as hc
    >>> keras.utils.set_random_seed(0)
    >>> layers = [keras.Input((2,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)]
    >>> data = np.eye(2), np.array([1.0, 2.0])
    >>> optimizer = hc.SaddleFree(0.5, damping=0.1, rank=5)
    >>> found = hc.train(keras.Sequential(layers), optimizer, "mse", data, max_steps=80)
    >>> found.best_objective < 0.1
    True
    """

    learning_rate: float | str | Schedule = option_of(FirstOrder, "learning_rate", default=0.1)
    damping: float = option_of(Sketched, "damping", default=1e-1)
    _: KW_ONLY
    rank: int = option_of(Sketched, "rank", default=20)
    name = "saddle-free"

    def _matrix(self, batch, x):
        return batch.hessian(x)
