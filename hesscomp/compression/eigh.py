"""Randomized eigendecomposition: subspace iteration, then Rayleigh-Ritz."""

import numpy as np

from hesscomp.compression.approximation import Approximation, Probes, sorted_eigh
from hesscomp.compression.options import SketchOptions
from hesscomp.curvature.operator import Operator
from hesscomp.sketching.gaussian import probes, test_matrix
from hesscomp.sketching.orthonormalize import orthonormalize


class RandomizedEigh:
    """Halko, Martinsson and Tropp (2011), algorithm 4.4 with 5.3, grown block by block.

    For any symmetric operator; eigenvalues of either sign are kept by magnitude. A block of b
    columns costs (2 + power) b product columns, the first one `probe_count` more; the last b of
    them (the Rayleigh-Ritz step) reduce l x b words only.

    Memory: (n, l) for the basis and (n, b) three times while a block is made.
    """

    name = "eigh"

    def __init__(self, operator: Operator, options: SketchOptions):
        self.operator, self.options = operator, options
        self.drawn = 0
        self.Q = np.empty((operator.n, 0))
        self.T = np.empty((0, 0))
        self.probes = None

    def width(self, sketch: int) -> int:
        """Columns to ask of `grow` for rank + oversample = `sketch`."""
        return sketch

    @staticmethod
    def columns(sketch: int, power: int, probe_count: int) -> int:
        """Product columns that a sketch of this many columns costs in one block."""
        return (2 + power) * sketch + probe_count

    @property
    def size(self) -> int:
        """Columns of the sketch so far."""
        return self.Q.shape[1]

    def grow(self, columns: int) -> None:
        """Add a block of columns to the basis."""
        H, world = self.operator, self.operator.world
        block = test_matrix(H.n, self.drawn, self.drawn + columns, self.options.seed)
        self.drawn += columns
        for step in range(self.options.power + 1):
            if (
                step == self.options.power and self.probes is None
            ):  # probes ride in the last product
                vectors = probes(H.n, 0, self.options.probe_count, self.options.seed)
                Y = H @ np.hstack([block, vectors])
                self.probes = Probes(vectors, Y[:, columns:])
                Y = Y[:, :columns]
            else:
                Y = H @ block
            block = orthonormalize(Y, world, against=self.Q)
        self._append(block)

    @classmethod
    def on_range(cls, sketch) -> "RandomizedEigh":
        """Rayleigh-Ritz on the range of another method's sketch (its `Y`): l + probes columns."""
        new = cls(sketch.operator, sketch.options)
        new.drawn = sketch.drawn
        new.probes = sketch.probes or Probes.draw(
            new.operator, 0, new.options.probe_count, new.options.seed
        )
        new._append(orthonormalize(sketch.Y, new.operator.world))
        return new

    def _append(self, block: np.ndarray) -> None:
        """Add orthonormal columns to the basis and their products to T = Q^T H Q."""
        H = self.operator
        self.Q = np.hstack([self.Q, block])
        side = H.project(self.Q, block)
        old = len(self.T)
        self.T = np.block([[self.T, side[:old]], [side[:old].T, side[old:]]])

    def approximation(self) -> Approximation:
        w, *S = self.operator.world.on_root(sorted_eigh, self.T)
        return Approximation(w, self.Q @ np.array(S), galerkin=True)
