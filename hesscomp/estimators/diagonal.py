"""The diagonal of an operator: XDiag, and the plain mean that it improves on."""

import numpy as np

from hesscomp.errors import InputError
from hesscomp.estimators.leave_one_out import LeaveOneOut
from hesscomp.estimators.results import EXACT, DiagonalEstimate, standard_error
from hesscomp.estimators.vectors import check_counts, signs
from hesscomp.operators.operator import Operator


def diagonal(
    operator: Operator, columns: int = 64, *, method: str = "xdiag", seed: int = 0
) -> DiagonalEstimate:
    """Estimate the diagonal of H, entry by entry with standard errors.

    Parameters
    ----------
    operator : Operator
    columns : int
        Product columns to spend, at most. Where they reach n the matrix is assembled instead, and
        the diagonal is exact at n columns.
    method : {"xdiag", "hutchinson"}
        See `xdiag` and `hutchinson_diagonal`.
    seed : int
        The result does not depend on the number of ranks.

    Raises
    ------
    InputError
        For arguments out of range.
    """
    if method not in METHODS:
        raise InputError(f"method must be {' or '.join(METHODS)}, not {method}")
    estimator, least = METHODS[method]
    check_counts(seed, columns=(columns, least))
    operator = operator.replicated()
    if columns >= operator.n:
        exact = np.diagonal(operator.to_dense()).copy()
        return DiagonalEstimate(exact, np.zeros(operator.n), EXACT, operator.n)
    return estimator(operator, columns, seed)


def hutchinson_diagonal(operator: Operator, columns: int, seed: int) -> DiagonalEstimate:
    """The mean of omega * (H omega) over random signs (Bekas, Kokiopoulou and Saad 2007).

    Unbiased; entry i has variance (||H e_i||^2 - h_ii^2) / columns. One block product, n columns
    words reduced. Collective.
    """
    Omega = signs(operator.n, columns, seed)
    return _mean(Omega * (operator @ Omega), "hutchinson", columns)


def xdiag(operator: Operator, columns: int, seed: int) -> DiagonalEstimate:
    """XDiag of Epperly, Tropp and Webber (2024), with random signs.

    The mean of diag(Q_i Q_i^T H) + omega_i * (I - Q_i Q_i^T) H omega_i, Q_i the range of the
    sketch without column i. With l = columns // 2 vectors it costs 2 l columns in two block
    products of n l words. Unbiased; exact to rounding where l exceeds the rank of H. Memory six
    (n, l) arrays. Collective.

    The standard errors are the spread of the l leave-one-out estimates, whose common part they do
    not see: up to a fifth too small on the spectra of our tests.
    """
    l = columns // 2
    sketch = LeaveOneOut.draw(operator, signs(operator.n, l, seed))
    Z = operator @ sketch.Q
    known = np.sum(sketch.Q * Z, axis=1)
    left_out = sketch.Q @ sketch.S
    residuals = left_out * np.sum(sketch.S * sketch.R, axis=0)  # (I - Q_i Q_i^T) H omega_i
    samples = sketch.Omega * residuals - left_out * (Z @ sketch.S)
    return _mean(known[:, None] + samples, "xdiag", 2 * l)


def _mean(samples: np.ndarray, method: str, columns: int) -> DiagonalEstimate:
    """Mean and standard error over the columns of (n, l) samples."""
    errors = standard_error(samples)
    return DiagonalEstimate(samples.mean(axis=1), errors, method, columns, samples.shape[1])


METHODS = {"xdiag": (xdiag, 4), "hutchinson": (hutchinson_diagonal, 2)}
