"""Points at which residuals and energies are taken: given, grids, quadrature rules, random ones.

A set of points knows how to make any of its rows, so that each rank makes its own. Random ones come
from a counter-based generator by (seed, step, index): the same on any number of ranks. Weights make
a sum over the points an integral: they add up to the measure of the domain.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from hesscomp.errors import InputError, reason
from hesscomp.parallel import random

STEPS = 2**32  # a step's draws have the key seed + step * STEPS


class Points(ABC):
    """`count` points of `dimension` coordinates, each with a weight.

    Attributes
    ----------
    redrawn : bool
        Whether each step of training has points of its own.
    """

    count: int
    dimension: int
    redrawn = False

    @abstractmethod
    def rows(self, start: int, stop: int, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the points of these indices at a step, (B, d), and their weights, (B,); local."""


class Given(Points):
    """Points that are written out, the same on every rank.

    Parameters
    ----------
    points : (m, d) array
        A vector (m,) stands for points of one coordinate.
    weights : (m,) array, optional
        By default 1 / m each: a mean.

    Raises
    ------
    InputError
        For numbers that are not finite, negative weights, and arrays that do not fit.

    Examples
    --------
    >>> Given([0.0, 1.0]).rows(0, 2)
    (array([[0.],
           [1.]]), array([0.5, 0.5]))
    """

    def __init__(self, points, weights=None):
        X = _numbers(points, "points")
        self.X = X[:, None] if X.ndim == 1 else X
        if self.X.ndim != 2 or not self.X.size:
            raise InputError(f"points have shape {X.shape}; give an array (points, coordinates)")
        self.count, self.dimension = self.X.shape
        w = np.full(self.count, 1 / self.count) if weights is None else weights
        self.w = _numbers(w, "weights")
        if self.w.shape != (self.count,):
            raise InputError(f"there are {self.count} points and weights of shape {self.w.shape}")
        if not (np.isfinite(self.X).all() and np.isfinite(self.w).all() and (self.w >= 0).all()):
            raise InputError("points must be finite, and weights finite and not negative")

    def rows(self, start, stop, step=0):
        return self.X[start:stop], self.w[start:stop]


@dataclass(frozen=True)
class Drawn(Points):
    """Points that are drawn uniformly from some simplices or parallelepipeds.

    Attributes
    ----------
    corners : (p, d) array
        Of each piece, where its coordinates are zero.
    edges : (p, s, d) array
        Of each piece, by its s coordinates: p = corner + sum of t_i edge_i.
    measures : (p,) array
    count, seed : int
    redrawn : bool
    folded : bool
        Whether the pieces are triangles: t_1 + t_2 <= 1.
    """

    corners: np.ndarray
    edges: np.ndarray
    measures: np.ndarray
    count: int
    seed: int
    redrawn: bool = False
    folded: bool = False

    def __post_init__(self):
        random.check_seed(self.seed)
        if self.count < 1:
            raise InputError(f"draw at least one point, not {self.count}")

    @property
    def dimension(self) -> int:  # type: ignore[override]  # nothing sets it
        return self.corners.shape[1]

    def rows(self, start, stop, step=0):
        size = self.edges.shape[1]
        key = self.seed + STEPS * step * self.redrawn
        draws = random.uniform(key, random.DOMAIN_POINTS, (start, stop), (0, size + 1))
        t, ends = draws[:, :size], np.cumsum(self.measures)
        piece = np.searchsorted(ends, draws[:, size] * ends[-1], side="right")
        piece = np.minimum(piece, len(ends) - 1)
        if self.folded:
            t = np.where(t.sum(axis=1, keepdims=True) > 1, 1 - t, t)
        X = self.corners[piece] + np.einsum("bs,bsd->bd", t, self.edges[piece])
        return X, np.full(stop - start, ends[-1] / self.count)


@dataclass(frozen=True)
class Box:
    """The box low <= x <= high, from which points are made.

    Examples
    --------
    >>> square = Box([0, 0], [1, 1])
    >>> square.grid(10).count, square.gauss(4, 3).count, square.boundary_grid(5).count
    (100, 144, 20)
    >>> X, w = square.gauss(2, 2).rows(0, 16)  # exact for cubics in each coordinate
    >>> round(float(w @ (X[:, 0] ** 3 * X[:, 1])), 12)
    0.125
    """

    low: Sequence[float] | np.ndarray
    high: Sequence[float] | np.ndarray

    def __post_init__(self):
        low, high = (np.atleast_1d(np.asarray(end, np.float64)) for end in (self.low, self.high))
        if low.ndim != 1 or low.shape != high.shape or not (np.isfinite(high - low)).all():
            raise InputError(f"a box has two finite corners of one length, not {low} and {high}")
        if not (low < high).all():
            raise InputError(f"a box's corner {low} must be below its other one, {high}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def dimension(self) -> int:
        return len(self.low)

    @property
    def sizes(self) -> np.ndarray:
        return np.asarray(self.high) - self.low

    def grid(self, cells: int | Sequence[int]) -> Given:
        """Return the midpoints of cells, so many along each axis; the midpoint rule."""
        return self._rule(cells, 1)

    def gauss(self, cells: int | Sequence[int], order: int) -> Given:
        """Return Gauss' rule of `order` points along each axis of each cell.

        Exact for polynomials of degree 2 `order` - 1 in each coordinate.
        """
        if order < 1:
            raise InputError(f"a Gauss rule has at least one point, not {order}")
        return self._rule(cells, order)

    def _rule(self, cells, order: int) -> Given:
        numbers = np.broadcast_to(np.asarray(cells, int), self.dimension)
        if (numbers < 1).any():
            raise InputError(f"a grid has at least one cell along each axis, not {cells}")
        nodes, weights = np.polynomial.legendre.leggauss(order)
        axes, factors = [], []
        for low, size, number in zip(self.low, self.sizes, numbers, strict=True):
            places = np.arange(number)[:, None] + (nodes + 1) / 2
            axes.append(low + size * places.ravel() / number)
            factors.append(np.tile(weights / 2, number) * size / number)
        X = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.dimension)
        w = np.stack(np.meshgrid(*factors, indexing="ij"), -1).reshape(-1, self.dimension)
        return Given(X, w.prod(axis=1))

    def random(self, count: int, seed: int = 0, *, redrawn: bool = False) -> Drawn:
        """Return uniform points; with `redrawn` each step of training has other ones."""
        corner, edges = np.asarray(self.low)[None], np.diag(self.sizes)[None]
        return Drawn(corner, edges, np.array([self.sizes.prod()]), count, seed, redrawn)

    def boundary_grid(self, cells: int) -> Given:
        """Return the midpoints of cells on all faces, `cells` along each axis of a face."""
        found = []
        for axis, end, face in self._faces():
            X, w = face.grid(cells).rows(0, None) if face else (np.empty((1, 0)), np.ones(1))
            found.append((np.insert(X, axis, end, axis=1), w))
        X, w = (np.concatenate(part) for part in zip(*found, strict=True))
        return Given(X, w)

    def boundary_random(self, count: int, seed: int = 0, *, redrawn: bool = False) -> Drawn:
        """Return uniform points on the boundary; `redrawn` as in `random`."""
        corners, edges, measures = [], [], []
        for axis, end, _ in self._faces():
            corner = np.array(self.low)
            corner[axis] = end
            corners.append(corner)
            edges.append(np.delete(np.diag(self.sizes), axis, axis=0))
            measures.append(np.delete(self.sizes, axis).prod())
        return Drawn(np.array(corners), np.array(edges), np.array(measures), count, seed, redrawn)

    def _faces(self) -> list[tuple[int, float, "Box | None"]]:
        """Return each face: its axis, the coordinate there, and its box (None for a point)."""
        faces = []
        for axis, end in product(range(self.dimension), (self.low, self.high)):
            low, high = np.delete(self.low, axis), np.delete(self.high, axis)
            faces.append((axis, end[axis], Box(low, high) if len(low) else None))
        return faces


# Symmetric rules on a triangle: barycentric coordinates of one point of each orbit, and the orbit's
# weight for each of its points (Dunavant, "High degree efficient symmetrical Gaussian quadrature
# rules for the triangle", 1985), by the degree up to which they are exact.
_ORBITS = {
    1: [((1 / 3, 1 / 3, 1 / 3), 1.0)],
    2: [((2 / 3, 1 / 6, 1 / 6), 1 / 3)],
    4: [
        ((0.108103018168070, 0.445948490915965, 0.445948490915965), 0.223381589678011),
        ((0.816847572980459, 0.091576213509771, 0.091576213509771), 0.109951743655322),
    ],
    5: [
        ((1 / 3, 1 / 3, 1 / 3), 0.225),
        ((0.059715871789770, 0.470142064105115, 0.470142064105115), 0.132394152788506),
        ((0.797426985353087, 0.101286507323456, 0.101286507323456), 0.125939180544827),
    ],
}


@dataclass(frozen=True)
class Triangles:
    """A set of triangles in the plane, from which points are made.

    Parameters
    ----------
    vertices : (v, 2) array
    triangles : (t, 3) array of int
        Each triangle's vertices.

    Examples
    --------
    >>> triangle = Triangles([[0, 0], [1, 0], [0, 1]], [[0, 1, 2]])
    >>> X, w = triangle.gauss(4).rows(0, 6)
    >>> round(float(w @ X[:, 0] ** 4), 9), 1 / 30
    (0.033333333, 0.03333333333333333)
    """

    vertices: np.ndarray
    triangles: np.ndarray

    def __post_init__(self):
        vertices = np.asarray(self.vertices, np.float64)
        triangles = np.asarray(self.triangles, np.int64)
        if vertices.ndim != 2 or vertices.shape[1] != 2 or triangles.shape[1:] != (3,):
            raise InputError(
                f"triangles have vertices (v, 2) and indices (t, 3), not {vertices.shape} and "
                f"{triangles.shape}"
            )
        if triangles.min() < 0 or triangles.max() >= len(vertices):
            raise InputError(f"triangles name vertices from 0 to {len(vertices) - 1} only")
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "triangles", triangles)
        if not (self.areas > 0).all():
            raise InputError("a triangle has no area; take it out")

    @property
    def corners(self) -> np.ndarray:
        """The vertices of each triangle: (t, 3, 2)."""
        return self.vertices[self.triangles]

    @property
    def areas(self) -> np.ndarray:
        a, b = np.moveaxis(self.corners[:, 1:] - self.corners[:, :1], 1, 0)
        return np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2

    def gauss(self, degree: int) -> Given:
        """Return a symmetric rule on each triangle, exact for polynomials up to `degree`, of 5."""
        known = [exact for exact in _ORBITS if exact >= degree]
        if degree < 1 or not known:
            raise InputError(f"rules on triangles have degrees 1 to {max(_ORBITS)}, not {degree}")
        places, weights = [], []
        for place, weight in _ORBITS[known[0]]:
            turns = 1 if place[0] == place[1] else 3
            places += [np.roll(place, turn) for turn in range(turns)]
            weights += [weight] * turns
        X = np.einsum("qk,tkd->tqd", np.array(places), self.corners)
        w = self.areas[:, None] * weights
        return Given(X.reshape(-1, 2), w.ravel())

    def random(self, count: int, seed: int = 0, *, redrawn: bool = False) -> Drawn:
        """Return uniform points; with `redrawn` each step of training has other ones."""
        corners = self.corners
        edges = corners[:, 1:] - corners[:, :1]
        return Drawn(corners[:, 0], edges, self.areas, count, seed, redrawn, folded=True)


def as_points(points) -> Points:
    """Return points as such: `Points` themselves, an array, or a pair (array, weights)."""
    if isinstance(points, Points):
        return points
    if isinstance(points, Box | Triangles):
        kind = type(points).__name__
        raise InputError(f"a {kind} is a domain; take points of it, as {kind}(...).random(1000)")
    if not isinstance(points, tuple):
        return Given(points)
    if len(points) != 2:
        raise InputError(f"a tuple of points is (array, weights), not of {len(points)} parts")
    return Given(*points)


def _numbers(values, name: str) -> np.ndarray:
    """Return an array of float64; InputError, which says so of a function, where it is none."""
    if callable(values):
        what = getattr(values, "__name__", type(values).__name__)
        raise InputError(f"the function {what} is given as {name}; are two arguments swapped?")
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers: {reason(error)}") from error
