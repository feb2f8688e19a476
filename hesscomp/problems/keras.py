"""A Keras model and a loss over sharded data as a problem."""

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from keras.src.backend.tensorflow import nn as keras_backend

from hesscomp.curvature.losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy, find_loss
from hesscomp.curvature.networks.engine import NetworkEngine, Piece, cut
from hesscomp.curvature.networks.generic import GenericEngine
from hesscomp.curvature.networks.graph import read_graph
from hesscomp.curvature.networks.layerwise import LayerwiseEngine
from hesscomp.curvature.networks.operation import Unsupported
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.datasets.targets import SIGNS
from hesscomp.errors import InputError
from hesscomp.parallel.memory import PRODUCT_BYTES
from hesscomp.parallel.world import World
from hesscomp.problems.differentiable import DifferentiableProblem
from hesscomp.problems.rows import Rows

log = logging.getLogger(__name__)

ENGINES = ("auto", "layer-wise", "generic")


class KerasProblem(DifferentiableProblem):
    """f(x) = (1/m) sum_i l(y_i, model(x; a_i)) + (ridge/2) ||x||^2 over the trainable weights x.

    The model runs in inference mode: batch normalisation with its moving averages, dropout off.

    Parameters
    ----------
    model : keras.Model
        Built, with one input and one output, on the TensorFlow backend. Not changed; its weights
        are where `initial` comes from.
    loss : str, Loss, Keras loss or callable
        "softmax-cross-entropy" and "sigmoid-cross-entropy" (of logits), "squared-error" (1/2
        ||f - y||^2), any Keras loss, or a function of (y, output) with a number for each row.
    data : Dataset, or (X, y)
        Each rank's own rows, of any number. Rows of a `Dataset` take the shape of the input.
    world : World, optional
        All ranks of the job by default.
    ridge : float
        Non-negative; applies to all parameters.
    dtype : {"float32", "float64"}
        Precision of curvature products. Loss and gradient are float64 always.
    memory : float
        Bytes that one product may take on a rank, besides the data, V and the result.
    engine : {"auto", "layer-wise", "generic"}

    Attributes
    ----------
    fixed : list of arrays
        The model's weights that are not trained, as they were at first.

    Raises
    ------
    InputError
        For a model that cannot be used, is random, or couples rows; for data that do not fit it.

    Notes
    -----
    Memory per rank: the shard, once more in each precision that it is not stored in.
    """

    name = "keras-model"

    def __init__(
        self,
        model: keras.Model,
        loss,
        data,
        world: World | None = None,
        *,
        ridge: float = 0.0,
        dtype: str = "float32",
        memory: float = PRODUCT_BYTES,
        engine: str = "auto",
    ):
        _check_model(model)
        world = World() if world is None else world
        rows = _shaped(Rows.of(data, world), model)
        loss = find_loss(loss, lambda: _output_shape(model, rows.X))
        rows = _coded(rows, loss.unscaled)
        super().__init__(rows, world, ridge, dtype, memory)
        self.model, self.loss, self.name = model, loss, model.name
        self.fixed = [np.asarray(variable).copy() for variable in fixed_variables(model)]
        variables = model.trainable_variables
        pieces = cut(variable.shape for variable in variables)
        initial = [np.asarray(variable, dtype=np.float64).reshape(-1) for variable in variables]
        chosen = _engine(model, loss, variables, pieces, engine)
        log.info("%s: %s engine: %s", model.name, chosen.name, chosen.reason)
        self._differentiate(chosen, pieces, _names(model), np.concatenate(initial))
        self.psd = loss.convex and getattr(chosen, "affine", False)
        with world.phase("checking the model"):
            self._check_output()

    def set_weights(self, x: np.ndarray) -> None:
        """Give the model the parameters x."""
        x = self.check_point(x)
        for variable, block in zip(self.model.trainable_variables, self.blocks, strict=True):
            part = x[block.offset : block.offset + block.size]
            variable.assign(part.reshape(block.shape))

    def set_fixed(self, values: list[np.ndarray] | None) -> None:
        """Give the model other weights that are not trained (`fixed_variables`); None: its first.

        Operators that were made before compute with them too.
        """
        values = self.fixed if values is None else values
        for variable, value in zip(fixed_variables(self.model), values, strict=True):
            variable.assign(value)
        for kept in self._kept:
            kept.forget()

    def output(self, x: np.ndarray, X: np.ndarray) -> np.ndarray:
        """The model's output for rows X at the parameters x, in float64, all at once; local."""
        X = tf.convert_to_tensor(X.astype(np.float64) if X.dtype.kind == "f" else X)
        kernel = self.compiled("output", "float64", (X,))
        return kernel(tf.constant(x, tf.float64), X).numpy()

    def _check_output(self) -> None:
        """Equal outputs twice, and for each row alone; targets that fit; a loss for each row."""
        X = self.data.X[:3]
        if not len(X):
            return
        compute = tf.function(_network(self.model, [*cut_of(self.blocks)]), reduce_retracing=True)
        theta = tf.constant(self.initial, self.dtype)
        X = tf.convert_to_tensor(X.astype(self.dtype) if X.dtype.kind == "f" else X)
        first, again, alone = compute(theta, X), compute(theta, X, 1), compute(theta, X[:1])
        if np.isnan(first).any():
            raise InputError(f"{self.model.name} gives outputs that are no numbers (NaN)")
        if not np.array_equal(first, again):
            raise InputError(
                f"{self.model.name} gives different outputs for equal inputs{_random(self.model)}; "
                "run them in inference mode"
            )
        if not np.allclose(first[:1], alone, rtol=1e-3, atol=1e-5):
            raise InputError(
                f"{self.model.name} couples the rows of a batch (batch normalisation in training "
                "mode?), so its loss is no sum over rows; run it in inference mode"
            )
        _check_targets(self.loss.unscaled, self.data.y, first.shape)
        _check_values(self.loss, self.data.y[:3], first)


def fixed_variables(model) -> list:
    """Weights that are not trained: moving averages and what is frozen, random states aside."""
    return [weight for weight in model.non_trainable_variables if "float" in weight.dtype]


def cut_of(blocks) -> list[Piece]:
    """The pieces of named blocks."""
    return [Piece(block.shape, block.offset) for block in blocks]


def _check_model(model) -> None:
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=tensorflow and start again"
        )
    if not isinstance(model, keras.Model):
        raise InputError(f"the model is a {type(model).__name__}; pass a keras.Model")
    if not model.built:
        raise InputError(f"{model.name} is not built; call it on some rows, or give it an Input")
    if not model.trainable_variables:
        raise InputError(f"{model.name} has no trainable weights")
    for weight in model.weights:
        if "float" in weight.dtype and not np.isfinite(np.asarray(weight, np.float64)).all():
            raise InputError(
                f"{model.name}: {weight.path} holds numbers that are not finite; has its training "
                "diverged? Take weights from before"
            )
    if len(getattr(model, "inputs", None) or [None]) != 1:
        raise InputError(f"{model.name} has {len(model.inputs)} inputs; hesscomp takes one")
    if len(getattr(model, "outputs", None) or [None]) != 1:
        raise InputError(f"{model.name} has {len(model.outputs)} outputs; hesscomp takes one")


def _engine(model, loss, variables, pieces, wanted: str) -> NetworkEngine:
    if wanted not in ENGINES:
        raise InputError(f"unknown engine {wanted}; use one of {', '.join(ENGINES)}")
    network = _network(model, pieces)
    if wanted == "generic":
        return GenericEngine(network, loss, "asked for")
    try:
        return LayerwiseEngine(read_graph(model), variables, pieces, loss)
    except Unsupported as why:
        if wanted == "layer-wise":
            raise InputError(f"no layer-wise engine for {model.name}: {why}") from why
        return GenericEngine(network, loss, str(why))


def _network(model, pieces):
    """The model as a function of the flat parameters and the rows."""
    fixed = model.non_trainable_variables
    accepts = inspect.signature(model.call).parameters
    options = {"training": False} if "training" in accepts else {}

    def network(theta, X, draw=0):
        """The output; `draw` moves the state of random layers, if there are any."""
        constants = [_constant(tf.convert_to_tensor(value), theta.dtype, draw) for value in fixed]
        with _computing_in(model, theta.dtype.name), _twice_differentiable():
            parameters = [piece.of(theta) for piece in pieces]
            return model.stateless_call(parameters, constants, X, **options)[0]

    return network


def _constant(value, dtype, draw):
    """Weights that are not trained, and the whole numbers from which layers draw."""
    return tf.cast(value, dtype) if value.dtype.is_floating else value + tf.cast(draw, value.dtype)


@contextmanager
def _computing_in(model, dtype: str) -> Iterator[None]:
    """Let all layers of a model compute in `dtype` while TensorFlow traces them.

    Layers cast what they are given to their policy's type, variables to their own, and a
    functional model to its inputs'.
    """
    layers = [
        layer for layer in model._flatten_layers() if "float" in layer.dtype_policy.compute_dtype
    ]
    graphs = [*layers, *(layer._functional for layer in layers if hasattr(layer, "_functional"))]
    inputs = [tensor for graph in graphs for tensor in getattr(graph, "_inputs", None) or ()]
    typed = [thing for thing in [*inputs, *model.variables] if "float" in thing.dtype]
    saved = [layer.dtype_policy for layer in layers], [thing.dtype for thing in typed]
    try:
        _set_types(layers, [dtype] * len(layers), typed, [dtype] * len(typed))
        yield
    finally:
        _set_types(layers, saved[0], typed, saved[1])


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Let Keras' layers take variances that depend on the mean, while TensorFlow traces them.

    `tf.nn.moments`, which they call, treats the mean within the variance as a constant: of the same
    value and first derivative, but not of the same second (LayerNormalization and others).
    """
    saved = keras_backend._compute_moments
    keras_backend._compute_moments = _moments
    try:
        yield
    finally:
        keras_backend._compute_moments = saved


def _moments(x, axes, keepdims):
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=keepdims)
    return mean if keepdims else tf.squeeze(mean, axes), variance


def _set_types(layers, policies, typed, types) -> None:
    for layer, policy in zip(layers, policies, strict=True):
        layer.dtype_policy = policy
    for thing, kind in zip(typed, types, strict=True):
        thing._dtype = kind


def _names(model) -> list[str]:
    """The weights' paths, without the model's own name where all begin with it.

    Where paths are not unique, layers that share theirs are numbered: 0/fc/kernel, 1/fc/kernel.
    """
    paths = [variable.path for variable in model.trainable_variables]
    prefix = f"{model.name}/"
    if all(path.startswith(prefix) for path in paths):
        paths = [path.removeprefix(prefix) for path in paths]
    if len(set(paths)) == len(paths):
        return paths
    owner = {id(w): layer for layer in model._flatten_layers() for w in layer.weights}  # innermost
    owners = [owner[id(variable)] for variable in model.trainable_variables]
    alike: dict[str, list] = {}
    for path, layer in zip(paths, owners, strict=True):
        layers = alike.setdefault(path.rpartition("/")[0], [])
        if layer not in layers:
            layers.append(layer)
    names = []
    for path, layer in zip(paths, owners, strict=True):
        layers = alike[path.rpartition("/")[0]]
        names.append(f"{layers.index(layer)}/{path}" if len(layers) > 1 else path)
    return names if len(set(names)) == len(names) else [f"{i}/{p}" for i, p in enumerate(paths)]


def _random(model) -> str:
    """The layers that draw random numbers, in words."""
    kinds = (keras.layers.Dropout, keras.layers.GaussianNoise, keras.layers.GaussianDropout)
    found = [
        f"{layer.name} ({type(layer).__name__})"
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, kinds) or getattr(layer, "seed_generator", None) is not None
    ]
    return f": {', '.join(found)}" if found else ""


def _shaped(rows: Rows, model) -> Rows:
    """Rows in the shape and kind of the model's input."""
    X = rows.X
    inputs = getattr(model, "inputs", None)
    if inputs:
        shape = inputs[0].shape[1:]
        if X.shape[1:] != shape and None not in shape:
            if int(np.prod(X.shape[1:])) != int(np.prod(shape)):
                raise InputError(
                    f"{rows.name}: rows of shape {X.shape[1:]} do not fit {model.name}, whose "
                    f"input is {shape}"
                )
            X = X.reshape(-1, *shape)
        wanted = np.dtype(inputs[0].dtype).kind
        if wanted != X.dtype.kind:
            given, X = X, X.astype(np.float32 if wanted == "f" else np.int64)
            if wanted != "f" and not np.array_equal(X, given):
                raise InputError(
                    f"{rows.name}: holds fractions, but the input of {model.name} is of type "
                    f"{inputs[0].dtype}; give whole numbers"
                )
    return replace(rows, X=X)


def _output_shape(model, X: np.ndarray) -> tuple[int, ...]:
    """Of one row's output."""
    given = keras.KerasTensor(
        (None, *X.shape[1:]), "float32" if X.dtype.kind == "f" else X.dtype.name
    )
    return tuple(model.compute_output_spec(given).shape[1:])


def _coded(rows: Rows, loss: Loss) -> Rows:
    """Rows with their targets as the loss takes them."""
    y = rows.y
    if rows.targets == SIGNS and isinstance(loss, SigmoidCrossEntropy):
        y = (y + 1) / 2
    elif rows.targets == SIGNS and isinstance(loss, SoftmaxCrossEntropy):
        y = (y > 0).astype(np.int64)
    return replace(rows, y=y)


def _check_targets(loss: Loss, y: np.ndarray, output: tf.TensorShape) -> None:
    shape = tuple(output[1:])
    if isinstance(loss, SoftmaxCrossEntropy):
        if y.shape[1:] in (shape[:-1], (*shape[:-1], 1)) and y.shape[1:] != shape:
            if len(y) and not (y.min() >= 0 and y.max() < shape[-1]):
                raise InputError(
                    f"class {y.min() if y.min() < 0 else y.max()} does not fit a model with "
                    f"{shape[-1]} outputs; classes count from 0"
                )
            return
        if y.shape[1:] != shape:
            raise InputError(f"targets of shape {y.shape[1:]} do not fit outputs of {shape}")
    elif loss.name in ("sigmoid-cross-entropy", "squared-error") and (
        int(np.prod(y.shape[1:])) != int(np.prod(shape))
    ):
        raise InputError(f"targets of shape {y.shape[1:]} do not fit outputs of shape {shape}")
    if isinstance(loss, SigmoidCrossEntropy) and not (y.min() >= 0 and y.max() <= 1):
        raise InputError(
            f"the target {y.min() if y.min() < 0 else y.max()} does not fit {loss.name}, whose "
            "targets lie between 0 and 1; for -1 and +1 give (y + 1) / 2"
        )


def _check_values(loss: Loss, y: np.ndarray, output: tf.Tensor) -> None:
    """A number for each row, which depends on no other row."""
    y = tf.convert_to_tensor(y.astype(output.dtype.name) if y.dtype.kind == "f" else y)
    together, alone = loss.values(output, y), loss.values(output[:1], y[:1])
    if together.shape != output.shape[:1] or alone.shape != (1,):
        raise InputError(
            f"the loss {loss.name} gives numbers of shape {tuple(together.shape)} for "
            f"{len(output)} rows; it must give one for each, not their mean or sum"
        )
    if not np.allclose(together[:1], alone, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise InputError(
            f"the loss {loss.name} of a row depends on the other rows; give each its own"
        )
