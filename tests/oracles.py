"""Checks that every operator and every factor must pass, and matrices with known spectra."""

import numpy as np

from hesscomp.curvature.operator import ShardedOperator
from hesscomp.factors import LowRank, load_factor, save_factor

N = 150


def spectrum(kind: str, n: int = N) -> np.ndarray:
    index = np.arange(1, n + 1)
    return {
        "polynomial": 1.0 / index,
        "exponential": 10.0 ** (-0.25 * (index - 1)),
        "flat tail": np.where(index <= 10, 11.0 - index, 1e-2),
        "low rank": np.where(index <= 5, 6.0 - index, 0.0),
        "equal": np.where(index <= 12, 1.0, 0.1 / index),
    }[kind]


def matrix(kind: str, signs: bool = False, n: int = N) -> np.ndarray:
    rng = np.random.default_rng(5)
    w = spectrum(kind, n) * (rng.choice([-1.0, 1.0], n) if signs else 1.0)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    A = (Q * w) @ Q.T
    return (A + A.T) / 2


class Sharded(ShardedOperator):
    """A sum of unequal parts, one on each rank: what a sharded Hessian is."""

    def __init__(self, dense, world, psd):
        super().__init__(len(dense), world, psd=psd)
        shares = np.arange(world.size, dtype=float)  # rank 0 holds nothing
        shares = shares / shares.sum() if world.size > 1 else np.ones(1)
        self.part = shares[world.rank] * dense

    def _local(self, V):
        return self.part @ V


def error(factor, A) -> float:
    return np.linalg.norm(A - (factor.eigenvectors * factor.eigenvalues) @ factor.eigenvectors.T)


def check_operator(operator, dense: np.ndarray, tolerance: float) -> None:
    """Compare an operator with its dense matrix: vector, block, projection, SciPy view, costs."""
    n = operator.n
    rng = np.random.default_rng(0)
    scale = np.linalg.norm(dense)

    def close(left, right):
        assert left.shape == right.shape
        assert np.linalg.norm(left - right) <= tolerance * scale * np.sqrt(n)

    assert operator.shape == dense.shape == (n, n)
    v, V, Q = rng.standard_normal(n), rng.standard_normal((n, 5)), rng.standard_normal((n, 3))
    ledger = operator.world.ledger
    columns = ledger.columns
    close(operator @ v, dense @ v)
    close(operator @ V, dense @ V)
    close(operator.project(Q, V), Q.T @ dense @ V)
    assert ledger.columns == columns + 11
    close(operator.to_scipy() @ V, dense @ V)
    close(operator.to_scipy().rmatvec(v), dense @ v)
    close(operator.to_dense(panel=3), dense)
    close(operator.shifted(0.5) @ V, dense @ V + 0.5 * V)
    close(operator.shifted(0.5).project(Q, V), Q.T @ (dense @ V + 0.5 * V))
    close((2 * operator + operator) @ V, 3 * (dense @ V))
    close((2 * operator + operator).project(Q, V), 3 * (Q.T @ dense @ V))
    assert abs(v @ (operator @ V[:, 0]) - V[:, 0] @ (operator @ v)) <= tolerance * scale * n
    if operator.psd:
        assert np.linalg.eigvalsh(dense).min() >= -tolerance * scale


def check_factor(factor: LowRank, tmp_path) -> None:
    """Check a factor's algebra against the dense matrix that it stands for, and its file."""
    n, k, U, w = factor.n, factor.rank, factor.eigenvectors, factor.eigenvalues
    assert U.shape == (n, k) and w.shape == (k,)
    assert np.all(np.diff(np.abs(w)) <= 0)
    assert np.abs(U.T @ U - np.eye(k)).max(initial=0) <= 1e-12
    F, complement = (U * w) @ U.T, np.eye(n) - U @ U.T
    rng = np.random.default_rng(1)
    B = rng.standard_normal((n, 3))
    np.testing.assert_allclose(factor @ B, F @ B, atol=1e-12 * max(np.abs(F).max(), 1e-300) * n)
    np.testing.assert_allclose(factor.to_scipy() @ B, factor @ B)
    shift = 0.1 * (np.abs(w).max(initial=0) or 1.0)
    for tail in ("last", "zero", 0.3):
        matrix = F + shift * np.eye(n) + factor.tail_value(tail) * complement
        expected = np.linalg.solve(matrix, B)
        np.testing.assert_allclose(factor.solve(B, shift, tail), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            factor.solve(B[:, 0], shift, tail), expected[:, 0], rtol=1e-9, atol=1e-9
        )
    M = factor.preconditioner(shift) @ np.eye(n)
    assert np.linalg.eigvalsh((M + M.T) / 2).min() > 0
    path = tmp_path / "factor.h5"
    save_factor(factor, path)
    loaded = load_factor(path)
    np.testing.assert_array_equal(loaded.eigenvalues, w)
    np.testing.assert_array_equal(loaded.eigenvectors, U)
    assert vars(loaded.provenance).keys() == vars(factor.provenance).keys()
    for name, value in vars(factor.provenance).items():
        np.testing.assert_equal(getattr(loaded.provenance, name), value)
    assert loaded.blocks == factor.blocks
    np.testing.assert_equal(loaded.parameters, factor.parameters)
    np.testing.assert_equal(vars(loaded.certificate), vars(factor.certificate))
