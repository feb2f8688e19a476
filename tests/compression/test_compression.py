"""Compression against dense eigendecompositions, and its certificates against the truth."""

import numpy as np
import pytest
from oracles import N, Sharded, check_low_rank, check_operator, error, matrix, spectrum

from hesscomp.compression import compress
from hesscomp.errors import InputError, NumericalError, OperatorError
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.parallel.layout import Replicated
from hesscomp.sketching.orthonormalize import orthonormalize

pytestmark = pytest.mark.ranks(most=4)


def test_operators(world):
    check_operator(
        MatrixOperator(matrix("polynomial", True), world), matrix("polynomial", True), 1e-12
    )
    check_operator(Sharded(matrix("polynomial"), world, True), matrix("polynomial"), 1e-12)
    with pytest.raises(InputError, match="n = 150 does not fit"):
        MatrixOperator(matrix("equal")) @ np.zeros(3)


@pytest.mark.parametrize("method, signs", [("eigh", False), ("eigh", True), ("nystrom", False)])
@pytest.mark.parametrize("kind", ["polynomial", "exponential", "flat tail", "low rank", "equal"])
@pytest.mark.parametrize("power", [0, 2])
def test_fixed_rank(world, method, signs, kind, power):
    A = matrix(kind, signs)
    factor = compress(Sharded(A, world, not signs), 20, method=method, power=power)
    assert (factor.rank, factor.provenance.method) == (20, method)
    assert np.abs(factor.eigenvectors.T @ factor.eigenvectors - np.eye(20)).max() <= 1e-12
    w = np.linalg.eigvalsh(A)
    w = w[np.argsort(-np.abs(w))]
    best = np.sqrt(np.sum(w[20:] ** 2))
    true = error(factor, A)
    floor = 1e-13 * np.linalg.norm(A)
    assert true <= (1.05 if power else 3.5) * best + floor
    if power:
        found, slow = np.abs(factor.eigenvalues[:5]), kind == "polynomial"
        np.testing.assert_allclose(found, np.abs(w[:5]), rtol=1e-3 if slow else 1e-6)
    certificate = factor.certificate
    if true > 10 * floor:
        assert 0.5 <= certificate.frobenius_error_estimate / true <= 3
    assert abs(certificate.frobenius_norm_estimate / np.linalg.norm(A) - 1) < 0.2
    if method == "eigh" or power:
        dense = (factor.eigenvectors * factor.eigenvalues) @ factor.eigenvectors.T
        assert np.linalg.norm(A - dense, 2) <= certificate.spectral_error_bound + floor


@pytest.mark.parametrize("method", ["eigh", "nystrom"])
@pytest.mark.parametrize("power", [0, 1])
def test_factors_and_costs(world, method, power, tmp_path):
    A = Sharded(matrix("polynomial"), world, True)
    reductions, words = world.ledger.reductions, world.ledger.words_reduced
    factor = compress(A, 10, method=method, power=power, oversample=6)
    check_low_rank(factor, tmp_path)
    l, r = 16, 8
    if method == "eigh":
        columns, expected = (2 + power) * l + r, N * ((1 + power) * l + r) + l * l
    else:
        probes = r if power else 0
        columns, expected = (1 + power) * l + probes, N * ((1 + power) * l + probes)
    assert factor.provenance.columns == columns
    assert factor.provenance.words_reduced == expected == world.ledger.words_reduced - words
    assert world.ledger.reductions - reductions == (2 if method == "eigh" else 1) + power


@pytest.mark.parametrize("method", ["eigh", "nystrom"])
def test_the_same_factor_on_any_number_of_ranks(world, method):
    A = matrix("exponential")
    spread = compress(Sharded(A, world, True), 8, method=method, power=1)
    alone = compress(MatrixOperator(A, psd=True), 8, method=method, power=1)
    np.testing.assert_allclose(spread.eigenvalues, alone.eigenvalues, rtol=1e-10)
    np.testing.assert_allclose(spread.eigenvectors, alone.eigenvectors, atol=1e-9)


@pytest.mark.parametrize(
    "method, power", [("eigh", 0), ("eigh", 1), ("nystrom", 0), ("nystrom", 1)]
)
@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-6])
def test_tolerance(world, method, power, tolerance):
    A = matrix("exponential")
    factor = compress(Sharded(A, world, True), tolerance=tolerance, method=method, power=power)
    assert factor.certificate.converged
    assert error(factor, A) <= 1.5 * tolerance * np.linalg.norm(A)
    w = np.sort(np.linalg.eigvalsh(A))[::-1]
    tails = np.sqrt(np.cumsum(w[::-1] ** 2)[::-1])
    smallest = int(np.argmax(tails <= tolerance * np.linalg.norm(A)))
    assert smallest - 1 <= factor.rank <= smallest + 3


@pytest.mark.parametrize("method", ["auto", "svd", "nystrom-range", "one-pass"])
@pytest.mark.parametrize("power", [0, 1])
def test_a_tolerance_is_met_by_what_is_returned(world, method, power):
    """Judged after the cut: what is cut off may lie along what the sketch had missed."""
    n = 200
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    A = (Q * np.arange(1.0, n + 1) ** -1.5) @ Q.T
    H = Sharded((A + A.T) / 2, world, True)
    for seed in range(4):
        factor = compress(H, tolerance=2e-2, method=method, power=power, seed=seed)
        assert factor.certificate.converged and factor.rank < n
        assert factor.certificate.relative_error <= 2e-2
        assert error(factor, A) <= 1.1 * 2e-2 * np.linalg.norm(A)


def test_tolerance_out_of_reach_is_said(world):
    A = Sharded(matrix("polynomial"), world, True)
    factor = compress(A, tolerance=1e-3, max_rank=12)
    assert not factor.certificate.converged
    assert factor.rank == 12
    whole = compress(A, tolerance=1e-3)
    assert whole.certificate.converged and whole.certificate.relative_error <= 1e-3


def test_spectral_tolerance(world):
    A = matrix("exponential", signs=True)
    factor = compress(Sharded(A, world, False), tolerance=1e-2, tolerance_norm="spectral")
    dense = (factor.eigenvectors * factor.eigenvalues) @ factor.eigenvectors.T
    assert factor.certificate.converged and factor.rank < N
    assert np.linalg.norm(A - dense, 2) <= factor.certificate.spectral_error_bound
    assert factor.certificate.spectral_error_bound <= 1e-2 * np.linalg.norm(A, 2)
    least = np.sum(np.abs(np.linalg.eigvalsh(A)) > 1e-2 * np.linalg.norm(A, 2))
    assert least <= factor.rank <= 2 * least
    own = compress(  # whose sketch brings no probes
        Sharded(matrix("exponential"), world, False),
        tolerance=1e-2, tolerance_norm="spectral", method="svd", power=0,
    )  # fmt: skip
    assert own.certificate.converged and own.certificate.spectral_failure == 1e-8


def test_a_wide_request_assembles_the_matrix(world):
    A = matrix("polynomial", signs=True)
    for request in ({"rank": N}, {"rank": 10 * N}, {"rank": N - 5, "method": "eigh"}):
        factor = compress(Sharded(A, world, False), **request)
        assert factor.provenance.method == "dense" and factor.certificate.estimator == "exact"
        assert error(factor, A) <= factor.certificate.frobenius_error_estimate + 1e-12


@pytest.mark.parametrize("method", ["eigh", "nystrom", "auto"])
def test_degenerate_operators(world, method, tmp_path):
    zero = compress(Sharded(np.zeros((N, N)), world, True), 5, method=method)
    assert np.all(zero.eigenvalues == 0) and zero.certificate.frobenius_error_estimate == 0
    tiny = compress(Sharded(np.array([[3.0]]), world, True), 5, method=method)
    assert (tiny.n, tiny.rank) == (1, 1) and tiny.eigenvalues[0] == pytest.approx(3)
    negative = compress(Sharded(-matrix("polynomial"), world, False), 10, method="eigh")
    assert np.all(negative.eigenvalues < 0)


def test_requests_that_make_no_sense_are_refused(world):
    A = Sharded(matrix("polynomial", signs=True), world, False)
    with pytest.raises(OperatorError, match="use method krylov or eigh"):
        compress(A, 5, method="nystrom")
    for bad in (
        {}, {"rank": 5, "tolerance": 0.1}, {"rank": 0}, {"tolerance": 0.0}, {"tolerance": 2.0},
        {"rank": 5, "method": "magic"}, {"rank": 5, "power": -1}, {"rank": 5, "oversample": -1},
        {"rank": 5, "seed": -1}, {"tolerance": 0.1, "tolerance_norm": "nuclear"},
    ):  # fmt: skip
        with pytest.raises(InputError):
            compress(A, **bad)


def test_a_negative_nystrom_core_falls_back_and_says_so(world, caplog):
    A = matrix("flat tail", signs=True)
    factor = compress(Sharded(A, world, True), 20, method="nystrom", power=1)
    assert factor.provenance.method == "eigh"
    assert "continuing with method eigh" in caplog.text
    assert error(factor, A) <= 1.2 * np.sqrt(np.sum(np.sort(spectrum("flat tail"))[:-20] ** 2))


@pytest.mark.parametrize("method", ["eigh", "nystrom", "auto"])
def test_products_that_are_not_finite_are_an_error(world, method):
    A = matrix("polynomial")
    A[3, 5] = A[5, 3] = np.nan
    with pytest.raises(NumericalError, match="not finite"):
        compress(Sharded(A, world, True), 10, method=method)


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e12, np.inf])
def test_orthonormalize(world, condition):
    rng = np.random.default_rng(0)
    U, V = (
        np.linalg.qr(rng.standard_normal((80, 9)))[0],
        np.linalg.qr(rng.standard_normal((9, 9)))[0],
    )
    s = np.geomspace(1, 1 / condition, 9) if np.isfinite(condition) else np.r_[1.0, np.zeros(8)]
    Y, layout = (U * s) @ V.T, Replicated(80, world)
    Q = orthonormalize(Y, layout)
    assert np.abs(Q.T @ Q - np.eye(9)).max() <= 1e-13
    assert np.linalg.norm(Y - Q @ (Q.T @ Y)) <= 1e-13
    basis = np.linalg.qr(rng.standard_normal((80, 20)))[0]
    for block in (Y, basis[:, :9]):  # also a block that lies within the basis
        Q = orthonormalize(block, layout, against=basis)
        assert np.abs(Q.T @ Q - np.eye(9)).max() <= 1e-12
        assert np.abs(basis.T @ Q).max() <= 1e-12
