"""Randomized eigendecomposition: subspace iteration, then Rayleigh-Ritz."""

from dataclasses import replace

import numpy as np

from hesscomp.compression.approximation import Approximation, Probes
from hesscomp.compression.method import Method
from hesscomp.compression.options import SketchOptions
from hesscomp.compression.range import RangeMethod
from hesscomp.dense import LM
from hesscomp.errors import InputError
from hesscomp.operators.operator import Operator
from hesscomp.sketching.orthonormalize import orthonormalize
from hesscomp.sketching.test_matrices import gaussian


class RandomizedEigh(RangeMethod):
    """Halko, Martinsson and Tropp (2011), algorithm 4.4 with 5.3, grown block by block.

    For any symmetric operator; eigenvalues of either sign are kept by magnitude. A block of b
    columns costs (2 + power) b product columns, the first one `probe_count` more; the last b of
    them (the Rayleigh-Ritz step) reduce l x b words only.

    One end of the spectrum is taken from the same range. It is made of the directions of largest
    magnitude, so a weaker end needs power steps; how far the pairs are from eigenpairs is told by
    their residual norms, for which the Rayleigh-Ritz step then reduces n b words.

    Memory: (n, l) for the basis, once more for one end, and (n, b) three times while a block is
    made.
    """

    name = "eigh"
    takes_ends = True

    def __init__(self, operator: Operator, options: SketchOptions):
        super().__init__(operator, options)
        self.T = np.empty((0, 0))  # Q^T H Q
        self.image = np.empty((operator.layout.rows, 0))  # H Q, for one end of the spectrum

    def grow(self, columns: int) -> None:
        self._project(self.extend(columns))

    @classmethod
    def on_range(cls, sketch: Method, Y: np.ndarray) -> "RandomizedEigh":
        """Rayleigh-Ritz on the range of Y, another method's sketch: l + probes columns."""
        new = cls(sketch.operator, sketch.options)
        options = new.options
        new.size = sketch.size
        new.probes = sketch.probes or Probes.draw(
            new.operator, 0, options.probe_count, options.seed
        )
        new.Q = orthonormalize(Y, new.operator.layout)
        new._project(new.Q)
        return new

    def _project(self, block: np.ndarray) -> None:
        if self.options.which == LM:
            side = self.operator.project(self.Q, block)
        else:
            image = self.operator @ block
            self.image = np.hstack([self.image, image])
            side = self.operator.layout.inner(self.Q, image)
        old = len(self.T)
        self.T = np.block([[self.T, side[:old]], [side[:old].T, side[old:]]])

    def approximation(self) -> Approximation:
        layout = self.operator.layout
        if self.options.which == LM:
            return Approximation.of_core(self.Q, self.T, layout, galerkin=True)
        w, S = layout.eigenpairs(self.T, self.options.which)
        U, largest = layout.combine(self.Q, S), np.abs(w).max(initial=0.0)
        norms = np.sqrt(layout.squares(layout.combine(self.image, S) - w * U))
        return Approximation(
            w,
            U,
            layout,
            galerkin=True,
            residual_norms=np.maximum(norms, np.finfo(self.operator.dtype).eps * largest),
            residual_allowed=self.options.accuracy * largest,
        )


class PowerEigh(RandomizedEigh):
    """Algorithm 4.3 with 5.3: powers of H without orthonormalisation in between.

    For reference only: eigenvalues below eps^(1 / (1 + power)) of the largest are lost. Costs as
    `RandomizedEigh`.
    """

    name = "power"
    orthonormal = False


class AdaptiveEigh(RandomizedEigh):
    """Halko, Martinsson and Tropp (2011), algorithm 4.2, in blocks, with 5.3.

    The images of the next `probe_count` Gaussian vectors are made ahead. The basis has not seen
    them, so they tell its error (the bound of lemma 4.1, and the Frobenius norm in the mean), and
    when it has to grow they are its next columns: measuring costs nothing that is not used. In the
    Frobenius norm this is randQB (Martinsson and Voronin 2016; Yu, Gu and Li 2018) stopped by the
    residual of the next block, so that ||H||_F need not be known.

    Any symmetric operator. l columns cost 2 l + probe_count product columns, however they are
    grown; half of them reduce l words only. No power steps (`power` is ignored): made for fast
    decay. Memory: (rows, l) for the basis and (rows, b + probe_count) three times while a block of
    b columns is made.
    """

    name = "adaptive"

    def __init__(self, operator: Operator, options: SketchOptions):
        if options.test_matrix != "gaussian":
            raise InputError(
                f"method adaptive measures with its sketch, which must be gaussian, not "
                f"{options.test_matrix}; use method eigh"
            )
        super().__init__(operator, replace(options, power=0))

    def grow(self, columns: int) -> None:
        H, options, ahead = self.operator, self.options, self.probes
        first = self.size + (options.probe_count if ahead else 0)
        self.size += columns
        vectors = gaussian(H.layout, first, self.size + options.probe_count, options.seed)
        images = H @ vectors
        if ahead is not None:
            vectors = np.hstack([ahead.vectors, vectors])
            images = np.hstack([ahead.images, images])
        block = orthonormalize(images[:, :columns], H.layout, against=self.Q)
        self.Q = np.hstack([self.Q, block])
        self.probes = Probes(vectors[:, columns:].copy(), images[:, columns:].copy())
        self._project(block)
