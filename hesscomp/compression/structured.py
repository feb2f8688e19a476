"""Low rank beside a known part: F = S + U W U^T for H = S + what S leaves, or for a prior S."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hesscomp.compression.approximation import Probes
from hesscomp.compression.compress import RANK, compress
from hesscomp.compression.generalized import generalized_eigen
from hesscomp.compression.hodlr import certified
from hesscomp.compression.options import SketchOptions
from hesscomp.dense import dropped_largest, inverse_cholesky, sorted_eigh
from hesscomp.errors import InputError
from hesscomp.factors.factor import Factor
from hesscomp.factors.provenance import metered
from hesscomp.factors.structured import Structured, as_base, low_rank_part, structured
from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import Replicated
from hesscomp.sketching.orthonormalize import orthonormalize
from hesscomp.sketching.test_matrices import gaussian, probes

NORM_COLUMNS = 64  # of the estimate of ||F||_F, which takes no product with H


def compress_beside(
    operator: Operator,
    base,
    rank: int | None = None,
    tolerance: float | None = None,
    *,
    max_rank: int | None = None,
    **options,
) -> Structured:
    """Compress what a base leaves of an operator: H ~ S + U W U^T. Collective.

    Parameters
    ----------
    operator : Operator
        H.
    base : Diagonal, Hodlr, Hbs, Sparse or Structured; SciPy sparse matrix; or a known operator
        S, such as the factor of an earlier point, or one of a small tolerance. What a structured
        one has of low rank is joined with what is found.
    rank, tolerance, **options
        Those of `compress`, of H - S; the tolerance is relative to ||H - S||.
    max_rank : int, optional
        The most that is kept of the low rank as a whole: with a `rank` the eigenpairs of largest
        magnitude, and what is dropped adds to the error.

    Raises
    ------
    InputError
        For a base of another kind or n, and as `compress`.

    Notes
    -----
    Costs as `compress`; each product with H takes one with S too. A low rank that is joined or cut
    takes a QR factorisation of all vectors.
    """
    made, base = metered(operator), as_base(base, operator.world)
    if base.n != operator.n:
        raise InputError(f"a base of n = {base.n} does not fit an operator of n = {operator.n}")
    S, U, w = low_rank_part(_replicated(base, operator))
    asked = {**options, "max_rank": max_rank} if tolerance is not None else options
    found = compress(operator - base.in_layout(operator.layout), rank, tolerance, **asked)
    V = found.layout.whole(found.eigenvectors)
    w, U = np.concatenate([w, found.eigenvalues]), np.hstack([U, V])
    dropped = np.empty(0)
    if len(w) > found.rank or (max_rank is not None and len(w) > max_rank):
        pairs = operator.world.on_root(_eigenpairs, U, w)
        most = min(len(pairs.T), max_rank or len(w))
        (w, dropped), U = np.split(pairs[0], [most]), pairs[1:, :most]
    factor = structured(S, np.ascontiguousarray(U), w)
    factor = replace(factor, layout=found.layout)
    known = found.certificate
    error = known.frobenius_error_estimate + float(np.linalg.norm(dropped))
    known = replace(
        known,
        frobenius_error_estimate=error,
        frobenius_norm_estimate=float(np.hypot(_norm(factor), error)),
        spectral_error_bound=known.spectral_error_bound + dropped_largest(dropped)[0],
        residual_norms=None,
        eigenvalue_converged=None,
        ritz=False,
    )
    return operator.describe(replace(factor, certificate=known, provenance=made(
        method=f"{base.kind} and {found.provenance.method}",
        rank_requested=-1 if rank is None else rank,
        seed=found.provenance.seed,
    )))  # fmt: skip


def _eigenpairs(U: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the eigenvalues of U diag(w) U^T, by magnitude, over their eigenvectors."""
    Q, R = np.linalg.qr(U)
    pairs = sorted_eigh((R * w) @ R.T)
    return np.vstack([pairs[0], Q @ pairs[1:]])


def compress_with_prior(
    operator: Operator, prior, rank: int | None = None, probe_count: int = 8, **options
) -> Structured:
    """Compress S + H for a known prior S: the low rank is that of H in the metric of S. Collective.

    With S = L L^T it is that of L^-1 H L^-T, which falls off where the data say less than the prior
    (Bui-Thanh, Ghattas, Martin and Stadler 2013); eigenvalues far below 1 may be left.

    Parameters
    ----------
    operator : Operator
        H, of the data alone.
    prior : Diagonal, Hodlr, Hbs or Sparse; SciPy sparse matrix; or a known operator
        S, positive definite; InputError if it is not. A known operator is any object with `shape`,
        ``@`` and `solve`, whole on every rank (`hesscomp.factors.Known`).
    rank, **options
        As for `compress`, of L^-1 H L^-T; of a prior that is no diagonal `oversample` (10), `power`
        (1) and `seed`.
    probe_count : int
        Random vectors whose products with H measure the error.

    Notes
    -----
    Of a diagonal: columns as `compress`, and the probes. Of others S is known by its products and
    solves alone (Saibaba, Lee and Kitanidis 2016), one of each for a column, and eliminated once:
    (2 + power) (rank + oversample) columns and the probes; n (rank + oversample) numbers, four
    times, on every rank.
    """
    made = metered(operator)
    S = _replicated(as_base(prior, operator.world), operator)
    if S.n != operator.n:
        raise InputError(f"a prior of n = {S.n} does not fit an operator of n = {operator.n}")
    if S.is_diagonal:
        found = generalized_eigen(operator.replicated(), S.diagonal(), rank, **options)
        w, U = found.eigenvalues, S @ found.eigenvectors
        about = found.whitened.provenance
        method, seed = about.method, about.seed
    else:
        asked = SketchOptions(rank=rank or RANK, **options)
        w, U = _in_metric(operator.replicated(), S, asked)
        method, seed = "eigh", asked.seed
    factor = structured(S, U, w)
    factor = factor.in_layout(operator.layout)
    fresh = Probes.draw(operator, 0, probe_count, seed)
    ours = S.in_layout(operator.layout) @ fresh.vectors
    known = certified(factor, Probes(fresh.vectors, fresh.images + ours), None, _norm(factor))
    return operator.describe(replace(factor, certificate=known, provenance=made(
        method=f"{method} in the metric of a prior",
        rank_requested=-1 if rank is None else rank,
        seed=seed,
    )))  # fmt: skip


def _in_metric(
    operator: Operator, S: Factor, asked: SketchOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Return w and S U of H ~ S U diag(w) U^T S, U^T S U = I, by products and solves with S.

    A Rayleigh-Ritz step in the inner product of S, on the range of (S^-1 H)^(1 + power) S^-1 G for
    Gaussian G: what the prior lets vary most comes first.
    """
    if not S.psd:
        raise InputError("the prior is not positive definite")
    layout, world = operator.layout, operator.world
    columns = min((asked.rank or RANK) + asked.oversample, operator.n)
    Q = orthonormalize(S.solve(gaussian(layout, 0, columns, asked.seed), 0.0), layout)
    for _ in range(1 + asked.power):
        Q = orthonormalize(S.solve(operator @ Q, 0.0), layout)
    # The columns of Q are orthonormal; with R they are so in the inner product of S.
    R = world.on_root(inverse_cholesky, layout.inner(Q, S @ Q))
    Q = Q @ R
    pairs = world.on_root(sorted_eigh, layout.inner(Q, operator @ Q))
    kept = min(asked.rank or RANK, columns)
    return pairs[0, :kept], S @ (Q @ pairs[1:, :kept])


def _replicated(base: Factor, operator: Operator) -> Factor:
    return base.in_layout(Replicated(base.n, operator.world))


def _norm(factor: Structured) -> float:
    """Return an estimate of ||F||_F by random vectors."""
    vectors = probes(Replicated(factor.n), 0, NORM_COLUMNS, 0)
    products = factor.in_layout(Replicated(factor.n)) @ vectors
    return float(np.linalg.norm(products) / np.sqrt(NORM_COLUMNS))
