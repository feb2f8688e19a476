"""Arithmetic of factors that have eigenpairs: sums, multiples, updates and truncation.

The small eigenproblems live in the joint basis of what is added; no n x n matrix is made. What
the certificate of each result says is in `Certificate`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors.basis import EPS, complete
from hesscomp.factors.certificate import meets
from hesscomp.factors.provenance import NAN

if TYPE_CHECKING:
    from hesscomp.factors.lowrank import LowRank

Kind = TypeVar("Kind", bound="LowRank")  # of factor: what comes of one is of the same


def add(F: Kind, G: Kind) -> Kind:
    """Return F + G; see `lowrank.LowRank.__add__`."""
    if F.n != G.n:
        raise InputError(f"factors of n = {F.n} and n = {G.n} do not add")
    w, U = _eigenpairs(F, G.in_layout(F.layout).eigenvectors, G.eigenvalues)
    total = replace(
        F,
        eigenvalues=w,
        eigenvectors=U,
        certificate=F.certificate.plus(G.certificate, w),
        provenance=F.provenance.shared(G.provenance).derived("sum"),
        parameters=F.parameters if _same_point(F, G) else None,
        blocks=F.blocks if F.blocks == G.blocks else (),
    )
    return judged(total)


def update(F: Kind, B: np.ndarray, c: np.ndarray) -> Kind:
    """Return F + B diag(c) B^T for (rows, m) and (m,) arrays; see `lowrank.LowRank.update`."""
    w, U = _eigenpairs(F, B, c)
    updated = replace(
        F,
        eigenvalues=w,
        eigenvectors=U,
        certificate=F.certificate.updated(w),
        provenance=F.provenance.derived("update"),
    )
    return judged(updated)


def scale(F: Kind, number: float) -> Kind:
    """Return number F; see `lowrank.LowRank.__mul__`."""
    if not np.isfinite(number):
        raise InputError(f"a factor can be multiplied by finite numbers only, not {number}")
    return replace(
        F,
        eigenvalues=number * F.eigenvalues,
        certificate=F.certificate.scaled(number),
        provenance=replace(F.provenance.derived("multiple"), ridge=float("nan")),
    )


def truncate(F: Kind, rank: int | None, tolerance: float | None) -> Kind:
    """Return the leading eigenpairs of F; see `lowrank.LowRank.truncate`."""
    known, w = F.certificate, F.eigenvalues
    request: dict[str, Any]
    if rank is not None and tolerance is None:
        if rank < 1:
            raise InputError(f"rank must be at least 1, not {rank}")
        k, converged = min(rank, F.rank), True
        request = {"rank_requested": rank, "tolerance_requested": NAN, "tolerance_norm": ""}
    elif tolerance is not None and rank is None:
        if not 0 < tolerance < 1:
            raise InputError(f"tolerance must be between 0 and 1, not {tolerance}")
        met = known.by_rank(w).meet(tolerance, "frobenius", F.norm())
        converged = bool(met.any())
        k = int(np.argmax(met)) if converged else F.rank
        request = {
            "rank_requested": -1,
            "tolerance_requested": tolerance,
            "tolerance_norm": "frobenius",
        }
    else:
        raise InputError("truncate takes either a rank or a tolerance")
    return replace(
        F,
        eigenvalues=w[:k].copy(),
        eigenvectors=np.ascontiguousarray(F.eigenvectors[:, :k]),
        certificate=replace(known.truncated(w, k), converged=converged),
        provenance=replace(F.provenance, **request),
    )


def judged(F: Kind) -> Kind:
    """Return F, marked converged only if its certificate meets its provenance's tolerance.

    For factors made of others: the sum of two that met a tolerance need not meet it.
    """
    asked, known = F.provenance, F.certificate
    if np.isnan(asked.tolerance_requested):
        return F
    met = meets(
        asked.tolerance_requested,
        asked.tolerance_norm,
        known.relative_error,
        known.spectral_error_bound,
        F.norm(),
        known.ritz,
    )
    return replace(F, certificate=replace(known, converged=known.converged and bool(met)))


def _same_point(F: Kind, G: Kind) -> bool:
    if F.parameters is None or G.parameters is None:
        return False
    return np.array_equal(F.parameters, G.parameters)


def _eigenpairs(F: Kind, B: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenpairs of F + B diag(c) B^T but for those at its rounding level."""
    B = B * np.sqrt(np.abs(c))  # so that directions are kept or left by what they weigh
    basis = np.hstack([F.eigenvectors, complete(F.eigenvectors, B, F.layout)])
    if not basis.shape[1]:
        return np.zeros(0), basis
    X = F.layout.inner(basis, B)
    T = (X * np.sign(c)) @ X.T
    T[np.diag_indices(F.rank)] += F.eigenvalues
    w, S = F.layout.eigenpairs(T)
    size = F.norm() + np.sum(X**2)
    k = np.count_nonzero(np.abs(w) > len(w) * EPS * size)
    return w[:k], F.layout.combine(basis, S[:, :k])
