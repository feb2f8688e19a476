"""The engine for any TensorFlow function: reverse-over-reverse, vectorised over the columns.

Reverse-over-reverse differentiates the gradient once more; `tf.vectorized_map` does it for k
columns at once, with what does not depend on the column (the loss and its gradient) outside the
map. Tangents of outputs are gradients of gradients by a seed that does not matter (the "double
backwards" trick): J^T u is linear in u, so its gradient by u along v is J v.
"""

from collections.abc import Callable

from hesscomp.curvature.losses import Loss
from hesscomp.curvature.networks.engine import Engine, NetworkEngine, opaque
from hesscomp.curvature.tensorflow import ZERO, tf, value_and_gradient
from hesscomp.errors import InputError


class FunctionEngine(Engine):
    """For a sum of losses ``loss_sum(theta, X, y)``, of which nothing else is known."""

    name, copies = "generic", 12

    def __init__(self, loss_sum: Callable, reason: str):
        self._loss_sum, self.reason = loss_sum, reason

    def loss_sum(self, theta, X, y):
        return self._loss_sum(theta, X, y)

    def gradient(self, theta, X, y):
        return value_and_gradient(lambda theta: self.loss_sum(theta, X, y), theta)

    def hessian(self, theta, X, y, values, V):
        return hessian_columns(lambda theta: self.loss_sum(theta, X, y), theta, V)


class GenericEngine(NetworkEngine):
    """For a network ``function(theta, X)`` and a `Loss` of its output."""

    name, copies = FunctionEngine.name, FunctionEngine.copies

    def __init__(self, function: Callable, loss: Loss, reason: str):
        self.function, self.loss, self.reason = function, loss, reason

    def output(self, theta, X):
        return opaque(self.function(theta, X))

    def data_gradient(self, theta, X, y):
        return value_and_gradient(lambda theta: self.data_loss(theta, X, y), theta)

    def data_hessian(self, theta, X, y, values, V):
        return hessian_columns(lambda theta: self.data_loss(theta, X, y), theta, V)

    def jacobian(self, theta, X, V):
        with tf.GradientTape(persistent=True) as outer:
            pull, output = self._pullback(theta, X)
            seed = tf.zeros_like(output)
            outer.watch(seed)
            pulled = pull(seed)
        out = _mapped(
            lambda v: outer.gradient(pulled, seed, v, unconnected_gradients=ZERO), tf.transpose(V)
        )
        rank = out.shape.rank
        return tf.transpose(out, [*range(1, rank - 1), 0, rank - 1])

    def jacobian_transposed(self, theta, X, U):
        pull, _ = self._pullback(theta, X)
        rank = U.shape.rank
        columns = tf.transpose(U, [rank - 2, *range(rank - 2), rank - 1])
        return tf.transpose(_mapped(pull, columns))

    def gauss_newton(self, theta, X, y, values, V, loss):
        T = self.jacobian(theta, X, V)
        return self.jacobian_transposed(theta, X, loss.curvature(self.output(theta, X), y, T))

    def _pullback(self, theta, X):
        """Return the map from u to J^T u, and the output."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(theta)
            output = self.output(theta, X)
        return lambda u: tape.gradient(output, theta, u, unconnected_gradients=ZERO), output


def hessian_columns(function: Callable, theta: tf.Tensor, V: tf.Tensor) -> tf.Tensor:
    """Return the Hessian of a scalar ``function(theta)`` times V: (n, k).

    Raises InputError where TensorFlow would give a wrong one, or cannot make it.
    """
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(theta)
        slope = value_and_gradient(function, theta)[1]
    refuse_stopped_gradients(theta)

    def product(v):
        return tape.gradient(slope, theta, v, unconnected_gradients=ZERO)

    return tf.transpose(_mapped(product, tf.transpose(V)))


def refuse_stopped_gradients(theta: tf.Tensor) -> None:
    """Raise InputError if the graph holds back the gradient of anything made of theta, a tensor.

    Second derivatives of such a graph are wrong even where the first are right: TensorFlow's
    moments treat the mean within the variance as a constant (in Keras' layers they do not here, see
    `KerasProblem`). Let through is what changes no value, the shift of `tf.reduce_logsumexp`.
    """
    if tf.executing_eagerly():
        return
    made = {theta.ref()}
    for operation in theta.graph.get_operations():
        if any(tensor.ref() in made for tensor in operation.inputs):
            if operation.type == "StopGradient":
                if _is_shift(operation.inputs[0].op):
                    continue
                raise InputError(
                    f"TensorFlow's second derivatives are wrong here: {operation.name} stops the "
                    "gradient (tf.nn.moments does); take the finite-difference Hessian "
                    "(finite-difference), the Gauss-Newton matrix (ggn), or a model of layers that "
                    "the layer-wise engine knows"
                )
            made.update(tensor.ref() for tensor in operation.outputs)


def _is_shift(operation: tf.Operation) -> bool:
    """Return whether this is the shift that reduce_logsumexp subtracts and adds again.

    The largest number, 0 where that is not finite; the result does not depend on it.
    """
    if operation.type != "SelectV2":
        return False
    finite, largest, _ = (given.op for given in operation.inputs)
    return finite.type == "IsFinite" and largest.type == "Max" and finite.inputs[0].op is largest


def _mapped(function: Callable, elements: tf.Tensor) -> tf.Tensor:
    """Return the function of each element, vectorised; InputError where TensorFlow cannot."""
    try:
        return tf.vectorized_map(function, elements)
    except (ValueError, TypeError, LookupError, NotImplementedError, tf.errors.OpError) as error:
        raise InputError(
            "TensorFlow cannot differentiate this network for several columns at once (recurrent "
            "layers of more than 256 steps need unroll=True); change it, or take the "
            "finite-difference Hessian (finite-difference)"
        ) from error
