"""Row extraction: a range, then rows of the operator itself in place of a projection."""

from abc import abstractmethod

import numpy as np

from hesscomp.compression.approximation import Approximation
from hesscomp.compression.range import OnRange
from hesscomp.compression.svd import symmetric_part
from hesscomp.parallel.layout import Layout


class RowExtraction(OnRange):
    """Q = X Q(J,:) by an interpolative decomposition: l rows J stand for all (section 5.2).

    H Q is replaced by products with the unit vectors J, whatever Q. The price is accuracy: the
    error of the range is multiplied by up to 1 + sqrt(1 + 4 l (n - l)) (Halko, Martinsson and
    Tropp 2011, lemma 5.1). All l rows are taken anew whenever the basis grows. A block of b columns
    costs (1 + power) b product columns, the rows l, the probes `probe_count`.
    """

    def grow(self, columns: int) -> None:
        """Add a block of columns to the basis and take the rows that the basis points at."""
        self.range.extend(columns)
        Q, layout = self.range.Q, self.operator.layout
        J = pivots(Q, layout)
        self.inverse = layout.on_root(np.linalg.inv, layout.take(Q, J))  # X = Q Q(J,:)^-1
        self._extract(layout.units(J))

    @abstractmethod
    def _extract(self, units: np.ndarray) -> None:
        """Take these rows of the operator, which are unit vectors' products."""


class RowEigh(RowExtraction):
    """Algorithm 5.4: H ~ X H(J,J) X^T, an eigendecomposition from an l x l piece of H.

    The rows reduce l^2 words only. Memory: two (n, l) arrays beside those of the range finder.
    """

    name = "row-eigh"

    def _extract(self, units):
        self.core = self.operator.project(units, units)

    def approximation(self) -> Approximation:
        T = self.inverse @ self.core @ self.inverse.T
        layout = self.operator.layout
        w, S = layout.eigenpairs(T)
        return Approximation(w, layout.combine(self.range.Q, S), layout)


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
        return Approximation(*symmetric_part(self.range.Q, Z, layout), layout)


def pivots(Q: np.ndarray, layout: Layout) -> np.ndarray:
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
