"""What hesscomp takes of Keras beyond its public names: there, or refused in one clear line."""

import numpy as np
import pytest

import hesscomp as hc
from hesscomp.curvature import keras_internals
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError

SAYS = r"Keras [\d.]+ has no .*{}, which hesscomp needs; install the version"


def test_this_version_has_all_and_a_check_leaves_no_trace():
    keras.layers.Dense(1)  # so that later ones are numbered
    keras.utils.set_random_seed(0)
    before = keras.layers.Dense(2)
    before.build((None, 3))
    keras.utils.set_random_seed(0)
    keras_internals.check_keras.cache_clear()
    keras_internals.check_keras()
    after = keras.layers.Dense(2)
    after.build((None, 3))
    np.testing.assert_array_equal(before.kernel, after.kernel)
    first, second = (int(name.rpartition("_")[2]) for name in (before.name, after.name))
    assert second == first + 1


def test_a_version_without_a_name_is_refused(monkeypatch):
    with pytest.raises(InputError, match=SAYS.format("losses.nowhere")):
        keras_internals._taken("keras.src.losses", "nowhere")
    with pytest.raises(InputError, match=SAYS.format("nowhere.it")):
        keras_internals._taken("keras.src.nowhere", "it")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert keras_internals.compiled_loss_weights(model) is None
    model.compile("sgd", "mse", loss_weights=[0.5])
    assert keras_internals.compiled_loss_weights(model) == [0.5]
    monkeypatch.setattr(model, "_compile_loss", object())
    with pytest.raises(InputError, match=SAYS.format("_user_loss_weights")):
        hc.hessian(model, data=(np.eye(2), np.ones(2)))
    monkeypatch.setattr(keras.activations, "softmax", lambda x: tf.nn.softmax(x))
    keras_internals.check_keras.cache_clear()
    with pytest.raises(InputError, match=SAYS.format("_keras_logits")):
        hc.hessian(model, "mse", (np.eye(2), np.ones(2)))
