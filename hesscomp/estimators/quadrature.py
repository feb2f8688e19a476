"""Stochastic Lanczos quadrature: tr f(H) for any f, the log-determinant, and the density."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hesscomp.errors import InputError, NumericalError
from hesscomp.estimators.sampling import Estimate, check_counts, sphere, standard_error, student
from hesscomp.krylov.lanczos import Lanczos
from hesscomp.operators.operator import Operator
from hesscomp.parallel import random

GRID = 512  # points of a density
LEAST = 32  # points of a side of a density, however short it is
REACH = 4.0  # intervals of this many standard deviations see each end in one reflection
ROUNDING = 100  # multiples of eps ||H|| below which a sign says nothing


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
    n : int
        Order of the operator, which is how many eigenvalues there are.
    samples : int
        Random vectors behind the errors; 0 where nothing was random.
    """

    points: np.ndarray = field(repr=False)
    density: np.ndarray = field(repr=False)
    standard_errors: np.ndarray = field(repr=False)
    width: float
    sides: tuple[tuple[float, float], ...]
    n: int
    samples: int = 0

    def height(self, values: np.ndarray) -> np.ndarray:
        """Return the density that one of n eigenvalues makes at its own place, for each value."""
        values = np.asarray(values, dtype=np.float64)

        def peaks(low: float, high: float) -> np.ndarray:
            at = np.clip(values, low, high)
            return _reflected_gaussian(at, at, self.width, low, high)

        heights = [peaks(*side) for side in self.sides]
        return np.where(values >= self.sides[-1][0], heights[-1], heights[0]) / self.n

    def band(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper (g,) limits, point by point; the lower one is not below 0."""
        half = student(self.samples, confidence) * self.standard_errors if self.samples else 0.0
        return np.maximum(self.density - half, 0.0), self.density + half


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
        The same after half the steps; the difference measures the truncation.
    columns : int
        Product columns spent.
    exact : bool
        Whether the matrix was assembled.
    precision : float
        Machine epsilon of the products.
    """

    n: int
    nodes: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    half_nodes: np.ndarray = field(repr=False)
    half_weights: np.ndarray = field(repr=False)
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
                kernel = _reflected_gaussian(points[j], nodes, width, low, high)
                samples[j] = np.sum(weights * kernel, axis=1)
        mean = samples.mean(axis=1)
        errors = np.zeros_like(mean) if self.exact else standard_error(samples)
        random_vectors = 0 if self.exact else samples.shape[1]
        return SpectralDensity(points, mean, errors, width, sides, self.n, random_vectors)


def spectral_quadrature(
    operator: Operator, *, probes: int = 10, steps: int = 80, seed: int = 0
) -> SpectralQuadrature:
    """Run stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017, algorithm 1).

    Parameters
    ----------
    probes : int
        Random start vectors k, at least 2: the standard error falls with their square root.
    steps : int
        Lanczos steps m: the quadrature is exact for polynomials of degree 2 m - 1.
    seed : int
        The result does not depend on the number of ranks.

    Notes
    -----
    m block products of k columns, each one reduction of n k words; fewer where a Krylov space is
    exhausted. Full reorthogonalisation: memory n k m numbers. Where k m reaches n the matrix is
    assembled and its eigenvalues computed instead: cheaper, and exact. InputError for arguments
    out of range. Collective.
    """
    check_counts(seed, probes=(probes, 2), steps=(steps, 1))
    operator = operator.replicated()
    n, world, precision = operator.n, operator.world, float(np.finfo(operator.dtype).eps)
    world.ledger.expect(min(probes * steps, n))
    exact = probes * steps >= n
    if exact:
        nodes = half_nodes = world.on_root(np.linalg.eigvalsh, operator.to_dense())[None]
        weights = half_weights = np.full((1, n), 1 / n)
        columns = n
    else:
        before = world.ledger.columns
        lanczos = Lanczos(operator, sphere(n, probes, seed, random.LANCZOS), steps)
        while not lanczos.finished:
            lanczos.advance()
        nodes, weights, _ = lanczos.ritz()
        half_nodes, half_weights, _ = lanczos.ritz(max(steps // 2, 1))
        columns = world.ledger.columns - before
    return SpectralQuadrature(
        n, nodes, weights, half_nodes, half_weights, columns, exact, precision
    )


def logdet(
    operator: Operator, *, shift: float = 0.0, probes: int = 10, steps: int = 80, seed: int = 0
) -> Estimate:
    """Estimate log det(H + shift I) by stochastic Lanczos quadrature.

    Parameters
    ----------
    operator : Operator
        H + shift I must be positive definite; H itself may be indefinite.
    shift : float
        Added to the diagonal: the ridge, or a damping.
    probes, steps, seed : int
        See `spectral_quadrature`, whose costs these are.

    Raises
    ------
    NumericalError
        If H + shift I turns out not to be positive definite to rounding.

    Notes
    -----
    log is completely monotone up to sign, so every Gauss quadrature is an upper bound of its
    omega^T log(H + shift I) omega (Golub and Meurant 2010, section 6.2): the truncation error is
    one-sided. The steps needed grow with the square root of the condition number of H + shift I.
    """
    if not np.isfinite(shift):
        raise InputError(f"shift must be finite, not {shift}")
    quadrature = spectral_quadrature(operator, probes=probes, steps=steps, seed=seed)
    smallest, largest = quadrature.nodes.min() + shift, np.abs(quadrature.nodes).max()
    if not smallest > np.finfo(operator.dtype).eps * max(largest, abs(shift)):
        raise NumericalError(
            f"the operator plus shift {shift:g} is not positive definite: its spectrum reaches "
            f"{smallest:.3g}; take a larger shift"
        )
    return quadrature.trace_of(lambda nodes: np.log(nodes + shift))


def _reflected_gaussian(
    points: np.ndarray, centres: np.ndarray, width: float, low: float, high: float
) -> np.ndarray:
    """Return Gaussians around centres in [low, high], reflected at both ends as by mirrors.

    Each integrates to 1 over the interval and is 0 outside. The width is at most the interval's
    length, from where on the kernel is flat to 2%. Points and centres broadcast.
    """
    length = high - low
    width = min(width, length)
    total = np.zeros(np.broadcast_shapes(np.shape(points), np.shape(centres)))
    images = int(np.ceil(REACH * width / length))
    for turn in range(-images, images + 1):
        for mirrored in (centres, 2 * low - centres):
            total += np.exp(-0.5 * ((points - mirrored - 2 * turn * length) / width) ** 2)
    inside = (points >= low) & (points <= high)
    return np.where(inside, total, 0.0) / (width * np.sqrt(2 * np.pi))


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
