"""What users hand over: each form gives the numbers that Keras' loss and TensorFlow give."""

import itertools

import h5py
import numpy as np
import pandas
import pytest
import scipy.sparse
from keras_oracle import compiled_loss, in_float64
from marks import serial_but, slow_but
from shards import mine, own_rows

import hesscomp.problems.handed as handed
from hesscomp.curvature.gauss_newton import GaussNewtonOperator
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.datasets import from_arrays, load_dataset
from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.problems.function import FunctionProblem
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.models import load_model

pytestmark = [pytest.mark.ranks(most=2), pytest.mark.usefixtures("eager")]
layers = keras.layers
rng = np.random.default_rng(0)
ROWS = 9
X, LABELS = rng.standard_normal((ROWS, 4)), np.arange(ROWS) % 3
IMAGES = rng.standard_normal((ROWS, 3, 3, 1))
SPARSE, DENSE = "sparse_categorical_crossentropy", "categorical_crossentropy"
FOCAL = "CategoricalFocalCrossentropy"


def network(width=3, activation="softmax", shape=(4,)):
    def make():
        stack = [layers.Flatten(), layers.Dense(3, "tanh"), layers.Dense(width, activation)]
        return keras.Sequential([layers.Input(shape), *stack], name="net")

    return in_float64(make)


def by_keras(model, loss, X, y, v, weights=None):
    """Keras' compiled loss of all rows, its gradient, and its Hessian times v, by TensorFlow."""
    each = keras.tree.map_structure(lambda one: one and compiled_loss(one), loss)
    compiled = keras.src.trainers.compile_utils.CompileLoss(
        each, weights, output_names=getattr(model, "output_names", None)
    )
    compiled._dtype = "float64"
    variables = model.trainable_variables
    cuts = np.cumsum([0, *(int(np.prod(each.shape)) for each in variables)])
    seeds = [
        tf.constant(v[a:b].reshape(each.shape))
        for each, a, b in zip(variables, cuts[:-1], cuts[1:], strict=True)
    ]
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            value = compiled(y, model(X, training=False))
            value += tf.add_n(model.losses) if model.losses else 0.0
        slopes = inner.gradient(value, variables, unconnected_gradients="zero")
        slopes = [tf.convert_to_tensor(one) for one in slopes]  # of an embedding: its rows
    product = outer.gradient(slopes, variables, seeds, unconnected_gradients="zero")
    product = [tf.convert_to_tensor(one) for one in product]
    flat = [np.concatenate([np.ravel(one) for one in part]) for part in (slopes, product)]
    return float(value), *flat


def agrees(problem, model, loss, X, y, weights=None):
    """Objective, gradient and Hessian product are Keras' of all rows."""
    v = np.random.default_rng(1).standard_normal(problem.n)
    value, slope, product = by_keras(model, loss, X, y, v, weights)
    found, gradient = problem.objective_and_gradient(problem.initial)
    assert found == pytest.approx(value, rel=1e-10)
    assert np.linalg.norm(gradient - slope) <= 1e-9 * np.linalg.norm(slope)
    here = HessianOperator(problem, problem.initial) @ v
    assert np.linalg.norm(here - product) <= 1e-9 * np.linalg.norm(product)


def split(world, *arrays):
    """Uneven shards, each with rows."""
    return tuple(array[own_rows(world, ROWS, "uneven")] for array in arrays)


# tf.data


@pytest.mark.parametrize("batch", [None, 2])
def test_a_data_set_of_tensorflow(world, batch):
    model, y = network(shape=(3, 3, 1)), LABELS
    data = tf.data.Dataset.from_tensor_slices(split(world, IMAGES, y))
    data = data if batch is None else data.batch(batch)
    problem = KerasProblem(model, SPARSE, data, world, dtype="float64")
    agrees(problem, model, SPARSE, IMAGES, y)
    arrays = KerasProblem(model, SPARSE, split(world, IMAGES, y), world, dtype="float64")
    assert problem.fingerprint == arrays.fingerprint


def test_rows_and_batches_are_told_apart(world):
    """Targets of several numbers: by the model's input, or by different extents."""
    y = np.eye(3)[LABELS]
    data = tf.data.Dataset.from_tensor_slices(mine(world, X, y))
    for given in (data, data.batch(4)):
        problem = KerasProblem(network(), "categorical_crossentropy", given, world, check="off")
        assert problem.rows == ROWS and problem.data.X.shape[1:] == (4,)

    def loss_sum(theta, X, y):
        return tf.reduce_sum((X @ tf.reshape(theta, [4, 3]) - y) ** 2)

    for given in (data, data.batch(4)):
        problem = FunctionProblem(loss_sum, np.ones(12), given, world, dtype="float64")
        assert problem.objective(problem.initial) == pytest.approx(
            ((X.sum(1)[:, None] - y) ** 2).sum() / ROWS
        )


@pytest.mark.serial
def test_data_sets_of_tensorflow_that_are_refused(monkeypatch):
    model, data = network(), tf.data.Dataset.from_tensor_slices((X, LABELS))
    for given, words in [
        (data.repeat(), r"never ends \(repeat\); leave out repeat, or take"),
        (data.map(lambda x, y: x), r"must be pairs \(x, y\); make them so with its map"),
        (data.map(lambda x, y: (x, y, 1.0)), "takes no sample weights"),
        (data.take(0), "no rank holds a row"),
        (iter([(X, LABELS)]), "a generator or loader give what its batches hold"),
    ]:
        with pytest.raises(InputError, match=words):
            KerasProblem(model, SPARSE, given)
    monkeypatch.setattr(handed, "available_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"holds more than the 250 B that this rank.*shard\(world"):
        KerasProblem(model, SPARSE, data)


def test_a_file_of_images(world, tmp_path_factory):
    """Rows of three axes, from NPZ; pixels without the axis of channels fit as well."""
    folder = world.broadcast(str(tmp_path_factory.mktemp("images")))
    model = network(shape=(3, 3, 1))
    for name, pixels in [("four", IMAGES), ("three", IMAGES[..., 0])]:
        path = f"{folder}/{name}.npz"
        if world.rank == 0:
            np.savez(path, X=pixels, y=LABELS)
        world.gather(0)
        data = load_dataset(path, world, targets="classes")
        problem = KerasProblem(model, SPARSE, data, world, dtype="float64")
        agrees(problem, model, SPARSE, IMAGES, LABELS)


@pytest.mark.serial
def test_models_of_the_old_format(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = "{}"
    with pytest.raises(InputError, match=r"no code; .*load_model\(.*m\.h5.*save\(.m\.keras"):
        load_model(tmp_path / "m.h5")
    with pytest.raises(InputError, match=r"is a folder.*model\.save\('m\.keras'\)"):
        load_model(tmp_path)


# pandas


@pytest.mark.serial
def test_tables():
    frame = pandas.DataFrame({"a": X[:, 0], "b": np.arange(ROWS), "c": LABELS > 0})
    frame["d"] = pandas.array(np.arange(ROWS), dtype="Int64")
    model, series = network(), pandas.Series(LABELS)
    problem = KerasProblem(model, SPARSE, (frame, series), dtype="float64")
    agrees(problem, model, SPARSE, frame.to_numpy(float), LABELS)
    data = from_arrays(frame, series.map(str), problem.world, targets="classes")
    assert data.feature_names == ("a", "b", "c", "d") and data.classes == ("0", "1", "2")
    for column, words in [
        (pandas.Series(["x"] * ROWS), r"no numbers: d \((object|str).*get_dummies"),
        (pandas.Series(["x"] * ROWS, dtype="category"), r"d \(category\).*get_dummies"),
        (pandas.array([None, *range(1, ROWS)], dtype="Int64"), r"missing values in d; fill"),
    ]:
        with pytest.raises(InputError, match=words):
            KerasProblem(model, SPARSE, (frame.assign(d=column), series))
        with pytest.raises(InputError, match=words):
            from_arrays(frame.assign(d=column), series, problem.world, targets="classes")
    with pytest.raises(InputError, match=r"y has columns that are no numbers.*cat\.codes"):
        KerasProblem(model, SPARSE, (frame, series.map(str)))
    with pytest.raises(InputError, match=r"X is sparse.*toarray"):
        KerasProblem(model, SPARSE, (scipy.sparse.csr_array(X), series))


# Labels and losses


@pytest.mark.serial
@pytest.mark.parametrize(
    ("loss", "form"),
    slow_but(
        [
            *itertools.product([SPARSE, DENSE], ["one-hot", "numbers"]), (SPARSE, "column"),
            (FOCAL, "column"),
        ],
        itertools.product([SPARSE, DENSE, FOCAL], ["numbers", "one-hot", "column"]),
    ),
)  # fmt: skip
def test_one_hot_rows_and_class_numbers(world, loss, form):
    forms = {"numbers": LABELS, "one-hot": np.eye(3, dtype=int)[LABELS], "column": LABELS[:, None]}
    model = network()
    data = mine(world, X, forms[form])
    problem = KerasProblem(model, loss, data, world, dtype="float64")
    right = "numbers" if loss == SPARSE else "one-hot"
    if loss.endswith("FocalCrossentropy") and form == "column":
        right = form  # which Keras stretches to all classes
    agrees(problem, model, loss, X, forms[right])
    held_out = problem.over(data)
    assert held_out.objective(problem.initial) == pytest.approx(problem.objective(problem.initial))


@pytest.mark.serial
@pytest.mark.parametrize(
    "name",
    slow_but(
        ["mse", "Huber", "bce", "kld"],
        ["mse", "mae", "huber", "Huber", "bce", "log_cosh", "MSLE", "kld"],
    ),
)
def test_losses_by_the_names_of_keras(world, name):
    model, y = network(2, "sigmoid"), np.abs(rng.standard_normal((ROWS, 2))) / 4
    problem = KerasProblem(model, name, split(world, X, y), world, dtype="float64")
    agrees(problem, model, name, X, y)


@pytest.mark.serial
def test_labels_that_stay_as_they_are(caplog):
    """Probabilities are not one-hot; several classes a row are neither; stretched targets warn."""
    with pytest.raises(InputError, match="class numbers go with sparse_categorical"):
        KerasProblem(network(), SPARSE, (X, np.full((ROWS, 3), 1 / 3)))
    with pytest.raises(InputError, match="do not sum to 1 in each row"):
        KerasProblem(network(), SPARSE, (X, np.ones((ROWS, 3))))
    with pytest.raises(InputError, match="class 3 does not fit a model with 3"):
        KerasProblem(network(), "categorical_crossentropy", (X, LABELS + 1))
    with pytest.raises(InputError, match="as many values for each row"):
        KerasProblem(network(), "mse", (X, LABELS))
    KerasProblem(network(), "mae", (X, LABELS[:, None]), check="off")
    assert "stretches targets of shape (1,) to outputs of shape (3,)" in caplog.text
    data = from_arrays(
        X,
        np.eye(3)[LABELS],
        KerasProblem(network(), SPARSE, (X, LABELS), check="off").world,
        targets="classes",
    )
    assert np.array_equal(data.train.y, LABELS)


# Recurrent layers


@pytest.mark.parametrize(
    "layer",
    [
        "LSTM",
        pytest.param("GRU", marks=pytest.mark.slow),
        pytest.param("SimpleRNN", marks=pytest.mark.slow),
        pytest.param("Bidirectional", marks=pytest.mark.slow),
    ],
)
def test_recurrent_layers(world, layer):
    """Rolled ones too: the generic engine writes their steps out."""

    def make():
        cell = layers.LSTM(2) if layer == "Bidirectional" else getattr(layers, layer)(2)
        cell = layers.Bidirectional(cell) if layer == "Bidirectional" else cell
        return keras.Sequential([layers.Input((3, 2)), cell, layers.Dense(3)], name="net")

    model, sequences = in_float64(make), rng.standard_normal((ROWS, 3, 2))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    problem = KerasProblem(model, loss, split(world, sequences, LABELS), world, dtype="float64")
    assert problem.engine.name == "generic"
    agrees(problem, model, loss, sequences, LABELS)
    v = rng.standard_normal(problem.n)
    assert v @ (GaussNewtonOperator(problem, problem.initial) @ v) > 0
    assert not any(getattr(each, "unroll", False) for each in model._flatten_layers())


# Several inputs and outputs

TOKENS = np.arange(2 * ROWS).reshape(ROWS, 2) % 5
MANY = {"words": TOKENS, "picture": IMAGES}
TARGETS = {"kind": LABELS, "price": rng.standard_normal((ROWS, 1)), "places": np.eye(2)[LABELS % 2]}
TARGETS["places"] = np.stack([TARGETS["places"], TARGETS["places"][::-1]], 1)
LOSSES = {"kind": SPARSE, "price": "mse", "places": "categorical_crossentropy"}
WEIGHTS = {"kind": 1.0, "price": 0.25, "places": 2.0}


def joint_model(
    inputs="list", outputs="list", chosen=("kind", "price", "places"), precision="float64"
):
    """Two inputs, one of whole numbers, and outputs that end in softmax, nothing and softmax."""

    def make():
        words = layers.Input((2,), dtype="int32", name="words")
        picture = layers.Input((3, 3, 1), name="picture")
        first = layers.Flatten()(layers.Embedding(5, 2, name="embedding")(words))
        second = layers.Flatten()(layers.Conv2D(1, 2, activation="tanh")(picture))
        hidden = layers.Dense(3, "tanh")(layers.Concatenate()([first, second]))
        ends = {
            "kind": layers.Dense(3, "softmax", name="kind")(hidden),
            "price": layers.Dense(1, name="price", kernel_regularizer="l2")(hidden),
            "places": layers.Softmax(name="places")(
                layers.Reshape((2, 2))(layers.Dense(4)(hidden))
            ),
        }
        ends = {name: ends[name] for name in chosen}
        given = {"list": [words, picture], "dict": {"words": words, "picture": picture}}[inputs]
        taken = {"list": list(ends.values()), "dict": ends, "one": next(iter(ends.values()))}
        return keras.Model(given, taken[outputs], name="many")

    return in_float64(make) if precision == "float64" else make()


def shard_of(world, thing):
    if isinstance(thing, dict):
        return {name: shard_of(world, one) for name, one in thing.items()}
    if isinstance(thing, list | tuple):
        return type(thing)(shard_of(world, one) for one in thing)
    return thing[own_rows(world, ROWS, "uneven")]


def listed(thing):
    return list(thing.values())


@pytest.mark.parametrize("inputs", serial_but(["dict"], ["list", "dict"]))
def test_several_inputs(world, inputs):
    model = joint_model(inputs, "one", ["kind"])
    X = MANY if inputs == "dict" else listed(MANY)
    problem = KerasProblem(model, SPARSE, shard_of(world, (X, LABELS)), world, dtype="float64")
    agrees(problem, model, SPARSE, X, LABELS)
    assert problem.at_logits and problem.engine.name == "generic"
    v = rng.standard_normal(problem.n)
    assert v @ (GaussNewtonOperator(problem, problem.initial) @ v) > 0


@pytest.mark.serial
def test_several_outputs_of_a_usual_model_and_targets_of_double_precision():
    model = joint_model("dict", chosen=["kind", "price"], precision="float32")
    loss = {name: LOSSES[name] for name in ("kind", "price")}
    y = {name: TARGETS[name] for name in loss}
    problem = KerasProblem(model, loss, (MANY, y), World())
    kind, price = model(MANY)
    expected = np.mean(keras.losses.get(SPARSE)(LABELS, kind))
    expected += np.mean((np.asarray(price) - TARGETS["price"]) ** 2)
    x = problem.initial
    decay = 0.01 * (np.asarray(model.get_layer("price").kernel) ** 2).sum()
    assert problem.objective(x) == pytest.approx(expected + decay, rel=1e-6)


@pytest.mark.parametrize("form", slow_but(["dict", "names"], ["list", "dict", "names", "tf"]))
def test_several_outputs(world, form):
    model = joint_model("dict", "dict" if form in ("dict", "tf") else "list")
    loss, weights, y = LOSSES, WEIGHTS, TARGETS
    if form == "list":
        loss, weights, y = listed(loss), listed(weights), tuple(listed(y))
    data = shard_of(world, (MANY, y))
    if form == "tf":
        data = tf.data.Dataset.from_tensor_slices(data).batch(2)
    check = "full" if form == "dict" else "off"
    options = {"loss_weights": weights, "dtype": "float64", "check": check}
    problem = KerasProblem(model, loss, data, world, **options)
    agrees(problem, model, loss, MANY, y, weights)
    x, v = problem.initial, rng.standard_normal(problem.n)
    assert problem.gauss_newton_psd and v @ (GaussNewtonOperator(problem, x) @ v) > 0
    held_out = problem.over(data).objective(x)
    decay = 0.01 * (np.asarray(model.get_layer("price").kernel) ** 2).sum()
    assert held_out == pytest.approx(problem.objective(x) - decay)
    problem.set_weights(2 * x)
    assert np.allclose(model.get_weights()[0], 2 * x[:10].reshape(5, 2))
    problem.set_weights(x)


def test_the_gauss_newton_matrix_of_several_outputs_is_the_sum_of_each_ones(world):
    """With their weights."""
    model = joint_model("list", "list", ["kind", "places"])
    names = ["kind", "places"]
    y = [TARGETS[name] for name in names]
    data = shard_of(world, (listed(MANY), y))

    def product(losses, weights):
        problem = KerasProblem(
            model, losses, data, world, loss_weights=weights, dtype="float64", check="off"
        )
        direction = np.random.default_rng(3).standard_normal(problem.n)
        return GaussNewtonOperator(problem, problem.initial) @ direction

    losses = [LOSSES[name] for name in names]
    both = product(losses, [1.0, 3.0])
    one, other = product([losses[0], None], [1.0, 0.0]), product([None, losses[1]], [1.0, 1.0])
    assert np.allclose(both, one + 3 * other, rtol=1e-10, atol=1e-12)


@pytest.mark.serial
def test_a_subclass_of_several_inputs_and_outputs():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.first, self.second = layers.Dense(3), layers.Dense(1)

        def call(self, inputs):
            hidden = inputs["a"] * inputs["b"]
            return self.first(hidden), self.second(hidden)

    given = {"a": X, "b": X[::-1].copy()}

    def make():
        model = Own()
        model(given)
        return model

    model = in_float64(make)
    loss = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), "huber"]
    y = [LABELS, X[:, :1]]
    problem = KerasProblem(model, loss, (given, y), dtype="float64")
    agrees(problem, model, loss, given, tuple(y))


@pytest.mark.serial
def test_a_compiled_model_brings_its_losses_and_weights():
    import hesscomp as hc

    model = joint_model()
    model.compile(loss=listed(LOSSES), loss_weights=listed(WEIGHTS))
    v = np.ones(sum(one.size for one in model.get_weights()))
    data = (listed(MANY), listed(TARGETS))
    product = by_keras(model, listed(LOSSES), *data, v, listed(WEIGHTS))[2]
    assert np.allclose(hc.hessian(model, None, data, dtype="float64") @ v, product, rtol=1e-8)
    single = network()
    single.compile(loss=SPARSE, loss_weights=3.0)
    v = np.ones(sum(one.size for one in single.get_weights()))
    product = by_keras(single, SPARSE, X, LABELS, v)[2]
    found = hc.hessian(single, None, (X, LABELS), dtype="float64") @ v
    assert np.allclose(found, 3 * product, rtol=1e-8)


@pytest.mark.serial
def test_what_does_not_fit_several_inputs_and_outputs():
    model, X, y = joint_model(), listed(MANY), listed(TARGETS)
    losses = listed(LOSSES)
    far = [TOKENS + 2**25, IMAGES]
    for loss, data, weights, words in [
        (losses[:2], (X, y), None, "2 losses are given, but there are 3: kind, price, places"),
        ({"colour": "mse"}, (X, y), None, "losses name colour, but there are kind, price"),
        (losses, (X[:1], y), None, r"1 inputs are given, but there are 2: words, picture"),
        (losses, (X, y[:2]), None, "2 targets are given, but there are 3"),
        (losses, (IMAGES, y), None, "there is one of the inputs, but 2 are needed"),
        (losses, ([TOKENS + 0.5, IMAGES], y), None, "words holds fractions; give whole"),
        (losses, (far, y), None, "words holds whole numbers above 16777216"),
        (losses, ([TOKENS[:3], IMAGES], y), None, "picture has 9 rows, but words has 3"),
        (losses, (X, y), WEIGHTS, "loss weights are a dict, and the losses a list"),
        (losses, (X, [LABELS + 1, *y[1:]]), None, "class 3 does not fit a model with 3"),
        (["softmax-cross-entropy", None, None], (X, y), [1.0], "1 weights are given"),
        ([None] * 3, (X, y), None, "no loss for any of its outputs"),
    ]:
        with pytest.raises(InputError, match=words):
            KerasProblem(model, loss, data, loss_weights=weights)
