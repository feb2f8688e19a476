"""HODLR factors by peeling: known answers, exact matrices, tolerances, layouts, bad input."""

import numpy as np
import pytest
from marks import two_ranks_but
from oracles import Sharded, random_hodlr, same_arrays

import hesscomp as hc
from hesscomp.compression import formats, hodlr, update_factor
from hesscomp.compression.hodlr import HodlrOptions, Peeling, compress_hodlr
from hesscomp.errors import InputError
from hesscomp.factors.provenance import metered
from hesscomp.factors.tree import Tree, kd_order
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.parallel.layout import Replicated, RowLayout
from hesscomp.parallel.world import World

pytestmark = pytest.mark.ranks

PROBES = 8
ASKED = {
    "rank": {"rank": 9},
    "tolerance": {"tolerance": 1e-6},
    "one pass": {"rank": 5, "passes": 1},
}


def exponential(points: np.ndarray, length: float) -> np.ndarray:
    points = points.reshape(len(points), -1)
    return np.exp(-np.linalg.norm(points[:, None] - points, axis=2) / length)


def grid(side: int) -> np.ndarray:
    return np.stack(np.meshgrid(*(np.arange(side) / side,) * 2), axis=2).reshape(-1, 2)


def relative_error(factor, H: np.ndarray) -> float:
    return float(np.linalg.norm(factor.to_dense() - H) / np.linalg.norm(H))


@pytest.mark.serial
def test_a_kernel_on_a_line():
    H = exponential(np.arange(1024) / 1024, 0.1)
    factor = compress_hodlr(MatrixOperator(H), Tree.halves(1024, 64), rank=8)
    assert factor.provenance.columns == 208 + PROBES
    assert relative_error(factor, H) <= 1e-13
    assert factor.block_ranks.max() == 1  # what there is; the rest of the 8 is rounding


@pytest.mark.serial
@pytest.mark.parametrize(
    ("passes", "rank", "columns", "most"),
    [(2, 24, 336, 2.5e-3), (2, 48, 528, 1.2e-4), (1, 24, 472, 4e-3)],
)
def test_a_kernel_in_the_plane(passes, rank, columns, most):
    points = grid(32)
    H, tree = exponential(points, 0.2), Tree.halves(1024, 64, kd_order(points, 64))
    factor = compress_hodlr(MatrixOperator(H), tree, rank=rank, passes=passes)
    assert factor.provenance.columns == columns + PROBES
    assert relative_error(factor, H) <= most
    np.testing.assert_allclose(
        factor.certificate.relative_error, relative_error(factor, H), rtol=0.3
    )
    np.testing.assert_allclose(factor.frobenius(), np.linalg.norm(factor.to_dense()), rtol=1e-12)


@pytest.mark.parametrize("layout", ["replicated", "rows"])
@pytest.mark.parametrize("passes", [2, 1])
@pytest.mark.parametrize(("n", "ragged"), [(128, False), (117, True)])
def test_an_exact_matrix_is_recovered(world, layout, passes, n, ragged):
    """With exactly the columns that the documentation states."""
    rank, extra = 3, 4
    exact = random_hodlr(n, 16, rank, np.random.default_rng(7), ragged)
    H, tree = exact.to_dense(), exact.tree
    operator = Sharded(H, world, False)
    if layout == "rows":
        operator = operator.in_rows(5)
    before = world.ledger.columns
    factor = compress_hodlr(operator, tree, rank=rank, oversample=extra, passes=passes)
    sides = {2: 2, 1: 3}[passes]
    columns = sides * (rank + extra) * tree.levels + tree.leaf_sizes.max() + PROBES
    assert world.ledger.columns - before == factor.provenance.columns == columns
    assert relative_error(factor, H) <= 1e-12
    np.testing.assert_array_equal(factor.block_ranks, exact.block_ranks)
    assert factor.layout.name == layout
    assert factor.certificate.relative_error <= 1e-12


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_a_tolerance_chooses_the_ranks(world, tolerance):
    points = grid(16)
    H, tree = exponential(points, 0.2), Tree.halves(256, 32, kd_order(points, 32))
    factor = compress_hodlr(Sharded(H, world, True), tree, tolerance=tolerance)
    assert relative_error(factor, H) <= tolerance and factor.certificate.converged
    assert relative_error(factor, H) >= tolerance / 20
    capped = compress_hodlr(Sharded(H, world, True), tree, tolerance=tolerance, rank=2)
    assert capped.block_ranks.max() == 2 and not capped.certificate.converged


@pytest.mark.parametrize("passes", [2, 1])
def test_a_tolerance_that_is_missed_is_tried_again(world, monkeypatch, passes):
    """Once, with a smaller share, and judged by other probes."""
    points, tolerance = grid(16), 1e-3
    H, tree = exponential(points, 0.2), Tree.halves(256, 16, kd_order(points, 16))

    def more(error, *where, usual=hodlr.cut_of_block):
        return 4 * usual(error, *where)  # as much as errors of a matrix may add up

    monkeypatch.setattr(hodlr, "cut_of_block", more)
    operator = Sharded(H, world, True)
    with monkeypatch.context() as once:
        once.setattr(hodlr, "NEAR", 0)
        missed = compress_hodlr(operator, tree, tolerance=tolerance, passes=passes)
    factor = compress_hodlr(operator, tree, tolerance=tolerance, passes=passes)
    assert not missed.certificate.converged and relative_error(missed, H) > tolerance
    assert factor.certificate.converged and relative_error(factor, H) <= tolerance
    assert factor.provenance.columns >= 2 * missed.provenance.columns  # both attempts count
    assert factor.numbers > missed.numbers


def test_the_same_bits_on_any_number_of_ranks(world):
    exact = random_hodlr(96, 12, 3, np.random.default_rng(3))
    H, tree = exact.to_dense(), exact.tree
    alone = compress_hodlr(MatrixOperator(H), tree, rank=4)
    together = compress_hodlr(MatrixOperator(H, world), tree, rank=4)
    same_arrays(alone, together)


def uneven(leaves: int, rng) -> np.ndarray:
    """Bounds of leaves of 1 to 64 rows."""
    return np.cumsum([0, 1, 64, *rng.integers(1, 65, leaves - 2)])


@pytest.mark.serial
@pytest.mark.parametrize("asked", [{"tolerance": 1e-3}, {"rank": 40}, {"rank": 12, "passes": 1}])
def test_leaves_of_many_sizes(asked):
    """Rounding stays rounding, no padding holds anything, and no rank exceeds its block."""
    rng = np.random.default_rng(0)
    bounds = uneven(32, rng)
    points = rng.random((int(bounds[-1]), 2))
    H, tree = exponential(points, 0.2), Tree(kd_order(points, 2), bounds)
    noise = rng.standard_normal(H.shape)
    factors, options = [], HodlrOptions(**asked)
    for matrix in (H, H + 1e-15 * (noise + noise.T)):
        operator = MatrixOperator(matrix)
        peeling = Peeling(operator, tree, options)
        factor = peeling.factor(metered(operator))
        assert not peeling.sides[~peeling.inside].any()
        assert not factor.form.leaves[~peeling.inside].any()
        factors.append(factor)
    one, other = (factor.to_dense() for factor in factors)
    assert np.linalg.norm(one - other) <= 1e-6 * np.linalg.norm(H)
    for level in range(tree.levels):
        sizes = np.diff(bounds[:: tree.leaves >> (level + 1)]).reshape(-1, 2).min(axis=1)
        assert (factor.block_ranks[2**level - 1 : 2 ** (level + 1) - 1] <= sizes).all()
    b = rng.standard_normal(tree.n)
    x = factor.solve(b, 3.0)
    np.testing.assert_allclose(factor @ x + 3.0 * x, b, atol=1e-9)
    signs, logs = np.linalg.slogdet(other + 3.0 * np.eye(tree.n))
    np.testing.assert_allclose(factor.logdet(3.0), (signs, logs), rtol=1e-9)
    counts = factor.inertia(3.0)
    assert counts.negative == np.sum(np.linalg.eigvalsh(other) < -3.0)


@pytest.mark.ranks(most=4)
@pytest.mark.parametrize(
    ("leaves", "most", "asked"),
    two_ranks_but(
        [(8, 64, "tolerance"), (128, 8, "one pass")],
        [(*sizes, asked) for sizes in [(8, 64), (128, 8)] for asked in ASKED],
    ),
)
def test_each_rank_holds_its_own_leaves(world, leaves, most, asked):
    """In the row layout, and all that a factor does has the same bits as on one rank."""
    rng = np.random.default_rng(4)
    bounds = np.cumsum([0, *rng.integers(1, most + 1, leaves)])
    n = int(bounds[-1])
    points, B, c = rng.random((n, 2)), rng.standard_normal((n, 2)), np.array([2.0, -1.0])
    H, tree = exponential(points, 0.3), Tree(kd_order(points, 2), bounds)
    everything = []
    for comm in (world.comm, World.serial().comm):
        operator = MatrixOperator(H, World(comm, reproducible=True)).in_rows()
        factor = compress_hodlr(operator, tree, **ASKED[asked])
        updated = factor.update(operator.layout.local(B), c, 1e-3)
        everything.append(found := [])
        for each in (factor, updated, updated.update(operator.layout.local(B), -c)):
            rows, whole = each.layout, each.in_layout(Replicated(n, each.world))
            held = each.leaf_blocks.size + each.sides.size
            assert rows.world.sum(np.array([held]))[0] == each.numbers == whole.numbers
            if each.world.size > 1 and leaves > 8:
                assert held <= 0.7 * each.numbers
            blocks = each @ rows.local(B), each.solve(rows.local(B), 3.0), each.diagonal()[:, None]
            counts = each.inertia(0.5)
            found += [
                *each.contents().values(),
                *(rows.whole(block) for block in blocks),
                np.array([each.trace(), each.norm(), each.frobenius(), *each.logdet(3.0)]),
                np.array([counts.negative, counts.zero, counts.positive]),
                whole @ B, whole.solve(B, 3.0),
            ]  # fmt: skip
            np.testing.assert_array_equal(found[-2], rows.whole(blocks[0]))
            np.testing.assert_array_equal(found[-1], rows.whole(blocks[1]))
        dense = factor.to_dense()
        np.testing.assert_allclose(updated.to_dense(), dense + (B * c) @ B.T, atol=3e-3 * n)
        w = np.linalg.eigvalsh(dense)
        assert factor.inertia(0.5).negative == np.sum(w < -0.5)
        np.testing.assert_allclose(factor.norm(), np.abs(w).max(), rtol=1e-9)
    for together, alone in zip(*everything, strict=True):
        np.testing.assert_array_equal(together, alone)


@pytest.mark.ranks(most=4)
def test_pivots_that_are_left_to_the_parent(world):
    """Near an eigenvalue of a leaf; what others leave does not change a node's bits."""
    rng = np.random.default_rng(2)
    alone = random_hodlr(650, 20, 4, rng)
    dense, B = alone.to_dense(), rng.standard_normal((650, 2))
    together = alone.in_layout(RowLayout(650, world))
    rows = together.layout
    for leaf in (0, 5, 17):
        order = alone.tree.permutation[alone.tree.node(alone.tree.levels, leaf)]
        shift = -float(np.linalg.eigvalsh(dense[np.ix_(order, order)])[3])
        X = alone.solve(B, shift)
        np.testing.assert_array_equal(rows.whole(together.solve(rows.local(B), shift)), X)
        assert together.logdet(shift) == alone.logdet(shift)
        assert together.inertia(shift) == alone.inertia(shift)
        np.testing.assert_allclose(dense @ X + shift * X, B, atol=1e-6)


@pytest.mark.serial
def test_an_operator_of_zeros_and_one_leaf():
    zero = compress_hodlr(MatrixOperator(np.zeros((20, 20))), Tree.halves(20, 4), tolerance=0.1)
    assert (
        zero.numbers == np.sum(zero.tree.leaf_sizes**2)
        and not zero.to_dense().any()
        and zero.certificate.converged
    )
    H = np.diag(np.arange(5.0))
    one = compress_hodlr(MatrixOperator(H), Tree.halves(5, 8), rank=1)
    np.testing.assert_allclose(one.to_dense(), H, atol=1e-14)


@pytest.mark.serial
def test_a_format_of_compress():
    """By its name, and as the table of auto estimates it: columns, numbers and error."""
    points, tables = grid(24), []
    H, options = exponential(points, 0.2), {"ordering": points, "leaf_size": 36}
    factor = hc.compress(H, rank=12, format="hodlr", **options)
    assert (factor.kind, factor.provenance.method) == ("hodlr", "peeling")
    assert factor.provenance.columns == 2 * (12 + 10) * 4 + 36 + PROBES
    factor = hc.compress(H, tolerance=1e-2, format="hodlr", **options)
    assert factor.certificate.converged and relative_error(factor, H) <= 1e-2
    hc.compress(H, tolerance=1e-2, format="auto", on_choice=tables.append, **options)
    (table,) = tables
    (estimate,) = [each for each in table.candidates if each.format == "hodlr"]
    np.testing.assert_allclose(estimate.numbers, factor.numbers / 576, rtol=0.2)
    assert estimate.rough and estimate.columns > factor.provenance.columns / 2
    assert relative_error(factor, H) / 4 < estimate.error < 4 * relative_error(factor, H)
    with pytest.raises(InputError, match="`sketch_columns` does not go with the format hodlr"):
        hc.compress(H, tolerance=1e-2, format="hodlr", sketch_columns=90)


@pytest.mark.serial
def test_auto_returns_another_format_where_hodlr_misses(monkeypatch):
    exact, tables = random_hodlr(128, 16, 3, np.random.default_rng(7)), []
    asked = {"tolerance": 1e-3, "format": "auto", "tree": exact.tree, "on_choice": tables.append}
    factor = hc.compress(exact.to_dense(), **asked)
    (table,) = tables
    assert factor.kind == table.chosen == "hodlr" and factor.certificate.converged
    error, taken = str(table).splitlines()[-1].split()[-2:]
    assert error.startswith("~") and float(error[1:]) < 1e-10 and taken == "taken"

    def too_small(operator, tree, rank, tolerance, **options):
        return compress_hodlr(operator, tree, 1, tolerance, **options)

    monkeypatch.setattr(formats, "compress_hodlr", too_small)
    factor = hc.compress(exact.to_dense(), **asked)
    _, first, second = tables
    assert factor.kind == second.chosen == "hbs" and factor.certificate.converged
    assert first.chosen == "hodlr" and second.candidates[-1].error > 1e-3
    assert "~" in str(first) and "~" not in str(second)
    assert str(second).endswith("hodlr was made and misses the tolerance of 0.001")


@pytest.mark.parametrize("layout", ["replicated", "rows"])
@pytest.mark.parametrize("passes", [2, 1])
def test_a_refit_keeps_the_rank_of_each_block(world, layout, passes):
    points = np.random.default_rng(0).random((230, 2))
    H, later = exponential(points, 0.3), exponential(points, 0.33)
    tree = Tree.halves(230, 16, kd_order(points, 16))
    operator = Sharded(H, world, True), Sharded(later, world, True)
    if layout == "rows":
        operator = tuple(each.in_rows() for each in operator)
    known = compress_hodlr(operator[0], tree, tolerance=1e-3)
    refit = update_factor(operator[1], known, passes=passes)
    np.testing.assert_array_equal(refit.block_ranks, known.block_ranks)
    assert refit.numbers == known.numbers and len(np.unique(known.block_ranks)) > 2
    assert relative_error(refit, later) < 2e-3
    alone = compress_hodlr(MatrixOperator(later), tree, known.block_ranks, passes=passes)
    np.testing.assert_allclose(refit.to_dense(), alone.to_dense(), atol=1e-9)
    asked = update_factor(operator[1], known, known.largest_rank, passes=passes)
    assert asked.numbers > refit.numbers and asked.provenance.columns > refit.provenance.columns


@pytest.mark.serial
def test_ranks_of_blocks_may_be_zero():
    exact = random_hodlr(64, 16, 3, np.random.default_rng(1))
    for oversample in (0, 4):
        ranks = np.array([0, 3, 2])
        factor = compress_hodlr(
            MatrixOperator(exact.to_dense()), exact.tree, ranks, oversample=oversample
        )
        np.testing.assert_array_equal(factor.block_ranks, ranks)


@pytest.mark.serial
def test_bad_input():
    operator, tree = MatrixOperator(np.eye(8), World.serial()), Tree.halves(8, 2)
    with pytest.raises(InputError, match="a tree over n = 9 does not fit"):
        compress_hodlr(operator, Tree.halves(9, 2), rank=2)
    with pytest.raises(InputError, match="neither `rank` nor `tolerance`"):
        compress_hodlr(operator, tree)
    for wrong in ({"rank": 0}, {"tolerance": 1.0}, {"rank": 2, "passes": 3}):
        with pytest.raises(InputError, match=f"`{[*wrong][-1]}`"):
            compress_hodlr(operator, tree, **wrong)
    for ranks in ([1, 2], [1, 2, -1], [1.0, 2.0, 1.0]):
        with pytest.raises(InputError, match="`rank` must be a number, or 3 integers"):
            compress_hodlr(operator, tree, np.array(ranks))
