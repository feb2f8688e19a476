"""One Gaussian sketch of an operator with probes beside it, for whichever format reads it."""

from collections.abc import Callable

import numpy as np

from hesscomp.compression.approximation import Probes, certificate_by_probes
from hesscomp.factors.certificate import Certificate
from hesscomp.factors.factor import Factor
from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import Layout
from hesscomp.sketching.test_matrices import gaussian, probes

AT_ONCE = 2**26  # numbers of a block that is multiplied at once
LEAST = 16  # columns of such a block


class GaussianSketch:
    """Y = H Omega, which grows by further columns of the same matrix Omega.

    Where it would have as many columns as H, the matrix is assembled instead, and further columns
    cost no product. `count` probes come with the first block; each `certified` factor is judged by
    fresh ones. Memory: (rows, size + count) numbers, and what a product of `AT_ONCE` numbers takes.

    `layout` is that of the rows of Y: by default the operator's.
    """

    def __init__(self, operator: Operator, seed: int, count: int, layout: Layout | None = None):
        self.operator, self.layout = operator, layout or operator.layout
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

    def seen(self) -> np.ndarray:
        """Return this rank's rows of Omega as a product sees them: in the operator's precision."""
        out = np.empty((self.layout.rows, self.size), self.operator.dtype)
        for at in range(0, self.size, LEAST):
            last = min(at + LEAST, self.size)
            out[:, at:last] = gaussian(self.layout, at, last, self.seed)
        return out

    def grow(self, columns: int) -> None:
        """Add columns; one block product."""
        if not self.exact and self.size + columns + self.count >= self.operator.n:
            self.matrix, self.columns = self.operator.to_dense(), self.columns + self.operator.n
        first, more = self.size, self.count if self.probes is None else 0
        images = np.empty((self.layout.rows, columns + more))
        width = max(AT_ONCE // self.operator.n, LEAST)
        for at in range(0, columns + more, width):
            of = slice(at, min(at + width, columns + more))

            def drawn(layout: Layout, of=of) -> np.ndarray:
                tested = gaussian(
                    layout, first + min(of.start, columns), first + min(of.stop, columns), self.seed
                )
                beyond = max(of.start - columns, 0), max(of.stop - columns, 0)
                return np.hstack([tested, probes(layout, *beyond, self.seed)])

            images[:, of] = self._images(drawn)
        if self.probes is None:
            vectors = probes(self.layout, 0, self.count, self.seed)
            self.probes = Probes(vectors, images[:, columns:].copy())
        self.Y = np.hstack([self.Y, images]) if first else images[:, :columns]
        squares = [self.layout.squares(block) for block in (self.Y, self.probes.images)]
        self.norm = self._agreed(np.sqrt(np.mean(np.concatenate(squares))))

    def _images(self, drawn: Callable[[Layout], np.ndarray]) -> np.ndarray:
        """Return this sketch's rows of the images of vectors, which `drawn` makes in a layout."""
        if self.matrix is not None:
            matrix = self.matrix
            return self.layout.product(drawn(self.layout), lambda whole: matrix @ whole)
        Y = self.operator @ drawn(self.operator.layout)
        self.columns += Y.shape[1]
        return Y if self.layout is self.operator.layout else self.layout.local(Y)

    def _agreed(self, number: float) -> float:
        """Return rank 0's number, since ranks may round apart."""
        world = self.layout.world
        return float(number) if world is None else world.broadcast(float(number))

    def fresh(self) -> Probes:
        """Return probes that no sketch and no judgement has seen; `count` product columns."""
        first, self.drawn = self.drawn, self.drawn + self.count

        def drawn(layout: Layout) -> np.ndarray:
            return probes(layout, first, self.drawn, self.seed)

        return Probes(drawn(self.layout), self._images(drawn))

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
