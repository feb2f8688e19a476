"""The two checks that every operator and every factor must pass, against dense matrices."""

import numpy as np

from hesscomp.factors import LowRank, load_factor, save_factor


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
