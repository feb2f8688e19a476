"""The engine of a Keras model's jets: its values and their derivatives by its inputs."""

from hesscomp.curvature.losses import Loss
from hesscomp.curvature.networks.engine import NetworkEngine, Piece
from hesscomp.curvature.networks.generic import GenericEngine
from hesscomp.curvature.networks.graph import read_graph
from hesscomp.curvature.networks.jet_operations import of_jets
from hesscomp.curvature.networks.jets import Level, jet_function
from hesscomp.curvature.networks.layerwise import LayerwiseEngine
from hesscomp.curvature.networks.operation import Unsupported
from hesscomp.errors import InputError
from hesscomp.problems.keras import ENGINES
from hesscomp.problems.stateless import network_of


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
            nodes = nodes if level == Level.U else of_jets(nodes, shape[1], level)
            return LayerwiseEngine(nodes, model.trainable_variables, pieces, loss)
        except Unsupported as why:
            if engine == "layer-wise":
                raise InputError(f"no layer-wise engine for {model.name}: {why}") from why
            reason = str(why)
    network = network_of(model, pieces)
    function = network if level == Level.U else jet_function(network, level)
    return GenericEngine(function, loss, reason)
