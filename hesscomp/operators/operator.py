"""The one door to a symmetric operator: ``H @ V`` for a block of columns.

`Operator` validates, reshapes and counts; a subclass writes `block_product`, the product
with an (n, k) array. Shifts, sums, multiples and a SciPy view come free.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from numbers import Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse.linalg
from markupsafe import escape
from numpy.typing import DTypeLike

from hesscomp.errors import InputError, NumericalError
from hesscomp.parallel.layout import PANEL, Layout, Replicated, RowLayout

if TYPE_CHECKING:
    from hesscomp.parallel.world import World


class Operator(ABC):
    """A symmetric n x n operator over the ranks of a world.

    Collective: all ranks call together, each with the rows of an (n, k) array that `layout` gives
    it: all of them (replicated, the default), or a slab (`in_rows`).

    Parameters
    ----------
    n : int
        Order of the operator.
    world : World
    psd : bool
        Whether the operator is positive semidefinite. Declared, never guessed.
    dtype : str
        Precision of the products, "float32" or "float64"; results are float64 arrays.

    Raises
    ------
    InputError
        By ``H @ V``, for an array whose rows do not fit.
    NumericalError
        By ``H @ V``, for a product that is not finite.

    Notes
    -----
    ``H @ V`` takes an (n,) or (n, k) array and costs one block product of k columns; it counts them
    in `world.ledger`. SciPy's algorithms take an operator as it is.

    Examples
    --------
    An operator of your own writes the product with an (n, k) block:

    >>> import numpy as np
    >>> import hesscomp as hc
    >>> class Laplacian(hc.Operator):  # of a line, with zeros at its ends
    ...     def block_product(self, V):
    ...         zero = np.zeros((1, V.shape[1]))
    ...         return 2 * V - np.vstack([V[1:], zero]) - np.vstack([zero, V[:-1]])
    >>> L = Laplacian(50, hc.World(), psd=True)
    >>> (L @ np.ones(50))[:3], hc.trace(L).value
    (array([1., 0., 0.]), 100.0)
    """

    passes: int = 1  # sweeps over the data that one block product costs; 0 of factors alone
    parts: tuple[str, ...] = ()  # attributes that hold the operators this one is made of

    __array_ufunc__ = None  # NumPy scalars leave ``c * H`` to this class

    lone_cost: float = 6.0  # of a product with one column, in columns of a wide block (memory)
    # Operations of a wide float64 matrix product that take as long as this rank's share of a column
    # of a wide block; infinite where that is not known
    column_work: float = float("inf")

    def __init__(self, n: int, world: World, *, psd: bool = False, dtype: DTypeLike = "float64"):
        self.n = n
        self.world = world
        self.psd = psd
        self.dtype = np.dtype(dtype)
        self.layout: Layout = Replicated(n, world)

    @property
    def shape(self) -> tuple[int, int]:
        return (self.n, self.n)

    @property
    def name(self) -> str:
        """What kind of operator this is, for provenance and messages."""
        return type(self).__name__

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "_block" in vars(cls) and "block_product" not in vars(cls):
            warnings.warn(
                f"{cls.__name__}: the method `_block` is now `block_product`; the next version "
                "reads only that",
                DeprecationWarning,
                stacklevel=2,
            )
            cls.block_product = cls._block  # type: ignore[attr-defined]

    @abstractmethod
    def block_product(self, V: np.ndarray) -> np.ndarray:
        """Return H V for a float64 (n, k) array, as float64: what a subclass writes.

        V is checked, and holds the rows of `layout`; the result has its shape. Users take
        ``H @ V``, which counts the product and checks the result.
        """

    def describe(self, factor: Any) -> Any:
        """Return a factor of this operator with its origin (problem, point, blocks) noted in it."""
        return factor

    def outline(self) -> dict[str, str]:
        """Return what this operator is, as texts by name, for its representations."""
        sign = "positive semidefinite" if self.psd else "of either sign"
        return {"n": f"{self.n:,}", "precision": str(self.dtype), "eigenvalues": sign}

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {text}" for name, text in self.outline().items())
        return f"<{self.name}: {told}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>"
            for name, text in self.outline().items()
        )
        return f"<table><caption>{escape(self.name)}</caption>{rows}</table>"

    # What `scipy.sparse.linalg.aslinearoperator` asks for

    def matvec(self, v: np.ndarray) -> np.ndarray:
        """Return H v; SciPy's algorithms take the operator, or a preconditioner, by this."""
        return self @ np.reshape(v, -1)

    def matmat(self, V: np.ndarray) -> np.ndarray:
        """Return H V."""
        return self @ V

    rmatvec, rmatmat = matvec, matmat  # it is symmetric

    def _project(self, Q: np.ndarray, V: np.ndarray) -> np.ndarray:
        return self.layout.inner(Q, self.block_product(V))

    def _pieces(self, columns: int) -> int:
        """Return in how many pieces, each of `passes` sweeps, a product is done."""
        made_of = (getattr(self, part)._pieces(columns) for part in self.parts)
        return max(made_of, default=self.layout.pieces(columns))

    def in_rows(self, panel: int = PANEL) -> Self:
        """Return this operator for blocks in the row layout, a slab of their rows on each rank."""
        return self.in_layout(RowLayout(self.n, self.world, panel))

    def replicated(self) -> Self:
        """Return this operator for blocks whose rows are all on every rank."""
        return self.in_layout(Replicated(self.n, self.world))

    def in_layout(self, layout: Layout) -> Self:
        """Return this operator for blocks in another layout; data and cost ledger are shared."""
        other = copy.copy(self)
        other.layout = layout
        for part in self.parts:
            setattr(other, part, getattr(self, part).in_layout(layout))
        return other

    def __matmul__(self, V: np.ndarray) -> np.ndarray:
        """Return H V for an (n,) or (n, k) array, of which each rank holds its rows.

        One reduction of n k words; in the row layout one gather and one reduce-scatter for each
        panel, n k words in all, and one word more to agree that all is finite.
        """
        V = self.checked(V)
        block = V[:, None] if V.ndim == 1 else V
        if not block.shape[1]:
            return np.zeros(V.shape)
        product = self.block_product(block)
        if np.shape(product) != block.shape:
            raise InputError(
                f"{self.name}.block_product of an array of shape {block.shape} returned one of "
                f"shape {np.shape(product)}; it must return H V, of the shape of V"
            )
        return self._counted(product, block.shape[1]).reshape(V.shape)

    def __rmatmul__(self, V: np.ndarray) -> np.ndarray:
        """Return V H for an (n,) or (k, n) array: the transpose of H V^T, since H is symmetric."""
        return (self @ np.transpose(V)).T

    @property
    def T(self) -> Self:  # NumPy's and SciPy's name
        """H^T, which is H."""
        return self

    def project(self, Q: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Return Q^T H V on every rank, for (n, q) and (n, k) arrays.

        Reduces q k words instead of n k, except in the row layout and in reproducible mode.
        """
        Q, V = self.checked(Q), self.checked(V)
        if not V.shape[1]:
            return np.zeros((Q.shape[1], 0))
        return self._counted(self._project(Q, V), V.shape[1])

    def quadratic(self, V: np.ndarray) -> np.ndarray:
        """Return V^T H V, exactly symmetric: `project` for k (k + 1) / 2 words in place of k^2."""
        V = self.checked(V)
        if not V.shape[1]:
            return np.zeros((0, 0))
        Q = self._counted(self._quadratic(V), V.shape[1])
        return (Q + Q.T) / 2

    def _quadratic(self, V: np.ndarray) -> np.ndarray:
        return self._project(V, V)

    def _counted(self, out: np.ndarray, columns: int) -> np.ndarray:
        """Check that a product is finite, and count it in the ledger (factors' are free)."""
        if not self.passes:
            return out
        self.world.ledger.product(columns, self.passes * self._pieces(columns))
        if self.layout.any(not np.isfinite(out).all()):
            raise NumericalError(
                f"a product with {self.name} is not finite; check the scale of the data "
                f"and the point, or take dtype float64 (now {self.dtype})"
            )
        self.world.check_interrupt()
        return out

    def checked(self, V) -> np.ndarray:
        """Return an (n,) or (n, k) array as float64; InputError for complex ones, wrong rows."""
        if np.iscomplexobj(V):
            raise InputError(
                f"{self.name} takes real arrays; pass the real and imaginary parts apart"
            )
        V = np.asarray(V, dtype=np.float64)
        rows = self.layout.rows
        if V.ndim not in (1, 2) or V.shape[0] != rows:
            raise InputError(
                f"{self.name} of n = {self.n} does not fit an array of shape {V.shape}; "
                f"pass ({rows},) or ({rows}, k)"
            )
        return V

    def to_dense(self, panel: int = 512) -> np.ndarray:
        """Return the (n, n) matrix on every rank: n columns, memory for 2 n^2 numbers or more."""
        if self._assembles:
            dense = self._counted(self._assembled(), self.n)
        else:
            columns = np.arange(self.n)
            panels = [columns[start : start + panel] for start in range(0, self.n, panel)]
            slab = np.concatenate([self @ self.layout.units(indices) for indices in panels], axis=1)
            dense = self.layout.whole(slab)
        return (dense + dense.T) / 2

    @property
    def _assembles(self) -> bool:
        """Whether the whole matrix can be had at once, by `_assembled`."""
        return False

    def _assembled(self) -> np.ndarray:
        """Return the (n, n) matrix on every rank."""
        raise NotImplementedError

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """Return a SciPy view, whose products are collective; InputError in the row layout."""
        if self.layout.rows != self.n:
            raise InputError("SciPy needs whole vectors: take operator.replicated().to_scipy()")
        products = dict.fromkeys(("matvec", "rmatvec", "matmat", "rmatmat"), self.__matmul__)
        return scipy.sparse.linalg.LinearOperator(self.shape, dtype=np.float64, **products)

    def shifted(self, shift: float) -> Operator:
        """Return H + shift I."""
        return Shifted(self, shift)

    def __add__(self, other: Operator) -> Operator:
        return Sum(self, other) if isinstance(other, Operator) else NotImplemented

    def __sub__(self, other: Operator) -> Operator:
        return self + -other if isinstance(other, Operator) else NotImplemented

    def __mul__(self, factor: float) -> Operator:
        return Scaled(self, float(factor)) if isinstance(factor, Real) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> Operator:
        return -1.0 * self


class Shifted(Operator):
    """H + shift I, at the cost of H."""

    parts = ("base",)

    def __init__(self, base: Operator, shift: float):
        super().__init__(base.n, base.world, psd=base.psd and shift >= 0, dtype=base.dtype)
        self.layout = base.layout
        self.base, self.shift, self.passes = base, shift, base.passes

    def block_product(self, V):
        out = self.shift * V
        out += self.base.block_product(V)
        return out

    def _project(self, Q, V):
        return self.base._project(Q, V) + self.shift * self.layout.inner(Q, V)

    def _quadratic(self, V):
        return self.base._quadratic(V) + self.shift * self.layout.inner(V, V)


class Scaled(Operator):
    """factor H, at the cost of H."""

    parts = ("base",)

    def __init__(self, base: Operator, factor: float):
        super().__init__(base.n, base.world, psd=base.psd and factor >= 0, dtype=base.dtype)
        self.layout = base.layout
        self.base, self.factor, self.passes = base, factor, base.passes

    def block_product(self, V):
        return self.factor * self.base.block_product(V)

    def _project(self, Q, V):
        return self.factor * self.base._project(Q, V)

    def _quadratic(self, V):
        return self.factor * self.base._quadratic(V)


class Sum(Operator):
    """H + G for two operators of one order; costs both."""

    parts = ("left", "right")

    def __init__(self, left: Operator, right: Operator):
        if left.n != right.n:
            raise InputError(f"cannot add operators of orders {left.n} and {right.n}")
        dtype, lead = np.result_type(left.dtype, right.dtype), left
        if left.world is None:  # a factor that was read by one process
            left, lead = left.in_layout(right.layout), right
        super().__init__(left.n, lead.world, psd=left.psd and right.psd, dtype=dtype)
        self.layout = lead.layout
        self.left, self.right = left, right.in_layout(lead.layout)
        self.passes = left.passes + right.passes

    def block_product(self, V):
        return self.left.block_product(V) + self.right.block_product(V)

    def _project(self, Q, V):
        return self.left._project(Q, V) + self.right._project(Q, V)

    def _quadratic(self, V):
        return self.left._quadratic(V) + self.right._quadratic(V)
