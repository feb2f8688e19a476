"""Rows of the Gauss-Newton matrix at a point: what is summed, solved and pulled by them."""

from functools import cached_property
from itertools import pairwise

import numpy as np

from hesscomp.problems.problem import Problem, chunks

AHEAD = 0.1  # of a direction, at which the residuals' second derivative along it is taken
PANEL = 2.0**28  # bytes of one panel's addends in reproducible mode


class GaussNewtonRows:
    """R with R^T R / m = G at x, by parts of the rows here; of least squares the residuals too."""

    def __init__(self, problem: Problem, x: np.ndarray):
        self.problem, self.world, self.x = problem, problem.world, x
        with self.world.phase("computing the rows of the Gauss-Newton matrix"):
            found = [problem.gauss_newton_rows(x, part) for part in problem.parts_here]
        problem.world.ledger.passes += 1
        self.parts, self.residuals = [R for R, _ in found], [r for _, r in found]

    def objective_and_gradient(self) -> tuple[float, np.ndarray]:
        """Return those of least squares: 1/2 |r|^2 / m, and R^T r / m, with the ridge. Collective.

        They cost no further pass.
        """
        addends = [
            np.append(r @ R, r @ r / 2) for r, R in zip(self.residuals, self.parts, strict=True)
        ]
        return self.problem.values_of_sums(addends, self.x)

    def whole(self) -> np.ndarray:
        """Return this rank's rows in one array."""
        if len(self.parts) == 1:
            return self.parts[0]
        return np.concatenate([np.empty((0, self.problem.n)), *self.parts])

    @cached_property
    def counts(self) -> list[int]:
        """How many rows each rank has."""
        return self.world.gather(sum(map(len, self.parts)))

    def gathered(self, values: list[np.ndarray]) -> np.ndarray:
        """Return a number for each row of all ranks, from those by part."""
        here = np.concatenate([np.empty(0), *values])
        return self.world.gather_rows(here[:, None], self.counts)[:, 0]

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Return those of the numbers for all rows that are for the rows here, by part."""
        ends = np.cumsum([sum(self.counts[: self.world.rank]), *map(len, self.parts)])
        return [values[start:stop] for start, stop in pairwise(ends)]

    def along(self, d: np.ndarray) -> list[np.ndarray]:
        """Return R d by part."""
        return [R @ d for R in self.parts]

    def transposed(self, values: list[np.ndarray]) -> np.ndarray:
        """Return R^T v / m. Collective."""
        addends = [v @ R for v, R in zip(values, self.parts, strict=True)]
        return self.problem.sum_parts(addends, (self.problem.n,)) / self.problem.rows

    def bends(self, d: np.ndarray) -> list[np.ndarray]:
        """Return the residuals' second derivatives along d by part, by a difference."""
        problem, moved = self.problem, self.x + AHEAD * d
        with self.world.phase("computing residuals ahead"):
            ahead = [problem.residuals(moved, part) for part in problem.parts_here]
        problem.world.ledger.passes += 1
        ends = zip(ahead, self.residuals, self.along(d), strict=True)
        return [_bend(*parts) for parts in ends]

    def pulled_bends(self, d: np.ndarray) -> np.ndarray:
        """Return R^T b / m, b being `bends`. Collective."""
        return self.transposed(self.bends(d))

    def matrix(self) -> np.ndarray:
        """Return G. Collective."""
        n, problem = self.problem.n, self.problem
        if not self.world.reproducible:
            return self.world.sum(self.parts[0].T @ self.parts[0]) / problem.rows
        G = np.empty((n, n))
        width = max(int(PANEL // (8 * n * problem.row_blocks)), 1)
        for first in range(0, n, width):
            columns = slice(first, min(first + width, n))
            addends = [R.T @ R[:, columns] for R in self.parts]
            G[:, columns] = problem.sum_parts(addends, (n, columns.stop - first))
        return (G + G.T) / 2 / problem.rows


class StreamedRows:
    """What `GaussNewtonRows` gives for the parameter form, by rows that are made anew for each sum.

    As many at once as the problem's memory takes three times; not in reproducible mode, where each
    panel of G would make all of them.
    """

    def __init__(self, problem: Problem, x: np.ndarray):
        self.problem, self.world, self.x = problem, problem.world, x
        size = 3 * np.dtype(float).itemsize * problem.n * problem.outputs
        self.parts = list(
            chunks(slice(None), problem.rows_here, max(int(problem.memory // size), 1))
        )

    def matrix(self) -> np.ndarray:
        """Return G. Collective."""
        problem, G = self.problem, np.zeros((self.problem.n, self.problem.n))
        with self.world.phase("summing rows of the Gauss-Newton matrix"):
            for part in self.parts:
                R, _ = problem.gauss_newton_rows(self.x, part)
                G += R.T @ R
        self.world.ledger.passes += 1
        return self.world.sum(G) / problem.rows

    def pulled_bends(self, d: np.ndarray) -> np.ndarray:
        """Return `GaussNewtonRows.pulled_bends`. Collective."""
        problem, moved, total = self.problem, self.x + AHEAD * d, np.zeros(self.problem.n)
        with self.world.phase("computing residuals ahead"):
            for part in self.parts:
                R, residuals = problem.gauss_newton_rows(self.x, part)
                total += _bend(problem.residuals(moved, part), residuals, R @ d) @ R
        self.world.ledger.passes += 2
        return self.world.sum(total) / problem.rows


def _bend(ahead: np.ndarray, here: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Return residuals' second derivative from those ahead and here, and their first one."""
    return 2 / AHEAD * ((ahead - here) / AHEAD - slope)
