"""Compression methods beyond the two basic ones, against dense eigendecompositions."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from oracles import N, Sharded, check_low_rank, check_operator, error, matrix

from hesscomp.compression import compress
from hesscomp.compression.compress import METHODS
from hesscomp.compression.correction import correct
from hesscomp.compression.generalized import generalized_eigen
from hesscomp.compression.options import SketchOptions
from hesscomp.compression.streaming import StreamingSketch
from hesscomp.curvature.whitened import Whitened
from hesscomp.errors import InputError, OperatorError
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.parallel.layout import Replicated
from hesscomp.sketching.test_matrices import draw

pytestmark = pytest.mark.ranks
FAMILIES = ["polynomial", "exponential", "flat tail", "low rank", "equal"]


def exact(A, rank):
    """Leading eigenvalues by magnitude, and the error of the best factor of that rank."""
    w = np.linalg.eigvalsh(A)
    w = w[np.argsort(-np.abs(w))]
    return w[:rank], np.sqrt(np.sum(w[rank:] ** 2))


def check_certificate(factor, A):
    true, floor = error(factor, A), 1e-12 * np.linalg.norm(A)
    certificate = factor.certificate
    if true > floor:
        assert 0.5 <= certificate.frobenius_error_estimate / true <= 3
    norm = np.linalg.norm(A)
    assert certificate.frobenius_norm_estimate == pytest.approx(norm, rel=0.3, abs=1e-300)
    if not np.isnan(certificate.spectral_error_bound):
        dense = (factor.eigenvectors * factor.eigenvalues) @ factor.eigenvectors.T
        assert np.linalg.norm(A - dense, 2) <= certificate.spectral_error_bound + floor


def krylov(A, world, rank, **options):
    return compress(Sharded(A, world, False), rank, method="krylov", **options)


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("power", [0, 2])
def test_krylov(world, kind, signs, power):
    A = matrix(kind, signs)
    factor = krylov(A, world, 20, power=power)
    w, best = exact(A, 20)
    floor = 1e-13 * np.linalg.norm(A)
    assert error(factor, A) <= (1.01 if power else 1.2) * best + floor
    found, slow = np.abs(factor.eigenvalues), kind in ("polynomial", "equal")
    if power:
        np.testing.assert_allclose(found, np.abs(w), rtol=1e-4 if slow else 1e-6, atol=floor)
    U, certificate = factor.eigenvectors, factor.certificate
    residuals = np.linalg.norm(A @ U - U * factor.eigenvalues, axis=0)
    np.testing.assert_allclose(certificate.residual_norms, residuals, rtol=1e-3, atol=floor)
    converged = certificate.residual_norms <= 1e-6 * found[0]
    np.testing.assert_array_equal(certificate.eigenvalue_converged, converged)
    check_certificate(factor, A)


def test_krylov_costs_what_it_says(world, tmp_path):
    A = matrix("polynomial")
    for options, steps in (({}, 5), ({"power": 0}, 3), ({"max_columns": 40, "block": 10}, 4)):
        words, reductions = world.ledger.words_reduced, world.ledger.reductions
        factor = krylov(A, world, 20, residual_tolerance=1e-12, **options)
        columns = options.get("block", 16) * steps + 8
        assert factor.provenance.columns == columns and factor.provenance.passes == steps
        assert world.ledger.words_reduced - words == N * columns
        assert world.ledger.reductions - reductions == steps
        check_low_rank(factor, tmp_path)
        assert not factor.certificate.eigenvalue_converged.all()
    early = krylov(matrix("exponential", True), world, 20)
    assert early.certificate.eigenvalue_converged.all()
    assert early.provenance.columns == 3 * 16 + 8


@pytest.mark.parametrize("kind", FAMILIES)
def test_krylov_restarts(world, kind):
    A = matrix(kind, signs=True)
    request = {"max_basis": 62, "max_columns": 2000, "residual_tolerance": 1e-10}
    factor = krylov(A, world, 20, **request)
    w, _ = exact(A, 20)
    np.testing.assert_allclose(np.abs(factor.eigenvalues), np.abs(w), rtol=1e-8, atol=1e-13)
    assert factor.certificate.eigenvalue_converged.all()
    U = factor.eigenvectors
    assert np.abs(U.T @ U - np.eye(20)).max() <= 1e-12
    residuals = np.linalg.norm(A @ U - U * factor.eigenvalues, axis=0)
    reported = factor.certificate.residual_norms
    assert np.all(residuals <= reported + 1e-13) and np.all(reported <= 1e-10 * abs(w[0]))
    if kind == "polynomial":
        assert factor.provenance.columns > 150  # it did restart
    check_certificate(factor, A)


@pytest.mark.serial
@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-6])
@pytest.mark.parametrize("kind", ["exponential", "polynomial"])
def test_krylov_to_a_tolerance(world, kind, tolerance):
    A = matrix(kind, signs=True)
    factor = compress(Sharded(A, world, False), tolerance=tolerance, method="krylov")
    assert factor.certificate.converged
    assert error(factor, A) <= 1.5 * tolerance * np.linalg.norm(A)
    if kind == "exponential":
        smallest = next(k for k in range(N) if exact(A, k)[1] <= tolerance * np.linalg.norm(A))
        assert smallest - 1 <= factor.rank <= smallest + 3
    limited = compress(
        Sharded(A, world, False), tolerance=1e-9, method="krylov", max_rank=12, power=0
    )
    assert not limited.certificate.converged and limited.rank == 12


def test_auto_takes_krylov_for_either_sign_and_for_accuracy(world):
    A = matrix("exponential", signs=True)
    assert compress(Sharded(A, world, False), 10).provenance.method == "krylov"
    H = Sharded(matrix("exponential"), world, True)
    assert compress(H, 10).provenance.method == "nystrom"
    for option in ({"power": 2}, {"max_columns": 40}, {"block": 5}, {"max_basis": 40}):
        assert compress(H, 10, **option).provenance.method == "krylov"


def test_krylov_on_degenerate_operators(world):
    zero = krylov(np.zeros((N, N)), world, 20)
    assert np.all(zero.eigenvalues == 0) and zero.certificate.frobenius_error_estimate == 0
    assert zero.certificate.eigenvalue_converged.all()
    identity = krylov(np.eye(N), world, 20)
    np.testing.assert_allclose(identity.eigenvalues, 1, rtol=1e-14)
    negative = krylov(-matrix("polynomial"), world, 10)
    assert np.all(negative.eigenvalues < 0)
    for n in (1, 2, 5, 17, 33):
        A = matrix("polynomial", signs=True, n=n)
        for rank in (1, n, 3 * n):
            factor = krylov(A, world, rank, oversample=0, max_columns=n)
            assert factor.rank == min(rank, n)
            check_certificate(factor, A)
    narrow = krylov(matrix("polynomial", True, 33), world, 3, oversample=5, max_columns=200)
    assert narrow.certificate.eigenvalue_converged.all()
    for bad in ({"block": 0}, {"max_basis": 0}, {"max_columns": 0}, {"residual_tolerance": 0.0}):
        with pytest.raises(InputError):
            krylov(np.eye(3), world, 1, **bad)


def test_krylov_finds_clusters_as_wide_as_its_block(world):
    w = np.r_[np.full(16, 1.0), np.full(14, -1.0), np.linspace(0.5, 0.01, N - 30)]
    Q = np.linalg.qr(np.random.default_rng(2).standard_normal((N, N)))[0]
    A = (Q * w) @ Q.T
    factor = krylov((A + A.T) / 2, world, 30)
    np.testing.assert_allclose(np.abs(factor.eigenvalues), 1, rtol=1e-6)


def test_krylov_is_the_same_on_any_number_of_ranks(world):
    A = matrix("exponential", signs=True)
    spread, alone = krylov(A, world, 8), compress(MatrixOperator(A), 8, method="krylov")
    np.testing.assert_allclose(spread.eigenvalues, alone.eigenvalues, rtol=1e-9)
    np.testing.assert_allclose(spread.eigenvectors, alone.eigenvectors, atol=1e-7)


def costs(method, q, n=N, l=16, r=8):
    """Product columns, block products and words reduced for l columns, power q and r probes."""
    return {
        "eigh": ((2 + q) * l + r, 2 + q, n * ((1 + q) * l + r) + l * l),
        "power": ((2 + q) * l + r, 2 + q, n * ((1 + q) * l + r) + l * l),
        "svd": ((2 + q) * l + (r if q else 0), 2 + q, n * ((2 + q) * l + (r if q else 0))),
        "row-eigh": ((2 + q) * l + r, 2 + q, n * ((1 + q) * l + r) + l * l),
        "row-svd": ((2 + q) * l + r, 2 + q, n * ((2 + q) * l + r)),
        "nystrom-range": ((2 + q) * l + r, 2 + q, n * ((2 + q) * l + r)),
        "one-pass": (l + r, 1, n * (l + r)),
        "nystrom-indefinite": ((1 + q) * l + r, 1 + q, n * ((1 + q) * l + r)),
    }[method]


# The largest error over the best factor's, without and with two power steps.
BOUNDS = {
    "svd": (1.6, 1.02), "row-eigh": (12, 8), "row-svd": (2.5, 1.5), "power": (2.5, 1.05),
    "one-pass": (8, 8), "nystrom-range": (1.2, 1.02),
    "nystrom-indefinite": (8, 1.5),
}  # fmt: skip
DRIVERS = sorted(BOUNDS)


FITTING = [
    (method, signs)
    for method in DRIVERS
    for signs in (False, True)
    if not (signs and METHODS[method].needs_psd)
]


@pytest.mark.parametrize("power", [0, 2])
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("method, signs", FITTING)
def test_driver(world, method, kind, power, signs):
    A = matrix(kind, signs)
    request = {"method": method, "power": power}
    factor = compress(Sharded(A, world, not signs), 20, **request)
    assert (factor.rank, factor.provenance.method) == (20, method)
    U = factor.eigenvectors
    assert np.abs(U.T @ U - np.eye(20)).max() <= 1e-12
    # Powers that are not orthonormalised lose what lies below eps^(1/3) of the largest.
    floor = (1e-4 if method == "power" and power else 1e-11) * np.linalg.norm(A)
    assert error(factor, A) <= BOUNDS[method][power > 0] * exact(A, 20)[1] + floor
    check_certificate(factor, A)


@pytest.mark.parametrize("power", [0, 1])
@pytest.mark.parametrize("method", DRIVERS)
def test_driver_costs_and_factors(world, method, power, tmp_path):
    A = Sharded(matrix("polynomial"), world, True)
    words = world.ledger.words_reduced
    factor = compress(A, 10, method=method, power=power, oversample=6)
    check_low_rank(factor, tmp_path)
    columns, passes, expected = costs(method, power)
    assert (factor.provenance.columns, factor.provenance.passes) == (columns, passes)
    assert factor.provenance.words_reduced == expected == world.ledger.words_reduced - words
    sketch = METHODS[method](A, SketchOptions(power=power, rank=10, oversample=6))
    assert sketch.columns(16) == columns


@pytest.mark.parametrize("method", DRIVERS)
def test_driver_on_degenerate_operators(world, method):
    psd = METHODS[method].needs_psd
    zero = compress(Sharded(np.zeros((N, N)), world, psd), 5, method=method)
    assert np.all(zero.eigenvalues == 0) and zero.certificate.frobenius_error_estimate == 0
    tiny = compress(Sharded(np.array([[3.0]]), world, psd), 5, method=method)
    assert (tiny.n, tiny.rank) == (1, 1) and tiny.eigenvalues[0] == pytest.approx(3)
    for rank in (30, 45):
        A = matrix("polynomial", n=40)
        factor = compress(Sharded(A, world, psd), rank, method=method, oversample=2)
        assert factor.rank == min(rank, 40)
        check_certificate(factor, A)
    if not psd:
        negative = compress(Sharded(-matrix("exponential"), world, False), 10, method=method)
        assert np.all(negative.eigenvalues < 0)


@pytest.mark.parametrize("method", DRIVERS)
def test_driver_is_the_same_on_any_number_of_ranks(world, method):
    A = matrix("exponential")
    spread = compress(Sharded(A, world, True), 8, method=method, power=1)
    alone = compress(MatrixOperator(A, psd=True), 8, method=method, power=1)
    np.testing.assert_allclose(spread.eigenvalues, alone.eigenvalues, rtol=1e-8)
    np.testing.assert_allclose(spread.eigenvectors, alone.eigenvectors, atol=1e-6)


@pytest.mark.parametrize("tolerance", [0.3, 1e-2])
@pytest.mark.parametrize("method", DRIVERS)
def test_driver_to_a_tolerance(world, method, tolerance):
    A = matrix("exponential")
    for power in (0, 1):
        factor = compress(Sharded(A, world, True), tolerance=tolerance, method=method, power=power)
        assert factor.certificate.converged
        assert error(factor, A) <= 2 * tolerance * np.linalg.norm(A)


@pytest.mark.serial
def test_methods_that_do_not_fit_are_refused_with_an_alternative(world):
    A = Sharded(matrix("polynomial", signs=True), world, False)
    for method in (name for name in METHODS if METHODS[name].needs_psd):
        with pytest.raises(OperatorError, match=f"{method} needs.*use method krylov or eigh"):
            compress(A, 5, method=method)
    with pytest.raises(InputError, match="test_matrix"):
        compress(A, 5, test_matrix="hadamard")


@pytest.mark.parametrize("kind", ["srtt", "sparse-sign"])
def test_test_matrices(kind):
    n, layout = 9000, Replicated(9000)  # more than one block of the generator
    Omega = draw(kind, layout, 0, 70, 3)
    np.testing.assert_array_equal(draw(kind, layout, 20, 41, 3), Omega[:, 20:41])
    assert np.abs(draw(kind, layout, 0, 70, 4) - Omega).max() > 1
    np.testing.assert_allclose(np.mean(Omega**2), 1, atol=0.02)
    assert np.linalg.cond(Omega) < (1 + 1e-10 if kind == "srtt" else 1.3)
    if kind == "srtt":
        np.testing.assert_allclose(Omega.T @ Omega / n, np.eye(70), atol=1e-12)
        whole = draw(kind, Replicated(33), 0, 33, 0)
        np.testing.assert_allclose(whole @ whole.T / 33, np.eye(33), atol=1e-13)
        with pytest.raises(InputError, match="no column 33"):
            draw(kind, Replicated(33), 0, 34, 0)
    else:
        assert set(np.unique(Omega)) == {-2.0, 0.0, 2.0}
        np.testing.assert_array_equal(np.count_nonzero(Omega[:, :32], axis=1), 8)


@pytest.mark.parametrize("test_matrix", ["srtt", "sparse-sign"])
@pytest.mark.parametrize("method", ["krylov", "eigh", "nystrom", "svd", "one-pass"])
def test_sketches_with_other_test_matrices(world, method, test_matrix):
    request = {"method": method, "test_matrix": test_matrix}
    for kind in ("polynomial", "exponential", "flat tail"):
        A = matrix(kind)
        factor = compress(Sharded(A, world, True), 20, power=0, **request)
        assert factor.certificate.estimator == "probes"
        assert error(factor, A) <= 6 * exact(A, 20)[1]
        check_certificate(factor, A)
    A = matrix("exponential")
    factor = compress(Sharded(A, world, True), tolerance=1e-2, **request)
    assert factor.certificate.converged
    assert error(factor, A) <= 2e-2 * np.linalg.norm(A)


def test_a_correction_adds_what_the_known_factor_misses(world):
    A = matrix("polynomial", signs=True)
    H = Sharded(A, world, False)
    known = compress(H, 10, power=2)
    factor = correct(H, known, 10, power=2)
    assert factor.rank == 20
    assert error(factor, A) <= 1.02 * exact(A, 20)[1]
    np.testing.assert_allclose(np.abs(factor.eigenvalues), np.abs(exact(A, 20)[0]), rtol=1e-2)
    check_certificate(factor, A)
    rng = np.random.default_rng(1)
    drift = np.outer(v := rng.standard_normal(N) / N**0.5, v)
    moved = correct(Sharded(A + drift, world, False), known, 14, power=2)
    assert error(moved, A + drift) <= 1.2 * exact(A + drift, 20)[1]
    check_certificate(moved, A + drift)
    wide = correct(Sharded(A[:12, :12], world, False), compress(MatrixOperator(A[:12, :12]), 8), 8)
    assert wide.rank == 12 and error(wide, A[:12, :12]) <= 1e-12
    with pytest.raises(InputError, match="does not fit"):
        correct(MatrixOperator(np.eye(3)), known, 1)
    with pytest.raises(InputError, match="not a tolerance"):
        correct(H, known, 1, tolerance=0.1)


def test_a_streaming_sketch_adds_up(world):
    A, B = matrix("exponential", signs=True), matrix("low rank")
    sketch = StreamingSketch(N, columns=40)
    with pytest.raises(InputError, match="no operator"):
        sketch.factor(5)
    for piece in (0.25 * A, 0.75 * A, B):
        sketch.update(Sharded(piece, world, False))
    factor = sketch.factor(15)
    assert error(factor, A + B) <= 5 * exact(A + B, 15)[1]
    check_certificate(factor, A + B)
    assert (factor.provenance.columns, factor.provenance.passes) == (3 * 48, 3)
    sketch.update(Sharded(A, world, False), weight=1.0, keep=0.0)
    assert error(sketch.factor(15), A) <= 5 * exact(A, 15)[1]
    for bad in (0, 41):
        with pytest.raises(InputError, match="rank"):
            sketch.factor(bad)
    with pytest.raises(InputError, match="n = 3"):
        sketch.update(MatrixOperator(np.eye(3)))
    with pytest.raises(InputError, match="columns"):
        StreamingSketch(5, 6)


@pytest.mark.parametrize("diagonal", [False, True])
def test_generalized_eigenproblem(world, diagonal):
    rng = np.random.default_rng(4)
    A = matrix("exponential", signs=True)
    G = rng.standard_normal((N, N))
    B = np.diag(np.linspace(0.5, 3, N)) if diagonal else G @ G.T / N + np.eye(N)
    H = Sharded(A, world, False)
    given = np.diagonal(B) if diagonal else B
    check_operator(
        Whitened(H, given),
        np.linalg.solve(L := np.linalg.cholesky(B), A) @ np.linalg.inv(L).T,
        1e-12,
    )
    found = generalized_eigen(H, given, 12)
    w = scipy.linalg.eigh(A, B, eigvals_only=True)
    w = w[np.argsort(-np.abs(w))][:12]
    np.testing.assert_allclose(found.eigenvalues, w, rtol=1e-6)
    U = found.eigenvectors
    np.testing.assert_allclose(U.T @ B @ U, np.eye(12), atol=1e-11)
    assert np.linalg.norm(A @ U - B @ U * found.eigenvalues) <= 1e-5
    assert found.whitened.certificate.eigenvalue_converged.all()
    again = generalized_eigen(H, scipy.sparse.csr_array(B), 12).eigenvalues
    np.testing.assert_array_equal(again, found.eigenvalues)
    for bad in (-given, given[:5], np.full_like(given, np.nan)):
        with pytest.raises(InputError, match="B "):
            generalized_eigen(H, bad, 3)


class Noisy(Sharded):
    """Products that are rounded to float32, as a TensorFlow Hessian's are."""

    def __init__(self, dense, world):
        super().__init__(dense, world, False)
        self.dtype = np.dtype("float32")

    def block_product(self, V):
        return self.world.sum((self.part @ V).astype(np.float32)).astype(np.float64)

    def _project(self, Q, V):
        return Q.T @ self.block_product(V)


@pytest.mark.parametrize("kind", ["polynomial", "exponential", "low rank", "equal"])
def test_float32_products(world, kind):
    A = matrix(kind, signs=True)
    w, best = exact(A, 20)
    for method in ("krylov", "eigh", "svd"):
        factor = compress(Noisy(A, world), 20, method=method, power=2)
        assert np.abs(factor.eigenvectors.T @ factor.eigenvectors - np.eye(20)).max() <= 1e-12
        assert error(factor, A) <= 1.05 * best + 1e-5 * abs(w[0])
    restarted = compress(
        Noisy(A, world), 20, method="krylov", max_basis=62, max_columns=800, residual_tolerance=1e-5
    )
    U = restarted.eigenvectors
    assert restarted.certificate.eigenvalue_converged.all()
    assert np.linalg.norm(A @ U - U * restarted.eigenvalues, axis=0).max() <= 2e-5 * abs(w[0])


def test_krylov_restarts_survive_what_locked_pairs_had_hidden(world):
    w = np.r_[np.full(9, 1.0), np.linspace(0.5, 0.01, N - 9)]
    Q = np.linalg.qr(np.random.default_rng(2).standard_normal((N, N)))[0]
    A = (Q * w) @ Q.T
    request = {"oversample": 0, "block": 2, "max_basis": 10, "max_columns": 1500}
    factor = krylov((A + A.T) / 2, world, 6, residual_tolerance=1e-14, **request)
    np.testing.assert_allclose(factor.eigenvalues, 1, rtol=1e-10)
    check_certificate(factor, A)


@pytest.mark.serial
@pytest.mark.parametrize(("copies", "k"), [(17, 20), (20, 20), (24, 24), (30, 20), (40, 60)])
@pytest.mark.parametrize("decay", ["slow", "fast", "far"])
def test_krylov_finds_clusters_wider_than_its_block(world, copies, k, decay):
    places = np.arange(1, 401 - copies)
    rest = {"slow": 0.5 / places, "fast": 0.5 * 0.9**places, "far": 0.1 / places}[decay]
    w = np.r_[np.ones(copies), rest]
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((400, 400)))[0]
    A = (Q * w) @ Q.T
    A = (A + A.T) / 2
    for options in ({}, {"max_basis": k + 10}):  # without and with restarts
        factor = compress(Sharded(A, world, False), k, method="krylov", **options)
        assert error(factor, A) <= 1.01 * np.sqrt(np.sum(w[k:] ** 2))
        assert factor.provenance.columns <= 400 + 8


@pytest.mark.serial
def test_krylov_takes_the_columns_that_its_residuals_ask_for(world):
    """With room in `max_columns`: the default's limit ends before slow decay is resolved."""
    w = np.arange(1.0, 401) ** -0.5
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((400, 400)))[0]
    A = (Q * w) @ Q.T
    H, errors = Sharded((A + A.T) / 2, world, False), []
    for most in (None, 400):
        factor = compress(H, 30, method="krylov", residual_tolerance=1e-4, max_columns=most)
        found, columns = factor.eigenvalues, factor.provenance.columns
        errors.append(np.abs(found / w[:30] - 1).max())
    assert errors[0] > 1e-3 and errors[1] < 1e-6 and columns < 400
    assert factor.certificate.residual_norms.max() <= 1e-4 * found[0]
