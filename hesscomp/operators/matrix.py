"""Any symmetric matrix or SciPy operator as an operator of this package."""

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from hesscomp.errors import InputError
from hesscomp.operators.operator import Operator
from hesscomp.parallel import random
from hesscomp.parallel.world import World

SAME = 1e-3  # how far products of a symmetric operator may differ, of its norm


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

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> A = hc.MatrixOperator(np.diag([3.0, 2.0, 1.0]), psd=True)
    >>> A @ np.ones(3), (2 * A.shifted(1.0)) @ np.ones(3)
    (array([3., 2., 1.]), array([8., 6., 4.]))
    """

    def __init__(self, matrix, world: World | None = None, *, psd: bool = False):
        self.matrix = matrix if isinstance(matrix, np.ndarray) else aslinearoperator(matrix)
        rows, columns = self.matrix.shape
        if rows != columns:
            raise InputError(f"a symmetric operator is square; this one is {rows} x {columns}")
        super().__init__(rows, world or World.serial(), psd=psd)

    def block_product(self, V):
        return self.layout.product(V, self._whole)

    def _whole(self, V):
        if isinstance(self.matrix, np.ndarray):  # symmetric, and this way round BLAS is faster
            return (V.T @ self.matrix).T.astype(np.float64, copy=False)
        return np.asarray(self.matrix.matmat(V), dtype=np.float64)


def as_operator(matrix, world: World | None = None, *, psd: bool = False) -> Operator:
    """Return an `Operator` as it is, and a symmetric matrix or SciPy operator as one.

    Parameters
    ----------
    matrix : Operator, (n, n) array, SciPy sparse matrix or LinearOperator
        Whole on every rank.
    world : World, optional
        Default: this rank alone.
    psd : bool
        Whether a matrix is positive semidefinite; an `Operator` knows it itself.

    Raises
    ------
    InputError
        If it is not square, real, finite or symmetric. Of a LinearOperator symmetry is tried on two
        vectors, which costs two products.
    """
    if isinstance(matrix, Operator):
        if not hasattr(matrix, "layout"):
            name = type(matrix).__name__
            raise InputError(f"{name}.__init__ must call super().__init__(n, hc.World())")
        return matrix
    if not scipy.sparse.issparse(matrix) and not isinstance(matrix, LinearOperator):
        given, matrix = type(matrix).__name__, np.asarray(matrix)
        if matrix.dtype == object and matrix.ndim == 0:
            raise InputError(
                f"this is no matrix and no operator, but of the type {given}; of a model or a "
                "problem take its matrix first: hessian(...), ggn(...) or fisher(...)"
            )
        if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
            raise InputError(
                f"a matrix is a two-dimensional array of real numbers; this has the shape "
                f"{matrix.shape} and the type {matrix.dtype}"
            )
        matrix = matrix.astype(np.float64, copy=False)
    elif np.issubdtype(matrix.dtype, np.complexfloating):
        raise InputError("the matrix is complex; hesscomp takes real symmetric ones")
    operator = MatrixOperator(matrix, world, psd=psd)
    if not _is_symmetric(operator):
        raise InputError(
            "the matrix is not symmetric; hesscomp takes symmetric ones: its symmetric part is "
            "(A + A.T) / 2, and its singular values are the roots of the eigenvalues of A.T @ A"
        )
    return operator


def check_symmetric(operator: Operator) -> None:
    """Refuse an operator, written outside of hesscomp, that is not symmetric. Collective.

    Tried on two random vectors, which costs two product columns: u . H v and v . H u must agree to
    a thousandth of ||H||_F. That leaves room for products in float32.

    Raises
    ------
    InputError
        Where they differ.
    """
    of_user = _of_user(operator)
    if of_user is None:
        return
    operator = operator.replicated()
    V = random.standard_normal(0, random.ESTIMATOR, (0, operator.n), (0, 2))
    HV = operator @ V
    u_Hv, v_Hu = V[:, 0] @ HV[:, 1], V[:, 1] @ HV[:, 0]
    size = np.linalg.norm(HV) / np.sqrt(2)  # about ||H||_F
    if operator.world.decide(abs(u_Hv - v_Hu) > SAME * size):
        raise InputError(
            f"{of_user.name} is not symmetric: for random vectors u . H v and v . H u differ by "
            f"{abs(u_Hv - v_Hu) / size:.1g} of ||H||_F; check its block_product, or take the "
            "symmetric part, the mean of its products and those of its transpose"
        )


def _of_user(operator: Operator) -> Operator | None:
    """Return the operator, or the first one that it is made of, whose class is not hesscomp's."""
    if type(operator).__module__.partition(".")[0] != __name__.partition(".")[0]:
        return operator
    parts = (_of_user(getattr(operator, part)) for part in operator.parts)
    return next((part for part in parts if part is not None), None)


def _is_symmetric(operator: MatrixOperator) -> bool:
    """Whether u . A v equals v . A u for two random vectors.

    To ten digits of a float64 matrix and to five of others, which may compute in float32 inside.
    """
    u, v = np.random.default_rng(0).standard_normal((2, operator.n))
    Au, Av = operator._whole(u[:, None])[:, 0], operator._whole(v[:, None])[:, 0]
    if not (np.isfinite(Au).all() and np.isfinite(Av).all()):
        raise InputError("the matrix holds numbers that are not finite")
    precise = isinstance(operator.matrix, np.ndarray) and operator.matrix.dtype == np.float64
    scale = np.linalg.norm(u) * np.linalg.norm(Av) + np.linalg.norm(v) * np.linalg.norm(Au)
    return bool(abs(u @ Av - v @ Au) <= (1e-10 if precise else 1e-5) * scale)
