"""One Gaussian sketch of an operator with probes beside it, for whichever format reads it."""

import numpy as np

from hesscomp.compression.approximation import Probes, certificate_by_probes
from hesscomp.factors.certificate import Certificate
from hesscomp.factors.factor import Factor
from hesscomp.operators.operator import Operator
from hesscomp.sketching.test_matrices import gaussian, probes


class GaussianSketch:
    """Y = H Omega, which grows by further columns of the same matrix Omega.

    Where it would have as many columns as H, the matrix is assembled instead, and further columns
    cost no product. `count` probes come with the first block; each `certified` factor is judged by
    fresh ones. Memory: (rows, size + count) numbers, and as many again where Omega is used.
    """

    def __init__(self, operator: Operator, seed: int, count: int):
        self.operator, self.layout = operator, operator.layout
        self.seed, self.count, self.drawn = seed, count, count
        self.Y = np.empty((self.layout.rows, 0))
        self.probes: Probes | None = None
        self.matrix: np.ndarray | None = None
        self.norm = 0.0  # an estimate of ||H||_F
        self.columns = 0  # product columns that it has taken

    @property
    def size(self) -> int:
        return self.Y.shape[1]

    @property
    def exact(self) -> bool:
        """Whether the matrix is assembled."""
        return self.matrix is not None

    @property
    def Omega(self) -> np.ndarray:
        """This rank's rows of the test matrix, made anew."""
        return gaussian(self.layout, 0, self.size, self.seed)

    def grow(self, columns: int) -> None:
        """Add columns; one block product."""
        if not self.exact and self.size + columns + self.count >= self.operator.n:
            self.matrix, self.columns = self.operator.to_dense(), self.columns + self.operator.n
        new = gaussian(self.layout, self.size, self.size + columns, self.seed)
        if self.probes is None:
            vectors = probes(self.layout, 0, self.count, self.seed)
            images = self._images(np.hstack([new, vectors]))
            self.probes = Probes(vectors, images[:, columns:].copy())
            images = images[:, :columns]
        else:
            images = self._images(new)
        self.Y = np.hstack([self.Y, images])
        squares = [self.layout.squares(block) for block in (self.Y, self.probes.images)]
        self.norm = self._agreed(np.sqrt(np.mean(np.concatenate(squares))))

    def _images(self, V: np.ndarray) -> np.ndarray:
        if self.matrix is None:
            self.columns += V.shape[1]
            return self.operator @ V
        matrix = self.matrix
        return self.layout.product(V, lambda whole: matrix @ whole)

    def _agreed(self, number: float) -> float:
        """Return rank 0's number, since ranks may round apart."""
        world = self.layout.world
        return float(number) if world is None else world.broadcast(float(number))

    def fresh(self) -> Probes:
        """Return probes that no sketch and no judgement has seen; `count` product columns."""
        first, self.drawn = self.drawn, self.drawn + self.count
        vectors = probes(self.layout, first, self.drawn, self.seed)
        return Probes(vectors, self._images(vectors))

    def error(self, factor: Factor, measured: Probes | None = None) -> float:
        """Return an estimate of ||H - F||_F."""
        known = measured or self.probes
        assert known is not None  # it has grown
        return float(np.sqrt(np.mean(self._left(factor, known))))

    def _left(self, factor: Factor, measured: Probes) -> np.ndarray:
        """Return ||(H - F) omega||^2 of probes: rank 0's, since ranks may round apart."""
        rest = measured.images - factor @ measured.vectors
        return self.layout.on_root(np.asarray, self.layout.squares(rest))

    def certificate(self, factor: Factor, measured: Probes, tolerance: float | None) -> Certificate:
        """Return what probes say of H - F. The spectral bound is loose: often 50 times the error.

        ||H||_F is estimated by all columns of the sketch.
        """
        squares = self._left(factor, measured)
        met = tolerance is None or bool(np.sqrt(np.mean(squares)) <= tolerance * self.norm)
        return certificate_by_probes(squares, self.norm, converged=met)
