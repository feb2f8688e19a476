"""How a minimum depends on its data, by implicit derivatives."""

import logging
from dataclasses import dataclass

import numpy as np

from hesscomp.compression import compress
from hesscomp.curvature.gauss_newton import GaussNewtonOperator
from hesscomp.curvature.hessian import CurvatureOperator, HessianOperator
from hesscomp.datasets import Dataset
from hesscomp.errors import InputError
from hesscomp.factors import Factor
from hesscomp.influence.by_factor import Inverse, laplace, row_statistics
from hesscomp.influence.options import SensitivityOptions, factor_rank
from hesscomp.influence.result import Sensitivity
from hesscomp.influence.rows import gather_rows
from hesscomp.krylov.cg import ColumnsResult, solve_columns
from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import Replicated
from hesscomp.problems import capabilities as ability
from hesscomp.problems.per_example import per_example_gradients
from hesscomp.problems.problem import Problem

log = logging.getLogger(__name__)

TOLERANCES = {"float64": 1e-8, "float32": 1e-4}  # of residuals, by the type of the products


def sensitivity(
    problem: Problem, x: np.ndarray, factor: Factor | None = None, *, test=None,
    target: np.ndarray | None = None, **options,
) -> Sensitivity:  # fmt: skip
    """Return derivatives of a minimum by its data, and of functions of it (the targets).

    dx*/dt = -H^-1 d_t grad f for the weights of rows, the ridge, labels and columns of the data
    (Cook and Weisberg 1982; Koh and Liang 2017). Solves are by CG to a stated residual. Collective.

    Parameters
    ----------
    problem : Problem
        With the capability `ROW_GRADIENTS`.
    x : (n,) array
        A minimum of the objective.
    factor : Factor, optional
        Of the Hessian or the Gauss-Newton matrix at x, of any kind: the preconditioner, and the
        inverse in what asks for none of the solves (`leverage`, `laplace`). By default one is made
        here: of rank n up to n = 256, else of rank 100.
    test : Dataset, or (X, y), optional
        Rows whose mean loss is the first target: a data set's test rows, or each rank's own.
    target : (n,) or (n, j) array, optional
        Gradients of functions of x that are targets too, such as a unit vector for a coefficient.
    **options
        Those of `SensitivityOptions`.

    Raises
    ------
    InputError
        If there is neither a target nor `leverage`, for a point of negative curvature, a factor of
        another order or an indefinite one, and a gradient above `gradient_limit`.

    Notes
    -----
    A solve for each target, the ridge and each of the `leading` rows, which share block products.
    Memory on each rank: a few (n, k) arrays for k solves, the factor whole, and m k numbers.
    """
    asked = SensitivityOptions(**options)
    if factor is not None and not isinstance(factor, Factor):
        raise InputError(
            f"`factor` must be a factor, not {type(factor).__name__}; hesscomp.load reads a file's"
        )
    problem.require(ability.ROW_GRADIENTS)
    x, world = problem.check_point(x), problem.world
    objective, gradient = problem.objective_and_gradient(x)
    gradient_norm = float(np.linalg.norm(gradient))
    limit = asked.gradient_limit
    if limit is not None and world.decide(gradient_norm > limit):
        raise InputError(
            f"the gradient norm at the point is {gradient_norm:.3g}, above the `gradient_limit` "
            f"{limit:g}: the point is no minimum; train on, or take a larger limit"
        )
    goals = _targets(problem, x, test, target, asked.test_rows)
    if not (goals.names or asked.leverage or asked.laplace):
        raise InputError(
            "nothing to compute; give test rows or a target, or take `leverage` or `laplace`"
        )
    if asked.by_data and not goals.names:
        raise InputError("`by_data` goes with a target; give test rows or a target")
    shift = problem.ridge + asked.damping
    operator = _operator(problem, x, asked.operator)
    made = factor is None
    factor = _factor(operator, factor, asked.seed)
    matrix = problem.regularized(operator, asked.damping)
    solver = _Solver(matrix, operator.dtype, factor.preconditioner(shift), asked)

    by_ridge = np.zeros(problem.n)
    by_ridge[problem.penalized] = x[problem.penalized]
    solved = solver.solve(np.hstack([goals.gradients, by_ridge[:, None]]))
    S, k = solved.X[:, :-1], len(goals.names)
    with world.phase("computing the influence of rows"):
        influence = -problem.row_slopes(x, S) / problem.total
    influence = gather_rows(problem, influence)
    statistics = inverse = None
    if asked.leverage or asked.laplace:
        problem.require(ability.ROW_OUTPUTS)
        inverse = Inverse(factor, shift, asked.tail, problem)
    scaled = problem.free_scale and asked.dispersion is None
    if inverse is not None and (asked.leverage or scaled):
        statistics = row_statistics(problem, x, inverse, S, asked.dispersion)

    rank_by = np.abs(influence[:, 0]) if k else np.zeros(0)  # none is chosen
    if statistics is not None and not k:
        rank_by = statistics.cook
    chosen = np.argsort(-rank_by, kind="stable")[: asked.leading]
    gradients = per_example_gradients(problem, x, chosen).T
    singly = solver.solve(gradients)
    own = np.sum(gradients * singly.X, axis=0) / problem.total
    gap = float("nan")
    if statistics is not None and len(chosen):
        gaps = np.abs(statistics.self_influence[chosen] - own)
        gap = float(np.max(gaps / np.maximum(np.abs(own), np.finfo(float).tiny)))

    labels = shifts = scales = None
    if asked.by_data:
        problem.require(ability.DATA_SLOPES)
        found = problem.data_slopes(x, S)
        if found.labels is not None:
            labels = -gather_rows(problem, found.labels) / problem.total
        if found.shifts is not None and found.scales is not None:
            shifts, scales = -found.shifts / problem.total, -found.scales / problem.total
    spread = None
    if asked.laplace and inverse is not None:
        known = 1.0 if asked.dispersion is None else asked.dispersion
        dispersion = known if statistics is None else statistics.dispersion
        spread = laplace(problem.total, inverse, goals.test, x, dispersion)

    residuals = np.concatenate([solved.residuals, singly.residuals])
    result = Sensitivity(
        problem=problem.name, dataset=problem.dataset_name, operator=asked.operator,
        rows=problem.rows, n=problem.n, shift=shift, objective=objective,
        gradient_norm=gradient_norm, gradient_rows=_in_rows(problem, x, gradient_norm),
        targets=goals.names, values=goals.values, influence=influence, by_ridge=-by_ridge @ S,
        labels=labels, shifts=shifts, scales=scales, chosen=chosen,
        parameters=-singly.X / problem.total, parameters_by_ridge=-solved.X[:, -1],
        self_influence=own, factor_gap=gap, tolerance=solver.tolerance, residuals=residuals,
        iterations=np.concatenate([solved.iterations, singly.iterations]),
        converged=bool(solved.converged.all() and singly.converged.all()),
        factor=f"{factor.name}, {factor.extent}{' (made here)' if made else ''}",
        statistics=statistics if asked.leverage else None, laplace=spread,
    )  # fmt: skip
    if world.rank == 0:
        _warn(result)
    return result


@dataclass(frozen=True)
class _Targets:
    """The functions of x whose derivatives are asked for: names, values, (n, k) gradients."""

    names: tuple[str, ...]
    values: np.ndarray
    gradients: np.ndarray
    test: Problem | None


def _targets(problem: Problem, x: np.ndarray, test, target, test_rows) -> _Targets:
    names, values, gradients = [], [], [np.empty((problem.n, 0))]
    held_out = None
    if test is not None:
        problem.require(ability.TEST_ROWS)
        if isinstance(test, Dataset):
            if test.test is None:
                raise InputError(f"{test.name}: has no test rows; name their file")
        elif not (isinstance(test, tuple | list) and len(test) == 2):
            raise InputError(
                f"`test` must be a data set or a pair (X, y) of rows and targets, not "
                f"{type(test).__name__}; hesscomp.load_data reads files"
            )
        held_out = problem.over(test)
        value, gradient = held_out.objective_and_gradient(x)
        if test_rows and max(test_rows) >= held_out.rows:
            raise InputError(
                f"`test_rows` {max(test_rows)}: there are the test rows 0 to {held_out.rows - 1}"
            )
        single = per_example_gradients(held_out, x, np.array(test_rows, np.int64))
        gradients += [gradient[:, None], single.T]
        names += ["test loss", *(f"loss of test row {i}" for i in test_rows)]
        values += [value, *(float("nan") for _ in test_rows)]
    elif test_rows:
        raise InputError("`test_rows` goes with test rows; give them")
    if target is not None:
        given = target
        try:
            target = np.asarray(given).astype(np.float64, casting="same_kind")
        except (TypeError, ValueError):  # texts, complex numbers, rows of unlike lengths
            raise InputError(
                f"`target` is an array of derivatives by the {problem.n} parameters, real "
                f"numbers, not {type(given).__name__}; for the loss on test rows give `test`"
            ) from None
        target = target[:, None] if target.ndim == 1 else target
        if target.ndim != 2 or len(target) != problem.n or not np.isfinite(target).all():
            raise InputError(
                f"a target is a finite array of {problem.n} numbers, or of as many rows, not one "
                f"of shape {target.shape}"
            )
        gradients.append(target)
        names += [f"target {i}" for i in range(target.shape[1])]
        values += [float("nan")] * target.shape[1]
    return _Targets(tuple(names), np.array(values), np.hstack(gradients), held_out)


def _operator(problem: Problem, x: np.ndarray, name: str) -> CurvatureOperator:
    if name == "hessian":
        return HessianOperator(problem, x)
    problem.require(ability.GAUSS_NEWTON)
    return GaussNewtonOperator(problem, x)


def _factor(operator: CurvatureOperator, factor: Factor | None, seed: int) -> Factor:
    """Return the factor that was given, on every rank, or one that is made here."""
    n = operator.n
    if factor is None:
        return compress(operator, factor_rank(n), seed=seed, layout="replicated")
    if factor.n != n:
        raise InputError(f"the factor has n = {factor.n}, but the problem has {n} parameters")
    return factor.in_layout(Replicated(n, factor.world))


class _Solver:
    """Solves with the Hessian, ridge and damping by CG, with a factor as its preconditioner."""

    def __init__(self, matrix: Operator, dtype, preconditioner, asked: SensitivityOptions):
        self._matrix, self._name = matrix, asked.operator
        self._preconditioner, self._most = preconditioner, asked.max_iterations
        self.tolerance = asked.tolerance or TOLERANCES[str(dtype)]

    def solve(self, B: np.ndarray) -> ColumnsResult:
        found = solve_columns(
            self._matrix, B, tolerance=self.tolerance, preconditioner=self._preconditioner,
            max_iterations=self._most,
        )  # fmt: skip
        if found.negative_curvature.any():
            raise InputError(
                f"the {self._name} has directions of negative curvature at the point, which is no "
                "minimum; take the operator ggn, or a larger `damping`"
            )
        return found


def _in_rows(problem: Problem, x: np.ndarray, gradient_norm: float) -> float:
    """Return a gradient's norm as a number of rows, each of their root mean square."""
    with problem.world.phase("computing norms of single rows' gradients"):
        here = float(np.sum(problem.row_squares(x)))
    size = np.sqrt(problem.world.sum(np.array([here]))[0] / problem.rows)
    return float(problem.total * gradient_norm / size) if size else 0.0


def _warn(result: Sensitivity) -> None:
    if not result.stationary:
        log.warning(
            "the gradient norm at the point is %.3g, as large as the share of %.3g rows: the point "
            "is not stationary, and the derivatives are those of a linearised problem; train on "
            "for those of a minimum", result.gradient_norm, result.gradient_rows,
        )  # fmt: skip
    if not result.converged:
        log.warning(
            "a solve has a relative residual of %.2g, above the tolerance %.2g; give more "
            "iterations, a better factor, or products in float64",
            result.residuals.max(), result.tolerance,
        )  # fmt: skip
