"""A Keras model as a graph of operations, each on the values of earlier ones."""

from dataclasses import dataclass

from hesscomp.curvature.networks.elementwise import is_link
from hesscomp.curvature.networks.layers import operations
from hesscomp.curvature.networks.operation import Operation, Unsupported
from hesscomp.curvature.tensorflow import keras


@dataclass(frozen=True)
class Node:
    """An operation, and the places of its inputs among the values: 0 is the data, i node i - 1."""

    operation: Operation
    inputs: tuple[int, ...]


def read_graph(model: keras.Model) -> list[Node]:
    """Return the nodes of a Sequential or functional model, in an order that can be computed.

    Raises Unsupported if the model has no graph, or a layer has no rule.
    """
    if len(getattr(model, "inputs", None) or ()) != 1 or len(model.outputs) != 1:
        kind = type(model).__name__
        raise Unsupported(
            f"the model ({kind}) is not a graph of layers with one input and one output"
        )
    return _read(model).nodes


def layer_ends(model: keras.Model) -> list[tuple[str, int, keras.KerasTensor]]:
    """Return for each outermost layer with nodes in order: its name, nodes up to it, its output."""
    return _read(model).ends


def _read(model: keras.Model) -> "_Reader":
    reader = _Reader()
    reader.places[_key(model.inputs[0])] = 0
    out = reader.place(model.outputs[0])
    if not reader.nodes or out != len(reader.nodes):
        raise Unsupported("the model's output is not its last operation")
    return reader


def without_activation(nodes: list[Node]) -> list[Node]:
    """Return a graph up to the logits that its last operation, a softmax or sigmoid, takes."""
    if not is_link(nodes[-1].operation) or nodes[-1].inputs != (len(nodes) - 1,):
        raise Unsupported("its last operation is not the activation that the logits go into")
    return nodes[:-1]


class _Reader:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.places: dict = {}
        self.ends: list = []  # of `layer_ends`

    def place(self, tensor) -> int:
        """Where a symbolic tensor's value is found, once the nodes before it are written."""
        waiting = [tensor]  # no recursion: a model may have more layers than Python has frames
        while waiting:
            layer, index, _ = key = _key(waiting[-1])
            if key in self.places:
                waiting.pop()
                continue
            inputs = layer._inbound_nodes[index].arguments.keras_tensors
            if not inputs:
                raise Unsupported(f"{layer.name} has no input that comes from the data")
            missing = [x for x in reversed(inputs) if _key(x) not in self.places]
            if not missing:
                before, written = tuple(self.places[_key(x)] for x in inputs), len(self.nodes)
                self.places[key] = self._written(layer, inputs, before)
                if len(self.nodes) > written:
                    self.ends.append((layer.name, len(self.nodes), waiting[-1]))
            waiting += missing
        return self.places[_key(tensor)]

    def _written(self, layer, inputs, before) -> int:
        if isinstance(layer, keras.Model):
            return self._model(layer, before)
        for operation in operations(layer, inputs):
            self.nodes.append(Node(operation, before))
            before = (len(self.nodes),)
        return before[0]

    def _model(self, model, before) -> int:
        """Return a model within the model: its graph on the values it is called with."""
        if not getattr(model, "inputs", None) or len(model.outputs) != 1:
            raise Unsupported(f"{model.name} ({type(model).__name__}) is not a graph of layers")
        inner = _Reader()
        inner.nodes = self.nodes
        inner.places = dict(zip(map(_key, model.inputs), before, strict=True))
        return inner.place(model.outputs[0])


def _key(tensor) -> tuple:
    return tuple(tensor._keras_history)
