"""Checks of a problem: its attributes, and its derivatives against differences of its values."""

from collections.abc import Callable

import numpy as np

from hesscomp.curvature.hessian import HessianOperator
from hesscomp.errors import InputError
from hesscomp.problems.capabilities import INITIAL_POINT
from hesscomp.problems.problem import Problem, check_numbers

REQUIRED = ("name", "n", "rows", "parameter_blocks", "world", "dataset_name", "fingerprint")
STEP = 1e-5  # of the differences of gradients
STEPS = 1e-3, 1e-4, 1e-5  # of the differences of values, each at another point
TOLERANCES = {"float64": 1e-6, "float32": 1e-3}  # of products, by the type that they run in


def check_attributes(problem: Problem) -> None:
    """Check that a problem has the attributes and the members that it declares; local.

    Raises InputError, which says what is missing or does not fit.
    """
    kind, members = type(problem).__name__, dir(problem)
    missing = [name for name in REQUIRED if name not in members]
    if missing:
        raise InputError(
            f"{kind} sets no {', '.join(missing)}; a problem has the attributes "
            f"{', '.join(REQUIRED)}"
        )
    check_numbers(problem.ridge, problem.dtype)
    end = 0
    for block in problem.parameter_blocks:
        if block.offset != end:
            raise InputError(
                f"{problem.name}: its parameter block {block.name} begins at {block.offset}; "
                f"blocks follow each other, so it has to begin at {end}"
            )
        end += block.size
    if end != problem.n:
        raise InputError(
            f"{problem.name}: its parameter blocks hold {end} parameters, and n is {problem.n}"
        )
    for capability in problem.capabilities:
        absent = [name for name in capability.members if name not in members]
        if absent:
            raise InputError(
                f"{problem.name} declares the capability '{capability}' and has no "
                f"{', '.join(absent)}"
            )
    if problem.can(INITIAL_POINT):
        problem.check_point(problem.initial)


def check_problem(problem: Problem, x: np.ndarray | None = None) -> None:
    """Check a problem's attributes, and its derivatives near a point. Collective.

    The gradient is compared with differences of the objective, a product with the Hessian with
    differences of the gradient; both are compared between ranks. Meant for the tests of a problem
    of your own: some 20 passes over the data. x is by default the point where runs begin.

    Raises InputError, which says what is wrong and which method to correct.
    """
    with problem.world.phase("checking the problem"):
        check_attributes(problem)
    rng = np.random.default_rng(0)
    x = problem.first_point() if x is None else problem.check_point(x)
    x = x + 0.01 * rng.standard_normal(problem.n)
    value, gradient = problem.objective_and_gradient(x)
    if np.shape(gradient) != (problem.n,):
        raise InputError(
            f"{problem.name}: its gradient has shape {np.shape(gradient)}, not ({problem.n},)"
        )
    found = problem.world.gather((float(value), float(np.linalg.norm(gradient))))
    if any(other != found[0] for other in found):
        raise InputError(
            f"{problem.name}: objective or gradient differ between the ranks ({found}); sum over "
            "the ranks, and let every rank return the same numbers"
        )
    alone = problem.objective(x)
    if not np.isclose(alone, value, rtol=1e-10):
        raise InputError(
            f"{problem.name}: objective gives {alone:.10g}, and objective_and_gradient {value:.10g}"
        )
    wrong = wrong_slope(problem.objective, lambda x: problem.objective_and_gradient(x)[1], x)
    if wrong is not None:
        raise InputError(
            f"{problem.name}: along a direction its gradient is {wrong[0]:.8g}, but the slope of "
            f"its objective is {wrong[1]:.8g}; correct objective_and_gradient or loss_and_gradient"
        )
    _check_hessian(problem, x, gradient, rng)


def _check_hessian(
    problem: Problem, x: np.ndarray, gradient: np.ndarray, rng: np.random.Generator
) -> None:
    V = rng.standard_normal((problem.n, 2))
    V /= np.linalg.norm(V, axis=0)
    here = problem.regularized(HessianOperator(problem, x)) @ V
    ends = [
        [problem.objective_and_gradient(x + step * v)[1] for step in (STEP, -STEP)] for v in V.T
    ]
    there = np.column_stack([ahead - behind for ahead, behind in ends]) / (2 * STEP)
    error, size = np.linalg.norm(here - there), np.linalg.norm(there)
    scale = size + np.linalg.norm(gradient)
    tolerance = TOLERANCES[problem.dtype] * scale
    if not error <= tolerance:
        raise InputError(
            f"{problem.name}: products with its Hessian differ by {error:.3g} from the differences "
            f"of its gradients, whose norm is {size:.3g}; correct linearize"
        )
    smallest = np.linalg.eigvalsh(V.T @ here - V.T * problem.ridge_diagonal() @ V)[0]
    if problem.psd and smallest < -tolerance:
        raise InputError(
            f"{problem.name} declares its Hessian positive semidefinite (psd), but v.H v is "
            f"{smallest:.3g} for a v; set psd to False, or correct linearize"
        )


def wrong_slope(
    value: Callable, gradient: Callable, x: np.ndarray, tolerance: float = 1e-6
) -> tuple[float, float] | None:
    """Return the slope by the gradient and by the values along a direction, where they differ.

    Central differences of fourth order in a random direction near x. A kink that lies between them
    by chance would have to be there for each of the steps. `value` and `gradient` take a float64
    array like x, and give a number and an array like x. The tolerance is relative; where units of a
    network are near kinks, a tight one is exceeded by chance.
    """
    rng = np.random.default_rng(0)
    for h in STEPS:
        at, v = x + 0.01 * rng.standard_normal(x.shape), rng.standard_normal(x.shape)
        v /= np.linalg.norm(v)
        slope = float(np.vdot(gradient(at), v))
        values = [value(at + step * h * v) for step in (-2, -1, 1, 2)]
        difference = float(np.dot(values, (1, -8, 8, -1))) / (12 * h)
        rounding = 100 * np.finfo(float).eps * max(map(abs, values)) / h
        allowed = tolerance * max(abs(slope), abs(difference)) + rounding
        if not abs(difference - slope) > allowed:
            return None
    return slope, difference
