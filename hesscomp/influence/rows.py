"""Gather values of rows that are spread over the ranks."""

import numpy as np

from hesscomp.problems.problem import Problem


def gather_rows(problem: Problem, values: np.ndarray) -> np.ndarray:
    """Return (rows here, ...) numbers for the rows of all ranks, on every rank. Collective."""
    world, shape = problem.world, values.shape[1:]
    flat = np.ascontiguousarray(values.reshape(len(values), int(np.prod(shape))))
    whole = world.gather_rows(flat, world.gather(len(values)))
    return whole.reshape(len(whole), *shape)
