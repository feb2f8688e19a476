"""Deflation: compress what a known factor leaves of an operator, and add it to the factor."""

from dataclasses import replace

import numpy as np

from hesscomp.compression.compress import compress
from hesscomp.dense import LM
from hesscomp.errors import InputError
from hesscomp.factors.factor import Factor
from hesscomp.factors.lowrank import LowRank
from hesscomp.operators.operator import Operator
from hesscomp.sketching.orthonormalize import orthonormalize


def correct(operator: Operator, known: Factor, rank: int, **options) -> LowRank:
    """Return a factor of `operator` that starts from a known one: F + compress(H - F, rank).

    For a Hessian that has drifted since F was made, or a factor that turned out too short: what F
    has costs no columns. All eigenpairs of both parts are kept, as one orthonormal factor of rank
    ``known.rank + rank`` at most.

    Parameters
    ----------
    operator : Operator
    known : Factor
        With eigenpairs and of the same order; good or stale.
    rank : int
        Eigenpairs of the correction.
    **options
        Of `compress`, but for `tolerance` and `which`; the method must fit an operator of either
        sign.

    Returns
    -------
    LowRank
        Its error estimates are those of the correction, since H - (F + G) = (H - F) - G. It has no
        residual norms, which would be those of another operator.

    Raises
    ------
    InputError
        For orders that differ, a factor without eigenpairs, a tolerance, or one end.

    Notes
    -----
    Costs as `compress`, and two (n, known.rank + rank) arrays.
    """
    if known.n != operator.n:
        raise InputError(f"a factor of n = {known.n} does not fit an operator of n = {operator.n}")
    if "tolerance" in options:
        raise InputError("a correction takes a rank, not a tolerance")
    if options.get("which", LM) != LM:
        raise InputError(
            f"a correction takes the eigenvalues of largest magnitude, not `which` "
            f"{options['which']}; compress the operator again for one end of its spectrum"
        )
    values = known.eigenvalues  # before the products are spent
    rest = operator - known.in_layout(operator.layout)
    added = compress(rest, rank, **options)
    layout = added.layout
    U = np.hstack([known.in_layout(layout).eigenvectors, added.eigenvectors])
    w = np.concatenate([values, added.eigenvalues])
    full = U.shape[1] > known.n
    Q = layout.units(np.arange(known.n)) if full else orthonormalize(U, layout)
    R = layout.inner(Q, U)
    w, S = layout.eigenpairs((R * w) @ R.T)
    error = added.certificate.frobenius_error_estimate
    return LowRank(
        w,
        layout.combine(Q, S),
        certificate=replace(
            added.certificate,
            frobenius_norm_estimate=float(np.hypot(np.linalg.norm(w), error)),
            residual_norms=None,
            eigenvalue_converged=None,
        ),
        provenance=replace(added.provenance, operator=operator.name),
        parameters=known.parameters,
        blocks=known.blocks,
        layout=layout,
    )
