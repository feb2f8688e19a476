"""An uncut approximation of an operator and the estimates of its error."""

from dataclasses import dataclass

import numpy as np

from hesscomp.dense import dropped_largest, dropped_squares
from hesscomp.factors.certificate import NAN, Certificate, ErrorsByRank
from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import Layout
from hesscomp.sketching.test_matrices import probes

# Times the largest image of r Gaussian vectors: above the spectral norm with probability 1 - 10^-r.
FAILURE_BOUND = 10 * np.sqrt(2 / np.pi)


@dataclass(frozen=True)
class Probes:
    """Fresh Gaussian vectors and their images under an operator, (rows, r) arrays."""

    vectors: np.ndarray
    images: np.ndarray

    @classmethod
    def draw(cls, operator: Operator, first: int, last: int, seed: int) -> "Probes":
        """Return probes ``first:last`` of this seed; one block product."""
        vectors = probes(operator.layout, first, last, seed)
        return cls(vectors, operator @ vectors)


def certificate_by_probes(squares: np.ndarray, norm: float, **about) -> Certificate:
    """Return the certificate of a factor F, by probes that its construction has not used.

    `squares` are ||(H - F) omega||^2 of each, and `norm` estimates ||H||_F. The spectral bound
    holds with probability 1 - 10^-r for r probes (Halko, Martinsson and Tropp 2011, lemma 4.1), and
    is loose: measured, 40 to 55 times ||H - F||_2.
    """
    return Certificate(
        frobenius_error_estimate=float(np.sqrt(np.mean(squares))),
        frobenius_norm_estimate=float(norm),
        spectral_error_bound=float(FAILURE_BOUND * np.sqrt(np.max(squares))),
        estimator="probes",
        spectral_failure=10.0 ** -len(squares),
        **about,
    )


@dataclass(frozen=True)
class Approximation:
    """All l eigenpairs that a sketch of l columns gives, before truncation to a rank.

    The leading ones come first: by absolute value, or those of the end that was asked for.
    """

    eigenvalues: np.ndarray  # (l,)
    eigenvectors: np.ndarray  # (rows, l)
    layout: Layout  # of the eigenvectors' rows
    range_error: float | None = None  # an estimate of ||H - F_l||_F, where there is one
    galerkin: bool = False  # whether F_l = Q (Q^T H Q) Q^T, to which H - F_l is then orthogonal
    estimator: str = "leave-one-out"  # what made `range_error`; "exact" for an assembled matrix
    residual_norms: np.ndarray | None = None  # (l,) norms ||H u - w u||, where known
    residual_allowed: float = 0.0  # the residual norm up to which pairs count as converged

    @classmethod
    def of_core(cls, Q: np.ndarray, T: np.ndarray, layout: Layout, **about) -> "Approximation":
        """Return Q T Q^T, for orthonormal (rows, l) Q, by absolute value."""
        w, S = layout.eigenpairs(T)
        return cls(w, layout.combine(Q, S), layout, **about)

    def certificate(
        self,
        rank: int,
        probes: Probes | None,
        errors: ErrorsByRank | None = None,
        converged: bool = True,
    ) -> Certificate:
        """Return the certificate of the leading `rank` eigenpairs, by probes where there are any.

        `errors` are ``self.errors(probes)``, where they are known already.
        """
        errors = errors or self.errors(probes)
        failure = 0.0 if self.estimator == "exact" else NAN
        if probes is not None:
            failure = 10.0 ** -probes.vectors.shape[1]
        residual_norms = done = None
        if self.residual_norms is not None:
            residual_norms = self.residual_norms[:rank].copy()
            done = residual_norms <= self.residual_allowed
        return Certificate(
            frobenius_error_estimate=float(errors.frobenius[rank]),
            frobenius_norm_estimate=errors.norm,
            spectral_error_bound=float(errors.spectral[rank]),
            converged=converged,
            estimator=self.estimator if probes is None else "probes",
            residual_norms=residual_norms,
            eigenvalue_converged=done,
            spectral_failure=failure,
            ritz=self.galerkin,
        )

    def errors(self, probes: Probes | None) -> ErrorsByRank:
        """Return the errors of the leading 0, 1, ..., l eigenpairs.

        H - F_k splits into H - F_l, which is estimated, and F_l - F_k, which is known exactly: its
        part has no variance. For a Galerkin approximation the two are orthogonal; otherwise their
        inner product is sampled too. Leave-one-out does not see it: for Nystrom, where it is not
        negative, a cut's true error may be sqrt(2) times the estimate; measured, 1.1 times.
        """
        dropped = dropped_squares(self.eigenvalues)
        if probes is None:
            assert self.range_error is not None  # what there are no probes for
            bound = 0.0 if self.estimator == "exact" else NAN
            error, cross, norm = self.range_error**2, np.zeros(1), self.range_error**2 + dropped[0]
        else:
            error, cross, sampled, largest = self._measure(probes)
            norm = max(error + cross[0] + dropped[0], sampled / 4)
            bound = FAILURE_BOUND * largest
        return ErrorsByRank(
            np.sqrt(error + np.maximum(cross, 0.0) + dropped),
            float(np.sqrt(norm)),
            bound + dropped_largest(self.eigenvalues),
            self.galerkin,
        )

    def _measure(self, probes: Probes) -> tuple[float, np.ndarray, float, float]:
        """Return what probes say of H - F_l.

        The square of its Frobenius norm; twice its (l + 1,) products with F_l - F_k, 0 for a
        Galerkin approximation; the square of ||H||_F, noisier; and its largest image of a probe.
        """
        w, U, layout = self.eigenvalues, self.eigenvectors, self.layout
        coordinates = layout.inner(U, probes.vectors)
        rest = probes.images - layout.combine(U, w[:, None] * coordinates)
        squares = layout.squares(rest)
        cross = np.zeros(len(w) + 1)
        if not self.galerkin:
            products = (w[:, None] * coordinates * layout.inner(U, rest)).mean(axis=1)
            cross[:-1] = 2 * np.cumsum(products[::-1])[::-1]
        sampled = float(np.mean(layout.squares(probes.images)))
        return float(np.mean(squares)), cross, sampled, float(np.sqrt(np.max(squares)))
