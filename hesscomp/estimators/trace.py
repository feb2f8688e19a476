"""The front door to trace estimation."""

import numpy as np

from hesscomp.errors import InputError
from hesscomp.estimators import hutchinson, hutchpp, xnystrace, xtrace
from hesscomp.estimators.results import Estimate
from hesscomp.estimators.vectors import check_counts
from hesscomp.operators.operator import Operator

METHODS = {
    "hutchinson": (hutchinson.hutchinson, hutchinson.LEAST),
    "hutch++": (hutchpp.hutchpp, hutchpp.LEAST),
    "xtrace": (xtrace.xtrace, xtrace.LEAST),
    "xnystrace": (xnystrace.xnystrace, xnystrace.LEAST),
}


def trace(
    operator: Operator, columns: int = 64, *, method: str = "auto", seed: int = 0
) -> Estimate:
    """Estimate tr(H) with its standard error.

    Parameters
    ----------
    operator : Operator
    columns : int
        Product columns to spend, at most. Where they reach n the matrix is assembled instead, and
        the estimate is exact at n columns.
    method : {"auto", "hutchinson", "hutch++", "xtrace", "xnystrace"}
        "auto" is xnystrace where the operator is declared positive semidefinite, else xtrace.
        Those two gain most on decaying spectra; on a flat one all are alike but for the share of
        the columns that probes: all in hutchinson and xnystrace, half in xtrace, a third in
        hutch++.
    seed : int
        The result does not depend on the number of ranks.

    Raises
    ------
    InputError
        For arguments out of range.
    OperatorError
        For xnystrace on an operator that is not declared positive semidefinite.
    NumericalError
        For one that is, and is not.

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
