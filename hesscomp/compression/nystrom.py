"""Nystrom approximation of positive semidefinite operators, with a stable shift."""

from dataclasses import replace

import numpy as np

from hesscomp.compression.approximation import Approximation
from hesscomp.compression.options import SketchOptions
from hesscomp.compression.range import with_probes
from hesscomp.dense import inverse_cholesky
from hesscomp.errors import NumericalError
from hesscomp.operators.operator import Operator
from hesscomp.sketching.catalogue import draw
from hesscomp.sketching.orthonormalize import orthonormalize


class Nystrom:
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

    def __init__(self, operator: Operator, options: SketchOptions):
        self.operator, self.options = operator, options
        self.drawn = 0
        self.Z = np.empty((operator.layout.rows, 0))
        self.Y = np.empty((operator.layout.rows, 0))
        self.probes = None

    def width(self, sketch: int) -> int:
        """Columns to ask of `grow` for rank + oversample = `sketch`."""
        return sketch

    def columns(self, sketch: int) -> int:
        """Product columns that a sketch of this many columns costs in one block."""
        probes = 0 if self.leave_one_out else self.options.probe_count
        return (1 + self.options.power) * sketch + probes

    @property
    def leave_one_out(self) -> bool:
        """Whether the sketch certifies itself, without probes."""
        return self.options.independent

    @property
    def size(self) -> int:
        """Columns of the sketch so far."""
        return self.Z.shape[1]

    def grow(self, columns: int) -> None:
        """Add a block of columns to the sketch."""
        H, options = self.operator, self.options
        block = draw(options.test_matrix, H.layout, self.drawn, self.drawn + columns, options.seed)
        self.drawn += columns
        for _ in range(options.power):
            block = orthonormalize(H @ block, H.layout, against=self.Z)
        if self.probes is None and not self.leave_one_out:
            Y, self.probes = with_probes(H, block, options)
        else:
            Y = H @ block
        self.Z, self.Y = np.hstack([self.Z, block]), np.hstack([self.Y, Y])

    def approximation(self) -> Approximation:
        """Raises NumericalError if the core is negative beyond what rounding explains."""
        world, layout = self.operator.world, self.operator.layout
        scale = layout.norm(self.Z) / np.sqrt(self.size)  # of a column
        reach = layout.norm(self.Y) / scale
        if not world.decide(reach > 0):
            zeros = np.zeros(self.size)
            basis = orthonormalize(self.Z, layout)
            return Approximation(zeros, basis, layout, range_error=0.0)
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
        if self.leave_one_out:
            squares = layout.squares(layout.combine(B, inverse.T))
            range_error = float(np.sqrt(np.mean(squares / np.sum(inverse**2, axis=1) ** 2)))
        del shifted
        Q = orthonormalize(B, layout)
        R = layout.inner(Q, B)
        del B
        w, S = layout.eigenpairs(R @ R.T)
        U = layout.combine(Q, S)
        return Approximation(np.maximum(w - shift, 0.0), U, layout, range_error)


class RangeNystrom(Nystrom):
    """Halko, Martinsson and Tropp (2011), algorithm 5.5: Nystrom on a range from 4.1 or 4.4.

    The range of H^(1 + power) Omega takes the place of Omega, so this is `Nystrom` with one power
    more: (2 + power) l product columns and the probes. Its shift is what 5.5 lacks.
    """

    name = "nystrom-range"

    def __init__(self, operator: Operator, options: SketchOptions):
        super().__init__(operator, replace(options, power=options.power + 1))
