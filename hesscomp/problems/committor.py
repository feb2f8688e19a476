"""A committor function in many dimensions: convex, from samples of a trajectory.

The committor q(x) of two sets A and B is the probability that a trajectory from x reaches B before
A. For overdamped dynamics in a potential V it minimises the mean of kT |grad q|^2 under exp(-V /
kT), with q = 0 on A and 1 on B, and the least value is the rate of transitions (E and
Vanden-Eijnden, Annual Review of Physical Chemistry 61, 2010). Here q is linear in random features.
"""

import numpy as np

from hesscomp.curvature.tensorflow import tf
from hesscomp.parallel import random
from hesscomp.parallel.world import World
from hesscomp.problems.points import Points
from hesscomp.problems.residuals import EnergyProblem

# Mueller and Brown, Theoretica Chimica Acta 53 (1979): V = sum of h exp(a dx^2 + b dx dy + c dy^2).
HEIGHTS = np.array([-200.0, -100.0, -170.0, 15.0])
A, B, C = np.array([[-1, -1, -6.5, 0.7], [0, 0, 11, 0.6], [-10, -10, -6.5, 0.7]])
PLACES = np.array([[1, 0, -0.5, -1], [0, 0.5, 1.5, 1]])
ENDS, RADIUS = np.array([[-0.558, 1.442], [0.623, 0.028]]), 0.1  # two minima; A and B around them
DIMENSION, WIDTH, KT = 10, 0.05, 10.0  # the added coordinates are normal, of this deviation
HOT = 6 * KT  # at which the surface is sampled, and weights correct for it
WALKERS, SAMPLES, BETWEEN, BEFORE, STEP = 200, 100, 20, 1000, 6e-3
LOW, HIGH = np.array([-3.0, -2.0]), np.array([2.5, 3.5])  # beyond which there is nothing at HOT
FEATURES, FEW, STEEP = 8, 20, 9.0  # their seed, walkers that they are made from, and steepness


def surface(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Mueller and Brown's surface at points (..., 2) of the plane, and its gradient."""
    x, z = (y[..., i, None] - PLACES[i] for i in (0, 1))
    terms = HEIGHTS * np.exp(A * x**2 + B * x * z + C * z**2)
    slopes = [(terms * (2 * A * x + B * z)).sum(-1), (terms * (B * x + 2 * C * z)).sum(-1)]
    return terms.sum(-1), np.stack(slopes, -1)


def partition(kT: float) -> float:
    """Return the integral of exp(-V / kT) over the plane."""
    axes = [
        np.linspace(low, high, 800, endpoint=False) for low, high in zip(LOW, HIGH, strict=True)
    ]
    V = surface(np.stack(np.meshgrid(*axes), -1))[0]
    return float(np.exp(-V / kT).mean() * np.prod(HIGH - LOW))


class Trajectories(Points):
    """Samples of walkers in the surface's plane with added coordinates, all of them rotated.

    Langevin's dynamics with Metropolis' test, at a higher temperature in the plane; the weights
    make sums means at the lower one. Each walker has noise of its own by (seed, walker), so that
    any rank makes any walkers: `BEFORE` steps, then a sample every `BETWEEN` steps.
    """

    count, dimension = WALKERS * SAMPLES, DIMENSION

    def __init__(self, seed: int = 0):
        self.seed = seed
        self.rotation = rotation()
        self.scale = partition(HOT) / partition(KT) / self.count

    def rows(self, start, stop, step=0):
        stop = self.count if stop is None else stop
        first, last = start // SAMPLES, -(-stop // SAMPLES)
        here = slice(start - first * SAMPLES, stop - first * SAMPLES)
        y = self._plane(first, last).reshape(-1, 2)[here]
        added = WIDTH * random.standard_normal(
            self.seed, random.ADDED_COORDINATES, (start, stop), (0, DIMENSION - 2)
        )
        weights = self.scale * np.exp((1 / HOT - 1 / KT) * surface(y)[0])
        turned = np.column_stack(
            [y, added]
        )  # by columns: no bit depends on how many rows there are
        return sum(turned[:, [j]] * self.rotation[:, j] for j in range(DIMENSION)), weights

    def _plane(self, first: int, last: int) -> np.ndarray:
        """Return the samples of some walkers: (walkers, SAMPLES, 2)."""
        y = ENDS[np.arange(first, last) % 2]
        out = np.empty((len(y), SAMPLES, 2))
        V, slope = surface(y)
        for i in range(BEFORE + SAMPLES * BETWEEN):
            walkers = first, last
            normal = random.standard_normal(self.seed, random.WALKS, walkers, (2 * i, 2 * i + 2))
            uniform = random.uniform(self.seed, random.WALK_TESTS, walkers, (i, i + 1))[:, 0]
            new = y - STEP / HOT * slope + np.sqrt(2 * STEP) * normal
            there, other = surface(new)
            back = ((y - new + STEP / HOT * other) ** 2).sum(1) / (4 * STEP)
            taken = np.log(uniform) < (V - there) / HOT + (normal**2).sum(1) / 2 - back
            y = np.where(taken[:, None], new, y)
            V, slope = np.where(taken, there, V), np.where(taken[:, None], other, slope)
            place = i + 1 - BEFORE
            if place > 0 and place % BETWEEN == 0:
                out[:, place // BETWEEN - 1] = y
        return out


def rotation() -> np.ndarray:
    """Return the orthogonal matrix that turns (plane, added coordinates) into what is observed."""
    Q, R = np.linalg.qr(np.random.default_rng(7).standard_normal((DIMENSION, DIMENSION)))
    return Q * np.sign(np.diag(R))


class Committor(EnergyProblem):
    """A convex energy of what is linear in the parameters: its two curvature matrices are equal."""

    psd = True

    def linearize(self, x):
        return self.gauss_newton(x)


def conditions(plane: np.ndarray):
    """Return the functions of points that build in 0 on A and 1 on B: boundary values, distance.

    `plane` is the (dimension, 2) array whose columns span the surface's plane.
    """

    def squares(x):
        """Return how far points are from A and B, zero on them."""
        y = tf.matmul(x, tf.constant(plane, x.dtype))
        for end in ENDS:
            distance = tf.reduce_sum(tf.square(y - tf.constant(end, x.dtype)), 1)
            yield tf.nn.relu(distance / RADIUS**2 - 1)

    def boundary_values(x):
        a, b = squares(x)
        return a / (a + b)

    def distance(x):
        a, b = squares(x)
        return a * b / tf.square(a + b)

    return boundary_values, distance


def set_features(model, X: np.ndarray) -> None:
    """Set the random features of a model with one hidden layer by samples X; its output is zero."""
    features, rng = model.layers[0], np.random.default_rng(FEATURES)
    # Normal weights with the samples' covariance: steep where these are spread.
    centred = (X - X.mean(axis=0)) / np.sqrt(len(X))
    W = STEEP / (centred**2).sum() * centred.T @ rng.standard_normal((len(X), features.units))
    centres = X[rng.integers(len(X), size=features.units)]
    features.set_weights([W, -np.einsum("ij,ji->i", centres, W)])
    model.layers[-1].set_weights([np.zeros((features.units, 1)), np.zeros(1)])


def committor(model, world: World, **options) -> Committor:
    """Return the problem of a model whose last layer alone is trained; its features are set."""
    plane = rotation()[:, :2]
    set_features(model, Trajectories(FEATURES).rows(0, FEW * SAMPLES)[0])
    boundary_values, distance = conditions(plane)
    return Committor(
        model, lambda du: KT * tf.reduce_sum(tf.square(du), 1), Trajectories(), (), world,
        convex=True, distance=distance, boundary_values=boundary_values, **options,
    )  # fmt: skip
