"""Nystrom approximations: of semidefinite operators with a shift, of others with a cut core."""

from dataclasses import replace

import numpy as np

from hesscomp.compression.approximation import Approximation
from hesscomp.compression.method import Method
from hesscomp.compression.options import SketchOptions
from hesscomp.dense import inverse_cholesky, sorted_eigh
from hesscomp.errors import NumericalError
from hesscomp.operators.operator import Operator
from hesscomp.sketching.orthonormalize import orthonormalize


class Nystrom(Method):
    """F = Y_s (Z^T Y_s)^-1 Y_s^T - s I on its range, Y_s = H Z + s Z, grown block by block.

    Tropp, Yurtsever, Udell and Cevher (2017), algorithm 3: the same shifted sketch in core and
    factor; the shift is removed from the eigenvalues. Z is Gaussian without power steps, else an
    orthonormal basis of H^power times a Gaussian block. A block of b columns costs (1 + power) b
    product columns; with power steps or other test matrices the first one costs `probe_count`
    more, since the leave-one-out estimate needs independent Gaussian columns.

    Memory: five (rows, l) arrays.
    """

    name = "nystrom"
    needs_psd = True
    leave_one_out = True

    def __init__(self, operator: Operator, options: SketchOptions):
        super().__init__(operator, options)
        self.Z = np.empty((operator.layout.rows, 0))
        self.Y = np.empty((operator.layout.rows, 0))

    def grow(self, columns: int) -> None:
        H, block = self.operator, self._draw(columns)
        for _ in range(self.options.power):
            block = orthonormalize(H @ block, H.layout, against=self.Z)
        Y = self._multiply(block)
        self.Z, self.Y = np.hstack([self.Z, block]), np.hstack([self.Y, Y])

    def approximation(self) -> Approximation:
        """Raises NumericalError if the core is negative beyond what rounding explains."""
        world, layout = self.operator.world, self.operator.layout
        scale = layout.norm(self.Z) / np.sqrt(self.size)  # of a column
        reach = layout.norm(self.Y) / scale
        if not world.decide(reach > 0):
            basis = orthonormalize(self.Z, layout)
            return Approximation(np.zeros(self.size), basis, layout, range_error=0.0)
        for exponent in range(4):
            shift = np.finfo(self.operator.dtype).eps * reach * 10**exponent
            shifted = self.Y + shift * self.Z
            try:
                inverse = world.on_root(inverse_cholesky, layout.inner(self.Z, shifted))
                break
            except np.linalg.LinAlgError:
                continue
        else:
            raise NumericalError("the Nystrom core is negative: the operator is not semidefinite")
        B = layout.combine(shifted, inverse)
        range_error = None
        if not self.probed:
            squares = layout.squares(layout.combine(B, inverse.T))
            range_error = float(np.sqrt(np.mean(squares / np.sum(inverse**2, axis=1) ** 2)))
        del shifted
        Q = orthonormalize(B, layout)
        R = layout.inner(Q, B)
        del B
        w, S = layout.eigenpairs(R @ R.T)
        return Approximation(np.maximum(w - shift, 0.0), layout.combine(Q, S), layout, range_error)


class RangeNystrom(Nystrom):
    """Halko, Martinsson and Tropp (2011), algorithm 5.5: Nystrom on a range from 4.1 or 4.4.

    The range of H^(1 + power) Omega takes the place of Omega, so this is `Nystrom` with one power
    more: (2 + power) l product columns and the probes. Its shift is what 5.5 lacks.
    """

    name = "nystrom-range"

    def __init__(self, operator: Operator, options: SketchOptions):
        super().__init__(operator, replace(options, power=options.power + 1))


class IndefiniteNystrom(Nystrom):
    """F = Y (Z^T Y)_k^+ Y^T, Y = H Z, the core cut to its k leading eigenpairs by |w|.

    Nakatsukasa and Park (2023), "Randomized low-rank approximation for symmetric indefinite
    matrices". The core of an indefinite operator may have eigenvalues near zero, and inverting
    them is what breaks plain Nystrom; a core of a sketch wider than k, truncated, has none. k is
    the rank asked for, two thirds of the sketch where a tolerance was. Take an oversample of at
    least half the rank; the factor is checked by probes and may be poor without power steps.

    A block of b columns costs (1 + power) b product columns, the first one `probe_count` more.
    Memory: four (n, l) arrays.
    """

    name = "nystrom-indefinite"
    needs_psd = False
    leave_one_out = False

    def approximation(self) -> Approximation:
        world, layout = self.operator.world, self.operator.layout
        kept = min(self.size, self.options.rank or max(2 * self.size // 3, 1))
        inverse, *V = world.on_root(_truncated_core, layout.inner(self.Z, self.Y), kept)
        B = layout.combine(self.Y, np.array(V))
        Q = orthonormalize(B, layout)
        R = layout.inner(Q, B)
        return Approximation.of_core(Q, (R * inverse) @ R.T, layout)


def _truncated_core(core: np.ndarray, kept: int) -> np.ndarray:
    """Inverses of the `kept` leading eigenvalues (0 for 0), above their eigenvectors."""
    w, *V = sorted_eigh(core)
    nonzero = np.abs(w) > len(w) * np.finfo(np.float64).eps * np.abs(w[0])
    inverse = np.divide(1.0, w, out=np.zeros_like(w), where=nonzero)
    return np.vstack([inverse, np.array(V)])[:, :kept]
