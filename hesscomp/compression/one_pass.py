"""One-pass eigendecomposition: everything from one sketch, for data that pass by once."""

from dataclasses import replace

import numpy as np

from hesscomp.compression.approximation import Approximation
from hesscomp.compression.method import Method
from hesscomp.compression.options import SketchOptions
from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import Layout
from hesscomp.sketching.orthonormalize import orthonormalize
from hesscomp.sketching.test_matrices import draw


class OnePass(Method):
    """Halko, Martinsson and Tropp (2011), algorithm 5.6: T (Q^T Omega) = Q^T Y by least squares.

    The range is truncated to the leading left singular vectors of Y = H Omega, so that the system
    for T has more columns than unknowns; T is the symmetric least-squares solution. As many
    vectors are kept as the rank asked for (two thirds of the sketch where a tolerance was). For
    any symmetric operator. One product of l + probes columns, no power steps (`power` is ignored).
    A tall oversample helps: l about twice the rank.

    Memory: Omega is made again, so three (n, l) arrays.
    """

    name = "one-pass"

    def __init__(self, operator: Operator, options: SketchOptions):
        super().__init__(operator, replace(options, power=0))
        self.Y = np.empty((operator.layout.rows, 0))

    def grow(self, columns: int) -> None:
        self.Y = np.hstack([self.Y, self._multiply(self._draw(columns))])

    def approximation(self) -> Approximation:
        H, options = self.operator, self.options
        Omega = draw(options.test_matrix, H.layout, 0, self.size, options.seed)
        return from_sketch(H.layout, Omega, self.Y, options.rank or max(2 * self.size // 3, 1))


def from_sketch(layout: Layout, Omega: np.ndarray, Y: np.ndarray, kept: int) -> Approximation:
    """Algorithm 5.6 for Y = H Omega, both (n, l), on `kept` leading left singular vectors of Y."""
    Q = orthonormalize(Y, layout)
    R = layout.inner(Q, Y)
    Q = layout.combine(Q, layout.on_root(lambda: np.linalg.svd(R)[0][:, :kept]))
    T = layout.on_root(_symmetric_core, layout.inner(Q, Omega), layout.inner(Q, Y))
    return Approximation.of_core(Q, T, layout)


def _symmetric_core(G: np.ndarray, M: np.ndarray) -> np.ndarray:
    """The symmetric T with the smallest ||T G - M||_F, for (k, l) G and M, l >= k.

    Its normal equations T (G G^T) + (G G^T) T = M G^T + G M^T are diagonal in the left singular
    vectors of G. What G does not see (its columns may be dependent where n is small) is left 0.
    """
    V, s, _ = np.linalg.svd(G, full_matrices=False)
    right = V.T @ (M @ G.T) @ V
    squares = s[:, None] ** 2 + s**2
    seen = squares > len(s) * np.finfo(np.float64).eps * squares.max(initial=0.0)
    core = np.divide(right + right.T, squares, out=np.zeros_like(right), where=seen)
    return V @ core @ V.T
