"""Keras models as users bring them: of any depth, types, names, weights and files."""

import json
import sys
import zipfile

import numpy as np
import pytest

from hesscomp.curvature.gauss_newton import MonteCarloFisherOperator
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.networks.graph import read_graph
from hesscomp.curvature.restriction import BlockDiagonal, Restricted
from hesscomp.curvature.tensorflow import keras
from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.models import compiled_loss, load_model

layers = keras.layers
LOSS = "softmax-cross-entropy"


def alone(model, X, y=None, loss=LOSS, **options) -> KerasProblem:
    """The problem on one rank, of three classes unless targets are given."""
    y = np.arange(len(X)) % 3 if y is None else y
    return KerasProblem(model, loss, (X, y), World.serial(), dtype="float64", **options)


def sequential(*stack, **options) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([*stack, layers.Flatten(), layers.Dense(3)], **options)


def test_sampled_targets_keep_to_the_memory(monkeypatch):
    X = np.random.default_rng(0).standard_normal((50, 4))
    problem = alone(sequential(keras.Input((4,)), layers.Dense(5, "tanh")), X)
    x, output, rows = problem.initial, problem.output, []
    monkeypatch.setattr(problem, "output", lambda x, X: rows.append(len(X)) or output(x, X))

    def found():
        fisher = MonteCarloFisherOperator(problem, x, samples=3, seed=2).to_dense()
        return [fisher, problem.kronecker(x, "sampled", seed=5).to_dense()]

    whole = found()
    problem.memory = 2e4
    pieces = found()
    assert rows[:2] == [50, 50] and sum(rows) == 200
    budget = problem.budget("float64")
    row = budget.row_values + budget.row_tangents  # at least, and of one column
    assert max(rows[2:]) * row * 8 <= 3 / 8 * problem.memory
    for some, all_at_once in zip(pieces, whole, strict=True):
        np.testing.assert_allclose(some, all_at_once, rtol=1e-12, atol=1e-15)


def test_a_model_of_more_layers_than_python_has_frames():
    start = value = keras.Input((2,))
    for _ in range(sys.getrecursionlimit() // 2):
        value = layers.Identity()(value)
    inner = keras.Model(start, layers.Add()([value, start]))
    nodes = read_graph(keras.Sequential([keras.Input((2,)), inner, layers.Dense(3)]))
    assert [node.inputs for node in nodes[:-2]] == [(i,) for i in range(len(nodes) - 2)]
    assert nodes[-2].inputs == (len(nodes) - 2, 0)


MODELS = {  # the input's shape and type, and what follows
    "pixels": ((4, 3, 1), "uint8", lambda: [layers.Rescaling(0.1), layers.Conv2D(2, 2)]),
    "past": ((5, 2), "float64", lambda: [
        layers.Conv1D(2, 2, activation="tanh"),
        layers.Conv1D(2, 2, padding="causal", dilation_rate=2),
    ]),
    "numbers": ((4,), "int32", lambda: [layers.Flatten(), layers.Dense(2, "tanh")]),
    "words": ((4,), "int32", lambda: [layers.Reshape((2, 2)), layers.Embedding(9, 2)]),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_engines_agree(name):
    shape, kind, stack = MODELS[name]
    X = np.random.default_rng(0).integers(0, 9, (6, *shape)).astype(kind)
    model = sequential(keras.Input(shape, dtype=kind), *stack())
    problems = [alone(model, X, engine=engine) for engine in ("layer-wise", "generic")]
    x = problems[0].initial
    V = np.random.default_rng(1).standard_normal((len(x), 2))
    here, there = (HessianOperator(problem, x) @ V for problem in problems)
    assert np.linalg.norm(here - there) <= 1e-12 * np.linalg.norm(there)


def test_fractions_for_whole_numbers_are_refused():
    model = sequential(keras.Input((3,), dtype="uint8"), layers.Rescaling(1 / 255))
    with pytest.raises(InputError, match=r"fractions, but the input of .* is of type uint8"):
        alone(model, np.full((2, 3), 0.5))


@pytest.mark.parametrize(
    "method, message",
    [
        (zipfile.ZIP_BZIP2, "config.json is packed otherwise than by deflate"),
        (zipfile.ZIP_DEFLATED, "config.json claims 1073741824 bytes unpacked"),
    ],
)
def test_archives_whose_sizes_are_forged_are_refused(tmp_path, method, message):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("config.json", bytes(2**20))
    held = bytearray(path.read_bytes())
    entry = held.index(b"PK\1\2")  # the central directory: packed size at 20, length at 24
    held[entry + 20 : entry + 28] = (2**24).to_bytes(4, "little") + (2**30).to_bytes(4, "little")
    path.write_bytes(held)
    with pytest.raises(InputError, match=message):
        load_model(path)


def test_a_model_within_the_model_may_be_compiled(tmp_path):
    """With a loss of one's own, which is not read."""

    def own(y, output):
        return output

    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, "tanh")])
    model = sequential(keras.Input((4,)), inner)
    inner.compile("adam", loss=own)
    inner.optimizer.build(inner.trainable_variables)
    model.compile("sgd", loss=own)
    model.save(tmp_path / "m.keras")
    found, X = load_model(tmp_path / "m.keras"), np.random.default_rng(0).standard_normal((2, 4))
    assert model.layers[0].compiled and not found.layers[0].compiled
    np.testing.assert_array_equal(found(X), model(X))


def test_layers_that_share_a_path_are_numbered():
    start = keras.Input((4,))
    parts = [layers.Dense(4, use_bias=bias, name="fc") for bias in (False, True)]
    inner = [keras.Model(start, part(start), name=f"of-{part.use_bias}") for part in parts]
    model = sequential(keras.Input((4,)), *inner, name="net")
    problem = alone(model, np.ones((3, 4)))
    names = [block.name for block in problem.parameter_blocks]
    assert names[:3] == ["0/fc/kernel", "1/fc/kernel", "1/fc/bias"]
    assert names[3].startswith("net/dense") and names[3].endswith("/kernel")
    hessian = HessianOperator(problem, problem.initial)
    assert Restricted(hessian, ["1/fc"]).n == 20
    assert [len(group.indices) for group in BlockDiagonal(hessian).groups] == [16, 20, 15]


@pytest.mark.parametrize("weight, message", [(np.nan, r"net: .*dense.*/bias holds"), (-1.0, "NaN")])
def test_models_that_give_no_numbers(weight, message):
    model = sequential(
        keras.Input((4,)), layers.Dense(2), layers.Activation(keras.ops.log), name="net"
    )
    model.layers[0].set_weights([np.zeros((4, 2)), np.full(2, weight)])
    with pytest.raises(InputError, match=message):
        alone(model, np.ones((3, 4)))


@pytest.mark.parametrize("wrong", [-1.0, 2.0])
def test_targets_of_sigmoids_lie_between_0_and_1(wrong):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    y = np.array([0.0, 0.5, 1.0, wrong])
    with pytest.raises(InputError, match=f"target {wrong} does not fit sigmoid-cross-entropy"):
        alone(model, np.ones((4, 4)), y, "sigmoid-cross-entropy")
    alone(model, np.ones((3, 4)), y[:3], "sigmoid-cross-entropy")


class Own(keras.losses.Loss):
    def call(self, y, f):
        return keras.ops.mean((y - f) ** 2, -1)


@pytest.mark.parametrize("loss", [
    "mse", keras.losses.mean_squared_error, keras.losses.Huber(delta=2.0),
    [keras.losses.BinaryCrossentropy(from_logits=True), "mse"], {"a": "mse", "b": "mae"},
])  # fmt: skip
def test_the_compiled_loss_is_read(tmp_path, loss):
    start = keras.Input((3,))
    ends = [layers.Dense(1, name="a")(start), layers.Dense(1, name="b")(start)]
    several = isinstance(loss, list | dict)
    model = keras.Model(start, ends if several else ends[0])
    weights = [1.0, 2.0] if isinstance(loss, list) else None
    model.compile(loss=loss, loss_weights=weights)
    model.save(tmp_path / "m.keras")
    found, found_weights = compiled_loss(tmp_path / "m.keras")
    told = [each.get_config() if isinstance(each, keras.losses.Loss) else each
            for each in (found[0] if isinstance(loss, list) else found,)]  # fmt: skip
    first = loss[0] if isinstance(loss, list) else loss
    wanted = first.get_config() if isinstance(first, keras.losses.Loss) else first
    assert told == ["mean_squared_error" if callable(wanted) else wanted]
    assert found_weights == weights


@pytest.mark.parametrize("loss, words", [
    (None, "was not compiled with a loss"), (Own(), "the loss Own, which is not one of Keras'"),
    (lambda y, f: f, "the loss __lambda__, which is not"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_no_code_of_a_compiled_loss_is_run(tmp_path, loss, words):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile(loss=loss)
    model.save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=words):
        compiled_loss(tmp_path / "m.keras")


def test_a_forged_loss_is_refused(tmp_path):
    for told in (
        {"module": "keras.losses", "class_name": "get", "config": {"identifier": "mse"}},
        {"module": "keras.losses", "class_name": "Huber", "config": {"delta": {"class_name": "x"}}},
        {"module": "os", "class_name": "system", "config": {}},
        {"class_name": "Huber"},
        {"module": "keras.losses", "class_name": "Huber", "config": 5},
        5,
    ):
        with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
            archive.writestr("config.json", json.dumps({"compile_config": {"loss": told}}))
        with pytest.raises(InputError, match="is not one of Keras'"):
            compiled_loss(tmp_path / "m.keras")
