"""Nystrom approximation of positive semidefinite operators, with a stable shift."""

import numpy as np
import scipy.linalg

from hesscomp.compression.approximation import Approximation, Probes, sorted_eigh
from hesscomp.compression.options import SketchOptions
from hesscomp.curvature.operator import Operator
from hesscomp.errors import NumericalError
from hesscomp.sketching.gaussian import probes, test_matrix
from hesscomp.sketching.orthonormalize import orthonormalize


class Nystrom:
    """F = Y_s (Z^T Y_s)^-1 Y_s^T - s I on its range, Y_s = H Z + s Z, grown block by block.

    Tropp, Yurtsever, Udell and Cevher (2017), algorithm 3: the same shifted sketch in core and
    factor; the shift is removed from the eigenvalues. Z is Gaussian without power steps, else an
    orthonormal basis of H^power times a Gaussian block. A block of b columns costs (1 + power) b
    product columns; with power steps the first one costs `probe_count` more, since the
    leave-one-out estimate needs independent columns.

    Memory: four (n, l) arrays.
    """

    name = "nystrom"

    def __init__(self, operator: Operator, options: SketchOptions):
        self.operator, self.options = operator, options
        self.drawn = 0
        self.Z = np.empty((operator.n, 0))
        self.Y = np.empty((operator.n, 0))
        self.probes = None

    def width(self, sketch: int) -> int:
        """Columns to ask of `grow` for rank + oversample = `sketch`."""
        return sketch

    @staticmethod
    def columns(sketch: int, power: int, probe_count: int) -> int:
        """Product columns that a sketch of this many columns costs in one block."""
        return (1 + power) * sketch + (probe_count if power else 0)

    @property
    def size(self) -> int:
        """Columns of the sketch so far."""
        return self.Z.shape[1]

    def grow(self, columns: int) -> None:
        """Add a block of columns to the sketch."""
        H = self.operator
        block = test_matrix(H.n, self.drawn, self.drawn + columns, self.options.seed)
        self.drawn += columns
        for _ in range(self.options.power):
            block = orthonormalize(H @ block, H.world, against=self.Z)
        if self.options.power and self.probes is None:
            vectors = probes(H.n, 0, self.options.probe_count, self.options.seed)
            Y = H @ np.hstack([block, vectors])
            self.probes, Y = Probes(vectors, Y[:, columns:]), Y[:, :columns]
        else:
            Y = H @ block
        self.Z, self.Y = np.hstack([self.Z, block]), np.hstack([self.Y, Y])

    def approximation(self) -> Approximation:
        """Raises NumericalError if the core is negative beyond what rounding explains."""
        world = self.operator.world
        scale = np.linalg.norm(self.Z) / np.sqrt(
            self.size
        )  # of one column, over sqrt(n) if orthonormal
        reach = np.linalg.norm(self.Y) / scale
        if not world.decide(reach > 0):
            zeros = np.zeros(self.size)
            return Approximation(zeros, orthonormalize(self.Z, world), range_error=0.0)
        for exponent in range(4):
            shift = np.finfo(self.operator.dtype).eps * reach * 10**exponent
            shifted = self.Y + shift * self.Z
            try:
                inverse = world.on_root(_inverse_factor, self.Z, shifted)
                break
            except np.linalg.LinAlgError:
                continue
        else:
            raise NumericalError("the Nystrom core is negative: the operator is not semidefinite")
        B = shifted @ inverse
        leave_one_out = None
        if self.options.power == 0:
            residuals = np.linalg.norm(B @ inverse.T, axis=0) / np.sum(inverse**2, axis=1)
            leave_one_out = float(np.sqrt(np.mean(residuals**2)))
        Q = orthonormalize(B, world)
        w, *S = world.on_root(lambda: sorted_eigh((R := Q.T @ B) @ R.T))
        return Approximation(np.maximum(w - shift, 0.0), Q @ np.array(S), leave_one_out)


def _inverse_factor(Z: np.ndarray, shifted: np.ndarray) -> np.ndarray:
    """L^-T, where L L^T = Z^T shifted."""
    core = Z.T @ shifted
    lower = np.linalg.cholesky((core + core.T) / 2)
    identity = np.eye(len(core))
    return scipy.linalg.solve_triangular(lower, identity, lower=True, check_finite=False).T
