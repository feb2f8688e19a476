"""Range finders: an orthonormal basis Q with H ~ Q Q^T H, grown block by block."""

import numpy as np

from hesscomp.compression.approximation import Probes
from hesscomp.compression.options import SketchOptions
from hesscomp.operators.operator import Operator
from hesscomp.sketching.catalogue import draw
from hesscomp.sketching.gaussian import probes
from hesscomp.sketching.orthonormalize import orthonormalize


class RangeFinder:
    """Halko, Martinsson and Tropp (2011), algorithms 4.1 (power 0), 4.4 and 4.3.

    A block of b columns costs (1 + power) b product columns; the probes, where there are any,
    ride in the last product of the first block. Memory: Q (rows, l) and (rows, b) three times.

    Parameters
    ----------
    operator : Operator
    options : SketchOptions
    probed : bool
        Whether to draw probes.
    orthonormal : bool
        Orthonormalise after every product (4.4). Without (4.3) singular directions of H below
        eps^(1 / (1 + power)) of the largest are lost to rounding: for reference only.
    """

    def __init__(
        self,
        operator: Operator,
        options: SketchOptions,
        *,
        probed: bool = True,
        orthonormal: bool = True,
    ):
        self.operator, self.options = operator, options
        self.probed, self.orthonormal = probed, orthonormal
        self.drawn = 0
        self.Q = np.empty((operator.layout.rows, 0))
        self.R = np.empty((0, 0))
        self.probes: Probes | None = None

    def extend(self, columns: int) -> np.ndarray:
        """Draw `columns` more, return the (n, columns) block by which Q has grown."""
        H, layout, options = self.operator, self.operator.layout, self.options
        block = draw(options.test_matrix, layout, self.drawn, self.drawn + columns, options.seed)
        self.drawn += columns
        for step in range(options.power + 1):
            last = step == options.power
            if last and self.probed and self.probes is None:
                Y, self.probes = with_probes(H, block, options)
            else:
                Y = H @ block
            block = orthonormalize(Y, layout, against=self.Q) if last or self.orthonormal else Y
        if options.independent and not self.probed:  # Y = Q R: what leave-one-out needs
            zeros = np.zeros((columns, len(self.R)))
            self.R = np.block([[self.R, layout.inner(self.Q, Y)], [zeros, layout.inner(block, Y)]])
        self.Q = np.hstack([self.Q, block])
        return block

    def leave_one_out(self) -> float:
        """Estimate of ||(I - Q Q^T) H||_F for one column fewer, at no product.

        Each column of the sketch tells how far the range of the others is from H omega: its
        distance from their span, 1 / ||row_i(R^-1)|| (Epperly and Tropp 2024, section 3).
        """
        return self.operator.world.on_root(_leave_one_out, self.R).item()


class OnRange:
    """What methods with a range finder, and as many columns again to project on it, have in common.

    Parameters
    ----------
    operator : Operator
    options : SketchOptions
    orthonormal, probed : bool
        As `RangeFinder`.
    """

    needs_psd = False

    def __init__(self, operator: Operator, options: SketchOptions, **how: bool):
        self.operator, self.options = operator, options
        self.range = RangeFinder(operator, options, **how)

    @property
    def size(self) -> int:
        """Columns of the sketch so far."""
        return self.range.Q.shape[1]

    @property
    def probes(self) -> Probes | None:
        return self.range.probes

    def width(self, sketch: int) -> int:
        """Columns to ask of `grow` for rank + oversample = `sketch`."""
        return sketch

    def columns(self, sketch: int) -> int:
        """Product columns that a sketch of this many columns costs in one block."""
        probes = self.options.probe_count if self.range.probed else 0
        return (2 + self.options.power) * sketch + probes


def with_probes(H: Operator, block: np.ndarray, options: SketchOptions):
    """H times a block, and probes whose images come in the same product."""
    vectors = probes(H.layout, 0, options.probe_count, options.seed)
    Y = H @ np.hstack([block, vectors])
    columns = block.shape[1]
    return Y[:, :columns], Probes(vectors, Y[:, columns:].copy())


def _leave_one_out(R: np.ndarray) -> np.ndarray:
    try:
        rows = np.linalg.norm(np.linalg.inv(R), axis=1)
    except np.linalg.LinAlgError:  # dependent columns: the range is complete
        return np.zeros(())
    return np.sqrt(np.mean(1 / rows**2))
