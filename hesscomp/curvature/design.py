"""Products with a shard's data matrix A: the engine under every generalised linear model.

A generalised linear model's Hessian is A^T diag(d) A, so its block product is two matrix products
and a scaling. A dense shard is read in row chunks that stay in cache between the two: one sweep
through memory for a product instead of two, which is what a single column costs.
"""

import functools
from types import SimpleNamespace

import numpy as np
import scipy.sparse

from hesscomp.curvature.tensorflow import share, tf
from hesscomp.parallel.rows import RowBlocks

CHUNK_BYTES = 4 * 2**20  # of A in one chunk: within the last-level cache, few dispatches
WIDE_ROWS = 2048  # rows in a chunk for wide blocks, which are bound by arithmetic instead
ALIGNED_ROWS = 64  # chunks begin on cache lines whatever n: TensorFlow then slices without a copy


def make_design(
    X: np.ndarray | scipy.sparse.csr_array, curvature_dtype: str, blocks: RowBlocks | None = None
):
    """Return the shard's data matrix as TensorFlow products: `DenseDesign` or `SparseDesign`.

    With `blocks` every product is made of those of the blocks, each computed alone, so that its
    bits do not depend on how many of them this rank holds.
    """
    kind = SparseDesign if scipy.sparse.issparse(X) else DenseDesign
    return kind(X, tf.as_dtype(curvature_dtype), blocks)


class DenseDesign:
    """A dense (rows, n) shard.

    Float64 products come from the data as they were given (float32 data are widened chunk by
    chunk); curvature products from a copy in `dtype`, made only where the data have another.

    Methods take and return tensors; `v`, `r` and the weights are float64, blocks are in `dtype`.
    """

    def __init__(self, X: np.ndarray, dtype: tf.DType, blocks: RowBlocks | None = None):
        self.rows, self.n = X.shape
        self.dtype, self.blocks = dtype, blocks
        self._given = share(X)
        self._curved = self._given if self._given.dtype == dtype else tf.cast(self._given, dtype)
        self._exact_kernels = _dense_kernels(self._given.dtype.name)
        self._kernels = _dense_kernels(dtype.name)

    def _chunk(self, row_bytes: int) -> tf.Tensor:
        if self.blocks is not None:
            return tf.constant(self.blocks.rows, tf.int32)
        rows = CHUNK_BYTES // max(row_bytes, 1) // ALIGNED_ROWS * ALIGNED_ROWS
        return tf.constant(max(rows, ALIGNED_ROWS), tf.int32)

    def forward(self, v: tf.Tensor) -> tf.Tensor:
        """Return A v in float64: (n,) to (rows,)."""
        if self._given.dtype == tf.float64 and self.blocks is None:
            return tf.linalg.matvec(self._given, v)
        return self._exact_kernels.forward(self._given, v, self._chunk(8 * self.n))

    def adjoint(self, r: tf.Tensor) -> tf.Tensor:
        """Return A^T r in float64: (rows,) to (n,)."""
        if self._given.dtype == tf.float64:
            return tf.linalg.matvec(self._given, r, transpose_a=True)
        return self._exact_kernels.adjoint(self._given, r, self._chunk(8 * self.n))

    def adjoint_by_row_block(self, r: tf.Tensor) -> tf.Tensor:
        """Return A^T r of each block of rows: (rows,) to (blocks, n), in float64."""
        return self._exact_kernels.adjoint_by_row_block(self._given, r, self._chunk(0))

    def gram_product_by_row_block(self, weights: tf.Tensor, V: tf.Tensor) -> tf.Tensor:
        """Return A^T (weights * (A V)) of each block of rows: (n, k) to (blocks, n, k)."""
        if not self.rows:
            return tf.zeros([0, *V.shape], self.dtype)
        return self._kernels.gram_product_by_row_block(
            self._curved, tf.cast(weights, self.dtype), V, self._chunk(0)
        )

    def gram_product(self, weights: tf.Tensor, V: tf.Tensor) -> tf.Tensor:
        """Return A^T (weights * (A V)): (n, k) to (n, k); 4 rows n k operations, one sweep."""
        wide = V.shape[1] > 8
        chunk = tf.constant(WIDE_ROWS) if wide else self._chunk(self.dtype.size * self.n)
        return self._kernels.gram_product(self._curved, tf.cast(weights, self.dtype), V, chunk)

    def gram(self, weights: tf.Tensor) -> tf.Tensor:
        """Return A^T diag(weights) A: (n, n); 2 rows n^2 operations."""
        return self._kernels.gram(
            self._curved, tf.cast(weights, self.dtype), tf.constant(WIDE_ROWS)
        )

    def gram_by_row_block(self, weights: tf.Tensor) -> tf.Tensor:
        """Return A^T diag(weights) A of each block of rows: (blocks, n, n)."""
        if not self.rows:
            return tf.zeros([0, self.n, self.n], self.dtype)
        return self._kernels.gram_by_row_block(
            self._curved, tf.cast(weights, self.dtype), self._chunk(0)
        )

    def compile(self) -> None:
        """Trace and optimise the products on one row, so that no timed product does."""
        self._exact_kernels.forward(self._given[:1], tf.zeros([self.n], tf.float64), 1)
        self._exact_kernels.adjoint(
            self._given[:1], tf.zeros([len(self._given[:1])], tf.float64), 1
        )
        row = self._curved[:1]
        weights = tf.zeros([len(row)], self.dtype)
        self._kernels.gram_product(row, weights, tf.zeros([self.n, 1], self.dtype), 1)
        self._kernels.gram(row[:, :1], weights, 1)


class SparseDesign:
    """A sparse (rows, n) shard, kept as CSR of A and of A^T (fast in both directions).

    Same methods as `DenseDesign`. Memory: 4 bytes an index and the value, twice; twice again where
    curvature products have another type than the data.
    """

    def __init__(self, X: scipy.sparse.csr_array, dtype: tf.DType, blocks: RowBlocks | None = None):
        self.rows, self.n = X.shape
        self.dtype = dtype
        self._given = _csr_pair(X.astype(np.float64))
        self._curved = self._given
        if dtype != tf.float64:
            self._curved = _csr_pair(X.astype(dtype.as_numpy_dtype))
        self._local = blocks.local if blocks is not None else ()
        self._blocks = [SparseDesign(X[rows], dtype) for rows in self._local]

    def forward(self, v: tf.Tensor) -> tf.Tensor:
        """Return A v in float64: (n,) to (rows,)."""
        if self._blocks:
            return tf.concat([block.forward(v) for block in self._blocks], axis=0)
        return tf.squeeze(self._given[0] @ v[:, None], 1)

    def adjoint(self, r: tf.Tensor) -> tf.Tensor:
        """Return A^T r in float64: (rows,) to (n,)."""
        return tf.squeeze(self._given[1] @ r[:, None], 1)

    def adjoint_by_row_block(self, r: tf.Tensor) -> tf.Tensor:
        """Return A^T r of each block of rows: (rows,) to (blocks, n), in float64."""
        parts = [b.adjoint(r[rows]) for b, rows in zip(self._blocks, self._local, strict=True)]
        return tf.stack(parts) if parts else tf.zeros([0, self.n], tf.float64)

    def gram_product_by_row_block(self, weights: tf.Tensor, V: tf.Tensor) -> tf.Tensor:
        """Return A^T (weights * (A V)) of each block of rows: (n, k) to (blocks, n, k)."""
        parts = [
            block.gram_product(weights[rows], V)
            for block, rows in zip(self._blocks, self._local, strict=True)
        ]
        return tf.stack(parts) if parts else tf.zeros([0, *V.shape], V.dtype)

    def gram_product(self, weights: tf.Tensor, V: tf.Tensor) -> tf.Tensor:
        """Return A^T (weights * (A V)): (n, k) to (n, k); 4 nnz k operations."""
        scale = tf.cast(weights, self.dtype)[:, None]
        return self._curved[1] @ (scale * (self._curved[0] @ V))

    def gram(self, weights: tf.Tensor) -> tf.Tensor:
        """Return A^T diag(weights) A: (n, n), by block products with the unit vectors."""
        panels = [
            self.gram_product(weights, tf.eye(self.n, dtype=self.dtype)[:, start : start + 256])
            for start in range(0, self.n, 256)
        ]
        return tf.concat(panels, axis=1)

    def gram_by_row_block(self, weights: tf.Tensor) -> tf.Tensor:
        """Return A^T diag(weights) A of each block of rows: (blocks, n, n)."""
        parts = [b.gram(weights[rows]) for b, rows in zip(self._blocks, self._local, strict=True)]
        return tf.stack(parts) if parts else tf.zeros([0, self.n, self.n], self.dtype)

    def compile(self) -> None:
        """Nothing to trace: the products are single operations."""


def _csr_pair(X: scipy.sparse.csr_array) -> tuple["_Csr", "_Csr"]:
    return _Csr(X), _Csr(X.T.tocsr())


class _Csr:
    """A sparse matrix in TensorFlow; ``A @ V`` for a dense block."""

    def __init__(self, X: scipy.sparse.csr_array):
        self.rows = X.shape[0]
        self.empty = X.nnz == 0  # TensorFlow's product divides by the number of nonzeros
        X.sort_indices()
        rows = np.repeat(np.arange(X.shape[0], dtype=np.int64), np.diff(X.indptr))
        self.matrix = tf.raw_ops.SparseTensorToCSRSparseMatrix(
            indices=np.stack([rows, X.indices], axis=1),
            values=X.data,
            dense_shape=np.array(X.shape, dtype=np.int64),
        )

    def __matmul__(self, V: tf.Tensor) -> tf.Tensor:
        if self.empty:
            return tf.zeros([self.rows, V.shape[1]], V.dtype)
        return tf.raw_ops.SparseMatrixMatMul(a=self.matrix, b=V)


def _sweep(rows: tf.Tensor, chunk: tf.Tensor, total: tf.Tensor, part) -> tf.Tensor:
    """Return total + the sum of part(start, stop) over the chunks of rows, one after the other."""
    return tf.while_loop(
        lambda start, _: start < rows,
        lambda start, total: (
            start + chunk,
            total + part(start, tf.minimum(start + chunk, rows)),
        ),
        (0, total),
        parallel_iterations=1,
    )[1]


def _concatenated(rows: tf.Tensor, chunk: tf.Tensor, element: tf.TensorSpec, part) -> tf.Tensor:
    """Return part(start, stop) of each chunk of rows, one after the other along the first axis."""
    count = (rows + chunk - 1) // chunk
    pieces = tf.TensorArray(
        element.dtype, size=count, infer_shape=False, element_shape=element.shape
    )

    def step(i, pieces):
        return i + 1, pieces.write(i, part(i * chunk, tf.minimum((i + 1) * chunk, rows)))

    return tf.while_loop(lambda i, _: i < count, step, (0, pieces), parallel_iterations=1)[
        1
    ].concat()


@functools.cache
def _dense_kernels(name: str) -> SimpleNamespace:
    """Return compiled products with a dense matrix of type `name`, traced once for all shapes."""
    matrix = tf.TensorSpec([None, None], name)
    weights = tf.TensorSpec([None], name)
    vector = tf.TensorSpec([None], tf.float64)
    count = tf.TensorSpec([], tf.int32)

    @tf.function(input_signature=[matrix, vector, count])
    def forward(A, v, chunk):
        def part(start, stop):
            return tf.linalg.matvec(tf.cast(A[start:stop], tf.float64), v)

        return _concatenated(tf.shape(A)[0], chunk, vector, part)

    @tf.function(input_signature=[matrix, vector, count])
    def adjoint(A, r, chunk):
        def part(start, stop):
            piece = tf.cast(A[start:stop], tf.float64)
            return tf.linalg.matvec(piece, r[start:stop], transpose_a=True)

        shape = tf.shape(A)
        return _sweep(shape[0], chunk, tf.zeros(shape[1:], tf.float64), part)

    @tf.function(input_signature=[matrix, vector, count])
    def adjoint_by_row_block(A, r, chunk):
        def part(start, stop):
            piece = tf.cast(A[start:stop], tf.float64)
            return tf.linalg.matvec(piece, r[start:stop], transpose_a=True)

        joined = _concatenated(tf.shape(A)[0], chunk, vector, part)
        return tf.reshape(joined, [-1, tf.shape(A)[1]])

    @tf.function(input_signature=[matrix, weights, matrix, count])
    def gram_product(A, weights, V, chunk):
        def part(start, stop):
            piece = A[start:stop]
            scaled = weights[start:stop, None] * tf.matmul(piece, V)
            return tf.matmul(piece, scaled, transpose_a=True)

        return _sweep(tf.shape(A)[0], chunk, tf.zeros_like(V), part)

    @tf.function(input_signature=[matrix, weights, matrix, count])
    def gram_product_by_row_block(A, weights, V, chunk):
        def part(start, stop):
            piece = A[start:stop]
            scaled = weights[start:stop, None] * tf.matmul(piece, V)
            return tf.matmul(piece, scaled, transpose_a=True)

        joined = _concatenated(tf.shape(A)[0], chunk, matrix, part)
        return tf.reshape(joined, [-1, *tf.unstack(tf.shape(V))])

    @tf.function(input_signature=[matrix, weights, count])
    def gram(A, weights, chunk):
        def part(start, stop):
            piece = A[start:stop]
            return tf.matmul(piece, weights[start:stop, None] * piece, transpose_a=True)

        shape = tf.shape(A)
        return _sweep(shape[0], chunk, tf.zeros([shape[1], shape[1]], A.dtype), part)

    @tf.function(input_signature=[matrix, weights, count])
    def gram_by_row_block(A, weights, chunk):
        def part(start, stop):
            piece = A[start:stop]
            return tf.matmul(piece, weights[start:stop, None] * piece, transpose_a=True)

        joined = _concatenated(tf.shape(A)[0], chunk, matrix, part)
        return tf.reshape(joined, [-1, tf.shape(A)[1], tf.shape(A)[1]])

    return SimpleNamespace(
        forward=forward,
        adjoint=adjoint,
        adjoint_by_row_block=adjoint_by_row_block,
        gram_product=gram_product,
        gram_product_by_row_block=gram_product_by_row_block,
        gram=gram,
        gram_by_row_block=gram_by_row_block,
    )
