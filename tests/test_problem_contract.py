"""What a problem of one's own has to have, and what it may declare."""

import numpy as np
import pytest
from functions import Rosenbrock

from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.problems.capabilities import INITIAL_POINT, SAMPLING, Capability

SHAPE = Capability("shape", ("shape",), "take a rectangle")


def test_a_problem_declares_what_it_can_do():
    problem = Rosenbrock(World.serial(), 4)
    assert problem.can(INITIAL_POINT) and not problem.can(SAMPLING) and not problem.can(SHAPE)
    problem.require(INITIAL_POINT)
    assert np.array_equal(problem.first_point(), problem.initial)


def test_what_a_problem_lacks_is_said_with_the_remedy():
    problem = Rosenbrock(World.serial(), 4)
    with pytest.raises(
        InputError,
        match=r"rosenbrock lacks the capability 'sampling'; use all rows.* declares it and has",
    ):
        problem.sampled(0.5)
    with pytest.raises(InputError, match="'shape'; take a rectangle"):
        problem.require(SHAPE)


def test_a_declaration_without_its_method_is_refused():
    with pytest.raises(TypeError, match=r"Liar declares the capability 'sampling'.* sampled"):

        class Liar(Rosenbrock):
            capabilities = frozenset({SAMPLING})
