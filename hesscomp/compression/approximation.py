"""An uncut approximation of an operator and the estimates of its error."""

from dataclasses import dataclass, replace

import numpy as np

from hesscomp.curvature.operator import Operator
from hesscomp.factors.certificate import Certificate
from hesscomp.parallel.layout import Layout
from hesscomp.sketching.gaussian import probes

# Times the largest image of r Gaussian vectors: above the spectral norm with probability 1 - 10^-r.
FAILURE_BOUND = 10 * np.sqrt(2 / np.pi)


@dataclass(frozen=True)
class Probes:
    """Fresh Gaussian vectors and what the operator makes of them: how errors are measured.

    `vectors` and `images` are (rows, r) arrays.
    """

    vectors: np.ndarray
    images: np.ndarray

    @classmethod
    def draw(cls, operator: Operator, first: int, last: int, seed: int) -> "Probes":
        """Probes ``first:last`` of this seed; one block product."""
        vectors = probes(operator.layout, first, last, seed)
        return cls(vectors, operator @ vectors)


@dataclass(frozen=True)
class Approximation:
    """All l eigenpairs that a sketch of l columns gives, before truncation to a rank.

    Attributes
    ----------
    eigenvalues, eigenvectors : (l,) and (rows, l) arrays
        Sorted by absolute value, largest first.
    layout : Layout
        Of the eigenvectors' rows.
    range_error : float or None
        Leave-one-out estimate of ||H - F_l||_F, where the sketch allows it.
    galerkin : bool
        Whether F_l = Q (Q^T H Q) Q^T, so that H - F_l and F_l are orthogonal as matrices.
    estimator : str
        What made `range_error`: "leave-one-out", or "exact" for an assembled matrix.
    residual_norms : (l,) array or None
        ||H u - w u|| of each pair, where known; those of at most `residual_tolerance` times the
        largest |w| count as converged.
    """

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    layout: Layout
    range_error: float | None = None
    galerkin: bool = False
    estimator: str = "leave-one-out"
    residual_norms: np.ndarray | None = None
    residual_tolerance: float = 0.0

    def certificate(self, rank: int, probes: Probes | None) -> Certificate:
        """The certificate of the leading `rank` eigenpairs, by probes where there are any.

        The error splits into H - F_l, which is estimated, and F_l - F_k, which is known exactly:
        its part is added, not sampled, and so has no variance. For a Galerkin approximation the
        two are orthogonal; otherwise their inner product is sampled too.
        """
        return replace(self._error_estimate(rank, probes), **self._residuals(rank))

    def _residuals(self, rank: int) -> dict[str, np.ndarray]:
        if self.residual_norms is None:
            return {}
        norms = self.residual_norms[:rank].copy()
        allowed = self.residual_tolerance * np.abs(self.eigenvalues).max(initial=0.0)
        return {"residual_norms": norms, "eigenvalue_converged": norms <= allowed}

    def _error_estimate(self, rank: int, probes: Probes | None) -> Certificate:
        known = float(np.sum(self.eigenvalues**2))
        dropped = float(np.sum(self.eigenvalues[rank:] ** 2))
        if probes is None:
            error = self.range_error**2
            return Certificate(
                frobenius_error_estimate=float(np.sqrt(error + dropped)),
                frobenius_norm_estimate=float(np.sqrt(error + known)),
                estimator=self.estimator,
            )
        w, U, layout = self.eigenvalues, self.eigenvectors, self.layout
        coordinates = layout.inner(U, probes.vectors)
        rest = probes.images - layout.combine(U, w[:, None] * coordinates)
        error = float(np.mean(layout.squares(rest)))
        cross_dropped = cross_known = 0.0
        if not self.galerkin:
            products = w[:, None] * coordinates * layout.inner(U, rest)
            cross = 2 * products.mean(axis=1)
            cross_known, cross_dropped = cross.sum(), max(cross[rank:].sum(), 0.0)
        sampled = float(np.mean(layout.squares(probes.images)))  # ||H||_F^2, but noisier
        norm = max(error + cross_known + known, sampled / 4)
        dropped_part = layout.combine(U[:, rank:], w[rank:, None] * coordinates[rank:])
        largest = float(np.sqrt(np.max(layout.squares(rest + dropped_part))))
        return Certificate(
            frobenius_error_estimate=float(np.sqrt(error + cross_dropped + dropped)),
            frobenius_norm_estimate=float(np.sqrt(norm)),
            spectral_error_bound=FAILURE_BOUND * largest,
            estimator="probes",
        )
