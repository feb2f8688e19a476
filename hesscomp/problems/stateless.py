"""A Keras model as a function without state: of flat parameters and rows, in either precision."""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hesscomp.curvature.keras_internals import backend_nn, get_keras_mask
from hesscomp.curvature.keras_losses import Ending
from hesscomp.curvature.networks.engine import Piece, split
from hesscomp.curvature.tensorflow import computing_in, keras, one_precision, tf
from hesscomp.errors import InputError, reason

LONGEST = 256  # steps that recurrent layers are unrolled for; each is written out in the graph


def network_of(model, pieces: list[Piece], at_logits: bool = False):
    """Return the model as a function of flat parameters and rows: its output, or its logits."""
    run = losses_and_output(model, pieces)

    def network(theta, X, draw=0):
        """Return the output; `draw` moves the state of random layers, if there are any."""
        _, output = run(theta, X, draw)
        return Ending.logits(output) if at_logits else output

    return network


def losses_and_output(model, pieces: list[Piece], own: list[int] | None = None):
    """Return the model as a function of flat parameters and rows: layers' losses, output.

    `own` are the indices of the pieces that are the model's, if it is a part of another.
    """
    fixed = model.non_trainable_variables
    penalties = [variable.regularizer for variable in model.trainable_variables]
    accepts = inspect.signature(model.call).parameters
    options = {"training": False} if "training" in accepts else {}

    def run(theta, X, draw=0):
        constants = [_constant(tf.convert_to_tensor(value), theta.dtype, draw) for value in fixed]
        dtype = theta.dtype.name
        with (
            _layers_in(model, dtype),
            _unrolled(model, X),
            computing_in(dtype, penalties),
            _twice_differentiable(),
        ):
            parameters = split(theta, pieces)
            parameters = parameters if own is None else [parameters[i] for i in own]
            with one_precision(f"a layer or a regulariser of {model.name}"):
                output, _, losses = model.stateless_call(
                    parameters, constants, X, return_losses=True, **options
                )
        return [tf.cast(loss, theta.dtype) for loss in losses], output

    return run


class Traced:
    """A model traced once, for any number of rows such as X, at its initial parameters.

    `shape` is that of one row's output, and `ending` where the output comes from, if that is known.
    Raises InputError for a model of several outputs, or one that adds losses that are not sums over
    rows.
    """

    def __init__(self, model, pieces: list[Piece], X: np.ndarray, initial: np.ndarray, dtype: str):
        self.model, self._theta = model, tf.constant(initial, dtype)
        self._kind = dtype if X.dtype.kind == "f" else None
        run = losses_and_output(model, pieces)

        def trace(theta, X, draw):
            losses, output = run(theta, X, draw)
            self._check_graph(losses, output)
            self.ending = Ending.of(output)
            return output

        rows = tf.TensorSpec([None, *X.shape[1:]], self._kind or X.dtype)
        specs = [tf.TensorSpec(self._theta.shape, dtype), rows, tf.TensorSpec([], tf.int32)]
        try:
            self._compute = tf.function(trace, autograph=False).get_concrete_function(*specs)
        except InputError:
            raise
        except (ValueError, TypeError) as error:
            raise InputError(f"{model.name} cannot be computed: {reason(error)}") from error
        self.shape = tuple(self._compute.structured_outputs.shape[1:])

    def outputs(self, X: np.ndarray, draw: int = 0) -> tf.Tensor:
        """Return the model's outputs for rows X at the initial parameters."""
        return self._compute(self._theta, tf.constant(X, self._kind), tf.constant(draw))

    def probabilities(self, X: np.ndarray, place: slice = slice(None)) -> str | None:
        """Return evidence that outputs are probabilities: a few rows' at random parameters.

        None where they are not. The parameters are far from the given ones, so that logits, which
        may lie between 0 and 1 by chance, do not.
        """
        rng, X = np.random.default_rng(3), tf.constant(X[:5], self._kind)
        if not len(X):
            return None
        for _ in range(3):
            noise = tf.constant(rng.standard_normal(self._theta.shape), self._theta.dtype)
            outputs = self._compute(self._theta + noise, X, tf.constant(0)).numpy()[..., place]
            if not (np.isfinite(outputs).all() and outputs.min() >= 0 and outputs.max() <= 1):
                return None
        summed = outputs.shape[-1] > 1 and np.allclose(outputs.sum(-1), 1, atol=1e-3)
        return "they lie between 0 and 1" + (" and sum to 1" if summed else "")

    def check_rows(self, X: np.ndarray) -> None:
        """InputError unless outputs are numbers, equal twice, and for each row as for it alone."""
        X, name = X[:3], self.model.name
        if not len(X):
            return
        first, again, alone = self.outputs(X), self.outputs(X, 1), self.outputs(X[:1])
        if np.isnan(first).any():
            raise InputError(f"{name} gives outputs that are not numbers (NaN)")
        if not np.array_equal(first, again):
            raise InputError(
                f"{name} gives different outputs for equal inputs{_random(self.model)}; "
                "run them in inference mode"
            )
        if not np.allclose(first[:1], alone, rtol=1e-3, atol=1e-5):
            raise InputError(
                f"{name} couples the rows of a batch (batch normalisation in training "
                "mode?), so its loss is not a sum over rows; run it in inference mode"
            )

    def _check_graph(self, losses: list, output) -> None:
        name = self.model.name
        if not tf.is_tensor(output):
            raise InputError(
                f"{name} returns a {type(output).__name__}; give a list of losses, one for each "
                "output"
            )
        if get_keras_mask(output) is not None:
            raise InputError(
                f"the output of {name} carries a mask, and Keras averages over the places in a "
                "batch that it leaves, which is not a mean over rows; build the model without it "
                "(mask_zero=False)"
            )
        own = sum(variable.regularizer is not None for variable in self.model.trainable_variables)
        if len(losses) > own:
            raise InputError(
                f"{name} has layers that add losses (add_loss), which need not be sums over rows; "
                "take them out, or write the loss as a FunctionProblem"
            )


def _constant(value, dtype, draw):
    """Return weights that are not trained, and the whole numbers from which layers draw."""
    return tf.cast(value, dtype) if value.dtype.is_floating else value + tf.cast(draw, value.dtype)


@contextmanager
def _layers_in(model, dtype: str) -> Iterator[None]:
    """Let all layers of a model compute in `dtype` while TensorFlow traces them.

    Layers cast what they are given to their policy's type, variables to their own, a functional
    model to its inputs', and a Sequential one to its input layer's.
    """
    every = list(model._flatten_layers())
    layers = [layer for layer in every if "float" in layer.dtype_policy.compute_dtype]
    entrances = [layer for layer in every if isinstance(layer, keras.layers.InputLayer)]
    graphs = [*layers, *(layer._functional for layer in layers if hasattr(layer, "_functional"))]
    inputs = [tensor for graph in graphs for tensor in getattr(graph, "_inputs", None) or ()]
    typed = [t for t in [*inputs, *entrances, *model.variables] if "float" in t.dtype]
    saved = [(layer, "dtype_policy", layer.dtype_policy) for layer in layers]
    saved += [(thing, "_dtype", thing.dtype) for thing in typed]
    try:
        for thing, attribute, _ in saved:
            setattr(thing, attribute, dtype)
        yield
    finally:
        for thing, attribute, value in saved:
            setattr(thing, attribute, value)


@contextmanager
def _unrolled(model, X) -> Iterator[None]:
    """Let recurrent layers write out their steps while TensorFlow traces them.

    The numbers are the same. Of a loop, TensorFlow takes no second derivatives for several columns
    at once.
    """
    shapes = getattr(model, "row_shapes", None)
    shapes = [X.shape[1:]] if shapes is None else shapes.value
    steps = max((shape[0] or math.inf for shape in shapes if len(shape)), default=1)
    loops = [layer for layer in model._flatten_layers() if getattr(layer, "unroll", None) is False]
    loops = loops if steps <= LONGEST else []
    try:
        for layer in loops:
            layer.unroll = True
        yield
    finally:
        for layer in loops:
            layer.unroll = False


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Let Keras' layers take variances that depend on the mean, while TensorFlow traces them.

    `tf.nn.moments`, which they call, treats the mean within the variance as a constant: of the same
    value and first derivative, but not of the same second (LayerNormalization and others).
    """
    saved = backend_nn._compute_moments
    backend_nn._compute_moments = _moments
    try:
        yield
    finally:
        backend_nn._compute_moments = saved


def _moments(x, axes, keepdims):
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=keepdims)
    return mean if keepdims else tf.squeeze(mean, axes), variance


def fixed_variables(model) -> list:
    """Return untrained weights (moving averages, frozen ones) without random states."""
    return [weight for weight in model.non_trainable_variables if "float" in weight.dtype]


def _random(model) -> str:
    """Return the layers that draw random numbers, in words."""
    kinds = (keras.layers.Dropout, keras.layers.GaussianNoise, keras.layers.GaussianDropout)
    found = [
        f"{layer.name} ({type(layer).__name__})"
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, kinds) or getattr(layer, "seed_generator", None) is not None
    ]
    return f": {', '.join(found)}" if found else ""
