"""Trace, diagonal, log-determinant, spectral density and norms from block products alone.

Vectors are replicated, whatever the layout of the operator: they are few.
"""

from hesscomp.estimators.diagonal import DiagonalOptions, diagonal, diagonal_factor
from hesscomp.estimators.norms import exact_frobenius_norm, frobenius_norm, spectral_norm
from hesscomp.estimators.quadrature import (
    SpectralDensity,
    SpectralQuadrature,
    logdet,
    spectral_quadrature,
)
from hesscomp.estimators.sampling import DiagonalEstimate, Estimate, NormBounds
from hesscomp.estimators.trace import trace

__all__ = [
    "DiagonalEstimate",
    "DiagonalOptions",
    "Estimate",
    "NormBounds",
    "SpectralDensity",
    "SpectralQuadrature",
    "diagonal",
    "diagonal_factor",
    "exact_frobenius_norm",
    "frobenius_norm",
    "logdet",
    "spectral_norm",
    "spectral_quadrature",
    "trace",
]
