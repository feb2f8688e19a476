"""A sketch of an operator that arrives in pieces or drifts."""

import time

import numpy as np

from hesscomp.compression.approximation import Probes
from hesscomp.compression.one_pass import from_sketch
from hesscomp.errors import InputError
from hesscomp.factors.lowrank import LowRank
from hesscomp.factors.provenance import Provenance
from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import Layout
from hesscomp.sketching.test_matrices import gaussian, probes


class StreamingSketch:
    """Y = H Omega for H = sum of weights times operators, none of which is seen twice.

    A sketch is linear in the operator: data batches add up, and a factor below one forgets an old
    Hessian. The factor comes from algorithm 5.6 of Halko, Martinsson and Tropp (2011) with a
    symmetric least-squares core on a truncated range; see Tropp, Yurtsever, Udell and Cevher (2019)
    for streaming sketches. Operators may have either sign.

    Parameters
    ----------
    n : int
        Order of the operators.
    columns : int
        Of the sketch; two to three times the rank to be asked for.
    seed : int
    probe_count : int
        Columns that measure the error and do not enter the factor.

    Notes
    -----
    An `update` costs columns + probe_count product columns in one block product. Memory: one
    (rows, columns + probe_count) array, four times while a factor is made.

    Examples
    --------
    >>> import numpy as np
    >>> from hesscomp.operators.matrix import MatrixOperator
    >>> H = np.diag([4.0, -2.0, 1.0, 0.0, 0.0, 0.0])
    >>> sketch = StreamingSketch(6, columns=5)
    >>> sketch.update(MatrixOperator(H))
    >>> sketch.update(MatrixOperator(H), weight=0.5, keep=0.5)
    >>> np.round(sketch.factor(3).eigenvalues, 8)
    array([ 4., -2.,  1.])
    """

    def __init__(self, n: int, columns: int, seed: int = 0, probe_count: int = 8):
        if not 1 <= columns <= n:
            raise InputError(f"a sketch of n = {n} has 1 to {n} columns, not {columns}")
        self.n, self.columns, self.seed, self.probe_count = n, columns, seed, probe_count
        self.layout: Layout | None = None
        self.images: np.ndarray = np.zeros(())
        self.dtype, self.updates, self.seconds = "", 0, 0.0

    def _vectors(self, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
        """Return this rank's rows of test matrix and probes, made anew."""
        Omega = gaussian(layout, 0, self.columns, self.seed)
        return Omega, probes(layout, 0, self.probe_count, self.seed)

    def update(self, operator: Operator, weight: float = 1.0, keep: float = 1.0) -> None:
        """H <- keep H + weight operator. Collective; in the layout of the first operator."""
        if operator.n != self.n:
            raise InputError(f"the sketch has n = {self.n}, the operator n = {operator.n}")
        start = time.perf_counter()
        self.layout, self.dtype = self.layout or operator.layout, self.dtype or operator.dtype.name
        new = operator.in_layout(self.layout) @ np.hstack(self._vectors(self.layout))
        self.images = keep * self.images + weight * new
        self.updates += 1
        self.seconds += time.perf_counter() - start

    def factor(self, rank: int) -> LowRank:
        """Return a certified factor of what the sketch has seen; no product. Collective.

        Raises InputError before the first update, and for a rank above the number of columns.
        """
        if self.layout is None:
            raise InputError("the sketch has seen no operator yet; call update first")
        if not 1 <= rank <= self.columns:
            raise InputError(f"a sketch of {self.columns} columns has no factor of rank {rank}")
        from hesscomp.parallel.world import World  # MPI, which a plan does not load

        layout, world = self.layout, self.layout.world or World.serial()
        Omega, vectors = self._vectors(layout)
        approximation = from_sketch(layout, Omega, self.images[:, : self.columns], rank)
        measured = Probes(vectors, self.images[:, self.columns :])
        return LowRank(
            approximation.eigenvalues,
            approximation.eigenvectors,
            certificate=approximation.certificate(rank, measured),
            provenance=Provenance(
                method="streaming",
                rank_requested=rank,
                oversample=self.columns - rank,
                power=0,
                seed=self.seed,
                dtype=self.dtype,
                layout=layout.name,
                ranks=world.size,
                threads=world.threads,
                reproducible=world.reproducible,
                columns=self.updates * self.images.shape[1],
                passes=self.updates,
                seconds=self.seconds,
            ),
            layout=layout,
        )
