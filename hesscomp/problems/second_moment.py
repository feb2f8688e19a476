"""The mean of squared per-example gradients: the diagonal of the empirical Fisher matrix."""

from collections.abc import Sequence
from functools import singledispatch

import numpy as np

from hesscomp.curvature.networks.operation import Unsupported
from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError
from hesscomp.problems.differentiable import DifferentiableProblem
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.problems.problem import Problem, chunks

CHUNK_NUMBERS = 2**23  # of per-example gradients that are held at once


def gradient_second_moment(problem: Problem, x: np.ndarray) -> np.ndarray:
    """(1/m) sum over all rows of the squares of each row's gradient, without the ridge: (n,).

    Not the square of the mean gradient: each row's gradient is squared whole, then averaged.
    Collective; a pass or two, one reduction of n words; networks take the problem's `dtype`.

    Raises
    ------
    InputError
        For a problem that is no sum over rows of data.
    """
    problem.world.ledger.passes += 1
    squares = _squares(problem, x, problem.parts_here)
    return problem.sum_parts(squares, (problem.n,)) / problem.rows


@singledispatch
def _squares(problem, x: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
    """For each of some parts of the rows here, the sum of squared gradients: (parts, n)."""
    raise InputError(f"{problem.name} has no gradients of single rows; use another preconditioner")


@_squares.register
def _(problem: LogisticRegression, x: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
    return problem.squared_gradients(x, parts)


@_squares.register
def _(problem: DifferentiableProblem, x: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
    X, y = problem.tensors(problem.dtype)
    theta, total = tf.constant(x, problem.dtype), np.zeros((len(parts), problem.n))
    kernel, at_once = _kernel(problem)
    for i, part in enumerate(parts):
        few = chunks(part, X.shape[0], max(CHUNK_NUMBERS // problem.n, 1))
        for chunk in problem.chunks(part, problem.dtype) if at_once else few:
            total[i] += kernel(theta, X[chunk], y[chunk]).numpy()
    return total


def _kernel(problem: DifferentiableProblem):
    """The sum of each row's squared gradient, and whether it takes all rows at once.

    The engine's own, or of each row's gradient alone; compiled once a problem.
    """
    if "squared gradients" not in problem._kernels:
        tensors = problem.tensors(problem.dtype)
        kernel, at_once = problem.compiled("squared_gradients", problem.dtype, tensors), True
        try:
            kernel.get_concrete_function()
        except Unsupported:
            kernel, at_once = _row_by_row(problem.engine.data.gradient), False
        problem._kernels["squared gradients"] = kernel, at_once
    return problem._kernels["squared gradients"]


def _row_by_row(gradient):
    def squares(theta, X, y):
        def of_row(row):
            return gradient(theta, row[0][None], row[1][None])[1] ** 2

        return tf.reduce_sum(tf.vectorized_map(of_row, (X, y)), axis=0)

    return tf.function(squares, autograph=False, reduce_retracing=True)
