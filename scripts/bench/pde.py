"""Networks that solve differential equations: errors and seconds beside published runs.

    python scripts/bench/pde.py                   # all, some minutes
    python scripts/bench/pde.py sine ritz --trial

Seconds are the processor's, on one thread, from before the problem is made: TensorFlow's tracing is
in them, and named beside them; the measuring of errors is not. Errors are relative, in L2, on 9,000
points that no training saw, of values that NumPy computes from the weights; those of `energies` and
`ritz` are in the energy norm. Finite elements (scikit-fem) stand beside the networks with as many
unknowns, and with about as many as end in the same time. This script starts itself again on
several ranks, and takes wall time there.
"""

import argparse
import json
import math
import os
import time
from functools import cache, partial
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import finite_elements as fem
import keras
import numpy as np
import record
import scipy.linalg
import tables
import tensorflow as tf
from hierarchical import numbers_of
from threadpoolctl import threadpool_limits

import hesscomp as hc
from hesscomp.krylov.cg import conjugate_gradients
from hesscomp.parallel.world import World
from hesscomp.problems import committor as surface
from hesscomp.problems.catalogue import EQUATIONS

CODE = (*record.ENGINE, *record.OPTIMIZERS, "scripts/bench/finite_elements.py")
CHECKS, SEEDS = 9000, 5
HIGHEST = 80.0  # of Mueller and Brown's surface where its weights count; the saddles are near -40
RIDGE = 1e-12  # of the committor's features: their matrix has no Cholesky factor without
CUT = 1e-9  # of singular values, where rounding of the right side takes over
SPREAD = 1.5  # of random weights in two dimensions: measured, 4 costs a factor of 100 on `sine`
LONGEST = 150.0  # seconds of a run of `cg`
MOST_CG = 200
CORNER = 0.05  # half the width over which a rounded ReLU's corner lies


def main() -> None:
    parser = tables.parts_parser(__doc__, PARTS)
    parser.add_argument("--started", help=argparse.SUPPRESS)  # by this script, on several ranks
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"runs of each; default: {SEEDS}")
    options = parser.parse_args()
    with threadpool_limits(1):
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        if options.started:
            print_first(STARTED[options.started](options.seeds))
            return
        tables.run_parts(options, PARTS, "pde", CODE, options.seeds)


# Networks, and their values without TensorFlow


def network(inputs: int, *widths: int, seed: int, activation: str = "tanh"):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(width, activation) for width in widths[:-1]]
    return keras.Sequential([keras.Input((inputs,)), *layers, keras.layers.Dense(widths[-1])])


def values(x: np.ndarray, X: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    for i, width in enumerate(widths):
        size = X.shape[1] * width
        W, b, x = x[:size].reshape(-1, width), x[size : size + width], x[size + width :]
        X = X @ W + b
        X = X if i == len(widths) - 1 else np.tanh(X)
    return X


def relative(u: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(u - exact) / np.linalg.norm(exact))


class Watch:
    """Seconds at which the error on points that no training saw falls below some targets.

    They are the processor's of one rank, and those that pass on several.
    """

    def __init__(self, error, targets: tuple[float, ...], most: float, every: int = 2):
        self.error, self.targets, self.most, self.every = error, targets, most, every
        self.clock = time.process_time if World.of_job().size == 1 else time.perf_counter
        self.begun, self.first, self.seconds = self.clock(), 0.0, 0.0
        self.hits: dict[float, float] = {}
        self.last = np.nan

    def __call__(self, row, x) -> bool:
        now = self.clock()
        self.seconds = now - self.begun
        if row["step"] == 1:
            self.first = self.seconds
        if row["step"] % self.every == 0:
            self.last = self.error(x)
        for target in self.targets:
            if self.last < target:
                self.hits.setdefault(target, self.seconds)
        over = self.seconds > self.most or 0 < len(self.targets) == len(self.hits)
        self.begun += self.clock() - now
        return over


def rows_of(watches: list[Watch], n: int) -> dict:
    """Return one row: the medians, and how many seeds reached each target."""
    row = {"n": n, "seconds of tracing": median(watch.first for watch in watches)}
    for target in watches[0].targets:
        found = [watch.hits.get(target, math.inf) for watch in watches]
        row[f"{target:g}"] = f"{median(found):.3g} s, worst {max(found):.3g} s"
    row["seconds"] = median(watch.seconds for watch in watches)
    row["error"] = ", ".join(f"{watch.last:.1e}" for watch in watches)
    return row


def on_ranks(name: str, seeds: int) -> dict:
    """Return a set-up's row, with the seconds that pass on two ranks of one thread each."""
    row = SET_UPS[name](seeds)
    error = row.pop("error")
    two = start(name, 2, seeds)["seconds"]
    return {**row, "seconds that pass on 2 ranks": two, "error": error}


def trained(
    dimension: int, make, exact, widths, targets, most, seeds,
    optimizer="natural-gradient", distance=lambda X: 1.0,
) -> dict:  # fmt: skip
    """Return the row of a set-up; the first output times the distance is to be exact."""
    T = np.random.default_rng(99).uniform(size=(CHECKS, dimension))
    U, D, watches = exact(T), distance(T), []
    for seed in range(seeds):
        watch = Watch(lambda x: relative((D * values(x, T, widths))[:, 0], U), targets, most)
        problem = make(network(dimension, *widths, seed=seed))
        hc.train(problem, optimizer, max_steps=10**6, callbacks=watch, evaluate_every=10**6)
        watches.append(watch)
    return rows_of(watches, problem.n)


# Poisson's equation


def poisson(dimension: int, load, exact, inner, outer):
    def make(model):
        inside = hc.Group(inner, lambda laplacian, x: laplacian + load(x))
        edges = hc.Group(outer, lambda u, x: u - exact(x), weight=1 / (2 * dimension))
        return hc.ResidualProblem(model, [inside, edges])

    return make


UNIT = hc.Box([0, 0], [1, 1])


def sine_on(square, cells):
    def exact(x):
        return tf.sin(math.pi * x[:, 0]) * tf.sin(math.pi * x[:, 1])

    return poisson(
        2, lambda x: 2 * math.pi**2 * exact(x), exact,
        square.grid(cells), square.boundary_grid(cells),
    )  # fmt: skip


def sine_exact(X):
    return np.sin(np.pi * X[:, 0]) * np.sin(np.pi * X[:, 1])


def sine_load(X):
    return 2 * np.pi**2 * sine_exact(X)


def sine_network(seeds: int) -> dict:
    return trained(2, sine_on(UNIT, 30), sine_exact, (64, 1), (1e-5, 1e-6), 20, seeds)


def sine(seeds: int) -> dict[str, dict]:
    row = on_ranks("sine", seeds)
    return {"2-64-1, 900 + 120 points": row, **beside(row, 18, 9)}


DEEP = 64, 64, 48, 48, 1


def deep_network(cells: int, targets: tuple[float, ...], seeds: int) -> dict:
    return trained(2, sine_on(UNIT, cells), sine_exact, DEEP, targets, 30, seeds)


def deep(seeds: int) -> dict[str, dict]:
    """With the published points, and with fewer: the Gram matrix then costs a fifth."""
    row = on_ranks("deep-few", seeds)
    return {
        "2-64-64-48-48-1, 900 + 120 points": on_ranks("deep", seeds),
        "2-64-64-48-48-1, 400 + 80 points": row, **beside(row, 101, 51),
    }  # fmt: skip


def beside(row: dict, *cells: int) -> dict[str, dict]:
    """Return the rows of features, and of elements with as many unknowns and as many seconds."""
    rows = {"257 frozen tanh features": frozen(2, 256, *SQUARE)}
    for order, number in enumerate(cells, 1):
        rows[f"P{order}, as many unknowns"] = elements(order, number)
        rows[f"P{order}, as many seconds"] = as_long(
            partial(elements, order), number, row["seconds"]
        )
    return rows


def as_long(elements, cells: int, seconds: float, dimension: int = 2) -> dict:
    """Return the row of the first mesh, of unknowns that double, that takes 0.7 of the time."""
    row = elements(cells)
    while row["seconds"] * math.sqrt(2) < seconds:
        cells = round(cells * 2 ** (1 / dimension))
        row = elements(cells)
    return row


def frozen(dimension: int, features: int, exact, laplacian, inner, outer) -> dict:
    """Random features, and one least-squares solve for the output weights."""
    begun = time.process_time()
    W, b = random_units(dimension, features)
    z = np.tanh(inner @ W + b)
    A = np.vstack([-2 * z * (1 - z**2) * (W**2).sum(0), 100 * np.tanh(outer @ W + b)])
    A = np.column_stack([A, np.r_[np.zeros(len(inner)), np.full(len(outer), 100.0)]])
    right = np.r_[laplacian(inner), 100 * exact(outer)]
    c = scipy.linalg.lstsq(A, right, cond=1e-14)[0]
    seconds = time.process_time() - begun
    T = np.random.default_rng(99).uniform(size=(CHECKS, dimension))
    u = np.tanh(T @ W + b) @ c[:-1] + c[-1]
    return {"n": features + 1, "seconds": seconds, "error": f"{relative(u, exact(T)):.1e}"}


def random_units(dimension: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    W = rng.uniform(-SPREAD, SPREAD, (dimension, features)) / np.sqrt(dimension / 2)
    return W, rng.uniform(-SPREAD, SPREAD, features)


def points_of(points) -> np.ndarray:
    return points.rows(0, points.count)[0]


SQUARE = (
    sine_exact, lambda X: -sine_load(X),
    points_of(UNIT.grid(30)), points_of(UNIT.boundary_grid(30)),
)  # fmt: skip


def elements(order: int, cells: int) -> dict:
    """-lap u = f with u = sin pi x sin pi y."""
    u, basis, unknowns, seconds = fem.poisson(order, cells, sine_load)
    T = np.random.default_rng(99).uniform(size=(CHECKS, 2))
    error = relative(fem.values(u, basis, T), sine_exact(T))
    return {"n": unknowns, "seconds": seconds, "error": f"{error:.1e}"}


CUBE = hc.Box([0] * 5, [1] * 5)


def sum_of_cosines(X):
    return np.cos(np.pi * X).sum(1)


def cosines_network(seeds: int) -> dict:
    def exact(x):
        return tf.reduce_sum(tf.cos(math.pi * x), 1)

    make = poisson(
        5, lambda x: math.pi**2 * exact(x), exact, CUBE.random(900, seed=1, redrawn=True),
        CUBE.boundary_random(300, seed=2, redrawn=True),
    )  # fmt: skip
    return trained(
        5, make, sum_of_cosines, DEEP, (1e-3, 1e-4), 60, seeds,
        hc.NaturalGradient(damping=1e-8, momentum=0.9),
    )  # fmt: skip


def cosines(seeds: int) -> dict[str, dict]:
    fixed = points_of(CUBE.random(6000, seed=3)), points_of(CUBE.boundary_random(3000, seed=4))
    baseline = frozen(5, 2000, sum_of_cosines, lambda X: -(np.pi**2) * sum_of_cosines(X), *fixed)
    return {
        "5-64-64-48-48-1, 900 + 300 fresh points a step": on_ranks("cosines", seeds),
        "2001 frozen tanh features, 6000 + 3000 points": baseline,
    }


# One dimension


def ritz(seeds: int) -> dict[str, dict]:
    """u = x^(2/3) - x: relative energy errors of uniform, best graded and moved meshes."""

    def load(x):
        return 2 / 9 * x ** (-4 / 3)

    def error(mesh, step=-1):
        return math.sqrt(1 + 6 * mesh.energies[step])

    # Points that are graded to the singular end, x = t^3: of the features alone.
    t, w = hc.Box([0], [1]).gauss(400, 4).rows(0, None)
    graded = t**3, 3 * t[:, 0] ** 2 * w
    rows, sizes = {}, (16, 32, 64, 128, 256)
    for elements in sizes:
        times = []
        for _ in range(max(seeds, 3)):
            begun = time.process_time()
            mesh = hc.moving_mesh(load, elements)
            times.append(time.process_time() - begun)
        powers = [
            error(hc.moving_mesh(load, elements, start=start, max_steps=0))
            for power in np.linspace(2, 14, 121)
            for start in [(np.arange(elements + 1) / elements) ** power]
        ]
        long = as_long(uniform_elements, elements, median(times), 1)
        features = frozen_energy(
            1, elements - 2, graded, graded, lambda X: load(X[:, 0]),
            lambda X: 2 / 3 * X.T ** (-1 / 3) - 1,
        )  # fmt: skip
        rows[f"{elements} elements"] = {
            "uniform": error(mesh, 0), "uniform, as many seconds": long["error"],
            "their number": long["n"] + 1, "best power grading": min(powers), "moved": error(mesh),
            "steps": len(mesh.energies) - 1, "seconds": median(times),
            "frozen tanh features, as many unknowns": features["energy error"],
        }  # fmt: skip
    last = list(rows.values())[2:]
    rows["slope from 64 on"] = {
        head: np.polyfit(np.log(sizes[2:]), np.log([row[head] for row in last]), 1)[0]
        for head in ("uniform", "best power grading", "moved")
    }  # fmt: skip
    return rows


def uniform_elements(elements: int) -> dict:
    energy, unknowns, seconds = fem.least_energy(elements, lambda x: x ** (2 / 3))
    return {"n": unknowns, "seconds": seconds, "error": math.sqrt(1 + 6 * energy)}


def waves(X: np.ndarray) -> np.ndarray:
    return np.sin(3 * np.pi * X[:, 0])


TESTS = np.random.default_rng(99).uniform(size=(CHECKS, 1))


def fosls_network(seeds: int) -> dict:
    """-u'' = f as u' = q, q' = -f by least squares."""

    def residual(u, du, x):
        load = 9 * math.pi**2 * tf.sin(3 * math.pi * x[:, 0])
        return tf.stack([3 * math.pi * (du[:, 0, 0] / (3 * math.pi) - u[:, 1]), 3 * math.pi
                         * du[:, 1, 0] + load], 1)  # fmt: skip

    line = hc.Box([0], [1])

    def make(model):
        return hc.ResidualProblem(
            model, [hc.Group(line.gauss(64, 3), residual)],
            distance=lambda x: tf.concat([x * (1 - x), tf.ones_like(x)], 1),
        )  # fmt: skip

    return trained(
        1, make, waves, (24, 2), (2.3e-4, 1e-5), 15, seeds, distance=lambda X: X * (1 - X)
    )


def fosls(seeds: int) -> dict[str, dict]:
    """P1 x P1 elements, and a network beside them."""
    row = on_ranks("fosls", seeds)
    return {
        "1-24-2, 192 points": row,
        "2 x 25 frozen tanh features": frozen_system(24),
        "P1 x P1, 256 elements": least_squares_elements(256),
        "P1 x P1, as many unknowns": least_squares_elements(row["n"] // 2),
        "P1 x P1, as many seconds": as_long(least_squares_elements, 256, row["seconds"], 1),
    }


def frozen_system(features: int) -> dict:
    """Features of u and of q, and least squares of u' - q and q' + f."""
    begun = time.process_time()
    W, b = random_units(1, features)

    def of(X):
        Z = np.tanh(X @ W + b)
        return np.insert(Z, features, 1, 1), np.insert((1 - Z**2) * W, features, 0, 1)

    X, ends = points_of(hc.Box([0], [1]).gauss(64, 3)), np.array([[0.0], [1.0]])
    (Z, dZ), (edge, _) = of(X), of(ends)
    A = np.block([[dZ, -Z], [0 * Z, dZ], [100 * edge, 0 * edge]])
    right = np.r_[0 * X[:, 0], -((3 * np.pi) ** 2) * waves(X), 0, 0]
    c = scipy.linalg.lstsq(A, right, cond=1e-14)[0]
    seconds = time.process_time() - begun
    error = relative(of(TESTS)[0] @ c[: features + 1], waves(TESTS))
    return {"n": len(c), "seconds": seconds, "error": f"{error:.1e}"}


def least_squares_elements(elements: int) -> dict:
    u, basis, unknowns, seconds = fem.least_squares(
        elements, lambda x: 9 * np.pi**2 * np.sin(3 * np.pi * x)
    )
    error = relative(fem.values(u, basis, TESTS), waves(TESTS))
    return {"n": unknowns, "seconds": seconds, "error": f"{error:.2e}"}


# Energies


def energies(seeds: int) -> dict[str, dict]:
    """The Dirichlet energy of sin pi x sin pi y: errors in the energy norm, relative."""
    finer = UNIT.gauss(40, 4).rows(0, None)

    def density(u, du, x):
        load = 2 * math.pi**2 * tf.sin(math.pi * x[:, 0]) * tf.sin(math.pi * x[:, 1])
        return tf.reduce_sum(du**2, 1) / 2 - load * u

    rows = {}
    for units, activation, cells, order in (
        (64, "tanh", 10, 4), (16, "relu", 24, 3), (64, "relu", 24, 3),
        (16, "rounded relu", 24, 3), (64, "rounded relu", 24, 3),
    ):  # fmt: skip
        found, times = [], []
        for seed in range(seeds):
            begun = time.process_time()
            problem = hc.EnergyProblem(
                network(2, units, 1, seed=seed, activation=ROUNDED.get(activation, activation)),
                density,
                UNIT.gauss(cells, order), convex=True,
                distance=lambda x: tf.reduce_prod(4 * x * (1 - x), 1),
            )  # fmt: skip
            x = hc.train(problem, "natural-gradient", max_steps=100).best
            times.append(time.process_time() - begun)
            W, b, c = x[: 2 * units].reshape(2, units), x[2 * units : 3 * units], x[3 * units :]
            found.append(energy_error(W, b, c, activation, finer, sine_slopes))
        rows[f"2-{units}-1 {activation}, {problem.rows} points, 100 steps"] = {
            "n": len(x), "seconds": median(times),
            "energy error": f"{median(found):.1e}, worst {max(found):.1e}",
        }  # fmt: skip
    tanh = next(iter(rows.values()))
    points = UNIT.gauss(10, 4).rows(0, None)
    rows["257 frozen tanh features"] = frozen_energy(2, 256, points, finer, sine_load, sine_slopes)
    rows["distance alone, times its best constant"] = frozen_energy(
        2, 0, points, finer, sine_load, sine_slopes
    )
    for order, cells in (1, 9), (1, 17), (2, 9):
        rows[f"P{order}, {cells}^2 squares"] = energy_of_elements(order, cells)
    for order in 1, 2:
        rows[f"P{order}, as many seconds as 2-64-1 tanh"] = as_long(
            partial(energy_of_elements, order), 17, tanh["seconds"]
        )
    return rows


def sine_slopes(X: np.ndarray) -> np.ndarray:
    x, y = np.pi * X.T
    return np.pi * np.stack([np.cos(x) * np.sin(y), np.sin(x) * np.cos(y)])


def energy_of_elements(order: int, cells: int) -> dict:
    u, basis, unknowns, seconds = fem.poisson(order, cells, sine_load)
    error = math.sqrt(max(1 - fem.energy(u, basis) / (-(np.pi**2) / 4), 0))
    return {"n": unknowns, "seconds": seconds, "energy error": error}


def rounded(z):
    return tf.where(abs(z) < CORNER, (z + CORNER) ** 2 / (4 * CORNER), tf.nn.relu(z))


ROUNDED = {"rounded relu": rounded}


# u = D N of one hidden layer, D = product of 4 x (1 - x), by NumPy


def activated(Z: np.ndarray, activation: str) -> tuple[np.ndarray, np.ndarray]:
    """Return values of hidden units, and their derivatives by what goes into the units."""
    if activation == "tanh":
        return np.tanh(Z), 1 - np.tanh(Z) ** 2
    half = CORNER if activation in ROUNDED else 0.0
    corner, slope = abs(Z) < half, (Z > 0).astype(float)
    Z, side = np.maximum(Z, 0), Z[corner] + half
    if half:
        Z[corner], slope[corner] = side**2 / (4 * half), side / (2 * half)
    return Z, slope


def bump_features(W, b, X, activation: str) -> tuple[np.ndarray, np.ndarray]:
    """Return D times hidden units and 1, (m, k + 1), and its derivatives, (d, m, k + 1)."""
    Z, S = activated(X @ W + b, activation)
    Z, S = np.insert(Z, Z.shape[1], 1, axis=1), np.insert(S, S.shape[1], 0, axis=1)
    W, sides = np.insert(W, W.shape[1], 0, axis=1), 4 * X * (1 - X)
    D = sides.prod(1)[:, None]
    slopes = [
        D * S * W[i] + ((4 - 8 * X[:, i]) * np.delete(sides, i, 1).prod(1))[:, None] * Z
        for i in range(len(W))
    ]
    return D * Z, np.stack(slopes)


def energy_error(W, b, c, activation, points, exact) -> float:
    """Return the root of the energy of u - exact over that of exact, of the derivatives `exact`."""
    X, w = points
    slopes = exact(X)
    missed = bump_features(W, b, X, activation)[1] @ c - slopes
    return math.sqrt((w * missed**2).sum() / (w * slopes**2).sum())


def frozen_energy(dimension: int, features: int, points, finer, load, exact) -> dict:
    """Random features, and the least 1/2 |grad u|^2 - f u by a singular value decomposition."""
    begun = time.process_time()
    W, b = random_units(dimension, features)
    X, w = points
    F, slopes = bump_features(W, b, X, "tanh")
    A = (np.sqrt(w)[:, None] * slopes).reshape(-1, features + 1)
    _, s, V = np.linalg.svd(A, full_matrices=False)
    V, s = V[s > CUT * s[0]], s[s > CUT * s[0]]
    c = V.T @ (V @ (F.T @ (w * load(X))) / s**2)
    seconds = time.process_time() - begun
    error = energy_error(W, b, c, "tanh", finer, exact)
    return {"n": features + 1, "seconds": seconds, "energy error": error}


# Kinks in the plane


def front_exact(X: np.ndarray) -> np.ndarray:
    return np.tanh(20 * (X[:, 0] - X[:, 1]))


def front(seeds: int) -> dict[str, dict]:
    """Fit a front along the diagonal by a shallow ReLU network, whose kinks are lines that move."""
    T = np.random.default_rng(99).uniform(size=(CHECKS, 2))
    group = hc.Group(UNIT.gauss(24, 3), lambda u, x: u - tf.tanh(20 * (x[:, 0] - x[:, 1])))
    found, times = [], []
    for seed in range(seeds):
        begun = time.process_time()
        problem = hc.ResidualProblem(network(2, 32, 1, seed=seed, activation="relu"), [group])
        x = hc.train(problem, "natural-gradient", max_steps=60, verbose=False).best
        times.append(time.process_time() - begun)
        W, b, c = x[:64].reshape(2, 32), x[64:96], x[96:]
        u = np.maximum(T @ W + b, 0) @ c[:-1] + c[-1]
        found.append(relative(u, front_exact(T)))
    return {
        "2-32-1 relu, 5184 points, 60 steps": {
            "n": problem.n, "seconds": median(times),
            "error": f"{median(found):.1e}, worst {max(found):.1e}",
        },
        "P1, as many unknowns": projected(10),
        "P1, as many seconds": as_long(projected, 10, median(times)),
    }  # fmt: skip


def projected(cells: int) -> dict:
    """The best linear elements on a uniform mesh, in L2."""
    u, basis, unknowns, seconds = fem.projection(1, cells, front_exact)
    T = np.random.default_rng(99).uniform(size=(CHECKS, 2))
    error = relative(fem.values(u, basis, T), front_exact(T))
    return {"n": unknowns, "seconds": seconds, "error": f"{error:.1e}"}


# Systems by conjugate gradients


def cg(seeds: int) -> dict[str, dict]:
    """More than 10^4 parameters and residuals: no matrix of either order is made."""
    make, widths = sine_on(UNIT, 102), (100, 100, 1)
    T = np.random.default_rng(99).uniform(size=(CHECKS, 2))
    rows = {}
    for name, optimizer in {
        "Cholesky, no CG": hc.NaturalGradient(direct=20_000),
        "CG, low-rank": hc.NaturalGradient(),
        "CG, HBS": hc.NaturalGradient(preconditioner="hbs"),
    }.items():
        watch = Watch(
            lambda x: relative(values(x, T, widths)[:, 0], sine_exact(T)), (), LONGEST, every=1
        )
        problem = make(network(2, *widths, seed=0))
        found = hc.train(problem, optimizer, max_steps=10**6, callbacks=watch, evaluate_every=10**6)
        rows[name] = {
            "n": problem.n, "residuals": problem.rows, "seconds": watch.seconds,
            "steps": found.steps, "error": f"{watch.last:.1e}",
        }  # fmt: skip
        if "CG" in name[:2]:
            for head in ("cg_iterations", "sketch_columns"):
                count = sum(row[head] or 0 for row in found.history.rows[1:])
                rows[name][head.replace("_", " ")] = count
    return rows | {"257 frozen tanh features": frozen(2, 256, *SQUARE)}


def factors(seeds: int) -> dict[str, dict]:
    """CG iterations for (G + damping) x = b by formats of the factor, G a Gauss-Newton matrix.

    The damping is 1e-8 of the largest eigenvalue, b normal, the relative residual 1e-6. Of trained
    networks, and of a shallow ReLU network in one dimension, whose units are ordered.
    """
    problems = {name: hc.equation(name) for name in EQUATIONS}
    points = {
        name: hc.train(problem, "natural-gradient", max_steps=20).best
        for name, problem in problems.items()
    }
    problems["1-256-1 relu"] = shallow = shallow_relu(256)
    points["1-256-1 relu"] = shallow.initial
    formats = {
        "low-rank": {"rank": 50}, "HBS": {"rank": 8, "format": "hbs", "leaf_size": 32},
        "HODLR": {"rank": 8, "format": "hodlr", "leaf_size": 32}, "none": None,
    }  # fmt: skip
    rows = {}
    for name, problem in problems.items():
        G = hc.ggn(problem, at=points[name])
        damping = 1e-8 * float(hc.compress(G, 1).eigenvalues[0])
        right = np.random.default_rng(1).standard_normal(G.n)
        unit = {"ordering": "unit"} if problem is shallow else {}
        row = rows[name] = {"n": G.n}
        for title, given in formats.items():
            M = None
            if given is not None:
                F = hc.compress(G, **given, **(unit if "format" in given else {}))
                M = F.preconditioner(damping)
                row[f"{title}, numbers a parameter"] = numbers_of(F) / G.n
            solved = conjugate_gradients(
                G.shifted(damping), right, tolerance=1e-6 * np.linalg.norm(right),
                preconditioner=M, max_iterations=MOST_CG,
            )  # fmt: skip
            count = solved.iterations
            row[f"{title}, iterations"] = count if count < MOST_CG else f"over {MOST_CG:,}"
    return rows


def shallow_relu(units: int) -> hc.ResidualProblem:
    """A front in one dimension by values, at sorted breakpoints."""
    rng, model = np.random.default_rng(0), network(1, units, 1, seed=0, activation="relu")
    at, slopes = np.sort(rng.uniform(size=units)), rng.standard_normal(units)
    model.set_weights([np.ones((1, units)), -at, slopes[:, None], np.zeros(1)])
    front = hc.Group(hc.Box([0], [1]).gauss(2000, 3), lambda u, x: u - tf.tanh(20 * x[:, 0] - 10))
    return hc.ResidualProblem(model, [front])


# Several ranks


def start(name: str, ranks: int, seeds: int = 1) -> dict:
    """Return what this script prints for `--started NAME` on so many ranks."""
    return record.answer_of(ranks, "--started", name, "--seeds", seeds)


def print_first(row: dict) -> None:
    """Print what `start` returns."""
    if World.of_job().rank == 0:
        print(json.dumps(row))


def ranks(seeds: int) -> dict[str, dict]:
    """Steps of the deep network on ranks of one thread each: wall time without tracing."""
    rows = {}
    for name, cells in GRIDS.items():
        runs = [[start(name, count)["seconds"] for count in (1, 2)] for _ in range(seeds)]
        one, two = (median(seconds) for seconds in zip(*runs, strict=True))
        row = {"1 rank": one, "2 ranks": two, "ratio": one / two, "runs of each": seeds}
        rows[f"10 steps, 2-64-64-48-48-1, {cells}^2 + {4 * cells} points"] = row
    return rows


GRIDS = {"published": 30, "dense": 44}  # points along an edge


def steps(cells: int, seeds: int) -> dict:
    problem, times = sine_on(UNIT, cells)(network(2, 64, 64, 48, 48, 1, seed=0)), []
    hc.train(
        problem, "natural-gradient", max_steps=12, verbose=False,
        callbacks=lambda row, x: times.append(row["seconds"]) and None,
    )  # fmt: skip
    return {"seconds": times[-1] - times[2]}


def committor(seeds: int) -> dict[str, dict]:
    """Rates of Mueller and Brown's surface by features, beside elements in the plane.

    The coordinates that are added to the plane change no rate. `by its own points` is what was
    minimised; `rate` is that of the function found, by a quadrature rule in the plane, so that it
    is never below the least one but for the rule.
    """
    rows, found = {}, []
    for h in (0.2, 0.02, 0.01, 0.005):
        begun = time.process_time()
        rate, unknowns = fem.committor_rate(h)
        found.append(rate)
        rows[f"P1 elements, h = {h}"] = {
            "n": unknowns, "rate": rate, "seconds": time.process_time() - begun
        }  # fmt: skip
    found = found[-2:]
    exact = (4 * found[1] - found[0]) / 3
    rows["P1 elements, extrapolated"] = {"rate": exact}
    for dimension, walkers, units in (
        (2, 0, 50), (2, 0, 100), (2, 0, 200), (2, 0, 400),
        (2, 50, 200), (2, 200, 200), (2, 800, 200),
        (10, 200, 100), (10, 200, 200), (10, 50, 400), (10, 200, 400), (10, 800, 400),
    ):  # fmt: skip
        row = rate_by_features(dimension, walkers, units)
        samples = f"{walkers * surface.SAMPLES:,} samples" if walkers else "exact weights"
        rows[f"{dimension}-D, {units} features, {samples}"] = row
    runs = {count: start("newton", count) for count in (1, 2, 3, 4)}
    for count, row in runs.items():
        change = row["by its own points"] / runs[1]["by its own points"] - 1
        rows[f"10-D, 200 features, 20,000 samples, compressed Newton, ranks: {count}"] = {
            **row, "against 1 rank": f"{abs(change):.0e}"
        }  # fmt: skip
    for row in rows.values():
        row["relative difference"] = f"{row['rate'] / exact - 1:.1e}"
    return rows


def rate_by_features(dimension: int, walkers: int, units: int) -> dict:
    rule = plane_rule(dimension)
    points = Samples(walkers, dimension).rows(0, None) if walkers else rule
    begun = time.process_time()
    problem = committor_problem(dimension, points, units)
    x = hc.train(problem, hc.Newton(solver="direct"), max_steps=1, verbose=False).best
    seconds = time.process_time() - begun
    judge = problem if points is rule else committor_problem(dimension, rule, units)
    return {
        "n": problem.n, "rate": without_ridge(judge, x),
        "by its own points": without_ridge(problem, x), "seconds": seconds,
    }  # fmt: skip


def without_ridge(problem, x: np.ndarray) -> float:
    return problem.objective(x) - problem.ridge_term(x)


class Samples(surface.Trajectories):
    """Trajectories of so many walkers; in two dimensions without the added coordinates."""

    def __init__(self, walkers: int, dimension: int, seed: int = 0):
        self.count, self.dimension = walkers * surface.SAMPLES, dimension
        super().__init__(seed)

    def rows(self, start, stop, step=0):
        X, weights = super().rows(start, stop, step)
        return X if self.dimension > 2 else X @ self.rotation[:, :2], weights


@cache
def plane_rule(dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Return Gauss' rule in the plane with the weights of exp(-V / kT); added coordinates drawn."""
    y, w = hc.Box([-1.7, -0.5], [1.3, 2.2]).gauss([75, 68], 3).rows(0, None)
    V = surface.surface(y)[0]
    y, w = y[V < HIGHEST], w[V < HIGHEST] * np.exp(-V[V < HIGHEST] / surface.KT)
    if dimension > 2:
        rng = np.random.default_rng(0)
        added = surface.WIDTH * rng.standard_normal((len(y), dimension - 2))
        y = np.column_stack([y, added]) @ surface.rotation().T
    return y, w / surface.partition(surface.KT)


@cache
def features_from(dimension: int) -> np.ndarray:
    return Samples(surface.FEW, dimension, surface.FEATURES).rows(0, None)[0]


def committor_problem(dimension: int, points, units: int):
    """The named problem `committor`, of other points, features and dimensions."""
    plane = np.eye(2) if dimension == 2 else surface.rotation()[:, :2]
    hidden = keras.layers.Dense(units, "tanh", trainable=False)
    model = keras.Sequential([keras.Input((dimension,)), hidden, keras.layers.Dense(1)])
    surface.set_features(model, features_from(dimension))
    boundary_values, distance = surface.conditions(plane)
    return surface.Committor(
        model, lambda du: surface.KT * tf.reduce_sum(tf.square(du), 1), points, (), None,
        convex=True, distance=distance, boundary_values=boundary_values, ridge=RIDGE,
    )  # fmt: skip


def newton(seeds: int) -> dict:
    problem = committor_problem(10, Samples(200, 10), 200)
    begun = time.perf_counter()
    # The first step's system is solved to a tenth only, the second's to the end.
    found = hc.train(problem, hc.Newton(solver="pcg", rank=100), max_steps=2, verbose=False)
    seconds = time.perf_counter() - begun
    judge = committor_problem(10, plane_rule(10), 200)
    rates = {
        "rate": without_ridge(judge, found.best),
        "by its own points": without_ridge(problem, found.best),
    }  # fmt: skip
    costs = {name: found.history.rows[-1][name] for name in ("columns", "words")}
    return {"n": problem.n, **rates, "seconds": seconds, **costs}


SET_UPS = {
    "sine": sine_network, "deep": partial(deep_network, 30, (1e-4, 1e-5, 1e-6)),
    "deep-few": partial(deep_network, 20, (1e-4, 1e-5)), "cosines": cosines_network,
    "fosls": fosls_network,
}  # fmt: skip
STARTED = {"newton": newton, **SET_UPS} | {
    name: partial(steps, cells) for name, cells in GRIDS.items()
}  # fmt: skip
PARTS = {
    "ritz": ritz, "fosls": fosls, "sine": sine, "deep": deep, "cosines": cosines,
    "energies": energies, "front": front, "factors": factors, "cg": cg, "ranks": ranks,
    "committor": committor,
}  # fmt: skip

if __name__ == "__main__":
    main()
