"""The named differential equations: what is minimised at which points, and known solutions."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError
from hesscomp.parallel.resources import PRODUCT_BYTES
from hesscomp.parallel.world import World
from hesscomp.problems.catalogue import EQUATIONS, VISCOSITY, check_viscosity
from hesscomp.problems.committor import DIMENSION, committor, rotation
from hesscomp.problems.models import build_network
from hesscomp.problems.points import Box, Triangles
from hesscomp.problems.residuals import (
    EnergyProblem,
    Group,
    PointProblem,
    RayleighProblem,
    ResidualProblem,
)
from hesscomp.problems.solution import Solution, Window

CHECKS, CHECK_SEED = 9000, 2**31  # points of the errors, which no training draws
STEP, TAIL = 1 / 8, 7.0  # of the rule for Burgers' solution: between its nodes, beyond the bulk
AT_ONCE = 2**20  # numbers of that rule's integrands


@dataclass(frozen=True)
class Posed:
    """An equation ready for a network.

    Attributes
    ----------
    make : callable
        ``make(model, world, **options)`` gives the problem.
    domain : Box or Triangles, optional
        Where errors are measured, of a known solution.
    exact : callable, optional
        The solution at points (B, d), of tensors or arrays: (B,).
    free_scale : bool
        Whether any multiple of it is a solution.
    window : Window, optional
        What pictures show, if not the domain.
    axes : tuple of str
        Names of the coordinates that pictures show.
    """

    make: Callable[..., PointProblem]
    domain: Box | Triangles | None = None
    exact: Callable | None = None
    free_scale: bool = False
    window: Window | None = None
    axes: tuple[str, ...] = ("x", "y")


def equation(
    name: str, world: World | None = None, *, viscosity: float | None = None, seed: int = 0,
    ridge: float = 0.0, dtype: str = "float64", memory: float = PRODUCT_BYTES,
    engine: str = "auto",
) -> PointProblem:  # fmt: skip
    """Return the problem of a named differential equation.

    Parameters
    ----------
    name : str
        One of those that `hesscomp problems` lists.
    world : World, optional
        All ranks of the job by default.
    viscosity : float, optional
        That of `burgers`, from 1e-6 to 1; 0.1 / pi by default. The smaller it is the steeper the
        solution becomes at x = 0.
    seed : int
        Of the network's initial weights.
    ridge, dtype, memory, engine
        As for `ResidualProblem`.

    Raises
    ------
    InputError
        For an unknown name, and for a viscosity that is out of range or of another equation.

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.equation("poisson-1d")
    >>> found = hc.train(problem, "natural-gradient", max_steps=25)
    >>> problem.solution(found.best).relative_error < 1e-4
    True
    """
    if name not in EQUATIONS:
        raise InputError(f"no equation is named {name}; take one of {', '.join(EQUATIONS)}")
    check_viscosity(name, viscosity)
    world = World.of_job() if world is None else world
    named = EQUATIONS[name]
    posed = POSED[name]() if viscosity is None else POSED[name](viscosity)
    model = build_network(named.network, name, seed)
    if named.frozen:
        for layer in model.layers[:-1]:
            layer.trainable = False
    given = {"ridge": ridge, "dtype": dtype, "memory": memory, "engine": engine}
    problem = posed.make(model, world, **given)
    if posed.exact is not None and posed.domain is not None:
        X = posed.domain.random(CHECKS, CHECK_SEED).rows(0, CHECKS)[0]
        problem.take_solution(Solution(problem, posed.exact, X, posed.free_scale))
    window = posed.window
    if window is None and isinstance(posed.domain, Box):
        window = Window.around(np.stack([posed.domain.low, posed.domain.high]))
    problem.window = None if window is None else replace(window, names=posed.axes)
    return problem


def _residuals(inner, edge, outer, exact, weight=1.0):
    """Return how a problem of two groups is made: an equation, and values on the boundary."""

    def make(model, world, **options):
        edges = Group(outer, lambda u, x: u - exact(x), weight)
        return ResidualProblem(model, [Group(inner, edge), edges], world, **options)

    return make


def _poisson_1d() -> Posed:
    line = Box([0], [1])

    def exact(x):
        return tf.sin(2 * math.pi * x[:, 0])

    def density(u, du, x):
        return tf.square(du[:, 0]) / 2 - 4 * math.pi**2 * exact(x) * u

    def make(model, world, **options):
        return EnergyProblem(
            model, density, line.gauss(24, 5), (), world, convex=True,
            distance=lambda x: x[:, 0] * (1 - x[:, 0]), **options,
        )  # fmt: skip

    return Posed(make, line, exact, axes=("x",))


def _poisson_2d() -> Posed:
    square = Box([0, 0], [1, 1])

    def exact(x):
        return tf.sin(math.pi * x[:, 0]) * tf.sin(math.pi * x[:, 1])

    make = _residuals(
        square.grid(30), lambda laplacian, x: laplacian + 2 * math.pi**2 * exact(x),
        square.boundary_grid(30), exact, 1 / 4,
    )  # fmt: skip
    return Posed(make, square, exact)


def _poisson_5d() -> Posed:
    cube = Box([0] * 5, [1] * 5)

    def exact(x):
        return tf.reduce_sum(tf.cos(math.pi * x), 1)

    make = _residuals(
        cube.random(900, seed=1, redrawn=True),
        lambda laplacian, x: laplacian + math.pi**2 * exact(x),
        cube.boundary_random(300, seed=2, redrawn=True), exact, 1 / 10,
    )  # fmt: skip
    return Posed(make, cube, exact, axes=("x1", "x2"))


L_CORNERS = np.array(
    [[-1, -1], [0, -1], [-1, 0], [0, 0], [1, 0], [-1, 1], [0, 1], [1, 1]], np.float64
)
L_TRIANGLES = np.array([[0, 1, 3], [0, 3, 2], [2, 3, 6], [2, 6, 5], [3, 4, 7], [3, 7, 6]])
L_EDGES = [(0, 1), (1, 3), (3, 4), (4, 7), (7, 6), (6, 5), (5, 2), (2, 0)]


def _l_shape() -> Posed:
    """The square (-1, 1)^2 without its lower right quarter, of which two sides meet at 0."""
    shape = Triangles(L_CORNERS, L_TRIANGLES)

    def exact(x):
        angle = tf.math.floormod(tf.atan2(x[:, 1], x[:, 0]), 2 * math.pi)
        radius = tf.maximum(tf.reduce_sum(tf.square(x), 1), 1e-300) ** (1 / 3)
        return radius * tf.sin(2 / 3 * angle)

    side, weights = Box([0], [1]).gauss(8, 3).rows(0, None)
    ends = [(L_CORNERS[a], L_CORNERS[b]) for a, b in L_EDGES]
    outer = np.concatenate([a + side * (b - a) for a, b in ends]), np.tile(weights, len(ends))
    parts = _subdivided(shape, 3).gauss(2)
    make = _residuals(parts, lambda laplacian: laplacian, outer, exact, 10.0)
    window = Window.around(L_CORNERS, lambda X: (X[:, 0] < 0) | (X[:, 1] > 0))
    return Posed(make, shape, exact, window=window)


def _subdivided(shape: Triangles, times: int) -> Triangles:
    """Return each triangle as four, so many times."""
    for _ in range(times):
        a, b, c = np.moveaxis(shape.corners, 1, 0)
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        corners = np.concatenate([[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]], 1)
        corners = np.moveaxis(corners, 0, 1)
        shape = Triangles(corners.reshape(-1, 2), np.arange(3 * len(corners)).reshape(-1, 3))
    return shape


def _helmholtz() -> Posed:
    square = Box([-1, -1], [1, 1])

    def exact(x):
        return tf.sin(math.pi * x[:, 0]) * tf.sin(4 * math.pi * x[:, 1])

    def residual(u, laplacian, x):
        return laplacian + u - (1 - 17 * math.pi**2) * exact(x)

    make = _residuals(square.grid(36), residual, square.boundary_grid(36), exact, 10.0)
    return Posed(make, square, exact)


def _burgers(viscosity: float = VISCOSITY) -> Posed:
    """Coordinates (t, x), after Raissi, Perdikaris and Karniadakis (2019)."""
    strip = Box([0, -1], [1, 1])

    def residual(u, du, d2u):
        return du[:, 0] + u * du[:, 1] - viscosity * d2u[:, 1, 1]

    def make(model, world, **options):
        # Half of the points where the solution is steep at last: near x = 0.
        inner = strip.random(1200, seed=1), Box([0, -0.1], [1, 0.1]).random(1200, seed=2)
        start = Box([-1], [1]).grid(100).rows(0, None)
        times = Box([0], [1]).grid(50).rows(0, None)[0]
        first = np.insert(start[0], 0, 0.0, axis=1)
        sides = np.concatenate([np.insert(times, 1, end, axis=1) for end in (-1.0, 1.0)])
        groups = [Group(part, residual) for part in inner]
        groups += [
            Group(first, lambda u, x: u + tf.sin(math.pi * x[:, 1]), 20.0),
            Group(sides, lambda u: u, 20.0),
        ]
        return ResidualProblem(model, groups, world, **options)

    exact = partial(burgers_solution, viscosity=viscosity)
    return Posed(make, strip, exact, axes=("t", "x"))


def burgers_solution(x, viscosity: float = VISCOSITY) -> np.ndarray:
    """Return u by the formula of Cole and Hopf at points (t, x), 0 <= t <= 1: (B,).

    u = - int sin(pi y) q dz / int q dz with y = x - sqrt(4 nu t) z, of q = exp(-cos(pi y) / (2 pi
    nu) - z^2) (Basdevant and others, Computers and Fluids 14, 1986). By the trapezoidal rule, whose
    error falls exponentially: no peak of q in z is narrower than exp(-(1 + pi) z^2), and beyond
    |z| = sqrt(1 / (4 nu)) + s, which is |x - y| = 1 at t = 1, q is below exp(-s^2) of its peak.
    """
    X = np.asarray(x)
    most = math.sqrt(1 / (4 * viscosity)) + TAIL
    z = np.linspace(-most, most, 2 * math.ceil(most / STEP) + 1)
    u, few = np.empty(len(X)), max(AT_ONCE // len(z), 1)
    for first in range(0, len(X), few):
        t, place = np.split(X[first : first + few], 2, axis=1)
        y = np.pi * (place - np.sqrt(4 * viscosity * t) * z)
        power = -np.cos(y) / (2 * np.pi * viscosity) - z**2
        q = np.exp(power - power.max(axis=1, keepdims=True))
        u[first : first + few] = -(q * np.sin(y)).sum(axis=1) / q.sum(axis=1)
    return u


def _eigen() -> Posed:
    square = Box([0, 0], [1, 1])

    def make(model, world, **options):
        return RayleighProblem(
            model, lambda du: tf.reduce_sum(tf.square(du), 1), lambda u: tf.square(u),
            square.gauss(8, 4), world, **options,
            distance=lambda x: tf.reduce_prod(4 * x * (1 - x), 1),
        )  # fmt: skip

    def exact(x):
        return tf.sin(math.pi * x[:, 0]) * tf.sin(math.pi * x[:, 1])

    return Posed(make, square, exact, free_scale=True)


def _committor() -> Posed:
    low, high = np.array([-1.5, -0.3]), np.array([1.2, 2.1])
    window = Window(low, high, rotation()[:, :2].T, np.zeros(DIMENSION))
    return Posed(committor, window=window)


POSED: dict[str, Callable[..., Posed]] = {
    "poisson-1d": _poisson_1d,
    "poisson-2d": _poisson_2d,
    "poisson-2d-deep": _poisson_2d,
    "poisson-5d": _poisson_5d,
    "l-shape": _l_shape,
    "helmholtz-2d": _helmholtz,
    "burgers": _burgers,
    "eigen-laplace": _eigen,
    "committor": _committor,
}
