"""What a factor has reached, in one plain phrase each: never just "converged"."""

import logging

import numpy as np

from hesscomp.compression.options import RESIDUAL_TOLERANCE
from hesscomp.factors import Factor

log = logging.getLogger(__name__)


def request_reached(factor: Factor) -> str:
    """Return what was asked of the compression and what came of it."""
    asked, known = factor.provenance, factor.certificate
    if not np.isnan(asked.tolerance_requested):
        spectral = asked.tolerance_norm == "spectral"
        size = _share(factor, known.spectral_error_bound) if spectral else known.relative_error
        what = "spectral bound / |w_1|" if spectral else "relative error"
        if known.converged:
            return f"{what} {size:.3g} at {factor.extent}, {asked.tolerance_requested:g} asked"
        return (
            f"tolerance {asked.tolerance_requested:g} NOT reached: {what} {size:.3g} "
            f"at {factor.extent}"
        )
    error = "unknown" if np.isnan(known.relative_error) else f"{known.relative_error:.3g}"
    if not factor.has_eigenpairs:  # then no rank can be asked for
        return f"{factor.extent}, with relative error {error}"
    if asked.rank_requested < 0:
        return f"rank {factor.rank} with relative error {error}; what was asked is not known"
    if known.one_end:
        return (
            f"{factor.extent}, rank {asked.rank_requested} asked; {error} of ||H||_F is left out, "
            "the other end with it, which says nothing about how good the eigenpairs are"
        )
    if asked.rank_requested == factor.rank:
        return f"rank {factor.rank}, as asked, with relative error {error}"
    return (
        f"rank {factor.rank} with relative error {error}; the compression was asked for rank "
        f"{asked.rank_requested}"
    )


def pairs_reached(factor: Factor) -> str:
    """Return how many eigenpairs have small residuals, and the sizes of these and the others."""
    norms, done = factor.certificate.residual_norms, factor.certificate.eigenvalue_converged
    if norms is None:
        return "residuals not known"
    if done is None:
        return f"||H u - w u|| at most {_share(factor, norms):.1e} |w_1|"
    small, rest = small_residual(factor), f"{_share(factor, norms[~done]):.1e} |w_1|"
    if done.all():
        return f"all {factor.rank} with ||H u - w u|| <= {small:.1e} |w_1|"
    if not done.any():
        limit, origin = factor.provenance.residual_tolerance, tolerance_origin(factor)
        if not origin:
            return f"none of {factor.rank} counted as accurate: ||H u - w u|| up to {rest}"
        asked = f"||H u - w u|| <= {limit:.1e} {scale(factor)} ({origin})"
        return f"none of {factor.rank} with {asked}: up to {rest}"
    return (
        f"{int(done.sum())} of {factor.rank} with ||H u - w u|| <= {small:.1e} |w_1|, "
        f"the others up to {rest}"
    )


def warn_of_inaccurate_pairs(factor: Factor) -> None:
    """Log, where eigenpairs have not converged, how far off they may be and what helps."""
    norms, done = factor.certificate.residual_norms, factor.certificate.eigenvalue_converged
    if norms is None or done is None or done.all():
        return
    made = factor.provenance
    remedy = f"more `max_columns` ({made.columns} were used)"
    if not np.isnan(made.tolerance_requested):
        remedy = f"a smaller `tolerance` than {made.tolerance_requested:g}"
    log.warning(
        "%d of %d eigenpairs have residuals above %g of the largest |w|, up to %.1g: the last "
        "eigenvalues may be too small in magnitude; for more accuracy give %s",
        np.sum(~done), len(done), made.residual_tolerance, _share(factor, norms[~done]), remedy,
    )  # fmt: skip


def scale(factor: Factor) -> str:
    """Return what a tolerance of residuals is relative to."""
    return "|w| of either end" if factor.certificate.one_end else "|w_1|"


def tolerance_origin(factor: Factor) -> str:
    """Return whether the tolerance of the residuals was asked for; empty where it is not known."""
    tolerance = factor.provenance.residual_tolerance
    if np.isnan(tolerance):
        return ""
    return "the default" if tolerance == RESIDUAL_TOLERANCE else "as asked"


def small_residual(factor: Factor) -> float:
    """Return the largest residual among the pairs that are marked as accurate, over |w_1|."""
    known = factor.certificate
    assert known.residual_norms is not None  # some are marked
    return _share(factor, known.residual_norms[known.eigenvalue_converged])


def bound_reached(factor: Factor) -> str:
    """Return the spectral bound with the probability that it fails, or why it is of no use."""
    known = factor.certificate
    bound = known.spectral_error_bound
    if np.isnan(bound):
        return "none"
    if known.spectral_failure == 0 or known.estimator == "exact":
        return f"||H - F||_2 <= {bound:.3e}"
    if bound_is_empty(factor):
        return (
            f"none of use: {bound:.3g} is above the largest eigenvalue, {factor.norm():.4g}, "
            "so it allows an error as large as H"
        )
    shown = f"||H - F||_2 <= {bound:.3e}, except with probability {failure(factor)}"
    return f"{shown}; loose" if known.estimator == "probes" else shown


def bound_is_empty(factor: Factor) -> bool:
    """Return whether the spectral bound does not even exclude an error as large as H itself."""
    known = factor.certificate  # of one end, the norm of F is not that of H
    return not known.one_end and bool(known.spectral_error_bound >= factor.norm() > 0)


def failure(factor: Factor) -> str:
    """Return the probability with which the spectral bound fails."""
    known = factor.certificate.spectral_failure
    return "10^-r for r probes" if np.isnan(known) else f"{known:.0e}"


def _share(factor: Factor, sizes) -> float:
    """Return the largest of the sizes over |w_1|; as it is where that is 0."""
    return float(np.max(sizes, initial=0.0)) / (factor.norm() or 1.0)
