"""Any symmetric matrix or SciPy operator as an operator of this package."""

import numpy as np
from scipy.sparse.linalg import aslinearoperator

from hesscomp.errors import InputError
from hesscomp.operators.operator import Operator
from hesscomp.parallel.world import World


class MatrixOperator(Operator):
    """Any SciPy-style symmetric operator or matrix that all ranks hold whole.

    Its products are computed on every rank alike and reduce nothing.

    Parameters
    ----------
    matrix : (n, n) array, or what `scipy.sparse.linalg.aslinearoperator` takes
        Symmetric, which is not checked: of an array that is not, products are those of its
        transpose.
    world : World, optional
        Default: this rank alone.
    psd : bool
        Whether it is positive semidefinite; not checked either.

    Raises
    ------
    InputError
        If it is not square.
    """

    def __init__(self, matrix, world: World | None = None, *, psd: bool = False):
        self.matrix = matrix if isinstance(matrix, np.ndarray) else aslinearoperator(matrix)
        rows, columns = self.matrix.shape
        if rows != columns:
            raise InputError(f"a symmetric operator is square; this one is {rows} x {columns}")
        super().__init__(rows, world or World.serial(), psd=psd)

    def _block(self, V):
        return self.layout.product(V, self._whole)

    def _whole(self, V):
        if isinstance(self.matrix, np.ndarray):  # symmetric, and this way round BLAS is faster
            return (V.T @ self.matrix).T.astype(np.float64, copy=False)
        return np.asarray(self.matrix.matmat(V), dtype=np.float64)
