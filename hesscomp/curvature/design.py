"""Products with a shard's data matrix A: the engine under every generalised linear model.

A generalised linear model's Hessian is A^T diag(d) A, so its block product is two matrix products
and a scaling. A dense shard is read in row chunks that stay in cache between the two: one sweep
through memory for a product instead of two, which is what a single column costs.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import scipy.sparse
from scipy.linalg import get_blas_funcs

from hesscomp.curvature import sparse
from hesscomp.curvature.sharded import ShardCurvature
from hesscomp.curvature.tensorflow import share, tf, view
from hesscomp.parallel.rows import RowBlocks

CHUNK_BYTES = 4 * 2**20  # of A in one chunk: within the last-level cache, few dispatches
LONE_BYTES = 2**20  # the same for a lone column, for BLAS: within the second-level cache
LONE_ROWS = 64  # at least in such a chunk: beside that, adding up the chunks' products costs little
WIDE_ROWS = 2048  # rows in a chunk for wide blocks, which are bound by arithmetic instead
WIDE = {"float32": 3, "float64": 16}  # columns from which TensorFlow's sparse products are faster
SPARSE_LONE_COST = {"float32": 3.0, "float64": 1.2}  # as `Operator.lone_cost`
SPARSE_WORK = 80.0  # as `Operator.column_work`, a nonzero: 20 times its operations (measured)
SQUARED = 2**17  # entries that are squared at once, within the second-level cache
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


def column_work(X, dtype: tf.DType) -> float:
    """Return `Operator.column_work` of rows: of dense ones 4 operations an entry, 2 in float32."""
    if scipy.sparse.issparse(X):
        return SPARSE_WORK * X.nnz
    rows, n = X.shape
    return dtype.size / 2 * rows * n


def weighted_squares(A: np.ndarray | scipy.sparse.csr_array, weights: np.ndarray) -> np.ndarray:
    """Return (A * A)^T weights in float64, as squares of float32 would lose digits.

    (rows, k) weights to (n, k); a few rows at a time.
    """
    if scipy.sparse.issparse(A):
        return sparse.weighted_squares(A, weights)
    few = max(SQUARED // max(A.shape[1], 1), 1)
    squares, out = np.empty((few, A.shape[1])), np.zeros((A.shape[1], weights.shape[1]))
    for start in range(0, len(A), few):
        part = squares[: len(A) - start]
        part[:] = A[start : start + few]
        part *= part
        out += part.T @ weights[start : start + few]
    return out


def squared_rows(A: np.ndarray | scipy.sparse.csr_array) -> np.ndarray:
    """Return the squared norm of each row in float64: (rows,); a few rows at a time."""
    if scipy.sparse.issparse(A):
        return sparse.squared_rows(A)
    few, out = max(SQUARED // max(A.shape[1], 1), 1), np.empty(len(A))
    wide = np.empty((few, A.shape[1]))
    for start in range(0, len(A), few):
        part = wide[: len(A) - start]
        part[:] = A[start : start + few]
        np.einsum("ij,ij->i", part, part, out=out[start : start + few])
    return out


class DenseDesign:
    """A dense (rows, n) shard.

    Float64 products come from the data as they were given (float32 data are widened chunk by
    chunk); curvature products from a copy in `dtype`, made only where the data have another.

    What belongs to the rows, and blocks of columns, are tensors; `v` and A^T r are arrays, the
    latter maybe read-only. `v`, `r` and the weights are float64, blocks are in `dtype`.
    Methods by row block return each block's product alone, one after the other on a first axis.
    """

    lone_cost = ShardCurvature.lone_cost

    def __init__(self, X: np.ndarray, dtype: tf.DType, blocks: RowBlocks | None = None):
        self.rows, self.n = X.shape
        self.dtype, self.blocks = dtype, blocks
        self._given = share(X)
        self._curved = self._given if self._given.dtype == dtype else tf.cast(self._given, dtype)
        self._exact_kernels = _dense_kernels(self._given.dtype.name)
        self._kernels = _dense_kernels(dtype.name)

    def exact(self) -> "DenseDesign":
        """Return this design with curvature products in float64; float32 data are copied."""
        other = copy.copy(self)
        other.dtype, other._kernels = tf.float64, _dense_kernels("float64")
        other._curved = tf.cast(self._given, tf.float64)
        return other

    def curvature(self, weights: tf.Tensor) -> "GramCurvature":
        """Return A^T diag(weights) A as a shard's curvature."""
        return GramCurvature(self, weights)

    def _chunk(self, row_bytes: int = 0) -> tf.Tensor:
        if self.blocks is not None:
            return tf.constant(self.blocks.rows, tf.int32)
        rows = CHUNK_BYTES // max(row_bytes, 1) // ALIGNED_ROWS * ALIGNED_ROWS
        return tf.constant(max(rows, ALIGNED_ROWS), tf.int32)

    def forward(self, v: np.ndarray) -> tf.Tensor:
        """Return A v in float64: (n,) to (rows,)."""
        if self._given.dtype == tf.float64 and self.blocks is None:
            return tf.linalg.matvec(self._given, v)
        return self._exact_kernels.forward(self._given, v, self._chunk(8 * self.n))

    def adjoint(self, r: tf.Tensor) -> np.ndarray:
        """Return A^T r in float64: (rows,) to (n,)."""
        if self._given.dtype == tf.float64:
            return view(tf.linalg.matvec(self._given, r, transpose_a=True))
        return view(self._exact_kernels.adjoint(self._given, r, self._chunk(8 * self.n)))

    @property
    def column_work(self) -> float:
        return column_work(self._given, self.dtype)

    def gram_product(self, weights: tf.Tensor, V: tf.Tensor) -> tf.Tensor:
        """Return A^T (weights * (A V)): (n, k) to (n, k); 4 nnz k operations, one sweep."""
        if self.is_narrow(V):
            return tf.constant(self.narrow_gram_product(weights, view(V)))
        wide = V.shape[1] > 8
        chunk = tf.constant(WIDE_ROWS) if wide else self._chunk(self.dtype.size * self.n)
        return self._kernels.gram_product(self._curved, tf.cast(weights, self.dtype), chunk, V)

    def is_narrow(self, V: tf.Tensor | np.ndarray) -> bool:
        """Return whether a product with this block is BLAS': a lone column's on a CPU."""
        return V.shape[1] == 1 and not self._on_gpu

    def narrow_gram_product(self, weights: tf.Tensor, V: np.ndarray) -> np.ndarray:
        """Return `gram_product` of one column, as an array.

        It is bound by memory: a chunk comes from there for A v, and from the second-level cache for
        the product with A^T. The chunks' products are added in float64.
        """
        A, x = view(self._curved), V[:, 0]
        weights, out = view(weights).astype(A.dtype, copy=False), np.zeros(self.n)
        gemv, few = get_blas_funcs("gemv", (A,)), LONE_BYTES // (A.itemsize * self.n)
        few = max(few, LONE_ROWS)
        with np.errstate(over="ignore", invalid="ignore"):  # who asked looks at the product
            for start in range(0, self.rows, few):
                part = A[start : start + few].T  # in Fortran's order, without a copy
                scores = gemv(1, part, x, trans=1)
                scores *= weights[start : start + few]
                out += gemv(1, part, scores)
        return out[:, None].astype(A.dtype, copy=False)

    @property
    def _on_gpu(self) -> bool:
        return "GPU" in self._curved.device

    def gram(self, weights: tf.Tensor) -> tf.Tensor:
        """Return A^T diag(weights) A: (n, n).

        2 rows n^2 operations, and half of them on a CPU where no weight is negative.
        """
        weights = tf.cast(weights, self.dtype)
        if self._on_gpu or np.any(view(weights) < 0):
            return self._kernels.gram(self._curved, weights, tf.constant(WIDE_ROWS))
        A, roots = view(self._curved), np.sqrt(view(weights))
        out = np.zeros((self.n, self.n), A.dtype)
        for start in range(0, self.rows, WIDE_ROWS):
            rows = slice(start, start + WIDE_ROWS)
            scaled = A[rows] * roots[rows, None]
            out += scaled.T @ scaled  # by BLAS' syrk: half of the operations
        return tf.constant(out)

    def adjoint_by_row_block(self, r: tf.Tensor) -> np.ndarray:
        return view(self._exact_kernels.adjoint_by_row_block(self._given, r, self._chunk()))

    def gram_product_by_row_block(self, weights: tf.Tensor, V: tf.Tensor) -> tf.Tensor:
        given = self._curved, tf.cast(weights, self.dtype), self._chunk()
        return self._kernels.gram_product_by_row_block(*given, V)

    def gram_by_row_block(self, weights: tf.Tensor) -> tf.Tensor:
        given = self._curved, tf.cast(weights, self.dtype), self._chunk()
        return self._kernels.gram_by_row_block(*given)

    def compile(self) -> None:
        """Trace and optimise the products on one row, so that no timed product does."""
        row, one = self._given[:1], tf.constant(1)
        self._exact_kernels.forward(row, tf.zeros([self.n], tf.float64), one)
        self._exact_kernels.adjoint(row, tf.zeros([len(row)], tf.float64), one)
        row, weights = self._curved[:1], tf.zeros([len(row)], self.dtype)
        self._kernels.gram_product(row, weights, one, tf.zeros([self.n, 1], self.dtype))
        if self._on_gpu:
            self._kernels.gram(row[:, :1], weights, one)


class SparseDesign:
    """A sparse (rows, n) shard: one CSR matrix for both directions.

    Same methods as `DenseDesign`. Narrow products are SciPy's, by one thread and in one sweep
    (`curvature.sparse`): measured on text, a lone one takes a sixth of the time of TensorFlow's in
    float64, and half in float32. Wide blocks, of `WIDE` columns and more, are TensorFlow's.

    Memory: the data themselves, and copies of their values in float64 and in `dtype` where they are
    of another type. With the first wide block also A and A^T in `dtype`, each with 12 bytes a
    nonzero, or 8 in float32.
    """

    def __init__(self, X: scipy.sparse.csr_array, dtype: tf.DType, blocks: RowBlocks | None = None):
        self.rows, self.n = X.shape
        self.dtype = dtype
        self._given, self._curved = X, sparse.in_type(X, dtype.as_numpy_dtype)
        self._chunks = sparse.row_chunks(X)
        self._local = blocks.local if blocks is not None else ()
        self._blocks = [SparseDesign(X[rows], dtype) for rows in self._local]

    def exact(self) -> "SparseDesign":
        other = copy.copy(self)
        other.dtype, other._curved = tf.float64, self._matrix
        other.__dict__.pop("_pair", None)
        other._blocks = [block.exact() for block in self._blocks]
        return other

    @property
    def lone_cost(self) -> float:
        return SPARSE_LONE_COST[self.dtype.name]

    @property
    def column_work(self) -> float:
        return column_work(self._given, self.dtype)

    @functools.cached_property
    def _matrix(self) -> scipy.sparse.csr_array:
        """A in float64."""
        return sparse.in_type(self._given, np.float64)

    @functools.cached_property
    def _pair(self) -> tuple["_Csr", "_Csr"]:
        """A and A^T in TensorFlow."""
        return _Csr(self._curved), _Csr(self._curved.T.tocsr())

    def curvature(self, weights: tf.Tensor) -> "GramCurvature":
        return GramCurvature(self, tf.cast(weights, self.dtype))

    def forward(self, v: np.ndarray) -> tf.Tensor:
        return tf.constant(self._matrix @ v)  # each row alone, whatever the blocks

    def adjoint(self, r: tf.Tensor) -> np.ndarray:
        return self._matrix.T @ view(r)

    def gram_product(self, weights: tf.Tensor, V: tf.Tensor) -> tf.Tensor:
        if self.is_narrow(V):
            return tf.constant(self.narrow_gram_product(weights, view(V)))
        weights = tf.cast(weights, self.dtype)[:, None]
        return self.transposed_product(weights * self.block_product(V))

    def block_product(self, V: tf.Tensor) -> tf.Tensor:
        """Return A V in `dtype` by TensorFlow: (n, k) to (rows, k)."""
        return self._pair[0] @ V

    def transposed_product(self, U: tf.Tensor) -> tf.Tensor:
        """Return A^T U in `dtype` by TensorFlow: (rows, k) to (n, k)."""
        return self._pair[1] @ U

    def is_narrow(self, V: tf.Tensor | np.ndarray) -> bool:
        """Return whether a product with this block is SciPy's."""
        return V.shape[1] < WIDE[self.dtype.name]

    def narrow_gram_product(self, weights: tf.Tensor, V: np.ndarray) -> np.ndarray:
        """Return `gram_product` of a narrow array, as an array."""
        return sparse.gram_product(self._curved, self._chunks, view(weights), V)

    def two_way_product(
        self, between: Callable[[slice, np.ndarray], object], V: np.ndarray
    ) -> np.ndarray:
        """Return A^T f(A V) in `dtype`, as `sparse.two_way_product`."""
        return sparse.two_way_product(self._curved, self._chunks, between, V)

    def gram(self, weights: tf.Tensor) -> tf.Tensor:
        """Return A^T diag(weights) A, by block products with the unit vectors."""
        units = tf.eye(self.n, dtype=self.dtype)
        panels = (units[:, start : start + 256] for start in range(0, self.n, 256))
        return tf.concat([self.gram_product(weights, panel) for panel in panels], axis=1)

    def adjoint_by_row_block(self, r: tf.Tensor) -> np.ndarray:
        return view(self._stacked("adjoint", tf.zeros([0, self.n], r.dtype), r))

    def gram_product_by_row_block(self, weights: tf.Tensor, V: tf.Tensor) -> tf.Tensor:
        return self._stacked("gram_product", tf.zeros([0, *V.shape], V.dtype), weights, V)

    def gram_by_row_block(self, weights: tf.Tensor) -> tf.Tensor:
        return self._stacked("gram", tf.zeros([0, self.n, self.n], self.dtype), weights)

    def _stacked(self, method: str, none: tf.Tensor, by_row: tf.Tensor, *shared) -> tf.Tensor:
        """Return a product of each block of rows; `none` is that of no blocks."""
        pairs = zip(self._blocks, self._local, strict=True)
        parts = [getattr(block, method)(by_row[rows], *shared) for block, rows in pairs]
        return tf.stack(parts) if parts else none

    def compile(self) -> None:
        """Nothing to trace: the products are single operations."""


@dataclass(frozen=True)
class GramCurvature(ShardCurvature):
    """A^T diag(weights) A of a shard: its sum of d a a^T."""

    design: DenseDesign | SparseDesign
    weights: tf.Tensor
    assembles = True

    @property
    def lone_cost(self) -> float:  # type: ignore[override]
        return self.design.lone_cost

    @property
    def column_work(self) -> float:  # type: ignore[override]
        return self.design.column_work

    def product(self, V: tf.Tensor) -> tf.Tensor:
        return self.design.gram_product(self.weights, V)

    def product_of_array(self, V: np.ndarray) -> np.ndarray:
        if self.design.is_narrow(V):  # without tensors
            return self.design.narrow_gram_product(self.weights, V)
        return super().product_of_array(V)

    def product_by_row_block(self, V: tf.Tensor) -> tf.Tensor:
        return self.design.gram_product_by_row_block(self.weights, V)

    def dense(self) -> tf.Tensor:
        return self.design.gram(self.weights)

    def dense_by_row_block(self) -> tf.Tensor:
        return self.design.gram_by_row_block(self.weights)


class _Csr:
    """A sparse matrix in TensorFlow; ``A @ V`` for a dense block."""

    def __init__(self, X: scipy.sparse.csr_array):
        self.rows = X.shape[0]
        self.empty = X.nnz == 0  # TensorFlow's product divides by the number of nonzeros
        X = X if X.has_sorted_indices else X.sorted_indices()  # a copy: others share the indices
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


def each_chunk(part: Callable, held: tf.Tensor, chunk: tf.Tensor):
    """Return a TensorArray of part(rows) for each chunk of the rows held, and how many there are.

    TensorFlow joins at least one tensor: where no rows are held, there is that of an empty chunk.
    """
    count, first = (held + chunk - 1) // chunk, part(slice(0, chunk))
    parts = tf.TensorArray(
        first.dtype, tf.maximum(count, 1), infer_shape=False, element_shape=first.shape
    )

    def step(i, parts):
        return i + 1, parts.write(i, part(slice(i * chunk, (i + 1) * chunk)))

    parts = tf.while_loop(
        lambda i, _: i < count, step, (1, parts.write(0, first)), parallel_iterations=1
    )[1]
    return parts, count


@functools.cache
def _dense_kernels(name: str) -> SimpleNamespace:
    """Return compiled products with a dense matrix of type `name`, traced once for all shapes.

    All but `forward` take the matrix, a vector by its rows, how many rows make a chunk, and what
    the chunks share. The chunks' products are added one after the other, or stacked.
    """
    count, exact = tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.float64)
    matrix, weights = tf.TensorSpec([None, None], name), tf.TensorSpec([None], name)

    def compiled(kernel, *specs):
        return tf.function(kernel, input_signature=[matrix, *specs], autograph=False)

    def forward(A, v, chunk):
        def part(rows):
            return tf.linalg.matvec(tf.cast(A[rows], tf.float64), v)

        return each_chunk(part, tf.shape(A)[0], chunk)[0].concat()

    def adjoint(A, r):
        return tf.linalg.matvec(tf.cast(A, tf.float64), r, transpose_a=True)

    def gram_product(A, weights, V):
        return tf.matmul(A, weights[:, None] * tf.matmul(A, V), transpose_a=True)

    def gram(A, weights):
        return tf.matmul(A, weights[:, None] * A, transpose_a=True)

    def summed(product, *specs):
        def kernel(A, by_row, chunk, *shared):
            def addend(start):
                rows = slice(start, start + chunk)
                return product(A[rows], by_row[rows], *shared)

            def step(start, total):
                return start + chunk, total + addend(start)

            held, first = tf.shape(A)[0], (chunk, addend(0))
            return tf.while_loop(lambda start, _: start < held, step, first, parallel_iterations=1)[
                1
            ]

        return compiled(kernel, *specs)

    def stacked(product, *specs):
        def kernel(A, by_row, chunk, *shared):
            def part(rows):
                return product(A[rows], by_row[rows], *shared)

            parts, blocks = each_chunk(part, tf.shape(A)[0], chunk)
            return parts.stack()[:blocks]

        return compiled(kernel, *specs)

    return SimpleNamespace(
        forward=compiled(forward, exact, count),
        adjoint=summed(adjoint, exact, count),
        adjoint_by_row_block=stacked(adjoint, exact, count),
        gram_product=summed(gram_product, weights, count, matrix),
        gram_product_by_row_block=stacked(gram_product, weights, count, matrix),
        gram=summed(gram, weights, count),
        gram_by_row_block=stacked(gram, weights, count),
    )
