"""The objective alone, where it costs less than with its gradient."""

from functools import singledispatch

import numpy as np

from hesscomp.curvature.networks.engine import NetworkEngine
from hesscomp.curvature.tensorflow import tf
from hesscomp.parallel.exact import sum_blocks
from hesscomp.problems.differentiable import DifferentiableProblem
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.problems.problem import Problem, chunks


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
    x, world = problem.check_point(x), problem.world
    world.ledger.passes += 1
    if world.reproducible:
        losses = [_loss(problem, x, rows) for rows in problem.blocks_here]
        total = sum_blocks(np.array(losses).reshape(-1, 1), problem.row_blocks, world)
    else:
        total = world.sum(np.array([_loss(problem, x, slice(None))]))
    return float(total[0] / problem.rows + problem.ridge / 2 * (x @ x))


def _loss(problem: DifferentiableProblem, x: np.ndarray, rows: slice) -> float:
    """The sum of losses over some rows here."""
    X, y = problem.tensors("float64")
    theta, kernel, held = tf.constant(x, tf.float64), _kernel(problem), X.shape[0]
    size = problem.budget("float64").rows(max(held, 1), 1, 8)
    losses = (float(kernel(theta, X[chunk], y[chunk])) for chunk in chunks(rows, held, size))
    return sum(losses, start=0.0)


def _kernel(problem: DifferentiableProblem):
    """The engine's loss, compiled once a problem."""
    engine = problem.engine

    def of_network(theta, X, y):
        return tf.reduce_sum(engine.loss.values(engine.output(theta, X), y))

    function = of_network if isinstance(engine, NetworkEngine) else engine.loss_sum
    return problem._kernels.setdefault(
        "losses", tf.function(function, autograph=False, reduce_retracing=True)
    )
