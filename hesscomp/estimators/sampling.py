"""What all estimators share: random vectors, checks, and results with their errors."""

import math
from dataclasses import dataclass, field
from typing import SupportsFloat

import numpy as np
import scipy.special

from hesscomp.errors import InputError
from hesscomp.parallel import random

ONE_SIGMA = math.erf(math.sqrt(0.5))  # 68%: of normal numbers within one standard deviation
EXACT = "exact"  # the method's name where the matrix was assembled


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random samples.

    Attributes
    ----------
    value : float
    standard_error : float
        Half the width of Student's interval that holds the truth in 68% of all cases: with many
        samples the usual standard error, with 2 samples 1.84 times it, with 10 1.06 times. Of
        independent samples, or for XTrace and XNysTrace of the jackknife, which is not too small on
        average but is often too large (see `leave_one_out.of_exchangeable`). 0 where nothing was
        random.
    method : str
        "exact" where the matrix was assembled because that costs no more.
    columns : int
        Product columns spent.
    samples : int
        Random vectors behind the standard error; 0 where nothing was random.
    spread : float
        For XTrace and XNysTrace, the error estimate of Epperly, Tropp and Webber (2024): closer
        to the typical error than the jackknife, and often too small. Else the standard deviation of
        the samples over the square root of their number.
    truncation_error : float
        Of quadratures: estimate of the error that more steps would remove, which the standard
        error does not see. 0 elsewhere.
    """

    value: float
    standard_error: float
    method: str
    columns: int
    samples: int = 0
    spread: float = 0.0
    truncation_error: float = 0.0

    @classmethod
    def of_samples(cls, samples: np.ndarray, method: str, columns: int, **more) -> "Estimate":
        """Return the mean and standard error of (l,) samples, l >= 2."""
        error, l = float(standard_error(samples)), len(samples)
        return cls.of_error(float(np.mean(samples)), error, method, columns, l, error, **more)

    @classmethod
    def of_error(
        cls, value: float, error: float, method: str, columns: int, samples: int, spread: float,
        **more,
    ) -> "Estimate":  # fmt: skip
        """Return a value whose variance, estimated from that many samples, is error^2."""
        wider = student(samples, ONE_SIGMA) * error
        return cls(value, wider, method, columns, samples, spread, **more)

    @classmethod
    def exactly(cls, value: SupportsFloat, columns: int) -> "Estimate":
        """Return a value known without error."""
        return cls(float(value), 0.0, EXACT, columns)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return Student's interval for the true value, widened by the truncation error."""
        half = self.truncation_error
        if self.samples:
            wider = student(self.samples, confidence) / student(self.samples, ONE_SIGMA)
            half += wider * self.standard_error
        return self.value - half, self.value + half


@dataclass(frozen=True)
class DiagonalEstimate:
    """A diagonal estimated from random samples.

    Attributes
    ----------
    values, standard_errors : (n,) arrays
        The errors are entry by entry; see `Estimate`.
    method, columns, samples
        As in `Estimate`.
    """

    values: np.ndarray = field(repr=False)
    standard_errors: np.ndarray = field(repr=False)
    method: str
    columns: int
    samples: int = 0

    @classmethod
    def of_samples(cls, samples: np.ndarray, method: str, columns: int) -> "DiagonalEstimate":
        """Return the means and standard errors of (n, l) samples, l >= 2."""
        errors = standard_error(samples)
        return cls(samples.mean(axis=1), errors, method, columns, samples.shape[1])


@dataclass(frozen=True)
class NormBounds:
    """A spectral norm between two bounds.

    Attributes
    ----------
    value : float
        The largest Ritz value in magnitude: at most ||H||_2, up to rounding.
    upper_bound : float or None
        ||H||_2 exceeds it with probability `failure` at most; None after too few steps for a bound.
    failure : float
    residual_norm : float
        ||H u - w u|| of that Ritz pair: an eigenvalue lies within this distance of it.
    converged : bool
        Whether the residual is as small and the upper bound as near as requested; False without an
        upper bound.
    columns : int
        Product columns spent.
    """

    value: float
    upper_bound: float | None
    failure: float
    residual_norm: float
    converged: bool
    columns: int


def standard_error(samples: np.ndarray) -> np.ndarray:
    """Return the standard error of the mean of independent samples over the last axis."""
    return np.std(samples, axis=-1, ddof=1) / np.sqrt(samples.shape[-1])


def student(samples: int, confidence: float) -> float:
    """Return the half-width of Student's interval for a mean of samples, in standard errors."""
    return float(scipy.special.stdtrit(samples - 1, (1 + confidence) / 2))


def signs(n: int, count: int, seed: int, stream: int = random.ESTIMATOR) -> np.ndarray:
    """Return an (n, count) array of independent signs (Rademacher): no noise from H's diagonal."""
    return np.where(random.uniform(seed, stream, (0, n), (0, count)) < 0.5, -1.0, 1.0)


def sphere(n: int, count: int, seed: int, stream: int = random.ESTIMATOR) -> np.ndarray:
    """Return (n, count) array of independent vectors, uniform on the sphere of radius sqrt(n)."""
    normal = random.standard_normal(seed, stream, (0, n), (0, count))
    return normal * (np.sqrt(n) / np.linalg.norm(normal, axis=0))


def check_counts(seed: int, **counts: tuple[int, int]) -> None:
    """Raise InputError unless seed >= 0 and every ``name=(value, least)`` has value >= least."""
    for name, (value, least) in {**counts, "seed": (seed, 0)}.items():
        if value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")
