"""The logistic regression problem: loss, gradient and Hessian products against closed forms."""

import numpy as np
import pytest
import scipy.sparse
import scipy.special
from oracles import check_operator
from shards import block_rows, own_rows

from hesscomp.curvature.hessian import HessianOperator
from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.problems.rows import RowSet

pytestmark = pytest.mark.ranks
ROWS, N = 301, 17


def whole(density=1.0):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((ROWS, N)) * (rng.random((ROWS, N)) < density)
    y = np.where(rng.random(ROWS) < 0.4, 1.0, -1.0)
    return X, y, rng.standard_normal(N)


def cut(world, X, y, how):
    rows = own_rows(world, ROWS, how)
    return X[rows], y[rows]


@pytest.mark.parametrize("how", ["even", "uneven", "first empty"])
@pytest.mark.parametrize("storage", ["dense", "float32", "sparse"])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 2e-6)])
def test_against_closed_forms(world, how, storage, dtype, tolerance):
    X, y, x = whole(0.2 if storage == "sparse" else 1.0)
    if storage == "float32":
        X = X.astype(np.float32)
    part, labels = cut(world, X, y, how)
    if storage == "sparse":
        part = scipy.sparse.csr_array(part)
    ridge = 0.01
    problem = LogisticRegression(from_arrays(part, labels, world), world, ridge=ridge, dtype=dtype)
    problem.compile()
    X = X.astype(np.float64)
    t = y * (X @ x)
    objective, gradient = problem.objective_and_gradient(x)
    assert objective == pytest.approx(np.mean(np.logaddexp(0, -t)) + ridge / 2 * x @ x, rel=1e-14)
    expected = -X.T @ (y * scipy.special.expit(-t)) / ROWS + ridge * x
    np.testing.assert_allclose(gradient, expected, atol=1e-14)
    weights = scipy.special.expit(t) * scipy.special.expit(-t)
    dense = X.T @ (weights[:, None] * X) / ROWS
    check_operator(HessianOperator(problem, x), dense, tolerance)
    assert problem.fingerprint.startswith("sha256:")


def test_a_block_product_is_one_reduction_of_n_k_words(world):
    X, y, x = whole()
    problem = LogisticRegression(from_arrays(*cut(world, X, y, "even"), world), world)
    hessian = HessianOperator(problem, x)
    ledger = world.ledger
    for columns in (1, 7, 40):
        before = (ledger.reductions, ledger.words_reduced, ledger.passes)
        hessian @ np.ones((N, columns))
        after = (ledger.reductions, ledger.words_reduced, ledger.passes)
        assert np.subtract(after, before).tolist() == [1, N * columns, 1]


def test_any_margin_is_safe(world):
    X = np.array([[1e4], [-1e4], [0.0]])
    y = np.array([-1.0, 1.0, 1.0])
    rows = slice(None) if world.rank == 0 else slice(0, 0)
    problem = LogisticRegression(
        from_arrays(X[rows], y[rows], world), world, ridge=0.0, dtype="float64"
    )
    for scale in (1e100, 1e-300, -1e100):
        objective, gradient = problem.objective_and_gradient(np.array([scale]))
        assert not np.isnan(objective) and np.isfinite(gradient).all()
    objective, _ = problem.objective_and_gradient(np.array([1.0]))
    assert objective == pytest.approx((2e4 + np.log(2)) / 3, rel=1e-15)
    hessian = HessianOperator(problem, np.array([1.0]))
    assert np.isfinite(hessian @ np.ones(1)).all()


def test_chunks_of_rows_do_not_matter(world, monkeypatch):
    from hesscomp.curvature import design

    X, y, x = whole()
    V = np.random.default_rng(0).standard_normal((N, 12))
    results = []
    for chunk in (1, 64, 2**20):
        monkeypatch.setattr(design, "CHUNK_BYTES", 8 * N * chunk)
        monkeypatch.setattr(design, "WIDE_ROWS", chunk)
        shard = from_arrays(*cut(world, X.astype(np.float32), y, "uneven"), world)
        problem = LogisticRegression(shard, world, dtype="float64")
        hessian = HessianOperator(problem, x)
        results.append(
            (
                hessian @ V,
                hessian @ V[:, 0],
                hessian.to_dense(),
                problem.objective_and_gradient(x)[1],
            )
        )
    for other in results[1:]:
        for left, right in zip(results[0], other, strict=True):
            np.testing.assert_allclose(left, right, atol=1e-13)


def test_accuracy_counts_all_ranks(world):
    X, y, x = whole()
    dataset = from_arrays(*cut(world, X, y, "uneven"), world)
    problem = LogisticRegression(dataset, world)
    assert problem.accuracy(x, dataset.train) == pytest.approx(np.mean((X @ x > 0) == (y > 0)))


def test_bad_arguments(world):
    X, y, _ = whole()
    dataset = from_arrays(*cut(world, X, y, "even"), world)
    for bad in ({"ridge": -1.0}, {"ridge": np.nan}, {"dtype": "float16"}):
        with pytest.raises(InputError):
            LogisticRegression(dataset, world, **bad)
    problem = LogisticRegression(dataset, world)
    with pytest.raises(InputError, match="has 17 parameters"):
        problem.check_point(np.zeros(3))
    with pytest.raises(InputError, match="not finite"):
        problem.check_point(np.full(N, np.inf))


def test_a_sample_has_its_share_on_every_rank_and_no_row_is_favoured(world):
    X, y, _ = whole()
    rows, taken, draws = block_rows(world, ROWS), np.zeros(ROWS), 500
    data = RowSet.of((X[rows], y[rows]), world)
    for seed in range(draws):
        kept = data.picked(0.1, seed)
        assert abs(np.count_nonzero(kept) - 0.1 * len(data.X)) <= 2
        taken[rows] += kept
    taken = world.sum(taken)
    assert taken.sum() == 30 * draws
    p = 30 / ROWS
    assert np.abs(taken / draws - p).max() < 5 * np.sqrt(p * (1 - p) / draws)
    everywhere = RowSet.of((X, y), World.serial()).picked(0.3, 7)
    np.testing.assert_array_equal(data.picked(0.3, 7), everywhere[rows])


def test_a_sample_of_a_sample(world):
    """In reproducible mode, where rows are counted instead of copied, the same rows."""
    X, y, x = whole()
    found, predicted = [], []
    for reproducible in (False, True):
        theirs = World(world.comm, reproducible=reproducible)
        rows = block_rows(world, ROWS)
        problem = LogisticRegression(from_arrays(X[rows], y[rows], theirs), theirs)
        outer = problem.sampled(0.6, 1)
        inner = outer.sampled(0.5, 1)
        assert inner.rows == round(0.5 * round(0.6 * ROWS))
        assert inner.run_identity(x)["sample"] == "0.6, seed 1; 0.5, seed 1"
        found.append((inner.rows, *inner.objective_and_gradient(x)))
        right = world.sum(np.array(inner.right_predictions(x), dtype=np.int64)).tolist()
        predicted.append(right)
        assert right[1] == inner.rows
    assert predicted[0] == predicted[1]
    (rows, objective, gradient), (again, value, slope) = found
    assert rows == again and value == pytest.approx(objective, rel=1e-14)
    np.testing.assert_allclose(slope, gradient, atol=1e-14)
