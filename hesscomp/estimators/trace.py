"""The trace of an operator, by Hutchinson's estimator and those that improve on it."""

from contextlib import suppress

import numpy as np

from hesscomp.dense import inverse_cholesky
from hesscomp.errors import InputError, NumericalError, OperatorError
from hesscomp.estimators.leave_one_out import (
    LeaveOneOut,
    of_exchangeable,
    pair_overlaps,
    pair_trace,
)
from hesscomp.estimators.sampling import Estimate, check_counts, signs, sphere
from hesscomp.operators.operator import Operator
from hesscomp.parallel import random
from hesscomp.sketching.orthonormalize import orthonormalize

SHIFTS = 4  # powers of ten above rounding that XNysTrace tries


def trace(
    operator: Operator, columns: int = 64, *, method: str = "auto", seed: int = 0
) -> Estimate:
    """Estimate tr(H) with its standard error.

    Parameters
    ----------
    columns : int
        Product columns to spend, at most. Where they reach n the matrix is assembled instead, and
        the estimate is exact at n columns.
    method : {"auto", "hutchinson", "hutch++", "xtrace", "xnystrace"}
        "auto" is xnystrace where the operator is declared positive semidefinite, else xtrace.
        Those two are the most accurate where eigenvalues decay. Where they do not, what counts is
        the share of the columns that are probes: all in hutchinson and xnystrace, half in xtrace,
        a third in hutch++.
    seed : int
        The result does not depend on the number of ranks.

    Raises
    ------
    InputError
        For arguments out of range.
    OperatorError
        For xnystrace on an operator that is not declared positive semidefinite.
    NumericalError
        For xnystrace on an operator that is declared so and turns out not to be.

    Notes
    -----
    At most two block products, each one reduction. Memory 4 n columns numbers at most.

    Examples
    --------
    >>> from hesscomp.operators.matrix import MatrixOperator
    >>> H = MatrixOperator(np.diag(0.5 ** np.arange(100.0)), psd=True)
    >>> estimate = trace(H, columns=20)
    >>> bool(abs(estimate.value - 2) < 1e-3), estimate.method
    (True, 'xnystrace')
    """
    operator = operator.replicated()
    if method == "auto":
        method = "xnystrace" if operator.psd else "xtrace"
    if method not in METHODS:
        raise InputError(f"method must be auto, {', '.join(METHODS)}, not {method}")
    estimator, least = METHODS[method]
    check_counts(seed, columns=(columns, least))
    operator.world.ledger.expect(min(columns, operator.n))
    if columns >= operator.n and (operator.psd or method != "xnystrace"):
        return Estimate.exactly(np.trace(operator.to_dense()), operator.n)
    return estimator(operator, columns, seed)


def hutchinson(operator: Operator, columns: int, seed: int) -> Estimate:
    """Return tr(H) as the mean of omega^T H omega over random signs (Girard 1987; Hutchinson 1990).

    Unbiased, with variance 2 (||H||_F^2 - sum of h_ii^2) / columns. One block product, which
    reduces columns^2 words. Collective.
    """
    Omega = signs(operator.n, columns, seed)
    samples = np.diagonal(operator.project(Omega, Omega))
    return Estimate.of_samples(samples, "hutchinson", columns)


def hutchpp(operator: Operator, columns: int, seed: int) -> Estimate:
    """Return tr(H) by Meyer, Musco, Musco and Woodruff (2021), algorithm 1.

    tr(Q^T H Q) plus the mean of g^T (I - QQ^T) H (I - QQ^T) g. With l = columns // 3 columns of
    the sketch and columns - 2 l probes it costs `columns`, in two block products: n l words
    reduced, then (columns - l)^2. Unbiased; the standard error is that of the probes, which are
    few (2 of 4 columns, 8 of 24), so that Student's factor matters most here. Collective.
    """
    l = columns // 3
    sketch = operator @ signs(operator.n, l, seed, random.ESTIMATOR_SKETCH)
    Q = orthonormalize(sketch, operator.layout)
    probes = signs(operator.n, columns - 2 * l, seed)
    V = np.hstack([Q, probes - Q @ (Q.T @ probes)])
    products = np.diagonal(operator.project(V, V))
    return Estimate.of_samples(products[:l].sum() + products[l:], "hutch++", columns)


def xtrace(operator: Operator, columns: int, seed: int) -> Estimate:
    """Return tr(H) by XTrace (Epperly, Tropp and Webber 2024), normalised as in their section 2.3.

    With l = columns // 2 vectors it costs 2 l columns in two block products: n l words reduced,
    then l^2 (for a symmetric H the estimates need H Q only through Q^T H Q). Unbiased, and exact
    to rounding where l exceeds the rank of H. Collective.
    """
    l = columns // 2
    sketch = LeaveOneOut.draw(operator, sphere(operator.n, l, seed))
    core = operator.project(sketch.Q, sketch.Q)
    squares = np.sum(sketch.Omega * sketch.Y, axis=0)
    samples = operator.world.on_root(sketch.traces, (core + core.T) / 2, sketch.R, squares)
    return of_exchangeable(samples, "xtrace", 2 * l)


def xnystrace(operator: Operator, columns: int, seed: int) -> Estimate:
    """Return tr(H) of a semidefinite H by XNysTrace (Epperly, Tropp and Webber 2024), normalised.

    One block product of `columns` columns, n columns words reduced: half of XTrace's price, for
    an error that decays twice as fast. Unbiased; exact to rounding where the columns exceed the
    rank of H. The sketch is of H + s I with s at the rounding level (Tropp and others 2017),
    and n s is subtracted at the end, so the shift costs no accuracy. Collective.
    """
    if not operator.psd:
        raise OperatorError(
            "XNysTrace needs a positive semidefinite operator and this one is not declared so; "
            "use method xtrace"
        )
    Omega = sphere(operator.n, columns, seed)
    Y = operator @ Omega
    precision = np.finfo(operator.dtype).eps
    try:
        samples = operator.world.on_root(_shifted_traces, Omega, Y, precision)
    except np.linalg.LinAlgError:
        raise NumericalError(
            "the Nystrom core is negative: the operator is not semidefinite; use method xtrace"
        ) from None
    return of_exchangeable(samples, "xnystrace", columns)


def _shifted_traces(Omega: np.ndarray, Y: np.ndarray, precision: float) -> np.ndarray:
    """Return `_traces` by way of H + s I with the smallest s that gives a Cholesky factor.

    NumPy's LinAlgError where none at the rounding level does.
    """
    n, l = Omega.shape
    reach = np.linalg.norm(Y) / np.sqrt(l)
    if reach == 0:
        return np.zeros((l, l))
    for exponent in range(SHIFTS):
        shift = precision * reach * 10**exponent
        with suppress(np.linalg.LinAlgError):
            return _traces(Omega, Y + shift * Omega) - n * shift
    raise np.linalg.LinAlgError(f"no shift up to {shift:g} makes the core positive definite")


def _traces(Omega: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Return leave-one-out and leave-two-out estimates of tr(H) from Omega and Y = H Omega.

    With C = Omega^T Y and F = Y C^-1 Y^T, leaving out the columns I takes
    Y C^-1 E_I ((C^-1)_II)^-1 E_I^T C^-1 Y^T off F, and omega_j^T (H - F_I) omega_j is entry (j, j)
    of ((C^-1)_II)^-1. H - F_I vanishes on the other vectors, so only omega_j's part orthogonal to
    them is random: its squared length is entry (j, j) of ((G^-1)_II)^-1 with G = Omega^T Omega,
    and n - l + 1, or + 2, its mean (the paper's section 2.3).
    """
    n, l = Omega.shape
    inverse, gram = inverse_cholesky(Omega.T @ Y), inverse_cholesky(Omega.T @ Omega)
    c, g = np.sum(inverse**2, axis=1), np.sum(gram**2, axis=1)
    unit, gram = inverse / np.sqrt(c)[:, None], gram / np.sqrt(g)[:, None]
    overlaps, determinant = pair_overlaps(unit @ unit.T)
    _, gram_determinant = pair_overlaps(gram @ gram.T)
    B = Y @ inverse
    known = np.sum(B**2) - pair_trace(unit @ (B.T @ B) @ unit.T, overlaps, determinant)
    dimensions = n - l + 2 - np.eye(l)
    return known + dimensions * (g * gram_determinant) / (c * determinant)


# With the fewest columns that each takes.
METHODS = {
    "hutchinson": (hutchinson, 2),
    "hutch++": (hutchpp, 4),
    "xtrace": (xtrace, 4),
    "xnystrace": (xnystrace, 2),
}
