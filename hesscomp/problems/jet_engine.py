"""The engine of a Keras model's jets: its values and their derivatives by its inputs."""

from collections.abc import Callable

import numpy as np

from hesscomp.curvature.losses import Loss
from hesscomp.curvature.networks.elementwise import Elementwise
from hesscomp.curvature.networks.engine import NetworkEngine, Piece
from hesscomp.curvature.networks.generic import GenericEngine
from hesscomp.curvature.networks.graph import read_graph
from hesscomp.curvature.networks.jet_operations import of_jets
from hesscomp.curvature.networks.jets import Level, jet_function
from hesscomp.curvature.networks.layerwise import LayerwiseEngine
from hesscomp.curvature.networks.operation import Unsupported
from hesscomp.curvature.networks.smoothness import MOST, smoothness
from hesscomp.curvature.tensorflow import tf, threads_here
from hesscomp.errors import InputError
from hesscomp.problems.keras import ENGINES
from hesscomp.problems.stateless import network_of

IN_CACHES = 2**18  # numbers of the layers' outputs; twice and half of that are as good
WHAT = "value", "slope", "second derivative"


def jet_engine(
    model, pieces: list[Piece], loss: Loss, level: Level = Level.LAPLACIAN, engine: str = "auto"
) -> NetworkEngine:
    """Return an engine whose output is a model's jets, (B, channels * c), for a loss of them.

    Parameters
    ----------
    model : keras.Model
        Built, of rows (B, d) of real numbers to (B, c). Not changed.
    pieces : list of Piece
        Where the trainable variables lie in the flat vector of parameters.
    loss : Loss
        Of the jets of a row and its targets.
    level : Level
        Which derivatives the jets hold.
    engine : {"auto", "layer-wise", "generic"}

    Raises
    ------
    InputError
        For a model of other rows.
    """
    shape, (first, *others) = model.input_shape, model.inputs
    if others or len(shape) != 2 or "float" not in first.dtype:
        raise InputError(
            f"{model.name} takes {shape} of the type {first.dtype}; derivatives by the inputs need "
            "one input of real numbers, (B, d)"
        )
    if engine not in ENGINES:
        raise InputError(f"unknown engine {engine}; use one of {', '.join(ENGINES)}")
    reason = "requested"
    if engine != "generic":
        try:
            nodes = read_graph(model)
            if level == Level.U:
                return LayerwiseEngine(nodes, model.trainable_variables, pieces, loss)
            nodes = of_jets(nodes, shape[1], level)
            block = _rows_in_caches(pieces, level.channels(shape[1]))
            return LayerwiseEngine(nodes, model.trainable_variables, pieces, loss, block)
        except Unsupported as why:
            if engine == "layer-wise":
                raise InputError(f"no layer-wise engine for {model.name}: {why}") from why
            reason = str(why)
    network = network_of(model, pieces)
    function = network if level == Level.U else jet_function(network, level)
    return GenericEngine(function, loss, reason)


def _rows_in_caches(pieces: list[Piece], channels: int) -> int | None:
    """Return how many rows' jets pass through the caches together; None for all rows at once.

    That pays on one thread. Several share little in so few rows, and a GPU less.
    """
    if threads_here() > 1 or tf.config.get_visible_devices("GPU"):
        return None
    outputs = sum(piece.shape[-1] for piece in pieces if len(piece.shape) > 1)
    return max(IN_CACHES // (channels * max(outputs, 1)), 1)


def smoothness_of(
    model, pieces: list[Piece], theta: np.ndarray, points: np.ndarray
) -> tuple[int, str]:
    """Return how many derivatives by its inputs a model has that are continuous, and what is not.

    That of the least smooth activation; of a model that is no graph of known layers, what it gives
    along a line through a point.
    """
    network, point = network_of(model, pieces), tf.constant(points[0], tf.float64)
    along = 1 / tf.range(1.0, 1 + point.shape[0], dtype=tf.float64)

    def on_line(t):
        return tf.reduce_sum(network(tf.constant(theta), point + t[:, None] * along), 1)

    try:
        operations = [node.operation for node in read_graph(model)]
    except Unsupported:
        whose = {on_line: "the network"}
    else:
        functions = [each.function for each in operations if isinstance(each, Elementwise)]
        whose = {each: f"the activation {_name(each)}" for each in functions}
    found = {function: smoothness(function) for function in whose}
    least = min(found, key=found.__getitem__, default=on_line)
    smooth = found.get(least, MOST)
    return smooth, f"the {WHAT[smooth + 1]} of {whose[least]} jumps" if smooth < MOST else ""


def _name(function: Callable) -> str:
    """Return the name of an activation; of a layer that is one, its own."""
    named = (getattr(function, "__self__", None), "name"), (function, "__name__")
    return next((str(getattr(each, name)) for each, name in named if hasattr(each, name)), "")
