"""Factors that must be earned: flat spectra get none, decaying ones do."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from shards import own_rows

import hesscomp as hc
from hesscomp.datasets import from_arrays
from hesscomp.krylov.cg import conjugate_gradients
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.optimizers import earned
from hesscomp.optimizers.batches import HessianDiagonal
from hesscomp.optimizers.grown import Costs, Outlook, Remembering, doublings

ROWS, N, TOPICS = 1200, 400, 30


def problem(world, decays: bool):
    rng = np.random.default_rng(0)
    X = scipy.sparse.random_array((ROWS, N), density=0.02, rng=rng, format="csr")
    X.data -= 0.5
    if decays:  # by topics that share columns, so that the diagonal tells little
        topics = scipy.sparse.random_array((TOPICS, N), density=0.1, rng=rng, format="csr")
        sizes = 30 * 0.8 ** np.arange(TOPICS)
        chosen = rng.integers(0, TOPICS, ROWS)
        X = 0.05 * X + topics[chosen] * (sizes[chosen] * rng.choice([-1, 1], ROWS))[:, None]
    y = np.where(rng.random(ROWS) < 0.5, 1.0, -1.0)
    mine = own_rows(world, ROWS, "uneven")
    data = from_arrays(scipy.sparse.csr_array(X[mine]), y[mine], world)
    return hc.LogisticRegression(data, world, ridge=1e-5, dtype="float64")


@pytest.mark.ranks
def test_a_flat_spectrum_gets_no_sketch(world, shared_tmp):
    made, options = problem(world, False), {"solver": "pcg", "tolerance": 1e-9, "rank": 10}
    fit = hc.newton(made, **options)
    assert fit.converged and {row.factor_rank for row in fit.history} == {0}
    assert "no factor, the mixed diagonal in" in fit.preconditioning
    assert fit.preconditioning.endswith("; 0 sketch columns")
    np.testing.assert_allclose(
        fit.x, hc.newton(made, solver="direct", tolerance=1e-11).x, atol=1e-5
    )
    hc.newton(made, **options, max_iterations=2, folder=shared_tmp)
    again = hc.newton(made, **options, folder=shared_tmp)
    np.testing.assert_allclose(again.x, fit.x, atol=1e-12)
    assert [row.cg_iterations for row in again.history] == [
        row.cg_iterations for row in fit.history
    ]


@pytest.mark.ranks
@pytest.mark.parametrize("call", [hc.newton, None], ids=["newton", "newton-cg"])
def test_a_decaying_spectrum_gets_a_factor_after_a_probe(world, call):
    made = problem(world, True)
    if call is None:
        found = hc.train(made, hc.NewtonCG(rank=20), max_steps=30, gradient_tolerance=1e-9)
        columns = found.history.column("sketch_columns")
        assert columns[1] == 0 and np.nansum(columns) >= 30 and found.converged
        assert "a factor from step" in found.remark and "sketch columns" in found.remark
        return
    fit = hc.newton(made, solver="pcg", rank=20, tolerance=1e-9)
    ranks = [row.factor_rank for row in fit.history]
    assert fit.converged and ranks[:2] == [0, 0] and 20 in ranks
    assert "a factor from step" in fit.preconditioning
    assert "a probe of 8 columns held" in fit.preconditioning


@pytest.mark.ranks
@pytest.mark.parametrize("share", [0.5, 0.05])
def test_sketches_take_at_most_a_share_of_the_products_already_spent(world, share, monkeypatch):
    monkeypatch.setattr(earned, "SKETCH_SHARE", share)
    made = problem(world, True)
    lone = hc.hessian(made, at=np.zeros(N)).lone_cost
    found = hc.train(made, hc.NewtonCG(rank=10), max_steps=30, gradient_tolerance=1e-9)
    cg, sketched = (
        np.array(found.history.column(name)[1:]) for name in ("cg_iterations", "sketch_columns")
    )
    sketches = np.cumsum(sketched)
    before = np.append(0, (np.cumsum(lone * (cg + 1)) + sketches)[:-1])  # 1: a step's own passes
    assert found.converged and sketches[-1] > 0
    assert np.all((sketched == 0) | (sketches <= share * before))


def after_both_kinds(world, spent):
    """The state after plain and mixed CG, of so many iterations in all."""
    optimizer = hc.NewtonCG(rank=10)
    rates = {"plain_rate": 50.0, "mixed_rate": 60.0, "bare_rate": 50.0, "leading": 1.0}
    state = {**optimizer.start(np.zeros(N)), **rates, "spent_cg": spent}
    return hc.hessian(problem(world, True), at=np.zeros(N)), optimizer, state


def test_a_sketch_that_would_come_too_early_bounds_the_solve_before_it(world):
    H, optimizer, state = after_both_kinds(world, 20.0)
    early = optimizer.choose(H, state, 5.0, 1e-5, None)
    assert early.factor is None and early.sketched == 0 and not early.refused
    assert early.limit == np.ceil((2 * 20 - 20 * H.lone_cost) / H.lone_cost)
    later = optimizer.choose(H, {**state, "spent_cg": 20.0 + early.limit}, 5.0, 1e-5, None)
    assert later.sketched == 20 and later.factor is not None and later.factor.rank == 10


@pytest.mark.serial
def test_which_sketch_is_worth_waiting_for():
    """64 columns; as many as those of the factor in whose place it comes; all where indefinite."""
    optimizer, state = hc.NewtonCG(rank=100), {"spent_cg": 0.0, "spent_columns": 0.0}
    semidefinite, indefinite = (SimpleNamespace(n=1000, lone_cost=2.0, psd=psd) for psd in (1, 0))
    assert optimizer._missing(semidefinite, state) == 64
    assert optimizer._missing(semidefinite, {**state, "spent_cg": 60.0}) == 4
    assert optimizer._missing(semidefinite, state, SimpleNamespace(n=1000, rank=100)) == 110
    assert optimizer._missing(indefinite, state) == 110


@pytest.mark.serial
def test_a_problem_that_knows_its_diagonal_alone_computes_it_once():
    calls = []
    problem = SimpleNamespace(
        hessian_diagonal=lambda x: calls.append(x) or np.arange(3.0),
        hessian_trace=lambda x, margins: None,
    )
    found = HessianDiagonal(problem, np.zeros(3))
    assert found.trace == 3.0 and found.values.sum() == 3.0 and len(calls) == 1


def test_a_format_that_is_named_serves_from_the_first_step(world):
    made, options = problem(world, False), {"solver": "pcg", "tolerance": 1e-9, "rank": 10}
    named = hc.newton(made, preconditioner="low-rank", **options)
    assert "a factor from step 1 on" in named.preconditioning
    given = hc.compress(hc.hessian(made, at=np.zeros(N)), rank=5)
    first = hc.newton(made, preconditioner=given, **options)
    assert "a factor from step 1 on" in first.preconditioning
    np.testing.assert_allclose(first.x, named.x, atol=1e-6)


@pytest.mark.ranks
def test_dense_data_begin_without_a_factor_too(world):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((600, 100)) * np.geomspace(3, 3e-3, 100)
    X, y = X @ np.linalg.qr(rng.standard_normal((100, 100)))[0], rng.choice([-1.0, 1.0], 600)
    mine = own_rows(world, 600, "uneven")
    made = hc.LogisticRegression(from_arrays(X[mine], y[mine], world), world, ridge=1e-6)
    fit = hc.newton(made, solver="pcg", tolerance=1e-9)
    ranks = [row.factor_rank for row in fit.history]
    assert fit.converged and ranks[1] == 0 and 0 < max(ranks) <= 40
    direct = hc.newton(made, solver="direct", tolerance=1e-11).x
    np.testing.assert_allclose(fit.x, direct, atol=1e-4)
    wanted = hc.newton(made, solver="pcg", tolerance=1e-9, factor_options={"power": 1})
    assert "a factor from step 1 on" in wanted.preconditioning


def test_a_factor_that_has_ceased_to_pay_goes(world):
    H, optimizer, state = after_both_kinds(world, 100.0)
    first = optimizer.choose(H, state, 5.0, 1e-5, None)
    solve = SimpleNamespace(iterations=20, residual_norm=0.1, x=np.zeros(N), leading=1.0)
    state = optimizer.solved(state, first, solve, 1.0)
    assert optimizer.made_factor(state).rank == 10
    again = optimizer.choose(H, state, 0.5, 1e-5, None)
    assert again.sketched == 0 and again.factor.rank == 10 and 1 < again.slowdown < 1.1
    solve.iterations = 300  # twice those without it, and not five times: cheap, it stays
    assert optimizer.made_factor(optimizer.solved(state, again, solve, 1.0)).rank == 10
    dear = optimizer.solved(state, replace(again, slowdown=1.2), solve, 1.0)
    assert optimizer.made_factor(dear) is None and dear["refused_rate"] == 300.0
    solve.iterations = 2000
    state = optimizer.solved(state, again, solve, 1.0)
    assert optimizer.made_factor(state) is None and state["refused_rate"] == 2000.0
    assert optimizer.choose(H, state, 5.0, 1e-5, None).factor is None


@pytest.mark.ranks
def test_columns_of_all_scales_take_the_diagonal(world):
    """As those of a table that nobody has scaled: there a factor fails, and goes."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((800, 120)) * 10 ** rng.uniform(-3, 4, 120)
    margins = X @ (rng.standard_normal(120) / X.std(axis=0) / 5)
    y = np.where(rng.random(800) < 1 / (1 + np.exp(-margins)), 1.0, -1.0)
    mine = own_rows(world, 800, "uneven")
    data = from_arrays(X[mine], y[mine], world)
    made = hc.LogisticRegression(data, world, ridge=1e-4, dtype="float64")
    fit = hc.newton(made, solver="pcg", tolerance=1e-6, max_iterations=40)
    assert fit.converged and sum(row.cg_iterations for row in fit.history) < 1000


@pytest.mark.ranks
def test_a_sketch_that_grows_costs_its_further_columns_alone(world):
    rng = np.random.default_rng(2)
    Q, _ = np.linalg.qr(rng.standard_normal((60, 60)))
    H = MatrixOperator(Q * 0.7 ** np.arange(60) @ Q.T, world, psd=True)
    growing = Remembering(H)
    for size, new in ((8, 8), (16, 8), (16, 0), (20, 4)):
        found = hc.compress(growing, size - 3, oversample=3, power=0, seed=1)
        assert found.provenance.columns == new
    whole = hc.compress(H, 17, oversample=3, power=0, seed=1)
    np.testing.assert_allclose(found.eigenvalues, whole.eigenvalues, rtol=1e-10)
    other = hc.compress(growing, 17, oversample=3, power=0, seed=2)
    assert other.provenance.columns == 20  # of another matrix


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_a_sketch_grows_where_the_spectrum_decays(power):
    """Of a spectrum i^-power: no factor where it is flat, fewer columns where it falls fast."""
    ranks = doublings(50, 40)
    assert ranks == {8: 6, 16: 12, 32: 25, 50: 40} and doublings(12, 2) == {8: 2, 12: 2}
    w, size, outlook = (1 + np.arange(50.0)) ** -power, 8, None
    costs = Costs(10_000, 6.0, 1e9)
    outlook = Outlook(costs, 500.0, w[1] + 1e-8, 1e-8)
    while (wanted := outlook.wanted(w[: ranks[size]], size, ranks)) > size:
        size = wanted
    assert wanted == {0.0: 0, 1.0: 50, 3.0: 32}[power]
    nothing = replace(outlook, second=0.0, shift=0.0)  # of a Hessian that has vanished
    assert nothing.wanted(np.zeros(6), 8, ranks) in (0, 8, 16)
    dear = replace(outlook, costs=Costs(10_000, 1.2, 1e5))  # a factor takes longer than it saves
    assert dear.wanted(w[:6], 8, ranks) == 0


def test_the_leading_ritz_value_of_conjugate_gradients():
    rng = np.random.default_rng(1)
    Q, _ = np.linalg.qr(rng.standard_normal((30, 30)))
    A = Q * np.geomspace(1e-2, 5.0, 30) @ Q.T
    found = conjugate_gradients(MatrixOperator(A), rng.standard_normal(30), tolerance=1e-10)
    assert found.leading == pytest.approx(5.0, rel=1e-10)
    one = conjugate_gradients(MatrixOperator(A), b := Q.sum(axis=1), tolerance=0, max_iterations=1)
    assert one.leading == pytest.approx(b @ A @ b / (b @ b))
