"""What hesscomp takes of Keras beyond its public names, and a clear word where a version lacks it.

Keras has no public name for these. A version without one of them would be computed wrongly, or in
the wrong precision, so it is refused.
"""

from functools import cache
from importlib import import_module
from typing import Any

from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError

TESTED = "3.15"  # the version that the tests run with


def _lacking(name: str) -> InputError:
    return InputError(
        f"Keras {keras.__version__} has no {name}, which hesscomp needs; install the version that "
        f"it is tested with: pip install 'keras=={TESTED}.*'"
    )


def _taken(module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise _lacking(f"{module}.{name}") from error


def private(thing: Any, name: str) -> Any:
    """Return an attribute that is not public; InputError where this version of Keras lacks it."""
    try:
        return getattr(thing, name)
    except AttributeError as error:
        raise _lacking(f"{type(thing).__name__}.{name}") from error


get_keras_mask = _taken("keras.src.backend.common.masking", "get_keras_mask")
global_state = _taken("keras.src.backend.common", "global_state")
LossFunctionWrapper = _taken("keras.src.losses.losses", "LossFunctionWrapper")
ObjectSharingScope = _taken("keras.src.saving.serialization_lib", "ObjectSharingScope")
backend_nn = _taken("keras.src.backend.tensorflow", "nn")
private(backend_nn, "_compute_moments")


def compiled_loss_weights(model: keras.Model) -> Any:
    """Return the weights of the losses that a model was compiled with; None where there are none.

    `get_compile_config`, which is public, fails for losses that cannot be serialised.
    """
    if not getattr(model, "compiled", False):
        return None
    return private(private(model, "_compile_loss"), "_user_loss_weights")


@cache
def check_keras() -> None:
    """Raise InputError where objects of this version of Keras lack what problems read or set.

    All has a name, so that the names and random numbers of the user's layers stay as they are.
    """
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="check")
    model = keras.Sequential([keras.Input((1,), name="check_input"), dense], name="check_model")
    with tf.Graph().as_default():
        output = keras.activations.softmax(tf.zeros([1, 2]))
    for thing, names in (
        (keras.losses.MeanSquaredError(), ("fn", "_fn_kwargs", "_dtype")),
        (model, ("_flatten_layers", "_functional")),
        (model.inputs[0], ("_keras_history", "_dtype")),
        (private(model, "_functional"), ("_inputs",)),
        (dense.weights[0], ("_dtype",)),
        (output, ("_keras_logits",)),
    ):
        for name in names:
            private(thing, name)
