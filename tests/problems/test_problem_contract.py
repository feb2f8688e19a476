"""The contract of docs/problems.md: its example as a user's problem, everywhere; capabilities."""

import copy
import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
from functions import Cliff, Rosenbrock
from oracles import by_rank_0, check_operator
from shards import block_rows

from hesscomp.cli.main import main
from hesscomp.compression import compress
from hesscomp.curvature.finite_difference import FiniteDifferenceHessian
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError
from hesscomp.factors import load_factor
from hesscomp.optimizers.batches import Sampling
from hesscomp.optimizers.drsom import DRSOM
from hesscomp.optimizers.first_order import SGD
from hesscomp.optimizers.gauss_newton import GaussNewton
from hesscomp.optimizers.hessian_free import HessianFree
from hesscomp.optimizers.loop import Saving, Stopping, train
from hesscomp.optimizers.newton import Newton, NewtonOptions, newton
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.parallel.world import World
from hesscomp.problems import capabilities
from hesscomp.problems.capabilities import INITIAL_POINT, SAMPLING, Capability
from hesscomp.problems.contract import check_problem
from hesscomp.problems.evaluation import HeldOut
from hesscomp.problems.function import FunctionProblem
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.problems.problem import ParameterBlock

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "problems.md").read_text()
EXAMPLE = re.search(r"```python\n(# mine.py\n.*?)```", PAGE, re.DOTALL)[1]
MARGINS = re.search(r"```python\n(# mine.py, continued\n.*?)```", PAGE, re.DOTALL)[1]
CHECK = re.search(r"```python\n(from .*?check_problem\(.*?)```", PAGE, re.DOTALL)[1]
BARE = """
from mine import problem as whole
from hesscomp.problems.problem import Problem

class Bare(Problem):
    name, psd = "bare", True
    def __init__(self, world):
        known = whole(world)
        vars(self).update({name: value for name, value in vars(known).items() if name != "initial"})
        self.known = known
    def objective_and_gradient(self, x):
        return self.known.objective_and_gradient(x)
    def linearize(self, x):
        return self.known.linearize(x)

def problem(world):
    return Bare(world)
"""


@pytest.fixture
def mine(shared_tmp, world, monkeypatch):
    """The page's module, as a user's in the current folder."""
    if world.rank == 0:
        (shared_tmp / "mine.py").write_text(EXAMPLE + MARGINS)
        (shared_tmp / "bare.py").write_text(BARE)
    world.gather(None)
    monkeypatch.chdir(shared_tmp)
    monkeypatch.syspath_prepend(str(shared_tmp))
    # TensorFlow runs in this process already, with the threads that it has.
    monkeypatch.setattr("hesscomp.curvature.tensorflow.set_threads", lambda threads: None)
    importlib.invalidate_caches()
    forget("mine", "bare")  # those of other tests in this process
    yield importlib.import_module("mine")
    forget("mine", "bare")


def forget(*names):
    """Let modules be imported anew."""
    for name in names:
        sys.modules.pop(name, None)


def rows():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((300, 12)) / 4
    return A, rng.poisson(np.exp(A @ rng.standard_normal(12)))


def run(*arguments) -> int:
    return main([str(word) for word in arguments])


@pytest.fixture(scope="module")
def optimum():
    """SciPy's: (objective, x)."""
    A, y = rows()
    found = scipy.optimize.minimize(
        lambda x: np.mean(np.exp(A @ x) - y * (A @ x)) + 5e-4 * x @ x,
        np.zeros(12),
        jac=lambda x: A.T @ (np.exp(A @ x) - y) / 300 + 1e-3 * x,
        tol=1e-13,
    )
    return found.fun, found.x


@pytest.mark.ranks(most=3)
def test_the_pages_check(mine):
    exec(CHECK, vars(mine))  # the page's own example


def wrong(mine, world, **changes):
    """The example's problem with other attributes or methods."""
    kind = type("Wrong", (mine.PoissonRegression,), changes)
    problem = mine.problem(world)
    problem.__class__ = kind
    return problem


@pytest.mark.ranks(most=3)
def test_what_a_check_of_a_problem_finds(world, mine):
    kind = mine.PoissonRegression

    def shorter(self, x):
        return kind.linearize(self, 0.9 * x + 0.1)

    def negative(self, x):
        curvature = kind.linearize(self, x)
        curvature.w = -curvature.w
        return curvature

    def halved(self, x, rows=slice(None)):
        sums = kind.loss_and_gradient(self, x, rows)
        return np.append(sums[:-1] / 2, sums[-1])

    def own(self, x):
        sums = self.loss_and_gradient(x) / self.rows  # not summed over the ranks
        return sums[-1], sums[:-1]

    for changes, message in (
        ({"linearize": shorter}, "Hessian differ by .* correct linearize"),
        ({"linearize": negative}, "Hessian differ by .* correct linearize"),
        ({"loss_and_gradient": halved}, "correct objective_and_gradient or loss_and_gradient"),
        ({"objective": lambda self, x: 3.0}, "objective gives 3, and objective_and_gradient "),
        ({"objective_and_gradient": lambda self, x: (1.0, x[:2])}, r"shape \(2,\), not \(12,\)"),
        ({"parameter_blocks": ()}, "blocks hold 0 parameters, and n is 12"),
        ({"ridge": -1.0}, "ridge must be a finite number"),
    ):
        problem = wrong(mine, world, **changes)
        for name in changes:
            vars(problem).pop(name, None)
        with pytest.raises(InputError, match=message):
            check_problem(problem)
    problem = mine.problem(world)
    problem.parameter_blocks = (ParameterBlock("a", (4,), 0), ParameterBlock("b", (8,), 5))
    with pytest.raises(InputError, match=r"block b begins at 5; .* has to begin at 4"):
        check_problem(problem)
    former = mine.problem(world)
    former.blocks = vars(former).pop("parameter_blocks")  # as its class would have set them
    check_problem(former)
    assert former.blocks is former.parameter_blocks
    problem = mine.problem(world)
    del problem.initial, problem.fingerprint
    with pytest.raises(InputError, match="PoissonRegression sets no fingerprint; a problem has"):
        check_problem(problem)
    problem.fingerprint = "none"
    with pytest.raises(InputError, match="declares the capability 'initial point' and has no init"):
        check_problem(problem)
    if world.size > 1:
        with pytest.raises(InputError, match="gradient differ between the ranks"):
            check_problem(wrong(mine, world, objective_and_gradient=own))
    concave = Cliff(world, [1.0, 1.0])
    check_problem(concave)
    concave.psd = True
    concave.evaluate = lambda x: (-x @ x / 2, -x)
    concave.hessian = lambda x: -np.eye(2)
    with pytest.raises(InputError, match="declares its Hessian positive semidefinite"):
        check_problem(concave)


@pytest.mark.ranks(most=3)
def test_the_packages_problems_keep_the_contract(world):
    check_problem(Rosenbrock(world, 4))
    A, y = rows()
    here = block_rows(world, 300)
    signs = from_arrays(A[here], np.where(y[here] > 1, 1.0, -1.0), world)
    for dtype in ("float32", "float64"):
        check_problem(LogisticRegression(signs, world, dtype=dtype))
        function = FunctionProblem(
            lambda t, A, y: tf.reduce_sum((tf.linalg.matvec(A, t) ** 3 - y) ** 2), np.full(12, 0.1),
            (A[here], y[here].astype(float)), world, dtype=dtype, ridge=0.1,
        )  # fmt: skip
        check_problem(function)
    stack = [keras.Input((12,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
    model = keras.Sequential(stack)
    check_problem(KerasProblem(model, "squared-error", (A[here], A[here, :2]), world))


@pytest.mark.ranks(most=3)
@pytest.mark.parametrize("reproducible", [False, True])
def test_a_users_problem_has_its_derivatives(world, mine, reproducible):
    problem = mine.problem(World(world.comm, reproducible=reproducible))
    A, y = rows()
    x = np.random.default_rng(1).standard_normal(12)
    H = (A.T * np.exp(A @ x)) @ A / 300
    check_operator(HessianOperator(problem, x), H, 1e-12)
    check_operator(FiniteDifferenceHessian(problem, x), H, 1e-6)
    slopes = (np.exp(A @ x) - y)[:, None] * A
    np.testing.assert_allclose(problem.squared_gradients(x), np.mean(slopes**2, axis=0))
    value, gradient = problem.objective_and_gradient(x)
    np.testing.assert_allclose(gradient, slopes.mean(axis=0) + 1e-3 * x)
    assert problem.objective(x) == value
    part = problem.sampled(0.5, seed=3).sampled(0.5, seed=4)
    assert part.rows == 75 and part.run_identity(x)["sample"] == "0.5, seed 3; 0.5, seed 4"
    assert HessianOperator(part, x).to_dense().shape == (12, 12)


@pytest.mark.ranks(most=3)
def test_a_users_problem_is_compressed_and_trained(world, mine, optimum, shared_tmp):
    problem, (value, best) = mine.problem(world), optimum
    factor = problem.describe(compress(HessianOperator(problem, best), 12), best)
    A, _ = rows()
    w = np.linalg.eigvalsh((A.T * np.exp(A @ best)) @ A / 300)[::-1]
    np.testing.assert_allclose(factor.eigenvalues, w, rtol=1e-10)
    assert factor.provenance.problem == "poisson-regression" and factor.blocks[0][1] == (12,)
    optimizers = (
        Newton(), Newton("pcg", rank=5), NewtonCG(rank=5), NewtonCG(preconditioner="diagonal"),
        HessianFree(damping=0.1), GaussNewton(damping=1e-3), DRSOM(count=4),
    )  # fmt: skip
    for number, optimizer in enumerate(optimizers):
        stopping = Stopping(max_steps=100, gradient_tolerance=1e-8)
        saving = Saving(str(shared_tmp / f"run-{number}"))
        result = train(problem, optimizer, stopping=stopping, saving=saving)
        assert result.converged, optimizer
        assert result.objective == pytest.approx(value, rel=1e-12)
    sampling = Sampling(gradient=100, curvature=0.5, acceptance=100)
    here = block_rows(world, 300)
    test = rows()[0][here], rows()[1][here]
    result = train(problem, SGD(0.1), sampling=sampling, stopping=Stopping(200), test=test)
    assert result.best_objective < value + 0.01
    assert result.test.accuracy is None and result.test.rows == 300
    assert result.test.loss == pytest.approx(
        result.best_objective - 5e-4 * result.best @ result.best, rel=1e-12
    )


@pytest.mark.ranks(most=3)
def test_newton_on_a_users_problem(world, mine, optimum, shared_tmp):
    """With and without margins: the same iterates; stopped and gone on with: the same bits."""
    plain, quick = mine.problem(world), mine.problem(world)
    quick.__class__ = mine.PoissonWithMargins
    check_problem(quick)
    for options in (NewtonOptions(), NewtonOptions("pcg", rank=4)):
        results = [newton(problem, options=options) for problem in (plain, quick)]
        for result in results:
            assert result.converged and result.objective == pytest.approx(optimum[0], rel=1e-12)
        assert results[0].iterations == results[1].iterations
        np.testing.assert_allclose(results[1].x, results[0].x, atol=1e-10)
        for name, problem, whole in zip("pq", (plain, quick), results, strict=True):
            folder = shared_tmp / f"{options.solver}-{name}"
            newton(problem, options=replace(options, max_iterations=2), folder=folder)
            assert np.array_equal(newton(problem, options=options, folder=folder).x, whole.x)


@pytest.mark.ranks(most=3)
def test_a_users_problem_reproduces_its_bits(world, mine):
    x = np.full(12, 0.1)

    def made(problem):
        sample = problem.sampled(0.4, seed=1)
        values = [*sample.objective_and_gradient(x), problem.squared_gradients(x)]
        values.append(compress(HessianOperator(problem, x), 4).eigenvectors)

        values += newton(problem).x, newton(with_margins(problem)).x
        return values

    def with_margins(problem):
        other = copy.copy(problem)
        other.__class__ = mine.PoissonWithMargins
        return other

    together = made(mine.problem(World(world.comm, reproducible=True)))
    alone = by_rank_0(world, made, mine.problem(World(World.serial().comm, reproducible=True)))
    for here, there in zip(together, alone, strict=True):
        assert np.array_equal(here, there)


@pytest.mark.ranks(most=3)
def test_a_users_problem_goes_through_the_commands(world, mine, optimum):
    common = ["--problem", "mine:problem"]
    assert run("train", *common, "--optimizer", "newton", "--tol", 1e-9, "--run", "r",
               "--save-point", "x.npy") == 0  # fmt: skip
    np.testing.assert_allclose(np.load("x.npy"), optimum[1], atol=1e-8)
    assert run("compress", *common, "--rank", 12, "--at", "x.npy", "--out", "f.h5") == 0
    w = load_factor("f.h5").eigenvalues
    assert run("spectrum", *common, "--at", "x.npy", "--out", "s.png", "--json", "s.json",
               "--factor", "f.h5") == 0  # fmt: skip
    curve = json.loads(Path("s.json").read_text())
    assert curve["problem"] == "poisson-regression" and curve["n"] == 12
    assert curve["largest_ritz_value"] == pytest.approx(w[0], rel=1e-10)
    assert run("compress", *common, "--rank", 3, "--at", "trained", "--epochs", 2, "--sample", 0.5,
               "--operator", "finite-difference", "--out", "g.h5") == 0  # fmt: skip
    assert run("update", "f.h5", *common, "--rank", 2, "--at", "zero", "--out", "h.h5") == 0
    assert run("plan", *common, "--ranks", 2, "--rank", 3) == 0
    assert run("figure", "mnist-hessian", *common, "--rank", 6, "--at", "x.npy",
               "--out", "p.png") == 0  # fmt: skip


@pytest.mark.ranks(most=3)
def test_a_problem_that_declares_nothing(world, mine, optimum, capfd):
    """What needs no capability works; all else names the capability and the remedy."""
    common = ["--problem", "bare:problem"]
    for optimizer in ("newton", "newton-cg"):
        assert run("train", *common, "--optimizer", optimizer, "--tol", 1e-8) == 0
    assert run("compress", *common, "--rank", 4, "--out", "f.h5") == 0
    assert run("compress", *common, "--rank", 4, "--reproducible", "--out", "f.h5") == 0
    capfd.readouterr()
    for command, name, remedy in (
        (["compress", "--sample", 0.5], "sampling", "use all rows"),
        (["compress", "--at", "initial"], "initial point", "start from zero or from a file"),
        (["compress", "--at", "trained"], "sampling", "use all rows"),
        (["compress", "--operator", "ggn"], "Gauss-Newton matrix", "take the Hessian, or an opt"),
        (["compress", "--operator", "fisher"], "Fisher matrix", "take the Hessian or another"),
        (["compress", "--operator", "finite-difference"], "gradients of a shard", "take the Hess"),
        (["compress", "--operator", "monte-carlo-fisher"], "Monte Carlo Fisher matrix", "take th"),
        (["train", "--optimizer", "hessian-free"], "squared gradients", "take another precond"),
        (["train", "--optimizer", "sgd", "--gradient-batch", 0.5], "sampling", "use all rows"),
        (["train", "--optimizer", "hessian-free", "--set", "preconditioner=kronecker"],
         "Kronecker factors", "take another preconditioner"),
    ):  # fmt: skip
        out = [] if command[0] == "train" else ["--rank", 2, "--out", "g.h5"]
        assert run(*command, *common, *out) == 2
        said = capfd.readouterr().err
        if world.rank == 0:
            assert f"bare lacks the capability '{name}'; {remedy}" in said
    bare = importlib.import_module("bare").problem(world)
    with pytest.raises(InputError, match="bare lacks the capability 'test rows'; leave the test"):
        HeldOut(bare, (np.ones((3, 12)), np.ones(3)))
    with pytest.raises(InputError, match="bare lacks the capability 'gradients of a shard'"):
        super(type(bare), bare).objective_and_gradient(np.zeros(12))


def test_the_page_names_every_capability():
    made = {
        name: value for name, value in vars(capabilities).items() if isinstance(value, Capability)
    }
    for name, capability in made.items():
        members = ", ".join(f"`{member}`" for member in capability.members)
        assert f"| `{name}` | {members} |" in PAGE
    assert len(re.findall(r"^\| `[A-Z_]+` \|", PAGE, re.MULTILINE)) == len(made)


SHAPE = Capability("shape", ("shape",), "take a rectangle")


def test_a_problem_declares_what_it_can_do():
    problem = Rosenbrock(World.serial(), 4)
    assert problem.can(INITIAL_POINT) and not problem.can(SAMPLING) and not problem.can(SHAPE)
    problem.require(INITIAL_POINT)
    assert np.array_equal(problem.first_point(), problem.initial)


def test_what_a_problem_lacks_is_said_with_the_remedy():
    problem = Rosenbrock(World.serial(), 4)
    with pytest.raises(
        InputError,
        match=r"rosenbrock lacks the capability 'sampling'; use all rows.* declares it and has",
    ):
        problem.sampled(0.5)
    with pytest.raises(InputError, match="'shape'; take a rectangle"):
        problem.require(SHAPE)


def test_a_declaration_without_its_method_is_refused():
    with pytest.raises(TypeError, match=r"Liar declares the capability 'sampling'.* sampled"):

        class Liar(Rosenbrock):
            capabilities = frozenset({SAMPLING})
