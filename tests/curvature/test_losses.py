"""Losses: what functions of the user's must give, and Keras' own as the known ones they are."""

import numpy as np
import pytest

from hesscomp.curvature.gauss_newton import FisherOperator, GaussNewtonOperator
from hesscomp.curvature.keras_losses import find_loss
from hesscomp.curvature.losses import FunctionLoss, Scaled
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.problems.keras import KerasProblem

layers = keras.layers
X = np.random.default_rng(0).standard_normal((6, 4))


def network(width=3):
    return keras.Sequential([layers.Input((4,)), layers.Dense(width)], name="net")


def squares(y, output):
    return tf.reduce_mean((y - output) ** 2, -1)


@pytest.mark.parametrize(
    "loss, message",
    [
        (lambda y, f: tf.reduce_mean(squares(y, f)), r"gives numbers of shape \(\) for 2 rows"),
        (lambda y, f: tf.reduce_sum((y - f) ** 2, 0), "one for each, not their mean or sum"),
        (lambda y, f: squares(y, f) / tf.reduce_mean(squares(y, f)), "depends on the other rows"),
    ],
    ids=["mean", "sum", "coupled"],
)
def test_functions_that_are_no_loss_of_each_row_are_refused(loss, message):
    with pytest.raises(InputError, match=message):
        KerasProblem(network(), loss, (X, X[:, :3]), World())


LOGITS = {"from_logits": True}
SHAPES = {"rows": (3,), "places": (2, 3)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    "loss, known, scales",
    [
        (keras.losses.MeanSquaredError(reduction="none"), "squared-error", (2 / 3, 1 / 3)),
        (keras.losses.BinaryCrossentropy(**LOGITS), "sigmoid-cross-entropy", (1 / 3, 1 / 6)),
        (keras.losses.CategoricalCrossentropy(**LOGITS), "softmax-cross-entropy", (1, 1 / 2)),
        (keras.losses.SparseCategoricalCrossentropy(**LOGITS), "softmax-cross-entropy", (1, 1 / 2)),
        (
            keras.losses.CategoricalCrossentropy(label_smoothing=0.1, **LOGITS),
            "softmax-cross-entropy",
            (1, 1 / 2),
        ),
        (
            keras.losses.BinaryCrossentropy(label_smoothing=0.3, **LOGITS),
            "sigmoid-cross-entropy",
            (1 / 3, 1 / 6),
        ),
    ],
    ids=["squares", "sigmoid", "softmax", "classes", "smooth softmax", "smooth sigmoid"],
)
def test_losses_of_keras_are_known_ones(loss, known, scales, shape):
    """Values, gradients and curvature as by differentiation of Keras' own `call`."""
    found = find_loss(loss, shape)
    assert found.bare.name == known and found.convex
    assert getattr(found, "scale", 1) == pytest.approx(scales[len(shape) - 1], rel=1e-15)
    rng = np.random.default_rng(1)
    output = tf.constant(rng.standard_normal((5, *shape)))
    y = tf.constant(rng.dirichlet(np.ones(3), (5, *shape[:-1])))
    T = tf.constant(rng.standard_normal((5, *shape[:-1], 4, 3)))
    targets = [y]
    if loss.name.startswith("sparse"):
        classes = tf.constant(rng.integers(0, 3, (5, *shape[:-1])))
        targets = [classes, classes[..., None]]
    oracle = FunctionLoss(loss.call, "by differentiation")
    for y in targets:
        np.testing.assert_allclose(found.values(output, y), oracle.values(output, y), rtol=1e-13)
        for name, *block in (("gradient",), ("curvature", T)):
            left, right = (getattr(each, name)(output, y, *block) for each in (found, oracle))
            np.testing.assert_allclose(left, right, atol=1e-14)


@pytest.mark.parametrize(
    "loss",
    [keras.losses.BinaryCrossentropy(), keras.losses.MeanAbsoluteError()],
    ids=["probabilities", "another"],
)
def test_other_losses_of_keras_stay_functions(loss):
    assert isinstance(find_loss(loss, (3,)), FunctionLoss)


@pytest.mark.parametrize(
    "loss, message",
    [
        (keras.losses.MeanSquaredError(reduction="sum"), "reduction='sum'.*take reduction="),
        (keras.losses.SparseCategoricalCrossentropy(ignore_class=2, **LOGITS), "ignore_class"),
        ("crossentropy", "unknown loss crossentropy; use one of softmax-cross-entropy"),
    ],
    ids=["sum", "ignoring", "unknown"],
)
def test_losses_that_are_no_means_over_rows_are_refused(loss, message):
    with pytest.raises(InputError, match=message):
        KerasProblem(network(), loss, (X, np.arange(6) % 3), World())


def test_fisher_matrices_of_losses_of_keras():
    """The cross-entropy of one distribution a row has one; the mean of squares is no likelihood."""
    y = np.arange(6) % 3
    classes = keras.losses.SparseCategoricalCrossentropy(**LOGITS)
    problem = KerasProblem(network(), classes, (X, y[:, None]), World(), dtype="float64")
    fisher, ggn = (kind(problem, problem.initial) for kind in (FisherOperator, GaussNewtonOperator))
    assert fisher.psd and ggn.psd and problem.psd
    np.testing.assert_array_equal(fisher.to_dense(), ggn.to_dense())
    squares = KerasProblem(network(), keras.losses.MeanSquaredError(), (X, X[:, :3]), World())
    assert isinstance(squares.loss, Scaled)
    assert GaussNewtonOperator(squares, squares.initial).psd
    with pytest.raises(InputError, match=r"0\.666667 x squared-error is not known"):
        FisherOperator(squares, squares.initial)
