"""Functions of a point alone as problems, for optimizers: values and derivatives by NumPy."""

import numpy as np

from hesscomp.curvature.sharded import ShardCurvature
from hesscomp.curvature.tensorflow import tf
from hesscomp.problems.capabilities import INITIAL_POINT
from hesscomp.problems.problem import ParameterBlock, Problem


class Function(Problem):
    """A function that every rank can evaluate; rank 0 holds its one "row"."""

    ridge, rows, psd, dtype = 0.0, 1, False, "float64"
    capabilities = frozenset({INITIAL_POINT})
    dataset_name, fingerprint = "none", "none"

    def __init__(self, world, initial):
        self.world, self.name = world, type(self).__name__.lower()
        self.initial = np.array(initial, dtype=np.float64)
        self.n = len(self.initial)
        self.parameter_blocks = (ParameterBlock("x", (self.n,), 0),)

    def objective_and_gradient(self, x):
        self.world.ledger.passes += 1
        return self.evaluate(x)

    def linearize(self, x):
        return Dense(self.hessian(x) * (self.world.rank == 0))


class Dense(ShardCurvature):
    assembles = True

    def __init__(self, matrix):
        self.matrix = matrix

    def product(self, V):
        return tf.constant(self.matrix @ V.numpy())

    def dense(self):
        return tf.constant(self.matrix)


class Rosenbrock(Function):
    """sum 100 (x_i+1 - x_i^2)^2 + (1 - x_i)^2, from (-1.2, 1, -1.2, ...); 0 at ones."""

    def __init__(self, world, n):
        super().__init__(world, np.where(np.arange(n) % 2, 1.0, -1.2))

    def evaluate(self, x):
        a, b = x[1:] - x[:-1] ** 2, 1 - x[:-1]
        g = np.zeros_like(x)
        g[1:] += 200 * a
        g[:-1] -= 400 * x[:-1] * a + 2 * b
        return float(np.sum(100 * a**2 + b**2)), g

    def hessian(self, x):
        d = np.zeros_like(x)
        d[1:] += 200
        d[:-1] += 1200 * x[:-1] ** 2 - 400 * x[1:] + 2
        off = -400 * x[:-1]
        return np.diag(d) + np.diag(off, 1) + np.diag(off, -1)


class SparseRegression(Function):
    """||A x - b||^2 / 2 + weight sum s(x_i)^p: the L2-Lp problem of the DRSOM paper, smoothed.

    s(t) = |t| beyond `smooth` and t^2 / (2 smooth) + smooth / 2 within.
    """

    def __init__(self, world, n, m, p=0.5, smooth=0.1, seed=0):
        super().__init__(world, np.zeros(n))
        rng = np.random.default_rng(seed)
        self.A = rng.standard_normal((m, n)) / np.sqrt(m)
        truth = rng.standard_normal(n) * (rng.random(n) < 0.15)
        self.b = self.A @ truth + 0.01 * rng.standard_normal(m)
        self.p, self.smooth = p, smooth
        self.weight = np.abs(self.A.T @ self.b).max() / 5

    def _smoothed(self, x):
        inside = np.abs(x) <= self.smooth
        s = np.where(inside, x**2 / (2 * self.smooth) + self.smooth / 2, np.abs(x))
        return s, np.where(inside, x / self.smooth, np.sign(x)), inside / self.smooth

    def evaluate(self, x):
        r = self.A @ x - self.b
        s, d, _ = self._smoothed(x)
        value = r @ r / 2 + self.weight * np.sum(s**self.p)
        return float(value), self.A.T @ r + self.weight * self.p * s ** (self.p - 1) * d

    def hessian(self, x):
        s, d, dd = self._smoothed(x)
        p = self.p
        second = p * (p - 1) * s ** (p - 2) * d**2 + p * s ** (p - 1) * dd
        return self.A.T @ self.A + np.diag(self.weight * second)


class Saddle(Function):
    """x^4/4 - x^2/2 + y^2/2: a strict saddle at 0 (value 0), minima at (+-1, 0) (value -1/4)."""

    def evaluate(self, x):
        return float(x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2 / 2), np.array(
            [x[0] ** 3 - x[0], x[1]]
        )

    def hessian(self, x):
        return np.diag([3 * x[0] ** 2 - 1, 1.0])


class Factorisation(Function):
    """||U U^T - M||_F^2 / 4 over (n, r) U, for an M of rank r: saddles, no other minimum than 0."""

    def __init__(self, world, n, r, seed=0):
        rng = np.random.default_rng(seed)
        B = rng.standard_normal((n, r))
        self.M, self.shape = B @ B.T, (n, r)
        super().__init__(world, 0.1 * rng.standard_normal(n * r))

    def evaluate(self, x):
        U = x.reshape(self.shape)
        R = U @ U.T - self.M
        return float(np.sum(R**2) / 4), (R @ U).reshape(-1)

    def hessian(self, x):
        U = x.reshape(self.shape)
        R = U @ U.T - self.M
        columns = []
        for e in np.eye(self.n):
            V = e.reshape(self.shape)
            columns.append((R @ V + (U @ V.T + V @ U.T) @ U).reshape(-1))
        return np.array(columns)


class Cliff(Function):
    """(x^2 + y^2) / 2 where x < 3, not a number beyond."""

    psd = True

    def evaluate(self, x):
        if x[0] >= 3:
            return float("nan"), np.full(2, np.nan)
        return float(x @ x / 2), x.copy()

    def hessian(self, x):
        return np.eye(2)
