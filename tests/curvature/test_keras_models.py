"""Models as people write them: value and derivatives against Keras' loss and TensorFlow's tape."""

import numpy as np
import pytest
from keras_oracle import compiled_loss, in_float64

from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError
from hesscomp.problems import stateless
from hesscomp.problems.keras import KerasProblem

layers = keras.layers
ROWS, CLASSES = 4, 3
LABELS = np.array([2, 0, 1, 1])
LOSS = keras.losses.SparseCategoricalCrossentropy
RNG = np.random.default_rng(0)


def through(x, *stack):
    for layer in stack:
        x = layer(x)
    return x


def classifier(data, x):
    return keras.Model(data, layers.Dense(CLASSES, activation="softmax")(x), name="net")


def residual():
    """Convolutions with batch normalisation and a connection around them."""
    data = layers.Input((6, 6, 2))
    x = through(data, layers.Conv2D(3, 3, padding="same", use_bias=False),
                layers.BatchNormalization(), layers.Activation("silu"))  # fmt: skip
    y = through(x, layers.Conv2D(3, 3, padding="same", use_bias=False), layers.BatchNormalization())
    x = through(layers.Add()([x, y]), layers.Activation("silu"))
    return classifier(data, layers.GlobalAveragePooling2D()(x))


def mobile():
    """Depthwise convolutions with relu6, as in MobileNet."""
    data = layers.Input((8, 8, 2))
    x = through(
        data, layers.Rescaling(0.5),
        layers.Conv2D(3, 3, strides=2, padding="same", use_bias=False),
        layers.BatchNormalization(), layers.ReLU(6.0), layers.ZeroPadding2D(((0, 1), (0, 1))),
        layers.DepthwiseConv2D(3, strides=2, use_bias=False), layers.BatchNormalization(),
        layers.ReLU(6.0), layers.Conv2D(4, 1, use_bias=False), layers.BatchNormalization(),
        layers.Activation("relu6"), layers.GlobalAveragePooling2D(keepdims=True),
        layers.Dropout(0.2), layers.Conv2D(4, 1), layers.Flatten(),
    )  # fmt: skip
    return classifier(data, x)


def attention():
    """A block of a transformer, normalised before its parts."""
    data = layers.Input((3, 4))
    x = layers.LayerNormalization(epsilon=0.1)(data)
    x = layers.Add()([data, layers.MultiHeadAttention(2, 2)(x, x)])
    y = through(x, layers.LayerNormalization(epsilon=0.1), layers.Dense(5, activation="gelu"),
                layers.Dense(4))  # fmt: skip
    return classifier(data, layers.GlobalAveragePooling1D()(layers.Add()([x, y])))


def lstm(kind=layers.LSTM, **options):
    data = layers.Input((3, 2))
    return classifier(data, kind(3, **options)(data))


class Subclassed(keras.Model):
    """A model of one's own, which ends in TensorFlow's softmax."""

    def __init__(self):
        super().__init__(name="net")
        self.first, self.last = layers.Dense(4, activation="tanh"), layers.Dense(CLASSES)

    def call(self, x):
        return tf.nn.softmax(self.last(self.first(x)))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 3)))
    return model


def plain(end):
    """A perceptron whose output is made from logits by `end`, a function of these."""
    data = layers.Input((3,))
    return keras.Model(data, end(layers.Dense(CLASSES)(layers.Dense(4, "tanh")(data))), name="net")


SOFTMAX = {
    "layer": lambda: plain(layers.Softmax()),
    "activation layer": lambda: plain(layers.Activation("softmax")),
    "keras.ops": lambda: plain(keras.ops.softmax),
    "keras.activations": lambda: plain(keras.activations.softmax),
    "argument": lambda: plain(layers.Dense(CLASSES, activation="softmax")),
    "tf.nn in a layer": lambda: plain(layers.Lambda(tf.nn.softmax, output_shape=(CLASSES,))),
    "tf.nn in call": subclassed,
    "layer, then dropout": lambda: plain(
        lambda z: layers.Dropout(0.5)(layers.Softmax()(z))
    ),
}  # fmt: skip
LAYERWISE = {"residual": residual, "mobile": mobile}
GENERIC = {  # and what the reason says
    "attention": (attention, r"multi_head_attention\w* \(MultiHeadAttention\)"),
    "lstm": (lambda: lstm(unroll=True), r"lstm\w* \(LSTM\)"),
    "gru": (lambda: lstm(layers.GRU, unroll=True), r"gru\w* \(GRU\)"),
    "subclassed": (subclassed, "Subclassed"),
}


def data_of(model, rows=ROWS):
    shape = getattr(model, "input_shape", None) or (None, 3)
    return RNG.standard_normal((rows, *shape[1:])), LABELS[:rows]


def by_tensorflow(model, loss, X, y, v):
    """Keras' loss of the model's own weights, its gradient, and its Hessian times v: by tapes."""
    variables = model.trainable_variables
    shapes = [tuple(variable.shape) for variable in variables]
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    seeds = [
        tf.constant(v[a:b].reshape(shape), tf.float64)
        for a, b, shape in zip(ends[:-1], ends[1:], shapes, strict=True)
    ]
    loss = compiled_loss(loss)

    @tf.function(autograph=False)
    def computed(X, y):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                value = tf.reduce_mean(loss(y, model(X, training=False)))
            slopes = inner.gradient(value, variables, unconnected_gradients="zero")
        product = outer.gradient(slopes, variables, seeds, unconnected_gradients="zero")
        return value, slopes, product

    value, *parts = computed(tf.constant(X), tf.constant(y))
    return float(value), *(np.concatenate([np.ravel(one) for one in part]) for part in parts)


def check_model(model, engine: str | None, data, *, exact=True) -> KerasProblem:
    """Value, gradient and a Hessian product; `exact` where TensorFlow's second derivatives are."""
    problem = KerasProblem(model, LOSS(), data, dtype="float64", check="full")
    assert engine in (None, problem.engine.name), problem.engine.reason
    x, v = problem.initial, np.random.default_rng(1).standard_normal(problem.n)
    value, gradient, product = by_tensorflow(model, LOSS(), *data, v)
    objective, slope = problem.objective_and_gradient(x)
    assert objective == pytest.approx(value, rel=1e-10)
    assert np.linalg.norm(slope - gradient) <= 1e-9 * np.linalg.norm(gradient)
    found = HessianOperator(problem, x) @ v
    if not exact:  # the mean in Keras' layer normalisation: differences of the gradient
        h = 1e-5
        ends = [problem.objective_and_gradient(x + step * v)[1] for step in (h, -h)]
        product = (ends[0] - ends[1]) / (2 * h)
    assert np.linalg.norm(found - product) <= (1e-9 if exact else 1e-6) * np.linalg.norm(product)
    return problem


@pytest.mark.parametrize("name", ["residual", pytest.param("mobile", marks=pytest.mark.slow)])
def test_models_whose_layers_all_have_a_rule(eager, name):
    model = in_float64(LAYERWISE[name])
    problem = check_model(model, "layer-wise", data_of(model))
    assert problem.at_logits and problem.engine.reason == "every layer has a rule"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "gru")) for name in GENERIC]
)
def test_models_for_the_generic_engine_and_the_layer_to_blame(name):
    make, blamed = GENERIC[name]
    model = in_float64(make)
    problem = check_model(model, "generic", data_of(model), exact=name != "attention")
    assert problem.at_logits
    with pytest.raises(InputError, match=f"no layer-wise engine for net: .*{blamed}"):
        KerasProblem(model, LOSS(), data_of(model), dtype="float64", engine="layer-wise")


def test_a_long_rolled_loop_is_refused_with_its_remedy(monkeypatch):
    """Its Hessian; what needs no second derivative of it is there."""
    monkeypatch.setattr(stateless, "LONGEST", 1)
    model = in_float64(lstm)
    problem = KerasProblem(model, LOSS(), data_of(model), dtype="float64")
    problem.objective_and_gradient(problem.initial)
    with pytest.raises(InputError, match=r"256 steps need unroll=True.*finite-difference"):
        HessianOperator(problem, problem.initial) @ np.ones((problem.n, 2))


@pytest.mark.parametrize("written", SOFTMAX)
def test_every_way_to_write_a_softmax(written, request):
    """The same loss of the logits, and the same Gauss-Newton split, however it is written."""
    if not written.startswith("tf.nn"):  # which leaves a trace in graphs alone
        request.getfixturevalue("eager")
    model = in_float64(SOFTMAX[written])
    layerwise = written in ("layer", "activation layer", "argument", "layer, then dropout")
    problem = check_model(model, "layer-wise" if layerwise else "generic", data_of(model))
    assert problem.at_logits
    assert problem.loss.name == "softmax-cross-entropy"
    if layerwise:
        assert problem.engine.reason == "every layer has a rule"


APPLICATIONS = {
    "MobileNetV2": (lambda: keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classes=CLASSES), "layer-wise"),
    "ResNet50": (lambda: keras.applications.ResNet50(
        input_shape=(32, 32, 3), weights=None, classes=CLASSES), "layer-wise"),
    "EfficientNetB0": (lambda: keras.applications.EfficientNetB0(
        input_shape=(32, 32, 3), weights=None, classes=CLASSES), None),
    "DenseNet121": (lambda: keras.applications.DenseNet121(
        input_shape=(32, 32, 3), weights=None, classes=CLASSES), "layer-wise"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_architectures_of_keras(name):
    make, engine = APPLICATIONS[name]
    model = in_float64(make, moved=0.0)
    check_model(model, engine, data_of(model, 2))
