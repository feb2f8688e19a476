"""A^T f(A V) and (A * A)^T V for a sparse matrix in one sweep over its nonzeros.

Products with A and then with A^T read them from memory twice, which ranks that share the memory
also wait for. Here each chunk of rows is multiplied both ways, or squared, while it is in cache.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import scipy.sparse

# The kernels under ``@``, which add to an array that they are given, as ``@`` does not.
from scipy.sparse import _sparsetools

CHUNK = 100_000  # nonzeros of a chunk, 12 bytes each
WIDENED = 16  # nonzeros a column after which sums in float32 are added up in float64


def in_type(A: scipy.sparse.csr_array, dtype: type) -> scipy.sparse.csr_array:
    """Return A with values of this type, which are copied where they have another."""
    return scipy.sparse.csr_array(
        (A.data.astype(dtype, copy=False), A.indices, A.indptr), shape=A.shape
    )


def row_chunks(A: scipy.sparse.csr_array) -> np.ndarray:
    """Return the first rows of chunks of about `CHUNK` nonzeros, and the number of rows."""
    cuts = np.searchsorted(A.indptr, np.arange(CHUNK, A.nnz, CHUNK))
    return np.unique([0, *cuts, A.shape[0]])


def _kernels(k: int) -> tuple:
    """Return SciPy's kernels by rows and by columns for k columns, and what they take for k."""
    if k == 1:
        return _sparsetools.csr_matvec, _sparsetools.csc_matvec, ()
    return _sparsetools.csr_matvecs, _sparsetools.csc_matvecs, (k,)


def two_way_product(
    A: scipy.sparse.csr_array,
    chunks: np.ndarray,
    between: Callable[[slice, np.ndarray], object],
    V: np.ndarray,
) -> np.ndarray:
    """Return A^T f(A V) in A's type, where f changes each row of A V by itself.

    In float32, sums over more than `WIDENED` nonzeros a column are added up in float64: beyond
    that, their error does not grow with the rows.

    Parameters
    ----------
    A : (rows, n) CSR array of float32 or float64
    chunks : array of int
        Of `row_chunks`; in float64 they do not change the bits of the result.
    between : callable
        f: called with a slice of the rows and their (rows, k) part of A V, which it changes. It may
        collect what it sees, in the order of the chunks.
    V : (n, k) array
    """
    n, k = V.shape
    V, out, done = np.ascontiguousarray(V, A.dtype), np.zeros((n, k), A.dtype), 0
    wide = None  # the sums in float64 of what was added in float32 up to the nonzero `done`
    of_rows, of_columns, width = _kernels(k)
    for first, last in pairwise(chunks):
        if A.dtype == np.float32 and A.indptr[first] - done > WIDENED * n:
            wide, done = out.astype(np.float64) + (0 if wide is None else wide), A.indptr[first]
            out[:] = 0
        rows, nonzeros = last - first, (A.indptr[first : last + 1], A.indices, A.data)
        part = np.zeros((rows, k), A.dtype)
        of_rows(rows, n, *width, *nonzeros, V.ravel(), part.ravel())
        between(slice(first, last), part)
        of_columns(n, rows, *width, *nonzeros, part.ravel(), out.ravel())
    return out if wide is None else (wide + out).astype(A.dtype)


def gram_product(
    A: scipy.sparse.csr_array, chunks: np.ndarray, weights: np.ndarray, V: np.ndarray
) -> np.ndarray:
    """Return A^T diag(weights) A V in A's type, for (rows,) weights and a few columns.

    Each column alone, as `two_way_product` describes: a few at once take longer (text, two columns
    in float64: 40 ms, and 25 one after the other).
    """
    weights = weights.astype(A.dtype, copy=False)

    def weigh(rows, part):
        part *= weights[rows, None]

    found = [two_way_product(A, chunks, weigh, v[:, None]) for v in V.T]
    return found[0] if len(found) == 1 else np.hstack(found)


def weighted_squares(A: scipy.sparse.csr_array, weights: np.ndarray) -> np.ndarray:
    """Return (A * A)^T weights in float64: (rows, k) weights to (n, k)."""
    A = _canonical(A)
    n, k = A.shape[1], weights.shape[1]
    weights, out = np.ascontiguousarray(weights, np.float64), np.zeros((n, k))
    _, of_columns, width = _kernels(k)
    for first, last in pairwise(row_chunks(A)):
        begin, end = A.indptr[first], A.indptr[last]
        squares = np.square(A.data[begin:end], dtype=np.float64)
        nonzeros = A.indptr[first : last + 1] - begin, A.indices[begin:end], squares
        part = weights[first:last].ravel()
        of_columns(n, last - first, *width, *nonzeros, part, out.ravel())
    return out


def squared_rows(A: scipy.sparse.csr_array) -> np.ndarray:
    """Return the squared norm of each row in float64: (rows,)."""
    A = _canonical(A)
    squares = np.square(A.data, dtype=np.float64), A.indices, A.indptr
    return scipy.sparse.csr_array(squares, shape=A.shape) @ np.ones(A.shape[1])


def _canonical(A: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Return a matrix whose entries are each stored once."""
    if not A.has_canonical_format:
        A = A.copy()
        A.sum_duplicates()
    return A
