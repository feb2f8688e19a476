"""One Gaussian sketch of an operator with probes beside it, for whichever format reads it."""

import numpy as np

from hesscomp.compression.approximation import Probes, certificate_by_probes
from hesscomp.factors.certificate import Certificate
from hesscomp.factors.factor import Factor
from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import Layout
from hesscomp.parallel.ledger import Ledger
from hesscomp.sketching.test_matrices import gaussian, probes

LEAST = 16  # columns that are multiplied at once
AT_ONCE = 2**22  # numbers of each of these, in as many more columns


class GaussianSketch:
    """Y = H Omega, which grows by further columns of the same matrix Omega.

    Where it would have as many columns as H, the matrix is assembled instead, and further columns
    cost no product. `count` probes come with the first block; each `certified` factor is judged by
    fresh ones.

    `layout` is that of the rows of Y, by default the operator's. Memory: the rows of Omega as
    products see them (`seen`) and those of Y (`images`), both in the operator's precision, since
    float32 products tell no more, and a product of a few columns at a time.
    """

    def __init__(self, operator: Operator, seed: int, count: int, layout: Layout | None = None):
        self.operator, self.layout = operator, layout or operator.layout
        self.seed, self.count, self.drawn = seed, count, count
        self.seen = np.empty((self.layout.rows, 0), operator.dtype)
        self.images = self.seen.copy()
        self.squares = np.empty(0)  # of the columns of Y and of the first probes
        self.probes: Probes | None = None
        self.matrix: np.ndarray | None = None
        self.norm = 0.0  # an estimate of ||H||_F
        self.columns = 0  # product columns that it has taken

    @property
    def size(self) -> int:
        return self.images.shape[1]

    @property
    def exact(self) -> bool:
        """Whether the matrix is assembled."""
        return self.matrix is not None

    @property
    def known(self) -> Operator:
        """The operator; where its matrix is assembled, one with products that are not counted."""
        if self.matrix is None:
            return self.operator
        from hesscomp.operators.matrix import MatrixOperator  # here: it loads MPI

        world = self.operator.world.with_ledger(Ledger())
        known = MatrixOperator(self.matrix, world, psd=self.operator.psd)
        known.layout = self.operator.layout
        return known

    @property
    def Y(self) -> np.ndarray:
        """This rank's rows of H Omega, as float64."""
        return self.images.astype(np.float64, copy=False)

    @property
    def Omega(self) -> np.ndarray:
        """This rank's rows of the test matrix, made anew."""
        return gaussian(self.layout, 0, self.size, self.seed)

    def grow(self, columns: int) -> None:
        """Add columns, by block products of at least `LEAST` columns."""
        if not self.exact and self.size + columns + self.count >= self.operator.n:
            self.matrix, self.columns = self.operator.to_dense(), self.columns + self.operator.n
        first, more = self.size, self.count if self.probes is None else 0
        seen = np.empty((self.layout.rows, columns), self.seen.dtype)
        images, measured = np.empty_like(seen), []
        for at in range(0, columns + more, width := LEAST * max(AT_ONCE // self.operator.n, 1)):
            of = slice(min(at, columns), min(at + width, columns))
            beyond = max(at - columns, 0), max(min(at + width, columns + more) - columns, 0)
            both = (
                gaussian(self.layout, first + of.start, first + of.stop, self.seed),
                probes(self.layout, *beyond, self.seed),
            )
            drawn = [part for part in both if part.shape[1]]
            V = drawn[0] if len(drawn) == 1 else np.hstack(drawn)
            HV = self._images(V)
            tested = of.stop - of.start
            seen[:, of], images[:, of] = V[:, :tested], HV[:, :tested]
            measured.append(HV[:, tested:].copy())
            self.squares = np.concatenate([self.squares, self.layout.squares(HV)])
        if self.probes is None:
            vectors = probes(self.layout, 0, self.count, self.seed)
            self.probes = Probes(vectors, np.hstack(measured))
        self.images, self.seen = (
            np.hstack([old, new]) if first else new
            for old, new in ((self.images, images), (self.seen, seen))
        )
        self.norm = self._agreed(np.sqrt(np.mean(self.squares)))

    def let_go(self) -> None:
        """Drop the columns; the probes stay."""
        self.images, self.seen = self.images[:, :0].copy(), self.seen[:, :0].copy()

    def _images(self, V: np.ndarray) -> np.ndarray:
        if self.matrix is not None:
            matrix = self.matrix
            return self.layout.product(V, lambda whole: matrix @ whole)
        self.columns += V.shape[1]
        if self.layout is self.operator.layout:
            return self.operator @ V
        return self.layout.local(self.operator @ self.layout.whole(V))

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
