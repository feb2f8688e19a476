"""Standard errors of a fitted linear model, from its Hessian at the optimum."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
import scipy.sparse

from hesscomp.compression import compress
from hesscomp.curvature.gauss_newton import EmpiricalFisherOperator
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.datasets import Dataset
from hesscomp.errors import InputError, NumericalError, some
from hesscomp.krylov.cg import solve_columns
from hesscomp.linear import LinearModel
from hesscomp.problems.linear import GeneralizedLinearModel
from hesscomp.problems.problem import chunks

if TYPE_CHECKING:
    from hesscomp.optimizers.newton import NewtonResult

OBSERVED, ROBUST, NONE = KINDS = ("observed", "robust", "none")
DENSE = 4000  # coefficients whose covariance is computed whole
DEPENDENT = 1e-12  # of a column's size left beside those before it: it depends on them
RESIDUAL = 1e-10  # relative, of the systems that are solved for single standard errors
REFUSED = 1e-7  # rounding leaves more than `RESIDUAL` where columns differ in size, but not this
COLUMNS = 32  # systems at once
FACTOR_RANK = 100  # of their preconditioner


@dataclass(frozen=True)
class Errors:
    """Standard errors, and what they come from; NaN where they were not computed."""

    errors: np.ndarray
    covariance: np.ndarray | None = None
    effective: float = np.nan  # parameters
    residual: float = 0.0


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
        32 systems at once, to a relative residual of 1e-10; `residual` of the model is the largest
        that rounding left.

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
        found = Errors(found.errors, found.covariance, float(problem.n), found.residual)
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
    errors, matrix = found.errors, found.covariance
    if covariance == OBSERVED:
        errors, matrix = errors * np.sqrt(scale), None if matrix is None else matrix * scale
    return {
        "log_likelihood": log_likelihood, "deviance": deviance, "scale": scale,
        "standard_errors": errors, "covariance": matrix,
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
    """Return the chosen errors of T x, a linear system each, whose blocks share products."""
    errors, worst = np.full(problem.n, np.nan), 0.0
    if not chosen:
        return Errors(errors)
    H, fisher = HessianOperator(problem, x), EmpiricalFisherOperator(problem, x)
    M = compress(H, FACTOR_RANK, layout="replicated").preconditioner(problem.ridge)
    for part in chunks(slice(None), len(chosen), COLUMNS):
        places = chosen[part]
        B = T[places].toarray().T.copy()
        solved = solve_columns(problem.regularized(H), B, tolerance=RESIDUAL, preconditioner=M)
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
    return Errors(errors, residual=worst)
