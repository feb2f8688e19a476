"""Networks that solve differential equations: errors and seconds beside published runs.

    python scripts/bench/pde.py                   # all, some minutes
    python scripts/bench/pde.py sine ritz --trial

Seconds are the processor's, on one thread, from before the problem is made: TensorFlow's tracing is
in them, and named beside them; the measuring of errors is not. Errors are relative, in L2, on 9,000
points that no training saw, of values that NumPy computes from the weights. `ranks` and `committor`
start themselves on several ranks, and take wall time of the whole runs.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import record
import scipy.linalg
import skfem
import tables
import tensorflow as tf
from skfem.models.poisson import laplace, mass
from threadpoolctl import threadpool_limits

import hesscomp as hc

CODE = (*record.ENGINE, *record.OPTIMIZERS)
CHECKS, SEEDS = 9000, 5


def main() -> None:
    parser = tables.parts_parser(__doc__, PARTS)
    parser.add_argument("--started", help=argparse.SUPPRESS)  # by this script, on several ranks
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"runs of each; default: {SEEDS}")
    options = parser.parse_args()
    if options.started:
        return STARTED[options.started]()
    with threadpool_limits(1):
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
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
    """Seconds at which the error on points that no training saw falls below some targets."""

    def __init__(self, error, targets: tuple[float, ...], most: float, every: int = 2):
        self.error, self.targets, self.most, self.every = error, targets, most, every
        self.begun, self.first = time.process_time(), 0.0
        self.hits: dict[float, float] = {}
        self.last = np.nan

    def __call__(self, row, x) -> bool:
        now = time.process_time()
        if row["step"] == 1:
            self.first = now - self.begun
        if row["step"] % self.every == 0:
            self.last = self.error(x)
        for target in self.targets:
            if self.last < target:
                self.hits.setdefault(target, now - self.begun)
        over = now - self.begun > self.most or len(self.hits) == len(self.targets)
        self.begun += time.process_time() - now
        return over


def rows_of(watches: list[Watch], n: int) -> dict:
    """Return one row: the medians, and how many seeds reached each target."""
    row = {"n": n, "seconds of tracing": median(watch.first for watch in watches)}
    for target in watches[0].targets:
        found = [watch.hits.get(target, math.inf) for watch in watches]
        row[f"{target:g}"] = f"{median(found):.3g} s, worst {max(found):.3g} s"
    row["last errors"] = ", ".join(f"{watch.last:.1e}" for watch in watches)
    return row


def trained(make, exact, widths, targets, most, seeds, optimizer="natural-gradient") -> dict:
    T = np.random.default_rng(99).uniform(size=(CHECKS, make.dimension))
    U, watches = exact(T), []
    for seed in range(seeds):
        watch = Watch(lambda x: relative(values(x, T, widths)[:, 0], U), targets, most)
        problem = make(network(make.dimension, *widths, seed=seed))
        hc.train(problem, optimizer, max_steps=10**6, callbacks=watch, evaluate_every=10**6)
        watches.append(watch)
    return rows_of(watches, problem.n)


# Poisson's equation


def poisson(dimension: int, load, exact, inner, outer):
    def make(model):
        inside = hc.Group(inner, lambda laplacian, x: laplacian + load(x))
        edges = hc.Group(outer, lambda u, x: u - exact(x), weight=1 / (2 * dimension))
        return hc.ResidualProblem(model, [inside, edges])

    make.dimension = dimension
    return make


def sine_on(square, cells):
    def exact(x):
        return tf.sin(math.pi * x[:, 0]) * tf.sin(math.pi * x[:, 1])

    return poisson(
        2, lambda x: 2 * math.pi**2 * exact(x), exact,
        square.grid(cells), square.boundary_grid(cells),
    )  # fmt: skip


def sine_exact(X):
    return np.sin(np.pi * X[:, 0]) * np.sin(np.pi * X[:, 1])


def sine(seeds: int) -> dict[str, dict]:
    make = sine_on(hc.Box([0, 0], [1, 1]), 30)
    row = trained(make, sine_exact, (64, 1), (1e-5, 1e-6), 20, seeds)
    return {
        "2-64-1, 900 + 120 points": row, "257 frozen tanh features": frozen(2, 256, *SQUARE),
        "P1, as many unknowns": elements(1, 18), "P2, as many unknowns": elements(2, 9),
        "P1, as many seconds": elements(1, 400), "P2, as many seconds": elements(2, 200),
    }  # fmt: skip


def deep(seeds: int) -> dict[str, dict]:
    make = sine_on(hc.Box([0, 0], [1, 1]), 30)
    row = trained(make, sine_exact, (64, 64, 48, 48, 1), (1e-4, 1e-5, 1e-6), 30, seeds)
    return {
        "2-64-64-48-48-1, 900 + 120 points": row,
        "257 frozen tanh features": frozen(2, 256, *SQUARE),
        "P1, as many unknowns": elements(1, 101), "P2, as many unknowns": elements(2, 51),
        "P1, as many seconds": elements(1, 600), "P2, as many seconds": elements(2, 300),
    }  # fmt: skip


def frozen(dimension: int, features: int, exact, laplacian, inner, outer) -> dict:
    """Random features, and one least-squares solve for the output weights."""
    begun, rng = time.process_time(), np.random.default_rng(0)
    W = rng.uniform(-4, 4, (dimension, features)) / np.sqrt(dimension / 2)
    b = rng.uniform(-4, 4, features)
    z = np.tanh(inner @ W + b)
    A = np.vstack([-2 * z * (1 - z**2) * (W**2).sum(0), 100 * np.tanh(outer @ W + b)])
    A = np.column_stack([A, np.r_[np.zeros(len(inner)), np.full(len(outer), 100.0)]])
    right = np.r_[laplacian(inner), 100 * exact(outer)]
    c = scipy.linalg.lstsq(A, right, cond=1e-14)[0]
    seconds = time.process_time() - begun
    T = np.random.default_rng(99).uniform(size=(CHECKS, dimension))
    u = np.tanh(T @ W + b) @ c[:-1] + c[-1]
    return {
        "n": features + 1,
        "last errors": f"{relative(u, exact(T)):.1e} in {seconds:.2g} s",
    }


def points_of(points) -> np.ndarray:
    return points.rows(0, None)[0]


UNIT = hc.Box([0, 0], [1, 1])
SQUARE = (
    sine_exact, lambda X: -2 * np.pi**2 * sine_exact(X),
    points_of(UNIT.grid(30)), points_of(UNIT.boundary_grid(30)),
)  # fmt: skip


def elements(order: int, cells: int) -> dict:
    """-lap u = f with u = sin pi x sin pi y, by elements on `cells`^2 squares cut in two."""
    begun = time.process_time()
    u, basis, unknowns = solved(order, cells, lambda x: 2 * np.pi**2 * sine_exact(x))
    seconds = time.process_time() - begun
    T = np.random.default_rng(99).uniform(size=(CHECKS, 2))
    found = basis.interpolator(u)(T.T)
    error = relative(found, sine_exact(T))
    return {"n": unknowns, "last errors": f"{error:.1e} in {seconds:.2g} s"}


def solved(order: int, cells: int, load):
    """Return a finite-element solution on the unit square, zero on its edge."""
    axis = np.linspace(0, 1, cells + 1)
    mesh = skfem.MeshTri.init_tensor(axis, axis)
    basis = skfem.Basis(mesh, (skfem.ElementTriP1, skfem.ElementTriP2)[order - 1]())
    right = skfem.LinearForm(lambda v, w: load(np.moveaxis(w.x, 0, -1).reshape(-1, 2)).reshape(
        w.x.shape[1:]) * v)  # fmt: skip
    edge = basis.get_dofs().flatten()
    system = skfem.condense(laplace.assemble(basis), right.assemble(basis), D=edge)
    return skfem.solve(*system), basis, basis.N - len(edge)


def cosines(seeds: int) -> dict[str, dict]:
    def exact(x):
        return tf.reduce_sum(tf.cos(math.pi * x), 1)

    cube = hc.Box([0] * 5, [1] * 5)
    inner = cube.random(900, seed=1, redrawn=True)
    outer = cube.boundary_random(300, seed=2, redrawn=True)
    make = poisson(5, lambda x: math.pi**2 * exact(x), exact, inner, outer)
    widths = 64, 64, 48, 48, 1
    row = trained(
        make, lambda X: np.cos(np.pi * X).sum(1), widths, (1e-3, 1e-4), 60, seeds,
        hc.NaturalGradient(damping=1e-8, momentum=0.9),
    )  # fmt: skip

    def sum_of_cosines(X):
        return np.cos(np.pi * X).sum(1)

    fixed = points_of(cube.random(6000, seed=3)), points_of(cube.boundary_random(3000, seed=4))
    laplacian = partial(np.multiply, -(np.pi**2))
    baseline = frozen(
        5, 2000, sum_of_cosines, lambda X: laplacian(sum_of_cosines(X)), *fixed
    )  # fmt: skip
    return {
        "5-64-64-48-48-1, 900 + 300 fresh points a step": row,
        "2001 frozen tanh features, 6000 + 3000 points": baseline,
    }


# One dimension


def ritz(seeds: int) -> dict[str, dict]:
    """u = x^(2/3) - x: relative energy errors of uniform, best graded and moved meshes."""

    def load(x):
        return 2 / 9 * x ** (-4 / 3)

    def error(energy):
        return float(np.sqrt(1 + 6 * energy))

    rows = {}
    for elements in (16, 64, 256):
        times = []
        for _ in range(max(seeds, 3)):
            begun = time.process_time()
            mesh = hc.moving_mesh(load, elements)
            times.append(time.process_time() - begun)
        graded = min(
            error(hc.moving_mesh(load, elements, start=grading, max_steps=0).energy)
            for power in np.linspace(2, 14, 121)
            for grading in [(np.arange(elements + 1) / elements) ** power]
        )
        rows[f"{elements} elements"] = {
            "uniform": error(mesh.energies[0]), "best power grading": graded,
            "moved": error(mesh.energy), "steps": len(mesh.energies) - 1, "seconds": median(times),
        }  # fmt: skip
    return rows


LINE = (
    lambda X: np.sin(3 * np.pi * X[:, 0]), lambda X: -9 * np.pi**2 * np.sin(3 * np.pi * X[:, 0]),
    points_of(hc.Box([0], [1]).gauss(64, 3)), np.array([[0.0], [1.0]]),
)  # fmt: skip


def fosls(seeds: int) -> dict[str, dict]:
    """-u'' = f as u' = q, q' = -f by least squares: P1 x P1 elements, and a network beside them."""

    def exact(X):
        return np.sin(3 * np.pi * X[:, 0])

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

    make.dimension = 1
    T, watches = np.random.default_rng(99).uniform(size=(CHECKS, 1)), []
    for seed in range(seeds):
        watch = Watch(
            lambda x: relative((T * (1 - T) * values(x, T, (24, 2)))[:, 0], exact(T)),
            (2.3e-4, 1e-5), 15,
        )  # fmt: skip
        problem = make(network(1, 24, 2, seed=seed))
        hc.train(problem, "natural-gradient", max_steps=10**6, callbacks=watch)
        watches.append(watch)
    return {
        "1-24-2, 192 points": rows_of(watches, problem.n),
        "25 frozen tanh features": frozen(1, 24, *LINE),
        "P1 x P1, 256 elements": least_squares_elements(256, T, exact(T)),
    }


def least_squares_elements(elements: int, T: np.ndarray, exact: np.ndarray) -> dict:
    """Minimise |u' - q|^2 + |q' + f|^2 over piecewise linear u and q, by scikit-fem."""
    begun = time.process_time()
    mesh = skfem.MeshLine(np.linspace(0, 1, elements + 1))
    basis = skfem.Basis(mesh, skfem.ElementLineP1(), intorder=6)

    @skfem.BilinearForm
    def stiffness(u, v, w):
        return u.grad[0] * v.grad[0]

    @skfem.BilinearForm
    def mixed(u, v, w):  # -(u', v)
        return -u.grad[0] * v

    @skfem.LinearForm
    def load(v, w):
        return -9 * np.pi**2 * np.sin(3 * np.pi * w.x[0]) * v.grad[0]

    K, M, C = stiffness.assemble(basis), mass.assemble(basis), mixed.assemble(basis)
    A = skfem.bmat([[K, C.T], [C, K + M]], "csr")
    right = np.concatenate([np.zeros(basis.N), load.assemble(basis)])
    ends = basis.get_dofs().flatten()
    solution = skfem.solve(*skfem.condense(A, right, D=ends))
    seconds = time.process_time() - begun
    u = basis.interpolator(solution[: basis.N])(T.T)
    unknowns = 2 * basis.N - len(ends)
    return {"n": unknowns, "last errors": f"{relative(u, exact):.2e} in {seconds:.2g} s"}


# Energies


def energies(seeds: int) -> dict[str, dict]:
    """The Dirichlet energy of sin pi x sin pi y: errors in the energy norm, relative."""
    least, finer = -(math.pi**2) / 4, UNIT.gauss(40, 4)

    def posed(model, points):
        return hc.EnergyProblem(
            model, lambda u, du, x: tf.reduce_sum(du**2, 1) / 2
            - 2 * math.pi**2 * tf.sin(math.pi * x[:, 0]) * tf.sin(math.pi * x[:, 1]) * u,
            points, convex=True, distance=lambda x: tf.reduce_prod(4 * x * (1 - x), 1),
        )  # fmt: skip

    def error(energy: float) -> float:
        return math.sqrt(max(energy / -least + 1, 0))

    rows = {}
    for activation, points in ("tanh", UNIT.gauss(10, 4)), ("relu", UNIT.gauss(24, 3)):
        found, times = [], []
        for seed in range(seeds):
            begun, model = time.process_time(), network(2, 64, 1, seed=seed, activation=activation)
            best = hc.train(posed(model, points), "natural-gradient", max_steps=100).best
            times.append(time.process_time() - begun)
            found.append(error(posed(model, finer).objective(best)))
        rows[f"2-64-1 {activation}, by its Gauss-Newton matrix, 100 steps"] = {
            "n": len(best), "energy error": f"{median(found):.1e}, worst {max(found):.1e}",
            "seconds": median(times),
        }  # fmt: skip
    for order, cells in (1, 17), (2, 9), (1, 200), (2, 100):
        begun = time.process_time()
        u, basis, unknowns = solved(order, cells, lambda x: 2 * np.pi**2 * sine_exact(x))
        seconds = time.process_time() - begun
        energy = -u @ (laplace.assemble(basis) @ u) / 2
        rows[f"P{order}, {cells}^2 squares"] = {
            "n": unknowns, "energy error": f"{error(energy):.1e}", "seconds": seconds
        }  # fmt: skip
    return rows


# Several ranks


def start(name: str, ranks: int) -> dict:
    """Return what this script prints for `--started NAME` on so many ranks."""
    beside = Path(sys.executable).with_name("mpiexec")
    command = [str(beside) if beside.exists() else "mpiexec", "-n", str(ranks), sys.executable]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(
        [*command, __file__, "--started", name], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def ranks(seeds: int) -> dict[str, dict]:
    """Steps of the deep network on ranks of one thread each: wall time without tracing."""
    found = {count: [start("steps", count) for _ in range(3)] for count in (1, 2)}
    times = {count: median(run["seconds"] for run in runs) for count, runs in found.items()}
    return {
        f"{name}, {DENSE}^2 + {4 * DENSE} points": {
            "1 rank": times[1], "2 ranks": times[2], "ratio": times[1] / times[2]
        }
        for name in ("10 steps, 2-64-64-48-48-1",)
    }  # fmt: skip


DENSE = 44


def steps() -> None:
    make = sine_on(UNIT, DENSE)
    problem, times = make(network(2, 64, 64, 48, 48, 1, seed=0)), []
    hc.train(
        problem, "natural-gradient", max_steps=12, verbose=False,
        callbacks=lambda row, x: times.append(row["seconds"]) and None,
    )  # fmt: skip
    if problem.world.rank == 0:
        print(json.dumps({"seconds": times[-1] - times[2]}))


def committor(seeds: int) -> dict[str, dict]:
    """The rate on Mueller and Brown's surface, by features in 10 dimensions and elements in 2."""
    rows = {}
    for h in (0.02, 0.01):
        begun = time.process_time()
        rate, unknowns = rate_by_elements(h)
        rows[f"P1 elements in the plane, h = {h}"] = {
            "n": unknowns, "rate": rate, "seconds": time.process_time() - begun
        }  # fmt: skip
    for count in (1, 2, 3, 4):
        rows[f"201 random features in 10 dimensions, ranks: {count}"] = start("newton", count)
    return rows


def newton() -> None:
    problem = hc.equation("committor", ridge=1e-9)
    begun = time.perf_counter()
    found = hc.train(
        problem, hc.Newton(solver="pcg", rank=60), max_steps=1, verbose=False
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    if problem.world.rank == 0:
        rate = found.best_objective - problem.ridge_term(found.best)
        last = found.history.rows[-1]
        costs = {name: last[name] for name in ("columns", "words")}
        print(json.dumps({"n": problem.n, "rate": rate, "seconds": seconds, **costs}))


def rate_by_elements(h: float) -> tuple[float, int]:
    """Return kT times the least mean of |grad q|^2, by P1 on triangles fitted to both disks."""
    from hesscomp.problems import committor as surface

    axes = [np.arange(low, high, h) for low, high in ((-1.7, 1.3), (-0.5, 2.2))]
    mesh = skfem.MeshTri.init_tensor(*axes)
    p = mesh.p.T.copy()
    for end in surface.ENDS:
        radius = np.linalg.norm(p - end, axis=1)
        near = abs(radius - surface.RADIUS) < h / 2
        p[near] = end + (p[near] - end) * (surface.RADIUS / radius[near])[:, None]
    V = surface.surface(p)[0]
    mesh = skfem.MeshTri(np.ascontiguousarray(p.T), mesh.t)
    basis = skfem.Basis(mesh.restrict(np.flatnonzero(V[mesh.t].min(0) < 80)), skfem.ElementTriP1())

    def weighted(u, v, w):
        density = np.exp(-surface.surface(np.moveaxis(w.x, 0, -1))[0] / surface.KT)
        return density * (u.grad[0] * v.grad[0] + u.grad[1] * v.grad[1])

    K, X = skfem.BilinearForm(weighted).assemble(basis), basis.doflocs.T
    inner = [
        np.flatnonzero(np.linalg.norm(X - end, axis=1) < surface.RADIUS * (1 + 1e-9))
        for end in surface.ENDS
    ]
    q = np.zeros(basis.N)
    q[inner[1]] = 1
    fixed = np.concatenate(inner)
    q = skfem.solve(*skfem.condense(K, np.zeros(basis.N), x=q, D=fixed))
    return surface.KT * (q @ K @ q) / surface.partition(surface.KT), basis.N - len(fixed)


STARTED = {"steps": steps, "newton": newton}
PARTS = {
    "ritz": ritz, "fosls": fosls, "sine": sine, "deep": deep, "cosines": cosines,
    "energies": energies, "ranks": ranks, "committor": committor,
}  # fmt: skip

if __name__ == "__main__":
    main()
