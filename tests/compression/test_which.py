"""One end of the spectrum: `which` LA and SA against SciPy's eigsh and dense eigenproblems."""

import numpy as np
import pytest
import scipy.sparse.linalg
from oracles import Sharded, error, matrix

import hesscomp as hc
from hesscomp.compression import compress, correct
from hesscomp.compression.compress import METHODS
from hesscomp.errors import InputError, OperatorError

pytestmark = pytest.mark.ranks

ENDS = "LA", "SA"
MANY = {"method": "krylov", "block": 4, "max_columns": 149}  # so that all converges


def lopsided(n: int = 150) -> np.ndarray:
    """A matrix whose negative end is weak: by |w|, 20 positive eigenvalues come before it."""
    rng = np.random.default_rng(3)
    w = np.concatenate(
        [10.0 + np.arange(20), [-1.0, -0.8, -0.6, -0.5], rng.uniform(-0.1, 0.1, n - 24)]
    )
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return (Q * w) @ Q.T


def by_scipy(A: np.ndarray, k: int, which: str) -> np.ndarray:
    """The eigenvalues of eigsh, the leading first."""
    w = np.sort(scipy.sparse.linalg.eigsh(A, k, which=which, return_eigenvectors=False))
    return w if which == "SA" else w[::-1]


def check_end(factor, A: np.ndarray, k: int, which: str, tolerance: float = 1e-8) -> None:
    scale, wanted = np.linalg.norm(A, 2), by_scipy(A, k, which)
    np.testing.assert_allclose(factor.eigenvalues, wanted, atol=tolerance * scale)
    whole = factor.in_layout(hc.MatrixOperator(A).layout)
    U, known = whole.eigenvectors, factor.certificate
    assert np.abs(U.T @ U - np.eye(k)).max() <= 1e-12
    true = np.linalg.norm(A @ U - U * factor.eigenvalues, axis=0)
    assert np.all(true <= known.residual_norms + 1e-13 * scale)
    assert known.one_end and known.eigenvalue_converged.all()
    assert factor.provenance.which == which


@pytest.mark.parametrize("layout", ["replicated", "rows"])
@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("kind", ["signed", "lopsided"])
def test_krylov_finds_either_end(world, kind, which, layout, shared_tmp):
    A = lopsided() if kind == "lopsided" else matrix("polynomial", True)
    factor = compress(Sharded(A, world, False), 4, which=which, layout=layout, **MANY)
    assert factor.provenance.method == "krylov" and factor.layout.name == layout
    check_end(factor, A, 4, which)
    whole, known = factor.in_layout(hc.MatrixOperator(A).layout), factor.certificate
    true = error(whole, A)  # which the other end dominates, and whose Ritz values are known
    assert known.frobenius_error_estimate == pytest.approx(true, rel=0.1)
    assert known.frobenius_norm_estimate == pytest.approx(np.linalg.norm(A), rel=0.1)
    F = (whole.eigenvectors * whole.eigenvalues) @ whole.eigenvectors.T
    assert np.linalg.norm(A - F, 2) <= known.spectral_error_bound
    path = shared_tmp / "end.h5"
    hc.save(factor, path)
    read = hc.load(path)
    assert read.certificate.one_end and read.provenance.which == which
    np.testing.assert_array_equal(read.eigenvalues, factor.eigenvalues)


@pytest.mark.parametrize("which", ENDS)
def test_a_restarted_basis_keeps_the_end(world, which):
    A = lopsided()
    factor = compress(
        Sharded(A, world, False), 3, which=which, **(MANY | {"max_columns": 900, "max_basis": 50})
    )
    check_end(factor, A, 3, which)


@pytest.mark.parametrize("method", ["eigh", "adaptive", "power"])
@pytest.mark.parametrize("which", ENDS)
def test_a_subspace_shows_what_it_misses_of_an_end(world, method, which):
    A = matrix("exponential", True)
    steps = {} if method == "adaptive" else {"power": 2}
    factor = compress(
        Sharded(A, world, False), 3, which=which, method=method, oversample=40, **steps
    )
    assert factor.provenance.method == method
    check_end(factor, A, 3, which)
    weak = compress(Sharded(lopsided(), world, False), 3, which="SA", method="eigh", oversample=5)
    assert not weak.certificate.eigenvalue_converged.any()
    U, w = weak.eigenvectors, weak.eigenvalues
    true = np.linalg.norm(lopsided() @ U - U * w, axis=0)
    np.testing.assert_allclose(weak.certificate.residual_norms, true, rtol=1e-8)


@pytest.mark.parametrize("which", ENDS)
def test_the_matrix_itself(world, which):
    A = matrix("polynomial", True)
    factor = compress(Sharded(A, world, False), 140, which=which)
    assert factor.provenance.method == "dense" and factor.certificate.one_end
    w = np.linalg.eigvalsh(A)
    np.testing.assert_allclose(factor.eigenvalues, w[:140] if which == "SA" else w[:-141:-1])
    assert factor.certificate.frobenius_error_estimate == pytest.approx(error(factor, A))
    whole = compress(Sharded(A, world, False), 150, which=which)
    assert not whole.certificate.one_end


def test_semidefinite_operators(world):
    A = matrix("exponential")
    H = Sharded(A, world, True)
    factor, same = compress(H, 8, which="LA"), compress(H, 8)
    assert (factor.provenance.method, factor.provenance.which) == ("nystrom", "LM")
    np.testing.assert_array_equal(factor.eigenvalues, same.eigenvalues)
    assert not factor.certificate.one_end
    with pytest.raises(OperatorError, match="not `which` SA; use method krylov"):
        compress(H, 8, which="SA", method="nystrom")
    low = compress(Sharded(np.diag(np.arange(150.0)), world, True), 4, which="SA", block=4)
    assert low.provenance.method == "krylov"
    assert not low.certificate.eigenvalue_converged.all()  # 42 columns are few, and it shows
    error = np.abs(low.eigenvalues - np.arange(4.0))
    assert np.all(error <= low.certificate.residual_norms)


def test_multiplicities_and_zeros_at_an_end(world):
    w = np.zeros(200)
    w[:3], w[3:33] = [5.0, 4.0, 3.0], -1.0
    Q = np.linalg.qr(np.random.default_rng(4).standard_normal((200, 200)))[0]
    H = Sharded((Q * w) @ Q.T, world, False)
    largest = compress(H, 6, which="LA")
    np.testing.assert_allclose(largest.eigenvalues, [5, 4, 3, 0, 0, 0], atol=1e-5)
    smallest = compress(H, 20, which="SA", block=4)  # more copies than a block is wide
    np.testing.assert_allclose(smallest.eigenvalues, -np.ones(20), atol=1e-5)


def test_what_cannot_take_an_end_is_refused(world):
    H = Sharded(matrix("polynomial", True), world, False)
    for method, kind in METHODS.items():
        if not (kind.takes_ends or kind.needs_psd):
            with pytest.raises(OperatorError, match=f"method {method} .* use method krylov"):
                compress(H, 5, which="LA", method=method)
    with pytest.raises(InputError, match="`which` SA takes a `rank`, not a `tolerance`"):
        compress(H, tolerance=0.1, which="SA")
    with pytest.raises(InputError, match="`which` must be one of LM, LA, SA, not BE"):
        compress(H, 5, which="BE")
    with pytest.raises(InputError, match="a correction takes"):
        correct(H, compress(H, 5), 5, which="LA")


def test_what_becomes_of_a_factor_of_one_end(world, caplog):
    A = lopsided()
    factor = hc.compress(Sharded(A, world, False), 4, which="SA", **MANY)
    assert "rank 4 of the smallest eigenvalues" in repr(factor)
    assert not caplog.records
    with pytest.raises(InputError, match="says nothing of the others; give `tail` a number"):
        factor.solve(np.ones(150), 1.0)
    factor.solve(np.ones(150), 1.0, tail="zero")
    assert np.linalg.eigvalsh(factor.preconditioner(0.1).to_dense()).min() > 0
    assert "of the largest" in (-1.0 * factor).extent
    cut = factor.truncate(2)
    np.testing.assert_array_equal(cut.eigenvalues, factor.eigenvalues[:2])
    true = error(cut, A)
    assert cut.certificate.frobenius_error_estimate == pytest.approx(true, rel=0.1)
    hc.compress(Sharded(A, world, False), 4, which="SA")
    assert world.rank or "4 of 4 eigenpairs have residuals above 1e-06" in caplog.text


def test_a_network(world):
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
    )
    rng = np.random.default_rng(0)
    rows = slice(world.rank, None, world.size)
    X, y = rng.standard_normal((60, 6)), rng.integers(0, 3, 60)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    H = hc.hessian(model, loss, (X[rows], y[rows]), world=world, dtype="float64")
    A = H.to_dense()
    for which in ENDS:
        found = hc.compress(H, 3, which=which, max_columns=80, block=3, method="krylov")
        check_end(found, A, 3, which, 1e-6)
