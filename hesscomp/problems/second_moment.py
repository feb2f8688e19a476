"""The mean of squared per-example gradients: the diagonal of the empirical Fisher matrix."""

from functools import singledispatch

import numpy as np

from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError
from hesscomp.parallel.exact import sum_blocks
from hesscomp.problems.differentiable import DifferentiableProblem
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.problems.problem import Problem

CHUNK_NUMBERS = 2**23  # of per-example gradients that are held at once


def gradient_second_moment(problem: Problem, x: np.ndarray) -> np.ndarray:
    """(1/m) sum over all rows of the squares of each row's gradient, without the ridge: (n,).

    Not the square of the mean gradient: each row's gradient is squared whole, then averaged.
    Collective; one pass, one reduction of n words; networks compute it in the problem's `dtype`.

    Raises
    ------
    InputError
        For a problem that is no sum over rows of data.
    """
    problem.world.ledger.passes += 1
    if problem.world.reproducible:
        parts = [_squares(problem, x, rows) for rows in problem.blocks_here]
        parts = np.array(parts).reshape(-1, problem.n)
        return sum_blocks(parts, problem.row_blocks, problem.world) / problem.rows
    return problem.world.sum(_squares(problem, x, None)) / problem.rows


@singledispatch
def _squares(problem, x: np.ndarray, rows: slice | None) -> np.ndarray:
    """The sum over rows here (all of them, or a slice) of squared gradients."""
    raise InputError(f"{problem.name} has no gradients of single rows; use another preconditioner")


@_squares.register
def _(problem: LogisticRegression, x: np.ndarray, rows: slice | None) -> np.ndarray:
    return problem.squared_gradients(x, slice(None) if rows is None else rows)


@_squares.register
def _(problem: DifferentiableProblem, x: np.ndarray, rows: slice | None) -> np.ndarray:
    X, y = problem.tensors(problem.dtype)
    rows = slice(0, X.shape[0]) if rows is None else rows
    theta, total = tf.constant(x, problem.dtype), np.zeros(problem.n)
    kernel, step = _kernel(problem), max(CHUNK_NUMBERS // problem.n, 1)
    for first in range(rows.start, rows.stop, step):
        chunk = slice(first, min(first + step, rows.stop))
        total += kernel(theta, X[chunk], y[chunk]).numpy()
    return total


def _kernel(problem: DifferentiableProblem):
    """The engine's gradient of each row alone, squared and summed; compiled once a problem."""
    gradient = problem.engine.gradient

    def squares(theta, X, y):
        def of_row(row):
            return gradient(theta, row[0][None], row[1][None])[1] ** 2

        return tf.reduce_sum(tf.vectorized_map(of_row, (X, y)), axis=0)

    return problem._kernels.setdefault(
        "squared gradients", tf.function(squares, autograph=False, reduce_retracing=True)
    )
