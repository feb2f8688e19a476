"""Losses: what functions of the user's must give, and Keras' own as the known ones they are."""

import numpy as np
import pytest

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
        (lambda y, f: tf.reduce_mean(squares(y, f)), r"gives numbers of shape \(\) for 3 rows"),
        (lambda y, f: tf.reduce_sum((y - f) ** 2, 0), "one for each, not their mean or sum"),
        (lambda y, f: squares(y, f) / tf.reduce_mean(squares(y, f)), "depends on the other rows"),
    ],
    ids=["mean", "sum", "coupled"],
)
def test_functions_that_are_no_loss_of_each_row_are_refused(loss, message):
    with pytest.raises(InputError, match=message):
        KerasProblem(network(), loss, (X, X[:, :3]), World())
