"""Products with a shard of rows, sparse ones narrow and wide, against dense matrices."""

import numpy as np
import pytest
import scipy.sparse

from hesscomp.curvature import sparse
from hesscomp.curvature.design import SparseDesign, make_design, weighted_squares
from hesscomp.curvature.intercept import WithIntercept
from hesscomp.curvature.tensorflow import tf
from hesscomp.parallel.rows import RowBlocks

ROWS, N = 70, 12


@pytest.mark.parametrize("given", ["float32", "float64"])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 3e-5), ("float64", 1e-12)])
@pytest.mark.parametrize(
    "blocks", [None, RowBlocks(32, 3, (slice(0, 32), slice(32, 64), slice(64, 70)))]
)
def test_narrow_and_wide_products(given, dtype, tolerance, blocks):
    rng = np.random.default_rng(0)
    X = scipy.sparse.random_array((ROWS, N), density=0.3, rng=rng, format="csr").astype(given)
    backwards = X.data[::-1], X.indices[::-1], X.indptr[-1] - X.indptr[::-1]  # unsorted in a row
    X = scipy.sparse.csr_array(backwards, shape=X.shape)
    A, d = X.toarray().astype(np.float64), rng.random(ROWS)
    kept = X.copy()
    design = SparseDesign(X, tf.as_dtype(dtype), blocks)
    close = {"rtol": tolerance, "atol": tolerance}
    for columns in (1, 2, 3, 15, 16, 33):
        V = rng.standard_normal((N, columns)).astype(dtype)
        found = design.gram_product(tf.constant(d), tf.constant(V))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, A.T @ (d[:, None] * (A @ V)), **close)
        if blocks is not None:
            parts = design.gram_product_by_row_block(tf.constant(d), tf.constant(V))
            expected = [A[b].T @ (d[b, None] * (A[b] @ V)) for b in blocks.local]
            np.testing.assert_allclose(parts, expected, **close)
    v = rng.standard_normal(N)
    np.testing.assert_allclose(design.forward(v), A @ v, rtol=1e-12)
    np.testing.assert_allclose(design.adjoint(tf.constant(d)), A.T @ d, rtol=1e-12)
    np.testing.assert_allclose(design.gram(tf.constant(d)), A.T @ (d[:, None] * A), **close)
    found = design.exact().gram_product(tf.constant(d), tf.constant(v[:, None]))
    np.testing.assert_allclose(found[:, 0], A.T @ (d * (A @ v)), rtol=1e-12)
    np.testing.assert_array_equal(X.indices, kept.indices)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-4)])
@pytest.mark.parametrize("rows", [0, 1, 2100])
def test_the_gram_matrix_of_dense_rows(dtype, tolerance, rows):
    """In one chunk, in two, and of none; also with negative weights, which have no square roots."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((rows, N))
    design = make_design(A, dtype)
    for d in (rng.random(rows), rng.standard_normal(rows)):
        found = design.gram(tf.constant(d))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, A.T @ (d[:, None] * A), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("rows", [0, 1, ROWS])
def test_a_lone_product_of_dense_rows(monkeypatch, dtype, tolerance, rows):
    """By BLAS, a chunk of 16 rows after the other, with an intercept and without."""
    rng = np.random.default_rng(0)
    A, d = rng.standard_normal((rows, N)), rng.standard_normal(rows)
    for bytes_at_once in (16 * N * np.dtype(dtype).itemsize, 2**20):
        monkeypatch.setattr("hesscomp.curvature.design.LONE_BYTES", bytes_at_once)
        design = make_design(A, dtype)
        for made, B in ((design, A), (WithIntercept(design), np.hstack([A, np.ones((rows, 1))]))):
            v = rng.standard_normal((B.shape[1], 1)).astype(dtype)
            curvature, expected = made.curvature(tf.constant(d)), B.T @ (d[:, None] * (B @ v))
            for found in (curvature.product_of_array(v), curvature.product(tf.constant(v)).numpy()):
                assert found.dtype == dtype
                np.testing.assert_allclose(found, expected, rtol=tolerance, atol=20 * tolerance)


def test_sums_over_many_rows_in_float32_are_widened():
    """A column of ones has the exact number of rows, beyond which float32 adds no one."""
    rows = 2**24 + 2**20
    at = np.zeros(rows, np.int32), np.arange(rows + 1, dtype=np.int32)
    data, d, v = np.ones(rows, np.float32), np.ones(rows), np.ones((1, 1), np.float32)
    ones = scipy.sparse.csr_array((data, *at), shape=(rows, 1))
    for A in (ones, data[:, None]):
        found = make_design(A, "float32").gram_product(tf.constant(d), tf.constant(v))
        assert found.dtype == np.float32 and found[0, 0] == rows


@pytest.mark.parametrize("columns", [1, 5])
def test_one_sweep_has_the_bits_of_two(monkeypatch, columns):
    """Chunks that end in a row, rows that are longer than a chunk, and rows without an entry."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((ROWS, N)) * (rng.random((ROWS, N)) < 0.4)
    A[[0, 30, 31, -1]], A[5] = 0, 1
    A, d, V = scipy.sparse.csr_array(A), rng.random(ROWS), rng.standard_normal((N, columns))
    two = A.T @ (d[:, None] * (A @ V))
    for nonzeros in (1, 7, 100, 10_000):
        monkeypatch.setattr(sparse, "CHUNK", nonzeros)
        found = sparse.gram_product(A, sparse.row_chunks(A), d, V)
        np.testing.assert_array_equal(found, two)
    none = A[:0]
    assert not sparse.gram_product(none, sparse.row_chunks(none), d[:0], V).any()


@pytest.mark.parametrize("kind", ["dense", "sparse", "twice"])
@pytest.mark.parametrize("columns", [1, 3])
def test_weighted_squares(monkeypatch, kind, columns):
    """Against the dense matrix; `twice`: entries that are stored in two parts."""
    monkeypatch.setattr("hesscomp.curvature.design.SQUARED", 200)
    monkeypatch.setattr(sparse, "CHUNK", 50)
    rng = np.random.default_rng(3)
    A = scipy.sparse.random_array((90, 37), density=0.2, rng=rng, format="csr", dtype=np.float32)
    A.data -= 0.5
    if kind == "twice":
        part = scipy.sparse.coo_array(A)
        rows, at = (np.concatenate([each, each]) for each in part.coords)
        order = np.argsort(rows, kind="stable")
        data = np.concatenate([0.75 * part.data, 0.25 * part.data])[order]
        A = scipy.sparse.csr_array((data, at[order], 2 * A.indptr), shape=A.shape)
        assert not A.has_canonical_format
    weights, dense = rng.standard_normal((90, columns)), A.toarray().astype(np.float64)
    found = weighted_squares(dense.astype(np.float32) if kind == "dense" else A, weights)
    np.testing.assert_allclose(
        found, (dense**2).T @ weights, atol=1e-6 if kind == "twice" else 1e-13
    )
