"""Adaptive range finder with Rayleigh-Ritz: fixed precision without knowing the norm."""

from dataclasses import replace

import numpy as np

from hesscomp.compression.approximation import Probes
from hesscomp.compression.eigh import RandomizedEigh
from hesscomp.compression.options import SketchOptions
from hesscomp.errors import InputError
from hesscomp.operators.operator import Operator
from hesscomp.sketching.gaussian import test_matrix
from hesscomp.sketching.orthonormalize import orthonormalize


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
        self.ahead: Probes | None = None

    @property
    def probes(self) -> Probes | None:
        """The vectors that will be sketched next, and their images."""
        return self.ahead

    def grow(self, columns: int) -> None:
        """Take `columns` images into the basis, and make as many new ones."""
        H, drawn, seed = self.operator, self.size, self.options.seed
        ready = 0 if self.ahead is None else self.options.probe_count
        last = drawn + columns + self.options.probe_count
        vectors = test_matrix(H.layout, drawn + ready, last, seed)
        images = H @ vectors
        if self.ahead is not None:
            vectors = np.hstack([self.ahead.vectors, vectors])
            images = np.hstack([self.ahead.images, images])
        block = orthonormalize(images[:, :columns], H.layout, against=self.range.Q)
        self.range.Q = np.hstack([self.range.Q, block])
        self.ahead = Probes(vectors[:, columns:].copy(), images[:, columns:].copy())
        self._project(block)
