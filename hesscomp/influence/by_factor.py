"""What a factor gives without CG: statistics of all rows, and Laplace variances."""

from collections.abc import Iterator
from itertools import chain

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors import Factor
from hesscomp.influence.result import Laplace, RowStatistics
from hesscomp.influence.rows import gather_rows
from hesscomp.parallel.layout import Replicated
from hesscomp.problems.problem import Problem, chunks
from hesscomp.problems.row_terms import OutputTerms

NUMBERS = 2**22  # most entries of Jacobians that are held at once
SINGULAR = 1e-12  # below it, a determinant or an eigenvalue of order 1 counts as zero


class Inverse:
    """(F + shift I - ridge U U^T)^-1 on every rank.

    U are unit vectors, one for each parameter without ridge. InputError unless the matrix is
    positive definite.
    """

    def __init__(self, factor: Factor, shift: float, tail: float | str, problem: Problem):
        self.factor = factor.in_layout(Replicated(factor.n, factor.world))
        self.shift = shift
        self._tail = {"tail": tail} if factor.has_tail else {}
        negative = factor.inertia(shift).negative
        if negative:
            raise InputError(
                f"the factor with shift {shift:g} has {negative} negative eigenvalues, and no "
                "variance; take a more accurate factor, one of the Gauss-Newton matrix (operator "
                "ggn), or a larger `damping`"
            )
        # Woodbury's formula: A^-1 + Z (I / ridge - U^T Z)^-1 Z^T, with A = F + shift I, Z = A^-1 U
        free = np.flatnonzero(problem.ridge_diagonal() < problem.ridge)
        U = self.factor.layout.units(free)
        self._Z = self.factor.solve(U, shift, **self._tail) if len(free) else U
        core = np.eye(len(free)) - problem.ridge * self._Z[free]
        if len(free) and np.linalg.eigvalsh(core)[0] < SINGULAR:
            raise InputError(
                "the factor has no curvature in a parameter without ridge, such as an intercept, "
                "and no variance of it; take a factor of higher rank"
            )
        self._core = problem.ridge * np.linalg.inv(core)

    def __matmul__(self, B: np.ndarray) -> np.ndarray:
        solved = self.factor.solve(B, self.shift, **self._tail)
        return solved + self._Z @ (self._core @ (self._Z.T @ B))

    def diagonal(self) -> np.ndarray:
        diagonal = self.factor.inverse_diagonal(self.shift, **self._tail)
        return diagonal + np.sum(self._Z @ self._core * self._Z, axis=1)


def output_blocks(
    problem: Problem, x: np.ndarray, inverse: Inverse, m: float
) -> Iterator[tuple[OutputTerms, np.ndarray]]:
    """Yield the terms of a few rows here at a time, with K = J (F + shift I)^-1 J^T / m; local."""
    few = max(NUMBERS // (problem.n * problem.outputs), 1)
    parts = (chunks(part, problem.rows_here, few) for part in problem.parts_here)
    for part in chain.from_iterable(parts):
        terms = problem.output_terms(x, part)
        J = terms.jacobian
        flat = J.reshape(-1, J.shape[2])
        solved = (inverse @ flat.T).T.reshape(J.shape)
        yield terms, J @ solved.transpose(0, 2, 1) / m


def row_statistics(
    problem: Problem, x: np.ndarray, inverse: Inverse, S: np.ndarray,
    dispersion: float | None,
) -> RowStatistics:  # fmt: skip
    """Return the statistics of all rows; S are the solves of the targets. Collective.

    A pass over the rows' Jacobians, and a solve with the factor for each of their outputs.
    """
    C, k = problem.outputs, S.shape[1]
    found = [np.empty((0, 4 + k))]
    with problem.world.phase("computing leverages by the factor"):
        for terms, K in output_blocks(problem, x, inverse, problem.total):
            r, BK = terms.slopes, terms.curvature @ K
            gaps = np.eye(C) - BK
            alone = np.abs(np.linalg.det(gaps)) < SINGULAR
            gaps[alone] = np.eye(C)
            z = np.linalg.solve(gaps, r[..., None])[..., 0]
            z[alone] = np.inf
            columns = [
                np.einsum("rc,rcd,rd->r", r, K, r),
                np.trace(BK, axis1=1, axis2=2),
                _form(z, K, alone),
                _pearson(terms) if problem.free_scale else np.zeros(len(r)),
            ]
            shown = np.where(alone[:, None], 0.0, z)
            moved = np.einsum("rcn,nk,rc->rk", terms.jacobian, S, shown, optimize=True)
            moved[alone] = np.inf
            found.append(np.column_stack([*columns, moved / problem.total]))
    own, leverage, form, pearson, *left_out = gather_rows(problem, np.concatenate(found)).T
    p = float(leverage.sum())
    scale = dispersion
    if scale is None:
        scale = 1.0
        if problem.free_scale:
            scale = _dispersion(float(pearson.sum()), problem.total * C, p)
    moved = np.reshape(left_out, (k, problem.rows)).T
    return RowStatistics(own, leverage, form / (p * scale), moved, p, scale)


def _form(z: np.ndarray, K: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Return z^T K z, infinite for rows that stand alone."""
    form = np.einsum("rc,rcd,rd->r", np.where(alone[:, None], 0.0, z), K, np.nan_to_num(z))
    return np.where(alone, np.inf, form)


def _pearson(terms: OutputTerms) -> np.ndarray:
    """Return Pearson's statistic of each row, r^T B^-1 r; 0 for rows of weight 0."""
    if terms.pearson is not None:
        return terms.pearson
    found, counted = np.zeros(len(terms.slopes)), terms.slopes.any(axis=1)
    B, r = terms.curvature[counted], terms.slopes[counted]
    found[counted] = np.sum(r * np.linalg.solve(B, r[..., None])[..., 0], axis=1)
    return found


def _dispersion(pearson: float, numbers: float, parameters: float) -> float:
    if not numbers > parameters:
        raise InputError(
            f"{numbers:g} outputs determine no scale beside {parameters:.4g} effective parameters; "
            "give the variance of the noise as `dispersion`"
        )
    return pearson / (numbers - parameters)


def laplace(
    m: float, inverse: Inverse, test: Problem | None, x: np.ndarray, dispersion: float
) -> Laplace:
    """Return the standard deviations of the posterior around x. Collective."""
    outputs, parameters = None, np.sqrt(dispersion / m * inverse.diagonal())
    if test is not None:
        found = [np.empty((0, test.outputs))]
        with test.world.phase("computing the spread of predictions"):
            for _, K in output_blocks(test, x, inverse, m):
                variances = np.diagonal(K, axis1=1, axis2=2)
                found.append(np.sqrt(dispersion * np.maximum(variances, 0.0)))
        outputs = gather_rows(test, np.concatenate(found))
    return Laplace(parameters, outputs, dispersion)
