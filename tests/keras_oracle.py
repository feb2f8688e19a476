"""What Keras itself computes of a model and a loss, and differences of nothing but that number.

`Oracle.value` is the loss as `model.evaluate` computes it: Keras' own loss object, called on what
Keras' own model returns inside a `tf.function`, with the losses that the layers add. Derivatives
are central differences of these values in float64, extrapolated once; no automatic differentiation
takes part.
"""

import numpy as np

from hesscomp.curvature.tensorflow import computing_in, keras, tf

STEPS = 2e-3, 1e-3  # of the differences; extrapolation leaves an error of the fourth power
ROUNDING = 1e-9  # that the differences of float64 values bring into second derivatives


def in_float64(make, seed: int = 5, moved: float = 0.2):
    """A model whose weights and layers are float64, with all weights moved from where they start.

    The same on all ranks.
    """
    keras.utils.set_random_seed(seed)
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")  # the first layer made fixes it, whatever floatx says
    try:
        model = make()
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
    rng = np.random.default_rng(2)
    for variable in model.variables:
        if "float" in variable.dtype:
            new = np.asarray(variable) + moved * rng.standard_normal(variable.shape)
            variable.assign(np.abs(new) if "variance" in variable.path else new)
    return model


def compiled_loss(loss):
    """The loss object that ``model.compile(loss=loss)`` makes, computing in float64."""
    loss = keras.losses.get(loss)
    if not isinstance(loss, keras.losses.Loss):
        loss = keras.src.losses.losses.LossFunctionWrapper(loss)
    loss._dtype = "float64"
    return loss


class Oracle:
    """Keras' loss of all rows as a function of the flat trainable weights.

    Parameters
    ----------
    model : keras.Model
        In float64.
    loss : what ``model.compile`` takes
    X, y : arrays
        All rows.
    """

    def __init__(self, model, loss, X, y):
        self.model, self.loss = model, compiled_loss(loss)
        self.X, self.y = tf.constant(X), tf.constant(y)
        self.shapes = [tuple(variable.shape) for variable in model.trainable_variables]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.x = np.concatenate([np.ravel(variable) for variable in model.trainable_variables])
        self._values = tf.function(
            lambda points: tf.map_fn(self._value, points),
            input_signature=[tf.TensorSpec([None, len(self.x)], tf.float64)],
            autograph=False,
        )

    def _value(self, theta):
        parts = tf.split(theta, self.sizes)
        weights = [tf.reshape(part, s) for part, s in zip(parts, self.shapes, strict=True)]
        fixed = [variable.value for variable in self.model.non_trainable_variables]
        output, _, added = self.model.stateless_call(
            weights, fixed, self.X, training=False, return_losses=True
        )
        losses = self.loss(self.y, output)
        return tf.add_n([tf.reduce_mean(losses), *(tf.cast(one, tf.float64) for one in added)])

    def values(self, points: np.ndarray) -> np.ndarray:
        """Keras' loss at each row of (P, n) points."""
        terms = [variable.regularizer for variable in self.model.trainable_variables]
        with computing_in("float64", [term for term in terms if term is not None]):
            return self._values.get_concrete_function()(tf.constant(points)).numpy()

    def value(self) -> float:
        """At the model's own weights."""
        return float(self.values(self.x[None])[0])

    def gradient(self) -> np.ndarray:
        """(n,), by differences."""
        return self._extrapolated(self._gradient)

    def gradient_and_hessian(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) and (n, n), by differences."""
        n = len(self.x)
        both = self._extrapolated(self._both)
        return both[:n], both[n:].reshape(n, n)

    def _extrapolated(self, differences) -> np.ndarray:
        """Without the second power of the step; what that was must be small (no kink nearby)."""
        coarse, fine = (differences(step) for step in STEPS)
        assert np.linalg.norm(coarse - fine) <= 1e-3 * np.linalg.norm(fine) + ROUNDING, (
            "differences do not converge: is a kink nearby?"
        )
        return (4 * fine - coarse) / 3

    def _gradient(self, step: float) -> np.ndarray:
        moves = step * np.eye(len(self.x))
        up, down = np.split(self.values(self.x + np.vstack([moves, -moves])), 2)
        return (up - down) / (2 * step)

    def _both(self, step: float) -> np.ndarray:
        """Gradient and Hessian in one: f(x + h e_i + h e_j) and so on."""
        n, moves = len(self.x), step * np.eye(len(self.x))
        i, j = np.triu_indices(n)
        pairs = moves[i] + moves[j]
        points = np.vstack([np.zeros((1, n)), moves, -moves, pairs, -pairs])
        middle, up, down, both_up, both_down = np.split(
            self.values(self.x + points), np.cumsum([1, n, n, len(i)])
        )
        sums = up + down
        mixed = (both_up + both_down - sums[i] - sums[j] + 2 * middle) / (2 * step**2)
        H = np.zeros((n, n))
        H[i, j] = H[j, i] = mixed
        return np.concatenate([(up - down) / (2 * step), H.ravel()])
