"""Networks as users name them: named problems, model files, points, trajectories, the figure."""

import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from oracles import Sharded, dense, error, matrix

from hesscomp.cli.main import main
from hesscomp.compression import compress
from hesscomp.curvature.gauss_newton import GaussNewtonOperator, MonteCarloFisherOperator
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.tensorflow import keras
from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError
from hesscomp.estimators import exact_frobenius_norm
from hesscomp.factors import load_factor, load_trajectory, save_factor, trajectory_writer
from hesscomp.factors.point import is_keras_file, load_point
from hesscomp.optimizers.first_order import Adam
from hesscomp.optimizers.loop import Stopping, train
from hesscomp.optimizers.recipe import train_by_recipe
from hesscomp.parallel.layout import Replicated
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.problems.catalogue import NAMED_PROBLEMS, SOFTMAX_LOSS, Recipe
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.models import build_network, load_model
from hesscomp.runs.slurm import REQUEUE

ROOT = Path(__file__).resolve().parents[2]

SIZES = {
    "mnist-mlp": 11_935,
    "mnist-cnn": 107_786,
    "mnist-cnn4": 66_506,
    "mnist-cnn7": 196_778,
    "mnist-autoencoder": 2_837_314,
    "curves-autoencoder": 842_340,
    "adult-mlp": 3_553,
}
ROWS, FEATURES = 300, 60
DATA = ["--data", "d.npz", "--dtype", "float64"]
MODEL = ["--model", "m.keras", "--loss", SOFTMAX_LOSS, *DATA]
RECURRENT = ["--model", "lstm.keras", *MODEL[2:]]
LOGISTIC = ["--data", "two.csv"]


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HESSCOMP_DATA", raising=False)
    # TensorFlow runs in this process already, with the threads that it has.
    monkeypatch.setattr("hesscomp.curvature.tensorflow.set_threads", lambda threads: None)
    X, y = rows()
    np.savez("d.npz", X=X, y=y)
    return tmp_path


def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    X = rng.standard_normal((ROWS, FEATURES)) * 2 * 0.8 ** np.arange(FEATURES)
    return X, np.argmax(X @ rng.standard_normal((FEATURES, 3)), axis=1)


def tiny(seed: int = 1) -> keras.Model:
    """60-2-3, n = 131, of which 9 belong to the last layer."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(name="tiny")
    model.add(keras.Input((FEATURES,)))
    model.add(keras.layers.Dense(2, "tanh", name="hidden"))
    model.add(keras.layers.Dense(3, name="logits"))
    return model


def tiny_problem(model, world=None) -> KerasProblem:
    world = world or World.serial()
    start, stop = row_range(ROWS, world.rank, world.size)
    X, y = rows()
    data = from_arrays(X[start:stop], y[start:stop], world, targets="classes")
    return KerasProblem(model, SOFTMAX_LOSS, data, world, dtype="float64")


def sorted_spectrum(H: np.ndarray) -> np.ndarray:
    w = np.linalg.eigvalsh(H)
    return w[np.argsort(-np.abs(w))]


def run(*arguments) -> int:
    return main([str(word) for word in arguments])


def refused(capsys, *arguments) -> str:
    """The one line with which a command refuses its arguments."""
    capsys.readouterr()
    try:
        status = run(*arguments)
    except SystemExit as usage:
        status = usage.code
    assert status == 2
    lines = capsys.readouterr().err.strip().split("\n")
    (line,) = [line for line in lines if "product columns" not in line]  # slow machines' progress
    return line


# Named problems and training


@pytest.mark.parametrize("name", SIZES)
def test_named_networks_have_their_sizes_and_seeded_weights(name):
    named = NAMED_PROBLEMS[name]
    model = build_network(named.network, name, 0)
    weights = [np.asarray(weight) for weight in model.trainable_variables]
    assert sum(weight.size for weight in weights) == SIZES[name]
    assert model.output_shape == (None, named.network.widths[-1])
    assert len({weight.ravel()[0] for weight in weights if weight.ndim > 1}) * 2 == len(weights)
    if model.count_params() < 2e5:
        again, other = (build_network(named.network, name, seed) for seed in (0, 1))
        assert all(map(np.array_equal, weights, again.get_weights()))
        assert not np.array_equal(weights[0], other.get_weights()[0])


def test_autoencoders_have_a_linear_code():
    model = build_network(NAMED_PROBLEMS["curves-autoencoder"].network, "c", 0)
    units = [(layer.units, layer.activation is keras.activations.linear) for layer in model.layers]
    assert [width for width, linear in units if linear] == [6, 784]
    assert [width for width, _ in units] == [400, 200, 100, 50, 25, 6, 25, 50, 100, 200, 400, 784]


def test_training_is_keras_adam():
    problem = tiny_problem(tiny())
    variable = keras.Variable(problem.initial, dtype="float64")
    optimizer = keras.optimizers.Adam(1e-2, epsilon=0.0)  # (its powers of beta are float32)
    for _ in range(6):
        gradient = problem.objective_and_gradient(np.asarray(variable))[1]
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float64")], [variable])
    ours = Adam(1e-2, epsilon=1e-300)  # Keras' stands elsewhere
    x = train(problem, ours, stopping=Stopping(max_steps=6)).x
    assert np.linalg.norm(x - np.asarray(variable)) <= 1e-5 * np.linalg.norm(x - problem.initial)


@pytest.mark.ranks
def test_training_does_not_depend_on_the_number_of_ranks(world):
    recipe = Recipe(epochs=5, batch=50)
    points = [
        train_by_recipe(recipe, problem, seed=4).x
        for problem in (tiny_problem(tiny(), world), tiny_problem(tiny()))
    ]
    assert np.linalg.norm(points[0] - points[1]) <= 1e-9 * np.linalg.norm(points[1])


# Sketches that start from a factor


@pytest.mark.ranks
@pytest.mark.parametrize("layout", ["replicated", "rows"])
def test_a_started_sketch_saves_columns(world, layout):
    A = matrix("exponential", signs=True)
    drift = np.random.default_rng(7).standard_normal(A.shape)
    B = A + 1e-3 * (drift + drift.T) / np.sqrt(len(A))
    last = compress(Sharded(A, world, False), 8, oversample=2, block=4, layout=layout)
    operator = Sharded(B, world, False)
    options = {"oversample": 2, "block": 4, "residual_tolerance": 1e-12, "layout": layout}
    cold = compress(operator, 8, max_columns=16, **options)
    warm = compress(operator, 8, max_columns=16, start=last, **options)
    full = compress(operator, 8, start=last, **options)
    w = np.linalg.eigvalsh(B)
    best = np.sqrt(np.sum(np.sort(np.abs(w))[:-8] ** 2))
    errors = [error(factor.in_layout(Replicated(len(A))), B) for factor in (cold, warm, full)]
    assert errors[1] <= 1.02 * best < errors[0]
    assert full.provenance.columns == 2 * 10 + 8  # (1 + power) (rank + oversample), and probes
    assert errors[2] <= errors[1] * (1 + 1e-9)


def test_starts_that_do_not_fit_are_refused(world):
    A = Sharded(matrix("exponential"), world, True)
    factor = compress(A, 5)
    assert compress(A, 5, start=factor).provenance.method == "krylov"
    assert error(compress(A, 5, start=0 * factor), matrix("exponential")) < 1
    with pytest.raises(InputError, match="only method krylov starts from a factor, not eigh"):
        compress(A, 5, start=factor, method="eigh")
    with pytest.raises(InputError, match="a factor of n = 150 does not fit an operator of"):
        compress(Sharded(np.eye(4), world, True), 2, start=factor)


@pytest.mark.ranks
def test_exact_norm(world):
    A = matrix("polynomial", signs=True)
    for operator in (Sharded(A, world, False), Sharded(A, world, False).in_rows()):
        assert exact_frobenius_norm(operator, panel=37) == pytest.approx(
            np.linalg.norm(A), rel=1e-12
        )


# Commands


def test_compress_a_users_model(in_tmp, capsys):
    model = tiny()
    model.save("m.keras")
    arguments = ["--operator", "ggn", "--blocks", "logits,hidden/bias", "--sample", 0.5]
    limits = ["--ridge", 0.5, "--memory-limit", "30K"]
    assert run("compress", *MODEL, *arguments, *limits, "--rank", 11, "--out", "f.h5") == 0
    said = capsys.readouterr().out
    assert "tiny on d.npz: 300 rows, 131 parameters; layer-wise engine: every" in said
    problem = tiny_problem(model).sampled(0.5, 0)
    G = GaussNewtonOperator(problem, problem.initial).to_dense()
    kept = np.arange(120, 131)
    F = load_factor("f.h5")
    assert F.blocks == (
        ("hidden/bias", (2,), 0), ("logits/kernel", (2, 3), 2), ("logits/bias", (3,), 8),
    )  # fmt: skip
    assert np.array_equal(F.parameters, problem.initial[kept])
    assert np.linalg.norm(dense(F) - G[np.ix_(kept, kept)]) <= 1e-10 * np.linalg.norm(G)
    source = F.provenance
    assert (source.problem, source.ridge, source.rows) == ("tiny", 0.5, problem.rows)
    assert source.operator == "GaussNewtonOperator, restricted"
    assert source.dataset == "d.npz (sample 0.5, seed 0)"


@pytest.mark.usefixtures("eager")
def test_a_first_look_at_a_large_model_takes_less_and_says_so(in_tmp, capsys, monkeypatch):
    tiny().save("m.keras")
    assert run("compress", *MODEL, "--out", "f.h5") == 0  # a small one is taken whole
    assert "first look" not in capsys.readouterr().out
    monkeypatch.setattr("hesscomp.workflows.factors.LOOK_SIZE", 131 * 150)
    monkeypatch.setattr("hesscomp.workflows.factors.LOOK_ROWS", 20)
    assert run("compress", *MODEL, "--out", "f.h5") == 0
    assert "first look: rank 10, on about 150 of the 300 rows; give" in capsys.readouterr().out
    source = load_factor("f.h5").provenance
    assert source.dataset == "d.npz (sample 0.5, seed 0)" and source.rank_requested == 10
    # A plan is one of what the same words then do.
    plan, n = ["plan", *MODEL, "--ranks", 1, "--method", "eigh"], source.rows
    assert run(*plan) == 0
    said = capsys.readouterr().out
    assert "first look: rank 10" in said and f"n = 131, {n} rows, rank 10:" in said
    assert run("compress", *MODEL, "--method", "eigh", "--out", "f.h5") == 0
    made, _ = load_factor("f.h5").provenance, capsys.readouterr()
    assert f"products       {made.columns} columns" in said and made.rows == n
    assert run(*plan, "--rank", 12) == 0
    said = capsys.readouterr().out
    assert "first look" not in said and "n = 131, 300 rows, rank 12:" in said
    assert run(*plan, "--", "--sample", 1) == 0
    assert "n = 131, 300 rows, rank 40:" in capsys.readouterr().out
    assert run("compress", *MODEL, "--sample", 1, "--out", "f.h5") == 0
    assert load_factor("f.h5").provenance.rows == 300


@pytest.mark.parametrize(
    "operator", ["fisher", "monte-carlo-fisher", "empirical-fisher", "finite-difference"]
)
def test_every_operator_by_name(in_tmp, operator):
    tiny().save("m.keras")
    assert run("compress", *MODEL, "--operator", operator, "--blocks", "logits/bias",
               "--rank", 3, "--out", "f.h5") == 0  # fmt: skip
    assert load_factor("f.h5").provenance.operator.endswith(", restricted")


@pytest.mark.usefixtures("eager")
def test_targets_of_the_monte_carlo_fisher_matrix(in_tmp):
    """Their number and their seed, which is not the sketch's."""
    model = tiny()
    model.save("m.keras")
    assert run("compress", *MODEL, "--operator", "monte-carlo-fisher", "--fisher-samples", 2,
               "--fisher-seed", 7, "--rank", 131, "--out", "f.h5") == 0  # fmt: skip
    problem = tiny_problem(model)
    F = MonteCarloFisherOperator(problem, problem.initial, samples=2, seed=7).to_dense()
    assert np.linalg.norm(dense(load_factor("f.h5")) - F) <= 1e-10 * np.linalg.norm(F)


@pytest.mark.usefixtures("eager")
def test_the_loss_that_the_model_was_compiled_with(in_tmp, capsys):
    model, values = tiny(), []
    model.compile(loss="mse")
    model.save("other.keras")
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.save("m.keras")
    for words in (["m.keras"], ["other.keras", "--loss", SOFTMAX_LOSS]):
        assert run("compress", "--model", *words, *DATA, "--rank", 3, "--out", "f.h5") == 0
        values.append(load_factor("f.h5").eigenvalues)
    shown = capsys.readouterr().out
    assert "loss: sparse_categorical_crossentropy, with which the model was compiled" in shown
    np.testing.assert_array_equal(*values)


def test_training_writes_the_model(in_tmp, capsys):
    model = tiny()
    model.save("m.keras")
    command = ["train", *MODEL, "--optimizer", "hessian-free", "--max-steps", 3, "--save-point"]
    assert run(*command[:-1], "--out", "trained.keras") == 0 and run(*command, "x.npy") == 0
    assert "wrote model: trained.keras" in capsys.readouterr().out
    trained, (X, y) = keras.models.load_model("trained.keras"), rows()
    values = np.concatenate([np.ravel(weight) for weight in trained.get_weights()])
    np.testing.assert_allclose(values, np.load("x.npy"), rtol=1e-6)
    trained.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.compile(loss=trained.loss)
    assert trained.evaluate(X, y, verbose=0) < model.evaluate(X, y, verbose=0)
    logistic = ["train", "--data", "adult", "--optimizer", "sgd", "--save-point", "m.keras"]
    assert "write the point to a .npy file" in refused(capsys, *logistic)
    patience = [*command[:-1], "--patience", 2]
    assert "--patience goes with --test" in refused(capsys, *patience)


@pytest.mark.usefixtures("eager")
def test_one_point_in_every_form(in_tmp, capsys):
    model = tiny()
    model.save("m.keras")
    common = [*MODEL, "--blocks", "logits", "--rank", "9", "--out"]
    assert run("compress", *common, "trained.h5", "--at", "trained", "--epochs", 3,
               "--save-point", "x.npy") == 0  # fmt: skip
    assert "trained: Adam, 3 epochs in batches of 100, step 0.001, in " in capsys.readouterr().out
    problem, x = tiny_problem(model), np.load("x.npy")
    assert np.array_equal(x, train_by_recipe(Recipe(3), problem).x)
    wanted = sorted_spectrum(HessianOperator(problem, x).to_dense()[122:, 122:])
    assert np.allclose(load_factor("trained.h5").eigenvalues, wanted, atol=1e-12)
    problem.set_weights(x)
    model.save("checkpoint.keras")
    model.save_weights("x.weights.h5")
    model.save("m.keras")
    save_factor(problem.describe(compress(HessianOperator(problem, x), 2), x), "point.h5")
    for name in ("checkpoint.keras", "x.weights.h5"):
        assert is_keras_file(name)
        assert np.allclose(problem.read_weights(name).parameters, x, rtol=1e-7)  # float32
    assert not is_keras_file("x.npy") and not is_keras_file("point.h5")
    assert np.array_equal(load_point("point.h5", 131), x)
    for point in ("x.npy", "x.weights.h5", "initial"):
        assert run("compress", *common, "f.h5", "--at", point) == 0
        assert np.allclose(load_factor("f.h5").eigenvalues, wanted, rtol=1e-5, atol=1e-7)
    keras.Sequential([keras.Input((60,)), keras.layers.Dense(3)]).save("other.keras")
    line = refused(capsys, "compress", *common, "g.h5", "--at", "other.keras")
    assert "other.keras: holds weights of shapes [(60, 3), (3,)], but tiny has" in line
    line = refused(capsys, "compress", *common, "g.h5", "--at", "none.npy")
    assert "none.npy: no such file; a point is zero, initial, trained, or a file" in line


@pytest.mark.usefixtures("eager")
def test_spectrum_and_update_of_a_network(in_tmp):
    tiny().save("m.keras")
    common = [*MODEL, "--blocks", "logits"]
    assert run("compress", *common, "--rank", 4, "--at", "initial", "--save-point", "x.npy",
               "--out", "f.h5") == 0  # fmt: skip
    assert run("spectrum", *common, "--at", "x.npy", "--factor", "f.h5", "--out", "s.png",
               "--json", "s.json") == 0  # fmt: skip
    curve = json.loads((in_tmp / "s.json").read_text())
    F = load_factor("f.h5")
    assert curve["n"] == 9 and curve["operator"] == "hessian"
    assert curve["largest_ritz_value"] == pytest.approx(F.eigenvalues[0], rel=1e-8)
    assert run("update", "f.h5", *common, "--at", "x.npy", "--rank", 9, "--out", "g.h5") == 0
    assert run("compress", *common, "--rank", 9, "--at", "x.npy", "--out", "h.h5") == 0
    assert np.allclose(dense(load_factor("g.h5")), dense(load_factor("h.h5")), atol=1e-8)
    assert run("update", "g.h5", *common, "--rank", 2, "--out", "g.h5", "--run", "r") == 2


def test_a_problem_from_python(in_tmp, capsys):
    (in_tmp / "mine.py").write_text(
        "import numpy as np, tensorflow as tf\n"
        "from hesscomp.problems.function import FunctionProblem\n"
        "X = np.random.default_rng(0).standard_normal((40, 6))\n"
        "def squares(world):\n"
        "    loss = lambda t, X, y: tf.reduce_sum((tf.linalg.matvec(X, t) - y) ** 2) / 2\n"
        "    return FunctionProblem(loss, np.zeros(6), (X, X[:, 0]), world, dtype='float64')\n"
        "def nothing(world):\n"
        "    return 3\n"
    )
    assert run("compress", "--problem", "mine:squares", "--rank", 6, "--out", "f.h5") == 0
    X = np.random.default_rng(0).standard_normal((40, 6))
    assert np.allclose(dense(load_factor("f.h5")), X.T @ X / 40, atol=1e-12)
    for name, message in (
        ("mine:nothing", "returned a int; return a KerasProblem, FunctionProblem or another"),
        ("mine:absent", "module 'mine' has no attribute 'absent'"),
        ("absent_module:f", "No module named 'absent_module'"),
        ("nobody", "no such problem; take one of mnist-mlp, mnist-cnn, "),
    ):
        line = refused(capsys, "compress", "--problem", name, "--out", "g.h5")
        assert message in line
    line = refused(capsys, "compress", "--problem", "mine:squares", "--ridge", 1, "--out", "g.h5")
    assert "--ridge does not go with --problem mine:squares, which decides it" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "m.keras"], "--model needs --data; give it too"),
        (["--model", "m.keras", *DATA], "m.keras: its model was not compiled with a loss; name"),
        ([*MODEL, "--loss", "hinge"], "hinge"),
        ([*MODEL, "--engine", "steam"], "unknown engine steam; use one of auto"),
        ([*MODEL, "--features", "fourier"], "--features fourier does not go"),
        ([*MODEL, "--sample", "2"], "--sample must be above 0 and at most 1, not 2"),
        ([*MODEL, "--blocks", "conv"], "no parameter block is called conv; they are hidden/ker"),
        ([*MODEL, "--fisher-seed", "2"], "--fisher-seed go with --operator monte-carlo-fisher"),
        (
            [*MODEL, "--operator", "monte-carlo-fisher", "--fisher-samples", "0"],
            "must be at least 1, not 0",
        ),
        ([*MODEL, "--epochs", "2"], "--epochs goes with --at trained"),
        ([*MODEL, "--epochs", "0", "--at", "trained"], "--epochs must be at least 1, not 0"),
        ([*MODEL, "--seed", str(2**33)], "at most 4294967295, not 8589934592"),
        ([*MODEL, "--blocks", ","], "needs the name of at least one parameter block"),
        ([*MODEL, "--at", "."], ".: Is a directory"),
        ([*RECURRENT, "--engine", "layer-wise"], "recurrent: lstm (LSTM) has no layer-wise rule"),
        (["--model", "two.keras", *MODEL[2:]], "two takes several inputs, outputs or loss weights"),
        ([*MODEL, "--at", "no/ckpt-*"], "--at no/ckpt-*: no file fits this pattern"),
        (["--problem", "adult-mlp", "--loss", "squared-error"], "--loss does not go with --prob"),
        (
            ["--problem", "adult-mlp", "--memory-limit", "lots"],
            "--memory-limit: lots: is not a number of bytes",
        ),
        (["--problem", "mnist-mlp", "--data", "mnist"], "mnist: set HESSCOMP_DATA"),
        ([*LOGISTIC, "--loss", "hinge"], "--loss does not go with logistic regression"),
        ([*LOGISTIC, "--operator", "ggn"], "lacks the capability 'Gauss-Newton matrix'"),
        (
            [*LOGISTIC, "--operator", "finite-difference"],
            "lacks the capability 'gradients of a shard'",
        ),
        (
            [*LOGISTIC, "--at", "initial"],
            "lacks the capability 'initial point'; start",
        ),
        ([], "name one with --data, --problem or --model"),
    ],
)
def test_refusals_in_one_line(in_tmp, capsys, arguments, message):
    tiny().save("m.keras")
    start = keras.Input((FEATURES,))
    if "two.keras" in arguments:
        outputs = [keras.layers.Dense(3)(start), keras.layers.Dense(2)(start)]
        keras.Model(start, outputs, name="two").save("two.keras")
    if "lstm.keras" in arguments:
        inner = keras.layers.LSTM(2, name="lstm")(keras.layers.Reshape((6, 10))(start))
        keras.Model(start, keras.layers.Dense(3)(inner), name="recurrent").save("lstm.keras")
    (in_tmp / "two.csv").write_text("a,b,label\n1,2,0\n0,1,1\n2,1,1\n")
    assert message in refused(capsys, "compress", *arguments, "--out", "f.h5")


def test_no_code_in_model_files(in_tmp, capsys):
    class Mine(keras.layers.Dense):
        pass

    start = keras.Input((FEATURES,))
    for name, layer, named in (
        ("lambda", keras.layers.Lambda(lambda x: x[:, :3]), "a Lambda layer"),
        ("mine", Mine(3), f"{__name__}.Mine"),
    ):
        keras.Sequential([start, layer]).save(f"{name}.keras")
        arguments = ["--model", f"{name}.keras", "--loss", "squared-error", *DATA]
        line = refused(capsys, "compress", *arguments, "--targets", "input", "--out", "f.h5")
        assert f"{name}.keras: holds {named}, which is code, and from files only Keras'" in line
    for config in (
        {"module": "os", "class_name": "function", "config": "system"},
        {"module": "keras.utils", "class_name": "function", "config": "get_file"},
        {"module": "keras.layers", "class_name": "Dense",
         "config": {"activation": {"module": "builtins", "class_name": "function"}}},
    ):  # fmt: skip
        with zipfile.ZipFile("forged.keras", "w") as archive:
            archive.writestr("config.json", json.dumps(config))
        with pytest.raises(InputError, match="which is code"):
            load_model("forged.keras")
    (in_tmp / "text.keras").write_text("no zip")
    with pytest.raises(InputError, match=r"text.keras: cannot be read as a .keras file"):
        load_model("text.keras")
    with pytest.raises(InputError, match="no such file"):
        load_model("absent.keras")


def test_models_that_claim_more_than_their_files_hold_are_refused(in_tmp):
    tiny().save("m.keras")
    with zipfile.ZipFile("m.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = members["config.json"].decode()
    for old, new, message in (
        ('"units": 3', '"units": 2000000000', "of weights, and"),
        ('"Dense"', '"StringLookup"', "keras.layers.StringLookup"),
        ('"name": "tiny"', '"name": ' + "[" * 5000 + "]" * 5000, "cannot be read as a .keras"),
        (config, "[]", "config.json is not an object"),
    ):
        with zipfile.ZipFile("forged.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                forged = config.replace(old, new).encode()
                archive.writestr(name, forged if name == "config.json" else content)
        with pytest.raises(InputError) as caught:
            load_model("forged.keras")
        assert "forged.keras: " in str(caught.value) and message in str(caught.value)


def test_the_weights_inside_a_model_are_checked_before_keras_reads_them(in_tmp):
    tiny().save("m.keras")
    with zipfile.ZipFile("m.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def sequence(file):
        value = np.empty(1, object)
        value[0] = np.arange(1, 4)
        file.attrs.create("s", value, dtype=h5py.vlen_dtype(np.int64))

    def link(file):
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/")

    for change, message in (
        (sequence, "an attribute is a sequence of variable length"),
        (link, "/elsewhere is a link to elsewhere"),
    ):
        weights = in_tmp / "w.h5"
        weights.write_bytes(members["model.weights.h5"])
        with h5py.File(weights, "r+") as file:
            change(file)
        with zipfile.ZipFile("forged.keras", "w") as archive:
            for name, content in {**members, "model.weights.h5": weights.read_bytes()}.items():
                archive.writestr(name, content)
        with pytest.raises(InputError) as caught:
            load_model("forged.keras")
        assert str(caught.value).startswith("forged.keras/model.weights.h5: not a valid")
        assert message in str(caught.value)


def test_a_saved_functional_model_loads(in_tmp):
    start = keras.Input((28, 28, 1))
    x = keras.layers.Conv2D(2, 3, activation="relu", strides=2)(start)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.3)(keras.layers.Flatten()(x))
    model = keras.Model(start, keras.layers.Dense(10)(x + keras.ops.tanh(x)))
    model.compile("adam", loss=lambda y, f: f)  # what it was compiled with is not read
    model.save("m.keras")
    found = load_model("m.keras")
    X = np.random.default_rng(0).standard_normal((2, 28, 28, 1))
    assert np.array_equal(found(X), model(X))


COMMANDS = """
import json, os, signal, sys
from hesscomp.cli.main import main
from hesscomp.runs.journal import Journal

commands, status = json.loads(sys.argv[1])
write = Journal._write


def interrupted(journal, *words):
    write(journal, *words)
    os.kill(os.getpid(), signal.SIGUSR1)


if status:
    Journal._write = interrupted
assert [main(command) for command in commands] == [0, status]
"""


@pytest.mark.slow
@pytest.mark.serial
def test_runs_of_normalised_models_go_on_in_another_process(in_tmp, run_command):
    """The hash of the fixed weights was another in each process for two such layers or more."""
    layers, rng = keras.layers, np.random.default_rng(4)
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            *(layer for _ in range(4) for layer in (layers.Dense(2), layers.BatchNormalization())),
            layers.Dense(3),
        ]
    )
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1, weight.shape))
    model.save("m.keras")
    common = [*MODEL, "--check", "off", "--threads", "1"]
    training = ["train", *common, "--optimizer", "sgd", "--run", "training", "--save-every", "1"]
    products = ["compress", *common, "--at", "initial", "--rank", "20", "--run", "products",
                "--out", "f.h5", "--json", "f.json"]  # fmt: skip
    for steps, status in ((2, REQUEUE), (3, 0)):
        commands = [[*training, "--max-steps", str(steps)], products]
        done = run_command([sys.executable, "-c", COMMANDS, json.dumps([commands, status])],
                           env={"PYTHONPATH": str(ROOT)})  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("the same command resumes from products" in done.stderr) == bool(status)
    history = Path("training/history.csv").read_text().splitlines()
    assert [float(row.split(",")[0]) for row in history[1:]] == [0, 1, 2, 3]
    ledger = json.loads(Path("f.json").read_text())["ledger"]
    assert ledger["replayed"] > 0 and ledger["columns"] > 0


def test_problems_lists_them(capsys):
    assert run("problems") == 0
    table = capsys.readouterr().out
    assert all(name in table for name in NAMED_PROBLEMS)
    assert "784-15-10, sigmoid" in table and "Adam, 30 epochs in batches of 100" in table


def test_a_named_problem_says_what_it_took(in_tmp, capsys):
    assert run("compress", "--problem", "mnist-mlp", "--sample", 0.02, "--engine", "generic",
               "--blocks", "dense_2/bias", "--rank", 10, "--out", "f.h5") == 0  # fmt: skip
    first, second, *_ = capsys.readouterr().out.split("\n")
    assert first.startswith("data: mnist-sample, 5,000 images; HESSCOMP_DATA names no folder")
    assert second == (
        "mnist-mlp on mnist-sample: 5000 rows, 11935 parameters; generic engine: requested"
    )
    F = load_factor("f.h5")
    assert F.blocks == (("dense_2/bias", (10,), 0),)
    assert abs(F.eigenvalues[-1]) < 1e-6 < F.eigenvalues[0]  # adding to all logits changes nothing


@pytest.mark.slow
def test_training_and_products_on_two_ranks(in_tmp, run_ranks):
    tiny().save("m.keras")
    arguments = ["compress", *MODEL, "--at", "trained", "--epochs", "2", "--blocks", "logits",
                 "--rank", "9", "--out"]  # fmt: skip
    done = run_ranks(2, [*arguments, "two.h5"], cwd=in_tmp)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("300 rows, 131 parameters; layer-wise engine") == 1
    assert run(*arguments, "one.h5") == 0
    one, two = load_factor("one.h5"), load_factor("two.h5")
    assert np.allclose(one.parameters, two.parameters, rtol=1e-9)
    assert np.allclose(dense(one), dense(two), atol=1e-10)


def test_adult_logistic_at_its_optimum(in_tmp, capsys):
    assert run("compress", "--problem", "adult-logistic", "--at", "trained", "--dtype", "float64",
               "--rank", 3, "--out", "f.h5") == 0  # fmt: skip
    assert "objective 0.326523" in capsys.readouterr().out
    assert load_factor("f.h5").provenance.ridge == 1e-3


# Trajectories


@pytest.fixture
def checkpoints(in_tmp):
    """A problem and three points of its training, in files of both of Keras' kinds."""
    model = tiny()
    model.save("m.keras")
    problem = tiny_problem(model)
    x, points = problem.initial, []
    for name in ("ckpt-1.weights.h5", "ckpt-2.keras", "ckpt-10.weights.h5"):
        problem.set_weights(x)
        (model.save if name.endswith(".keras") else model.save_weights)(name)
        points.append(x)
        x = train_by_recipe(Recipe(epochs=2, rate=1e-2), problem, x).x
    return problem, points


def test_a_trajectory(checkpoints, capsys):
    problem, points = checkpoints
    arguments = ["compress", *MODEL, "--blocks", "hidden", "--rank", "3", "--residual-tolerance",
                 "1e-3", "--at", "ckpt-*", "--out", "t.h5", "--json", "t.json"]  # fmt: skip
    assert run(*arguments) == 0
    found = load_trajectory("t.h5")
    assert found.labels == ("ckpt-1.weights.h5", "ckpt-2.keras", "ckpt-10.weights.h5")
    for factor, x in zip(found.factors, points, strict=True):
        assert factor.blocks == (("hidden/kernel", (60, 2), 0), ("hidden/bias", (2,), 120))
        assert np.allclose(factor.parameters, x[:122], rtol=1e-6)
        H = HessianOperator(problem, x).to_dense()[:122, :122]
        assert np.allclose(factor.eigenvalues, sorted_spectrum(H)[:3], rtol=5e-3)
    columns = [factor.provenance.columns for factor in found.factors]
    assert max(columns[1:]) < columns[0]
    assert found.factors[1].provenance.method == "krylov started from the factor before"
    assert [row["columns"] for row in json.loads(Path("t.json").read_text())["points"]] == columns
    with h5py.File("t.h5") as file:
        assert file.attrs["kind"] == "trajectory" and file.attrs["count"] == 3
        group = file["factors/0002"]
        assert group.attrs["format"] == "hesscomp-factor" and group.attrs["kind"] == "low-rank"
        assert np.array_equal(group["eigenvalues"], found.factors[2].eigenvalues)
    capsys.readouterr()
    assert run("inspect", "t.h5") == 0
    assert "ckpt-10.weights.h5" in capsys.readouterr().out
    assert run("plot", "t.h5", "--out", "t.svg") == 0
    assert "ckpt-10.weights.h5" in Path("t.svg").read_text()
    with pytest.raises(InputError, match="it holds a trajectory, not one factor; see load_traj"):
        load_factor("t.h5")
    line = refused(capsys, *arguments, "--save-point", "x.npy")
    assert "--save-point goes with one point, not with a trajectory" in line


def normalised() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((FEATURES,)), keras.layers.Dense(2, "tanh", name="hidden"),
            keras.layers.BatchNormalization(), keras.layers.Dense(3, name="logits"),
        ],
        name="normalised",
    )  # fmt: skip


def test_a_trajectory_names_the_points_that_miss_the_tolerance(checkpoints, capsys):
    arguments = ["compress", *MODEL, "--blocks", "hidden", "--max-rank", "1", "--at", "ckpt-*"]
    assert run(*arguments, "--tolerance", "1e-5", "--out", "t.h5") == 3
    shown = capsys.readouterr().out
    assert "tolerance NOT reached at ckpt-1.weights.h5, ckpt-2.keras, ckpt-10" in shown
    assert run("inspect", "t.h5") == 0
    assert capsys.readouterr().out.count("(more than asked)") == 3


def test_a_trajectory_takes_moving_averages(in_tmp):
    """Each checkpoint's own; other points are taken with the model's."""
    model = normalised()
    model.save("m.keras")
    start = tiny_problem(model)
    np.save("start.npy", start.initial)
    spectra, rng = [], np.random.default_rng(3)
    for name in ("ckpt-1.weights.h5", "ckpt-2.keras", "ckpt-3.weights.h5"):
        for variable in model.variables:
            if "float" in variable.dtype:
                variable.assign_add(0.3 * np.abs(rng.standard_normal(variable.shape)))
        (model.save if name.endswith(".keras") else model.save_weights)(name)
        problem = tiny_problem(model)
        H = HessianOperator(problem, problem.initial).to_dense()[-9:, -9:]
        spectra.append(sorted_spectrum(H))
    for engine in ("layer-wise", "generic"):
        assert run("compress", *MODEL, "--engine", engine, "--blocks", "logits", "--rank", 9,
                   "--at", "ckpt-*", "start.npy", "--out", "t.h5") == 0  # fmt: skip
        found = load_trajectory("t.h5")
        assert found.labels[-1] == "start.npy"
        start.set_fixed(None)
        H = HessianOperator(start, start.initial).to_dense()[-9:, -9:]
        for factor, w in zip(found.factors, [*spectra, sorted_spectrum(H)], strict=True):
            assert np.allclose(factor.eigenvalues, w, rtol=0, atol=1e-10 * w[0])
    assert run("compress", *MODEL, "--blocks", "logits", "--rank", 9, "--at", "ckpt-2.keras",
               "--out", "f.h5") == 0  # fmt: skip
    w = load_factor("f.h5").eigenvalues
    assert np.allclose(w, spectra[1], rtol=0, atol=1e-10 * w[0])


def test_layers_of_files_run_in_inference_mode(in_tmp):
    """Even where they were called with training=True: nothing is random, no rows are coupled."""
    start, spectra = keras.Input((FEATURES,)), []
    logits = keras.layers.Dense(3)
    for layer in (keras.layers.Dropout(0.5), keras.layers.GaussianNoise(1.0), None):
        inner = start if layer is None else layer(start, training=True)
        keras.Model(start, logits(inner)).save("m.keras")
        assert run("compress", *MODEL, "--rank", 5, "--out", "f.h5") == 0
        spectra.append(load_factor("f.h5").eigenvalues)
    assert np.allclose(spectra, spectra[-1], rtol=1e-12)


def test_a_random_model_is_named(in_tmp, capsys):
    (in_tmp / "noisy.py").write_text(
        "import numpy as np\n"
        "from hesscomp.curvature.tensorflow import keras\n"
        "from hesscomp.problems.keras import KerasProblem\n"
        "class Noisy(keras.Sequential):\n"
        "    def call(self, x):\n"
        "        return super().call(x, training=True)\n"
        "def problem(world):\n"
        "    layers = [keras.layers.Dropout(0.5, name='drop'), keras.layers.Dense(2)]\n"
        "    model = Noisy([keras.Input((30,)), *layers], name='noisy')\n"
        "    data = np.ones((3, 30)), [0, 1, 0]\n"
        "    return KerasProblem(model, 'softmax-cross-entropy', data, world)\n"
    )
    line = refused(capsys, "compress", "--problem", "noisy:problem", "--out", "f.h5")
    assert "noisy gives different outputs for equal inputs: drop (Dropout); run them in" in line


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.__delitem__("factors/0001"), "/factors/0001 is missing"),
        (lambda file: file.attrs.__setitem__("count", 7), r"/labels has shape \(2,\), expected"),
        (lambda file: file.attrs.__setitem__("n", 4), "not all of the order that attribute n"),
        (lambda file: file.attrs.__delitem__("count"), "attribute count is missing"),
        (lambda file: file["factors/0000"].attrs.__setitem__("kind", "trajectory"), "trajectory"),
        (lambda file: file.attrs.__setitem__("kind", "low-rank"), "read it as a factor"),
    ],
)
def test_damaged_trajectories_are_refused(tmp_path, world, damage, message):
    factor = compress(Sharded(matrix("exponential"), world, True), 3)
    path = tmp_path / "t.h5"
    with trajectory_writer(path) as add:
        add("first", factor)
        add("second", replace(factor, parameters=np.ones(150)))
    found = load_trajectory(path)
    assert found.labels == ("first", "second")
    assert np.array_equal(found.factors[0].eigenvectors, factor.eigenvectors)
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=message):
        load_trajectory(path)


def test_a_trajectory_that_fails_leaves_nothing(checkpoints, capsys):
    keras.Sequential([keras.Input((60,)), keras.layers.Dense(3)]).save("ckpt-11.keras")
    refused(capsys, "compress", *MODEL, "--blocks", "logits", "--rank", 2, "--at", "ckpt-*",
            "--out", "t.h5")  # fmt: skip
    assert not [path for path in Path().iterdir() if "t.h5" in path.name]


# The figure


def test_the_figure(in_tmp, capsys):
    model = tiny()
    model.save("m.keras")
    assert run("figure", "mnist-hessian", *MODEL, "--at", "initial", "--rank", 12,
               "--out", "p.png", "--json", "p.json") == 0  # fmt: skip
    assert (in_tmp / "p.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((in_tmp / "p.json").read_text())
    problem = tiny_problem(model)
    H = HessianOperator(problem, problem.initial).to_dense()
    w = sorted_spectrum(H)
    assert found["norm"] == pytest.approx(np.linalg.norm(H), rel=1e-10)
    best = [np.linalg.norm(w[k:]) / np.linalg.norm(w) for k in range(13)]
    assert np.allclose(found["best"], best, rtol=1e-6)
    assert np.all(np.array(found["exact"]) >= np.array(found["best"]) - 1e-9)
    assert found["exact"][12] <= 1.01 * best[12]
    assert np.allclose(found["certificate"], found["exact"][1:], rtol=0.5)


@pytest.mark.serial
def test_images_in_their_shape_and_as_vectors(in_tmp, capsys):
    layers = keras.layers
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 3), layers.Flatten()])
    model.add(layers.Dense(2))
    model.save("c.keras")
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 4, 4, 1)), rng.integers(0, 2, 12)
    np.savez("images.npz", X=X, y=y)
    np.savez("vectors.npz", X=X.reshape(len(X), -1), y=y)
    factors = []
    for data in ("images.npz", "vectors.npz"):
        words = ["compress", "--model", "c.keras", "--loss", SOFTMAX_LOSS, "--data", data]
        assert main([*words, "--rank", "2", "--out", "f.h5"]) == 0
        factors.append(load_factor("f.h5"))
    assert np.array_equal(factors[0].eigenvalues, factors[1].eigenvalues)
    one, other = (factor.provenance.data_fingerprint for factor in factors)
    assert one == other
    assert main(["newton", "--data", "images.npz"]) == 2
    assert "rows have the shape 4 x 4 x 1, and logistic regression takes vectors" in (
        capsys.readouterr().err
    )
