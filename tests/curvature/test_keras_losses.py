"""Every loss of Keras, every ending of a model: a product, against differences of Keras' own value.

The tables below are multiplied; `refusal` says of each pair whether it is taken, and of what is not
with which words. The oracle (`keras_oracle`) differentiates nothing.
"""

import itertools
from functools import partial

import numpy as np
import pytest
from keras_oracle import Oracle, in_float64
from marks import slow_but

from hesscomp.curvature.gauss_newton import GaussNewtonOperator
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.problems.keras import KerasProblem

pytestmark = pytest.mark.usefixtures("eager")
K, layers = keras.losses, keras.layers
ROWS, CLASSES = 5, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((ROWS, 3))
LABELS = np.array([2, 0, 1, 1, 0])
PROBABILITIES = np.random.default_rng(376).dirichlet([3, 3, 3], ROWS)  # far from all outputs


class Quartic(K.Loss):
    """A loss as a user writes it."""

    def call(self, y_true, y_pred):
        return keras.ops.mean((y_pred - y_true) ** 4, axis=-1)


LOGITS = {"from_logits": True}
SMOOTH = {"label_smoothing": 0.1}
LOSSES = {  # how each one is made
    "kl": K.KLDivergence,
    "poisson": K.Poisson,
    "binary": K.BinaryCrossentropy,
    "binary, logits": partial(K.BinaryCrossentropy, **LOGITS),
    "binary, smooth": partial(K.BinaryCrossentropy, **SMOOTH),
    "binary, smooth, logits": partial(K.BinaryCrossentropy, **SMOOTH, **LOGITS),
    "binary focal": partial(K.BinaryFocalCrossentropy, apply_class_balancing=True),
    "binary focal, logits": partial(K.BinaryFocalCrossentropy, **SMOOTH, **LOGITS),
    "softmax": K.CategoricalCrossentropy,
    "softmax, logits": partial(K.CategoricalCrossentropy, **LOGITS),
    "softmax, smooth": partial(K.CategoricalCrossentropy, **SMOOTH),
    "softmax, smooth, logits": partial(K.CategoricalCrossentropy, **SMOOTH, **LOGITS),
    "softmax focal": partial(K.CategoricalFocalCrossentropy, alpha=[0.2, 0.3, 0.5]),
    "softmax focal, logits": partial(K.CategoricalFocalCrossentropy, **SMOOTH, **LOGITS),
    "classes": K.SparseCategoricalCrossentropy,
    "classes, logits": partial(K.SparseCategoricalCrossentropy, **LOGITS),
    "classes, ignored": partial(K.SparseCategoricalCrossentropy, ignore_class=1),
    "generalized": K.CategoricalGeneralizedCrossEntropy,
    "squares": K.MeanSquaredError,
    "absolute": K.MeanAbsoluteError,
    "percentage": K.MeanAbsolutePercentageError,
    "logarithmic": K.MeanSquaredLogarithmicError,
    "cosine": K.CosineSimilarity,
    "log cosh": K.LogCosh,
    "huber": partial(K.Huber, delta=0.2),
    "hinge": K.Hinge,
    "squared hinge": K.SquaredHinge,
    "softmax hinge": K.CategoricalHinge,
    "dice": K.Dice,
    "dice of rows": partial(K.Dice, axis=-1),
    "tversky": K.Tversky,
    "tversky of rows": partial(K.Tversky, axis=-1),
    "circle": K.Circle,
    "ctc": K.CTC,
    "user's": Quartic,
}
WRITTEN = {  # a loss by its name, a class, a function; those of hesscomp's own names are below
    "a name": "mse",
    "a name of logits": "categorical_crossentropy",
    "a class": K.BinaryCrossentropy,
    "a function": K.binary_crossentropy,
    "a lambda": lambda y, f: keras.losses.categorical_crossentropy(y, f, label_smoothing=0.2),
    "a sum": lambda y, f: K.binary_crossentropy(y, f) + tf.reduce_mean(tf.square(f), -1),
}
OWN = {  # what each is in Keras, times which number
    "softmax-cross-entropy": (partial(K.CategoricalCrossentropy, **LOGITS), 1),
    "sigmoid-cross-entropy": (partial(K.BinaryCrossentropy, **LOGITS), CLASSES),
    "squared-error": (K.MeanSquaredError, CLASSES / 2),
}
OF_CLASSES = ("classes", "classes, logits", "classes, ignored", "generalized", "circle", "ctc")
ENDINGS = {
    "none": [],
    "linear": [lambda: layers.Activation("linear")],
    "softmax": [lambda: layers.Activation("softmax")],
    "sigmoid": [lambda: layers.Activation("sigmoid")],
    "tanh": [lambda: layers.Activation("tanh")],
}
ENGINES = ("layer-wise", "generic")
REFUSED = {  # whatever the ending
    "classes, ignored": "ignore_class: its mean is over the rows of other classes.*leave rows",
    "dice": r"gives numbers of shape \(\).*one for each, not their mean",
    "tversky": r"gives numbers of shape \(\).*one for each, not their mean",
    "circle": "compares the rows of a batch with each other.*take a loss of each row",
    "ctc": "does not take targets of shape .*give targets, or a loss, that fit",
}


def refusal(loss: str, ending: str) -> str | None:
    """The words with which this pair is refused; None where it is taken."""
    if (loss, ending) in (
        ("softmax-cross-entropy", "sigmoid"),
        ("sigmoid-cross-entropy", "softmax"),
    ):
        return f"ends in {ending}, and the loss {loss} takes logits; end the model in"
    return REFUSED.get(loss)


def network(ending: str, outputs: int = CLASSES):
    """3-2-3 with tanh; outputs lie in (0.1, 0.9) for all endings, off the kinks of all losses."""
    last = layers.Dense(
        outputs,
        kernel_initializer=keras.initializers.RandomUniform(-0.1, 0.1),
        bias_initializer=keras.initializers.Constant(0.5),
    )
    ends = [make() for make in ENDINGS[ending]]
    return keras.Sequential(
        [layers.Input((3,)), layers.Dense(2, activation="tanh"), last, *ends], name="net"
    )


def model_of(ending: str, outputs: int = CLASSES):
    return in_float64(lambda: network(ending, outputs), moved=0.05)


def targets_of(loss: str) -> np.ndarray:
    return LABELS if loss in OF_CLASSES else PROBABILITIES


def given(loss: str):
    """The loss, what Keras' loss is of it, and the factor between the two."""
    if loss in OWN:
        return loss, OWN[loss][0](), OWN[loss][1]
    made = WRITTEN.get(loss) or LOSSES[loss]()
    return made, made, 1


def close(found, expected, tolerance, scale=None):
    scale = np.linalg.norm(expected) if scale is None else scale
    assert np.linalg.norm(found - expected) <= tolerance * scale


def check_pair(loss: str, ending: str, engines, check: str) -> None:
    """All that a problem of this loss and ending gives, or its refusal."""
    model, y = model_of(ending), targets_of(loss)
    taken, by_keras, factor = given(loss)

    def problem(engine):
        return KerasProblem(model, taken, (X, y), dtype="float64", engine=engine, check=check)

    words = refusal(loss, ending)
    if words is not None:
        for engine in engines:
            with pytest.raises(InputError, match=words):
                problem(engine)
        return
    oracle = Oracle(model, by_keras, X, y)
    gradient, H = (factor * part for part in oracle.gradient_and_hessian())
    matrices = []
    for engine in engines:
        p = problem(engine)
        assert p.engine.name == engine
        objective, slope = p.objective_and_gradient(p.initial)
        assert objective == pytest.approx(factor * oracle.value(), rel=1e-12)
        close(slope, gradient, 1e-6)
        close(HessianOperator(p, p.initial) @ np.eye(p.n), H, 1e-4)
        matrices.append(GaussNewtonOperator(p, p.initial) @ np.eye(p.n))
    close(matrices[0], matrices[-1], 1e-10, np.linalg.norm(H))
    by_hand = cross_entropy_matrix(p)
    if by_hand is not None:
        close(matrices[0], by_hand, 1e-10)


def cross_entropy_matrix(problem) -> np.ndarray | None:
    """J^T B J at the logits, in NumPy; None where the loss is none of logits."""
    known = getattr(problem.loss, "link", None)
    if known is None or type(problem.loss.bare).__name__ == "FunctionLoss":
        return None
    if not problem.at_logits and len(problem.model.layers) == 3:
        return None  # the loss takes what the activation gives
    z = logits(problem.initial)
    J = np.stack(
        [logits(problem.initial + 1e-30j * e).imag / 1e-30 for e in np.eye(problem.n)], axis=-1
    )
    if known == "softmax":
        p = np.exp(z.real) / np.exp(z.real).sum(1, keepdims=True)
        B = np.einsum("ic,cd->icd", p, np.eye(CLASSES)) - np.einsum("ic,id->icd", p, p)
        scale = 1.0
    else:
        s = 1 / (1 + np.exp(-z.real))
        B = np.einsum("ic,cd->icd", s * (1 - s), np.eye(CLASSES))
        scale = 1.0 if problem.loss.name == "sigmoid-cross-entropy" else 1 / CLASSES
    return scale * np.einsum("icm,icd,idn->mn", J, B, J) / ROWS


def logits(x: np.ndarray) -> np.ndarray:
    """Of the network, in NumPy; x may be complex, for derivatives without differences."""
    W, b, V, c = np.split(x, np.cumsum([6, 2, 6]))
    return np.tanh(X @ W.reshape(3, 2) + b) @ V.reshape(2, 3) + c


ALL = [*LOSSES, *WRITTEN, *OWN]
DISTINCT = [  # one of each way in which a loss treats its targets and its ending
    "kl", "binary, logits", "softmax", "softmax focal, logits", "classes", "generalized", "squares",
    "hinge", "dice of rows", "user's", *WRITTEN, *OWN,
]  # fmt: skip
OF_LOGITS = [  # those that take an ending apart, and one that leaves each as it is
    "kl", "binary, logits", "softmax", "classes", "a name of logits", "a class", *OWN,
]  # fmt: skip


@pytest.mark.parametrize("loss", ALL)
def test_every_loss_with_its_endings(loss):
    """Every ending of the ways that depend on it; behind softmax these by both engines."""
    if loss not in DISTINCT:
        own = "none" if "logits" in loss else "sigmoid" if "binary" in loss else "softmax"
        check_pair(loss, own, ENGINES[:1], "off")
        return
    both = loss in OF_LOGITS or loss == "squares"
    check_pair(loss, "softmax", ENGINES if both else ENGINES[:1], "full")
    if loss in OF_LOGITS:
        kept = ("tanh",) if loss in ("kl", "classes") else ()  # no loss takes it apart
        for ending in ("none", "sigmoid", *kept):
            check_pair(loss, ending, ENGINES[:1], "off")
    elif loss == "squares":
        check_pair(loss, "linear", ENGINES[:1], "off")  # which is none


@pytest.mark.slow
@pytest.mark.parametrize("loss", ALL)
def test_every_loss_with_every_ending_and_engine(loss):
    for ending in ENDINGS:
        check_pair(loss, ending, ENGINES, "full")


def test_all_losses_of_keras_are_in_the_table():
    of_keras = {
        kind for kind in vars(K).values() if isinstance(kind, type) and issubclass(kind, K.Loss)
    }
    assert of_keras - {K.Loss} == {getattr(make, "func", make) for make in LOSSES.values()} - {
        Quartic
    }


# Reductions

MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "none", None)


@pytest.mark.parametrize("ending", [pytest.param("none", marks=pytest.mark.slow), "softmax"])
def test_reductions(ending):
    """A sum is refused, whatever the loss; all others are means over the rows."""
    model = model_of(ending)
    for loss, reduction in itertools.product(LOSSES, ("sum", *MEANS)):
        if reduction not in ("sum", None) and loss not in ("squares", "classes"):
            continue  # one implementation serves all losses of Keras
        made, y = LOSSES[loss](reduction=reduction), targets_of(loss)
        words = "has reduction='sum'.*mean over rows; take" if reduction == "sum" else None
        words = words or refusal(loss, ending)
        if words is not None:
            with pytest.raises(InputError, match=words):
                KerasProblem(model, made, (X, y), dtype="float64", check="off")
        elif reduction in ("mean", None):  # the others are words for these
            problem = KerasProblem(model, made, (X, y), dtype="float64", check="off")
            value = Oracle(model, made, X, y).value()
            objective = problem.objective_and_gradient(problem.initial)[0]
            assert objective == pytest.approx(value, rel=1e-12)
        else:
            KerasProblem(model, made, (X, y), dtype="float64", check="off")


# Weights of rows and classes


def test_sample_weights_are_refused():
    """As a third array, as Keras' `fit` takes them; and as an option that nothing here has."""
    for loss in LOSSES:
        y = targets_of(loss)
        with pytest.raises(InputError, match=r"no sample weights; give \(X, y\), and repeat"):
            KerasProblem(model_of("softmax"), LOSSES[loss](), (X, y, np.ones(ROWS)))
    for option in ("class_weight", "sample_weight"):
        with pytest.raises(TypeError, match=option):
            KerasProblem(model_of("softmax"), "mse", (X, PROBABILITIES), **{option: {0: 2.0}})
    weighted = tf.data.Dataset.from_tensor_slices((X, PROBABILITIES, np.ones(ROWS)))
    with pytest.raises(InputError, match="takes no sample weights; give pairs"):
        KerasProblem(model_of("softmax"), "mse", weighted)


# How targets are written

ENCODINGS = {
    3: {
        "class numbers": LABELS,
        "class numbers with an axis": LABELS[:, None],
        "class numbers as floats": LABELS.astype(float),
        "class numbers too large": LABELS + 1,
        "one-hot": np.eye(3)[LABELS],
        "one-hot, whole": np.eye(3, dtype=int)[LABELS],
        "probabilities": PROBABILITIES,
        "signs": 2 * np.eye(3)[LABELS] - 1,
        "floats": RNG.standard_normal((ROWS, 3)),
        "rows for columns": PROBABILITIES[:3].T @ PROBABILITIES[:3],
    },
    1: {
        "0/1": LABELS % 2,
        "0/1 with an axis": (LABELS % 2)[:, None],
        "true and false": LABELS % 2 == 1,
        "signs": 2 * (LABELS % 2) - 1,
        "probabilities": PROBABILITIES[:, 0],
        "probabilities with an axis": PROBABILITIES[:, :1],
        "floats": RNG.standard_normal(ROWS),
        "one-hot": np.eye(3)[LABELS],
    },
}
REFUSED_BY_KERAS = (
    "does not take targets .*give targets, or a loss|X has 5 rows|do not fit outputs|"
    "does not fit a model|the targets lie below 0|do not sum to 1|but hold fractions"
)
BROADCAST = "class numbers with an axis"  # which Keras spreads over all outputs of a row


def encoding_refusal(loss, made, encoding: str, outputs: int, ending: str) -> str | None:
    """The words in which hesscomp refuses targets that Keras takes; None where it takes them too.

    `made` is the problem's known loss, where there is one: by name.
    """
    if encoding == "rows for columns":
        return "X has 5 rows but y has 3"
    y = ENCODINGS[outputs][encoding]
    if loss in ("hinge", "squared hinge") and np.any(y == 0) and np.any((y != 0) & (y != 1)):
        return "takes -1 and 1, or 0 and 1, and the targets hold 0"  # Keras goes by the batch
    if made == "sigmoid" and encoding in ("signs", "floats"):
        return "whose targets lie between 0 and 1; for -1 and .1 give"
    if made == "softmax" and outputs == 1:  # of a single class there is nothing to learn
        return "the targets do not sum to 1|lie below 0|fit a model with 1 outputs|fractions"
    if made == "softmax" and encoding in ("signs", "floats"):
        return "the targets lie below 0 .*class numbers, or probabilities"
    if loss == "generalized" and encoding == BROADCAST:
        return "depends on the other rows"
    if loss == "user's" and outputs == 1 and np.ndim(ENCODINGS[1][encoding]) == 1:
        return "depends on the other rows"
    if made == "squares" and (encoding == BROADCAST or (outputs == 1 and encoding == "one-hot")):
        return "targets of shape .* do not fit outputs"
    return None


def known_loss(loss: str, ending: str) -> str | None:
    """Which of hesscomp's own losses a loss of Keras becomes."""
    if loss == "squares":
        return "squares"
    if "focal" in loss or "hinge" in loss or not loss.startswith(("binary", "softmax", "classes")):
        return None
    if not (loss.endswith("logits") or ending in ("softmax", "sigmoid")):
        return None
    return "sigmoid" if loss.startswith("binary") else "softmax"


ENCODED = [  # one of each kind; options change no targets
    "kl", "poisson", "binary", "binary, logits", "binary focal", "softmax", "softmax, logits",
    "softmax focal", "classes", "classes, logits", "generalized", "squares", "absolute",
    "logarithmic", "cosine", "log cosh", "huber", "hinge", "squared hinge", "softmax hinge",
    "dice of rows", "tversky of rows", "user's",
]  # fmt: skip


MEANT = {
    **{("classes", form): LABELS for form in ("one-hot", "one-hot, whole")},
    **{
        (loss, f"class numbers{form}"): np.eye(3)[LABELS]
        for loss in ("softmax", "softmax focal")
        for form in ("", " with an axis", " as floats")
        if (loss, form) != ("softmax focal", " with an axis")  # which Keras takes
    },
}


def check_encodings(loss: str, outputs: int, ending: str) -> None:
    """Each way of writing targets: as Keras takes it, or refused where Keras refuses it.

    But for one-hot rows in place of class numbers, and the reverse, which are taken as the other.
    The value and the gradient are those of Keras' own loss.
    """
    model = model_of(ending, outputs)
    for encoding, y in ENCODINGS[outputs].items():
        made = LOSSES[loss]()
        try:
            oracle = Oracle(model, made, X, y)
            expected = oracle.value()
        except (ValueError, TypeError, tf.errors.InvalidArgumentError):
            words, meant = REFUSED_BY_KERAS, MEANT.get((loss.split(",")[0], encoding))
            if outputs == 3 and meant is not None:
                oracle, words = Oracle(model, made, X, meant), None
                expected = oracle.value()
        else:
            words = encoding_refusal(loss, known_loss(loss, ending), encoding, outputs, ending)
        if words is not None:
            with pytest.raises(InputError, match=words):
                KerasProblem(model, made, (X, y), dtype="float64", check="off")
            continue
        problem = KerasProblem(model, made, (X, y), dtype="float64", check="off")
        objective, gradient = problem.objective_and_gradient(problem.initial)
        assert objective == pytest.approx(expected, rel=1e-12, abs=1e-14), encoding
        if np.isnan(gradient).any():  # TensorFlow's too, of targets that are out of range
            with pytest.raises(InputError, match="gradient"):
                KerasProblem(model, made, (X, y), dtype="float64")
            continue
        slope = oracle.gradient()
        assert np.linalg.norm(gradient - slope) <= 1e-5 * np.linalg.norm(slope) + 1e-11, encoding


@pytest.mark.parametrize("loss", slow_but({*DISTINCT} - {"dice of rows"}, ENCODED))
def test_encodings_of_targets(loss):
    check_encodings(loss, 3, "softmax")
    if loss != "generalized":  # of one class there is nothing to learn
        check_encodings(loss, 1, "sigmoid")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ENCODED)
def test_encodings_of_targets_without_an_ending(loss):
    check_encodings(loss, 3, "none")
    if loss != "generalized":
        check_encodings(loss, 1, "none")


# Against `model.evaluate` itself, in float32


@pytest.mark.parametrize("loss, ending", [
    ("classes", "softmax"), ("binary", "sigmoid"), ("softmax", "tanh"), ("a lambda", "softmax"),
    ("hinge", "tanh"),
])  # fmt: skip
def test_evaluate(loss, ending):
    tf.config.run_functions_eagerly(False)
    keras.utils.set_random_seed(1)
    model, y = network(ending), targets_of(loss)
    taken, by_keras, _ = given(loss)
    model.compile(loss=by_keras)
    expected = model.evaluate(X, y, verbose=0)
    problem = KerasProblem(model, taken, (X, y), World(), check="full")
    objective = problem.objective_and_gradient(problem.initial)[0]
    assert objective == pytest.approx(expected, rel=1e-5)
