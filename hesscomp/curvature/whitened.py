"""An operator in the coordinates of an inner product: L^-1 H L^-T for B = L L^T."""

import numpy as np
import scipy.linalg
import scipy.sparse

from hesscomp.errors import InputError
from hesscomp.operators.operator import Operator


class Whitened(Operator):
    """L^-1 H L^-T, whose eigenpairs (w, v) give those of H u = w B u: u = L^-T v.

    Parameters
    ----------
    base : Operator
        H.
    B : (n,) or (n, n) array, or SciPy sparse matrix
        Symmetric positive definite, the same on all ranks; a vector is a diagonal. A sparse matrix
        is held as a dense one, unless it is diagonal.

    Raises
    ------
    InputError
        If B does not fit or is not positive definite.

    Notes
    -----
    Costs as H, and n^2 operations a column for a matrix B, which is factorised once (n^3 / 3, on
    every rank). A projection reduces as few words as that of H.
    """

    parts = ("base",)

    def __init__(self, base: Operator, B):
        super().__init__(base.n, base.world, psd=base.psd, dtype=base.dtype)
        self.layout = base.layout
        self.base, self.passes = base, base.passes
        if scipy.sparse.issparse(B):
            diagonal = B.diagonal()
            alone = (B - scipy.sparse.diags_array(diagonal)).count_nonzero() == 0
            B = diagonal if alone and B.shape[0] == B.shape[1] else B.toarray()
        B = np.asarray(B, dtype=np.float64)
        if B.shape not in ((base.n,), (base.n, base.n)):
            raise InputError(f"B of shape {B.shape} does not fit an operator of n = {base.n}")
        if not np.isfinite(B).all() or (B.ndim == 2 and not np.allclose(B, B.T, rtol=1e-10)):
            raise InputError("B must be finite and symmetric")
        try:
            self.L = base.world.on_root(_factorised, B)
        except np.linalg.LinAlgError:
            raise InputError("B is not positive definite") from None

    def backward(self, V: np.ndarray) -> np.ndarray:
        """Return L^-T V for an (n, k) array: from whitened coordinates to the operator's own."""
        return self._solve(V, transposed=True)

    def _solve(self, V, transposed):
        if self.L.ndim == 1:
            return V / self.layout.local(self.L)[:, None]
        if self.layout.rows != self.n:
            raise InputError(
                "in the row layout B must be a diagonal, (n,); a matrix needs all rows"
            )
        return scipy.linalg.solve_triangular(
            self.L, V, trans="T" if transposed else "N", lower=True, check_finite=False
        )

    def block_product(self, V):
        return self._solve(self.base.block_product(self.backward(V)), transposed=False)

    def _project(self, Q, V):
        return self.base._project(self.backward(Q), self.backward(V))


def _factorised(B: np.ndarray) -> np.ndarray:
    if B.ndim == 2:
        return np.linalg.cholesky(B)
    if not np.all(B > 0):
        raise np.linalg.LinAlgError("a diagonal entry is not positive")
    return np.sqrt(B)
