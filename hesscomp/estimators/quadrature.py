"""Stochastic Lanczos quadrature: tr f(H) for any f, and the spectral density."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hesscomp.curvature.operator import Operator
from hesscomp.errors import InputError
from hesscomp.estimators.results import Estimate, SpectralDensity, standard_error
from hesscomp.estimators.vectors import check_counts, sphere
from hesscomp.krylov.lanczos import Lanczos
from hesscomp.parallel import random

GRID = 512  # points of a density


@dataclass(frozen=True)
class SpectralQuadrature:
    """Gauss quadratures for the spectral measure of H, one for each random vector.

    The mean over the rows of sum_j weights_j f(nodes_j) estimates tr f(H) / n.

    Attributes
    ----------
    n : int
    nodes, weights : (k, m) arrays
        Each row of weights sums to 1. Exact: one row, the eigenvalues with weights 1/n.
    half_nodes, half_weights : (k, m // 2 or 1) arrays
        The same after half the steps: what is between the two measures the truncation.
    columns : int
        Product columns spent.
    exact : bool
        Whether the matrix was assembled.
    """

    n: int
    nodes: np.ndarray
    weights: np.ndarray
    half_nodes: np.ndarray
    half_weights: np.ndarray
    columns: int
    exact: bool = False

    def trace_of(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """tr f(H), for a function that works on arrays elementwise.

        The standard error speaks of the random vectors; `truncation_error` is the change from
        half the steps to all, an upper guess wherever the second half of the steps at least
        halves the error.
        """
        samples = self.n * np.sum(self.weights * function(self.nodes), axis=1)
        if self.exact:
            return Estimate.exactly(samples[0], self.columns)
        half = self.n * np.sum(self.half_weights * function(self.half_nodes), axis=1)
        truncation = abs(float(np.mean(samples - half)))
        return Estimate.of_samples(samples, "slq", self.columns, truncation_error=truncation)

    def count_below(self, threshold: float) -> Estimate:
        """How many eigenvalues lie below the threshold (Lin, Saad and Yang 2016, section 3)."""
        return self.trace_of(lambda nodes: (nodes < threshold).astype(float))

    def density(
        self, points: np.ndarray | None = None, width: float | None = None
    ) -> SpectralDensity:
        """The density of eigenvalues, smoothed by a Gaussian, with its error band.

        Parameters
        ----------
        points : (g,) array, optional
            Default: 512 points over all nodes and four widths beyond.
        width : float, optional
            Standard deviation of the Gaussian. Default: the range of the nodes over their number
            in a row, which is about what so many steps resolve.

        Notes
        -----
        Lin, Saad and Yang (2016), section 3.2.2; memory k m numbers a point for one point at a
        time.
        """
        low, high = float(self.nodes.min()), float(self.nodes.max())
        if width is None:
            width = (high - low) / self.nodes.shape[1] or 1e-3 * (abs(high) or 1.0)
        if not width > 0:
            raise InputError(f"width must be positive, not {width}")
        if points is None:
            points = np.linspace(low - 4 * width, high + 4 * width, GRID)
        points = np.asarray(points, dtype=np.float64)
        samples = np.array([self._kernel_sums(point, width) for point in points])
        mean = samples.mean(axis=1)
        if self.exact:
            return SpectralDensity(points, mean, np.zeros_like(mean), width)
        errors = standard_error(samples)
        return SpectralDensity(points, mean, errors, width, samples.shape[1])

    def _kernel_sums(self, point: float, width: float) -> np.ndarray:
        """Each row's sum of Gaussians at a point."""
        kernel = np.exp(-0.5 * ((point - self.nodes) / width) ** 2)
        return np.sum(self.weights * kernel, axis=1) / (width * np.sqrt(2 * np.pi))


def spectral_quadrature(
    operator: Operator, *, probes: int = 10, steps: int = 80, seed: int = 0
) -> SpectralQuadrature:
    """Stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017, algorithm 1), all probes at once.

    Parameters
    ----------
    operator : Operator
    probes : int
        Random start vectors k, at least 2: the standard error falls with their square root.
    steps : int
        Lanczos steps m: the quadrature is exact for polynomials of degree 2 m - 1.
    seed : int
        The result does not depend on the number of ranks.

    Raises
    ------
    InputError
        For arguments out of range.

    Notes
    -----
    m block products of k columns, each one reduction of n k words; fewer where a Krylov space is
    exhausted. Full reorthogonalisation: memory n k m numbers. Where k m reaches n the matrix is
    assembled and its eigenvalues computed instead: cheaper, and exact. Collective.
    """
    check_counts(seed, probes=(probes, 2), steps=(steps, 1))
    operator = operator.replicated()
    n, world = operator.n, operator.world
    if probes * steps >= n:
        eigenvalues = world.on_root(np.linalg.eigvalsh, operator.to_dense())[None]
        weights = np.full((1, n), 1 / n)
        return SpectralQuadrature(n, eigenvalues, weights, eigenvalues, weights, n, exact=True)
    before = world.ledger.columns
    lanczos = Lanczos(operator, sphere(n, probes, seed, random.LANCZOS), steps)
    while not lanczos.finished:
        lanczos.advance()
    nodes, weights, _ = lanczos.ritz()
    half_nodes, half_weights, _ = lanczos.ritz(max(steps // 2, 1))
    columns = world.ledger.columns - before
    return SpectralQuadrature(n, nodes, weights, half_nodes, half_weights, columns)
