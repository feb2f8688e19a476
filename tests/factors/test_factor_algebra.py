"""The algebra of factors beyond what every factor is checked on (oracles.check_factor)."""

import dataclasses

import numpy as np
import pytest
import scipy.linalg
from oracles import dense, error, matrix

from hesscomp.dense import sorted_eigh
from hesscomp.errors import InputError
from hesscomp.factors import Certificate, LowRank, Provenance, compare
from hesscomp.factors.basis import complete
from hesscomp.parallel.layout import Replicated


def exact_factor(H: np.ndarray, k: int, **provenance) -> LowRank:
    """The k leading eigenpairs of H with the true errors as certificate."""
    w, *S = sorted_eigh(H)
    U, rest = np.array(S), w[k:]
    certificate = Certificate(
        frobenius_error_estimate=float(np.linalg.norm(rest)),
        frobenius_norm_estimate=float(np.linalg.norm(w)),
        spectral_error_bound=float(np.abs(rest).max(initial=0)),
        estimator="exact",
        residual_norms=np.arange(1.0, k + 1),
        eigenvalue_converged=np.arange(k) % 2 == 0,
        spectral_failure=0.0,
        ritz=True,
    )
    return LowRank(
        w[:k],
        np.ascontiguousarray(U[:, :k]),
        certificate=certificate,
        provenance=Provenance(**provenance),
    )


def factor_of(w, n: int, seed: int = 0) -> LowRank:
    w = np.asarray(w, dtype=float)
    U = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, len(w))))[0]
    return LowRank(
        w, U, certificate=Certificate(0.1, 4.0), provenance=Provenance(method="eigh", ridge=1e-3)
    )


# Bases


@pytest.mark.parametrize("n, k, m", [(60, 7, 9), (12, 5, 9), (5, 0, 5), (6, 6, 2), (6, 2, 0)])
@pytest.mark.parametrize("smallest", [1e-2, 1e-8, 1e-13, 0.0])
def test_complete_spans_ill_conditioned_blocks(n, k, m, smallest):
    rng = np.random.default_rng(n)
    U = np.linalg.qr(rng.standard_normal((n, k)))[0]
    B = rng.standard_normal((n, m)) @ (
        np.geomspace(1, smallest or 1e-20, m)[:, None]
        * np.linalg.qr(rng.standard_normal((m, m)))[0]
    )
    Q = complete(U, B, Replicated(len(U)))
    joint = np.hstack([U, Q])
    assert joint.shape[1] <= min(n, k + m)
    assert np.abs(joint.T @ joint - np.eye(joint.shape[1])).max(initial=0) <= 1e-14 * n
    assert np.linalg.norm(B - joint @ (joint.T @ B)) <= 1e-13 * np.linalg.norm(B)


def test_complete_adds_nothing_for_columns_inside():
    U = np.linalg.qr(np.random.default_rng(0).standard_normal((30, 4)))[0]
    B = U @ np.random.default_rng(1).standard_normal((4, 6))
    assert complete(U, B, Replicated(len(U))).shape == (30, 0)


@pytest.mark.parametrize("k", [5, 20, 30])
def test_factors_stored_in_single_precision_can_be_added(k):
    factor = factor_of(np.linspace(3, 1, k), 30)
    rounded = factor.eigenvectors.astype(np.float32).astype(np.float64)
    single, other = dataclasses.replace(factor, eigenvectors=rounded), factor_of([3, -2, 1], 30, 1)
    for result, expected in (
        (single + other, dense(factor) + dense(other)),
        (other + single, dense(factor) + dense(other)),
        (single - factor, np.zeros((30, 30))),
        (single - single, np.zeros((30, 30))),
    ):
        assert result.rank <= 30 and error(result, expected) <= 1e-5
        U = result.eigenvectors
        assert np.abs(U.T @ U - np.eye(result.rank)).max(initial=0) <= 1e-6


# Functions


def test_roots_and_samples_need_a_definite_factor_and_name_the_way_out():
    V = np.ones(9)
    indefinite, semidefinite = factor_of([3, -2, 1], 9), factor_of([3, 2, 0], 9)
    for call in (
        lambda: indefinite.sqrt(V, 1.0),
        lambda: indefinite.inverse_sqrt(V, 1.0),
        lambda: indefinite.sample(1, 1.0),
        lambda: semidefinite.inverse_sqrt(V, 0.0),
        lambda: semidefinite.sqrt(V, -0.1),
    ):
        with pytest.raises(InputError, match=r"shift .* smallest eigenvalue is .*positive\(\)"):
            call()
    F = dense(indefinite)
    expected = scipy.linalg.sqrtm(F + 2.5 * np.eye(9)).real @ V
    np.testing.assert_allclose(indefinite.sqrt(V, 2.5), expected, atol=1e-12)
    np.testing.assert_allclose(
        semidefinite.sqrt(semidefinite.sqrt(V)), semidefinite @ V, atol=1e-12
    )


def test_roots_take_eigenvalues_that_are_negative_by_rounding():
    factor = factor_of([4, 1, -1e-17], 6)
    U = factor.eigenvectors
    np.testing.assert_allclose(factor.sqrt(np.eye(6)), (U * [2, 1, 0]) @ U.T, atol=1e-14)


def test_a_full_factor_needs_no_shift():
    factor = factor_of([3, 2, 1], 3)
    expected = np.linalg.inv(scipy.linalg.sqrtm(dense(factor)).real)
    np.testing.assert_allclose(factor.inverse_sqrt(np.eye(3), 0.0), expected, atol=1e-12)
    assert factor.logdet(0.0).sign == 1
    np.testing.assert_allclose(factor.logdet(0.0).logabsdet, np.log(6))


def test_logdet_of_singular_and_odd_complements():
    factor = factor_of([3, -2], 5)
    assert factor.logdet(0.0) == factor.logdet(2.0) == (0.0, -np.inf)
    for shift in (-0.5, 0.5):
        np.testing.assert_allclose(
            factor.logdet(shift), np.linalg.slogdet(dense(factor) + shift * np.eye(5))
        )
    with pytest.raises(InputError, match="shift must be finite"):
        factor.logdet(np.nan)


def test_inertia_states_its_threshold():
    factor = factor_of([4, -3, 1e-3, 1e-17], 10)
    plain = factor.inertia()
    assert (plain.negative, plain.zero, plain.positive) == (1, 7, 2)
    assert plain.threshold == 4 * 4 * np.finfo(float).eps
    assert factor.inertia(threshold=1e-2).positive == 1
    shifted = factor.inertia(3.0)
    assert (shifted.negative, shifted.zero, shifted.positive) == (0, 1, 9)
    assert factor.inertia(-1e-3).negative == 8


def test_samples_have_the_covariance_and_grow_by_columns():
    factor = factor_of([5, 2], 4)
    samples = factor.sample(40_000, 0.5, seed=3)
    covariance = np.linalg.inv(dense(factor) + 0.5 * np.eye(4))
    sizes = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.all(np.abs(samples @ samples.T / 40_000 - covariance) <= 5 * sizes / 200 * 2**0.5)
    assert np.all(np.abs(samples.mean(axis=1)) <= 5 * np.sqrt(np.diag(covariance)) / 200)
    np.testing.assert_allclose(factor.sample(3, 0.5, seed=3), samples[:, :3], rtol=1e-12)
    assert np.abs(factor.sample(3, 0.5, seed=4) - samples[:, :3]).min() > 0
    with pytest.raises(InputError, match="samples must be at least 1, not 0"):
        factor.sample(0, 0.5)


# Arithmetic


def test_many_updates_and_downdates_do_not_drift():
    rng = np.random.default_rng(0)
    factor = factor_of([3.0, -2.0, 1.0], 40)
    F = start = dense(factor)
    added = [(rng.standard_normal((40, 3)), rng.standard_normal(3)) for _ in range(60)]
    for B, c in added:
        factor, F = factor.update(B, c), F + (B * c) @ B.T
    assert factor.rank == 40 and error(factor, F) <= 1e-13 * np.linalg.norm(F)
    U = factor.eigenvectors
    assert np.abs(U.T @ U - np.eye(40)).max() <= 1e-13
    size = np.linalg.norm(F)
    for B, c in added:
        factor = factor.downdate(B, c)
    assert error(factor, start) <= 1e-12 * size


def test_updates_take_vectors_and_wild_scales():
    factor, b = factor_of([2.0, 1.0], 20), np.random.default_rng(1).standard_normal(20)
    F = dense(factor)
    np.testing.assert_allclose(dense(factor.update(b)), F + np.outer(b, b), atol=1e-13)
    np.testing.assert_allclose(dense(factor.downdate(b)), F - np.outer(b, b), atol=1e-13)
    B = np.column_stack([1e8 * b, 1e-8 * np.arange(20.0)])
    wild = factor.update(B, [1e-16, -1e16])
    np.testing.assert_allclose(
        dense(wild), F + np.outer(b, b) - np.outer(np.arange(20.0), np.arange(20.0)), atol=1e-11
    )
    empty = factor_of([], 20)
    assert empty.update(np.zeros((20, 0))).rank == (empty + empty).rank == 0
    assert empty.update(np.zeros((20, 2))).rank == 0
    np.testing.assert_allclose(empty.update(b).eigenvalues, [b @ b])


def test_updates_are_cut_to_a_rank_or_a_tolerance():
    H = matrix("exponential")
    factor = exact_factor(H, 20)
    b = np.random.default_rng(0).standard_normal(len(H)) / 10
    changed = H + np.outer(b, b)
    by_rank = factor.update(b, rank=20)
    assert by_rank.rank == 20
    best = np.linalg.norm(np.sort(np.abs(np.linalg.eigvalsh(changed)))[:-20])
    estimate = by_rank.certificate.frobenius_error_estimate
    assert best <= error(by_rank, changed) <= 1.5 * best
    assert error(by_rank, changed) <= estimate <= 1.5 * error(by_rank, changed)  # no Ritz pairs now
    norm = by_rank.certificate.frobenius_norm_estimate
    np.testing.assert_allclose(norm, np.linalg.norm(changed), rtol=1e-3)
    by_tolerance = factor.update(b, tolerance=1e-2)
    assert by_tolerance.rank < 20 and by_tolerance.certificate.converged
    assert error(by_tolerance, changed) <= 1.01e-2 * np.linalg.norm(changed)


def test_truncation_is_certified():
    H = matrix("polynomial", signs=True)
    factor = exact_factor(H, 30)
    cut = factor.truncate(10)
    known, size = cut.certificate, np.linalg.norm(H)
    np.testing.assert_allclose(known.frobenius_error_estimate, error(cut, H), rtol=1e-10)
    np.testing.assert_allclose(known.frobenius_norm_estimate, size, rtol=1e-10)
    assert np.linalg.norm(H - dense(cut), 2) <= known.spectral_error_bound
    np.testing.assert_array_equal(known.residual_norms, np.arange(1.0, 11))
    assert known.eigenvalue_converged.shape == (10,)
    assert cut.provenance.rank_requested == 10
    assert factor.truncate(99).rank == 30
    for tolerance in (0.5, 0.3, 0.25):
        cut = factor.truncate(tolerance=tolerance)
        assert error(cut, H) <= tolerance * size < error(factor.truncate(cut.rank - 1), H)
        assert cut.certificate.converged and cut.provenance.tolerance_requested == tolerance
    missed = factor.truncate(tolerance=1e-3)
    assert missed.rank == 30 and not missed.certificate.converged


def test_a_cut_that_lies_along_the_error_is_certified_all_the_same():
    """Both eigenvalues of F are one too small: they are no Ritz values of H."""
    H = np.diag([3.0, 2.9, *np.zeros(7)])
    known = Certificate(float(np.sqrt(2)), float(np.linalg.norm(H)), 1.0)
    F = LowRank(np.array([2.0, 1.9]), np.eye(9, 2), certificate=known)
    cut = F.truncate(1)
    assert error(cut, H) <= cut.certificate.frobenius_error_estimate
    squares = dataclasses.replace(known, ritz=True).truncated(F.eigenvalues, 1)
    assert error(cut, H) > squares.frobenius_error_estimate


def test_a_sum_is_judged_by_its_own_error():
    """Two factors that meet a tolerance; their difference, which is smaller, does not."""
    asked = Provenance(tolerance_requested=1e-2, tolerance_norm="frobenius")
    f, g = (
        dataclasses.replace(
            factor_of([2.0, 1.0], 9), certificate=Certificate(0.02, 2.3), provenance=asked
        )
        for _ in range(2)
    )
    assert f.certificate.relative_error <= 1e-2 and (f + g).certificate.converged
    assert not (f - 0.9 * g).certificate.converged
    spectral = Provenance(tolerance_requested=1e-2, tolerance_norm="spectral")
    bounded = dataclasses.replace(
        f, certificate=Certificate(0.02, 2.3, spectral_error_bound=0.01), provenance=spectral
    )
    assert (bounded + bounded).certificate.converged
    assert not bounded.positive().certificate.converged  # its bound is lost


def test_certificates_of_sums_multiples_and_absolute_values_hold():
    H, G = matrix("polynomial", signs=True), matrix("exponential")
    rng = np.random.default_rng(2)
    Q = np.linalg.qr(rng.standard_normal(H.shape))[0]
    G = Q @ G @ Q.T
    f, g = exact_factor(H, 12), exact_factor((G + G.T) / 2, 7)
    for result, truth in (
        (f + g, H + G),
        (f - g, H - G),
        (-2.5 * f, -2.5 * H),
        (np.float64(2) * g, 2 * G),
        (f.positive(), scipy.linalg.sqrtm(H @ H).real),
    ):
        known = result.certificate
        true = error(result, truth)
        assert (1 - 1e-10) * true <= known.frobenius_error_estimate <= 1.5 * true
        bound = known.spectral_error_bound
        distance = np.linalg.norm(truth - dense(result), 2)
        assert np.isnan(bound) or distance <= (1 + 1e-10) * bound
        np.testing.assert_allclose(known.frobenius_norm_estimate, np.linalg.norm(truth), rtol=0.05)
    np.testing.assert_allclose((2 * f).certificate.residual_norms, 2 * np.arange(1.0, 13))
    assert (f + g).certificate.residual_norms is None
    assert np.isnan(f.positive().certificate.spectral_error_bound)
    missed = dataclasses.replace(g, certificate=dataclasses.replace(g.certificate, converged=False))
    assert (f + g).certificate.converged and not (f + missed).certificate.converged


def test_provenance_keeps_what_stays_true():
    point = np.arange(9.0)
    f = dataclasses.replace(
        factor_of([2, 1], 9),
        provenance=Provenance(problem="p", rows=7, ridge=1e-3, seed=1, columns=30, method="eigh"),
        parameters=point,
        blocks=(("x", (9,), 0),),
    )
    g = dataclasses.replace(f, provenance=dataclasses.replace(f.provenance, seed=2, rows=8))
    both = f + g
    assert (both.provenance.problem, both.provenance.ridge) == ("p", 1e-3)
    assert (both.provenance.seed, both.provenance.rows, both.provenance.columns) == (-1, -1, -1)
    assert both.provenance.method == "eigh, sum"
    assert both.blocks == f.blocks
    np.testing.assert_array_equal(both.parameters, point)
    elsewhere = dataclasses.replace(g, parameters=point + 1, blocks=())
    assert (f + elsewhere).parameters is None and (f + elsewhere).blocks == ()
    assert np.isnan((3 * f).provenance.ridge)
    assert f.update(point).update(point).provenance.method == "eigh, update"


def test_bad_arithmetic_is_refused():
    f = factor_of([2, 1], 9)
    with pytest.raises(InputError, match="n = 9 and n = 8"):
        f + factor_of([1], 8)
    for other in (1.0, np.eye(9)):
        with pytest.raises(TypeError):
            f + other
    with pytest.raises(TypeError):
        f * f
    with pytest.raises(InputError, match="finite numbers only, not nan"):
        np.nan * f
    with pytest.raises(InputError, match="2 columns takes as many"):
        f.update(np.ones((9, 2)), [1.0])
    with pytest.raises(InputError, match="n = 9 does not fit"):
        f.update(np.ones(8))
    with pytest.raises(InputError, match="not finite"):
        f.update(np.full(9, np.inf))
    for request in ({}, {"rank": 1, "tolerance": 0.1}, {"rank": 0}, {"tolerance": 2.0}):
        with pytest.raises(InputError, match=r"rank|tolerance"):
            f.truncate(**request)


# Comparison


def test_angles_are_exact_when_small_and_when_large():
    turn = np.array([1e-11, 1e-6, 0.3, np.pi / 2])
    E = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 20)))[0]
    w = np.array([4.0, 3.0, 2.0, 1.0])
    f = LowRank(w, E[:, :4], certificate=Certificate(0.0, 1.0))
    g = LowRank(
        w, E[:, :4] * np.cos(turn) + E[:, 4:8] * np.sin(turn), certificate=Certificate(0.0, 1.0)
    )
    found = compare(f, g)
    np.testing.assert_allclose(found.angles, turn[::-1], rtol=1e-4, atol=0)
    np.testing.assert_allclose(found.angles[:3], turn[:0:-1], rtol=1e-9)
    np.testing.assert_allclose(compare(f, g, subspace=2).angles, turn[1::-1], rtol=1e-4)
    # Each pair w (u u^T - v v^T) has norm w sin(angle), and the pairs are orthogonal.
    np.testing.assert_allclose(found.spectral_distance, max(w * np.sin(turn)), rtol=1e-12)
    distance = np.linalg.norm(w * np.sin(turn)) * np.sqrt(2)
    np.testing.assert_allclose(found.frobenius_distance, distance, rtol=1e-12)
    np.testing.assert_allclose(found.relative_spectral, found.spectral_distance / 4)
    np.testing.assert_allclose(found.relative_frobenius, distance / np.linalg.norm(w))


def test_the_leading_subspace_is_of_the_leading_eigenvectors_alone():
    E = np.linalg.qr(np.random.default_rng(0).standard_normal((9, 9)))[0]
    certificate = Certificate(0.0, 1.0)
    f = LowRank(np.array([3.0, 2, 1]), E[:, [0, 1, 2]], certificate=certificate)
    g = LowRank(np.array([3.0, 2, 1]), E[:, [1, 0, 5]], certificate=certificate)
    np.testing.assert_allclose(compare(f, g, 1).angles, [np.pi / 2])
    np.testing.assert_allclose(compare(f, g, 2).angles, [0, 0], atol=1e-14)
    np.testing.assert_allclose(compare(f, g).angles, [np.pi / 2, 0, 0], atol=1e-14)


def test_comparison_of_unequal_ranks_signs_and_nothing():
    f, g = factor_of([3, -2, 1], 15, seed=1), factor_of([2, 2], 15, seed=2)
    g = dataclasses.replace(g, provenance=dataclasses.replace(g.provenance, method="krylov"))
    there, back = compare(f, g), compare(g, f)
    difference = dense(f) - dense(g)
    np.testing.assert_allclose(there.spectral_distance, np.linalg.norm(difference, 2))
    np.testing.assert_allclose(there.frobenius_distance, np.linalg.norm(difference))
    np.testing.assert_allclose(there.eigenvalue_differences, [1, -4])
    np.testing.assert_allclose(there.relative_differences, [1 / 3, -2])
    np.testing.assert_allclose(there.angles, back.angles, atol=1e-12)
    assert there.provenance == {"method": ("eigh", "krylov")}
    empty = factor_of([], 15)
    nothing = compare(empty, empty)
    assert (nothing.spectral_distance, nothing.relative_frobenius) == (0, 0)
    assert compare(f, empty).relative_spectral == 1 and compare(f, empty).angles.shape == (0,)
    with pytest.raises(InputError, match="n = 15 and n = 9"):
        compare(f, factor_of([1], 9))
    for subspace in (0, 3):
        with pytest.raises(InputError, match="between 1 and 2"):
            compare(f, g, subspace)
