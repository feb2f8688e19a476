"""Keras models: those of named problems, and those in files, of which no code is ever run."""

import copy
import json
import math
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from hesscomp.curvature.keras_internals import ObjectSharingScope, global_state
from hesscomp.curvature.tensorflow import keras
from hesscomp.errors import InputError, reason
from hesscomp.problems.catalogue import Network
from hesscomp.problems.stateless import fixed_variables
from hesscomp.storage.archives import check_member
from hesscomp.storage.hdf5 import CheckedFile

# What a model's file may name: Keras' own layers and what these are configured with.
MODULES = (
    "keras",
    "keras.activations",
    "keras.constraints",
    "keras.initializers",
    "keras.layers",
    "keras.models",
    "keras.random",
    "keras.regularizers",
    "keras.src.models.functional",
    "keras.src.ops.",
)
# Layers that hold code, or name files that they read.
REFUSED = (
    "FlaxLayer", "IntegerLookup", "JaxLayer", "Lambda", "StringLookup", "TFSMLayer",
    "TextVectorization", "TorchModuleWrapper",
)  # fmt: skip
HDF5 = b"\x89HDF\r\n\x1a\n"  # how such files begin
WEIGHTS = "model.weights.h5"  # where a model's file holds them
DATA = ("__keras_tensor__", "__tensor__", "__numpy__", "__ellipsis__", "__slice__", "slice")


def build_network(network: Network, name: str, seed: int) -> keras.Model:
    """Return a network's Keras model; its initial weights depend on the seed alone.

    Weights are uniform after Glorot and Bengio (2010), biases zero.
    """
    # One generator, so that no two layers draw the same numbers.
    initial = keras.initializers.GlorotUniform(keras.random.SeedGenerator(seed))
    layers = [keras.Input(network.shape)]
    for stage in network.stages:
        layers += [
            keras.layers.Conv2D(
                channels, size, padding="same", activation=network.activation,
                kernel_initializer=initial,
            )
            for size, channels in stage
        ]  # fmt: skip
        layers.append(keras.layers.MaxPooling2D(padding="same"))
    if network.stages:
        layers.append(keras.layers.Flatten())
    for place, width in enumerate(network.widths):
        linear = place in (network.code, len(network.widths) - 1)
        activation = None if linear else network.activation
        layers.append(keras.layers.Dense(width, activation, kernel_initializer=initial))
    counts: Counter = Counter()
    for layer in layers[1:]:  # names by kind and place, whatever this process has made before
        kind = type(layer).__name__.lower()
        counts[kind] += 1
        layer.name = f"{kind}_{counts[kind]}"
    return keras.Sequential(layers, name=name)


def load_model(path: str | os.PathLike) -> keras.Model:
    """Return the model in a .keras file, made of Keras' own layers.

    The file's configuration is read, and refused if it names anything but them, before Keras sees
    it; then Keras makes the model in its safe mode. What it, or a model within it, was compiled
    with (optimizer, loss, metrics) is not read; `compiled_loss` reads the loss.

    Raises
    ------
    InputError
        If the file is missing or no such file, or needs code: a Lambda layer, a custom one.
    """
    with tempfile.TemporaryDirectory(prefix="hesscomp-") as folder:
        config, weights = _unpacked(path, folder)
        try:  # what the weights take is known before memory is
            needed, stored = _weight_bytes(config), os.path.getsize(weights)
            if needed > stored:
                raise ValueError(f"it is of {needed} bytes of weights, and {stored} are stored")
            model = _made(config)
            model.load_weights(weights)
            return model
        except MemoryError:
            raise
        except Exception as error:  # Keras raises anything
            said = f"{type(error).__name__}: {reason(error)}"
            raise InputError(f"{path}: Keras cannot load it ({said})") from error


def compiled_loss(path: str | os.PathLike) -> tuple[Any, Any]:
    """Return the loss that the model in a .keras file was compiled with, and its loss weights.

    Losses are names and Keras' own, nested as they were compiled. No code of the file is run.

    Raises
    ------
    InputError
        If the file cannot be read, its model was not compiled with a loss, or one is not Keras'.
    """
    told = _reading(path, lambda archive: _json(path, archive)).get("compile_config")
    found = told.get("loss") if isinstance(told, dict) else None
    if found is None:
        raise InputError(
            f"{path}: its model was not compiled with a loss; name the one that it was trained "
            "with: `loss`"
        )
    return _own_losses(found, path), told.get("loss_weights")


def _own_losses(given: Any, path) -> Any:
    """Return losses as a file has them with Keras' losses in place of their descriptions."""
    if isinstance(given, list):
        return [_own_losses(each, path) for each in given]
    if isinstance(given, dict) and "class_name" not in given:
        return {name: _own_losses(each, path) for name, each in given.items()}
    if given is None or isinstance(given, str):
        return given
    told = given if isinstance(given, dict) else {"class_name": given}
    kind, config, module = (told.get(key) for key in ("class_name", "config", "module"))
    if kind == "function" and module == "builtins":
        kind = config  # a function by its name
        if hasattr(keras.losses, reason(kind)):
            return kind
    elif module == "keras.losses" and isinstance(config, dict):
        made = getattr(keras.losses, reason(kind), None)
        if isinstance(made, type) and issubclass(made, keras.losses.Loss):
            with suppress(TypeError, ValueError):
                if not any(isinstance(value, dict | list) for value in config.values()):
                    return made(**config)
    raise InputError(
        f"{path}: its model was compiled with the loss {reason(kind)}, which is not one of Keras'; "
        "name one with `loss`, or make the problem in Python: `problem` package.module:function"
    )


def _refuse_old_formats(path) -> None:
    """Say how models of the old formats (HDF5, a folder) are converted."""
    if os.path.isdir(path):
        kind, remedy = "a folder", "save the model again, with model.save('m.keras')"
    else:
        with open(path, "rb") as file:
            if file.read(len(HDF5)) != HDF5:
                return
        kind = "HDF5: a model of the old format, or weights without their model"
        remedy = (
            f"convert it in Python: keras.models.load_model({os.fspath(path)!r}).save('m.keras'); "
            "of weights alone, make their model, model.load_weights(...), and save that"
        )
    raise InputError(
        f"{path}: is {kind}, and models are read from .keras files, of which hesscomp runs no "
        f"code; {remedy}"
    )


def _unpacked(path, folder: str) -> tuple[dict, str]:
    """Unpack a file's configuration, and its weights into a folder; both are checked."""

    def unpack(archive: zipfile.ZipFile) -> tuple[dict, str]:
        config = _json(path, archive, _uncompiled)
        _refuse_code(config, path)
        weights = archive.extract(WEIGHTS, folder)
        with CheckedFile(weights, "weights file", called=f"{path}/{WEIGHTS}") as file:
            file.check_all()
        return config, weights

    return _reading(path, unpack)


def _json(path, archive: zipfile.ZipFile, hook: Callable | None = None) -> dict:
    """Return the configuration that an archive holds."""
    found = json.loads(archive.read("config.json"), object_hook=hook)
    if not isinstance(found, dict):
        raise InputError(f"{path}: cannot be read as a .keras file (config.json is not an object)")
    return found


def _reading(path, read: Callable[[zipfile.ZipFile], Any]) -> Any:
    """Return what a function reads of the archive at a path, once its members are checked."""
    try:
        _refuse_old_formats(path)
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                check_member(path, info)
            return read(archive)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; save a model with model.save('m.keras')") from None
    except (InputError, MemoryError):
        raise
    except Exception as error:  # zipfile and the decoders raise nearly anything
        raise InputError(f"{path}: cannot be read as a .keras file ({reason(error)})") from error


def _uncompiled(thing: dict) -> dict:
    """Return the description of a model without what it was compiled with."""
    return {key: value for key, value in thing.items() if key != "compile_config"}


def _made(config: dict) -> keras.Model:
    """Return the model that a configuration describes; layers that are shared in it stay so."""
    with ObjectSharingScope():  # Keras takes from the configuration what it reads
        return keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=True)


def _weight_bytes(config: dict) -> int:
    """Return what the weights of a model take, which is made without them."""
    waiting = global_state.get_global_attribute("uninitialized_variables", [])
    before = list(waiting)  # Keras adds to it, and would make their values with the next model's
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = _made(config)
    finally:
        global_state.set_global_attribute("uninitialized_variables", before)
    weights = model.trainable_variables + fixed_variables(model)
    return sum(math.prod(weight.shape) * np.dtype(weight.dtype).itemsize for weight in weights)


def _refuse_code(config, path) -> None:
    for thing in _things(config):
        module, kind = thing.get("module"), thing["class_name"]
        known = any(module == m or (m[-1] == "." and str(module).startswith(m)) for m in MODULES)
        if kind in REFUSED or not (known or (module is None and kind in DATA)):
            named = kind if module is None else f"{module}.{kind}"
            if kind in ("Lambda", "__lambda__"):
                named = "a Lambda layer"
            raise InputError(
                f"{path}: holds {reason(named)}, which is code, and from files only Keras' own "
                "layers are loaded; make the model in Python: `problem` package.module:function"
            )


def _things(config) -> Iterator[dict]:
    """All objects that a configuration describes, outer ones first."""
    if isinstance(config, dict) and "class_name" in config:
        yield config
    inside = config.values() if isinstance(config, dict) else config
    for value in inside if isinstance(config, dict | list) else ():
        yield from _things(value)


@dataclass(frozen=True)
class Weights:
    """What a file holds for a model.

    `parameters` are the (n,) trainable weights, `fixed` those of `fixed_variables`: moving
    averages, and what is frozen.
    """

    parameters: np.ndarray
    fixed: list[np.ndarray]


def read_weights(path: str | os.PathLike, model: keras.Model) -> Weights:
    """Return the weights that a model's file or a file of its weights holds.

    ``model.save("m.keras")`` or ``model.save_weights("w.weights.h5")`` wrote it. Raises InputError
    if the file is missing, or its weights are not the model's by shape.
    """
    if zipfile.is_zipfile(path):
        found = load_model(path)
        _check_shapes(found, model, path)
        return _weights(found)
    with CheckedFile(path, "weights file") as file:
        file.check_all()
    saved = model.get_weights()
    try:
        model.load_weights(path)
        return _weights(model)
    except MemoryError:
        raise
    except Exception as error:  # Keras raises anything
        raise InputError(f"{path}: holds no weights of {model.name} ({reason(error)})") from error
    finally:
        model.set_weights(saved)


def _weights(model) -> Weights:
    parts = [np.asarray(w, dtype=np.float64).reshape(-1) for w in model.trainable_variables]
    return Weights(np.concatenate(parts), [np.asarray(w).copy() for w in fixed_variables(model)])


def _check_shapes(other, model, path) -> None:
    for kind in (lambda model: model.trainable_variables, fixed_variables):
        found, wanted = ([tuple(weight.shape) for weight in kind(each)] for each in (other, model))
        if found != wanted:
            raise InputError(
                f"{path}: holds weights of shapes {found[:4]}, but {model.name} has {wanted[:4]}; "
                "take a file of the same model"
            )
