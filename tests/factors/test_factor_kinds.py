"""Every kind of factor keeps the one contract: replicated and in rows, on any number of ranks."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from marks import two_ranks_but
from oracles import Sharded, check_factor, matrix, random_hbs, random_hodlr

from hesscomp.compression import compress
from hesscomp.errors import InputError
from hesscomp.estimators import diagonal_factor
from hesscomp.factors import (
    KINDS,
    Certificate,
    Diagonal,
    Hbs,
    Hodlr,
    Kronecker,
    LowRank,
    Provenance,
    Sparse,
    Structured,
    compare,
    load_factor,
    save_factor,
    structured,
)
from hesscomp.factors.factor import Factor
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.parallel.layout import Replicated, RowLayout

pytestmark = pytest.mark.ranks(most=4)

NAN = float("nan")


def low_rank(n: int, signs: np.ndarray, about: dict) -> LowRank:
    k = min(n, 3)
    U = np.linalg.qr(np.random.default_rng(0).standard_normal((n, k)))[0]
    return LowRank(np.array([3.0, 2.0, 0.5])[:k] * signs[:k], U, **about)


def diagonal(n: int, signs: np.ndarray, about: dict) -> Diagonal:
    return Diagonal(np.random.default_rng(0).uniform(0.5, 3.0, n) * signs, **about)


def kronecker(n: int, signs: np.ndarray, about: dict) -> Kronecker:
    """Two layers where there is room, and a diagonal before, between and after them."""
    rng = np.random.default_rng(0)
    layers = []
    for first, a, d in ((1, 2, 3), (8, 3, 1)) if n > 10 else ((0, n, 1),):
        Q, R = (np.linalg.qr(rng.standard_normal((side, side)))[0] for side in (a, d))
        s = rng.uniform(0.5, 3.0, (a, d)) * signs[: a * d].reshape(a, d)
        layers.append((first, Q, R, s))
    return Kronecker.of_layers(layers, rng.uniform(0.5, 3.0, n) * signs, **about)


def hbs(n: int, signs: np.ndarray, about: dict) -> Hbs:
    """Ragged leaves and ranks, some of them 0; semidefinite by its diagonal unless signed."""
    factor = random_hbs(n, 3, 2, np.random.default_rng(0))
    D = factor.stacks.leaves.copy()
    mask, index = factor.tree.leaf_sizes[:, None], np.arange(D.shape[1])
    D[:, index, index] += np.where(index < mask, 10.0 if signs.min() > 0 else 0.0, 0.0)
    return Hbs.of_stacks(factor.tree, replace(factor.stacks, leaves=D), **about)


def hodlr(n: int, signs: np.ndarray, about: dict) -> Hodlr:
    """Ragged leaves and ranks, some of them 0; semidefinite by its diagonal unless signed."""
    shift = 0.0 if signs.min() < 0 else 20.0
    return replace(random_hodlr(n, 3, 2, np.random.default_rng(0), shift=shift), **about)


def sparse(n: int, signs: np.ndarray, about: dict) -> Sparse:
    """A tridiagonal matrix, semidefinite by its diagonal unless signed."""
    side = -0.4 * np.ones(n - 1)
    diagonal = np.random.default_rng(0).uniform(1.0, 3.0, n) * signs
    return Sparse.of(scipy.sparse.diags([side, diagonal, side], [-1, 0, 1]), **about)


MADE = {
    "low-rank": low_rank, "diagonal": diagonal, "kronecker": kronecker, "hbs": hbs, "hodlr": hodlr,
    "sparse": sparse,
}  # fmt: skip


def plus(base):
    def made(n: int, signs: np.ndarray, about: dict) -> Structured:
        rng, k = np.random.default_rng(2), min(n, 2)
        U, w = rng.standard_normal((n, k)), np.array([1.0, signs.min()])[:k]
        return structured(MADE[base](n, signs, about), U, w, **about)

    return made


MADE |= {f"{base}+low-rank": plus(base) for base in ("diagonal", "hbs", "hodlr", "sparse")}


def made(kind: str, n: int, signed: bool, layout) -> Factor:
    """A factor whose numbers do not depend on the ranks."""
    signs = np.where(np.arange(n) % 2, -1.0, 1.0) if signed else np.ones(n)
    about = {
        "certificate": Certificate(0.1, 4.0, 0.5, True, "probes"),
        "provenance": Provenance(problem="tést", ridge=1e-3, reproducible=False, seconds=0.5),
        "parameters": np.arange(float(n)),
        "blocks": (("kernel", (n // 2, 1), 0), ("bias", (n - n // 2,), n // 2)),
    }
    return MADE[kind](n, signs, about).in_layout(layout)


def test_every_kind_is_made_here():
    assert MADE.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [12, 3, 1])
@pytest.mark.parametrize("signed", two_ranks_but([True], [False, True]))
def test_a_factor_in_either_layout(world, kind, n, signed, shared_tmp, tmp_path):
    check_factor(made(kind, n, signed, Replicated(n, world)), tmp_path)
    check_factor(made(kind, n, signed, RowLayout(n, world)), shared_tmp)


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_without_ranks(kind, tmp_path):
    check_factor(made(kind, 7, True, Replicated(7)), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_and_an_operator_add_up(world, kind):
    """Whichever of them comes first, and where the factor was read by one process."""
    n = 12
    A = matrix("polynomial", n=n)
    operator, alone = Sharded(A, world, True), made(kind, n, True, Replicated(n))
    F = alone.to_dense()
    for left, right, expected in (
        (operator, alone, A + F),
        (alone, operator, A + F),
        (operator, -alone, A - F),
    ):
        before = world.ledger.columns
        np.testing.assert_allclose((left + right) @ np.eye(n), expected, atol=1e-12)
        assert world.ledger.columns - before == n  # of the operator alone
    rows = operator.in_rows(5)
    mixed = (rows - alone) @ rows.layout.local(np.eye(n))
    np.testing.assert_allclose(rows.layout.whole(mixed), A - F, atol=1e-12)
    w = compress(operator - alone, n).eigenvalues
    np.testing.assert_allclose(np.sort(w), np.linalg.eigvalsh(A - F), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sketch_may_start_from_any_kind(world, kind):
    n = 60
    A = matrix("exponential", n=n)
    factor = compress(Sharded(A, world, True), 5, start=made(kind, n, False, Replicated(n)))
    np.testing.assert_allclose(factor.eigenvalues, 10.0 ** (-0.25 * np.arange(5)), rtol=1e-5)


@pytest.mark.parametrize("layout", ["replicated", "rows"])
@pytest.mark.parametrize("columns", [30, 150])
def test_the_diagonal_of_an_operator(world, layout, columns, shared_tmp, tmp_path):
    """Its certificate is the error: of all that is off the diagonal, and of the estimate."""
    A = matrix("polynomial", signs=True) + np.diag(np.linspace(1.0, 2.0, 150))
    operator = Sharded(A, world, False).in_layout(
        RowLayout(150, world) if layout == "rows" else Replicated(150, world)
    )
    factor = diagonal_factor(operator, columns)
    error = np.linalg.norm(A - factor.to_dense())
    certificate, source = factor.certificate, factor.provenance
    exact = columns == 150
    assert source.columns == (150 if exact else 38)
    assert (source.method, certificate.estimator) == (
        ("exact", "exact") if exact else ("xdiag", "probes")
    )
    tolerance = 1e-12 if exact else 0.35
    np.testing.assert_allclose(certificate.frobenius_error_estimate, error, rtol=tolerance)
    np.testing.assert_allclose(
        certificate.frobenius_norm_estimate, np.linalg.norm(A), rtol=min(tolerance, 0.1)
    )
    spectral = np.linalg.norm(A - factor.to_dense(), 2)
    assert spectral <= certificate.spectral_error_bound
    measured = replace(factor, provenance=replace(source, seconds=1.0))  # ranks take each its own
    check_factor(measured, shared_tmp if layout == "rows" else tmp_path)


def test_a_quantity_that_a_kind_lacks_is_named(tmp_path):
    factor = made("diagonal", 6, True, Replicated(6))
    for name in ("eigenvalues", "eigenvectors", "rank"):
        with pytest.raises(InputError, match=f"a diagonal factor has no {name}; .*low-rank"):
            getattr(factor, name)
    with pytest.raises(InputError, match="a diagonal factor has no tail"):
        factor.tail_value("last")
    with pytest.raises(InputError, match="diagonal factor has no eigen"):
        compare(factor, factor)


def test_layers_of_a_kronecker_factor():
    layers = [(2, np.eye(2), np.eye(3), np.arange(1.0, 7).reshape(2, 3))]
    blocks = (("scale", (2,), 0), ("dense/kernel", (1, 3), 2), ("dense/bias", (3,), 5))
    factor = Kronecker.of_layers(layers, np.array([9.0, 8, 0, 0, 0, 0, 0, 0]), blocks=blocks)
    assert factor.forms == {"scale": "diagonal", "dense": "2 x 3"}
    assert factor.extent == "1 Kronecker block and 2 diagonal entries"
    dense = factor.layer("dense")
    np.testing.assert_array_equal(dense.to_dense(), np.diag(np.arange(1.0, 7)))
    assert dense.blocks == (("dense/kernel", (1, 3), 0), ("dense/bias", (3,), 3))
    np.testing.assert_array_equal(factor.layer("scale").to_dense(), np.diag([9.0, 8.0]))
    with pytest.raises(InputError, match="no layer is called dens; the layers are scale, dense"):
        factor.layer("dens")
    with pytest.raises(InputError, match="dense/bias is a part of a layer's block"):
        factor.layer("dense/bias")
    with pytest.raises(InputError, match="with shift -3 is singular: 1 of its eigenvalues are 0"):
        factor.solve(np.ones(8), -3.0)
    with pytest.raises(ValueError, match="do not fit"):
        replace(factor, bases=factor.bases[1:])
    with pytest.raises(ValueError, match="overlap"):
        Kronecker.of_layers(2 * layers, np.zeros(8))


def test_singular_diagonals(tmp_path):
    factor = Diagonal(np.array([2.0, 0.0, -1.0]), certificate=Certificate(NAN, NAN))
    with pytest.raises(InputError, match="shift 0 is singular"):
        factor.solve(np.ones(3), 0.0)
    assert factor.logdet(0.0) == factor.logdet(1.0) == (0.0, -np.inf)
    counts = factor.inertia()
    assert (counts.negative, counts.zero, counts.positive) == (1, 1, 1)
    assert np.isfinite(factor.preconditioner(0.0) @ np.ones(3)).all()


def test_a_file_of_another_kind_is_replaced_with_its_slabs(world, shared_tmp):
    path, n = shared_tmp / "factor.h5", 12
    save_factor(made("low-rank", n, True, RowLayout(n, world)), path)
    save_factor(made("diagonal", n, True, RowLayout(n, world)), path)
    world.gather(None)
    assert [file.name for file in shared_tmp.iterdir()] == ["factor.h5"]
    assert load_factor(path).kind == "diagonal"


def test_products_of_factors_cost_nothing(world):
    factor = made("diagonal", 9, True, Replicated(9, world))
    before = world.ledger.columns
    (2 * factor.shifted(1.0) + factor) @ np.ones((9, 4))
    assert world.ledger.columns == before
    with pytest.raises(InputError, match="diagonal factor of n = 9 does not fit an array"):
        factor @ np.ones(4)


def test_matrices_are_operators_of_one_pass(world):
    operator = MatrixOperator(np.eye(4), world)
    before = world.ledger.columns
    operator @ np.ones((4, 3))
    assert world.ledger.columns - before == 3
