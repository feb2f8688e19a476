"""Hashes of what TensorFlow has traced: whether two processes compute the same."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hesscomp.curvature.tensorflow import tf

PROCESS = ("config_proto", "executor_type")  # attributes that say how, not what


def computation_digest(graph: tf.Graph) -> str:
    """Return the SHA-256 of a traced function's operations, attributes, inputs and constants.

    The same in every process that traces the same function with the same TensorFlow; no name that
    was given to an operation, a layer or a function matters. Values that the function reads from
    elsewhere are `captured_digest`'s.
    """
    definition = graph.as_graph_def()
    library = {function.signature.name: function for function in definition.library.function}

    @cache
    def called(name: str) -> str:
        function = library[name]
        signature = function.signature
        returned = [function.ret[argument.name] for argument in signature.output_arg]
        return nodes(function.node_def, [given.name for given in signature.input_arg], returned)

    def nodes(found, given: list[str], returned: list[str]) -> str:
        names = [*given, *(node.name for node in found)]
        places = {name: place for place, name in enumerate(names)}

        def source(text: str) -> tuple:
            name, *output = text.removeprefix("^").split(":")
            return text.startswith("^"), places[name], output

        parts = [
            (
                called(node.op) if node.op in library else node.op,
                [source(text) for text in node.input],
                [(name, value(node.attr[name])) for name in sorted(node.attr) if _says_what(name)],
            )
            for node in found
        ]
        return _sha256(repr((parts, [source(text) for text in returned])).encode())

    def value(attribute):
        names = [attribute.func, *attribute.list.func]
        functions = [called(function.name) for function in names if function.name]
        return functions or attribute.SerializeToString(deterministic=True)

    return nodes(definition.node, [], [tensor.name for tensor in graph.outputs])


def captured_digest(graph: tf.Graph) -> str:
    """Return the SHA-256 of the real numbers that a traced function reads from outside it.

    In the order in which the function captured them, which every process shares; `graph.variables`
    has an order of its own in each process. Whole numbers in variables are left out: they are the
    states of random layers.
    """
    from hesscomp.curvature.tensorflow import tf  # here: digests of arrays need none

    variables = {id(variable.handle): variable for variable in graph.variables}
    outside = [given for given, _ in graph.captures if given.dtype != tf.resource]
    captured = [variables[id(given)] for given, _ in graph.captures if id(given) in variables]
    read = [variable for variable in captured if variable.dtype.is_floating]
    return _sha256(*(part for given in (*outside, *read) for part in _numbers(given)))


def array_digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's numbers."""
    return _sha256(np.ascontiguousarray(array).data)


def _numbers(given) -> tuple:
    array = np.asarray(given)
    return f"{array.dtype} {array.shape}".encode(), np.ascontiguousarray(array).tobytes()


def _says_what(name: str) -> bool:
    return not name.startswith("_") and name not in PROCESS


def _sha256(*parts) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()
