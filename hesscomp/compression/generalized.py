"""The generalised eigenproblem H u = w B u for a given positive definite B."""

from dataclasses import dataclass

import numpy as np

from hesscomp.compression.compress import compress
from hesscomp.curvature.whitened import Whitened
from hesscomp.factors.lowrank import LowRank


@dataclass(frozen=True)
class GeneralizedEigen:
    """Leading solutions of H u = w B u.

    They come from `whitened`, the factor of L^-1 H L^-T (B = L L^T), whose certificate measures
    errors and residuals in the inner product of B^-1.
    """

    eigenvalues: np.ndarray  # (k,), by absolute value, largest first
    eigenvectors: np.ndarray  # (rows, k) in its layout: U^T B U = I, H ~ B U diag(w) U^T B
    whitened: LowRank


def generalized_eigen(matrix, B, rank: int | None = None, **options) -> GeneralizedEigen:
    """Compute the eigenpairs of H u = w B u that matter most, by compressing L^-1 H L^-T.

    With a prior's precision or a Gauss-Newton diagonal as B these are the directions in which H
    says most beyond B. Saibaba, Lee and Kitanidis (2016) do the same in the B inner product, where
    B is known by products only.

    Parameters
    ----------
    matrix : Operator, (n, n) array, SciPy sparse matrix or LinearOperator
        H, symmetric, of any sign.
    B : (n,) or (n, n) array, or SciPy sparse matrix
        Symmetric positive definite; a vector is a diagonal. InputError if it is not, or does not
        fit.
    rank, **options
        As for `compress`.

    Notes
    -----
    Product columns and words as `compress`; a matrix B adds n^2 operations a column.

    Examples
    --------
    >>> import numpy as np
    >>> from hesscomp.compression import generalized_eigen
    >>> A, B = np.diag([3.0, 4.0, -1.0, 0.0]), np.array([1.0, 2.0, 2.0, 1.0])
    >>> generalized_eigen(A, B, rank=2).eigenvalues.round(6)  # of A u = w diag(B) u
    array([3., 2.])
    """
    from hesscomp.operators.matrix import as_operator  # which loads MPI

    whitened = Whitened(as_operator(matrix), B)
    factor = compress(whitened, rank, **options)
    U = whitened.in_layout(factor.layout).backward(factor.eigenvectors)
    return GeneralizedEigen(factor.eigenvalues, U, factor)
