"""Training: Adam on random batches, the same on any number of ranks."""

import numpy as np

from hesscomp.problems.catalogue import Recipe
from hesscomp.problems.differentiable import DifferentiableProblem

DECAY = 0.9, 0.999  # of the moving averages of the gradient and of its square
FLOOR = 1e-8


def train(
    problem: DifferentiableProblem, recipe: Recipe, x: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Parameters trained from x on by Adam (Kingma and Ba 2015, algorithm 1). Collective.

    Parameters
    ----------
    problem : DifferentiableProblem
    recipe : Recipe
    x : (n,) array
        Where to start, such as ``problem.initial``.
    seed : int
        Of the batches, each a random sample of the rows (`DifferentiableProblem.sampled`).

    Returns
    -------
    (n,) array
        The same on any number of ranks but for rounding, which training amplifies.

    Notes
    -----
    Gradients in float64; one reduction of n + 1 words a batch; six (n,) arrays.
    """
    fraction = min(recipe.batch / problem.rows, 1.0)
    steps = max(round(recipe.epochs / fraction), 1)
    x, mean, square = problem.check_point(x).copy(), np.zeros(problem.n), np.zeros(problem.n)
    for step in range(1, steps + 1):
        batch = problem if fraction == 1 else problem.sampled(fraction, (seed << 32) + step)
        _, gradient = batch.objective_and_gradient(x)
        mean += (1 - DECAY[0]) * (gradient - mean)
        square += (1 - DECAY[1]) * (gradient**2 - square)
        first, second = (1 - decay**step for decay in DECAY)
        x -= recipe.rate * (mean / first) / (np.sqrt(square / second) + FLOOR)
    return x
