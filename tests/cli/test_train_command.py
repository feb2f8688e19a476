"""`hesscomp train` from end to end, and optimizers on networks."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from marks import slow_but
from oracles import by_rank_0
from test_training import check_kills, equal

from hesscomp.cli import newton as newton_command
from hesscomp.cli import train as train_command
from hesscomp.cli.main import main
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError
from hesscomp.optimizers import optimizer_names
from hesscomp.optimizers.batches import Sampling, View
from hesscomp.optimizers.catalogue import OPTIMIZERS, make_optimizer, options_of
from hesscomp.optimizers.drsom import DRSOM
from hesscomp.optimizers.first_order import SGD, Adam
from hesscomp.optimizers.gauss_newton import GaussNewton
from hesscomp.optimizers.hessian_free import HessianFree
from hesscomp.optimizers.initial import sparse_initial
from hesscomp.optimizers.loop import Saving, Stopping, train
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.optimizers.preconditioners import kronecker
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.problems.function import FunctionProblem
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.problem import ParameterBlock

NETWORK_OPTIMIZERS = {
    "trust-region": NewtonCG("trust-region", rank=10),
    "saddle-free": NewtonCG(solver="saddle-free", rank=20),
    "gauss-newton": GaussNewton(),
    "hessian-free": HessianFree(damping=1.0),
    "hessian-free low-rank": HessianFree(damping=1.0, preconditioner="low-rank", rank=10),
    "hessian-free kronecker": HessianFree(damping=1.0, preconditioner="kronecker"),
    "drsom": DRSOM(count=3),
    "drsom krylov": DRSOM("krylov", count=4, control="radius-free"),
}
NETWORK_BATCHES = Sampling(gradient=60, curvature=40, acceptance=60)


def network(world, loss="softmax-cross-entropy"):
    """A small classifier of noisy spirals' coordinates."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    turn = rng.uniform(0.5, 3, 240)
    X = np.stack([turn * np.cos(turn + 2 * y), turn * np.sin(turn + 2 * y)], axis=1)
    X = (X + 0.05 * rng.standard_normal(X.shape)).astype(np.float32)
    layers = [keras.Input((2,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    weights = np.random.default_rng(1)
    model.set_weights([weights.standard_normal(w.shape) / 2 for w in model.get_weights()])
    rows = slice(*row_range(240, world.rank, world.size))
    targets = np.eye(3)[y] if loss == "squared-error" else y
    data = X[rows], targets[rows]
    return KerasProblem(model, loss, data, world, ridge=1e-4, dtype="float64")


@pytest.fixture(scope="module")
def problem(world):
    return network(world)


@pytest.fixture(scope="module")
def regression(world):
    return network(world, "squared-error")


@pytest.fixture(scope="module")
def plain(problem, regression):
    """What gradient descent reaches."""
    stopping = Stopping(max_steps=30)
    return [
        train(each, SGD(0.3), stopping=stopping).best_objective for each in (problem, regression)
    ]


@pytest.mark.serial
@pytest.mark.ranks(most=3)
@pytest.mark.parametrize(
    "name",
    slow_but(
        ["trust-region", "saddle-free", "gauss-newton", "hessian-free kronecker", "drsom"],
        NETWORK_OPTIMIZERS,
    ),
)
def test_second_order_methods_beat_gradient_descent_on_a_network(problem, regression, plain, name):
    for each, by_plain in zip((problem, regression), plain, strict=True):
        result = train(each, NETWORK_OPTIMIZERS[name], stopping=Stopping(max_steps=30))
        assert result.best_objective < 0.8 * by_plain
        assert result.objective == pytest.approx(result.best_objective, rel=1e-12)


@pytest.mark.ranks(most=3)
def test_batches_and_ranks_and_weights_written_back(world, problem):
    """Mini-batches, the same on one rank alone; the model gets what was found."""
    alone = network(World.serial())
    for optimizer in (Adam(0.02), HessianFree(damping=1.0), DRSOM(accept=False, radius=0.1)):
        settings = {"sampling": NETWORK_BATCHES, "stopping": Stopping(max_steps=10)}
        results = [
            train(problem, optimizer, **settings),
            by_rank_0(world, train, alone, optimizer, **settings),
        ]
        left, right = (result.history.column("objective") for result in results)
        np.testing.assert_allclose(left, right, rtol=1e-8)
    best = results[0].best
    alone.set_weights(best)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    value = loss(alone.data.y, alone.model(alone.data.X)) + 1e-4 / 2 * best @ best
    assert float(value) == pytest.approx(results[0].best_objective, rel=1e-5)


@pytest.mark.ranks(most=2)
def test_squared_gradients_of_a_network(world, problem):
    """Against the gradient of each row alone."""
    one = network(World.serial())
    each = [slice(i, i + 1) for i in range(one.rows)]
    rows = [one.loss_and_gradient(one.initial, row)[:-1] for row in each]
    expected = np.mean(np.square(rows), axis=0)
    found = problem.squared_gradients(problem.initial)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    squared_mean = np.mean(rows, axis=0) ** 2
    assert np.linalg.norm(found) > 3 * np.linalg.norm(squared_mean)


@pytest.mark.ranks(most=2)
def test_the_kronecker_preconditioner(world, problem):
    """The damping is split between A and G of each layer; the same on one rank alone."""
    M = kronecker(View(problem), problem.initial, 0.1, 5)
    K = problem.kronecker(problem.initial, "sampled", seed=5)
    split = K.preconditioner(0.1, split=True).to_dense()
    for v in np.random.default_rng(0).standard_normal((2, problem.n)):
        np.testing.assert_allclose(M @ v, split @ v, atol=1e-10)
    for first, A, G in problem.kronecker_matrices(problem.initial, "sampled", seed=5).layers:
        part = slice(first, first + len(A) * len(G))
        np.testing.assert_allclose(K.to_dense()[part, part], np.kron(A, G), atol=1e-13)
        pi = np.sqrt(np.trace(A) / len(A) * len(G) / np.trace(G))
        A, G = A + pi * np.sqrt(0.1) * np.eye(len(A)), G + np.sqrt(0.1) / pi * np.eye(len(G))
        np.testing.assert_allclose(split[part, part], np.linalg.inv(np.kron(A, G)), atol=1e-10)
    alone = network(World.serial())
    there = kronecker(View(alone), alone.initial, 0.1, 5)
    np.testing.assert_allclose(M @ np.ones(problem.n), there @ np.ones(problem.n), atol=1e-10)


SHARED = keras.layers.Dense(2, "tanh")


@pytest.mark.ranks(most=3)
def test_kronecker_factors_in_a_run(world, problem, shared_tmp):
    """Stopped and gone on with, and on one rank alone."""
    optimizer = HessianFree(damping=1.0, preconditioner="kronecker")
    sampling, short, long = Sampling(curvature=0.5), Stopping(max_steps=3), Stopping(max_steps=6)
    whole = train(problem, optimizer, sampling=sampling, stopping=long)
    for stopping in (short, long):
        rest = train(
            problem, optimizer, sampling=sampling, stopping=stopping, saving=Saving(str(shared_tmp))
        )
    assert np.array_equal(rest.x, whole.x)
    one = network(World.serial())
    alone = by_rank_0(world, train, one, optimizer, sampling=sampling, stopping=long)
    left, right = (run.history.column("objective") for run in (whole, alone))
    np.testing.assert_allclose(left, right, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.ranks(most=3)
@pytest.mark.parametrize("name", [*NETWORK_OPTIMIZERS, "adam"])
def test_a_networks_runs_killed_at_20_steps(problem, shared_tmp, name):
    optimizer = NETWORK_OPTIMIZERS.get(name, Adam(0.02))
    check_kills(problem, shared_tmp, optimizer, len(name), NETWORK_BATCHES)


@pytest.mark.slow
@pytest.mark.ranks(most=3)
@pytest.mark.parametrize("name", [*NETWORK_OPTIMIZERS, "adam"])
def test_a_networks_reproducible_runs_do_not_depend_on_the_ranks(world, name):
    optimizer = NETWORK_OPTIMIZERS.get(name, Adam(0.02))
    spread, alone = (
        network(World(comm, reproducible=True)) for comm in (world.comm, World.serial().comm)
    )
    for sampling in (Sampling(), NETWORK_BATCHES):
        settings = {"sampling": sampling, "stopping": Stopping(max_steps=6)}
        together = train(spread, optimizer, **settings)
        assert equal(together, by_rank_0(world, train, alone, optimizer, **settings))


LAYERS = {
    "convolution": [keras.layers.Reshape((4, 4, 1)), keras.layers.Conv2D(3, 2)],
    "dense on rows of rows": [keras.layers.Reshape((4, 4)), keras.layers.Dense(3)],
    "shared": [keras.layers.Dense(2), SHARED, SHARED],
}


@pytest.mark.parametrize("name", LAYERS)
def test_squared_gradients_row_by_row(name):
    """Where no product of squares gives them."""
    last = [keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((16,)), *LAYERS[name], *last])
    rng = np.random.default_rng(3)
    data = rng.standard_normal((6, 16)), rng.integers(0, 2, 6)
    one = KerasProblem(model, "softmax-cross-entropy", data, World.serial(), dtype="float64")
    rows = [one.loss_and_gradient(one.initial, slice(i, i + 1))[:-1] for i in range(6)]
    found = one.squared_gradients(one.initial)
    np.testing.assert_allclose(found, np.mean(np.square(rows), axis=0), rtol=1e-10)


@pytest.mark.ranks(most=3)
def test_the_objective_alone(world, problem):
    x = np.random.default_rng(2).standard_normal(problem.n)
    one = np.ones((int(world.rank == 0), 1))
    function = FunctionProblem(
        lambda x, X, y: tf.reduce_sum(X) * tf.reduce_sum(tf.sin(x)), x, (one, one), world, ridge=0.1
    )
    fixed = network(World(world.comm, reproducible=True))
    for each in (problem, function, fixed):
        expected, _ = each.objective_and_gradient(x)
        assert each.objective(x) == pytest.approx(expected, rel=1e-13)


def test_sparse_initial_weights():
    blocks = (ParameterBlock("kernel", (40, 7), 0), ParameterBlock("bias", (7,), 280),
              ParameterBlock("small", (5, 3), 287))  # fmt: skip
    x = sparse_initial(blocks, seed=3)
    kernel = x[:280].reshape(40, 7)
    assert np.all(np.count_nonzero(kernel, axis=0) == 15) and not x[280:287].any()
    assert np.count_nonzero(x[287:]) == 15
    assert 0.7 < kernel[kernel != 0].std() < 1.3
    assert np.array_equal(x, sparse_initial(blocks, seed=3))
    assert not np.array_equal(x, sparse_initial(blocks, seed=4))


def test_optimizers_by_name():
    assert set(optimizer_names()) == set(OPTIMIZERS)
    for name, kind in OPTIMIZERS.items():
        assert make_optimizer(name) == kind() and options_of(name)
    made = make_optimizer("drsom", ["directions=krylov", "count=5", "accept=no", "radius=0.5"])
    assert made == DRSOM("krylov", 5, accept=False, radius=0.5)
    for setting, remedy in (("x=1", "no option"), ("count=many", "int"), ("accept=1.5", "bool")):
        with pytest.raises(InputError, match=remedy):
            make_optimizer("drsom", [setting])
    with pytest.raises(InputError, match="unknown optimizer"):
        make_optimizer("magic")


def test_train_command(tmp_path, capsys):
    """Stopped and gone on with; then the picture of the run."""
    run, point = tmp_path / "run", tmp_path / "x.npy"
    words = [
        "train", "--problem", "adult-logistic", "--optimizer", "newton-cg", "--set", "rank=20",
        "--run", str(run), "--save-every", "1", "--dtype", "float64",
    ]  # fmt: skip
    assert main([*words, "--max-steps", "2"]) == 0
    assert "stopped after 2 steps: max_steps is 2\n" in capsys.readouterr().out
    assert main([*words, "--tol", "1e-9", "--save-point", str(point)]) == 0
    shown = capsys.readouterr().out
    assert "0.3265233992907" in shown and "gradient norm reached" in shown
    assert len(np.load(point)) == 109
    picture = tmp_path / "run.png"
    assert main(["plot", str(run), "--out", str(picture)]) == 0
    assert picture.stat().st_size > 10_000


@pytest.mark.serial
def test_train_command_says_what_is_wrong(capsys):
    assert main(["train", "--optimizer", "drsom", "--set", "help"]) == 0
    assert "directions=momentum" in capsys.readouterr().out
    words = ["train", "--data", "adult", "--optimizer", "sgd", "--set"]
    assert main([*words, "rate=1"]) == 2
    assert "learning_rate" in capsys.readouterr().err
    assert main([*words, "learning_rate=1e300"]) == 3
    assert "20 times" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("objective", "shown"),
    [
        (0.3265233992907, "0.3265233993"),
        (3.456789012345e-11, "3.4567890123e-11"),
        (-1e-5, "-1.0000000000e-05"),
        (1234567.89, "1.2345678900e+06"),
        (0.0, "0.0000000000"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_a_log_shows_the_digits_of_an_objective_in_a_column(objective, shown):
    row = {"objective": objective, "gradient_norm": 1e-12, "passes": 3, "seconds": 0.5}
    newton = {"iteration": 2, "step": 1.0, "cg_iterations": 4, "factor_rank": 0}
    for command, more in (
        (train_command, {"step": 2.0}),
        (newton_command, newton | {"words_reduced": 9}),
    ):
        end = command.HEADER.index("objective") + len("objective")
        line = command._line(row | more)
        assert line.split()[1] == shown and line[:end].endswith(shown) and line[end] == " "


def started(command, line: str) -> subprocess.Popen:
    """The command, once it has printed a line with these words and another one."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen([str(word) for word in command], **pipes)
    while line not in running.stdout.readline():
        pass
    running.stdout.readline()
    return running


@pytest.mark.parametrize("kept", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c_ends_a_run_in_good_order(
    mpiexec, launch_environment, monkeypatch, tmp_path, ranks, kept
):
    """To all ranks, as from a terminal, or to mpiexec; with a folder and without."""
    for name in set(os.environ) - set(launch_environment):
        monkeypatch.delenv(name)
    launcher = [mpiexec, "-n", "2"] if ranks == 2 else []
    command = [*launcher, sys.executable, "-m", "hesscomp", "train", "--data", "adult"]
    command += ["--optimizer", "sgd", "--max-steps", "1000000"]
    folder = tmp_path / "run"
    running = started([*command, *(["--run", folder] if kept else [])], "objective")
    running.send_signal(signal.SIGINT)
    error = running.communicate(timeout=120)[1]
    assert running.returncode == 130
    assert "hesscomp: interrupted: ends after the current block product" in error
    (line,) = [line for line in error.splitlines() if "interrupted at step" in line]
    said = f"resumes from {folder}" if kept else "nothing is kept; with --run FOLDER"
    assert said in line and "with objective 0." in line
    if kept:
        assert (folder / "history.csv").stat().st_size > 0
        assert (folder / "checkpoint.h5").exists()


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_reader_that_has_gone_ends_a_run_quietly(mpiexec, ranks):
    launcher = [mpiexec, "-n", "2"] if ranks == 2 else []
    command = [*launcher, sys.executable, "-m", "hesscomp", "train", "--data", "adult"]
    running = started([*command, "--optimizer", "sgd", "--max-steps", "1000000"], "objective")
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait(timeout=120) in (141, -signal.SIGPIPE)  # a shell says 141 to both


def test_a_signal_ends_a_run_with_a_checkpoint_to_go_on_from(tmp_path, capsys):
    words = ["train", "--data", "adult", "--optimizer", "sgd", "--run", str(tmp_path / "run")]
    command = [sys.executable, "-m", "hesscomp", *words, "--max-steps", "1000000"]
    running = started(command, "objective")  # the table's head: it takes steps now
    running.send_signal(signal.SIGUSR1)
    assert "ended by a signal" in running.communicate(timeout=120)[1]
    assert running.returncode == 75
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    step = int(float(history[-1].split(",")[0]))
    assert main([*words, "--max-steps", str(step + 3)]) == 0
    assert f"stopped after {step + 3} steps" in capsys.readouterr().out
