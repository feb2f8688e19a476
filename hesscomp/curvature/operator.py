"""The one door to a symmetric operator: ``H @ V`` for a block of columns.

`Operator` validates, reshapes and counts; an operator writes `_block`, the product with an (n, k)
array. Shifts, sums and multiples come free, and SciPy goes in and out.
"""

from abc import ABC, abstractmethod

import numpy as np
import scipy.sparse.linalg

from hesscomp.errors import InputError, NumericalError
from hesscomp.parallel.world import World


class Operator(ABC):
    """A symmetric n x n operator over the ranks of a world.

    Collective: all ranks hold the same (n, k) array (the replicated layout) and call together.

    Parameters
    ----------
    n : int
        Order of the operator.
    world : World
    psd : bool
        Whether the operator is positive semidefinite. Declared, never guessed.
    dtype : str
        Precision of the products, "float32" or "float64"; results are float64 arrays.
    """

    passes = 1  # sweeps over the data that one block product costs

    def __init__(self, n: int, world: World, *, psd: bool, dtype: str = "float64"):
        self.n = n
        self.world = world
        self.psd = psd
        self.dtype = np.dtype(dtype)

    @property
    def shape(self) -> tuple[int, int]:
        return (self.n, self.n)

    @abstractmethod
    def _block(self, V: np.ndarray) -> np.ndarray:
        """H V for a validated float64 (n, k) array, as float64."""

    def _project(self, Q: np.ndarray, V: np.ndarray) -> np.ndarray:
        return Q.T @ self._block(V)

    def __matmul__(self, V: np.ndarray) -> np.ndarray:
        """H V for an (n,) or (n, k) array; one reduction of n k words."""
        V = self._checked(V)
        block = V[:, None] if V.ndim == 1 else V
        return self._counted(self._block(block), block.shape[1]).reshape(V.shape)

    def project(self, Q: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Q^T H V for (n, q) and (n, k) arrays; reduces q k words instead of n k."""
        Q, V = self._checked(Q), self._checked(V)
        return self._counted(self._project(Q, V), V.shape[1])

    def _counted(self, out: np.ndarray, columns: int) -> np.ndarray:
        """A product that is finite, entered in the ledger."""
        self.world.ledger.product(columns, self.passes)
        if not np.isfinite(out).all():
            raise NumericalError(
                f"a product with {type(self).__name__} is not finite; check the scale of the data "
                f"and the point, or take dtype float64 (now {self.dtype})"
            )
        return out

    def _checked(self, V) -> np.ndarray:
        V = np.asarray(V, dtype=np.float64)
        if V.ndim not in (1, 2) or V.shape[0] != self.n:
            raise InputError(
                f"{type(self).__name__} of order {self.n} cannot multiply an array of shape "
                f"{V.shape}; pass ({self.n},) or ({self.n}, k)"
            )
        return V

    def to_dense(self, panel: int = 512) -> np.ndarray:
        """The (n, n) matrix, by products with panels of unit vectors."""
        panels = range(0, self.n, panel)
        unit = (np.eye(self.n, min(panel, self.n - start), -start) for start in panels)
        dense = np.concatenate([self @ V for V in unit], axis=1)
        return (dense + dense.T) / 2

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """A SciPy view; its products are collective like this operator's."""
        return scipy.sparse.linalg.LinearOperator(
            self.shape,
            matvec=lambda v: self @ np.reshape(v, -1),
            rmatvec=lambda v: self @ np.reshape(v, -1),
            matmat=lambda V: self @ V,
            rmatmat=lambda V: self @ V,
            dtype=np.float64,
        )

    def shifted(self, shift: float) -> "Operator":
        """H + shift I."""
        return Shifted(self, shift)

    def __add__(self, other: "Operator") -> "Operator":
        return Sum(self, other)

    def __mul__(self, factor: float) -> "Operator":
        return Scaled(self, factor)

    __rmul__ = __mul__


class Shifted(Operator):
    """H + shift I, at the cost of H."""

    def __init__(self, base: Operator, shift: float):
        super().__init__(base.n, base.world, psd=base.psd and shift >= 0, dtype=base.dtype)
        self.base, self.shift, self.passes = base, shift, base.passes

    def _block(self, V):
        return self.base._block(V) + self.shift * V

    def _project(self, Q, V):
        return self.base._project(Q, V) + self.shift * (Q.T @ V)


class Scaled(Operator):
    """factor H, at the cost of H."""

    def __init__(self, base: Operator, factor: float):
        super().__init__(base.n, base.world, psd=base.psd and factor >= 0, dtype=base.dtype)
        self.base, self.factor, self.passes = base, factor, base.passes

    def _block(self, V):
        return self.factor * self.base._block(V)

    def _project(self, Q, V):
        return self.factor * self.base._project(Q, V)


class Sum(Operator):
    """H + G for two operators of one order; costs both."""

    def __init__(self, left: Operator, right: Operator):
        if left.n != right.n:
            raise InputError(f"cannot add operators of orders {left.n} and {right.n}")
        dtype = np.result_type(left.dtype, right.dtype)
        super().__init__(left.n, left.world, psd=left.psd and right.psd, dtype=dtype)
        self.left, self.right, self.passes = left, right, left.passes + right.passes

    def _block(self, V):
        return self.left._block(V) + self.right._block(V)

    def _project(self, Q, V):
        return self.left._project(Q, V) + self.right._project(Q, V)


class MatrixOperator(Operator):
    """Any SciPy-style symmetric operator or matrix that all ranks hold whole.

    Its products are computed on every rank alike and reduce nothing.
    """

    def __init__(self, matrix, world: World | None = None, *, psd: bool = False):
        self.matrix = scipy.sparse.linalg.aslinearoperator(matrix)
        rows, columns = self.matrix.shape
        if rows != columns:
            raise InputError(f"a symmetric operator is square; this one is {rows} x {columns}")
        super().__init__(rows, world or World.serial(), psd=psd)

    def _block(self, V):
        return np.asarray(self.matrix.matmat(V), dtype=np.float64)
