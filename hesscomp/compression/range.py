"""Range finders: an orthonormal basis Q with H ~ Q Q^T H, grown block by block."""

import numpy as np

from hesscomp.compression.method import Method
from hesscomp.compression.options import SketchOptions
from hesscomp.operators.operator import Operator
from hesscomp.sketching.orthonormalize import orthonormalize


class RangeMethod(Method):
    """A range by Halko, Martinsson and Tropp (2011), algorithms 4.1 (power 0), 4.4 and 4.3.

    A block of b columns costs (1 + power) b product columns, and as many as b once more for what a
    subclass does with the range. Memory: Q (rows, l) and (rows, b) three times.
    """

    products = 2
    orthonormal = True  # after every product (4.4), not only after the last (4.3)

    def __init__(self, operator: Operator, options: SketchOptions):
        super().__init__(operator, options)
        self.Q = np.empty((operator.layout.rows, 0))
        self.R = np.empty((0, 0))

    def extend(self, columns: int) -> np.ndarray:
        """Draw `columns` more; return the (rows, columns) block by which Q has grown."""
        layout, block = self.operator.layout, self._draw(columns)
        for _ in range(self.options.power):
            block = self.operator @ block
            if self.orthonormal:
                block = orthonormalize(block, layout, against=self.Q)
        Y = self._multiply(block)
        block = orthonormalize(Y, layout, against=self.Q)
        if not self.probed:  # Y = Q R: what leave-one-out needs
            zeros = np.zeros((columns, len(self.R)))
            self.R = np.block([[self.R, layout.inner(self.Q, Y)], [zeros, layout.inner(block, Y)]])
        self.Q = np.hstack([self.Q, block])
        return block

    def range_error(self) -> float | None:
        """Estimate ||(I - Q Q^T) H||_F for one column fewer, at no product; None where probed.

        Each column of the sketch tells how far the range of the others is from H omega: its
        distance from their span, 1 / ||row_i(R^-1)|| (Epperly and Tropp 2024, section 3).
        """
        if self.probed:
            return None
        return self.operator.world.on_root(_leave_one_out, self.R).item()


def _leave_one_out(R: np.ndarray) -> np.ndarray:
    try:
        rows = np.linalg.norm(np.linalg.inv(R), axis=1)
    except np.linalg.LinAlgError:  # dependent columns: the range is complete
        return np.zeros(())
    return np.sqrt(np.mean(1 / rows**2))
