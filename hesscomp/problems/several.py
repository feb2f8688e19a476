"""Models of several inputs or outputs, as a network of one flat row in and one out."""

from __future__ import annotations

from typing import Any

import numpy as np

from hesscomp.curvature.joint import Joint, Part, Slot, flattened, slots_of
from hesscomp.curvature.keras_internals import get_keras_mask
from hesscomp.curvature.keras_losses import Ending, find_loss, resolve_loss
from hesscomp.curvature.losses import Loss
from hesscomp.curvature.networks.engine import Piece
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.datasets import Dataset
from hesscomp.datasets.tables import is_table, plain
from hesscomp.errors import InputError, reason, some
from hesscomp.parallel.world import World
from hesscomp.problems.keras_rows import (
    check_hinge,
    check_targets,
    explaining,
    keras_loss,
    recoded,
)
from hesscomp.problems.stateless import losses_and_output


class FlatNetwork(keras.Model):
    """A model that takes its inputs, and gives its outputs, beside each other in flat rows.

    It shares the model's layers. `joined` are the outputs that are taken, each with whether its
    logits are; without them outputs come as the model gives them.
    """

    def __init__(self, model, inputs: tuple[Slot, ...], structure):
        super().__init__(name=model.name)
        self.network, self.structure, self.slots = model, _Kept(structure), _Kept(inputs)
        self.row_shapes = _Kept([slot.shape for slot in inputs])
        self.joined: Any = None
        self.built = True

    def call(self, X, training=False):
        parts = [slot.of(X) for slot in self.slots.value]
        outputs = self.network(
            keras.tree.pack_sequence_as(self.structure.value, parts), training=training
        )
        if self.joined is None:
            return outputs
        flat, taken = keras.tree.flatten(outputs), []
        for place, at_logits, width in self.joined.value:
            output = Ending.logits(flat[place]) if at_logits else flat[place]
            taken.append(tf.reshape(output, [-1, width]))
        return tf.concat(taken, -1)


class _Kept:
    """A value that Keras does not track as it does lists."""

    def __init__(self, value):
        self.value = value


class Several:
    """How a model's several inputs and outputs become one, and its losses one `Joint`.

    Attributes
    ----------
    network : FlatNetwork
    loss : Joint, or the loss that was given, where there is one output
    """

    def __init__(self, model, loss, data, weights, pieces, initial, dtype: str, world: World):
        self.name, self.world = model.name, world
        with world.phase("reading the data"):
            X, y = _pair(data, model)
            self._names, self._structure = _entrances(model, X)
            arrays = self._inputs(X)
            specs = getattr(model, "inputs", None) or arrays
            shapes = [
                given.shape[1:] if None in spec.shape[1:] else tuple(spec.shape[1:])
                for spec, given in zip(specs, arrays, strict=True)
            ]
            types = [str(spec.dtype) for spec in specs]
            kinds = [name if "int" in name else None for name in types]
            self.inputs = slots_of(self._names, shapes, kinds)
            flat = flattened(arrays, self.inputs)
        if len({repr(shapes) for shapes in world.gather(repr(self.inputs))}) > 1:
            raise InputError("the ranks hold inputs of different shapes or types")
        self.network = FlatNetwork(model, self.inputs, self._structure)
        with world.phase("tracing the model"):
            outputs, names = self._ends(model, pieces, initial, flat, dtype)
        self.targets: tuple[Slot, ...] | None = None
        if len(outputs) == 1 and weights is None:
            (self.loss,) = _each(loss, names, "losses", model.name)
            return
        with world.phase("reading the losses"):
            losses = _each(loss, names, "losses", model.name, repeat=True)
            factors = _weights(weights, loss, losses, names, model.name)
            used = [i for i, one in enumerate(losses) if one is not None]
            if not used:
                raise InputError(f"{model.name} has no loss for any of its outputs")
            losses = [None if one is None else resolve_loss(one) for one in losses]
            self._used, self._output_names = used, names
            found = self._targets(y)
        self.losses = [losses[i] for i in used]
        self._givens = [(losses[i], outputs[i][0]) for i in used]
        found = self._recoded(found)
        parts, start, joined = [], 0, []
        forms = [
            (array.shape[1:], "int64" if array.dtype.kind in "iub" else None) for array in found
        ]
        if len(set(world.gather(repr(forms)))) > 1:
            raise InputError("the ranks hold targets of different shapes or types")
        self.targets = slots_of([f"y of {names[i]}" for i in used], *zip(*forms, strict=True))
        for i, array, targets in zip(used, found, self.targets, strict=True):
            (shape, ending), given = outputs[i], losses[i]
            with world.phase(f"reading the loss of {names[i]}"), explaining(given, array, shape):
                spec = tf.TensorSpec([None, *targets.shape], targets.kind or tf.float64)
                one = find_loss(given, shape, ending, spec)
                if len(array):
                    check_targets(one.bare, array, shape)
            check_hinge(given, array, world)
            at_logits = ending is not None and ending.serves(one.link)
            if isinstance(given, str | Loss) and ending is not None and not at_logits and one.link:
                raise InputError(
                    f"{names[i]} ends in {ending}, and the loss {one.name} takes logits; end it in "
                    f"{one.link}, or without an activation"
                )
            output = Slot(names[i], shape, start)
            activation = None if ending is None else ending.activation
            parts.append(
                Part(one, factors[i], output, targets, keras_loss(given), activation, at_logits)
            )
            joined.append((i, at_logits, output.stop - start))
            start = output.stop
        self.network.joined = _Kept(joined)
        self.loss = Joint(tuple(parts))

    def flat(self, data) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (X, y) in the form that the network takes. Collective."""
        with self.world.phase("reading the data"):
            X, y = _pair(data, self.network.network)
            flat = self.flat_inputs(X)
            if self.targets is None:
                (y,) = keras.tree.flatten(y) if isinstance(y, dict) else [y]
                return flat, plain(y, "arrays", "y")
            found = self._targets(y)
        found = self._recoded(found)
        with self.world.phase("reading the data"):
            return flat, flattened(found, self.targets)

    def flat_inputs(self, X) -> np.ndarray:
        """Return inputs as (rows, width)."""
        if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == self.inputs[-1].stop:
            return X
        return flattened(self._inputs(X), self.inputs)

    def _inputs(self, X) -> list[np.ndarray]:
        return [plain(one, self.name, "X") for one in _each(X, self._names, "inputs", self.name)]

    def _targets(self, y) -> list[np.ndarray]:
        names = self._output_names
        used = [names[i] for i in self._used]
        whole = isinstance(y, list | tuple) and len(y) == len(names)
        whole = whole or (isinstance(y, dict) and len(y) > len(used))
        found = _each(y, names if whole else used, "targets", self.name)
        found = [found[i] for i in self._used] if whole else found
        missing = [name for name, one in zip(used, found, strict=True) if one is None]
        if missing:
            raise InputError(f"{self.name}: there are no targets for {some(missing)}; give them")
        arrays = [plain(one, self.name, "y") for one in found]
        for array, name in zip(arrays, used, strict=True):
            if array.dtype.kind not in "fiub" or not array.ndim:
                raise InputError(f"the targets of {name} have type {array.dtype}; give numbers")
        return arrays

    def _recoded(self, found: list[np.ndarray]) -> list[np.ndarray]:
        return [
            recoded(array, given, shape, self.world, "arrays")
            for array, (given, shape) in zip(found, self._givens, strict=True)
        ]

    def _ends(self, model, pieces: list[Piece], initial, flat, dtype: str):
        """Return each output's row shape and ending, and the outputs' names."""
        run, found = losses_and_output(self.network, pieces), {}

        def trace(theta, X):
            _, outputs = run(theta, X)
            each = keras.tree.flatten(outputs)
            if any(get_keras_mask(output) is not None for output in each):
                raise InputError(
                    f"an output of {model.name} carries a mask, and Keras averages over the places "
                    "in a batch that it leaves; build the model without it (mask_zero=False)"
                )
            found["ends"] = [(tuple(one.shape[1:]), Ending.of(one)) for one in each]
            found["names"] = _output_names(model, outputs)
            return each

        specs = tf.TensorSpec([len(initial)], dtype), tf.TensorSpec([None, flat.shape[1]], dtype)
        try:
            tf.function(trace, autograph=False).get_concrete_function(*specs)
        except InputError:
            raise
        except (ValueError, TypeError) as error:
            raise InputError(f"{model.name} cannot be computed: {reason(error)}") from error
        return found["ends"], found["names"]


def by_names(model, names: list[str], where: str) -> tuple[list[str], list[str]]:
    """Return which arrays of a file are the inputs, and which the targets, of a model.

    An input is of the name that the model has for it; of one output the target is y or the only
    other array, of several the others are the targets by the outputs' names.
    """
    inputs, _ = _entrances(model, None)
    missing = [name for name in inputs if name not in names]
    rest = [name for name in names if name not in inputs]
    if missing:
        raise InputError(
            f"{where}: has no array for {some(missing)} of {model.name}; it has {some(names)}. "
            f"Store one for each input ({some(inputs)}) and output, or X and y"
        )
    if len(model.outputs) > 1:
        return inputs, rest
    if "y" not in rest and len(rest) != 1:
        raise InputError(f"{where}: has no targets y beside {some(inputs)}; it has {some(names)}")
    return inputs, ["y"] if "y" in rest else rest


def unwrapped(model, loss, data):
    """Return loss and data of a model of one input and one output without lists or dicts of one."""
    single = [len(getattr(model, kind, None) or ()) == 1 for kind in ("inputs", "outputs")]

    def bare(thing, nested):
        if not nested or not isinstance(thing, list | tuple | dict) or len(thing) != 1:
            return thing
        return next(iter(thing.values())) if isinstance(thing, dict) else thing[0]

    if single[1]:
        loss = bare(loss, isinstance(loss, list | tuple) or _named(loss))
    if isinstance(data, tuple | list) and len(data) == 2:
        pairs = zip(data, single, strict=True)
        data = tuple(bare(part, one and _nested(part)) for part, one in pairs)
    return loss, data


def _named(thing) -> bool:
    """Return whether this is a dict by name, and not the configuration of a Keras object."""
    return isinstance(thing, dict) and "class_name" not in thing


def is_several(model, loss, data, weights) -> bool:
    """Return whether a model, or what goes with it, has several inputs, outputs or a weight."""
    if weights is not None or isinstance(loss, list | tuple) or _named(loss):
        return True
    if max(len(getattr(model, kind, None) or ()) for kind in ("inputs", "outputs")) > 1:
        return True
    if isinstance(data, tuple | list) and len(data) == 2:
        return any(_nested(part) for part in data)
    return False


def _nested(part) -> bool:
    """Return whether this is several arrays, and not one."""
    if isinstance(part, dict):
        return True
    arrays = (
        [is_table(one) or getattr(one, "ndim", 0) > 1 for one in part]
        if (isinstance(part, list | tuple))
        else []
    )
    return bool(arrays) and (all(arrays) or (isinstance(part, tuple) and any(arrays)))


def _pair(data, model):
    if isinstance(data, Dataset):
        raise InputError(
            f"{model.name} takes several inputs, outputs or loss weights; give the data as "
            "((X1, X2), (y1, y2)), a part for each"
        )
    if not (isinstance(data, tuple | list) and len(data) == 2):
        raise InputError(
            "data must be a pair (X, y), each an array, or a tuple or dict of one for each input "
            "or output; hesscomp takes no sample weights"
        )
    return data


def _entrances(model, X) -> tuple[list[str], Any]:
    """Return the names of a model's inputs, and the structure in which it takes them."""
    inputs = getattr(model, "inputs", None)
    if not inputs:  # of a subclass, which takes what Keras' fit would give it
        if isinstance(X, dict):
            return sorted(X), dict.fromkeys(X)
        if isinstance(X, list | tuple) and _nested(X):
            return [f"input {i}" for i in range(len(X))], type(X)(range(len(X)))
        return ["input"], 0
    structure = getattr(model, "_inputs_struct", list(inputs) if len(inputs) > 1 else 0)
    if isinstance(structure, dict) and len(structure) == len(inputs):
        return sorted(structure), structure
    return [tensor.name for tensor in inputs], structure


def _output_names(model, outputs) -> list[str]:
    count = len(keras.tree.flatten(outputs))
    if isinstance(outputs, dict) and len(outputs) == count:
        return sorted(outputs)
    names = list(getattr(model, "output_names", None) or ())
    return names if len(names) == count else [f"output {i}" for i in range(count)]


def _each(given, names: list[str], what: str, model: str, repeat: bool = False) -> list:
    """Return what was given for each of some names: a dict by name, a list in their order."""
    if _named(given):
        unknown = [str(key) for key in given if key not in names]
        if unknown:
            raise InputError(
                f"{model}: the {what} name {some(unknown)}, but there are {some(names)}"
            )
        missing = [name for name in names if name not in given]
        if missing and what in ("inputs", "weights"):
            raise InputError(f"{model}: the {what} lack {some(missing)}")
        return [given.get(name) for name in names]
    several = isinstance(given, list | tuple) and (what in ("losses", "weights") or _nested(given))
    several = several or (isinstance(given, list | tuple) and len(names) > 1)
    if several:
        if len(given) != len(names):
            raise InputError(
                f"{model}: {len(given)} {what} are given, but there are {len(names)}: {some(names)}"
            )
        return list(given)
    if len(names) > 1 and not repeat:
        raise InputError(
            f"{model}: there is one of the {what}, but {len(names)} are needed: {some(names)}; "
            "give a list in this order, or a dict by name"
        )
    return [given] * len(names)


def _weights(weights, loss, losses: list, names: list[str], model: str) -> list[float]:
    """Return a weight for each output; they come in the form of the losses, as in Keras."""
    if weights is None:
        return [1.0] * len(names)

    def form(thing):
        return "dict" if _named(thing) else "list" if isinstance(thing, list | tuple) else "single"

    if form(weights) != form(loss):
        raise InputError(
            f"{model}: the loss weights are a {type(weights).__name__}, and the losses a "
            f"{type(loss).__name__}; give both as lists, or both as dicts, one for each output"
        )
    if isinstance(weights, dict):
        found = _each(dict.fromkeys(names, 0.0) | weights, names, "weights", model)
        for name, one in zip(names, losses, strict=True):
            if one is not None and name not in weights:
                raise InputError(f"{model}: the loss weights lack {name}")
    else:
        found = _each(weights, names, "weights", model, repeat=True)
    numbers = [0.0 if one is None else weight for one, weight in zip(losses, found, strict=True)]
    if not all(isinstance(n, int | float | np.number) and np.isfinite(n) for n in numbers):
        raise InputError(f"{model}: the loss weights {weights} are not numbers for all losses")
    return [float(number) for number in numbers]
