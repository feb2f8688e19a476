"""What the estimators return: numbers with their errors and their costs."""

from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
import scipy.special

from hesscomp.estimators.smoothing import reflected_gaussian

EXACT = "exact"  # the method's name where the matrix was assembled


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random samples.

    Attributes
    ----------
    value : float
    standard_error : float
        Of `value`, over the random vectors. For independent samples their standard deviation over
        the square root of their number; for XTrace and XNysTrace the jackknife, which is not too
        small on average but is often too large (see `exchangeable`). 0 where nothing was random.
    method : str
        "exact" where the matrix was assembled because that costs no more.
    columns : int
        Product columns spent.
    samples : int
        Random vectors behind the standard error; 0 where nothing was random.
    spread : float
        For XTrace and XNysTrace, the error estimate of Epperly, Tropp and Webber (2024): closer
        to the typical error than the jackknife, and often too small. Else the standard error.
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
        return cls(float(np.mean(samples)), error, method, columns, l, spread=error, **more)

    @classmethod
    def exactly(cls, value: SupportsFloat, columns: int) -> "Estimate":
        """Return a value known without error."""
        return cls(float(value), 0.0, EXACT, columns)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return Student's interval for the true value, widened by the truncation error."""
        half = self.truncation_error
        if self.samples:
            half += student(self.samples, confidence) * self.standard_error
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

    values: np.ndarray
    standard_errors: np.ndarray
    method: str
    columns: int
    samples: int = 0


@dataclass(frozen=True)
class NormBounds:
    """A spectral norm between two bounds.

    Attributes
    ----------
    value : float
        The largest Ritz value in magnitude: never above ||H||_2 but for rounding.
    upper_bound : float or None
        Not exceeded by ||H||_2 but with the probability `failure`; None where the steps do not
        suffice for any bound.
    failure : float
    residual_norm : float
        ||H u - w u|| of that Ritz pair: an eigenvalue lies within this distance of it.
    converged : bool
        Whether the residual is as small and the upper bound as near as was asked; False where
        there is no upper bound.
    columns : int
        Product columns spent.
    """

    value: float
    upper_bound: float | None
    failure: float
    residual_norm: float
    converged: bool
    columns: int


@dataclass(frozen=True)
class SpectralDensity:
    """The density of eigenvalues, smoothed by a reflected Gaussian; integrates to 1.

    Attributes
    ----------
    points : (g,) array
    density, standard_errors : (g,) arrays
        The density times n is eigenvalues per unit of length; errors are point by point.
    width : float
        Standard deviation of the Gaussian: nothing finer is resolved.
    sides : tuple of (low, high)
        The intervals that the smoothing stays in: negative and positive Ritz values, each within
        its own extremes, or one interval where all have one sign. There is nothing outside.
    samples : int
        Random vectors behind the errors; 0 where nothing was random.
    """

    points: np.ndarray
    density: np.ndarray
    standard_errors: np.ndarray
    width: float
    sides: tuple[tuple[float, float], ...]
    samples: int = 0

    def height(self, values: np.ndarray, n: int) -> np.ndarray:
        """Return the density that one of n eigenvalues makes at its own place, for each value."""
        values = np.asarray(values, dtype=np.float64)
        low, high = self.sides[0]
        heights = self._own_height(values, low, high)
        for low, high in self.sides[1:]:
            heights = np.where(values >= low, self._own_height(values, low, high), heights)
        return heights / n

    def _own_height(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        values = np.clip(values, low, high)
        return reflected_gaussian(values, values, self.width, low, high)

    def band(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper (g,) limits, point by point; the lower one is not below 0."""
        half = student(self.samples, confidence) * self.standard_errors if self.samples else 0.0
        return np.maximum(self.density - half, 0.0), self.density + half


def standard_error(samples: np.ndarray) -> np.ndarray:
    """Return the standard error of the mean of independent samples over the last axis."""
    return np.std(samples, axis=-1, ddof=1) / np.sqrt(samples.shape[-1])


def student(samples: int, confidence: float) -> float:
    """Return the half-width of Student's interval for a mean of samples, in standard errors."""
    return float(scipy.special.stdtrit(samples - 1, (1 + confidence) / 2))
