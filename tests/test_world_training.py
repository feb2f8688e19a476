"""Training by all ranks together."""

import numpy as np
import pytest
from test_network_commands import tiny, tiny_problem

from hesscomp.problems.catalogue import Recipe
from hesscomp.problems.training import train


@pytest.mark.ranks
def test_training_does_not_depend_on_the_number_of_ranks(world):
    recipe = Recipe(epochs=5, batch=50)
    points = [
        train(problem, recipe, problem.initial, seed=4)
        for problem in (tiny_problem(tiny(), world), tiny_problem(tiny()))
    ]
    assert np.linalg.norm(points[0] - points[1]) <= 1e-9 * np.linalg.norm(points[1])
