"""Estimators against dense truth: exactness, bias, honest errors, costs, and rank counts."""

import numpy as np
import pytest
from oracles import N, Sharded, matrix

from hesscomp.errors import InputError, NumericalError, OperatorError
from hesscomp.estimators import (
    diagonal,
    frobenius_norm,
    logdet,
    spectral_norm,
    spectral_quadrature,
    trace,
)
from hesscomp.estimators.leave_one_out import LeaveOneOut
from hesscomp.estimators.sampling import sphere
from hesscomp.estimators.trace import _shifted_traces
from hesscomp.krylov.lanczos import Lanczos
from hesscomp.operators.matrix import MatrixOperator

pytestmark = pytest.mark.ranks
SEEDS = 200
METHODS = ["hutchinson", "hutch++", "xtrace", "xnystrace"]
FAMILIES = ["polynomial", "exponential", "flat tail", "low rank", "equal"]


def alone(kind, signs=False, n=60):
    A = matrix(kind, signs, n)
    return A, MatrixOperator(A, psd=not signs)


def positive(n, condition=1e3):
    """A positive definite matrix with geometric eigenvalues from 1 down, and these."""
    w = np.geomspace(1 / condition, 1, n)
    Q = np.linalg.qr(np.random.default_rng(2).standard_normal((n, n)))[0]
    A = (Q * w) @ Q.T
    return (A + A.T) / 2, w


def over_seeds(estimate, seeds=SEEDS):
    results = [estimate(seed) for seed in range(seeds)]
    return results, np.array([r.value for r in results])


def check_unbiased(values, truth):
    """The mean lies within four standard errors of the truth."""
    assert abs(values.mean() - truth) <= 4 * values.std() / np.sqrt(len(values))


def coverage(results, truth):
    """The share of the 95% intervals that hold the truth."""
    low, high = np.array([r.interval(0.95) for r in results]).T
    return np.mean((low <= truth) & (truth <= high))


@pytest.mark.serial
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind, signs", [("polynomial", True), ("exponential", False)])
def test_trace_is_unbiased_and_its_errors_are_honest(method, kind, signs):
    A, H = alone(kind, signs and method != "xnystrace")
    results, values = over_seeds(lambda seed: trace(H, 16, method=method, seed=seed))
    # Hutch++ has few probes and they are far from normal, so Student's interval is a little short.
    assert coverage(results, np.trace(A)) >= (0.85 if method == "hutch++" else 0.9)
    check_unbiased(values, np.trace(A))
    rms = np.sqrt(np.mean((values - np.trace(A)) ** 2))
    errors = np.sqrt(np.mean([r.standard_error**2 for r in results]))
    assert 0.8 <= errors / rms <= (1.25 if method.startswith("hutch") else 10)


@pytest.mark.serial
@pytest.mark.parametrize("columns", [4, 5, 8, 12])
@pytest.mark.parametrize("kind, signs", [("polynomial", True), ("exponential", False)])
def test_few_columns_do_not_make_errors_too_small(columns, kind, signs):
    """Near 68% within one standard error; without Student's factor 47%, of Hutch++'s 2 probes."""
    A, H = alone(kind, signs)
    for method in ("hutchinson", "hutch++"):
        results, values = over_seeds(lambda seed, m=method: trace(H, columns, method=m, seed=seed))
        errors = np.array([result.standard_error for result in results])
        assert np.mean(np.abs(values - np.trace(A)) <= errors) >= 0.54
        plain = np.array([result.spread for result in results])  # it is the true one on average
        rms = np.sqrt(np.mean((values - np.trace(A)) ** 2))
        assert 0.85 <= np.sqrt(np.mean(plain**2)) / rms <= 1.15


@pytest.mark.serial
def test_better_methods_are_better_on_decaying_spectra():
    A, H = alone("exponential", n=N)
    rms = {}
    for method in METHODS:
        _, values = over_seeds(lambda seed, m=method: trace(H, 24, method=m, seed=seed), 40)
        rms[method] = np.sqrt(np.mean((values - np.trace(A)) ** 2))
    assert rms["hutch++"] < 0.1 * rms["hutchinson"]
    assert rms["xtrace"] < 0.02 * rms["hutchinson"]
    assert rms["xtrace"] < 0.5 * rms["hutch++"]
    assert rms["xnystrace"] < 0.1 * rms["xtrace"]


@pytest.mark.serial
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("signs", [False, True])
def test_leave_two_out_entries_are_what_they_say(kind, signs):
    A, H = alone(kind, signs)
    n, l = len(A), 4
    Omega = sphere(n, l, 3)
    sketch = LeaveOneOut.draw(H, Omega)
    Q, Y = sketch.Q, sketch.Y
    first = sketch.traces(Q.T @ A @ Q, sketch.R, np.sum(Omega * Y, axis=0))
    second = sketch.traces(Q.T @ A @ A @ Q, Q.T @ A @ Y, np.sum(Y**2, axis=0))
    nystrom = None if signs else _shifted_traces(Omega, Y, 1e-16)
    for i in range(l):
        for j in range(l):
            keep = [k for k in range(l) if k not in (i, j)]
            P = np.linalg.qr(Y[:, keep])[0]
            mu = Omega[:, j] - P @ (P.T @ Omega[:, j])
            scale = (n - len(keep)) / (mu @ mu)
            for found, B in ((first, A), (second, A @ A)):
                expected = np.trace(P.T @ B @ P) + scale * (mu @ B @ mu)
                assert found[i, j] == pytest.approx(expected, rel=1e-9)
            if nystrom is not None:
                Z = Omega[:, keep]
                F = Y[:, keep] @ np.linalg.solve(Z.T @ Y[:, keep], Y[:, keep].T)
                mu = Omega[:, j] - Z @ np.linalg.lstsq(Z, Omega[:, j], rcond=None)[0]
                rest = Omega[:, j] @ (A - F) @ Omega[:, j] / (mu @ mu)
                expected = np.trace(F) + (n - len(keep)) * rest
                assert nystrom[i, j] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("signs", [False, True])
def test_low_rank_is_exact(world, signs):
    A = matrix("low rank", signs)
    H = Sharded(A, world, not signs)
    scale = np.linalg.norm(A)
    for method in METHODS[1:] if not signs else METHODS[1:3]:
        estimate = trace(H, 24, method=method)
        assert abs(estimate.value - np.trace(A)) <= 1e-12 * scale
        assert estimate.standard_error <= 1e-12 * scale
    found = diagonal(H, 24)
    assert np.abs(found.values - np.diagonal(A)).max() <= 1e-13 * scale
    assert found.standard_errors.max() <= 1e-13 * scale
    assert frobenius_norm(H, 24).value == pytest.approx(np.linalg.norm(A), rel=1e-13)


@pytest.mark.serial
@pytest.mark.parametrize("method", ["xdiag", "hutchinson"])
@pytest.mark.parametrize("kind, signs", [("polynomial", True), ("exponential", False)])
def test_diagonal(method, kind, signs):
    A, H = alone(kind, signs)
    truth = np.diagonal(A)
    results = [diagonal(H, 16, method=method, seed=seed) for seed in range(SEEDS)]
    values = np.array([r.values for r in results])
    z = (values.mean(axis=0) - truth) / (values.std(axis=0) / np.sqrt(SEEDS))
    assert np.abs(z).max() <= 4.5 and np.mean(z**2) <= 1.7
    rms = np.sqrt(np.mean((values - truth) ** 2))
    errors = np.sqrt(np.mean([r.standard_errors**2 for r in results]))
    assert 0.7 <= errors / rms <= 1.2
    if method == "xdiag" and kind == "exponential":
        plain = diagonal(H, 16, method="hutchinson").values
        assert rms < 0.1 * np.sqrt(np.mean((plain - truth) ** 2))


@pytest.mark.serial
@pytest.mark.parametrize("kind, signs", [("polynomial", False), ("flat tail", True)])
def test_frobenius_norm(kind, signs):
    A, H = alone(kind, signs)
    results, values = over_seeds(lambda seed: frobenius_norm(H, 16, seed=seed))
    check_unbiased(values**2, np.linalg.norm(A) ** 2)
    assert coverage(results, np.linalg.norm(A)) >= 0.9
    assert values.std() <= 0.05 * np.linalg.norm(A)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("signs", [False, True])
def test_spectral_norm(world, kind, signs):
    A = matrix(kind, signs)
    norm = np.linalg.norm(A, 2)
    found = spectral_norm(Sharded(A, world, not signs), tolerance=1e-6)
    assert found.converged and found.residual_norm <= 1e-6 * found.value
    assert norm * (1 - 1e-6) <= found.value <= norm * (1 + 1e-13)
    assert norm <= found.upper_bound * (1 + 1e-13)
    sure = spectral_norm(Sharded(A, world, not signs), gap=0.2, probes=4)
    assert sure.converged and norm <= sure.upper_bound * (1 + 1e-13) <= 1.2 * norm * (1 + 1e-12)
    hasty = spectral_norm(Sharded(A, world, not signs), gap=0.2, max_steps=2)
    assert not hasty.converged and hasty.upper_bound is None


def test_a_norm_without_an_upper_bound_is_not_converged():
    """The value may be right at once: three steps on an outlier."""
    A = np.diag([1e6, *np.linspace(0, 1, 499)])
    short = spectral_norm(MatrixOperator(A), max_steps=3)
    assert short.value == pytest.approx(1e6) and short.residual_norm <= 1e-3 * short.value
    assert short.upper_bound is None and not short.converged
    enough = spectral_norm(MatrixOperator(A))
    assert enough.converged and enough.upper_bound * (1 + 1e-13) >= 1e6


def test_lanczos_recurrences(world):
    A = matrix("polynomial", signs=True)
    H = Sharded(A, world, False)
    starts = sphere(N, 3, 1)
    lanczos = Lanczos(H, starts, N)
    for _ in range(30):
        lanczos.advance()
    V, a, b = (rows[:, :30] for rows in (lanczos._bases, lanczos.diagonals, lanczos.off_diagonals))
    for p in range(3):
        np.testing.assert_allclose(V[p] @ V[p].T, np.eye(30), atol=1e-14)
        T = np.diag(a[p]) + np.diag(b[p, :-1], 1) + np.diag(b[p, :-1], -1)
        np.testing.assert_allclose(V[p] @ A @ V[p].T, T, atol=1e-13)
    nodes, weights, residuals = lanczos.ritz()
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    v = starts / np.linalg.norm(starts, axis=0)
    for degree in (1, 2, 25, 59):  # Gauss quadrature: exact up to 2 * 30 - 1
        exact = np.einsum("np,np->p", v, np.linalg.matrix_power(A, degree) @ v)
        np.testing.assert_allclose(np.sum(weights * nodes**degree, axis=1), exact, atol=1e-12)
    w = np.linalg.eigvalsh(A)
    distance = np.abs(nodes[..., None] - w).min(axis=-1)
    assert np.all(distance <= residuals + 1e-14)
    while not lanczos.finished:
        lanczos.advance()
    np.testing.assert_allclose(lanczos.ritz()[0][0], w, atol=1e-10)


def test_lanczos_recurrences_end_one_by_one(world):
    A = np.diag(np.repeat([3.0, 1.0, -2.0], 20))
    starts = np.zeros((60, 3))
    starts[0, 0] = 1  # an eigenvector
    starts[[0, 20], 1] = 1
    starts[:, 2] = 1
    lanczos = Lanczos(Sharded(A, world, False), starts, 10)
    columns = world.ledger.columns
    while not lanczos.finished:
        lanczos.advance()
    assert lanczos.lengths.tolist() == [1, 2, 3] and lanczos.exhausted
    assert world.ledger.columns - columns == 6
    nodes, weights, _ = lanczos.ritz()
    np.testing.assert_allclose(nodes[2], [-2, 1, 3], atol=1e-12)
    np.testing.assert_allclose(weights[2], 1 / 3)
    np.testing.assert_allclose(np.sum(weights * nodes, axis=1), [3, 2, 2 / 3])


@pytest.mark.serial
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_logdet(shift):
    A, w = positive(120)
    H = MatrixOperator(A, psd=True)
    truth = np.sum(np.log(w + shift))
    results, values = over_seeds(lambda seed: logdet(H, shift=shift, probes=8, steps=14, seed=seed))
    bias = values.mean() - truth
    sampling = values.std() / np.sqrt(SEEDS)
    truncation = np.mean([r.truncation_error for r in results])
    assert -4 * sampling <= bias <= truncation + 4 * sampling  # Gauss: never below but for chance
    assert coverage(results, truth) >= 0.9
    assert 0.8 <= np.sqrt(np.mean([r.standard_error**2 for r in results])) / values.std() <= 1.2


def test_logdet_where_it_is_exact_or_refused(world):
    A, w = positive(120)
    H = Sharded(A, world, True)
    exact = logdet(H)
    assert exact.value == pytest.approx(np.sum(np.log(w)), rel=1e-12)
    assert (exact.standard_error, exact.method, exact.columns) == (0.0, "exact", 120)
    shifted = logdet(H.shifted(-0.5), shift=0.6, probes=2, steps=40)
    assert shifted.value == pytest.approx(np.sum(np.log(w + 0.1)), rel=0.2)
    with pytest.raises(NumericalError, match="not positive definite"):
        logdet(H.shifted(-0.5), probes=2, steps=20)
    with pytest.raises(NumericalError, match="take a larger shift"):
        logdet(Sharded(matrix("low rank"), world, True), probes=2, steps=20)


def test_spectral_density(world):
    A, w = positive(240, condition=50)
    H = Sharded(A, world, True)
    quadrature = spectral_quadrature(H, probes=8, steps=29)
    assert not quadrature.exact and quadrature.columns == 232
    width = 0.04

    def smooth(points, low, high):
        images = points, 2 * low - points, 2 * high - points  # what is reflected at the ends
        kernels = (np.exp(-0.5 * ((at[:, None] - w) / width) ** 2) for at in images)
        return sum(kernels).mean(axis=1) / (width * np.sqrt(2 * np.pi))

    density = quadrature.density(width=width)
    assert np.trapezoid(density.density, density.points) == pytest.approx(1, rel=1e-4)
    ((least, most),) = density.sides
    assert (least, most) == (density.points[0], density.points[-1])
    truth = smooth(density.points, least, most)
    low, high = density.band(0.99)
    assert np.mean((low - 1e-4 <= truth) & (truth <= high + 1e-4)) >= 0.95
    assert np.abs(density.density - truth).max() <= 0.1 * truth.max()
    below = quadrature.count_below(0.2)
    assert abs(below.value - np.sum(w < 0.2)) <= 5 * below.standard_error + below.truncation_error
    exact = spectral_quadrature(H, probes=8, steps=30)
    assert exact.exact and exact.columns == 240
    sharp = exact.density(width=width)
    np.testing.assert_allclose(sharp.density, smooth(sharp.points, w.min(), w.max()), atol=1e-12)
    assert np.all(sharp.band()[0] == sharp.density) and sharp.samples == 0
    assert exact.count_below(0.2).value == pytest.approx(np.sum(w < 0.2))
    assert exact.trace_of(np.sqrt).value == pytest.approx(np.sum(np.sqrt(w)))


@pytest.mark.parametrize("exact", [False, True])
def test_no_density_is_drawn_where_no_eigenvalue_is(world, exact):
    """A bulk at 0, four negative eigenvalues, outliers whose range makes the smoothing wide."""
    n = 400
    w = np.r_[np.linspace(0, 1e-3, n - 9), -4.0, -3.0, -2.0, -1.0, 400, 300, 200, 100, 50]
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((n, n)))[0]
    A = (Q * w) @ Q.T
    H = Sharded((A + A.T) / 2, world, False)
    quadrature = spectral_quadrature(H, probes=10, steps=40 if exact else 20)
    assert quadrature.exact == exact
    density = quadrature.density(width=20.0)
    smallest = quadrature.nodes.min()
    assert -4 - 1e-9 <= smallest == density.points[0]
    negative = density.points < 0
    sides = [np.trapezoid(density.density[at], density.points[at]) for at in (negative, ~negative)]
    assert sum(sides) == pytest.approx(1, rel=1e-3)
    counted = quadrature.count_below(-quadrature.rounding).value
    assert sides[0] * n == pytest.approx(counted, rel=1e-6)
    if exact:
        assert counted == pytest.approx(4)
    assert np.all(quadrature.density(np.linspace(-40, smallest - 1e-9, 9)).density == 0)
    assert density.height(np.array([-4.0, 200.0])) == pytest.approx(
        [1 / (4 * n), 1 / (n * density.width * np.sqrt(2 * np.pi))], rel=0.03
    )


def test_semidefinite_operators_have_no_density_below_zero(world):
    """Though rounding makes Ritz values negative, those of products in float32 most."""
    n = 300
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((n, n)))[0]
    A = (Q * np.where(np.arange(n) < 9, 1e3, 0.0)) @ Q.T

    class Single(Sharded):
        def block_product(self, V):
            return super().block_product(V).astype(np.float32).astype(np.float64)

    single = Single((A + A.T) / 2, world, True)
    single.dtype = np.dtype("float32")
    for H in (Sharded((A + A.T) / 2, world, True), single):
        for steps in (8, 40):
            quadrature = spectral_quadrature(H, probes=8, steps=steps)
            density = quadrature.density()
            assert quadrature.nodes.min() < 1e-9 and density.points[0] == 0
            assert np.trapezoid(density.density, density.points) == pytest.approx(1, rel=1e-3)
    for value in (0.0, 3.0, -3.0):
        flat = spectral_quadrature(Sharded(value * np.eye(50), world, False)).density()
        assert np.trapezoid(flat.density, flat.points) == pytest.approx(1, rel=1e-3)
        assert np.all(np.abs(flat.points - value) <= 0.02) and np.all(flat.points * value >= 0)


def test_costs(world):
    psd, any_sign = Sharded(matrix("equal"), world, True), Sharded(matrix("equal"), world, False)
    l, k, m = 11, 3, 9
    cases = [
        (lambda: trace(psd, 23, method="hutchinson"), 23, [23 * 23]),
        (lambda: trace(psd, 23, method="hutch++"), 23, [N * 7, 16 * 16]),
        (lambda: trace(psd, 23, method="xtrace"), 22, [N * l, l * l]),
        (lambda: trace(psd, 23), 23, [N * 23]),
        (lambda: trace(any_sign, 23), 22, [N * l, l * l]),
        (lambda: diagonal(psd, 23), 22, [N * l, N * l]),
        (lambda: diagonal(psd, 23, method="hutchinson"), 23, [N * 23]),
        (lambda: frobenius_norm(psd, 23), 22, [N * l, N * l]),
        (lambda: spectral_quadrature(psd, probes=k, steps=m), k * m, [N * k] * m),
        (lambda: logdet(psd, shift=1.0, probes=k, steps=m), k * m, [N * k] * m),
        (lambda: spectral_norm(psd, tolerance=1e-9, probes=k, max_steps=4), k * 4, [N * k] * 4),
        (lambda: trace(psd, N), N, [N * N]),
        (lambda: diagonal(psd, N + 7), N, [N * N]),
        (lambda: frobenius_norm(psd, N), N, [N * N]),
    ]
    ledger = world.ledger
    for run, columns, words in cases:
        before = (ledger.columns, ledger.passes, ledger.reductions, ledger.words_reduced)
        found = run()
        assert found.columns == columns == ledger.columns - before[0]
        assert ledger.passes - before[1] == ledger.reductions - before[2] == len(words)
        assert ledger.words_reduced - before[3] == sum(words)


def test_the_same_numbers_on_any_number_of_ranks(world):
    A, _ = positive(N)
    spread, single = Sharded(A, world, True), MatrixOperator(A, psd=True)
    for method in METHODS:
        left, right = (trace(H, 20, method=method, seed=4) for H in (spread, single))
        assert left.value == pytest.approx(right.value, rel=1e-10)
        assert left.standard_error == pytest.approx(right.standard_error, rel=1e-6)
    for method in ("xdiag", "hutchinson"):
        left, right = (diagonal(H, 20, method=method).values for H in (spread, single))
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-11)
    for estimate in (frobenius_norm, spectral_norm):
        assert estimate(spread).value == pytest.approx(estimate(single).value, rel=1e-10)
    left, right = (logdet(H, probes=4, steps=12) for H in (spread, single))
    assert left.value == pytest.approx(right.value, rel=1e-9)
    value = trace(spread, 20, seed=4).value
    assert world.gather(value) == [value] * world.size


@pytest.mark.parametrize("psd", [True, False])
def test_degenerate_operators(world, psd):
    methods = METHODS if psd else METHODS[:3]
    zero = Sharded(np.zeros((40, 40)), world, psd)
    tiny = Sharded(np.array([[3.0]]), world, psd)
    small, _ = positive(5)
    for method in methods:
        nothing = trace(zero, 12, method=method)
        assert (nothing.value, nothing.standard_error) == (0.0, 0.0)
        assert trace(tiny, 12, method=method).value == 3.0
        full = trace(Sharded(small, world, psd), 12, method=method)
        assert full.value == pytest.approx(np.trace(small)) and full.method == "exact"
        assert full.interval() == (full.value, full.value)
        nearly = trace(Sharded(small, world, psd), 4, method=method)
        assert np.isfinite(nearly.value) and np.isfinite(nearly.standard_error)
    for method in ("xdiag", "hutchinson"):
        assert np.all(diagonal(zero, 12, method=method).values == 0)
        assert diagonal(tiny, 12, method=method).values.tolist() == [3.0]
        assert diagonal(Sharded(small, world, psd), 12, method=method).columns == 5
    for norm in (frobenius_norm, spectral_norm):
        assert norm(zero).value == 0.0
        assert norm(tiny).value == pytest.approx(3.0)
        assert norm(Sharded(-small, world, False)).value == pytest.approx(
            np.linalg.norm(small, 2 if norm is spectral_norm else "fro")
        )
    assert spectral_norm(zero).upper_bound == 0.0 and spectral_norm(zero).converged
    assert logdet(zero, shift=2.0, probes=3, steps=5).value == pytest.approx(40 * np.log(2))
    assert logdet(tiny).value == pytest.approx(np.log(3))
    flat = spectral_quadrature(zero, probes=3, steps=5).density()
    assert np.isfinite(flat.density).all() and flat.width > 0


def test_rounding_of_the_products(world):
    """Products in float32, on a spectrum that ends below its rounding."""

    class Single(Sharded):
        def __init__(self, dense, psd):
            super().__init__(dense, world, psd)
            self.dtype = np.dtype("float32")
            self.part = self.part.astype(np.float32)

        def block_product(self, V):
            return self.world.sum(self.part @ V.astype(np.float32)).astype(np.float64)

        def _project(self, Q, V):
            return Q.T @ self.block_product(V)

    for kind in ("exponential", "low rank"):
        A = matrix(kind)
        for method in METHODS[2:]:
            estimate = trace(Single(A, True), 80, method=method)
            assert abs(estimate.value - np.trace(A)) <= 1e-4 * np.trace(A)
            assert estimate.standard_error <= 1e-4 * np.trace(A)
        assert np.abs(diagonal(Single(A, True), 80).values - np.diagonal(A)).max() <= 1e-5
        found = logdet(Single(A, True), shift=0.1, probes=4, steps=30)
        truth = np.sum(np.log(np.linalg.eigvalsh(A) + 0.1))
        low, high = found.interval(0.999)
        assert low - 1e-3 <= truth <= high + 1e-3
        norm = np.linalg.norm(A, 2)
        assert spectral_norm(Single(A, True)).value == pytest.approx(norm, rel=1e-5)


def test_requests_that_make_no_sense_are_refused(world):
    H = Sharded(matrix("polynomial", signs=True), world, False)
    with pytest.raises(OperatorError, match="use method xtrace"):
        trace(H, 20, method="xnystrace")
    with pytest.raises(OperatorError, match="not declared"):
        trace(H, 2 * N, method="xnystrace")
    with pytest.raises(NumericalError, match="not semidefinite"):
        trace(Sharded(-matrix("polynomial"), world, True), 20)
    for bad in (
        lambda: trace(H, 20, method="magic"), lambda: trace(H, 3, method="xtrace"),
        lambda: trace(H, 1, method="hutchinson"), lambda: trace(H, 20, seed=-1),
        lambda: diagonal(H, 3), lambda: diagonal(H, 20, method="magic"),
        lambda: frobenius_norm(H, 3), lambda: spectral_norm(H, tolerance=0.0),
        lambda: spectral_norm(H, probes=0), lambda: spectral_norm(H, gap=0.0),
        lambda: spectral_quadrature(H, probes=1),
        lambda: spectral_quadrature(H, steps=0), lambda: logdet(H, shift=np.nan),
        lambda: spectral_quadrature(H, probes=3, steps=9).density(width=0.0),
    ):  # fmt: skip
        with pytest.raises(InputError):
            bad()
