"""Any TensorFlow function of parameters and rows as a problem."""

from collections.abc import Callable

import numpy as np

from hesscomp.curvature.chunks import row_values
from hesscomp.curvature.networks.engine import cut
from hesscomp.curvature.networks.generic import FunctionEngine
from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError
from hesscomp.parallel.memory import PRODUCT_BYTES
from hesscomp.parallel.world import World
from hesscomp.problems.differentiable import DifferentiableProblem
from hesscomp.problems.rows import Rows

SUM_TOLERANCE = 1e-4  # of a sum of two losses, in float32


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

    Raises
    ------
    InputError
        On what no problem takes, and if two rows' loss is not the sum of each one's (a mean, say).
    """

    name = "function"

    def __init__(
        self,
        loss_sum: Callable,
        theta,
        data,
        world: World | None = None,
        *,
        ridge: float = 0.0,
        dtype: str = "float32",
        memory: float = PRODUCT_BYTES,
    ):
        world = World() if world is None else world
        super().__init__(Rows.of(data, world), world, ridge, dtype, memory)
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
        with world.phase("checking the loss"):
            self._check_sum()

    def _check_sum(self) -> None:
        """Refuse a loss of two rows here that is not the sum of their losses."""
        theta = tf.constant(self.initial, self.dtype)
        X, y = self.tensors(self.dtype)
        if len(X) < 2:
            return
        both, *alone = (
            np.asarray(self.engine.loss_sum(theta, X[rows], y[rows]))
            for rows in (slice(2), slice(1), slice(1, 2))
        )
        if both.shape != () or any(loss.shape != () for loss in alone):
            raise InputError(f"loss_sum gives an array {both.shape}; it must give a scalar")
        if abs(both - sum(alone)) > SUM_TOLERANCE * (abs(both) + sum(map(abs, alone))):
            raise InputError(
                f"loss_sum gives {both:.6g} for two rows, but {alone[0]:.6g} and {alone[1]:.6g} for"
                " each alone; it must be the sum of the rows' losses (tf.reduce_sum, not a mean)"
            )

    def _row_values(self, theta, X):
        y = self.tensors(theta.dtype.name)[1]
        spec = tf.TensorSpec([1, *y.shape[1:]], y.dtype)
        return row_values(self.engine.loss_sum, theta, X, spec)
