"""Hierarchical compressions: known answers, tolerances, the choice of a format, ranks."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
from oracles import Sharded, check_factor, matrix, random_hbs

import hesscomp as hc
from hesscomp.compression import (
    FORMATS,
    compress,
    compress_beside,
    compress_with_prior,
    correct_hierarchical,
    update_factor,
    update_hierarchical,
)
from hesscomp.compression.sketch import GaussianSketch
from hesscomp.errors import InputError
from hesscomp.factors import Diagonal, Factor, Provenance, Tree, load_factor, save_factor
from hesscomp.factors.certificate import UNKNOWN
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import Replicated
from hesscomp.parallel.world import World

N = 512


def exponential(points: np.ndarray, length: float) -> np.ndarray:
    points = points.reshape(len(points), -1)
    return np.exp(-np.linalg.norm(points[:, None] - points, axis=2) / length)


def line(n: int = N) -> np.ndarray:
    return exponential(np.sort(np.random.default_rng(0).uniform(size=n)), 0.1)


def grid(side: int) -> np.ndarray:
    axis = np.arange(side) / (side - 1)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def relative(factor, H: np.ndarray) -> float:
    return float(np.linalg.norm(factor.to_dense() - H) / np.linalg.norm(H))


def test_a_kernel_on_a_line_is_exact():
    H = line(1024)
    factor = hc.compress(H, rank=8, format="hbs", leaf_size=16, sketch_columns=34)
    assert relative(factor, H) < 1e-13 and factor.provenance.columns == 34 + 8
    usual = hc.compress(H, rank=8, format="hbs", leaf_size=16)
    assert usual.provenance.columns == 2 * (16 + 8) + 8 and usual.provenance.method == "hbs"


@pytest.mark.parametrize("n", [1, 2, 3, 17, 30])
def test_ranks_above_the_leaves_sizes(n):
    """The sketch is as wide as these need; small matrices are assembled."""
    H = matrix("polynomial", signs=True, n=n)
    for format, rank in (("hbs", 40), ("hbs", None), ("auto", None)):
        factor = hc.compress(H, rank, None if rank else 1e-9, format=format)
        assert relative(factor, H) < 1e-8


@pytest.mark.parametrize(
    ("leaf_size", "columns", "rank", "least"), [(64, 184, 24, 4e-3), (128, 368, 48, 3.5e-4)]
)
def test_a_kernel_on_a_plane(leaf_size, columns, rank, least):
    points = grid(32)
    H = exponential(points, 0.2)
    factor = hc.compress(
        H, rank=rank, format="hbs", ordering=points, leaf_size=leaf_size, sketch_columns=columns
    )
    error, known = relative(factor, H), factor.certificate
    assert error <= least and known.converged
    assert abs(known.relative_error / error - 1) < 0.1 and known.estimator == "probes"
    assert known.spectral_error_bound > np.linalg.norm(factor.to_dense() - H, 2)


@pytest.mark.parametrize("ragged", [False, True])
def test_exact_matrices_are_recovered(ragged, tmp_path):
    given = random_hbs(201, 8, 4, np.random.default_rng(1), ragged)
    H = given.to_dense()
    factor = hc.compress(H, rank=4, format="hbs", tree=given.tree, seed=3, sketch_columns=8 + 4 + 6)
    assert relative(factor, H) < 1e-12 and factor.provenance.columns == 18 + 8
    assert np.all(factor.ranks <= given.ranks)
    shift = 0.2
    F = H + shift * np.eye(201)
    np.testing.assert_allclose(factor.logdet(shift), np.linalg.slogdet(F), rtol=1e-10)
    assert factor.inertia(shift).negative == np.sum(scipy.linalg.eigvalsh(F) < 0)
    b = np.ones(201)
    np.testing.assert_allclose(F @ factor.solve(b, shift), b, atol=1e-9)
    check_factor(factor, tmp_path)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
def test_tolerances_are_met_by_small_factors(tolerance):
    points = grid(24)
    H = exponential(points, 0.3)
    factor = hc.compress(H, tolerance=tolerance, format="hbs", ordering=points, leaf_size=32)
    known = factor.certificate
    assert known.converged and known.relative_error <= tolerance
    assert tolerance / 4 < relative(factor, H) < 1.15 * tolerance


def test_a_sketch_grows_by_further_columns_of_the_same_matrix():
    """So the factor is that of a sketch which was so wide at once; at last H is assembled."""
    H, calls = exponential(grid(24), 0.3), []

    class Counted(MatrixOperator):
        def block_product(self, V):
            calls.append(V.shape[1])
            return super().block_product(V)

    options = {"tolerance": 2e-3, "format": "hbs", "leaf_size": 16}
    grown = compress(Counted(H), sketch_columns=40, ordering=grid(24), **options)
    assert calls[0] == 48 and len(calls) > 2 and calls[-1] == 8
    wide = sum(calls[:-1]) - 8
    at_once = compress(MatrixOperator(H), sketch_columns=wide, ordering=grid(24), **options)
    np.testing.assert_allclose(grown.leaf_blocks, at_once.leaf_blocks, atol=1e-10)
    np.testing.assert_array_equal(grown.ranks, at_once.ranks)
    hard = matrix("polynomial", signs=True, n=96)
    factor = hc.compress(hard, tolerance=1e-6, format="hbs", leaf_size=8)
    assert factor.provenance.columns < 2 * 96 and factor.provenance.method == "dense"
    assert relative(factor, hard) < 1e-6 and factor.certificate.converged


def test_a_tolerance_out_of_reach_is_told():
    H = exponential(grid(24), 0.3)
    factor = hc.compress(H, tolerance=1e-6, max_rank=4, format="hbs", leaf_size=32)
    assert not factor.certificate.converged and factor.ranks.max() == 4
    assert factor.certificate.relative_error > 1e-6


def test_columns_and_numbers_do_not_grow_with_n():
    """The operations follow from them: those of a node depend on its rows and columns alone."""
    columns, numbers = [], []
    for n in (2**10, 2**13):
        column = np.exp(-np.arange(n) / (0.1 * n))

        class Toeplitz(Operator):
            def block_product(self, V, column=column):
                return scipy.linalg.matmul_toeplitz(column, V)

        operator = Toeplitz(n, World.serial(), psd=True)
        factor = compress(operator, rank=8, format="hbs", leaf_size=16)
        assert factor.certificate.relative_error < 1e-13
        columns.append(factor.provenance.columns)
        numbers.append(factor.numbers / n)
        tight = compress(operator, tolerance=1e-6, format="hbs", leaf_size=16)
        assert tight.ranks.max() <= 2
    assert columns == [56, 56] and numbers[1] < 1.02 * numbers[0]


def test_auto_takes_the_smallest_that_meets_the_tolerance():
    tables = []
    H = line()
    factor = hc.compress(H, tolerance=1e-3, format="auto", on_choice=tables.append)
    assert factor.kind == "hbs" and factor.certificate.converged and relative(factor, H) < 1e-3
    (table,) = tables
    assert [each.format for each in table.candidates] == list(FORMATS)
    low_rank, hbs = table.candidates[:2]
    assert low_rank.error > 1e-3 > hbs.error and table.chosen == "hbs"
    assert low_rank.columns == hbs.columns == factor.provenance.columns - 8
    assert f"{hbs.numbers:.1f}" in str(table) and "taken" in str(table)


@pytest.mark.parametrize("signs", [False, True])
def test_auto_takes_low_rank_where_it_wins(signs):
    n, rng = 400, np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    w = 10.0 ** (-np.arange(n) / 8) * np.where(np.arange(n) % 2, -1.0 if signs else 1.0, 1.0)
    H = (Q * w) @ Q.T
    factor = hc.compress(H, tolerance=1e-2, format="auto", psd=not signs)
    assert factor.kind == "low-rank" and factor.rank < 30
    assert factor.certificate.converged and relative(factor, H) < 1.1e-2


def test_auto_takes_no_more_columns_than_the_matrix_has():
    """Where each format would need more, the matrix is assembled, and its formats are compared."""
    n, rng, tables = 150, np.random.default_rng(0), []
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    H = (Q * (-0.97) ** np.arange(n)) @ Q.T
    factor = hc.compress(H, tolerance=0.05, format="auto", on_choice=tables.append, leaf_size=16)
    (table,) = tables
    sketched = table.candidates[0].columns - n
    assert factor.provenance.columns == n + sketched < 2 * n
    assert factor.certificate.converged and relative(factor, H) < 0.055


def test_a_nearby_matrix_takes_over_tree_and_ranks():
    points = grid(24)
    H, later = exponential(points, 0.3), exponential(points, 0.33)
    before = hc.compress(H, tolerance=1e-3, format="hbs", ordering=points, leaf_size=32)
    factor = hc.compress(later, format="hbs", start=before)
    assert factor.tree == before.tree and np.all(factor.ranks <= before.ranks)
    assert factor.provenance.columns < before.provenance.columns
    assert relative(factor, later) < 3e-3
    change = correct_hierarchical(MatrixOperator(later), before, rank=6)
    assert relative(change, later) < 0.3 * relative(before, later)
    known = change.certificate.relative_error
    assert abs(known / relative(change, later) - 1) < 0.3
    assert change.provenance.columns < factor.provenance.columns


@pytest.mark.ranks(most=4)
@pytest.mark.parametrize("rows", [False, True])
def test_low_rank_updates(world, rows):
    given = random_hbs(90, 8, 3, np.random.default_rng(1))
    factor = given.in_layout(Replicated(90, world))
    if rows:
        factor = factor.in_layout(Sharded(np.eye(90), world, True).in_rows().layout)
    B, c = np.random.default_rng(2).standard_normal((90, 2)), np.array([1.0, -2.0])
    updated = update_hierarchical(factor, factor.layout.local(B), c)
    np.testing.assert_allclose(updated.to_dense(), given.to_dense() + (B * c) @ B.T, atol=1e-7)
    assert np.all(updated.ranks <= given.ranks + 2)
    back = update_hierarchical(updated, factor.layout.local(B), -c)
    np.testing.assert_allclose(back.to_dense(), given.to_dense(), atol=1e-7)
    assert np.all(back.ranks <= given.ranks)
    with pytest.raises(InputError, match="2 columns takes as many finite weights"):
        update_hierarchical(factor, factor.layout.local(B), np.ones(3))


def test_updates_of_factors_that_were_read(tmp_path):
    save_factor(random_hbs(40, 8, 3, np.random.default_rng(1)), tmp_path / "f.h5")
    factor = load_factor(tmp_path / "f.h5")
    updated = update_hierarchical(factor, np.ones(40))
    np.testing.assert_allclose(updated.to_dense(), factor.to_dense() + 1, atol=1e-7)
    assert updated.world is None


@pytest.mark.ranks(most=4)
@pytest.mark.parametrize("format", ["hbs", "auto"])
def test_ranks_share_a_compression(world, format, shared_tmp):
    """Equal to rounding in both layouts; leaves on ranks that hold none of their rows."""
    H = line(300)
    order = np.random.default_rng(0).permutation(300)
    H = H[np.ix_(order, order)]
    options = {"tolerance": 1e-5, "format": format, "ordering": np.argsort(order), "leaf_size": 12}
    alone = compress(MatrixOperator(H), **options)
    for layout in ("replicated", "rows"):
        factor = compress(Sharded(H, world, True), layout=layout, **options)
        assert factor.kind == "hbs" and factor.layout.name == layout
        np.testing.assert_array_equal(factor.ranks, alone.ranks)
        np.testing.assert_allclose(factor.to_dense(), H, atol=1e-3)
        np.testing.assert_allclose(factor.to_dense(), alone.to_dense(), atol=1e-9)
        assert factor.provenance.columns == alone.provenance.columns
    if format == "hbs":
        factor = compress(Sharded(H, world, True), 2, format="hbs", layout="rows", leaf_size=100)
        check_factor(replace(factor, provenance=Provenance()), shared_tmp)  # seconds differ


class Single(MatrixOperator):
    """Products in float32."""

    def __init__(self, matrix, world):
        super().__init__(matrix, world, psd=True)
        self.dtype = np.dtype("float32")

    def _whole(self, V):
        return (self.matrix.astype("float32") @ V.astype("float32")).astype(np.float64)


@pytest.mark.ranks
@pytest.mark.parametrize("format", ["hbs", "auto"])
def test_sketches_are_held_in_the_precision_of_the_products(world, format):
    H = line(200)
    sketch = GaussianSketch(Single(H, world), 0, 4)
    sketch.grow(20)
    sketch.grow(12)
    assert sketch.images.dtype == sketch.seen.dtype == np.float32 and sketch.Y.dtype == np.float64
    np.testing.assert_allclose(sketch.Y, H @ sketch.Omega, atol=1e-4)
    norm = np.sqrt(np.mean(np.sum(np.hstack([sketch.Y, sketch.probes.images]) ** 2, axis=0)))
    np.testing.assert_allclose(sketch.norm, norm, rtol=1e-6)
    factor = compress(Single(H, world), tolerance=1e-3, format=format, leaf_size=10)
    assert np.linalg.norm(factor.to_dense() - H) < 1.2e-3 * np.linalg.norm(H)


REPRODUCIBLE = {  # kind of what is made of an operator, its matrix at a later point and a base
    "hbs": ("hbs", lambda H, later, base: fitted(H, "hbs")),
    "hodlr": ("hodlr", lambda H, later, base: fitted(H, "hodlr")),
    "auto": ("hbs", lambda H, later, base: fitted(H, "auto")),
    "beside": ("hbs+low-rank", lambda H, later, base: compress_beside(H, base, rank=4)),
    "prior": ("hbs+low-rank", lambda H, later, base: with_prior(later, exact(H))),
    "diagonal prior": ("diagonal+low-rank", lambda H, later, base: with_prior(later, diagonal())),
    "refit": ("hbs", lambda H, later, base: update_factor(later, base)),
    "difference": (
        "hbs+low-rank",
        lambda H, later, base: update_factor(later, base, rank=4, by="difference"),
    ),
    "update": ("hbs", lambda H, later, base: update_hierarchical(base, *change(base.layout))),
    "correction": ("hbs", lambda H, later, base: correct_hierarchical(later, base, rank=2)),
}


def fitted(operator: Operator, format: str) -> Factor:
    return compress(operator, tolerance=1e-4, format=format, leaf_size=20)


def exact(operator: Operator) -> Factor:
    return compress(operator, 2, format="hbs", leaf_size=20)


def diagonal() -> Factor:
    return Diagonal(np.linspace(1, 2, 300), certificate=UNKNOWN)


def with_prior(operator: Operator, prior: Factor) -> Factor:
    return compress_with_prior(operator, prior, rank=4)


def change(layout) -> tuple[np.ndarray, np.ndarray]:
    B = np.random.default_rng(2).standard_normal((layout.n, 2))
    return layout.local(B), np.array([1.0, -0.1])


@pytest.mark.ranks(most=4)
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("case", REPRODUCIBLE)
def test_reproducible_bits(world, rows, case):
    """Those of one rank, on any number of them."""
    kind, make = REPRODUCIBLE[case]
    points = np.sort(np.random.default_rng(0).uniform(size=300))

    def made(world) -> Factor:
        H, later = (MatrixOperator(exponential(points, each), world) for each in (0.1, 0.11))
        if rows:
            H, later = H.in_rows(), later.in_rows()
        return make(H, later, compress(H, 1, format="hbs", leaf_size=20))

    together = made(World(world.comm, reproducible=True))
    alone = made(World(World.serial().comm, reproducible=True))
    assert together.kind == kind
    for name, array in together.contents().items():
        np.testing.assert_array_equal(array, getattr(alone, name))
    assert together.provenance.reproducible and together.certificate == alone.certificate
    assert together.provenance.words_reduced == alone.provenance.words_reduced


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "hbs", "method": "eigh"}, "`method` does not go with the format hbs"),
        ({"format": "hbs", "block": 8}, "`block` does not go with the format hbs"),
        ({"format": "hbs", "power": 2}, "`power` does not go with the format hbs"),
        ({"format": "hbs", "leaf_size": 1}, "`leaf_size` must be at least 2"),
        ({"format": "hbs", "tolerance": 2.0}, "`tolerance` must be above 0 and below 1"),
        ({"format": "hbs", "ordering": "best"}, "one of natural, unit, neuron, clusters, a perm"),
        ({"format": "hbs", "ordering": "neuron"}, "names of parameter blocks, and there are none"),
        ({"format": "hbs", "ordering": np.arange(5)}, "n = 30 parameters has the shape"),
        ({"format": "hbs", "ordering": np.zeros(5)}, "30 parameters have as many coordinates"),
        ({"format": "hbs", "tree": Tree.halves(8, 2)}, "n = 8 does not fit an operator of n = 30"),
        ({"format": "hbs", "rank": 2, "sketch_columns": 2}, "2 `sketch_columns` are too few"),
        ({"format": "auto", "rank": 3}, "the format auto chooses by a `tolerance`"),
        ({"format": "best"}, "`format` must be one of auto, low-rank, hbs"),
        ({"ordering": "unit"}, "`ordering` does not go with the format low-rank"),
        ({"leaf_size": 5}, "`leaf_size` does not go with the format low-rank"),
        ({"tree": Tree.halves(30, 2)}, "do not go with the format low-rank"),
    ],
)
def test_bad_requests_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        hc.compress(np.eye(30), **options)


def test_a_hierarchical_start_is_needed():
    start = hc.compress(np.eye(30), rank=2)
    with pytest.raises(InputError, match="the format hbs starts from a hierarchical factor"):
        hc.compress(np.eye(30), format="hbs", start=start)
