"""Optimizers on problems with known answers."""

import re

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse.linalg
from functions import Factorisation, Function, Rosenbrock, Saddle, SparseRegression
from marks import serial_but, slow_but, two_ranks_but

from hesscomp.compression import FORMATS, compress, compress_beside
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.datasets import from_arrays, load_dataset
from hesscomp.errors import InputError
from hesscomp.estimators import diagonal_factor
from hesscomp.factors import UNKNOWN, Diagonal, Tree
from hesscomp.krylov.cg import conjugate_gradients, steihaug
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.optimizers.batches import Sampling
from hesscomp.optimizers.catalogue import make_optimizer
from hesscomp.optimizers.drsom import DRSOM
from hesscomp.optimizers.first_order import SGD, AdaBelief, Adam, AdamW
from hesscomp.optimizers.gauss_newton import GaussNewton
from hesscomp.optimizers.hessian_free import HessianFree, truncated_cg
from hesscomp.optimizers.loop import Stopping, train
from hesscomp.optimizers.natural_gradient import NaturalGradient
from hesscomp.optimizers.newton import Newton
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.optimizers.soap import SOAP
from hesscomp.parallel.rows import row_range
from hesscomp.problems.function import FunctionProblem
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.logistic import LogisticRegression

pytestmark = pytest.mark.ranks(most=3)

ADULT, RIDGE = 0.326523399290756, 1e-3  # the optimum: see test_newton.py

SECOND_ORDER = {
    "newton-cg": NewtonCG(rank=10),
    "plain": NewtonCG(preconditioner="none"),
    "diagonal": NewtonCG(preconditioner="diagonal"),
    "trust-region": NewtonCG("trust-region", rank=10),
    "saddle-free": NewtonCG(solver="saddle-free", rank=15),
    "gauss-newton": GaussNewton(),
    "hessian-free": HessianFree(damping=0.1),
    "hessian-free low-rank": HessianFree(damping=0.1, preconditioner="low-rank", rank=10),
    "newton hbs": Newton("pcg", preconditioner="hbs", rank=2),
    "newton-cg hbs": NewtonCG(preconditioner="hbs", rank=2),
    "trust-region hbs": NewtonCG("trust-region", preconditioner="hbs", rank=2),
    "hessian-free hbs": HessianFree(damping=0.1, preconditioner="hbs", rank=2),
    "natural-gradient": NaturalGradient(),
    "drsom": DRSOM(),
    "drsom history": DRSOM(count=4),
    "drsom krylov": DRSOM("krylov", count=5),
    "drsom free": DRSOM(control="radius-free"),
    "drsom cubic": DRSOM(control="cubic"),
    "drsom differences": DRSOM(curvature="differences"),
    "drsom interpolation": DRSOM(count=3, curvature="interpolation"),
}
FIRST_ORDER = {
    "sgd": SGD(learning_rate=1.0),
    "nesterov": SGD(learning_rate=1.0, nesterov=True),
    "adam": Adam(learning_rate=0.05),
    "adabelief": AdaBelief(learning_rate=0.05),
    "soap": SOAP(learning_rate="cosine:0.05,steps=200"),
}


def synthetic_rows(rows=600, n=20, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, n)) * np.geomspace(1, 0.05, n)
    y = np.where(rng.random(rows) < 1 / (1 + np.exp(-3 * X.sum(axis=1))), 1.0, -1.0)
    return X, y


def synthetic(world, dtype="float64", ridge=RIDGE):
    X, y = synthetic_rows()
    start, stop = row_range(len(y), world.rank, world.size)
    data = from_arrays(X[start:stop], y[start:stop], world)
    return LogisticRegression(data, world, ridge=ridge, dtype=dtype)


@pytest.fixture(scope="module")
def small(world):
    return synthetic(world)


@pytest.fixture(scope="module")
def adult(world):
    return LogisticRegression(load_dataset("adult", world), world, ridge=RIDGE, dtype="float64")


@pytest.fixture(scope="module")
def small_optimum():
    """scikit-learn's."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    X, y = synthetic_rows()
    model = sklearn.LogisticRegression(
        C=1 / (len(y) * RIDGE), fit_intercept=False, solver="newton-cholesky", tol=1e-13
    ).fit(X, y)
    x = model.coef_[0]
    return float(np.logaddexp(0, -y * (X @ x)).mean() + RIDGE / 2 * x @ x)


@pytest.mark.parametrize(
    "name",
    two_ranks_but(
        [
            "newton-cg", "trust-region", "saddle-free", "gauss-newton", "hessian-free",
            "newton hbs", "natural-gradient", "drsom",
        ],
        SECOND_ORDER,
    ),
)  # fmt: skip
def test_second_order_methods_reach_scikit_learns_optimum(small, small_optimum, name):
    stopping = Stopping(max_steps=150, gradient_tolerance=1e-8)
    result = train(small, SECOND_ORDER[name], stopping=stopping)
    assert result.converged, result
    assert abs(result.objective - small_optimum) <= 1e-12
    assert result.best_objective <= result.history.column("objective").min()


FACTORS = {
    "low-rank": {"rank": 5},
    "hbs": {"rank": 3, "format": "hbs", "leaf_size": 5},
    "hodlr": {"rank": 3, "format": "hodlr", "leaf_size": 5},
    "diagonal": {},
    "hbs+low-rank": {"rank": 2},
}


def factor_of(kind: str, problem):
    """A factor of a kind, of the Hessian at zero."""
    H, asked = HessianOperator(problem, np.zeros(problem.n)), FACTORS[kind]
    if kind == "diagonal":
        return diagonal_factor(H, 40)
    if kind == "hbs+low-rank":
        return compress_beside(H, compress(H, format="hbs", rank=1, leaf_size=5), **asked)
    return compress(H, **asked)


@pytest.mark.parametrize("kind", serial_but(["hodlr"], FACTORS))
def test_any_factor_is_the_first_preconditioner(small, small_optimum, kind):
    """It serves as it is, and new ones get its format and tree."""
    factor, stopping = factor_of(kind, small), Stopping(max_steps=60, gradient_tolerance=1e-8)
    for optimizer in (
        Newton("auto", preconditioner=factor, rank=3),
        NewtonCG(preconditioner=factor, rank=3),
        HessianFree(damping=0.1, preconditioner=factor, rank=3),
    ):
        assert optimizer.factor_format == (kind if kind in FORMATS else "low-rank")
        result = train(small, optimizer, stopping=stopping)
        assert result.converged and abs(result.objective - small_optimum) <= 1e-12
        kept, sketched = optimizer.current_factor(
            HessianOperator(small, result.x), optimizer.start(result.x), 1.0
        )
        assert sketched == 0 and kept.kind == kind
        made = optimizer.new_factor(HessianOperator(small, result.x))
        assert kind in ("low-rank", "diagonal", "hbs+low-rank") or made.tree == factor.tree
    with pytest.raises(InputError, match="does not precondition n = 20"):
        train(small, Newton("pcg", preconditioner=Diagonal(np.ones(3), certificate=UNKNOWN)))


@pytest.mark.serial
def test_orderings_and_options_of_the_factor_that_preconditions(small):
    order, H = np.arange(20)[::-1], HessianOperator(small, np.zeros(20))
    tree = Tree.halves(20, 4, order)
    for ordering, options in (
        (order, {"leaf_size": 4}), (tree, {"tolerance": 0.1}), (np.linspace(1, 0, 20), {})
    ):  # fmt: skip
        optimizer = NewtonCG(
            preconditioner="hbs", ordering=ordering, factor_options=options, rank=2
        )
        made = optimizer.new_factor(H)
        assert np.array_equal(made.permutation, order)
        assert ("tolerance" in options) == (made.provenance.tolerance_requested == 0.1)
        assert optimizer.same_options(optimizer.describe())
    assert make_optimizer("newton-cg", ["preconditioner=hbs", "ordering=natural"])
    with pytest.raises(InputError, match="an ordering is one of"):
        Newton("pcg", preconditioner="hbs", ordering="sideways").new_factor(H)
    twice = Newton(preconditioner="hbs", ordering=np.zeros(20, int))
    assert twice.solver_for(small)[0] == "direct"
    with pytest.raises(InputError, match="does not name each"):  # also where no factor is made
        train(small, twice)


@pytest.mark.serial
def test_a_run_says_once_that_a_preconditioner_is_indefinite(small, caplog):
    factor = -1 * compress(HessianOperator(small, np.zeros(20)), 2, format="hbs", leaf_size=5)
    factor = compress(factor, 4, format="hbs", leaf_size=5)
    train(small, NewtonCG(preconditioner=factor, rank=19), stopping=Stopping(max_steps=4))
    first, last = (record.getMessage() for record in caplog.records)
    assert "is not positive definite" in first
    assert re.fullmatch(rf"\d times in this run, at first: {re.escape(first)}", last)


@pytest.mark.serial
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_baselines_come_near_it(small, small_optimum, name):
    result = train(small, FIRST_ORDER[name], stopping=Stopping(max_steps=200))
    assert result.status == "stopped" and result.steps == 200
    assert 0 <= result.best_objective - small_optimum <= 1e-4


ON_ADULT = {
    "newton-cg": (NewtonCG(), 1e-12),
    "plain": (NewtonCG(preconditioner="none"), 1e-12),
    "diagonal": (NewtonCG(preconditioner="diagonal"), 1e-12),
    "trust-region": (NewtonCG("trust-region"), 1e-12),
    "saddle-free": (NewtonCG(solver="saddle-free", rank=100), 1e-12),
    "gauss-newton": (GaussNewton(), 1e-12),
    "hessian-free": (HessianFree(damping=1e-2), 1e-12),
    "hessian-free low-rank": (HessianFree(damping=1e-2, preconditioner="low-rank"), 1e-12),
    "drsom": (DRSOM("krylov", count=8), 1e-12),
    "sgd": (SGD(1.0), 1e-4),
    "nesterov": (SGD(1.0, nesterov=True), 1e-4),
    "adam": (Adam(0.05), 1e-4),
    "adabelief": (AdaBelief(0.05), 1e-4),
}


@pytest.mark.serial
@pytest.mark.parametrize(
    "name", slow_but(["newton-cg", "trust-region", "gauss-newton", "drsom", "nesterov"], ON_ADULT)
)
def test_adult(adult, name):
    optimizer, gap = ON_ADULT[name]
    result = train(adult, optimizer, stopping=Stopping(max_steps=400, target=ADULT + gap))
    assert result.converged and -1e-12 <= result.best_objective - ADULT <= gap


DRSOM_ON_ADULT = {
    "history": DRSOM(count=10),
    "free": DRSOM("krylov", count=8, control="radius-free"),
    "cubic": DRSOM("krylov", count=8, control="cubic"),
    "differences": DRSOM("krylov", count=8, curvature="differences"),
    "interpolation": DRSOM("krylov", count=4, curvature="interpolation"),
    "random": DRSOM("random", count=10),
}


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("name", DRSOM_ON_ADULT)
def test_more_kinds_of_drsom_on_adult(adult, name):
    stopping = Stopping(max_steps=3000, target=ADULT + 1e-12)
    assert train(adult, DRSOM_ON_ADULT[name], stopping=stopping).converged


@pytest.fixture
def double():
    """Keras in float64 throughout: its rates and moments too."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


@pytest.mark.serial
@pytest.mark.parametrize(
    "options",
    [{"nesterov": False}, {"nesterov": True, "weight_decay": 0.125}, {}, {"weight_decay": 0.125}],
    ids=["momentum", "nesterov", "adam", "adamw"],
)
def test_baselines_are_those_of_keras(world, double, options):
    """Step by step, from the same start; Keras has no AdaBelief."""
    # numbers that float32 has too, through which Keras passes its own
    rate, momentum, betas, steps = 2.0**-9, 1 - 2.0**-3, (1 - 2.0**-3, 1 - 2.0**-7), 25
    if "nesterov" not in options:  # Keras adds epsilon before the bias is taken out
        kinds = (AdamW, keras.optimizers.AdamW) if options else (Adam, keras.optimizers.Adam)
        ours = kinds[0](rate, 0.0, *betas, epsilon=1e-14, **options)
        theirs = kinds[1](rate, beta_1=betas[0], beta_2=betas[1], epsilon=1e-14, **options)
    else:
        ours = SGD(rate, momentum=momentum, **options)
        theirs = keras.optimizers.SGD(rate, momentum=momentum, **options)
    problem = Rosenbrock(world, 6)
    x = keras.Variable(problem.initial / 2)
    theirs.build([x])
    for _ in range(steps):
        _, g = problem.evaluate(x.numpy())
        theirs.apply_gradients([(tf.constant(g), x)])
    result = train(problem, ours, problem.initial / 2, stopping=Stopping(max_steps=steps))
    assert result.steps == steps and not result.history.events
    np.testing.assert_allclose(result.x, x.numpy(), rtol=1e-8)


@pytest.mark.serial
def test_adabelief_as_published(world):
    """Algorithm 2 of Zhuang and others (2020), written out."""
    problem, steps, rate, epsilon = Rosenbrock(world, 6), 25, 0.01, 1e-8
    x, m, s = problem.initial / 2, np.zeros(6), np.zeros(6)
    for t in range(1, steps + 1):
        _, g = problem.evaluate(x)
        m = 0.9 * m + 0.1 * g
        s = 0.999 * s + 0.001 * (g - m) ** 2 + epsilon
        x = x - rate * (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + epsilon)
    optimizer = AdaBelief(rate, epsilon=epsilon)
    result = train(problem, optimizer, problem.initial / 2, stopping=Stopping(max_steps=steps))
    np.testing.assert_allclose(result.x, x, rtol=1e-12)


def test_a_step_of_drsom_reduces_few_words(small):
    """Beside the gradient and the objective at the next point: m (m + 1) / 2."""
    for count in (2, 4):
        rows = train(small, DRSOM(count=count), stopping=Stopping(max_steps=12)).history.rows
        taken = rows[-1]["words"] - rows[-2]["words"]
        assert rows[-1]["trials"] == 1 and taken == small.n + 1 + count * (count + 1) / 2


def test_single_precision_curvature_reaches_the_optimum_too(world, small_optimum):
    problem = synthetic(world, dtype="float32")
    stopping = Stopping(max_steps=100, gradient_tolerance=1e-10)
    for optimizer in (NewtonCG(rank=10), GaussNewton(), DRSOM("krylov", count=5)):
        result = train(problem, optimizer, stopping=stopping)
        assert result.converged and abs(result.objective - small_optimum) <= 1e-12


@pytest.mark.serial
def test_batches_find_the_optimum_of_all_rows(small, small_optimum):
    stopping = Stopping(max_steps=60, gradient_tolerance=1e-8)
    for optimizer in (NewtonCG(rank=10), GaussNewton(), HessianFree(damping=0.1)):
        before = small.world.ledger.columns
        result = train(small, optimizer, sampling=Sampling(curvature=0.3), stopping=stopping)
        assert result.converged and abs(result.objective - small_optimum) <= 1e-12
        columns = result.history.rows[-1]["columns"]
        assert columns == pytest.approx(0.3 * (small.world.ledger.columns - before))
    stopping = Stopping(max_steps=300)
    for optimizer in (SGD(0.3), Adam(0.02), DRSOM(accept=False, control="radius", radius=0.3)):
        sampling = Sampling(gradient=0.3, curvature=0.3, seed=3)
        result = train(small, optimizer, sampling=sampling, stopping=stopping)
        assert result.best_objective - small_optimum <= 0.02, optimizer
        assert result.history.rows[-1]["passes"] < 2 * 300


@pytest.mark.serial
@pytest.mark.parametrize("n", [2, 10, 100])
@pytest.mark.parametrize(
    "optimizer",
    [
        NewtonCG("trust-region", preconditioner="none"), NewtonCG("trust-region", rank=100),
        NewtonCG(preconditioner="none"), NewtonCG(solver="saddle-free", rank=100),
    ],
    ids=["trust-region", "low-rank", "line search", "saddle-free"],
)  # fmt: skip
def test_rosenbrock_by_newton(world, n, optimizer):
    stopping = Stopping(max_steps=800, gradient_tolerance=1e-9)
    result = train(Rosenbrock(world, n), optimizer, stopping=stopping)
    assert result.converged
    known = scipy.optimize.rosen(result.x)
    assert result.objective == pytest.approx(known, abs=1e-15)
    if known > 1e-15:  # a local minimum, which n >= 4 has one of
        assert n >= 4 and np.linalg.eigvalsh(scipy.optimize.rosen_hess(result.x))[0] > 0


@pytest.mark.serial
@pytest.mark.parametrize("control", ["radius", "radius-free", "cubic"])
def test_rosenbrock_by_drsom(world, control):
    """In two dimensions the two directions are all there are: Newton's rate."""
    stopping = Stopping(max_steps=60, gradient_tolerance=1e-9)
    result = train(Rosenbrock(world, 2), DRSOM(control=control), stopping=stopping)
    assert result.converged and np.allclose(result.x, 1, atol=1e-8)
    stopping = Stopping(max_steps=1500, gradient_tolerance=1e-7)
    for n in (20, 100):
        result = train(Rosenbrock(world, n), DRSOM(control=control, count=6), stopping=stopping)
        assert result.converged


@pytest.mark.serial
@pytest.mark.parametrize("curvature", ["products", "differences", "interpolation"])
def test_more_directions_than_dimensions(world, curvature):
    stopping = Stopping(max_steps=60, gradient_tolerance=1e-7)
    optimizer = DRSOM(count=6, curvature=curvature)
    result = train(Rosenbrock(world, 2), optimizer, stopping=stopping)
    assert result.converged and np.allclose(result.x, 1, atol=1e-6)


@pytest.mark.serial
@pytest.mark.parametrize(
    "optimizer", [SGD(5e-4), SGD(5e-4, nesterov=True), Adam(0.01), AdaBelief(0.01)]
)
def test_rosenbrock_by_the_baselines(world, optimizer):
    """Adam climbs on its way, for more steps than second-order methods may without a gain."""
    result = train(Rosenbrock(world, 2), optimizer, stopping=Stopping(10_000, target=1e-4))
    assert result.converged


@pytest.mark.serial
@pytest.mark.parametrize("n", slow_but([400], [400, 1000]))
def test_sparse_regression_of_the_drsom_paper(world, n):
    """There n = 1000; m = n / 2, p = 0.5: stationary, and as low as SciPy's L-BFGS goes."""
    problem = SparseRegression(world, n, n // 2)
    stopping = Stopping(max_steps=400, gradient_tolerance=1e-5)
    known = scipy.optimize.minimize(
        problem.evaluate, problem.initial, jac=True, method="L-BFGS-B",
        options={"maxiter": 2000, "maxfun": 4000},
    )  # fmt: skip
    for optimizer in (DRSOM(), DRSOM(control="radius-free"), DRSOM("krylov", count=6)):
        result = train(problem, optimizer, stopping=stopping)
        assert result.converged
        assert result.objective <= 1.05 * known.fun
        assert np.linalg.eigvalsh(problem.hessian(result.x))[0] >= -1e-8


SADDLE_LEAVERS = {
    "drsom": DRSOM(),
    "cubic": DRSOM(control="cubic"),
    "krylov": DRSOM("krylov", count=3),
    "trust-region": NewtonCG("trust-region", preconditioner="none"),
    "saddle-free": NewtonCG(solver="saddle-free"),
}


@pytest.mark.serial
@pytest.mark.parametrize("name", SADDLE_LEAVERS)
def test_strict_saddles_are_left(world, name):
    problem = Saddle(world, [1e-7, 0.5])
    result = train(
        problem, SADDLE_LEAVERS[name], stopping=Stopping(max_steps=60, gradient_tolerance=1e-9)
    )
    assert result.converged and result.objective == pytest.approx(-0.25, abs=1e-15)
    assert abs(result.x[0]) == pytest.approx(1)


@pytest.mark.serial
def test_a_random_direction_leaves_the_saddle_itself(world):
    """From the stable manifold, where gradient and moves see only y; plain Newton ends in 0."""
    start = Saddle(world, [0.0, 0.5])
    stopping = Stopping(max_steps=60, gradient_tolerance=1e-9)
    newton = train(start, NewtonCG(preconditioner="none"), stopping=stopping)
    assert newton.converged and np.abs(newton.x).max() <= 1e-9
    result = train(start, DRSOM("random"), stopping=stopping)
    assert result.converged and result.objective == pytest.approx(-0.25, abs=1e-15)


@pytest.mark.serial
@pytest.mark.parametrize("name", ["trust-region", "saddle-free", "krylov"])
def test_matrix_factorisation_finds_the_matrix(world, name):
    optimizer = {**SADDLE_LEAVERS, "krylov": DRSOM("krylov", count=12)}[name]
    stopping = Stopping(max_steps=400, target=1e-14)
    result = train(Factorisation(world, 12, 3), optimizer, stopping=stopping)
    assert result.converged


@pytest.mark.serial
@pytest.mark.parametrize(
    "optimizer",
    [GaussNewton(), *(HessianFree(1.0, preconditioner=kind) for kind in ("none", "kronecker"))],
    ids=["gauss-newton", "hessian-free", "kronecker"],
)
def test_a_linear_network_finds_the_matrix(world, optimizer):
    """Two layers with three units between, and a matrix of rank three: methods for networks."""
    rng = np.random.default_rng(0)
    M = rng.standard_normal((12, 3)) @ rng.standard_normal((3, 8))
    layers = (keras.layers.Dense(size, use_bias=False) for size in (3, 8))
    model = keras.Sequential([keras.Input((12,)), *layers])
    model.set_weights([rng.standard_normal(w.shape) / 3 for w in model.get_weights()])
    data = np.eye(12)[: 12 * (world.rank == 0)], M[: 12 * (world.rank == 0)]
    problem = KerasProblem(model, "squared-error", data, world, dtype="float64")
    result = train(problem, optimizer, stopping=Stopping(max_steps=150, target=1e-12))
    assert result.converged
    left, right = result.best[:36].reshape(12, 3), result.best[36:].reshape(3, 8)
    np.testing.assert_allclose(left @ right, M, atol=1e-4)


def small_set():
    """Moré, Garbow and Hillstrom (1981): the function, the start, the minimum."""

    def beale(x):
        return sum((c - x[0] * (1 - x[1] ** i)) ** 2 for i, c in enumerate((1.5, 2.25, 2.625), 1))

    def wood(x):
        return (
            100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2 + 90 * (x[3] - x[2] ** 2) ** 2
            + (1 - x[2]) ** 2 + 10 * (x[1] + x[3] - 2) ** 2 + (x[1] - x[3]) ** 2 / 10
        )  # fmt: skip

    def powell(x):
        return (
            (x[0] + 10 * x[1]) ** 2 + 5 * (x[2] - x[3]) ** 2 + (x[1] - 2 * x[2]) ** 4
            + 10 * (x[0] - x[3]) ** 4
        )  # fmt: skip

    def freudenstein(x):
        first = -13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1]
        return first**2 + (-29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1]) ** 2

    return {
        "beale": (beale, [1.0, 1.0], [0.0]),
        "wood": (wood, [-3.0, -1.0, -3.0, -1.0], [0.0]),
        "powell": (powell, [3.0, -1.0, 0.0, 1.0], [0.0]),
        "freudenstein": (freudenstein, [0.5, -2.0], [0.0, 48.98425367924]),
    }


@pytest.mark.serial
@pytest.mark.parametrize("name", small_set())
def test_a_small_set_of_hard_functions(world, name):
    function, start, minima = small_set()[name]
    one = np.ones((1 if world.rank == 0 else 0, 1))
    problem = FunctionProblem(
        lambda x, X, y: tf.reduce_sum(X) * function(x), np.array(start), (one, one), world,
        dtype="float64",
    )  # fmt: skip
    for optimizer in (NewtonCG("trust-region", preconditioner="none"), DRSOM(count=4)):
        stopping = Stopping(max_steps=300, gradient_tolerance=1e-8)
        result = train(problem, optimizer, stopping=stopping)
        assert result.converged
        assert min(abs(result.objective - minimum) for minimum in minima) <= 1e-9


# Conjugate gradients


def system(n=60, seed=0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    A = (Q * np.geomspace(0.1, 10, n)) @ Q.T
    return (A + A.T) / 2, rng.standard_normal(n), rng


@pytest.mark.serial
@pytest.mark.parametrize("warm", [False, True])
def test_the_cg_of_hessian_free_against_scipy(world, warm):
    A, b, rng = system()
    M, start = Diagonal(np.diag(A) ** -0.75, certificate=UNKNOWN), rng.standard_normal(60) * warm
    result = truncated_cg(MatrixOperator(A, world), b, start, M, 250)
    iterates = [start]
    scipy.sparse.linalg.cg(
        A, b, x0=start, rtol=0, atol=0, maxiter=250, M=np.diag(M.entries),
        callback=lambda x: iterates.append(x.copy()),
    )  # fmt: skip
    phi = [x @ A @ x / 2 - b @ x for x in iterates]

    def done(i):  # Martens (2010), section 4.4
        k = max(10, int(np.ceil(0.1 * i)))
        return i > k and phi[i] < 0 and (phi[i] - phi[i - k]) / phi[i] < k * 5e-4

    last = next(i for i in range(1, 251) if done(i))
    assert result.iterations == last + warm
    np.testing.assert_allclose(result.iterates[-1][0], iterates[last], rtol=1e-6, atol=1e-8)
    kept = sorted({int(np.ceil(1.3**j)) for j in range(20)} & set(range(last)) | {last})
    assert len(result.iterates) == len(kept)
    for i, (p, form) in zip(kept, result.iterates, strict=True):
        np.testing.assert_allclose(p, iterates[i], rtol=1e-6, atol=1e-7)
        assert form == pytest.approx(p @ A @ p, rel=1e-6)


@pytest.mark.serial
def test_the_cg_of_gauss_newton_against_scipy(world):
    A, b, _ = system(seed=1)
    tolerance = 0.1 * np.linalg.norm(b)
    result = conjugate_gradients(MatrixOperator(A, world), b, tolerance=tolerance)
    count = [0]
    x, _ = scipy.sparse.linalg.cg(
        A, b, rtol=0.1, callback=lambda _: count.__setitem__(0, count[0] + 1)
    )
    assert result.iterations == count[0]
    np.testing.assert_allclose(result.x, x, rtol=1e-10)
    np.testing.assert_allclose(result.residual, b - A @ x, atol=1e-12)


@pytest.mark.serial
def test_truncated_cg_in_a_trust_region(world):
    """Inside: the solution. Outside, or with negative curvature: the boundary, below Cauchy's."""
    A, b, _ = system(seed=2)
    free = steihaug(MatrixOperator(A, world), b, 1e9, tolerance=1e-10)
    assert not free.boundary
    np.testing.assert_allclose(free.x, np.linalg.solve(A, b), rtol=1e-6)
    M = Diagonal(1 / (np.abs(np.diag(A)) + 0.1), certificate=UNKNOWN)
    for matrix in (A, A - 0.5 * np.eye(60)):
        for preconditioner in (None, M):
            norm = np.ones(60) if preconditioner is None else 1 / M.entries
            result = steihaug(
                MatrixOperator(matrix, world), b, 0.7, tolerance=1e-8, preconditioner=preconditioner
            )
            assert result.boundary
            assert np.sqrt(result.x @ (norm * result.x)) == pytest.approx(0.7, rel=1e-10)
            value = result.x @ matrix @ result.x / 2 - b @ result.x
            assert result.model == pytest.approx(value, rel=1e-9)
            z = b / norm
            steps = np.linspace(0, 0.7 / np.sqrt(z @ (norm * z)), 200)
            assert value <= (steps**2 / 2 * (z @ matrix @ z) - steps * (b @ z)).min() + 1e-12


def test_the_second_moment_of_gradients(world, small):
    X, y = synthetic_rows()
    x = np.random.default_rng(1).standard_normal(20)
    slopes = -y / (1 + np.exp(y * (X @ x)))
    expected = ((slopes[:, None] * X) ** 2).mean(axis=0)
    np.testing.assert_allclose(small.squared_gradients(x), expected, rtol=1e-12)
    start, stop = row_range(len(y), world.rank, world.size)

    def loss_sum(theta, X, y):
        margins = y * tf.linalg.matvec(X, theta)
        return tf.reduce_sum(tf.math.softplus(-margins))

    rows = X[start:stop], y[start:stop]
    function = FunctionProblem(loss_sum, np.zeros(20), rows, world, dtype="float64")
    np.testing.assert_allclose(function.squared_gradients(x), expected, rtol=1e-12)
    with pytest.raises(
        InputError, match="lacks the capability 'squared gradients'; take another prec"
    ):
        Rosenbrock(world, 2).squared_gradients(np.zeros(2))


@pytest.mark.serial
def test_a_preconditioner_saves_products(world):
    """Adult at ridge 1/m: 3 times fewer CG products than without, 1.5 times than a diagonal."""
    problem = LogisticRegression(
        load_dataset("adult", world), world, ridge=1 / 32561, dtype="float64"
    )
    products = {}
    for kind in ("low-rank", "diagonal", "none"):
        stopping = Stopping(max_steps=30, gradient_tolerance=1e-9)
        result = train(problem, NewtonCG(preconditioner=kind, rank=60), stopping=stopping)
        assert result.converged
        products[kind] = np.nansum(result.history.column("cg_iterations"))
    assert 3 * products["low-rank"] <= products["none"]
    assert 1.5 * products["low-rank"] <= products["diagonal"]


@pytest.mark.serial
def test_options_out_of_range():
    for kind, bad in (
        (DRSOM, {"directions": "up"}), (DRSOM, {"count": 21}), (DRSOM, {"radius": 0}),
        (DRSOM, {"control": "x"}), (NewtonCG, {"globalization": "magic"}),
        (NewtonCG, {"globalization": "trust-region", "solver": "saddle-free"}),
        (NewtonCG, {"solver": "saddle-free", "preconditioner": "hbs"}),
        (Newton, {"solver": "lowrank", "preconditioner": "hbs"}),
        (Newton, {"ordering": "natural"}), (NewtonCG, {"preconditioner": 3}),
        (NewtonCG, {"preconditioner": "hbs", "factor_options": {"tolerance": 3}}),
        (NewtonCG, {"preconditioner": "hbs", "factor_options": {"rank": 3}}),
        (HessianFree, {"factor_options": {"power": 1}}),
        (NewtonCG, {
            "solver": "saddle-free", "preconditioner": Diagonal(np.ones(2), certificate=UNKNOWN)
        }),
        (NewtonCG, {"damping": -1}), (NewtonCG, {"rank": 0}), (NewtonCG, {"oversample": -1}),
        (NewtonCG, {"seed": -1}), (HessianFree, {"damping": 0}), (HessianFree, {"decay": 2}),
        (GaussNewton, {"forcing": 1}), (SGD, {"learning_rate": 0}), (SGD, {"momentum": 1}),
        (Adam, {"beta1": 1}), (AdaBelief, {"epsilon": 0}), (Adam, {"decay": -1}),
        (SOAP, {"memory": 1}), (SOAP, {"every": 0}), (SOAP, {"rotation": -1}),
        (Newton, {"tail": -1.0}), (Newton, {"fixed_step": -1}),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"{kind.name}: "):
            kind(**bad)


@pytest.mark.serial
def test_functions_are_what_they_say():
    """Derivatives of the test functions themselves, by SciPy's differences."""
    from hesscomp.parallel.world import World

    serial, rng = World.serial(), np.random.default_rng(4)
    for problem in (
        Rosenbrock(serial, 5), SparseRegression(serial, 8, 5), Saddle(serial, [0.3, 0.2]),
        Factorisation(serial, 4, 2),
    ):  # fmt: skip
        assert isinstance(problem, Function)
        x = rng.standard_normal(problem.n)
        g = scipy.optimize.approx_fprime(x, lambda x: problem.evaluate(x)[0])  # noqa: B023
        np.testing.assert_allclose(problem.evaluate(x)[1], g, rtol=1e-4, atol=1e-4)
        H = scipy.optimize.approx_fprime(x, lambda x: problem.evaluate(x)[1])  # noqa: B023
        np.testing.assert_allclose(problem.hessian(x), H, rtol=1e-4, atol=1e-4)
