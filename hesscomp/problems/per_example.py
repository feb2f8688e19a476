"""The gradients of single rows of all ranks, and their norms, in the global order of the rows."""

import numpy as np

from hesscomp.errors import InputError
from hesscomp.options import format_bytes
from hesscomp.parallel.resources import fits_in_memory
from hesscomp.problems.capabilities import ROW_GRADIENTS
from hesscomp.problems.problem import Problem


def per_example_gradients(problem: Problem, x: np.ndarray, rows=None) -> np.ndarray:
    """Return `hesscomp.per_example_gradients` of a problem at x. Collective."""
    problem.require(ROW_GRADIENTS)
    world, chosen = problem.world, _chosen(problem, rows)
    needed = 2 * chosen.size * problem.n * 8  # those of this rank, and those of all
    if not fits_in_memory(world, needed):
        raise InputError(
            f"the gradients of {chosen.size} rows by {problem.n} parameters take "
            f"{format_bytes(needed / 2)} on every rank; give fewer `rows`, or take "
            "problem.row_gradients(x), which yields those of each rank a few rows at a time"
        )
    counts = world.gather(problem.rows_here)
    ends = np.cumsum(counts)
    owners = np.searchsorted(ends, chosen, side="right")
    mine = np.flatnonzero(owners == world.rank)
    slab, first = np.empty((mine.size, problem.n)), int(ends[world.rank] - counts[world.rank])
    with world.phase("computing gradients of single rows"):
        done = 0
        if mine.size:
            for places, gradients in problem.row_gradients(x, chosen[mine] - first):
                slab[done : done + len(places)] = gradients
                done += len(places)
    world.ledger.passes += 1
    if world.size == 1:
        return slab
    found = world.gather_rows(slab, np.bincount(owners, minlength=world.size).tolist())
    order = np.argsort(owners, kind="stable")
    if np.array_equal(order, np.arange(chosen.size)):
        return found
    return found[np.argsort(order)]


def per_example_squared_norms(problem: Problem, x: np.ndarray, rows=None) -> np.ndarray:
    """Return `hesscomp.per_example_squared_norms` of a problem at x. Collective."""
    problem.require(ROW_GRADIENTS)
    world, chosen = problem.world, _chosen(problem, rows)
    with world.phase("computing norms of single rows' gradients"):
        here = problem.row_squares(x)
    world.ledger.passes += 1
    return world.gather_rows(here[:, None], world.gather(len(here)))[chosen, 0]


def _chosen(problem: Problem, rows) -> np.ndarray:
    """Return global row numbers, from 0, for what NumPy takes as an index of all rows."""
    every = np.arange(problem.rows)
    if rows is None:
        return every
    try:
        return np.atleast_1d(every[rows])
    except (IndexError, TypeError) as error:
        raise InputError(
            f"`rows` must be numbers of rows from 0 to {problem.rows - 1}, or a slice of them "
            f"({error})"
        ) from error
