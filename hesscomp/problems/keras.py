"""A Keras model and a loss over sharded data as a problem."""

import logging
from dataclasses import replace

import numpy as np

from hesscomp.curvature.joint import Joint
from hesscomp.curvature.keras_internals import check_keras
from hesscomp.curvature.keras_losses import Ending, find_loss, resolve_loss
from hesscomp.curvature.losses import KNOWN, Loss
from hesscomp.curvature.networks.engine import NetworkEngine, cut
from hesscomp.curvature.networks.generic import GenericEngine
from hesscomp.curvature.networks.graph import read_graph, without_activation
from hesscomp.curvature.networks.layerwise import LayerwiseEngine
from hesscomp.curvature.networks.operation import Unsupported
from hesscomp.curvature.networks.penalty import Penalty
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError
from hesscomp.parallel.resources import PRODUCT_BYTES
from hesscomp.parallel.world import World
from hesscomp.problems.capabilities import KERAS_MODEL, KERAS_WEIGHTS
from hesscomp.problems.door import SECONDS, Door
from hesscomp.problems.handed import as_arrays, row_ranks
from hesscomp.problems.keras_rows import (
    check_hinge,
    check_targets,
    check_values,
    coded,
    explaining,
    keras_loss,
    recoded,
    shaped,
)
from hesscomp.problems.models import Weights, read_weights
from hesscomp.problems.network import NetworkProblem
from hesscomp.problems.rows import RowSet
from hesscomp.problems.several import Several, is_several, unwrapped
from hesscomp.problems.stateless import Traced, fixed_variables, network_of
from hesscomp.storage.files import atomic_path

log = logging.getLogger(__name__)

ENGINES = ("auto", "layer-wise", "generic")
CHECKS = ("auto", "full", "off")


class KerasProblem(NetworkProblem):
    """f(x) = (1/m) sum_i l(y_i, model(x; a_i)) + r(x) + (ridge/2) ||x||^2.

    x are the trainable weights and r the sum of the regularisers that the model's layers have on
    them. The model runs in inference mode: batch normalisation with its moving averages, dropout
    off.

    A model that ends in softmax or sigmoid goes with Keras' cross-entropies, with or without
    ``from_logits``, and with the cross-entropies of logits: the loss is computed from the logits,
    as Keras does it, and the Gauss-Newton matrix is that of the logits.

    Parameters
    ----------
    model : keras.Model
        Built, on the TensorFlow backend, with inputs and outputs of any number. Not changed; its
        weights are where `initial` comes from.
    loss : str, Loss, Keras loss or callable
        "softmax-cross-entropy" and "sigmoid-cross-entropy" (of logits), "squared-error" (1/2
        ||f - y||^2), any Keras loss that averages over rows or its name, or a function of
        (y, output) with a number for each row. Of several outputs: a list in their order, or a
        dict by their names; None leaves an output out. The loss is their sum, each with its weight.
    data : Dataset, (X, y) or tf.data.Dataset
        Each rank's own rows, of any number: arrays, tables of numbers (pandas), or a data set of
        pairs, batched or not, which is read once and kept in memory. Of several inputs or outputs,
        X or y is a tuple, list or dict of them; these are copied, side by side in flat rows.
        Rows of a `Dataset` take the shape of the input.
    world : World, optional
        All ranks of the job by default.
    loss_weights : list, dict or float, optional
        In the form of the losses, as in ``model.compile``.
    ridge : float
        Non-negative; applies to all parameters.
    dtype : {"float32", "float64"}
        Precision of curvature products. Loss and gradient are float64 always.
    memory : float
        Bytes that one product may take on a rank, besides the data, V and the result.
    engine : {"auto", "layer-wise", "generic"}
    check : {"auto", "full", "off"}
        A few rows are sent through two independent ways before anything is computed
        (`problems.door`): the objective against the loss that Keras computes, its gradient, a
        Hessian and a Gauss-Newton product against TensorFlow's automatic differentiation, the
        gradient against differences of the objective. "auto" spends about 2 seconds on it at most,
        besides what the run needs anyway, and says what it left out; "full" leaves out nothing.

    Attributes
    ----------
    fixed : list of arrays
        The model's weights that are not trained, as they were at first.
    at_logits : bool
        Whether outputs are the logits before the model's last activation: in `output`, in the
        Jacobian and for the Gauss-Newton matrix.
    penalty : Penalty or None
        The regularisers.

    Raises
    ------
    InputError
        For a model that cannot be used, is random, or couples rows; for data that do not fit it;
        for a loss that hesscomp would compute otherwise than Keras does.

    Notes
    -----
    Memory per rank: the shard, once more in each precision that it is not stored in.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import hesscomp as hc
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="last")])
    >>> X, y = np.eye(2), np.array([0, 2])
    >>> problem = hc.KerasProblem(model, "softmax-cross-entropy", (X, y), ridge=1e-3)
    >>> [(block.name, block.shape) for block in problem.parameter_blocks]
    [('last/kernel', (2, 3)), ('last/bias', (3,))]
    >>> value, gradient = problem.objective_and_gradient(problem.initial)
    >>> gradient.shape, hc.hessian(problem)
    ((9,), <HessianOperator: n 9, precision float32, eigenvalues positive semidefinite>)
    """

    name = "keras-model"
    capabilities = NetworkProblem.capabilities | {KERAS_MODEL, KERAS_WEIGHTS}

    def __init__(
        self, model: keras.Model, loss, data, world: World | None = None, *, ridge: float = 0.0,
        dtype: str = "float32", memory: float = PRODUCT_BYTES, engine: str = "auto",
        check: str = "auto", loss_weights=None,
    ):  # fmt: skip
        check_model(model)
        if check not in CHECKS:
            raise InputError(f"unknown check {check}; use one of {', '.join(CHECKS)}")
        world = World.of_job() if world is None else world
        with world.phase("reading the data"):
            data = as_arrays(data, world, row_ranks(model))
        loss, data = unwrapped(model, loss, data)
        self.network: keras.Model = model
        self.several: Several | None = None
        variables = model.trainable_variables
        pieces = cut(variable.shape for variable in variables)
        initial = np.concatenate([np.asarray(v, np.float64).reshape(-1) for v in variables])
        if is_several(model, loss, data, loss_weights):
            several = Several(model, loss, data, loss_weights, pieces, initial, dtype, world)
            self.several, self.network, loss = several, several.network, several.loss
            data = several.flat(data)
        rows = shaped(RowSet.of(data, world), self.network)
        super().__init__(rows, world, ridge, dtype, memory)
        with world.phase("tracing the model"):
            traced = Traced(self.network, pieces, rows.X, initial, dtype)
        given = resolve_loss(loss)
        y = recoded(rows.y, given, traced.shape, world, rows.name)
        rows = replace(rows, y=y)
        with explaining(given, rows.y, traced.shape):
            loss = _found(given, model, rows, traced)
        self._take(coded(rows, loss.bare))
        self.model, self.name, self.pieces = model, model.name, pieces
        self._given = given
        self._take_loss(loss, Penalty.of_model(model, pieces))
        self.fixed = [np.asarray(variable).copy() for variable in fixed_variables(model)]
        self._row_shape = traced.shape
        self.at_logits = traced.ending is not None and traced.ending.serves(loss.link)
        if world.rank == 0 and self.at_logits:
            _say_logits(model, given, loss, traced.ending)
        if loss.link is not None and traced.ending is None and check != "off":
            self._check_logits(given, loss, traced, rows)
        if self.several is not None and isinstance(loss, Joint) and check != "off":
            for output, one in zip(loss.parts, self.several.losses, strict=True):
                if output.loss.link is not None and not output.at_logits:
                    place = slice(output.output.start, output.output.stop)
                    self._check_logits(one, output.loss, traced, rows, place)
        self._differentiate(self._engine_named(engine), pieces, parameter_names(model), initial)
        with world.phase("checking the model"):
            traced.check_rows(self.data.X)
            if len(self.data.X):
                check_targets(loss.bare, self.data.y, traced.shape)
                for few in (2, 3):  # a number of rows that is no width of the output is among them
                    part = self.data.y[:few], traced.outputs(self.data.X[:few])
                    with explaining(given, self.data.y, traced.shape):
                        check_values(loss, keras_loss(given), *part)
        check_hinge(given, self.data.y, world)
        if check != "off":
            self._check_at_the_door(given, traced.ending, check, engine)
        log.info("%s: %s engine: %s", model.name, self.engine.name, self.engine.reason)
        self.psd = self.gauss_newton_psd and self.engine.affine

    def set_weights(self, x: np.ndarray) -> None:
        """Give the model the parameters x."""
        x = self.check_point(x)
        for variable, piece in zip(self.model.trainable_variables, self.pieces, strict=True):
            variable.assign(piece.of(x))

    def save_model(self, path, x: np.ndarray) -> None:
        """Write the model with the parameters x, which it keeps, to a .keras file; local."""
        self.set_weights(x)
        with atomic_path(path) as temporary:
            self.model.save(temporary)

    def read_weights(self, path) -> Weights:
        return read_weights(path, self.model)

    def set_fixed(self, values: list[np.ndarray] | None) -> None:
        """Give the model other weights that are not trained (`fixed_variables`); None: its first.

        Operators that were made before compute with them too.
        """
        values = self.fixed if values is None else values
        for variable, value in zip(fixed_variables(self.model), values, strict=True):
            variable.assign(value)
        for kept in self._kept:
            kept.forget()

    def over(self, data):
        with self.world.phase("reading the data"):
            data = as_arrays(data, self.world, row_ranks(self.model))
        _, data = unwrapped(self.model, None, data)
        return super().over(data if self.several is None else self.several.flat(data))

    def output(self, x: np.ndarray, X) -> np.ndarray:
        """Return `NetworkProblem.output`; of several outputs, one beside the other in flat rows."""
        return super().output(x, X if self.several is None else self.several.flat_inputs(X))

    def _fitted(self, rows):
        with self.world.phase(f"checking {rows.name}"):
            rows = coded(shaped(rows, self.network), self.loss.bare)
        y = recoded(rows.y, self._given, self._row_shape, self.world, rows.name)
        rows = replace(rows, y=y)
        with self.world.phase(f"checking {rows.name}"):
            if len(rows.X):
                check_targets(self.loss.bare, rows.y, self._row_shape)
        return rows

    def _engine_named(self, wanted: str) -> NetworkEngine:
        """Return the engine of the loss and the penalty."""
        if wanted not in ENGINES:
            raise InputError(f"unknown engine {wanted}; use one of {', '.join(ENGINES)}")
        if wanted == "generic":
            return self._generic("requested")
        try:
            nodes = read_graph(self.network)
            if self.at_logits:
                nodes = without_activation(nodes)
            variables = self.model.trainable_variables
            engine = LayerwiseEngine(nodes, variables, self.pieces, self.loss)
            return engine.penalized(self.penalty)
        except Unsupported as why:
            if wanted == "layer-wise":
                raise InputError(f"no layer-wise engine for {self.name}: {why}") from why
            return self._generic(str(why))

    def _generic(self, reason: str) -> NetworkEngine:
        network = network_of(self.network, self.pieces, self.at_logits)
        return GenericEngine(network, self.loss, reason).penalized(self.penalty)

    def _check_logits(
        self, given, loss: Loss, traced: Traced, rows: RowSet, place: slice = slice(None)
    ) -> None:
        """Refuse probabilities where the loss takes logits; warn if the loss is Keras'. Collective.

        Those of a model that shows its logits (`Ending`) are computed from them instead.
        """
        with self.world.phase("checking the model's outputs"):
            kind = _first(self.world, traced.probabilities(rows.X, place))
        if kind is None:
            return
        text = (
            f"{self.name} gives probabilities ({kind}), whatever its weights are, but the loss "
            f"{loss.name} takes logits"
        )
        if isinstance(given, str | Loss):
            raise InputError(
                f"{text}; let the model end with its logits, or give a Keras loss with "
                "from_logits=False (its default)"
            )
        if self.world.rank == 0:
            log.warning(
                "%s (from_logits=True): it is computed as Keras does, but is probably not what you "
                "want; let the model end with its logits, or take from_logits=False", text,
            )  # fmt: skip

    def _check_at_the_door(self, given, ending, check: str, wanted: str) -> None:
        """Compare the engine with Keras and TensorFlow (`Door`); collective.

        On a difference the generic engine takes the place of the layer-wise one, if that agrees.
        """
        world = self.world
        seconds = SECONDS if check == "auto" else np.inf
        with world.phase("comparing the model with Keras"):
            compiled = self.compiled_gradient("float64")
            narrow = _single_precision(compiled)
            if narrow is not None and world.rank == 0:
                log.warning(
                    "%s: %s computes in float32, whatever precision is requested, so objective and "
                    "derivatives have six digits", self.name, narrow,
                )  # fmt: skip
            with explaining(given, self.data.y, self._row_shape):
                door = Door.of(self, given, ending, narrow is not None)
            outcome = door.compare(self.engine, compiled, seconds)
        found = _first(world, outcome.found)
        left_out = _first(world, ", ".join(outcome.left_out))
        if found is None:
            if left_out and world.rank == 0:
                log.warning(
                    "%s is large: the check against Keras and TensorFlow ended after %g s and left "
                    "out: %s. The check 'full' leaves out nothing", self.name, SECONDS, left_out,
                )  # fmt: skip
            return
        if not isinstance(self.engine.data, LayerwiseEngine):
            raise InputError(f"{self.name}: {found}; {_REMEDY}")
        with world.phase("comparing the model with Keras"):
            layer = door.faulty_layer(self.engine.data, self.model) if outcome.found else None
            generic = self._generic("the layer-wise engine differs from Keras")
            outcome = door.compare(generic)
        place = _first(world, layer)
        culprit = f"the loss {self.loss.name}" if place is None else f"layer {place}"
        again = _first(world, outcome.found)
        if again is not None:
            raise InputError(f"{self.name}, {culprit}: {again}; {_REMEDY}")
        if wanted == "layer-wise":
            raise InputError(f"{self.name}, {culprit}: {found}; take the engine generic")
        if world.rank == 0:
            log.warning(
                "%s, %s: by the layer-wise engine %s. The generic engine agrees and is used; "
                "please report this", self.name, culprit, found,
            )  # fmt: skip
        self.engine = generic
        self._kernels.clear()


def _single_precision(compiled) -> str | None:
    """Return the first operation of a compiled function of float64 that casts to float32; None."""
    for operation in compiled.get_concrete_function().graph.get_operations():
        tensors = [*operation.inputs, *operation.outputs]
        if operation.type == "Cast" and [t.dtype for t in tensors] == [tf.float64, tf.float32]:
            return operation.name.rpartition("/")[0] or operation.name
    return None


_REMEDY = (
    "write the loss as a FunctionProblem; the check 'off' takes the model all the same, but then "
    "its numbers may be wrong"
)


def _first(world: World, said: object) -> str | None:
    """Return what the lowest rank that has something says, on every rank."""
    return next((found for found in world.gather("" if said is None else str(said)) if found), None)


def check_model(model) -> None:
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=tensorflow and start again"
        )
    if not isinstance(model, keras.Model):
        raise InputError(f"the model is of the type {type(model).__name__}; pass a keras.Model")
    check_keras()
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
    for layer in model._flatten_layers():
        if getattr(layer, "activity_regularizer", None) is not None:
            raise InputError(
                f"{model.name}: {layer.name} has an activity regulariser, whose value is no mean "
                "over rows; take it out, or write the loss as a FunctionProblem"
            )


def parameter_names(model) -> list[str]:
    """Return the weights' paths, without the model's own name where all begin with it.

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
    alike: dict[str, dict] = {}  # by the layers' paths: the layers, numbered
    for path, layer in zip(paths, owners, strict=True):
        layers = alike.setdefault(path.rpartition("/")[0], {})
        layers.setdefault(layer, len(layers))
    layers_of = [alike[path.rpartition("/")[0]] for path in paths]
    names = [
        f"{layers[layer]}/{path}" if len(layers) > 1 else path
        for path, layer, layers in zip(paths, owners, layers_of, strict=True)
    ]
    return names if len(set(names)) == len(names) else [f"{i}/{p}" for i, p in enumerate(paths)]


def _found(loss, model, rows: RowSet, traced: "Traced") -> Loss:
    """Return the loss of the model's output or logits; InputError where they do not fit."""
    kind = tf.float64 if rows.y.dtype.kind == "f" else rows.y.dtype
    targets, ending = tf.TensorSpec([None, *rows.y.shape[1:]], kind), traced.ending
    found = find_loss(loss, traced.shape, ending, targets)
    own = isinstance(loss, Loss) or (isinstance(loss, str) and loss in KNOWN)
    if own and ending is not None and found.link not in (None, ending.activation):
        raise InputError(
            f"{model.name} ends in {ending}, and the loss {found.name} takes logits; end the model "
            f"in {found.link}, or without an activation"
        )
    return found


def _say_logits(model, given, loss: Loss, ending: Ending) -> None:
    """Warn where a user may not expect that the loss is computed from the logits."""
    logits = given in KNOWN if isinstance(given, str) else isinstance(given, Loss)
    logits = logits or bool(getattr(given, "_fn_kwargs", {}).get("from_logits"))
    if ending.activation != loss.link:
        log.warning(
            "%s ends in %s, but its loss is the %s: it is computed from what goes into the %s, as "
            "Keras computes it", model.name, ending, loss.name, ending,
        )  # fmt: skip
    elif logits:
        log.warning(
            "%s ends in %s, and the loss %s takes logits: it is computed from the logits before "
            "the %s", model.name, ending, loss.name, ending,
        )  # fmt: skip
