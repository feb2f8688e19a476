"""Newton on Adult against the reference optimum, and conjugate gradients against SciPy."""

import numpy as np
import pytest
import scipy.sparse.linalg
from marks import two_ranks_but

from hesscomp.compression import compress
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.datasets import fourier_features, from_arrays, load_dataset
from hesscomp.errors import InputError, NumericalError
from hesscomp.krylov.cg import conjugate_gradients
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.optimizers.loop import train
from hesscomp.optimizers.newton import Newton, NewtonOptions, cheapest_solver, newton
from hesscomp.optimizers.options import Stopping
from hesscomp.parallel.rows import row_range
from hesscomp.problems.linear import GeneralizedLinearModel
from hesscomp.problems.logistic import LogisticRegression

pytestmark = pytest.mark.ranks

# Float64 optima of Adult from x = 0 by an independent implementation; Newton steps allowed.
REFERENCE = [
    (1e-3, 0.326523399290756, 8),
    (1 / 32561, 0.316791792372687, 9),
    (1e-6, 0.315876980937539, 10),
]


@pytest.fixture(scope="module")
def adult(world):
    return load_dataset("adult", world)


@pytest.mark.parametrize("solver", ["pcg", "direct"])
@pytest.mark.parametrize("dtype", two_ranks_but(["float64"], ["float64", "float32"]))
@pytest.mark.parametrize("ridge, objective, steps", two_ranks_but(REFERENCE[:1], REFERENCE))
def test_adult_reaches_the_reference(world, adult, solver, dtype, ridge, objective, steps):
    problem = LogisticRegression(adult, world, ridge=ridge, dtype=dtype)
    result = newton(problem, options=NewtonOptions(solver=solver, tolerance=1e-9))
    assert result.converged and result.gradient_norm <= 1e-9
    assert abs(result.objective - objective) <= (1e-13 if dtype == "float64" else 1e-12)
    assert result.iterations <= steps + (3 if dtype == "float32" else 0)
    if ridge == 1e-3:
        assert round(problem.accuracy(result.x, adult.train), 5) == 0.85212
        assert round(problem.accuracy(result.x, adult.test), 5) == 0.85302


def test_history_and_ledger_agree(world, adult):
    problem = LogisticRegression(adult, world)
    passes, words = world.ledger.passes, world.ledger.words_reduced
    seen = []
    result = newton(problem, options=NewtonOptions(solver="pcg"), on_iteration=seen.append)
    assert tuple(seen) == result.history and len(seen) == result.iterations + 1
    first, last = seen[0], seen[-1]
    assert (first.iteration, first.step, first.cg_iterations, first.factor_rank) == (0, 0.0, 0, 0)
    assert first.objective == pytest.approx(np.log(2), rel=1e-15)
    assert last.objective == result.objective and last.gradient_norm == result.gradient_norm
    assert last.factor_rank == 40 and 0 < last.factor_error < 1
    cg = sum(row.cg_iterations for row in seen)
    sketches = 1 + sum(row.factor_rank != seen[1].factor_rank for row in seen[1:])
    assert world.ledger.passes - passes >= 2 + 2 * result.iterations + cg + sketches
    assert last.words_reduced - words >= (result.iterations + 1) * 110 + cg * 109 + 50 * 109
    assert np.all(np.diff([row.objective for row in seen]) <= 1e-15)


def test_fixed_steps_and_the_factor_alone(world, adult):
    problem = LogisticRegression(adult, world, ridge=0.1, dtype="float64")
    optimum = newton(problem, options=NewtonOptions(solver="direct", tolerance=1e-11)).x
    fixed = newton(
        problem, options=NewtonOptions(solver="direct", step="fixed", gamma=0.5, max_iterations=60)
    )
    assert fixed.converged and {row.step for row in fixed.history[1:]} == {0.5}
    alone = newton(problem, options=NewtonOptions(solver="lowrank", rank=60))
    assert alone.converged and alone.solver == "lowrank"
    for x in (fixed.x, alone.x):
        np.testing.assert_allclose(x, optimum, atol=1e-6)


def test_stops_that_are_not_convergence(world, adult):
    problem = LogisticRegression(adult, world, dtype="float64")
    short = newton(problem, options=NewtonOptions(max_iterations=2))
    assert not short.converged and short.iterations == 2 and "max_iterations" in short.reason
    deep = newton(
        problem, options=NewtonOptions(solver="direct", tolerance=1e-30, max_iterations=30)
    )
    assert not deep.converged and deep.gradient_norm < 1e-15 and "rounding" in deep.reason


def test_a_good_start_takes_no_step(world, adult):
    problem = LogisticRegression(adult, world)
    first = newton(problem)
    again = newton(problem, first.x)
    assert (again.iterations, again.converged) == (0, True)


@pytest.mark.parametrize("solver", ["pcg", "direct"])
def test_objectives_and_gradients_where_first_lengths_are_rejected(world, solver):
    rng = np.random.default_rng(0)
    X, own = rng.standard_normal((40, 5)), slice(*row_range(40, world.rank, world.size))
    counts = from_arrays(X[own], rng.poisson(3.0, 40)[own], world, targets="values")
    problem = GeneralizedLinearModel(counts, world, family="poisson", ridge=1e-3, intercept=True)
    start, found = np.array([0.0, 0, 0, 0, 0, -4]), []

    def compare(row, x):
        value, gradient = problem.objective_and_gradient(x.copy())
        found.append((row["objective"] - value, row["gradient_norm"] - np.linalg.norm(gradient)))

    optimizer = Newton(solver=solver)
    stopping = Stopping(gradient_tolerance=1e-9)
    result = train(problem, optimizer, start, stopping=stopping, callbacks=(compare,))
    lengths = result.history.column("step_length")
    assert result.status == "converged" and min(lengths[1:]) < 1 and len(found) > 5
    np.testing.assert_allclose(found, 0.0, atol=1e-9 * result.history.rows[0]["gradient_norm"])
    assert result.x.flags.writeable and result.best.flags.writeable and start.flags.writeable


def test_separable_data_without_ridge_do_not_hang(world):
    X = np.array([[1.0], [-1.0]]) if world.rank == 0 else np.empty((0, 1))
    y = np.array([1.0, -1.0]) if world.rank == 0 else np.empty(0)
    problem = LogisticRegression(from_arrays(X, y, world), world, ridge=0.0, dtype="float64")
    result = newton(problem, options=NewtonOptions(solver="direct", tolerance=1e-6))
    assert result.converged and result.x[0] > 10
    singular = from_arrays(np.hstack([X, X]), y, world)
    problem = LogisticRegression(singular, world, ridge=0.0, dtype="float64")
    with pytest.raises(NumericalError, match="raise `ridge`"):
        newton(problem, options=NewtonOptions(solver="direct"))


def test_options_are_checked(world, adult):
    problem = LogisticRegression(adult, world)
    for bad in (
        {"solver": "magic"}, {"step": "long"}, {"tolerance": 0.0}, {"rank": 0},
        {"gamma": -1.0}, {"tail": -1.0}, {"max_iterations": -1},
    ):  # fmt: skip
        with pytest.raises(InputError):
            newton(problem, options=NewtonOptions(**bad))
    with pytest.raises(InputError, match="109 parameters"):
        newton(problem, np.zeros(5))


def test_the_cost_model_knows_small_from_large():
    assert cheapest_solver(109, 32561, 2, 40, 10)[0] == "direct"
    assert cheapest_solver(4000, 32561, 2, 200, 10)[0] == "pcg"


def test_fourier_features_problem(world, adult):
    lifted = fourier_features(adult, world, 150, 6.0, seed=1, dtype="float32")
    problem = LogisticRegression(lifted, world, ridge=1e-6)
    pcg = newton(problem, options=NewtonOptions(solver="pcg", tolerance=1e-9))
    exact = newton(problem, options=NewtonOptions(solver="direct", tolerance=1e-9))
    assert pcg.converged and exact.converged
    assert pcg.objective == pytest.approx(exact.objective, abs=1e-12)


@pytest.mark.parametrize("method", ["eigh", "nystrom"])
def test_adult_factor_is_the_same_on_any_number_of_ranks(world, adult, method):
    problem = LogisticRegression(adult, world, dtype="float64")
    hessian = HessianOperator(problem, np.zeros(problem.n))
    alone = MatrixOperator(hessian.to_dense(), psd=True)
    spread, alone = (compress(H, 20, method=method, power=2) for H in (hessian, alone))
    np.testing.assert_allclose(spread.eigenvalues, alone.eigenvalues, rtol=1e-10)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_conjugate_gradients_against_scipy(world, preconditioned):
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    A = (Q * np.geomspace(1, 100, 60)) @ Q.T
    b = rng.standard_normal(60)
    operator = MatrixOperator(A, world, psd=True)
    M = compress(operator, 20).preconditioner(0.0) if preconditioned else None
    result = conjugate_gradients(operator, b, tolerance=1e-9, preconditioner=M)
    count = [0]
    x, _ = scipy.sparse.linalg.cg(
        A, b, rtol=0, atol=1e-9, M=None if M is None else M @ np.eye(60), maxiter=200,
        callback=lambda _: count.__setitem__(0, count[0] + 1),
    )  # fmt: skip
    assert result.converged and np.linalg.norm(A @ result.x - b) <= 2e-8
    np.testing.assert_allclose(result.x, x, atol=1e-7)
    assert abs(result.iterations - count[0]) <= 2


def test_conjugate_gradients_sees_negative_curvature(world):
    A = MatrixOperator(np.diag([1.0, -1.0, 2.0]), world)
    result = conjugate_gradients(A, np.ones(3), tolerance=1e-12)
    assert result.negative_curvature and not result.converged
    limited = conjugate_gradients(
        MatrixOperator(np.diag([1.0, 10.0])), np.ones(2), tolerance=1e-12, max_iterations=1
    )
    assert (limited.iterations, limited.converged) == (1, False)
