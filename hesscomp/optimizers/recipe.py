"""The named problems' stated training."""

import numpy as np

from hesscomp.optimizers.batches import Sampling
from hesscomp.optimizers.first_order import Adam
from hesscomp.optimizers.loop import Stopping, TrainResult, train
from hesscomp.problems.catalogue import Recipe
from hesscomp.problems.problem import Problem


def train_by_recipe(
    recipe: Recipe, problem: Problem, x0: np.ndarray | None = None, seed: int = 0
) -> TrainResult:
    """Train a problem by a recipe, from its initial point or another one. Collective.

    The same on any number of ranks but for rounding, which training amplifies.
    """
    sampling = Sampling(gradient=recipe.batch, seed=seed)
    steps = max(round(recipe.epochs / sampling.share(0, problem.rows)), 1)
    stopping = Stopping(max_steps=steps)
    return train(problem, Adam(recipe.rate), x0, sampling=sampling, stopping=stopping)
