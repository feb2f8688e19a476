"""Direct singular value decomposition on a range, as a symmetric factor."""

import numpy as np

from hesscomp.compression.approximation import Approximation
from hesscomp.compression.options import SketchOptions
from hesscomp.compression.range import OnRange
from hesscomp.dense import leading_eigenvectors
from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import Layout
from hesscomp.sketching.orthonormalize import orthonormalize


class DirectSvd(OnRange):
    """Halko, Martinsson and Tropp (2011), algorithm 5.1 on a range from 4.1 or 4.4: H ~ Q (Q^T H).

    The product is not symmetric, so its symmetric part stands for it: no farther from H, of rank
    2 l. Any symmetric operator. A block of b columns costs (2 + power) b product columns, all of
    n words. Without power steps the error is certified by leave-one-out, an upper estimate here
    (by at most sqrt(2)) since the symmetric part is nearer; else `probe_count` columns more.

    Memory: seven (n, l) arrays.
    """

    name = "svd"

    def __init__(self, operator: Operator, options: SketchOptions):
        super().__init__(operator, options, probed=not options.independent)
        self.Z = np.empty((operator.layout.rows, 0))  # H Q

    def grow(self, columns: int) -> None:
        """Add a block of columns to the basis, and its products to H Q."""
        block = self.range.extend(columns)
        self.Z = np.hstack([self.Z, self.operator @ block])

    def approximation(self) -> Approximation:
        w, U = symmetric_part(self.range.Q, self.Z, self.operator.layout)
        error = self.range.leave_one_out() if self.options.independent else None
        return Approximation(w, U, self.operator.layout, range_error=error)


def symmetric_part(Q: np.ndarray, Z: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs of (Q Z^T + Z Q^T) / 2 for orthonormal (rows, l) Q and any (rows, l) Z.

    With Z = Q C + W R, W orthonormal beside Q, it is the small matrix [[C + C^T, R^T], [R, 0]] / 2
    in the basis [Q, W]. Returns (j,) and (rows, j) arrays, j = min(2 l, n), by decreasing |w|.
    """
    rows, l = Q.shape
    room = min(l, layout.n - l)
    C = layout.inner(Q, Z)
    rest = Z - layout.combine(Q, C)
    W = np.empty((rows, 0))
    if room:
        W = rest
        if room < l:
            gram = layout.inner(rest, rest)
            W = layout.combine(rest, layout.on_root(leading_eigenvectors, gram, room))
        W = orthonormalize(W, layout, against=Q)
    R = layout.inner(W, rest)
    small = np.block([[C + C.T, R.T], [R, np.zeros((room, room))]]) / 2
    w, S = layout.eigenpairs(small)
    return w, layout.combine(np.hstack([Q, W]), S)
