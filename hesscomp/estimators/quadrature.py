"""Stochastic Lanczos quadrature: tr f(H) for any f, and the spectral density."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hesscomp.errors import InputError
from hesscomp.estimators.results import Estimate, SpectralDensity, standard_error
from hesscomp.estimators.smoothing import reflected_gaussian
from hesscomp.estimators.vectors import check_counts, sphere
from hesscomp.krylov.lanczos import Lanczos
from hesscomp.operators.operator import Operator
from hesscomp.parallel import random

GRID = 512  # points of a density
ROUNDING = 100  # multiples of eps ||H|| below which a sign says nothing
LEAST = 32  # points of a side of a density, however short it is


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
    precision : float
        Machine epsilon of the products.
    """

    n: int
    nodes: np.ndarray
    weights: np.ndarray
    half_nodes: np.ndarray
    half_weights: np.ndarray
    columns: int
    exact: bool = False
    precision: float = float(np.finfo(np.float64).eps)

    @property
    def rounding(self) -> float:
        """Magnitude below which the sign of a node says nothing."""
        return ROUNDING * self.precision * float(np.abs(self.nodes).max())

    def trace_of(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """Return tr f(H), for a function that works on arrays elementwise.

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
        """Estimate how many eigenvalues are below it (Lin, Saad and Yang 2016, section 3)."""
        return self.trace_of(lambda nodes: (nodes < threshold).astype(float))

    def density(
        self, points: np.ndarray | int = GRID, width: float | None = None
    ) -> SpectralDensity:
        """Return the density of eigenvalues, smoothed by a Gaussian, with its error band.

        The Gaussian is reflected at 0 and at the extreme nodes, so that smoothing moves nothing
        across them: no density lies below the smallest node, none below 0 for a semidefinite
        operator, and the share of negative eigenvalues is that of `count_below`. Nodes within
        `rounding` of 0 count as 0, and 0 with the positive ones (where there are any).

        Parameters
        ----------
        points : (g,) array or int
            Or how many; then from the smallest node to the largest, at least a few of them on
            either side of 0. A point at 0 belongs to the positive side.
        width : float, optional
            Standard deviation of the Gaussian. Default: the range of the nodes over their number
            in a row, which is about what so many steps resolve.

        Notes
        -----
        Lin, Saad and Yang (2016), section 3.2.2, but for the reflections (Silverman 1986, section
        2.10); memory k m numbers a point for one point at a time.
        """
        nodes = np.where(np.abs(self.nodes) <= self.rounding, 0.0, self.nodes)
        low, high = float(nodes.min()), float(nodes.max())
        if width is None:
            width = (high - low) / nodes.shape[1] or 1e-3 * (abs(high) or 1.0)
        if not width > 0:
            raise InputError(f"width must be positive, not {width}")
        sides = _sides(low, high, width)
        if isinstance(points, int):
            points = _grid(sides, points, self.rounding)
        points = np.asarray(points, dtype=np.float64)
        samples = np.zeros((len(points), len(nodes)))
        for side, (low, high) in enumerate(sides):
            weights = np.where(_on_side(nodes, side, sides), self.weights, 0.0)
            for j in np.flatnonzero(_on_side(points, side, sides)):
                kernel = reflected_gaussian(points[j], nodes, width, low, high)
                samples[j] = np.sum(weights * kernel, axis=1)
        mean = samples.mean(axis=1)
        if self.exact:
            return SpectralDensity(points, mean, np.zeros_like(mean), width, sides)
        errors = standard_error(samples)
        return SpectralDensity(points, mean, errors, width, sides, samples.shape[1])


def _sides(low: float, high: float, width: float) -> tuple[tuple[float, float], ...]:
    """Return the intervals between the extreme nodes that density stays in, cut at 0."""
    if low < 0 < high:
        return ((low, 0.0), (0.0, high))
    if low < high:
        return ((low, high),)
    reach = 4 * width  # one value: a peak, on its own side of 0
    if low < 0:
        return ((low - reach, min(low + reach, 0.0)),)
    return ((max(low - reach, 0.0), low + reach),)


def _on_side(values: np.ndarray, side: int, sides: tuple) -> np.ndarray:
    """Return which values belong to a side: by their sign where there are two."""
    return (values < 0) == (side == 0) if len(sides) == 2 else np.ones(values.shape, bool)


def _grid(sides: tuple[tuple[float, float], ...], count: int, rounding: float) -> np.ndarray:
    """Return `count` points over the sides, by their lengths but at least a few on each."""
    if len(sides) == 1:
        return np.linspace(*sides[0], count)
    (low, _), (_, high) = sides
    least = min(LEAST, count // 2)
    first = int(np.clip(round(count * low / (low - high)), least, count - least))
    return np.append(np.linspace(low, -rounding, first), np.linspace(0.0, high, count - first))


def spectral_quadrature(
    operator: Operator, *, probes: int = 10, steps: int = 80, seed: int = 0
) -> SpectralQuadrature:
    """Run stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017, algorithm 1).

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
    n, world, precision = operator.n, operator.world, float(np.finfo(operator.dtype).eps)
    world.ledger.expect(min(probes * steps, n))
    if probes * steps >= n:
        eigenvalues = world.on_root(np.linalg.eigvalsh, operator.to_dense())[None]
        weights = np.full((1, n), 1 / n)
        return SpectralQuadrature(
            n, eigenvalues, weights, eigenvalues, weights, n, exact=True, precision=precision
        )
    before = world.ledger.columns
    lanczos = Lanczos(operator, sphere(n, probes, seed, random.LANCZOS), steps)
    while not lanczos.finished:
        lanczos.advance()
    nodes, weights, _ = lanczos.ritz()
    half_nodes, half_weights, _ = lanczos.ritz(max(steps // 2, 1))
    columns = world.ledger.columns - before
    return SpectralQuadrature(
        n, nodes, weights, half_nodes, half_weights, columns, precision=precision
    )
