"""A certificate in words: what is promised, what is estimated, and what is missing."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from hesscomp.analysis.html import ABSENT, number, percent
from hesscomp.analysis.reached import (
    bound_is_empty,
    failure,
    request_reached,
    scale,
    small_residual,
    tolerance_origin,
)
from hesscomp.factors import Factor


@dataclass(frozen=True)
class Claim:
    """One statement of a certificate.

    `standing` is "promised" (holds always, or except with a stated probability), "computed",
    "estimated", "met" or "not met" (a tolerance), "reached" (a rank, which asks for no accuracy),
    "says nothing" (a bound above the norm of H), or "missing".
    """

    statement: str
    value: Markup | str
    standing: str
    meaning: Markup | str


def _missing(statement: str, meaning: str) -> Claim:
    return Claim(statement, ABSENT, "missing", meaning)


ESTIMATORS = {
    "leave-one-out": (
        "Estimated from the sketch itself, each column against the span of the others; "
        "right on average, no upper bound."
    ),
    "probes": (
        "Estimated from fresh random vectors that the sketch has not seen; "
        "the square is right on average, no upper bound."
    ),
    "exact": "The matrix was assembled: computed, not estimated.",
    "": "The file does not say how it was estimated.",
}


def claims(factor: Factor) -> list[Claim]:
    """What a factor's certificate states; what it lacks is among them, named as missing."""
    pairs = _pairs(factor) if factor.has_eigenpairs else []
    return [*_frobenius_claims(factor), _spectral_claim(factor), _request(factor), *pairs]


def _frobenius_claims(factor: Factor) -> list[Claim]:
    certificate = factor.certificate
    standing = "computed" if certificate.estimator == "exact" else "estimated"
    how = ESTIMATORS.get(certificate.estimator, f"By the estimator {certificate.estimator}.")

    def claim(statement: str, value: float, meaning: str, write=number) -> Claim:
        if np.isnan(value):
            return _missing(statement, "The file does not hold it.")
        return Claim(statement, write(value), standing, meaning)

    return [
        claim("Error ‖H\u00a0−\u00a0F‖, Frobenius", certificate.frobenius_error_estimate, how),
        claim(
            "Size ‖H‖, Frobenius",
            certificate.frobenius_norm_estimate,
            "The scale that the error is to be compared with.",
        ),
        claim(
            "Relative error",
            certificate.relative_error,
            "The first over the second: what the factor leaves out of H."
            + " With one end of the spectrum it leaves out the other; the residuals below judge it."
            * certificate.one_end,
            percent if certificate.relative_error >= 1e-3 else number,
        ),
    ]


def _spectral_claim(factor: Factor) -> Claim:
    statement, bound = (
        "Bound of ‖H\u00a0−\u00a0F‖, spectral",
        factor.certificate.spectral_error_bound,
    )
    if np.isnan(bound):
        why = "Not asked for: nothing is promised about the error in the worst direction."
        return _missing(statement, why)
    if factor.certificate.estimator == "exact":
        return Claim(statement, number(bound), "computed", "The largest |eigenvalue| dropped.")
    standing = "says nothing" if bound_is_empty(factor) else "promised"
    meaning = {
        "says nothing": "It is above the largest eigenvalue, so it does not even exclude that F is "
        "no nearer to H than zero: such bounds are often ten times too large.",
        "promised": "For no unit vector v is ‖(H − F) v‖ larger, except with probability "
        f"{failure(factor)} (Halko, Martinsson and Tropp 2011, lemma 4.1). Usually far too large.",
    }
    return Claim(statement, number(bound), standing, meaning[standing])


def _request(factor: Factor) -> Claim:
    source, met = factor.provenance, factor.certificate.converged
    reached = request_reached(factor)
    if not np.isnan(source.tolerance_requested):
        before = "The smallest rank found that meets it" if met else "Do not rely on it"
        standing, value = "met" if met else "not met", number(source.tolerance_requested)
        return Claim("Request: tolerance", value, standing, f"{before}: {reached}.")
    if not factor.has_eigenpairs:
        return Claim("Request", factor.extent, "reached", f"It asks for no accuracy: {reached}.")
    if source.rank_requested >= 0:
        kept = factor.rank >= min(source.rank_requested, factor.n)
        standing, value = "reached" if kept else "not met", number(source.rank_requested)
        return Claim("Request: rank", value, standing, f"A rank asks for no accuracy: {reached}.")
    unknown = "The file does not say what was asked for."
    return Claim("Request", ABSENT, "missing" if met else "not met", unknown)


def _pairs(factor: Factor) -> list[Claim]:
    norms, done = factor.certificate.residual_norms, factor.certificate.eigenvalue_converged
    each, small = "Largest residual ‖H\u00a0u\u00a0−\u00a0w\u00a0u‖", "Pairs of small residual"
    if norms is None:
        why = "The file holds no residual norms: nothing is said about single eigenvalues."
        first = _missing(each, why)
    else:
        meaning = (
            "Within its own residual of each w lies an eigenvalue of H, up to the rounding of "
            f"{factor.provenance.dtype or 'the'} products."
        )
        first = Claim(each, number(float(np.max(norms, initial=0.0))), "promised", meaning)
    if done is None:
        return [first, _missing(small, "The file does not mark them.")]
    known = Markup("No residual is small enough")
    if norms is None:
        known = Markup("The file does not say how small they are")
    elif done.any():
        known = Markup("Residuals of at most {} |w₁|").format(number(small_residual(factor)))
    if origin := tolerance_origin(factor):
        tolerance = number(factor.provenance.residual_tolerance)
        known += Markup("; the tolerance is {} {} ({})").format(
            tolerance, scale(factor).replace("_1", "₁"), origin
        )
    return [first, Claim(small, f"{int(done.sum())} of {factor.rank}", "computed", known + ".")]
