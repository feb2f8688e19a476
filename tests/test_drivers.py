"""Compression methods beyond the two basic ones, against dense eigendecompositions."""

import numpy as np
import pytest
from oracles import N, Sharded, check_factor, error, matrix

from hesscomp.compression import compress
from hesscomp.curvature.operator import MatrixOperator
from hesscomp.errors import InputError

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
    assert certificate.frobenius_norm_estimate == pytest.approx(norm, rel=0.2, abs=1e-300)
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
    assert error(factor, A) <= (1.01 if power else 1.1) * best + floor
    found, slow = np.abs(factor.eigenvalues), kind == "polynomial"
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
    for options, steps in (({}, 6), ({"power": 0}, 4), ({"max_columns": 40, "block": 10}, 4)):
        words, reductions = world.ledger.words_reduced, world.ledger.reductions
        factor = krylov(A, world, 20, residual_tolerance=1e-12, **options)
        columns = options.get("block", 16) * steps + 8
        assert factor.provenance.columns == columns and factor.provenance.passes == steps
        assert world.ledger.words_reduced - words == N * columns
        assert world.ledger.reductions - reductions == steps
        check_factor(factor, tmp_path)
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


def test_auto_takes_krylov_for_operators_of_either_sign(world):
    A = matrix("exponential", signs=True)
    assert compress(Sharded(A, world, False), 10).provenance.method == "krylov"
    A = matrix("exponential")
    assert compress(Sharded(A, world, True), 10).provenance.method == "nystrom"


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
