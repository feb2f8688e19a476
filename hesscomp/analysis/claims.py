"""A certificate in words: what is promised, what is estimated, and what is missing."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from hesscomp.analysis.html import ABSENT, number, percent
from hesscomp.analysis.reached import (
    bound_is_empty,
    failure,
    request_reached,
    small_residual,
    tolerance_origin,
)
from hesscomp.factors import Factor


@dataclass(frozen=True)
class Claim:
    """One statement of a certificate.

    Attributes
    ----------
    statement, value, meaning : str or Markup
    standing : str
        "promised" (holds always, or except with a stated probability), "computed", "estimated",
        "met" or "not met" (a tolerance), "reached" (a rank, which asks for no accuracy), "says
        nothing" (a bound above the norm of H), or "missing".
    """

    statement: str
    value: Markup | str
    standing: str
    meaning: Markup | str


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
            return Claim(statement, ABSENT, "missing", "The file does not hold it.")
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
            "The first over the second: what the factor leaves out of H.",
            percent if certificate.relative_error >= 1e-3 else number,
        ),
    ]


def _spectral_claim(factor: Factor) -> Claim:
    statement, bound = (
        "Bound of ‖H\u00a0−\u00a0F‖, spectral",
        factor.certificate.spectral_error_bound,
    )
    if np.isnan(bound):
        return Claim(
            statement,
            ABSENT,
            "missing",
            "Not asked for: nothing is promised about the error in the worst direction.",
        )
    if factor.certificate.estimator == "exact":
        return Claim(statement, number(bound), "computed", "The largest eigenvalue dropped.")
    if bound_is_empty(factor):
        return Claim(
            statement,
            number(bound),
            "says nothing",
            "It is above the largest eigenvalue, so it does not even exclude that F is no nearer "
            "to H than zero: such bounds are often ten times too large.",
        )
    return Claim(
        statement,
        number(bound),
        "promised",
        f"For no unit vector v is ‖(H − F) v‖ larger, except with probability {failure(factor)} "
        "(Halko, Martinsson and Tropp 2011, lemma 4.1). Usually far too large.",
    )


def _request(factor: Factor) -> Claim:
    source, met = factor.provenance, factor.certificate.converged
    if not np.isnan(source.tolerance_requested):
        meaning = f"The smallest rank found that meets it: {request_reached(factor)}."
        if not met:
            meaning = f"Do not rely on it: {request_reached(factor)}."
        value = number(source.tolerance_requested)
        return Claim("Request: tolerance", value, "met" if met else "not met", meaning)
    if source.rank_requested >= 0:
        kept = factor.rank >= min(source.rank_requested, factor.n)
        meaning = f"A rank asks for no accuracy: {request_reached(factor)}."
        value = number(source.rank_requested)
        return Claim("Request: rank", value, "reached" if kept else "not met", meaning)
    if not factor.has_eigenpairs:
        meaning = f"It asks for no accuracy: {request_reached(factor)}."
        return Claim("Request", factor.extent, "reached", meaning)
    unknown = "The file does not say what was asked for."
    return Claim("Request", ABSENT, "missing" if met else "not met", unknown)


def _pairs(factor: Factor) -> list[Claim]:
    norms, done = factor.certificate.residual_norms, factor.certificate.eigenvalue_converged
    each, small = "Largest residual ‖H\u00a0u\u00a0−\u00a0w\u00a0u‖", "Pairs of small residual"
    out = [
        Claim(
            each,
            ABSENT,
            "missing",
            "The file holds no residual norms: nothing is said about single eigenvalues.",
        )
        if norms is None
        else Claim(
            each,
            number(float(np.max(norms, initial=0.0))),
            "promised",
            "Within its own residual of each w lies an eigenvalue of H, up to the rounding of "
            f"{factor.provenance.dtype or 'the'} products.",
        )
    ]
    if done is None:
        return [*out, Claim(small, ABSENT, "missing", "The file does not mark them.")]
    value = f"{int(done.sum())} of {factor.rank}"
    if norms is None:
        meaning = "The file does not say how small they are"
    elif done.any():
        meaning = "Residuals of at most " + number(small_residual(factor)) + " |w₁|"
    else:
        meaning = "No residual is small enough"
    return [*out, Claim(small, value, "computed", meaning + _tolerance(factor))]


def _tolerance(factor: Factor) -> Markup | str:
    """The rest of the sentence about residuals: what they were measured by."""
    origin = tolerance_origin(factor)
    if not origin:
        return "."
    tolerance = number(factor.provenance.residual_tolerance)
    return Markup("; the tolerance is {} |w₁| ({}).").format(tolerance, origin)
