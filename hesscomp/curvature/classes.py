"""Products with a shard's data matrix for several classes: the engine under softmax regression.

Of a row a with the scores T = W^T a, one for each of K classes, the curvature is
(diag(d) + s c c^T) x a a^T. A product with k columns is therefore two matrix products of K k
columns, so that even a lone one runs at the rate of wide blocks.
"""

import copy
import functools
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import scipy.sparse

from hesscomp.curvature.design import (
    ALIGNED_ROWS,
    CHUNK_BYTES,
    SPARSE_LONE_COST,
    WIDE,
    SparseDesign,
    column_work,
    each_chunk,
    weighted_squares,
)
from hesscomp.curvature.sharded import ShardCurvature
from hesscomp.curvature.tensorflow import share, tf, view
from hesscomp.parallel.rows import RowBlocks

NARROW = 2**19  # entries of tables up to which SciPy's sweep is the faster one: in the cache
SPARSE_BYTES = 2**27  # of the scores of sparse rows at once


class ClassDesign:
    """A (rows, features) shard times tables W of weights, a column for each of K classes.

    A table has one more row where there is an intercept, that of a column of ones that is not
    stored. The parameters are the entries of the table, row after row, but for those that are
    `pinned` to zero, as scores are determined only up to a common shift.

    Float64 products come from the data as they were given, curvature products of dense data from a
    copy in `dtype`, made where the data have another type; those of sparse data are a
    `SparseDesign`'s, narrow ones by SciPy in one sweep. With `blocks` each fixed block of rows is
    multiplied alone.

    Parameters
    ----------
    X : (rows, features) array or csr_array
    pinned : (features + intercept, K) booleans
        Of `linear.model.pinned_entries`.
    dtype : tf.DType
    blocks : RowBlocks, optional
    """

    def __init__(self, X, pinned: np.ndarray, dtype: tf.DType, blocks: RowBlocks | None = None):
        self.rows, self.features = X.shape
        self.table, self.free = pinned.shape, np.flatnonzero(~pinned.reshape(-1))
        self.n, self.dtype, self.blocks = len(self.free), dtype, blocks
        self.intercept = self.table[0] > self.features
        self._first = int(pinned[:1].sum())  # class with coefficients, 1 after a reference
        self.sparse = scipy.sparse.issparse(X)
        self._given = X if self.sparse else share(X)
        if self.sparse:
            held = ((each.start, each.stop, self._of(X, each)) for each in self.parts)
            self._designs = {(a, b): SparseDesign(rows, dtype) for a, b, rows in held}
        else:
            self._curved = self._in(dtype)

    def _in(self, dtype: tf.DType) -> tf.Tensor:
        """Return dense data in this type."""
        return self._given if self._given.dtype == dtype else tf.cast(self._given, dtype)

    def exact(self) -> "ClassDesign":
        """Return this design with curvature products in float64; float32 data are copied."""
        other = copy.copy(self)
        other.dtype = tf.float64
        if self.sparse:
            other._designs = {part: design.exact() for part, design in self._designs.items()}
        else:
            other._curved = self._in(tf.float64)
        return other

    @property
    def lone_cost(self) -> float:
        return SPARSE_LONE_COST["float64"] if self.sparse else ShardCurvature.lone_cost

    @property
    def column_work(self) -> float:
        """As that of a design with one column, for each of the K."""
        return column_work(self._given, self.dtype) * self.table[1]

    def forward(self, x: np.ndarray) -> tf.Tensor:
        """Return the scores in float64: (n,) to (rows, K)."""
        if self.sparse:  # each row alone, whatever the blocks
            return tf.constant(self._sparse_scores(x))
        W = self.spread(x[:, None])[:, 0]
        scores = [self._scores(part, W) for part in self.parts]
        return tf.concat([tf.zeros([0, self.table[1]], tf.float64), *scores], axis=0)

    def _scores(self, part: slice, W: tf.Tensor) -> tf.Tensor:
        A, chunk = self._of(self._given, part), self._chunk(self.table[1], 8)
        return _kernels(A.dtype.name).forward(A, W[: self.features], self._ones(W), chunk)

    def _sparse_scores(self, x: np.ndarray) -> np.ndarray:
        W, ones = self._tables(x[:, None])
        T = self._given @ W
        T += ones
        return np.hstack([np.zeros((self.rows, self._first)), T]) if self._first else T

    def adjoint(self, R: tf.Tensor) -> np.ndarray:
        """Return the table A^T R's free entries in float64: (rows, K) to (n,)."""
        return self._adjoint(R, slice(0, self.rows))

    def adjoint_by_row_block(self, R: tf.Tensor) -> np.ndarray:
        return np.reshape([self._adjoint(R, part) for part in self.parts], (-1, self.n))

    def _adjoint(self, R: tf.Tensor, part: slice) -> np.ndarray:
        A, R = (self._of(each, part) for each in (self._given, R))
        if self.sparse:
            own = view(R)[:, self._first :]
            return self._entries(A.T @ own, np.einsum("rc->c", own), 1)[:, 0]
        back = _kernels(A.dtype.name).adjoint(A, R, self._chunk(self.table[1], 8))
        return view(self.gather(back[:, None], tf.reduce_sum(R, axis=0)[None, None])[:, 0])

    def squares(self, values: np.ndarray, part: slice) -> np.ndarray:
        """Return (A * A)^T values of some rows, the table's free entries: (rows, K) to (n,)."""
        values, total = values[part], np.zeros(self.table)
        A = self._of(self._given, part)
        total[: self.features] = weighted_squares(A if self.sparse else view(A), values)
        total[self.features :] = values.sum(axis=0)
        return total.reshape(-1)[self.free]

    @property
    def parts(self) -> tuple[slice, ...]:
        """The fixed blocks of rows here, or all rows at once."""
        return (slice(0, self.rows),) if self.blocks is None else self.blocks.local

    def _of(self, held, rows: slice):
        """Return rows of the data; all of them without a copy."""
        return held if rows == slice(0, self.rows) else held[rows]

    def _chunk(self, width: int, itemsize: int) -> tf.Tensor:
        """Return how many rows stay in cache with `width` numbers each, as a tensor."""
        few = CHUNK_BYTES // (itemsize * (width + self.features)) // ALIGNED_ROWS * ALIGNED_ROWS
        return tf.constant(max(few, ALIGNED_ROWS), tf.int32)

    def spread(self, V: tf.Tensor) -> tf.Tensor:
        """Return (n, k) parameters as a table, with zeros where it is pinned: (F, k, K)."""
        F, K, k = *self.table, V.shape[1]
        if self.n < F * K:
            V = tf.scatter_nd(self.free[:, None], V, [F * K, k])
        return tf.transpose(tf.reshape(V, [F, K, k]), [0, 2, 1])

    def gather(self, back: tf.Tensor, ones: tf.Tensor) -> tf.Tensor:
        """Return the free entries of (features, k, K) and a last (1, k, K), as (n, k)."""
        if self.intercept:
            back = tf.concat([back, ones], axis=0)
        flat = tf.reshape(tf.transpose(back, [0, 2, 1]), [-1, back.shape[1]])
        return flat if self.n == len(flat) else tf.gather(flat, self.free)

    def _ones(self, W: tf.Tensor) -> tf.Tensor:
        """Return the last row of a table, that of the intercept; zeros without one."""
        return (
            W[self.features :] if len(W) > self.features else tf.zeros([1, *W.shape[1:]], W.dtype)
        )

    def curvature(self, outer: tf.Tensor, sign: float, diagonal: tf.Tensor) -> "ClassCurvature":
        """Return the curvature of these terms."""
        return ClassCurvature(self, tf.cast(outer, self.dtype), sign, tf.cast(diagonal, self.dtype))

    def product(self, terms: "ClassCurvature", V: tf.Tensor, part: slice) -> tf.Tensor:
        """Return the curvature's product with (n, k) columns over the rows of a part."""
        if self.is_narrow(V):
            return tf.constant(self.narrow_product(terms, view(V), part))
        K, k = self.table[1], V.shape[1]
        W = tf.reshape(self.spread(V), [-1, k * K])
        c, d = (self._of(each, part) for each in (terms.outer, terms.diagonal))
        sign, first, ones = tf.constant(terms.sign, V.dtype), W[: self.features], self._ones(W)
        if self.sparse:
            found = self._sparse_product(part, c, d, sign, W)
        else:
            A, chunk = self._of(self._curved, part), self._chunk(3 * k * K, self.dtype.size)
            found = _kernels(A.dtype.name).product(A, c, d, sign, chunk, first, ones)
        back, ones = (tf.reshape(each, [-1, k, K]) for each in found)
        return self.gather(back, ones)

    def is_narrow(self, V: tf.Tensor | np.ndarray) -> bool:
        """Return whether a product with this block is SciPy's, in one sweep over sparse rows."""
        few = V.shape[1] * self.table[1] < WIDE[self.dtype.name]
        return self.sparse and bool(few or np.prod(V.shape) <= NARROW)

    def narrow_product(self, terms: "ClassCurvature", V: np.ndarray, part: slice) -> np.ndarray:
        """Return `product` of a narrow array, as an array."""
        W, ones = self._tables(V)
        c, d = (view(each)[part, None, self._first :] for each in (terms.outer, terms.diagonal))
        sums = np.zeros_like(ones)

        def weigh(rows, T):
            if self.intercept:
                T += ones
            each = T.reshape(len(T), -1, c.shape[2])
            shares = terms.sign * np.einsum("rkc,rkc->rk", c[rows], each)
            each *= d[rows]
            each += shares[:, :, None] * c[rows]
            if self.intercept:
                np.add(sums, np.einsum("rc->c", T), out=sums)

        back = self._designs[part.start, part.stop].two_way_product(weigh, W)
        return self._entries(back, sums.astype(back.dtype), V.shape[1])

    def _tables(self, V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, k) parameters as (features, k C) coefficients and (k C,) intercepts.

        C counts the classes with coefficients. Those of one column are a view.
        """
        (F, C), k = self._coefficients, V.shape[1]
        W = V[: F * C].reshape(F, C, k).transpose(0, 2, 1).reshape(F, k * C)
        ones = np.zeros((k, C))
        if self.intercept:
            last = V[F * C :].T
            ones[:, C - last.shape[1] :] = last
        return W, ones.reshape(-1)

    def _entries(self, back: np.ndarray, ones: np.ndarray, k: int) -> np.ndarray:
        """Return the parameters, (n, k), whose `_tables` these are."""
        F, C = self._coefficients
        found = back.reshape(F, k, C).transpose(0, 2, 1).reshape(F * C, k)
        if not self.intercept:
            return found
        return np.concatenate([found, ones.reshape(k, C).T[F * C - self.n :]])

    @property
    def _coefficients(self) -> tuple[int, int]:
        """The shape of the table of coefficients without that of a reference class."""
        return self.features, self.table[1] - self._first

    def _sparse_product(self, part: slice, c, d, sign, W: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return A^T U and the sums of U, for as many tables at once as memory holds scores of."""
        design, K = self._designs[part.start, part.stop], self.table[1]
        few = max(SPARSE_BYTES // (8 * max(design.rows, 1) * K), 1) * K
        found = []
        for first in range(0, W.shape[1], few):
            some = W[:, first : first + few]
            T = design.block_product(some[: self.features]) + self._ones(some)
            U = _weighted(T, c, d, sign)
            found.append((design.transposed_product(U), tf.reduce_sum(U, axis=0, keepdims=True)))
        back, ones = (tf.concat(each, axis=1) for each in zip(*found, strict=True))
        return back, ones

    def compile(self) -> None:
        """Trace the products on one row, so that no timed product does."""
        if self.sparse:
            return
        K, row, wide = (
            self.table[1],
            self._given[:1],
            tf.zeros([self.features, self.table[1]], "float64"),
        )
        one, exact = tf.constant(1), _kernels(row.dtype.name)
        exact.forward(row, wide, wide[:1], one)
        exact.adjoint(row, tf.zeros([len(row), K], tf.float64), one)
        row, c = self._curved[:1], tf.zeros([len(self._curved[:1]), K], self.dtype)
        W = tf.zeros([self.features, K], self.dtype)
        _kernels(row.dtype.name).product(row, c, c, tf.constant(1, self.dtype), one, W, W[:1])


@dataclass(frozen=True)
class ClassCurvature(ShardCurvature):
    """The sum over a shard's rows of (diag(d) + s c c^T) x a a^T."""

    design: ClassDesign
    outer: tf.Tensor  # c, (rows, K)
    sign: float  # s
    diagonal: tf.Tensor  # d, (rows, K)

    @property
    def lone_cost(self) -> float:  # type: ignore[override]
        return self.design.lone_cost

    @property
    def column_work(self) -> float:  # type: ignore[override]
        return self.design.column_work

    def product(self, V: tf.Tensor) -> tf.Tensor:
        return self.design.product(self, V, slice(0, self.design.rows))

    def product_of_array(self, V: np.ndarray) -> np.ndarray:
        if self.design.is_narrow(V):
            return self.design.narrow_product(self, V, slice(0, self.design.rows))
        return super().product_of_array(V)

    def product_by_row_block(self, V: tf.Tensor) -> tf.Tensor:
        parts = [self.design.product(self, V, part) for part in self.design.parts]
        return tf.stack(parts) if parts else tf.zeros([0, *V.shape], V.dtype)


def _weighted(T: tf.Tensor, c: tf.Tensor, d: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Return d T + s c (c . T) of each row, for (rows, k K) scores."""
    K, flat = c.shape[1] or tf.shape(c)[1], tf.shape(T)
    T, c, d = tf.reshape(T, [flat[0], -1, K]), c[:, None], d[:, None]
    return tf.reshape(d * T + sign * c * tf.reduce_sum(c * T, axis=2, keepdims=True), flat)


@functools.cache
def _kernels(name: str) -> SimpleNamespace:
    """Return compiled products with a dense matrix of type `name`, traced once for all shapes."""
    count, exact = tf.TensorSpec([], tf.int32), tf.TensorSpec([None, None], tf.float64)
    matrix, number = tf.TensorSpec([None, None], name), tf.TensorSpec([], name)

    def compiled(kernel, *specs):
        return tf.function(kernel, input_signature=[matrix, *specs], autograph=False)

    def forward(A, W, ones, chunk):
        def part(rows):
            return tf.matmul(tf.cast(A[rows], tf.float64), W) + ones

        return each_chunk(part, tf.shape(A)[0], chunk)[0].concat()

    def summed(addend, held, chunk):
        def step(start, *totals):
            found = addend(slice(start, start + chunk))
            return start + chunk, *(t + f for t, f in zip(totals, found, strict=True))

        first = chunk, *addend(slice(0, chunk))
        return tf.while_loop(lambda start, *_: start < held, step, first, parallel_iterations=1)[1:]

    def back(A, U):
        """Return A^T U; this order, with the short side first, is the faster one."""
        return tf.transpose(tf.matmul(U, A, transpose_a=True))

    def adjoint(A, R, chunk):
        def addend(rows):
            return (back(tf.cast(A[rows], tf.float64), R[rows]),)

        return summed(addend, tf.shape(A)[0], chunk)[0]

    def product(A, c, d, sign, chunk, W, ones):
        def addend(rows):
            U = _weighted(tf.matmul(A[rows], W) + ones, c[rows], d[rows], sign)
            return back(A[rows], U), tf.reduce_sum(U, axis=0, keepdims=True)

        return summed(addend, tf.shape(A)[0], chunk)

    return SimpleNamespace(
        forward=compiled(forward, exact, exact, count),
        adjoint=compiled(adjoint, exact, count),
        product=compiled(product, matrix, matrix, number, count, matrix, matrix),
    )
