"""Checks that every operator and every factor must pass, and matrices with known spectra."""

import numpy as np
import scipy.linalg

from hesscomp.curvature.sharded import ShardedOperator
from hesscomp.factors import (
    UNKNOWN,
    Factor,
    Hbs,
    Hodlr,
    LowRank,
    Tree,
    compare,
    from_contents,
    load_factor,
    save_factor,
)
from hesscomp.factors.hbs import Shapes, Stacks
from hesscomp.factors.hodlr import Form
from hesscomp.parallel.layout import Replicated, RowLayout
from hesscomp.parallel.world import World

N = 150


def spectrum(kind: str, n: int = N) -> np.ndarray:
    index = np.arange(1, n + 1)
    return {
        "polynomial": 1.0 / index,
        "exponential": 10.0 ** (-0.25 * (index - 1)),
        "flat tail": np.where(index <= 10, 11.0 - index, 1e-2),
        "low rank": np.where(index <= 5, 6.0 - index, 0.0),
        "equal": np.where(index <= 12, 1.0, 0.1 / index),
    }[kind]


def matrix(kind: str, signs: bool = False, n: int = N) -> np.ndarray:
    rng = np.random.default_rng(5)
    w = spectrum(kind, n) * (rng.choice([-1.0, 1.0], n) if signs else 1.0)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    A = (Q * w) @ Q.T
    return (A + A.T) / 2


class Sharded(ShardedOperator):
    """A sum of unequal parts, one on each rank: what a sharded Hessian is."""

    def __init__(self, dense, world, psd):
        super().__init__(len(dense), world, psd=psd)
        shares = np.arange(world.size, dtype=float)  # rank 0 holds nothing
        shares = shares / shares.sum() if world.size > 1 else np.ones(1)
        self.part = shares[world.rank] * dense

    def _local(self, V):
        return self.part @ V


def random_hbs(n: int, leaf_size: int, rank: int, rng, ragged: bool = True) -> Hbs:
    """An exact HBS matrix over a random ordering; `ragged` ranks lie between 0 and `rank`."""
    tree = Tree.halves(n, leaf_size, rng.permutation(n))
    ranks, below = np.zeros(2 * tree.leaves - 1, np.int64), tree.leaf_sizes
    for level in range(tree.levels, 0, -1):
        most = np.minimum(below, rank)
        k = rng.integers(0, most + 1) if ragged else most
        ranks[2**level - 1 : 2 ** (level + 1) - 1], below = k, k.reshape(-1, 2).sum(axis=1)
    shapes = Shapes.of(tree, ranks)
    bases = []
    for part in shapes.bases:
        flat = [np.empty(0)]
        for rows, columns in zip(part.rows, part.columns, strict=True):
            flat.append(np.linalg.qr(rng.standard_normal((rows, columns)))[0].ravel())
        bases.append(part.unpack(np.concatenate(flat)))
    couplings = [part.unpack(rng.standard_normal(part.size)) for part in shapes.couplings]
    D = shapes.leaf.unpack(rng.standard_normal(shapes.leaf.size))
    stacks = Stacks(ranks, D + np.swapaxes(D, 1, 2), bases, couplings)
    return Hbs.of_stacks(tree, stacks, certificate=UNKNOWN)


def random_hodlr(n: int, leaf_size: int, rank: int, rng, ragged: bool = True, shift=0.0) -> Hodlr:
    """An exact HODLR matrix over a random ordering; `ragged` ranks lie between 0 and `rank`."""
    tree = Tree.halves(n, leaf_size, rng.permutation(n))
    nodes, levels, m = tree.leaves - 1, tree.levels, int(tree.leaf_sizes.max())
    ranks = rng.integers(0, rank + 1, nodes) if ragged else np.full(nodes, rank)
    by_level = [ranks[2**level - 1 : 2 ** (level + 1) - 1] for level in range(levels)]
    widths = [int(of.max()) for of in by_level]
    D, sides = np.split(rng.standard_normal((tree.leaves, m, m + sum(widths))), [m], axis=2)
    form = Form(D + np.swapaxes(D, 1, 2) + shift * np.eye(m), sides, widths)
    return Hodlr.of_form(tree, ranks, form, certificate=UNKNOWN)


def dense(factor: LowRank) -> np.ndarray:
    return (factor.eigenvectors * factor.eigenvalues) @ factor.eigenvectors.T


def error(factor, A) -> float:
    return np.linalg.norm(A - dense(factor))


def check_operator(operator, dense: np.ndarray, tolerance: float) -> None:
    """Compare an operator with its dense matrix: vector, block, projection, SciPy view, costs."""
    n = operator.n
    rng = np.random.default_rng(0)
    scale = np.linalg.norm(dense)

    def close(left, right):
        assert left.shape == right.shape
        assert np.linalg.norm(left - right) <= tolerance * scale * np.sqrt(n)

    assert operator.shape == dense.shape == (n, n)
    v, V, Q = rng.standard_normal(n), rng.standard_normal((n, 5)), rng.standard_normal((n, 3))
    ledger = operator.world.ledger
    columns = ledger.columns
    close(operator @ v, dense @ v)
    close(operator @ V, dense @ V)
    close(operator.project(Q, V), Q.T @ dense @ V)
    close(operator.quadratic(V), V.T @ dense @ V)
    assert ledger.columns == columns + (16 if operator.passes else 0)
    assert (operator @ V[:, :0]).shape == (n, 0)
    assert operator.project(Q, V[:, :0]).shape == (3, 0)
    assert operator.quadratic(V[:, :0]).shape == (0, 0)
    close(operator.to_scipy() @ V, dense @ V)
    close(operator.to_scipy().rmatvec(v), dense @ v)
    close(operator.to_dense(panel=5), dense)
    close(operator.shifted(0.5) @ V, dense @ V + 0.5 * V)
    close(operator.shifted(0.5).project(Q, V), Q.T @ (dense @ V + 0.5 * V))
    close(operator.shifted(0.5).quadratic(V), V.T @ (dense @ V + 0.5 * V))
    close((2 * operator + operator) @ V, 3 * (dense @ V))
    close((2 * operator + operator).project(Q, V), 3 * (Q.T @ dense @ V))
    close((2 * operator + operator).quadratic(V), 3 * (V.T @ dense @ V))
    assert abs(v @ (operator @ V[:, 0]) - V[:, 0] @ (operator @ v)) <= tolerance * scale * n
    if operator.psd:
        assert np.linalg.eigvalsh(dense).min() >= -tolerance * scale


def check_factor(factor: Factor, folder) -> None:
    """Check a factor of any kind, in either layout, against the dense matrix that it stands for.

    As an operator, solved, its functions, as a preconditioner, and what a file, a checkpoint and
    the other layout make of it. Where ranks hold slabs of it they share the folder.
    """
    n, layout, F = factor.n, factor.layout, factor.to_dense()
    scale = np.linalg.norm(F, 2)
    shift = 0.1 * (scale or 1.0)
    B = np.random.default_rng(1).standard_normal((n, 3))
    b = layout.local(B)

    def close(found, expected, tolerance=1e-12):
        size = max(np.abs(expected).max(initial=0), 1e-300)
        np.testing.assert_allclose(found, layout.local(expected), atol=tolerance * size * n)

    if layout.name == "replicated":
        world = factor.world or World.serial()
        check_operator(factor.in_layout(Replicated(n, world)), F, 1e-13)
        np.testing.assert_allclose(factor.to_scipy() @ B, factor @ B)
    close(factor @ b, F @ B)
    close(factor @ b[:, 0], F @ B[:, 0])
    close((factor - 0.5 * factor) @ b, 0.5 * F @ B)
    close(factor.diagonal(), np.diag(F))
    np.testing.assert_allclose(factor.norm(), scale, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(factor.trace(), np.trace(F), atol=1e-12 * scale * n)
    form = np.diag(B.T @ F @ B)
    np.testing.assert_allclose(factor.quadratic_form(b), form, atol=1e-11 * scale * n)
    np.testing.assert_allclose(factor.quadratic_form(b[:, 0]), form[0], atol=1e-11 * scale * n)
    tail = {"tail": "zero"} if factor.has_tail else {}
    for s in (shift, -1.7 * shift):
        shifted = F + s * np.eye(n)
        close(factor.solve(b, s, **tail), np.linalg.solve(shifted, B), 1e-9)
        close(factor.inverse_diagonal(s, **tail), np.diag(np.linalg.inv(shifted)), 1e-9)
        close(factor.solve(b[:, 0], s, **tail), np.linalg.solve(shifted, B[:, 0]), 1e-9)
        np.testing.assert_allclose(
            factor.logdet(s), np.linalg.slogdet(shifted), rtol=1e-9, atol=1e-9
        )
        w = scipy.linalg.eigvalsh(shifted)
        level = 1e-9 * (scale + shift)
        inertia = factor.inertia(s, level)
        assert inertia.negative == np.sum(w < -level) and inertia.positive == np.sum(w > level)
        assert inertia.negative + inertia.zero + inertia.positive == n
    assert factor.psd == (scipy.linalg.eigvalsh(F).min() >= -1e-12 * scale)
    M = factor.preconditioner(shift)
    dense = M.to_dense()
    assert np.linalg.eigvalsh(dense).min() > 0
    close(M @ b, dense @ B)
    if factor.psd and not factor.has_tail:
        np.testing.assert_allclose(dense @ (F + shift * np.eye(n)), np.eye(n), atol=1e-9)
    assert factor.kind in factor.summary() and factor.extent
    check_copies(factor, folder)


def check_copies(factor: Factor, folder) -> None:
    """Check what layouts, checkpoints and files make of a factor: it, to the bit."""
    n, layout = factor.n, factor.layout
    whole = factor.in_layout(Replicated(n, factor.world))
    kept = from_contents(factor.contents(), factor.certificate)
    assert not kept.is_blank and type(factor).blank(n).is_blank
    if factor.world is not None:
        same_arrays(whole.in_layout(RowLayout(n, factor.world)).in_layout(whole.layout), whole)
    alone = layout.name == "replicated"  # each rank then writes, in a folder of its own
    path = folder / "factor.h5"
    save_factor(whole.in_layout(Replicated(n)) if alone else factor, path)
    loaded = [load_factor(path)]
    if not alone:
        in_rows = load_factor(path, factor.world)
        same_arrays(in_rows, factor)
        loaded.append(in_rows)
    for copy in (kept, loaded[0]):
        same_arrays(copy, whole)
    for copy in loaded:
        assert copy.kind == factor.kind and copy.blocks == factor.blocks
        np.testing.assert_equal(copy.parameters, factor.parameters)
        for part in ("provenance", "certificate"):
            np.testing.assert_equal(vars(getattr(copy, part)), vars(getattr(factor, part)))


def same_arrays(left: Factor, right: Factor) -> None:
    assert type(left) is type(right)
    for name in left.arrays:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def check_low_rank(factor: LowRank, folder) -> None:
    """Check what every factor must do, and what low-rank ones add: eigenpairs, roots, algebra."""
    n, k, U, w = factor.n, factor.rank, factor.eigenvectors, factor.eigenvalues
    assert U.shape == (n, k) and w.shape == (k,)
    assert np.all(np.diff(np.abs(w)) <= 0)
    assert np.abs(U.T @ U - np.eye(k)).max(initial=0) <= 1e-12
    if k:
        check_factor(factor, folder)
    F, complement = (U * w) @ U.T, np.eye(n) - U @ U.T
    B = np.random.default_rng(1).standard_normal((n, 3))
    shift = 0.1 * (np.abs(w).max(initial=0) or 1.0)
    for tail in ("last", "zero", 0.3):
        matrix = F + shift * np.eye(n) + factor.tail_value(tail) * complement
        expected = np.linalg.solve(matrix, B)
        np.testing.assert_allclose(factor.solve(B, shift, tail), expected, rtol=1e-9, atol=1e-9)
    check_roots(factor, F, shift)
    check_arithmetic(factor, F)


def check_roots(factor: LowRank, F: np.ndarray, shift: float) -> None:
    """Check |F| and the roots of |F| + shift I, shift > 0, against the dense matrix F."""
    n, scale = factor.n, np.linalg.norm(F) + shift
    V = np.random.default_rng(2).standard_normal((n, 3))
    positive = factor.positive()
    w, Q = scipy.linalg.eigh(F)
    absolute = (Q * np.abs(w)) @ Q.T
    np.testing.assert_allclose(dense(positive), absolute, atol=1e-12 * scale * n)
    root = scipy.linalg.sqrtm(absolute + shift * np.eye(n)).real
    np.testing.assert_allclose(positive.sqrt(V, shift), root @ V, atol=1e-10 * np.sqrt(scale))
    inverse = np.linalg.solve(root, V)
    np.testing.assert_allclose(
        positive.inverse_sqrt(V, shift), inverse, atol=1e-10 * np.abs(inverse).max()
    )


def check_arithmetic(factor: LowRank, F: np.ndarray) -> None:
    """Check sums, multiples, updates, truncations and comparisons against the dense matrix F."""
    n, scale, w = factor.n, np.linalg.norm(F), factor.eigenvalues
    rng = np.random.default_rng(3)
    B, c = rng.standard_normal((n, 2)), np.array([1.0, -0.5]) * (scale or 1.0)
    C = (B * c) @ B.T
    size = scale + np.linalg.norm(C)

    def close(result: LowRank, expected: np.ndarray) -> None:
        U, w = result.eigenvectors, result.eigenvalues
        assert result.rank <= n
        assert np.abs(U.T @ U - np.eye(result.rank)).max(initial=0) <= 1e-12
        assert np.all(np.diff(np.abs(w)) <= 0)
        assert error(result, expected) <= 1e-12 * size
        w = np.append(w, np.zeros(n - result.rank))
        np.testing.assert_allclose(
            np.sort(w), scipy.linalg.eigvalsh(expected), atol=1e-12 * size * n
        )

    updated = factor.update(B, c)
    close(updated, F + C)
    close(updated - factor, C)
    close(updated.downdate(B, c), F)
    close(factor + -0.5 * factor, 0.5 * F)
    assert (factor - factor).rank == 0
    k = factor.rank // 2
    if k:
        cut = factor.truncate(k)
        close(cut, (factor.eigenvectors[:, :k] * w[:k]) @ factor.eigenvectors[:, :k].T)
        found = compare(factor, cut)
        np.testing.assert_allclose(found.spectral_distance, abs(w[k]), atol=1e-12 * size)
        np.testing.assert_allclose(
            found.frobenius_distance, np.linalg.norm(w[k:]), atol=1e-12 * size
        )
        assert found.angles.shape == (k,) and found.angles.max() <= 1e-12
    found = compare(updated, factor)
    np.testing.assert_allclose(found.spectral_distance, np.linalg.norm(C, 2), rtol=1e-10)
    np.testing.assert_allclose(found.frobenius_distance, np.linalg.norm(C), rtol=1e-10)
    p = min(updated.rank, factor.rank)
    if p:
        expected = scipy.linalg.subspace_angles(
            updated.eigenvectors[:, :p], factor.eigenvectors[:, :p]
        )
        np.testing.assert_allclose(found.angles, expected, atol=1e-7)


def by_rank_0(world, work, *arguments, **options):
    """What `work` gives on rank 0, on every rank; the others only wait."""
    return world.through_root(lambda ranks: [work(*arguments, **options)] * len(ranks), None)
