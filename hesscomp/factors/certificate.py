"""How far a factor is from its operator: the estimate that every compression returns."""

from dataclasses import dataclass, replace

import numpy as np

from hesscomp.dense import dropped_largest, dropped_squares

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
        Upper bound of ||H - F||_2 (Halko, Martinsson and Tropp 2011, lemma 4.1); NaN where no
        probes were used. It is computed for all eigenpairs of a sketch, and what is dropped of
        them adds its largest |w|, so it holds for every rank at once.
    converged : bool
        Whether the request was met: a tolerance exactly where the numbers here meet it (see
        `ErrorsByRank.meet`), a rank always.
    estimator : str
        "leave-one-out", "probes" or "exact"; of a sum, those of its terms.
    residual_norms : (k,) array or None
        ||H u - w u|| for each eigenpair, where H U was at hand; not below the rounding of the
        products. After a restart of krylov these are upper bounds, too large by at most
        `residual_tolerance` times the largest |w|.
    eigenvalue_converged : (k,) bool array or None
        Whether each residual is at most the `residual_tolerance` of the compression times the
        largest |w| (that it met at either end). This and `converged` are independent.
    spectral_failure : float
        Probability with which the spectral bound may fail: 10^-r for r probes, 0 where the matrix
        was assembled, NaN where it is not known.
    ritz : bool
        Whether the eigenpairs are Ritz pairs, U^T H U = diag(w). Then H - F is orthogonal to all
        that can be dropped of F, and |w| is nowhere above ||H||_2.
    one_end : bool
        Whether F holds the eigenvalues of one end of the spectrum alone (`which` LA or SA). It is
        then no approximation of H: the errors, true as they are, tell how large the rest of H is,
        and the residual norms how good the eigenpairs are.
    """

    frobenius_error_estimate: float
    frobenius_norm_estimate: float
    spectral_error_bound: float = NAN
    converged: bool = True
    estimator: str = ""
    residual_norms: np.ndarray | None = None
    eigenvalue_converged: np.ndarray | None = None
    spectral_failure: float = NAN
    ritz: bool = False
    one_end: bool = False

    @property
    def relative_error(self) -> float:
        """Estimate of ||H - F||_F / ||H||_F; 0 for a zero operator."""
        if self.frobenius_norm_estimate == 0:
            return 0.0
        return self.frobenius_error_estimate / self.frobenius_norm_estimate

    def by_rank(self, eigenvalues: np.ndarray) -> "ErrorsByRank":
        """Return what keeping only the leading 0, 1, ..., k eigenpairs leaves of H.

        What is dropped of Ritz pairs adds in squares, exactly. Other pairs may lie along H - F, so
        their norm is added (triangle inequality). The spectral bound grows by the largest |w|
        dropped.
        """
        dropped = np.sqrt(dropped_squares(eigenvalues))
        error = self.frobenius_error_estimate
        return ErrorsByRank(
            np.hypot(error, dropped) if self.ritz else error + dropped,
            self.frobenius_norm_estimate,
            self.spectral_error_bound + dropped_largest(eigenvalues),
            self.ritz,
        )

    def truncated(self, eigenvalues: np.ndarray, rank: int) -> "Certificate":
        """Return the certificate of the leading `rank` eigenpairs; see `by_rank`."""
        errors, done = self.by_rank(eigenvalues), self.eigenvalue_converged
        return replace(
            self,
            frobenius_error_estimate=float(errors.frobenius[rank]),
            spectral_error_bound=float(errors.spectral[rank]),
            residual_norms=None if self.residual_norms is None else self.residual_norms[:rank],
            eigenvalue_converged=None if done is None else done[:rank],
        )

    def updated(self, eigenvalues: np.ndarray) -> "Certificate":
        """Return the certificate of F + C as a factor of H + C for a known C: the error stays.

        `eigenvalues` are those of F + C; the norm takes the error as orthogonal to it.
        """
        error = self.frobenius_error_estimate
        return replace(
            self,
            frobenius_norm_estimate=float(np.hypot(np.linalg.norm(eigenvalues), error)),
            residual_norms=None,
            eigenvalue_converged=None,
            ritz=False,
        )

    def plus(self, other: "Certificate", eigenvalues: np.ndarray) -> "Certificate":
        """Return that of F + G, with its `eigenvalues`; errors add (triangle inequality)."""
        both = replace(
            self,
            frobenius_error_estimate=self.frobenius_error_estimate + other.frobenius_error_estimate,
            spectral_error_bound=self.spectral_error_bound + other.spectral_error_bound,
            converged=self.converged and other.converged,
            estimator=", ".join(filter(None, dict.fromkeys((self.estimator, other.estimator)))),
            spectral_failure=self.spectral_failure + other.spectral_failure,
            one_end=self.one_end or other.one_end,
        )
        return both.updated(eigenvalues)

    def scaled(self, number: float) -> "Certificate":
        """Return the certificate of number F as a factor of number H."""
        size, norms = abs(number), self.residual_norms
        return replace(
            self,
            frobenius_error_estimate=size * self.frobenius_error_estimate,
            frobenius_norm_estimate=size * self.frobenius_norm_estimate,
            spectral_error_bound=size * self.spectral_error_bound,
            residual_norms=None if norms is None else size * norms,
        )

    def absolute(self) -> "Certificate":
        """Return the certificate of |F| as a factor of |H|.

        The matrix absolute value does not increase Frobenius distances of symmetric matrices
        (Araki and Yamagami 1981); spectral ones it may, so their bound is dropped.
        """
        return replace(
            self,
            spectral_error_bound=NAN,
            spectral_failure=NAN,
            residual_norms=None,
            eigenvalue_converged=None,
            ritz=False,
        )


@dataclass(frozen=True)
class ErrorsByRank:
    """The errors of the leading 0, 1, ..., k eigenpairs, from which the request picks a rank.

    Attributes
    ----------
    frobenius : (k + 1,) array
        Estimates of ||H - F||_F.
    norm : float
        Estimate of ||H||_F.
    spectral : (k + 1,) array
        Bounds of ||H - F||_2.
    ritz : bool
        As in `Certificate`.
    """

    frobenius: np.ndarray
    norm: float
    spectral: np.ndarray
    ritz: bool

    def meet(self, tolerance: float, tolerance_norm: str, largest: float) -> np.ndarray:
        """Return at which ranks a tolerance is met: the one rule behind every ``converged``.

        In the Frobenius norm the relative error is to be at most the tolerance. In the spectral
        norm the bound is to be at most the tolerance times what ||H||_2 is at least: the `largest`
        |w| of Ritz pairs, and of others that less the bound. (k + 1,) booleans.
        """
        if tolerance_norm == "spectral":
            norm = largest - (0 if self.ritz else self.spectral)
            met = self.spectral <= tolerance * norm
        else:
            relative = self.frobenius / self.norm if self.norm else np.zeros_like(self.frobenius)
            met = relative <= tolerance
        met[0] &= largest == 0  # nothing at all stands for a zero operator only
        return met


UNKNOWN = Certificate(NAN, NAN)
