"""Kronecker factors of a network's Gauss-Newton matrix, one pair for each dense layer."""

import numpy as np

from hesscomp.curvature.gauss_newton import sampled_targets
from hesscomp.curvature.networks.operation import Unsupported
from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError
from hesscomp.problems.differentiable import DifferentiableProblem
from hesscomp.problems.problem import Problem


def kronecker_factors(
    problem: Problem, x: np.ndarray, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each dense layer, in order: (1/m) sum a a^T and (1/m) sum d d^T over all rows.

    a is the layer's input, with a 1 for its bias, d the gradient by its output of the loss of a
    target drawn from the network's own distribution: their Kronecker product stands for the layer's
    block of the Gauss-Newton matrix, in the order of the parameters (Martens and Grosse,
    "Optimizing neural networks with Kronecker-factored approximate curvature", ICML 2015, section
    3). Collective; two passes, and a reduction of (inputs + 1)^2 + outputs^2 words for each layer.

    Parameters
    ----------
    problem : KerasProblem
        With a loss that is a likelihood and no parameters but those of dense layers.
    x : (n,) array
    seed : int
        Of the targets; they depend on it and on the row alone.

    Raises
    ------
    InputError
        For other networks and problems.
    """
    if getattr(problem, "loss", None) is None:
        raise InputError(f"{problem.name} is no network; use another preconditioner")
    world, shapes = problem.world, _kernel(problem).get_concrete_function().output_shapes
    world.ledger.passes += 2
    with world.phase("sampling targets"):
        targets = sampled_targets(problem, x, problem.loss, 1, seed)[:, 0]
    parts = [_sums(problem, x, targets, part, shapes) for part in problem.parts_here]
    factors = [
        problem.sum_parts([sums[i] for sums in parts], tuple(shape)) / problem.rows
        for i, shape in enumerate(shapes)
    ]
    return list(zip(factors[::2], factors[1::2], strict=True))


def _sums(problem: DifferentiableProblem, x, targets, part: slice, shapes) -> list[np.ndarray]:
    """Over a part of the rows here."""
    X, _ = problem.tensors(problem.dtype)
    theta, kernel = tf.constant(x, problem.dtype), _kernel(problem)
    totals = [np.zeros(shape) for shape in shapes]
    for chunk in problem.chunks(part, problem.dtype):
        for total, term in zip(totals, kernel(theta, X[chunk], targets[chunk]), strict=True):
            total += term.numpy()
    return totals


def _kernel(problem: DifferentiableProblem):
    """The engine's sums, compiled once a problem."""
    kernel = problem.compiled("kronecker", problem.dtype, problem.tensors(problem.dtype))
    try:
        kernel.get_concrete_function()
    except Unsupported as why:
        raise InputError(
            f"{problem.name} has no Kronecker factors ({why}); use another preconditioner"
        ) from None
    return kernel
