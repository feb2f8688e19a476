"""Any TensorFlow function of parameters and rows as a problem."""

from collections.abc import Callable

import numpy as np

from hesscomp.curvature.chunks import row_values
from hesscomp.curvature.networks.engine import cut
from hesscomp.curvature.networks.generic import FunctionEngine
from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError
from hesscomp.parallel.resources import PRODUCT_BYTES
from hesscomp.parallel.world import World
from hesscomp.problems.contract import wrong_slope
from hesscomp.problems.differentiable import DifferentiableProblem
from hesscomp.problems.rows import RowSet

SUM_TOLERANCE = 1e-4  # of a sum of losses, in float32


class FunctionProblem(DifferentiableProblem):
    """f(x) = (1/m) sum over all rows of a loss that you write in TensorFlow + (ridge/2) ||x||^2.

    Parameters
    ----------
    loss_sum : callable
        ``loss_sum(theta, X, y)``: the *sum* of the losses of some rows, a scalar, twice
        differentiable, each row's loss depending on that row alone. `theta` comes as it was given
        below, of tensors; all real numbers have one type, float32 or float64.
    theta : array, or dict of str to array
        A starting point; the dict's keys name the parameter blocks.
    data : Dataset, or (X, y)
        Each rank's own rows.
    world : World, optional
        All ranks of the job by default.
    ridge, dtype, memory
        As for `KerasProblem`.
    check : {"auto", "off"}
        Whether the loss of a few rows is compared with the sum of each row's, and its gradient with
        differences of its values, before anything is computed.

    Raises
    ------
    InputError
        On what no problem takes, if some rows' loss is not the sum of each one's (a mean, say), and
        if TensorFlow's gradient is not the derivative of the values.

    Notes
    -----
    By automatic differentiation: a product with k columns costs about k gradients of gradients over
    this rank's rows, `memory` at most, and one reduction of n k words.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> import hesscomp as hc
    >>> def loss_sum(theta, X, y):
    ...     return tf.reduce_sum((tf.linalg.matvec(X, theta) - y) ** 2)
    >>> X, y = np.array([[1.0, 0.0], [0.0, 2.0]]), np.ones(2)
    >>> problem = hc.FunctionProblem(loss_sum, np.zeros(2), (X, y), dtype="float64")
    >>> hc.hessian(problem).to_dense()  # 2 X^T X / 2 rows
    array([[1., 0.],
           [0., 4.]])
    """

    name = "function"

    def __init__(
        self, loss_sum: Callable, theta, data, world: World | None = None, *, ridge: float = 0.0,
        dtype: str = "float32", memory: float = PRODUCT_BYTES, check: str = "auto",
    ):  # fmt: skip
        if check not in ("auto", "off"):
            raise InputError(f"unknown check {check}; use auto or off")
        world = World.of_job() if world is None else world
        super().__init__(RowSet.of(data, world), world, ridge, dtype, memory)
        named = theta if isinstance(theta, dict) else {"theta": theta}
        arrays = [np.asarray(value, dtype=np.float64) for value in named.values()]
        if not sum(array.size for array in arrays):
            raise InputError("theta is empty; give an array of parameters, or a dict of arrays")
        pieces = cut(array.shape for array in arrays)

        def flat_loss(flat, X, y):
            parts = [piece.of(flat) for piece in pieces]
            given = dict(zip(named, parts, strict=True)) if isinstance(theta, dict) else parts[0]
            return loss_sum(given, X, y)

        engine = FunctionEngine(flat_loss, "a function, of which only values are known")
        initial = np.concatenate([array.reshape(-1) for array in arrays])
        self._differentiate(engine, pieces, list(named), initial)
        if check != "off":
            with world.phase("checking the loss"):
                self._check_sum()
                self._check_gradient()

    def _check_sum(self) -> None:
        """Refuse a loss of two or of three rows here that is not the sum of their losses."""
        theta = tf.constant(self.initial, self.dtype)
        X, y = self.tensors(self.dtype)
        for size in range(2, min(len(X), 3) + 1):
            both, *alone = (
                np.asarray(self.engine.loss_sum(theta, X[rows], y[rows]))
                for rows in (slice(size), *(slice(i, i + 1) for i in range(size)))
            )
            if both.shape != () or any(loss.shape != () for loss in alone):
                raise InputError(f"loss_sum gives an array {both.shape}; it must give a scalar")
            if abs(both - sum(alone)) > SUM_TOLERANCE * (abs(both) + sum(map(abs, alone))):
                single = ", ".join(f"{loss:.6g}" for loss in alone)
                raise InputError(
                    f"loss_sum gives {both:.6g} for {size} rows, but {single} for each alone; it "
                    "must be the sum of the rows' losses (tf.reduce_sum, not a mean)"
                )

    def _check_gradient(self) -> None:
        """Refuse a gradient of a few rows here that is not the derivative of their loss."""
        X, y = (part[:3] for part in self.tensors("float64"))
        if not len(X):
            return
        wrong = wrong_slope(
            lambda x: float(self.engine.loss_sum(tf.constant(x), X, y)),
            lambda x: self.engine.gradient(tf.constant(x), X, y)[1].numpy(),
            self.initial,
        )
        if wrong is not None:
            raise InputError(
                f"TensorFlow's gradient of loss_sum along a direction is {wrong[0]:.8g}, but that "
                f"of its values is {wrong[1]:.8g}: a gradient is stopped or replaced "
                "(tf.stop_gradient, tf.custom_gradient). Take that out, or, if it is meant so, "
                "give check='off'"
            )

    def _row_values(self, theta, X):
        y = self.tensors(theta.dtype.name)[1]
        spec = tf.TensorSpec([1, *y.shape[1:]], y.dtype)
        return row_values(self.engine.loss_sum, theta, X, spec)
