"""The check at the door: a few rows of a user's model, sent through two independent ways.

One way is the engine that will be used. The other is Keras' own loss of Keras' own output, with
the losses that its layers add, differentiated by TensorFlow, one column at a time and eagerly.
Both are in float64 and must agree to `TOLERANCE` in the norm of each parameter block.

The point is moved a little off the given weights, so that no unit lies exactly on a kink such as
relu's at zero: there derivatives may differ by nature, and initial biases are zero. The rows are
chosen to span the targets: the least, the greatest, and different classes.
"""

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from hesscomp.curvature.keras_losses import Ending
from hesscomp.curvature.losses import FunctionLoss, Loss
from hesscomp.curvature.networks.engine import NetworkEngine, Piece, opaque
from hesscomp.curvature.networks.graph import layer_ends
from hesscomp.curvature.networks.layerwise import LayerwiseEngine
from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError
from hesscomp.problems.contract import wrong_slope
from hesscomp.problems.keras_rows import keras_loss
from hesscomp.problems.stateless import losses_and_output

TOLERANCE = 1e-8
SINGLE_TOLERANCE = 1e-5  # where an operation of TensorFlow's knows float32 only
ROUNDING = 1e-12  # of the norm of all blocks, and of the terms whose differences derivatives are
SECONDS = 2.0  # that the check may take, unless all of it is requested
SLOPE_TOLERANCE = 1e-3  # of differences of a network's values, which units near kinks disturb
ROWS = (2, 3)  # of the two batches
MOST_TARGETS = 10**6  # numbers that are searched for rows that span the targets
MOVED = 0.05  # of a block's root mean square; of 1 where that is zero
ZERO = tf.UnconnectedGradients.ZERO
SLOPE = "slope of "


@dataclass(frozen=True)
class Disagreement:
    """What the two ways differ in.

    `here` and `there` are the objective by the engine and by Keras; of a slope, that of the
    gradient and that of the values; else the norms of the difference and of TensorFlow's result.
    """

    what: str
    here: float
    there: float

    def __str__(self) -> str:
        if self.what.startswith(SLOPE):
            return (
                f"TensorFlow's gradient of {self.what.removeprefix(SLOPE)} along a direction is "
                f"{self.here:.8g}, but that of its values is {self.there:.8g}: is a gradient "
                "stopped or replaced (tf.stop_gradient, tf.custom_gradient), or does the loss take "
                "targets that it should not?"
            )
        if self.what == "objective":
            return f"the objective of a few rows is {self.here:.8g}, but {self.there:.8g} by Keras"
        return (
            f"the {self.what} of a few rows differs by {self.here:.3g} from TensorFlow's, whose "
            f"norm is {self.there:.3g}"
        )


@dataclass(frozen=True)
class Outcome:
    """What a comparison found: a disagreement or none, and what there was no time for."""

    found: Disagreement | None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Door:
    """A few rows of one rank, and the objective that Keras computes of them.

    ``objective(theta, X, y)`` gives the mean loss with what layers add, and the output that the
    engines' losses take. `theta` is the point, (n,). `batches` are two (X, y) of different sizes,
    or none where there are no rows. `narrow` says whether an operation of the model computes in
    float32 always, `seconds` how long the making took.
    """

    objective: Callable
    loss: Loss
    pieces: list[Piece]
    theta: tf.Tensor
    batches: list[tuple[tf.Tensor, tf.Tensor]]
    narrow: bool = False
    seconds: float = 0.0

    @property
    def tolerance(self) -> float:
        """The relative tolerance of objective and derivatives."""
        return SINGLE_TOLERANCE if self.narrow else TOLERANCE

    @classmethod
    def of(cls, problem, given, ending: Ending | None, narrow: bool = False) -> "Door":
        """Make the check of a `KerasProblem` whose loss was `given`, and whose model has an ending.

        Raises InputError where the loss of some rows is not a number, or depends on other rows.
        """
        begun = time.monotonic()
        model, pieces, at_logits = problem.network, problem.pieces, problem.at_logits
        loss_of, run = keras_loss(given), losses_and_output(model, pieces)

        def objective(theta, X, y):
            losses, output = run(theta, X)
            taken = Ending.logits(output) if at_logits else output
            return tf.add_n([loss_of(y, output, taken), *losses]), taken

        if ending is not None and not ending.marked:  # then only a graph shows the logits
            objective = tf.function(objective, autograph=False, reduce_retracing=True)
        batches = _batches(problem.data.X, problem.data.y)
        for point in (_moved(problem.initial, pieces), problem.initial):
            theta = tf.constant(point)
            value = float(objective(theta, *batches[0])[0]) if batches else 0.0
            if np.isfinite(value):
                break
        else:
            raise InputError(
                f"the loss of the first rows is {value:g} at the model's weights: their outputs or "
                "targets lie where the loss is not defined"
            )
        door = cls(objective, problem.loss, pieces, theta, batches, narrow)
        door._check_rows()
        return replace(door, seconds=time.monotonic() - begun)

    def _check_rows(self) -> None:
        """InputError if the objective of some rows is not the mean of each one's own."""
        for X, y in self.batches[:1]:
            together, output = self.objective(self.theta, X, y)
            rows = range(len(X))
            alone = [self.objective(self.theta, X[i : i + 1], y[i : i + 1])[0] for i in rows]
            mean = tf.reduce_mean(alone)
            if not abs(together - mean) <= self.allowed(mean, output):
                raise InputError(
                    f"the loss of {len(X)} rows together is {together:.10g}, but the mean of each "
                    f"one's own is {mean:.10g}: the model or the loss couples the rows of a batch, "
                    "so the objective is not a mean over rows"
                )

    def allowed(self, value, output):
        """Return the rounding that two ways to a sum of losses of this output may differ by."""
        return self.tolerance * abs(value) + ROUNDING * (1 + tf.reduce_max(abs(output)))

    def compare(
        self, engine: NetworkEngine, gradient: Callable | None = None, seconds: float = np.inf
    ) -> Outcome:
        """Compare an engine with Keras and TensorFlow.

        Objective and gradient of both batches, the loss's curvature by the output, and gradients
        with differences of values; of the layer-wise engine also a Hessian and a Gauss-Newton
        product on the first batch.

        `gradient` is the engine's, compiled: Keras' losses may do otherwise in a graph. After the
        first gradient, a test that would probably end more than `seconds` after the making of the
        door began is left out. Compiling the gradient does not count: the run needs it in any case.
        """
        if not self.batches:
            return Outcome(None)
        gradient = gradient or tf.function(engine.gradient, autograph=False, reduce_retracing=True)
        gradient(self.theta, *self.batches[0])  # compiles
        begun = time.monotonic()
        first, second = (_Trial(self, engine, gradient, X, y) for X, y in self.batches)
        found = first.slopes()
        unit = time.monotonic() - begun
        by_layers = isinstance(engine.data, LayerwiseEngine)
        own = engine.penalty is not None and not engine.penalty.convex
        tests: list[tuple[str, Callable[[], Disagreement | None], float, bool]] = [
            ("curvature of the loss", first.loss_curvature, 0, True),
            ("slope of the loss", first.loss_slope, 0, isinstance(self.loss, FunctionLoss)),
            ("slope of the regularisers", first.penalty_slope, 0, own),
            ("Hessian product", first.hessian, 2.5, by_layers),
            ("Gauss-Newton product", first.gauss_newton, 2, by_layers),
            ("gradient of other rows", second.slopes, 1, True),
            ("slope of the objective", first.slope, 2.5, not self.narrow),
        ]
        left_out = []
        for name, test, units, applies in tests:
            if found is not None:
                return Outcome(found)
            if not applies:
                continue
            if self.seconds + time.monotonic() - begun + units * unit > seconds:
                left_out.append(name)
            else:
                found = test()
        return Outcome(found, tuple(left_out))

    def faulty_layer(self, engine: LayerwiseEngine, model: keras.Model) -> str | None:
        """Return the first layer up to which the layer-wise engine differs; None if none does.

        By bisection over the layers, with a random linear function of each one's output as loss.
        """
        ends = [end for end in layer_ends(model) if end[1] <= len(engine.nodes)]
        agrees = partial(self._agrees_up_to, engine, model)
        wrong = bisect_left(ends, True, key=lambda end: not agrees(*end[1:]))
        return ends[wrong][0] if wrong < len(ends) else None

    def _agrees_up_to(self, engine: LayerwiseEngine, model, nodes: int, tensor) -> bool:
        part = keras.Model(model.inputs, tensor)
        places = {id(variable): i for i, variable in enumerate(model.trainable_variables)}
        own = [places[id(variable)] for variable in part.trainable_variables]
        run = losses_and_output(part, self.pieces, own)
        weights = tf.constant(np.random.default_rng(1).standard_normal(tensor.shape[1:]))

        def linear(y, output):
            return tf.reduce_sum(weights * output, list(range(1, output.shape.rank)))

        def objective(theta, X, y):
            _, output = run(theta, X)
            return tf.reduce_mean(linear(y, output)), output

        loss = FunctionLoss(linear, "a linear function")
        begun = LayerwiseEngine(engine.nodes[:nodes], model.trainable_variables, self.pieces, loss)
        return replace(self, objective=objective, loss=loss).compare(begun).found is None


class _Trial:
    """One batch, both ways; what several tests share is computed once."""

    def __init__(self, door: Door, engine: NetworkEngine, gradient: Callable, X, y):
        self.door, self.engine, self.gradient, self.X, self.y = door, engine, gradient, X, y
        self.rows, self.rng = tf.cast(tf.shape(X)[0], tf.float64), np.random.default_rng(0)

    def slopes(self) -> Disagreement | None:
        """Compare objective and gradient."""
        theta = self.door.theta
        with tf.GradientTape(persistent=True) as self.tape:
            self.tape.watch(theta)
            value, output = self.door.objective(theta, self.X, self.y)
            self.output = opaque(output)
        # One compiled call for both: some models show their logits in a graph alone.
        total, slope = self.gradient(theta, self.X, self.y)
        here = total / self.rows
        if not abs(here - value) <= self.door.allowed(value, self.output):
            return Disagreement("objective", float(here), float(value))
        there = self.tape.gradient(value, theta, unconnected_gradients=ZERO)
        return self._differ("gradient", slope, there, self._reach)

    def _pull(self, u):
        """Return J^T u."""
        return self.tape.gradient(self.output, self.door.theta, u, unconnected_gradients=ZERO)

    @cached_property
    def _reach(self):
        """The norm of a J^T u of the size of the loss's slopes: what rounding is relative to."""
        slopes = 1 + abs(self.door.loss.gradient(self.output, self.y))
        return tf.norm(self._pull(slopes * self.rng.standard_normal(slopes.shape))) / self.rows

    def hessian(self) -> Disagreement | None:
        here = self.engine.hessian(*self._point(True), self._v[:, None])[:, 0]
        door, X, y = self.door, self.X, self.y
        there = _bent(lambda theta: door.objective(theta, X, y)[0], door.theta, self._v)
        return self._differ("Hessian product", here, there, self._reach + tf.norm(there))

    def gauss_newton(self) -> Disagreement | None:
        point, V = self._point(False), self._v[:, None]
        here = self.engine.data.gauss_newton(*point, V, self.door.loss)[:, 0]
        tangent = self._tangent()
        there, reach = self._pull(self._loss_bent(tangent)), tf.norm(self._pull(tangent))
        return self._differ("Gauss-Newton product", here, there / self.rows, reach / self.rows)

    def loss_slope(self) -> Disagreement | None:
        """Compare the loss's gradient with respect to the output with differences of its values."""
        loss, y = self.door.loss, self.y
        return _slope(
            "the loss",
            lambda z: tf.reduce_sum(loss.values(z, y)),
            lambda z: loss.gradient(z, y),
            self.output,
        )

    def penalty_slope(self) -> Disagreement | None:
        """Compare the regularisers' gradient with differences of their values."""
        penalty, theta = self.engine.penalty, self.door.theta
        assert penalty is not None
        return _slope("the regularisers", penalty.value, lambda x: penalty.gradient(x)[1], theta)

    def slope(self) -> Disagreement | None:
        """Compare the engine's gradient of the objective with differences of Keras' values."""
        return _slope(
            "the objective of a few rows",
            lambda x: self.door.objective(x, self.X, self.y)[0],
            lambda x: self.gradient(x, self.X, self.y)[1] / self.rows,
            self.door.theta,
            SLOPE_TOLERANCE,
        )

    def loss_curvature(self) -> Disagreement | None:
        """Compare the loss's curvature in the output along one random tangent of it."""
        tangent = tf.constant(self.rng.standard_normal(self.output.shape))
        here = self.door.loss.curvature(self.output, self.y, tangent[..., None, :])[..., 0, :]
        there = self._loss_bent(tangent)
        error, norm = tf.norm(here - there), tf.norm(there)
        if error <= self.door.tolerance * norm + ROUNDING * tf.norm(tangent):
            return None
        return Disagreement("curvature of the loss", float(error), float(norm))

    def _loss_bent(self, tangent):
        """Return the loss's second derivative in the output, times a tangent of the output."""
        loss, y = self.door.loss, self.y
        return _bent(lambda z: tf.reduce_sum(loss.values(z, y)), self.output, tangent)

    def _tangent(self):
        """Return J v, the derivative along v of J^T u by u, in which it is linear."""
        theta, X, y = self.door.theta, self.X, self.y
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(theta)
                _, output = self.door.objective(theta, X, y)
            seed = tf.zeros_like(output)
            outer.watch(seed)
            pulled = inner.gradient(output, theta, seed, unconnected_gradients=ZERO)
        return outer.gradient(pulled, seed, self._v, unconnected_gradients=ZERO)

    @cached_property
    def _v(self):
        return tf.constant(self.rng.standard_normal(self.door.theta.shape[0]))

    def _point(self, reverse: bool) -> tuple[Any, Any, Any, Any]:
        """Return the engine's arguments before V."""
        theta, X, y = self.door.theta, self.X, self.y
        return theta, X, y, self.engine.values(theta, X, y, reverse)

    def _differ(self, what: str, here, there, reach) -> Disagreement | None:
        here = here / self.rows
        floor = ROUNDING * (tf.norm(there) + reach)
        for piece in self.door.pieces:
            error = tf.norm(piece.of(here) - piece.of(there))
            if not error <= self.door.tolerance * tf.norm(piece.of(there)) + floor:
                return Disagreement(what, float(tf.norm(here - there)), float(tf.norm(there)))
        return None


def _slope(of: str, value, gradient, at, tolerance: float = 1e-6) -> Disagreement | None:
    """Return where a gradient disagrees with differences of the values (`wrong_slope`), if so."""
    wrong = wrong_slope(
        lambda x: float(value(tf.constant(x))),
        lambda x: gradient(tf.constant(x)).numpy(),
        at.numpy(),
        tolerance,
    )
    return None if wrong is None else Disagreement(f"{SLOPE}{of}", *wrong)


def _bent(function: Callable, at, v):
    """Return the second derivative of a scalar function at a point, times v."""
    with tf.GradientTape() as outer:
        outer.watch(at)
        with tf.GradientTape() as inner:
            inner.watch(at)
            value = function(at)
        slope = inner.gradient(value, at, unconnected_gradients=ZERO)
    return outer.gradient(slope, at, v, unconnected_gradients=ZERO)


def _batches(X: np.ndarray, y: np.ndarray) -> list[tuple[tf.Tensor, tf.Tensor]]:
    if not len(X):
        return []
    chosen = np.resize(_spanning(y, sum(ROWS)), sum(ROWS))  # where there are few rows, repeated
    found = []
    for rows in np.split(chosen, np.cumsum(ROWS)[:-1]):
        few = [part[rows] for part in (X, y)]
        kinds = [part.astype(np.float64) if part.dtype.kind == "f" else part for part in few]
        found.append(tuple(map(tf.convert_to_tensor, kinds)))
    return found


def _spanning(y: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows: those of the least and the greatest target, different classes, others.

    Classes are different numbers, or of several numbers in a row the place of the greatest.
    """
    flat = y[: max(count, MOST_TARGETS // max(y[0].size, 1))].reshape(-1, y[0].size)
    classes = flat[:, 0] if flat.shape[1] == 1 else flat.argmax(1)
    ends = flat.min(1).argmin(), flat.max(1).argmax()
    firsts = np.sort(np.unique(classes, return_index=True)[1])
    rows = np.concatenate([ends, firsts[: count * count], range(min(count, len(flat)))])
    return rows[np.sort(np.unique(rows, return_index=True)[1])][:count].astype(np.int64)


def _moved(x: np.ndarray, pieces: list[Piece]) -> np.ndarray:
    """Return x with a little noise, so that nothing lies on a kink."""
    noise = np.random.default_rng(2).standard_normal(len(x))
    for piece in pieces:
        part = slice(piece.offset, piece.offset + piece.size)
        noise[part] *= MOVED * (np.sqrt(np.mean(x[part] ** 2)) or 1.0)
    return x + noise
