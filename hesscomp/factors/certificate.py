"""How far a factor is from its operator: the estimate that every compression returns."""

from dataclasses import dataclass

import numpy as np

NAN = float("nan")


@dataclass(frozen=True)
class Certificate:
    """An error estimate of a factor F of an operator H.

    Attributes
    ----------
    frobenius_error_estimate : float
        Of ||H - F||_F.
    frobenius_norm_estimate : float
        Of ||H||_F.
    spectral_error_bound : float
        Upper bound of ||H - F||_2 that holds with probability 1 - 10^-r for r probes
        (Halko, Martinsson and Tropp 2011, lemma 4.1); NaN where no probes were used.
    converged : bool
        Whether the request was met: always, if a rank was asked for.
    estimator : str
        "leave-one-out" or "probes".
    residual_norms : (k,) array or None
        ||H u - w u|| for each eigenpair, where H U was at hand.
    eigenvalue_converged : (k,) bool array or None
    """

    frobenius_error_estimate: float
    frobenius_norm_estimate: float
    spectral_error_bound: float = NAN
    converged: bool = True
    estimator: str = ""
    residual_norms: np.ndarray | None = None
    eigenvalue_converged: np.ndarray | None = None

    @property
    def relative_error(self) -> float:
        """Estimate of ||H - F||_F / ||H||_F; 0 for a zero operator."""
        if self.frobenius_norm_estimate == 0:
            return 0.0
        return self.frobenius_error_estimate / self.frobenius_norm_estimate
