"""Keras' callbacks in `hc.train`: what they write, and what is refused."""

import csv
import signal

import numpy as np
import pytest
from shards import mine

import hesscomp as hc
from hesscomp.curvature.tensorflow import keras
from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError, Interrupted

rng = np.random.default_rng(0)
X = rng.standard_normal((60, 4)).astype(np.float32)
Y = (X[:, :3] + 0.5 * np.random.default_rng(1).standard_normal((60, 3))).argmax(1)
LOSS, HERE, VALIDATION = "sparse_categorical_crossentropy", (X[::2], Y[::2]), (X[1::2], Y[1::2])
KERAS = keras.callbacks


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model():
    keras.utils.set_random_seed(0)
    stack = [keras.layers.Dense(5, "tanh", name="first"), keras.layers.Dense(3, "softmax")]
    return keras.Sequential([keras.Input((4,)), *stack])


def fit(net, *callbacks, optimizer=None, **options):
    options = {"validation_data": VALIDATION, "max_steps": 8, "verbose": False} | options
    optimizer = hc.SGD(0.5) if optimizer is None else optimizer
    return hc.train(net, optimizer, LOSS, HERE, callbacks=callbacks, **options)


def weights(net):
    return np.concatenate([w.reshape(-1) for w in net.get_weights()])


def read(path, separator=","):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream, delimiter=separator))


def column(path, name, separator=","):
    return [float(row[name]) for row in read(path, separator)]


def test_the_log_is_the_history_with_names_of_keras(tmp_path):
    path, lines = tmp_path / "log.csv", []

    def see(row, x):
        lines.append(len(read(path, ";")))

    log = KERAS.CSVLogger(path, separator=";")
    for steps in (3, 8):  # the second one replaces the first
        found = fit(model(), log, see, optimizer="hessian-free", max_steps=steps)
    assert lines == [*range(1, 5), *range(1, 10)]
    assert [row["step"] for row in read(path, ";")] == [str(step) for step in range(9)]
    for ours, name in (
        ("objective", "loss"), ("test_loss", "val_loss"), ("test_accuracy", "val_accuracy"),
        ("gradient_norm", "gradient_norm"), ("damping", "damping"),
    ):  # fmt: skip
        np.testing.assert_array_equal(column(path, name, ";"), found.history.column(ours))
    assert not list(tmp_path.glob("*.tmp*")) and "test_loss" in found.history.names


def test_the_log_has_the_last_evaluation_and_appends(tmp_path):
    path = tmp_path / "log.csv"
    for _ in range(2):
        found = fit(
            model(), KERAS.CSVLogger(path, append=True), gradient=10, evaluate_every=3, max_steps=5
        )
    wanted = found.history.column("test_loss")
    assert np.isfinite(wanted).tolist() == [True, False, False, True, False, True]
    np.testing.assert_array_equal(column(path, "val_loss"), [*wanted, *wanted])
    path.write_text("epoch,loss\n0,1.0\n")
    with pytest.raises(InputError, match=r"log.csv: is no history with a column step"):
        fit(model(), KERAS.CSVLogger(path, append=True))


@pytest.mark.parametrize("name", ["best.keras", "best.weights.h5"])
def test_the_best_model_by_validation(tmp_path, name):
    path, only = tmp_path / "made" / name, name.endswith(".h5")
    save = KERAS.ModelCheckpoint(path, save_best_only=True, save_weights_only=only)
    net = model()
    found = fit(net, save, max_steps=12)
    losses = found.history.column("test_loss")
    assert 0 < np.argmin(losses) < 12 and save.best == losses.min()
    saved = model()
    saved.load_weights(path) if only else None
    saved = saved if only else keras.models.load_model(path)
    problem = hc.KerasProblem(saved, LOSS, VALIDATION)
    assert problem.objective(problem.initial) == pytest.approx(losses.min(), rel=1e-6)
    assert np.abs(weights(saved) - weights(net)).max() > 1e-3  # it has the best of all rows
    assert [each.name for each in path.parent.iterdir()] == [name]
    fit(model(), save, max_steps=1)  # Keras' object remembers the best
    assert save.best == losses.min()


def test_a_model_at_each_evaluation(tmp_path, capsys):
    path = tmp_path / "{step:02d}-{val_loss:.3f}.weights.h5"
    save = KERAS.ModelCheckpoint(path, save_weights_only=True, verbose=1)
    points = {}

    def see(row, x):
        points[int(row["step"])] = x

    found = fit(model(), save, see, gradient=10, evaluate_every=3, max_steps=5)
    losses = found.history.column("test_loss")
    names = [f"{step:02d}-{losses[step]:.3f}.weights.h5" for step in (0, 3, 5)]
    assert sorted(each.name for each in tmp_path.iterdir()) == names
    for step, name in zip((0, 3, 5), names, strict=True):
        net = model()
        net.load_weights(tmp_path / name)
        np.testing.assert_allclose(weights(net), points[step], rtol=1e-6)
    assert f"hesscomp: step 3: saved {tmp_path / names[1]}" in capsys.readouterr().err


@pytest.mark.parametrize("monitor, how", [
    ("val_accuracy", "max"), ("loss", "min"), ("val_loss", "max"),
])  # fmt: skip
def test_what_is_monitored(tmp_path, monitor, how):
    mode = "max" if monitor == "val_loss" else "auto"
    path = tmp_path / "m.keras"
    save = KERAS.ModelCheckpoint(path, monitor=monitor, mode=mode, save_best_only=True)
    found = fit(model(), save)
    name = {"val_accuracy": "test_accuracy", "loss": "objective", "val_loss": "test_loss"}[monitor]
    assert save.best == getattr(found.history.column(name), how)()
    beyond = KERAS.ModelCheckpoint(
        tmp_path / "none.keras", save_best_only=True, initial_value_threshold=0.0
    )
    fit(model(), beyond, max_steps=2)
    assert not (tmp_path / "none.keras").exists()


def test_a_run_that_goes_on_knows_what_was_written(tmp_path):
    def files(folder):
        folder.mkdir()
        return (
            KERAS.CSVLogger(folder / "log.csv"),
            KERAS.ModelCheckpoint(
                folder / "best.weights.h5", save_best_only=True, save_weights_only=True
            ),
        )

    def press(row, x):
        if row["step"] == 7:
            signal.raise_signal(signal.SIGINT)

    def go_on(row, x):
        seen.append(row["step"])

    seen, net, options = [], model(), {"max_steps": 12, "folder": tmp_path / "run"}
    whole = fit(model(), *files(tmp_path / "whole"), max_steps=12)
    assert np.argmin(whole.history.column("test_loss")) < 7
    once = files(tmp_path / "parts")
    with pytest.raises(Interrupted):
        fit(net, *once, press, **options)
    (tmp_path / "parts" / "log.csv").write_text(  # as if the run had been killed a step later
        (tmp_path / "parts" / "log.csv").read_text() + "8" + ",0" * 9 + "\n"
    )
    best = (tmp_path / "parts" / "best.weights.h5").read_bytes()
    (again := files(tmp_path / "other"))[1].filepath = once[1].filepath
    again[0].filename = once[0].filename
    fit(net, *again, go_on, **options)
    assert seen[0] == 7
    for name in ("step", "loss", "val_loss"):
        same = [column(tmp_path / which / "log.csv", name) for which in ("whole", "parts")]
        np.testing.assert_array_equal(*same)
    assert (tmp_path / "parts" / "best.weights.h5").read_bytes() == best
    assert again[1].best == whole.history.column("test_loss").min()


def test_what_holds_already_is_taken(capsys):
    found = fit(model(), KERAS.TerminateOnNaN(), KERAS.ProgbarLogger(), verbose=None, max_steps=2)
    assert found.steps == 2 and "stopped after 2 steps" in capsys.readouterr().err
    fit(model(), KERAS.ProgbarLogger(), max_steps=1)
    assert not capsys.readouterr().err


@pytest.mark.ranks
def test_rank_0_alone_writes(world, shared_tmp, monkeypatch):
    written, net = [], model()
    save_weights = type(net).save_weights

    def spied(self, path):
        written.append(path)
        save_weights(self, path)

    monkeypatch.setattr(type(net), "save_weights", spied)
    here = mine(world, X, Y)
    log = KERAS.CSVLogger(str(shared_tmp / "log.csv"))
    save = KERAS.ModelCheckpoint(str(shared_tmp / "{step}.weights.h5"), save_weights_only=True)
    start = weights(net)
    seen = []
    found = hc.train(
        net, hc.SGD(0.5), LOSS, here, validation_data=here, max_steps=3, verbose=False,
        callbacks=(log, save, lambda row, x: seen.append(np.abs(weights(net) - start).max())),
    )  # fmt: skip
    assert seen == [0.0] * 4  # a model is as it was until training ends
    assert len(written) == (4 if world.rank == 0 else 0)
    names = sorted(path.name for path in shared_tmp.glob("[!.]*"))
    assert names == [*(f"{step}.weights.h5" for step in range(4)), "log.csv"]
    if world.rank == 0:
        np.testing.assert_array_equal(
            column(shared_tmp / "log.csv", "val_loss"), found.history.column("test_loss")
        )
    absent = KERAS.CSVLogger(str(shared_tmp / "absent" / "log.csv"))
    with pytest.raises(InputError, match=r"log.csv: cannot be written"):
        hc.train(net, "sgd", LOSS, here, max_steps=1, verbose=False, callbacks=absent)


@pytest.mark.parametrize("make, words", [
    (lambda: KERAS.ModelCheckpoint("m.h5"), r"filepath=m.h5; name a .keras file, or a"),
    (lambda: KERAS.ModelCheckpoint("m.keras", save_freq=10), "save_freq=10.* `evaluate_every`"),
    (lambda: KERAS.ModelCheckpoint("m.keras", "val_auc", save_best_only=True),
     "monitor='val_auc', of which .* use one of loss, val_loss, val_accuracy"),
    (lambda: KERAS.ModelCheckpoint("{epoch}.keras"), r"no epochs here; write \{step\}"),
    (lambda: KERAS.ModelCheckpoint("{.keras"), r"expected '}'.*; write \{step\}"),
    (lambda: KERAS.ModelCheckpoint("{auc}.keras"), "row of the history has no auc; use some of"),
    (lambda: KERAS.ModelCheckpoint("{loss:d}.keras"), "code 'd' .*; name a file as {step:04d}"),
    (lambda: KERAS.ModelCheckpoint("m.keras", save_best_only=True),
     "needs val_loss, and there are no validation rows; give `validation_data`"),
    (lambda: KERAS.ModelCheckpoint("{val_accuracy}.keras"), "needs val_accuracy"),
    (lambda: KERAS.CSVLogger("log.csv", separator=", "), "separator=', '; give one character"),
    (lambda: KERAS.TerminateOnNaN(raise_error=True), "raise_error=True, .* `result.status`"),
    (lambda: KERAS.History(), "History is none; leave it out"),
    (lambda: KERAS.RemoteMonitor(), "none; of Keras' only EarlyStopping, ModelCheckpoint"),
    (lambda: (KERAS.EarlyStopping(), KERAS.EarlyStopping()), "asked for twice"),
])  # fmt: skip
def test_what_has_no_counterpart(make, words, in_tmp):
    made = make()
    with pytest.raises(InputError, match=words):
        made = made if isinstance(made, tuple) else (made,)
        fit(model(), *made, validation_data=None)
    assert not list(in_tmp.iterdir())


def test_a_problem_without_a_model_is_not_saved(in_tmp):
    signs = np.where(Y == 0, 1.0, -1.0)
    problem = hc.LogisticRegression(from_arrays(X, signs, hc.World()))
    with pytest.raises(InputError, match=r"saves a Keras model, and .* has none; give a `folder`"):
        hc.train(problem, "newton-cg", callbacks=KERAS.ModelCheckpoint("m.keras"))
    hc.train(problem, "newton-cg", callbacks=KERAS.CSVLogger("log.csv"), max_steps=2)
    assert column("log.csv", "step") == [0, 1, 2]
