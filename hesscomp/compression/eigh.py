"""Randomized eigendecomposition: subspace iteration, then Rayleigh-Ritz."""

import numpy as np

from hesscomp.compression.approximation import Approximation, Probes
from hesscomp.compression.options import SketchOptions
from hesscomp.compression.range import OnRange
from hesscomp.operators.operator import Operator
from hesscomp.sketching.orthonormalize import orthonormalize


class RandomizedEigh(OnRange):
    """Halko, Martinsson and Tropp (2011), algorithm 4.4 with 5.3, grown block by block.

    For any symmetric operator; eigenvalues of either sign are kept by magnitude. A block of b
    columns costs (2 + power) b product columns, the first one `probe_count` more; the last b of
    them (the Rayleigh-Ritz step) reduce l x b words only.

    Memory: (n, l) for the basis and (n, b) three times while a block is made.
    """

    name = "eigh"
    orthonormal = True

    def __init__(self, operator: Operator, options: SketchOptions):
        super().__init__(operator, options, orthonormal=self.orthonormal)
        self.T = np.empty((0, 0))

    def grow(self, columns: int) -> None:
        """Add a block of columns to the basis, and its products to T = Q^T H Q."""
        self._project(self.range.extend(columns))

    @classmethod
    def on_range(cls, sketch) -> "RandomizedEigh":
        """Rayleigh-Ritz on the range of another method's sketch (its `Y`): l + probes columns."""
        new = cls(sketch.operator, sketch.options)
        options = new.options
        new.range.drawn = sketch.drawn
        new.range.probes = sketch.probes or Probes.draw(
            new.operator, 0, options.probe_count, options.seed
        )
        new.range.Q = orthonormalize(sketch.Y, new.operator.layout)
        new._project(new.range.Q)
        return new

    def _project(self, block: np.ndarray) -> None:
        side = self.operator.project(self.range.Q, block)
        old = len(self.T)
        self.T = np.block([[self.T, side[:old]], [side[:old].T, side[old:]]])

    def approximation(self) -> Approximation:
        layout = self.operator.layout
        w, S = layout.eigenpairs(self.T)
        return Approximation(w, layout.combine(self.range.Q, S), layout, galerkin=True)


class PowerEigh(RandomizedEigh):
    """Algorithm 4.3 with 5.3: powers of H without orthonormalisation in between.

    For reference only: eigenvalues below eps^(1 / (1 + power)) of the largest are lost. Costs as
    `RandomizedEigh`.
    """

    name = "power"
    orthonormal = False
