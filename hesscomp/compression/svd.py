"""Direct singular value decomposition and row extraction on a range, as symmetric factors."""

from abc import abstractmethod

import numpy as np

from hesscomp.compression.approximation import Approximation
from hesscomp.compression.options import SketchOptions
from hesscomp.compression.range import RangeMethod
from hesscomp.dense import leading_eigenvectors
from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import Layout
from hesscomp.sketching.orthonormalize import orthonormalize


class DirectSvd(RangeMethod):
    """Halko, Martinsson and Tropp (2011), algorithm 5.1 on a range from 4.1 or 4.4: H ~ Q (Q^T H).

    The product is not symmetric, so its symmetric part stands for it: no farther from H, of rank
    2 l. Any symmetric operator. A block of b columns costs (2 + power) b product columns, all of
    n words. Without power steps the error is certified by leave-one-out, an upper estimate here
    (by at most sqrt(2)) since the symmetric part is nearer; else `probe_count` columns more.

    Memory: seven (n, l) arrays.
    """

    name = "svd"
    leave_one_out = True

    def __init__(self, operator: Operator, options: SketchOptions):
        super().__init__(operator, options)
        self.Z = np.empty((operator.layout.rows, 0))  # H Q

    def grow(self, columns: int) -> None:
        self.Z = np.hstack([self.Z, self.operator @ self.extend(columns)])

    def approximation(self) -> Approximation:
        layout = self.operator.layout
        w, U = _symmetric_part(self.Q, self.Z, layout)
        return Approximation(w, U, layout, self.range_error())


class RowExtraction(RangeMethod):
    """Q = X Q(J,:) by an interpolative decomposition: l rows J stand for all (section 5.2).

    H Q is replaced by products with the unit vectors J, whatever Q. The price is accuracy: the
    error of the range is multiplied by up to 1 + sqrt(1 + 4 l (n - l)) (Halko, Martinsson and
    Tropp 2011, lemma 5.1). All l rows are taken anew whenever the basis grows. A block of b columns
    costs (1 + power) b product columns, the rows l, the probes `probe_count`.
    """

    def grow(self, columns: int) -> None:
        self.extend(columns)
        Q, layout = self.Q, self.operator.layout
        J = _pivots(Q, layout)
        self.inverse = layout.on_root(np.linalg.inv, layout.take(Q, J))  # X = Q Q(J,:)^-1
        self._extract(layout.units(J))

    @abstractmethod
    def _extract(self, units: np.ndarray) -> None:
        """Take the operator's rows J, its products with these unit vectors."""


class RowEigh(RowExtraction):
    """Algorithm 5.4: H ~ X H(J,J) X^T, an eigendecomposition from an l x l piece of H.

    The rows reduce l^2 words only. Memory: two (n, l) arrays beside those of the range finder.
    """

    name = "row-eigh"

    def _extract(self, units):
        self.core = self.operator.project(units, units)

    def approximation(self) -> Approximation:
        core = self.inverse @ self.core @ self.inverse.T
        return Approximation.of_core(self.Q, core, self.operator.layout)


class RowSvd(RowExtraction):
    """Algorithm 5.2: H ~ X H(J,:), its symmetric part, of rank 2 l (see `DirectSvd`).

    The rows reduce n l words. Memory: seven (n, l) arrays.
    """

    name = "row-svd"

    def _extract(self, units):
        self.rows = self.operator @ units

    def approximation(self) -> Approximation:
        layout = self.operator.layout
        Z = layout.combine(self.rows, self.inverse.T)
        return Approximation(*_symmetric_part(self.Q, Z, layout), layout)


def _symmetric_part(Q: np.ndarray, Z: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
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


def _pivots(Q: np.ndarray, layout: Layout) -> np.ndarray:
    """The rows that QR with column pivoting of Q^T chooses (Businger and Golub 1965): l indices.

    Each is the row farthest from the span of those before it. 2 n l^2 operations; in the row layout
    l reductions of l words.
    """
    l = Q.shape[1]
    left = np.einsum("ij,ij->i", Q, Q)  # squared distances of the rows from those chosen
    chosen, basis = np.empty(l, int), np.zeros((l, l))
    for j in range(l):
        chosen[j] = layout.argmax(left)
        row = layout.take(Q, chosen[j : j + 1])[0]
        for _ in range(2):
            row = row - basis[:j].T @ (basis[:j] @ row)
        basis[j] = row / np.linalg.norm(row)
        left -= (Q @ basis[j]) ** 2
        at = chosen[j] - layout.start
        if 0 <= at < layout.rows:
            left[at] = -np.inf
    return chosen
