"""The diagonal of an operator: XDiag, the plain mean that it improves on, and the factor."""

from dataclasses import dataclass

import numpy as np

from hesscomp.compression.approximation import Probes, certificate_by_probes
from hesscomp.errors import InputError
from hesscomp.estimators.leave_one_out import LeaveOneOut
from hesscomp.estimators.sampling import EXACT, DiagonalEstimate, check_counts, signs
from hesscomp.factors import Certificate, Diagonal
from hesscomp.factors.provenance import metered
from hesscomp.operators.operator import Operator
from hesscomp.options import Seeded, option


@dataclass(frozen=True, kw_only=True)
class DiagonalOptions(Seeded, group="diagonal"):
    """The options of `diagonal_factor`."""

    columns: int = option(
        64, low=4, metavar="C",
        help="product columns of the estimate; where they reach n the diagonal is exact",
    )  # fmt: skip
    method: str = option("xdiag", choices=("xdiag", "hutchinson"), advanced=True, help="estimator")
    probe_count: int = option(8, low=1)


def diagonal(
    operator: Operator, columns: int = 64, *, method: str = "xdiag", seed: int = 0
) -> DiagonalEstimate:
    """Estimate the diagonal of H, entry by entry with standard errors.

    Parameters
    ----------
    columns : int
        Product columns to spend, at most. Where they reach n the matrix is assembled instead, and
        the diagonal is exact at n columns. InputError where they are too few for the method.
    method : {"xdiag", "hutchinson"}
        See `xdiag` and `hutchinson_diagonal`.
    seed : int
        The result does not depend on the number of ranks.
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


def diagonal_factor(
    operator: Operator,
    columns: int = 64,
    *,
    method: str = "xdiag",
    seed: int = 0,
    probe_count: int = 8,
) -> Diagonal:
    """Estimate the diagonal of H as a factor with a certificate.

    Parameters
    ----------
    operator : Operator
        The factor is in its layout.
    columns, method, seed
        As in `diagonal`.
    probe_count : int
        Fresh Gaussian vectors that measure the error of an estimate, besides the `columns`.

    Returns
    -------
    Diagonal
        Its certificate is of ||H - diag(d)||: all that is not on the diagonal, with the errors of
        the estimate. Where the matrix was assembled it is exact, and the Frobenius error is also
        the bound of the spectral one.

    Notes
    -----
    The exact diagonal takes n columns and memory for n^2 numbers at least twice. InputError for
    options out of range.
    """
    DiagonalOptions(columns=columns, method=method, seed=seed, probe_count=probe_count)
    layout, n, made = operator.layout, operator.n, metered(operator)
    operator.world.ledger.expect(n if columns >= n else columns + probe_count)
    if columns >= n:
        H = operator.to_dense()
        d, method = np.diagonal(H).copy(), EXACT
        error = float(np.linalg.norm(H - np.diag(d)))
        known = Certificate(
            frobenius_error_estimate=error,
            frobenius_norm_estimate=float(np.hypot(np.linalg.norm(d), error)),
            spectral_error_bound=error,
            estimator=EXACT,
            spectral_failure=0.0,
        )
    else:
        d = diagonal(operator, columns, method=method, seed=seed).values
        measured = Probes.draw(operator, 0, probe_count, seed)
        rest = measured.images - layout.local(d)[:, None] * measured.vectors
        squares = layout.squares(rest)
        norm = np.hypot(np.linalg.norm(d), np.sqrt(np.mean(squares)))
        known = certificate_by_probes(squares, norm)
    factor = Diagonal(
        layout.local(d),
        certificate=known,
        provenance=made(method=method, seed=seed),
        layout=layout,
    )
    return operator.describe(factor)


def hutchinson_diagonal(operator: Operator, columns: int, seed: int) -> DiagonalEstimate:
    """Return the mean of omega * (H omega) over random signs (Bekas, Kokiopoulou and Saad 2007).

    Unbiased; entry i has variance (||H e_i||^2 - h_ii^2) / columns. One block product, n columns
    words reduced. Collective.
    """
    Omega = signs(operator.n, columns, seed)
    return DiagonalEstimate.of_samples(Omega * (operator @ Omega), "hutchinson", columns)


def xdiag(operator: Operator, columns: int, seed: int) -> DiagonalEstimate:
    """Return XDiag of Epperly, Tropp and Webber (2024), with random signs.

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
    return DiagonalEstimate.of_samples(known[:, None] + samples, "xdiag", 2 * l)


METHODS = {"xdiag": (xdiag, 4), "hutchinson": (hutchinson_diagonal, 2)}
