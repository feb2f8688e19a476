"""The objective alone, where it costs less than with its gradient."""

from functools import singledispatch

import numpy as np

from hesscomp.curvature.tensorflow import tf
from hesscomp.problems.differentiable import DifferentiableProblem
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.problems.problem import Problem


@singledispatch
def objective(problem: Problem, x: np.ndarray) -> float:
    """f(x), in float64. Collective; one pass, one reduction of one word.

    At the cost of the gradient too for a problem of a kind that is not known here.
    """
    return problem.objective_and_gradient(x)[0]


@objective.register
def _(problem: LogisticRegression, x: np.ndarray) -> float:
    return problem.objective(x)


@objective.register
def _(problem: DifferentiableProblem, x: np.ndarray) -> float:
    x = problem.check_point(x)
    problem.world.ledger.passes += 1
    total = problem.sum_parts([_loss(problem, x, rows) for rows in problem.parts_here], (1,))
    return float(total[0] / problem.rows + problem.ridge / 2 * (x @ x))


def _loss(problem: DifferentiableProblem, x: np.ndarray, rows: slice) -> np.ndarray:
    """The sum of losses over some rows here: (1,)."""
    X, y = problem.tensors("float64")
    theta, kernel, chunks = tf.constant(x, tf.float64), _kernel(problem), problem.chunks
    losses = (float(kernel(theta, X[chunk], y[chunk])) for chunk in chunks(rows, "float64"))
    return np.array([sum(losses, start=0.0)])


def _kernel(problem: DifferentiableProblem):
    """The engine's loss, compiled once a problem."""
    return problem._kernels.setdefault(
        "losses",
        tf.function(problem.engine.loss_sum, autograph=False, reduce_retracing=True),
    )
