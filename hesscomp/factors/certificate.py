"""How far a factor is from its operator: the estimate that every compression returns."""

from dataclasses import dataclass, replace

import numpy as np

from hesscomp.factors.spectrum import dropped_squares

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
        "leave-one-out", "probes" or "exact"; of a sum, those of its terms.
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

    def truncated(self, eigenvalues: np.ndarray, rank: int) -> "Certificate":
        """Of the leading `rank` eigenpairs: the dropped eigenvalues are added in squares.

        That is exact where H - F is orthogonal to what is dropped, as for Rayleigh-Ritz factors;
        the spectral bound grows by the largest dropped |w| and holds for any factor.
        """
        dropped = dropped_squares(eigenvalues)[rank]
        largest = np.abs(eigenvalues[rank:]).max(initial=0.0)
        return replace(
            self,
            frobenius_error_estimate=float(np.sqrt(self.frobenius_error_estimate**2 + dropped)),
            spectral_error_bound=float(self.spectral_error_bound + largest),
            residual_norms=None if self.residual_norms is None else self.residual_norms[:rank],
            eigenvalue_converged=(
                None if self.eigenvalue_converged is None else self.eigenvalue_converged[:rank]
            ),
        )

    def updated(self, eigenvalues: np.ndarray) -> "Certificate":
        """Of F + C as a factor of H + C, for a C that is known: the error stays what it was.

        `eigenvalues` are those of F + C; the norm takes the error as orthogonal to it.
        """
        error = self.frobenius_error_estimate
        return replace(
            self,
            frobenius_norm_estimate=float(np.hypot(np.linalg.norm(eigenvalues), error)),
            residual_norms=None,
            eigenvalue_converged=None,
        )

    def plus(self, other: "Certificate", eigenvalues: np.ndarray) -> "Certificate":
        """Of F + G, whose eigenvalues are given: errors and bounds add (triangle inequality)."""
        both = replace(
            self,
            frobenius_error_estimate=self.frobenius_error_estimate + other.frobenius_error_estimate,
            spectral_error_bound=self.spectral_error_bound + other.spectral_error_bound,
            converged=self.converged and other.converged,
            estimator=", ".join(filter(None, dict.fromkeys((self.estimator, other.estimator)))),
        )
        return both.updated(eigenvalues)

    def scaled(self, number: float) -> "Certificate":
        """Of number F as a factor of number H."""
        size, norms = abs(number), self.residual_norms
        return replace(
            self,
            frobenius_error_estimate=size * self.frobenius_error_estimate,
            frobenius_norm_estimate=size * self.frobenius_norm_estimate,
            spectral_error_bound=size * self.spectral_error_bound,
            residual_norms=None if norms is None else size * norms,
        )

    def absolute(self) -> "Certificate":
        """Of |F| as a factor of |H|.

        The matrix absolute value does not increase Frobenius distances of symmetric matrices
        (Araki and Yamagami 1981); spectral ones it may, so their bound is dropped.
        """
        return replace(
            self, spectral_error_bound=NAN, residual_norms=None, eigenvalue_converged=None
        )
