"""Standard errors of a fitted linear model, from its Hessian at the optimum."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
import scipy.sparse

from hesscomp.compression import compress
from hesscomp.curvature.gauss_newton import EmpiricalFisherOperator
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.datasets import Dataset
from hesscomp.errors import InputError, NumericalError, some
from hesscomp.krylov.cg import ColumnsResult, solve_columns
from hesscomp.linear import LinearModel
from hesscomp.linear.covariance import FactoredCovariance
from hesscomp.operators.operator import Operator
from hesscomp.problems.linear import GeneralizedLinearModel
from hesscomp.problems.problem import chunks

if TYPE_CHECKING:
    from hesscomp.optimizers.newton import NewtonResult

log = logging.getLogger(__name__)

OBSERVED, ROBUST, NONE = KINDS = ("observed", "robust", "none")
DENSE = 4000  # coefficients whose covariance is computed whole
DEPENDENT = 1e-12  # of a column's size left beside those before it: it depends on them
RESIDUAL = 1e-10  # relative, of the systems that are solved for single standard errors
REFUSED = 1e-7  # rounding leaves more than `RESIDUAL` where columns differ in size, but not this
COLUMNS = 32  # systems at once
FACTOR_RANK = 100  # of their preconditioner, and of the covariance of more coefficients
POWER = 2  # of the latter: with 1 its eigenvectors are too vague for a diagonal beside them
FACTOR_NUMBERS = 2**25  # that its eigenvectors may have: of very many coefficients the rank is less
CHECKED = 8  # coefficients whose errors by the factor are compared with those of linear systems
CHECK_SEED = 20
CHECK_ITERATIONS = 1000
ROUNDING = 1e-12  # of the Hessian's diagonal: less is not told from nothing beside the factor's
COVERED = 1e-6  # of a coefficient's unit vector beside the factor: about nothing is left to divide
LITTLE = 1e-8  # of a precision, where nothing should be added


@dataclass(frozen=True)
class Errors:
    """Standard errors, and what they come from; NaN where they were not computed."""

    errors: np.ndarray
    covariance: np.ndarray | None = None
    effective: float = np.nan  # parameters
    residual: float = 0.0
    factored: FactoredCovariance | None = None


def linear_model(
    problem: GeneralizedLinearModel, dataset: Dataset, result: "NewtonResult",
    covariance: str = OBSERVED, errors_of: tuple[str, ...] = (),
) -> LinearModel:  # fmt: skip
    """Return a fitted model with its statistics. Collective.

    Parameters
    ----------
    problem, dataset, result
        What was fitted, and the fit. Where the data set was standardised, that is undone: all
        numbers are those of the columns as they were.
    covariance : {"observed", "robust", "none"}
        The inverse of the observed information; the sandwich, without a correction for small
        samples; or nothing.
    errors_of : tuple of str
        Above 4,000 coefficients, those whose standard errors are computed by conjugate gradients,
        32 systems at once, to a relative residual of 1e-10 or what rounding leaves. The others
        come from a factor of rank 100 at most and a diagonal, and robust ones are not computed.

    Raises
    ------
    InputError
        As `check_statistics`, and if a column is zero or depends linearly on others, so that there
        is no covariance.

    Notes
    -----
    Up to 4,000 coefficients the Hessian is assembled, in float64: n^2 words, n^3 operations on one
    rank. Weights count as repeated rows for the observed information, and robust errors take each
    row with its weight as one observation.

    Above, the observed information is approximated by its leading eigenpairs and a diagonal, which
    comes from its exact one (`FactoredCovariance`): block products with 540 columns at most, n k^2
    operations, and about 8 n k words on each rank; k is less than 100 above 335,000 coefficients.
    Eight coefficients that are drawn with a fixed seed, those of `errors_of` and the last intercept
    are solved for. The largest relative difference of their standard errors is the stated error,
    that of the intercept is stated apart, and the model has the solved ones. `residual` of the
    model is the largest of all these systems. Where a drawn one is not solved in 1,000 iterations,
    as where the Hessian is singular, no error could be stated: a warning says so, and only
    `errors_of` have errors.
    """
    check_statistics(problem, dataset, covariance, errors_of)
    names, scaling = problem.coefficient_names(dataset), dataset.scaling
    found, T = Errors(np.full(problem.n, np.nan)), scipy.sparse.eye_array(problem.n, format="csr")
    if scaling is not None:
        T = problem.unscaling(scaling)
    if covariance != NONE:
        exact = problem.exact()
        if problem.n <= DENSE:
            found = _dense(exact, result.x, covariance == ROBUST, names, T)
        else:
            chosen = [names.index(name) for name in errors_of]
            found = _by_solves(exact, result.x, covariance == ROBUST, names, chosen, T)
    if not problem.ridge:
        found = replace(found, effective=float(problem.n))
    return LinearModel(
        has_offsets=dataset.train.offsets is not None,
        family=problem.family_name, coefficients=T @ result.x, names=names,
        intercept=problem.intercept, reference=problem.reference,
        **_likelihood(problem, result.x, found, covariance),
        covariance_kind=covariance, residual=found.residual, rows=problem.rows,
        total=problem.total, ridge=problem.ridge, effective_parameters=found.effective,
        converged=result.converged, gradient_norm=result.gradient_norm, classes=dataset.classes,
        label_name=dataset.label_name or "", encoding=dataset.encoding,
        index_base=dataset.index_base, dataset=dataset.name,
        fingerprint=dataset.fingerprint if scaling is None else scaling.fingerprint,
        standardized=scaling is not None,
    )  # fmt: skip


def check_statistics(
    problem: GeneralizedLinearModel, dataset: Dataset, covariance: str, errors_of: tuple[str, ...]
) -> None:
    """Raise InputError for statistics that `linear_model` cannot give; before the fit."""
    if covariance not in KINDS:
        raise InputError(f"covariance must be one of {', '.join(KINDS)}, not {covariance}")
    if errors_of and covariance == NONE:
        raise InputError("`errors_of` goes with the covariance observed or robust")
    names = problem.coefficient_names(dataset)
    if wrong := [name for name in errors_of if name not in names]:
        raise InputError(f"{some(wrong)}: no coefficient has this name; they are {some(names)}")
    if errors_of and problem.n <= DENSE:
        raise InputError(
            f"`errors_of` goes with more than {DENSE} coefficients; all standard errors of "
            f"{problem.n} are computed"
        )


def _likelihood(problem: GeneralizedLinearModel, x, found: Errors, covariance: str) -> dict:
    """Return log likelihood, deviance, scale, and the errors that are multiplied by that."""
    free = problem.total - np.nan_to_num(found.effective, nan=problem.n)
    if problem.ridge > 0 and np.isnan(found.effective) and free <= 0:
        free = np.nan  # the ridge leaves some, and how many is not known
    if problem.free_scale and free <= 0:
        raise InputError(
            f"{problem.total:g} rows leave nothing to estimate a variance from beside "
            f"{problem.n} coefficients; take more rows or a ridge"
        )
    deviance, scale, log_likelihood = problem.fit_statistics(x, free)
    errors, matrix, factored = found.errors, found.covariance, found.factored
    if covariance == OBSERVED:
        errors, matrix = errors * np.sqrt(scale), None if matrix is None else matrix * scale
        factored = factored.scaled(scale) if factored is not None and scale > 0 else None
    return {
        "log_likelihood": log_likelihood, "deviance": deviance, "scale": scale,
        "standard_errors": errors, "covariance": matrix, "factored": factored,
    }  # fmt: skip


def _dense(
    problem: GeneralizedLinearModel, x, robust: bool, names: tuple[str, ...], T
) -> Errors:  # fmt: skip
    """Return the errors of T x from the assembled matrices."""
    C = _checked_inverse(problem, x, names) / problem.total
    ridge = problem.total * problem.ridge_diagonal()
    effective = problem.n - float(ridge @ np.diag(C))
    if robust:
        meat = problem.total * EmpiricalFisherOperator(problem, x).to_dense()
        C = problem.world.on_root(lambda C, B: C @ B @ C, C, meat)
    C = T @ (T @ C).T
    C = (C + C.T) / 2
    return Errors(np.sqrt(np.diag(C)), C, effective)


def _checked_inverse(problem: GeneralizedLinearModel, x, names: tuple[str, ...]) -> np.ndarray:
    """Return the inverse of the Hessian with its ridge; InputError that names a column, if none."""
    H = HessianOperator(problem, x).to_dense()
    H[np.diag_indices_from(H)] += problem.ridge_diagonal()
    C = problem.world.on_root(_inverse, H)
    if np.isnan(C).any():  # in the row of the first column that depends on others
        raise InputError(
            f"{problem.dataset_name}: column {names[int(np.argmax(np.isnan(C[:, 0])))]!r} is zero "
            "or depends linearly on those before it, so that no coefficient is determined; leave "
            "it out, or take a ridge"
        )
    return C


@contextmanager
def named_columns(problem: GeneralizedLinearModel, dataset: Dataset) -> Iterator[None]:
    """Name the first column that depends on others, where a fit fails for that. Collective."""
    try:
        yield
    except NumericalError:
        if problem.n <= DENSE:
            _checked_inverse(
                problem.exact(), np.zeros(problem.n), problem.coefficient_names(dataset)
            )
        raise


def _inverse(H: np.ndarray) -> np.ndarray:
    """Return H^-1; NaN in all of row i where column i depends on those before it."""
    sizes = np.sqrt(np.diag(H))
    bad, factor = np.flatnonzero(~(sizes > 0)), np.empty(0)
    if not len(bad):
        factor, failed = scipy.linalg.lapack.dpotrf(H / np.outer(sizes, sizes), lower=True)
        left = np.diag(factor)[: failed - 1 if failed else None] ** 2
        bad = np.append(np.flatnonzero(left < DEPENDENT), [failed - 1] if failed else [])
    if len(bad):
        out = np.zeros_like(H)
        out[int(bad[0])] = np.nan
        return out
    inverse, _ = scipy.linalg.lapack.dpotri(factor, lower=True)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    return inverse / np.outer(sizes, sizes)


def _by_solves(
    problem: GeneralizedLinearModel, x, robust: bool, names: tuple[str, ...], chosen: list[int],
    T,
) -> Errors:  # fmt: skip
    """Return the errors of T x: the chosen ones by a linear system each, others by a factor."""
    errors, worst = np.full(problem.n, np.nan), 0.0
    if robust and not chosen:
        return Errors(errors)
    H, fisher = HessianOperator(problem, x), EmpiricalFisherOperator(problem, x)
    rank = max(min(FACTOR_RANK, FACTOR_NUMBERS // problem.n), 1)
    M: Any
    model = None if robust else _Approximation.of(problem, x, H, rank)
    if model is None:
        M = compress(H, rank, layout="replicated").preconditioner(problem.ridge)
    else:
        M = model.covariance(scipy.sparse.eye_array(problem.n, format="csr"))
    for part in chunks(slice(None), len(chosen), COLUMNS):
        places = chosen[part]
        B, solved = _solved(problem, H, T, places, M, RESIDUAL)
        last = int(np.argmax(solved.residuals))
        worst = max(worst, float(solved.residuals[last]))
        if problem.world.decide(not worst <= REFUSED):
            raise NumericalError(
                f"the standard error of {names[places[last]]} was not found: conjugate gradients "
                f"stopped at a relative residual of {worst:.1e}; take a ridge"
            )
        variances = np.sum(B * solved.X, axis=0)
        if robust:
            variances = np.diag(fisher.quadratic(solved.X))
        errors[places] = np.sqrt(variances / problem.total)
    found = Errors(errors, residual=worst)
    if robust:
        return found
    if model is not None:
        drawn = _drawn(problem, chosen)
        B, solved = _solved(problem, H, T, drawn, M, REFUSED, CHECK_ITERATIONS)
        if problem.world.decide(bool(solved.converged.all())):
            worst = max(worst, *solved.residuals.tolist(), 0.0)
            errors[drawn] = np.sqrt(np.sum(B * solved.X, axis=0) / problem.total)
            return _completed(problem, errors, worst, model.covariance(T).scaled(1 / problem.total))
    if problem.world.rank == 0:
        log.warning(
            "%s: the Hessian is singular or nearly so, and standard errors by its factor could not "
            "be checked; they are left out. Take a larger ridge",
            problem.dataset_name,
        )
    return found


def _solved(
    problem: GeneralizedLinearModel, H: HessianOperator, T, places, preconditioner,
    tolerance: float, most: int | None = None,
) -> tuple[np.ndarray, ColumnsResult]:  # fmt: skip
    """Return rows of T as columns, and the solutions with H + ridge for them."""
    B = T[places].toarray().T.copy()
    return B, solve_columns(
        problem.regularized(H), B, tolerance=tolerance, preconditioner=preconditioner,
        max_iterations=most,
    )  # fmt: skip


def _drawn(problem: GeneralizedLinearModel, chosen: list[int]) -> np.ndarray:
    """Return places to solve for beside the chosen ones: the last intercept, and random ones."""
    last = [problem.n - 1] if problem.intercept else []
    order = np.random.default_rng(CHECK_SEED).permutation(problem.n)
    others = [i for i in order.tolist() if i not in {*chosen, *last}]
    drawn = others[:CHECKED] + [i for i in last if i not in chosen]
    return np.array(drawn, dtype=int)


def _completed(
    problem: GeneralizedLinearModel, errors: np.ndarray, residual: float,
    factored: FactoredCovariance,
) -> Errors:  # fmt: skip
    """Return solved errors with those by the factor in place of NaN, and how good these are."""
    known, near = np.isfinite(errors), problem.world.on_root(factored.standard_errors)
    off, last = np.abs(near / errors - 1), problem.n - 1
    checked, of_intercept = np.flatnonzero(known), np.nan
    if problem.intercept:
        checked, of_intercept = checked[checked != last], float(off[last])
    error = float(off[checked].max(initial=0))
    factored = replace(factored, checked=checked, error=error, intercept_error=of_intercept)
    return Errors(np.where(known, errors, near), residual=residual, factored=factored)


class _Centred(Operator):
    """H - h h^T / H_ii, h the column of a parameter i: what is left when i is eliminated."""

    passes, parts = 0, ("base",)

    def __init__(self, base: Operator, column: np.ndarray, place: int):
        super().__init__(base.n, base.world, psd=base.psd, dtype=base.dtype)
        self.base, self.row = base, column / np.sqrt(column[place])

    def block_product(self, V):
        return self.base @ V - np.outer(self.row, self.row @ V)


@dataclass(frozen=True)
class _Approximation:
    """H + ridge ~ E^T (diag(d) + U diag(w) U^T) E, E the identity but for the intercept's row.

    The single intercept, which all rows share, is eliminated exactly: its row of E is that of H
    over its diagonal entry, and what the factor is of are the centred columns.
    """

    diagonal: np.ndarray
    weights: np.ndarray
    vectors: np.ndarray
    border: np.ndarray | None  # (n,), the intercept's row of E

    @classmethod
    def of(
        cls, problem: GeneralizedLinearModel, x, H: HessianOperator, rank: int
    ) -> "_Approximation | None":
        """Return the approximation by a factor of a rank; None where a column is zero.

        H without F = U (U^T H U) U^T is taken as D, with D_i = (H - F)_ii / (1 - |U_i|^2): exact
        where U are eigenvectors and the other eigenvalues equal, and where H is diagonal. The
        weights keep U^T H U.
        """
        exact, border = problem.hessian_diagonal(x), None
        matrix: Operator = H
        if not problem.world.decide(np.min(exact + problem.ridge_diagonal()) > 0):
            return None
        least, last = ROUNDING * exact, problem.n - 1
        if problem.intercept and problem.outputs == 1:
            unit = np.zeros(problem.n)
            unit[last] = 1
            column = H @ unit
            border, matrix = column / column[last], _Centred(H, column, last)
            exact = np.maximum(exact - column * border, least)
        U = compress(matrix, rank, power=POWER, layout="replicated").eigenvectors
        inside, kept = matrix.quadratic(U), np.sum(U**2, axis=1)
        left = np.maximum(exact - np.sum(U @ inside * U, axis=1), 0)
        D = (left + least) / (np.maximum(1 - kept, 0) + COVERED)
        w, Q = np.linalg.eigh(inside - U.T @ (D[:, None] * U))
        U = U @ Q[:, w > 0]
        if border is not None:
            D[last], U[last] = column[last], 0
        return cls(D + problem.ridge_diagonal(), w[w > 0], U, border)

    def covariance(self, T) -> FactoredCovariance:
        """Return that of T x, but for the number of rows.

        T is diagonal but for rows of intercepts, and so is R = E T^-1. R^T diag(d) R then has a
        term of rank 1 for each of these, which joins the factor.
        """
        S, d, U = T.diagonal(), self.diagonal, self.vectors
        back = scipy.sparse.diags_array(1 / S)
        beside = scipy.sparse.csr_array(T - scipy.sparse.diags_array(S))
        R = back - back @ beside @ back  # T^-1, as columns of `beside` are of no intercept
        if self.border is not None:
            last = scipy.sparse.csr_array(self.border[None]) @ R
            R = scipy.sparse.vstack([R.tocsr()[:-1], last])
        R = scipy.sparse.csr_array(R)
        R.eliminate_zeros()
        through = np.flatnonzero(np.diff(R.indptr) > 1)
        rows = R[through].toarray()
        vectors = np.hstack([R.T @ U, rows.T])
        weights = np.append(self.weights, d[through])
        # Next to nothing beside the intercept's variance, which has a part of each column's.
        whole = d + U**2 @ self.weights
        little = LITTLE / (1 / whole[through] + (rows**2 * S**2) @ (1 / whole))
        d = d / S**2
        d[through] = little
        return FactoredCovariance(d, weights, vectors)
