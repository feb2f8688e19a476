"""The HBS factor against dense matrices: what its arrays mean, its eliminations, its files."""

import logging
from dataclasses import replace

import h5py
import numpy as np
import pytest
import scipy.linalg
from oracles import check_factor, random_hbs

import hesscomp as hc
from hesscomp.errors import InputError
from hesscomp.factors import UNKNOWN, Hbs, Tree, load_factor, save_factor
from hesscomp.factors.hbs import Stacks
from hesscomp.parallel.layout import Replicated


def assembled(arrays, n: int) -> np.ndarray:
    """The dense matrix of the arrays of a file, by the words of docs/factor-file.md alone."""
    bounds, ranks = arrays["bounds"], arrays["ranks"]
    leaves = len(bounds) - 1
    flat = {name: iter(np.asarray(arrays[name])) for name in ("leaf_blocks", "bases", "couplings")}

    def take(name: str, rows: int, columns: int) -> np.ndarray:
        return np.array([next(flat[name]) for _ in range(rows * columns)]).reshape(rows, columns)

    F, basis = np.zeros((n, n)), {}
    first = leaves - 1  # number of the first leaf among the nodes
    for i in range(leaves):
        rows = slice(bounds[i], bounds[i + 1])
        F[rows, rows] = take("leaf_blocks", rows.stop - rows.start, rows.stop - rows.start)
    if leaves > 1:
        for i in range(leaves):
            U = np.zeros((n, ranks[first + i]))
            rows = bounds[i + 1] - bounds[i]
            U[bounds[i] : bounds[i + 1]] = take("bases", rows, ranks[first + i])
            basis[first + i] = U
    while first:
        above = (first - 1) // 2
        for node in range(above, first):
            left, right = basis[2 * node + 1], basis[2 * node + 2]
            B = take("couplings", left.shape[1], right.shape[1])
            F += left @ B @ right.T + right @ B.T @ left.T
        for node in range(above, first) if above else ():
            both = np.hstack([basis[2 * node + 1], basis[2 * node + 2]])
            basis[node] = both @ take("bases", both.shape[1], ranks[node])
        first = above
    assert not any(list(rest) for rest in flat.values())
    out = np.empty_like(F)
    order = arrays["permutation"]
    out[np.ix_(order, order)] = F
    return out


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("n", "leaf_size", "rank"), [(96, 6, 3), (101, 9, 5), (40, 40, 3)])
def test_the_matrix_is_what_the_arrays_say(n, leaf_size, rank, ragged, tmp_path):
    factor = random_hbs(n, leaf_size, rank, np.random.default_rng(n), ragged)
    F = assembled(factor.contents(), n)
    np.testing.assert_allclose(factor.to_dense(), F, atol=1e-12)
    np.testing.assert_allclose(factor.norm(), np.linalg.norm(F, 2), rtol=1e-10)
    check_factor(factor, tmp_path)
    with h5py.File(tmp_path / "factor.h5") as file:
        arrays = {name: file[name][()] for name in factor.arrays}
        assert arrays["ranks"].dtype == arrays["bounds"].dtype == np.int64
        np.testing.assert_array_equal(assembled(arrays, n), F)


@pytest.mark.parametrize("shift", [0.0, 0.3, -2.0])
def test_eliminations_of_indefinite_matrices(shift):
    """Small pivots with large couplings wait for the parent: here every leaf block is zero."""
    factor = random_hbs(96, 8, 4, np.random.default_rng(0), ragged=False)
    hollow = replace(factor.stacks, leaves=1e-9 * factor.stacks.leaves)
    factor = Hbs.of_stacks(factor.tree, hollow, certificate=UNKNOWN)
    F = factor.to_dense() + shift * np.eye(96)
    w = scipy.linalg.eigvalsh(F)
    found = factor.inertia(shift, 1e-13)
    assert (found.negative, found.positive) == (np.sum(w < -1e-13), np.sum(w > 1e-13))
    np.testing.assert_allclose(factor.logdet(shift), np.linalg.slogdet(F), rtol=1e-7)
    B = np.random.default_rng(1).standard_normal((96, 2))
    if shift:
        X = factor.solve(B, shift)
        assert np.linalg.norm(F @ X - B) <= 1e-9 * np.linalg.norm(X)


def test_eliminations_of_singular_matrices():
    """A rank-one matrix: all but one of its eigenvalues are zero."""
    tree = Tree.halves(12, 3)
    ranks = np.array([0, *6 * [1]])
    u = np.full((4, 3, 1), 1 / np.sqrt(3))
    couplings = [np.full((2, 1, 1), 3.0), np.full((1, 1, 1), 6.0)]
    bases = [u, np.full((2, 2, 1), 1 / np.sqrt(2))]
    ones = Hbs.of_stacks(
        tree, Stacks(ranks, np.ones((4, 3, 3)), bases, couplings), certificate=UNKNOWN
    )
    np.testing.assert_allclose(ones.to_dense(), np.ones((12, 12)), atol=1e-14)
    found = ones.inertia()
    assert (found.negative, found.zero, found.positive) == (0, 11, 1) and ones.psd
    assert ones.logdet(0.0) == (0.0, -np.inf)
    with pytest.raises(InputError, match="with shift 0 is singular: 11 of its pivots are 0"):
        ones.solve(np.ones(12), 0.0)
    with pytest.raises(InputError, match="singular"):
        ones.solve(np.ones(12), -12.0)
    np.testing.assert_allclose(ones.solve(np.ones(12), 1.0), 1 / 13)
    nothing = replace(ones, leaf_blocks=0 * ones.leaf_blocks, couplings=0 * ones.couplings)
    assert nothing.inertia().zero == 12 and nothing.norm() == 0.0
    assert np.isfinite(nothing.preconditioner(0.0) @ np.ones(12)).all()


def test_a_preconditioner_is_definite_and_says_what_it_took(caplog):
    factor = random_hbs(64, 8, 3, np.random.default_rng(2))
    least = scipy.linalg.eigvalsh(factor.to_dense())[0]
    with caplog.at_level(logging.WARNING):
        M = factor.preconditioner(1e-3)
    assert -least < M.shift < 5 * -least + 1e-2
    assert f"takes the shift {M.shift:.3g}" in caplog.text
    inverse = M.to_dense()
    assert scipy.linalg.eigvalsh(inverse)[0] > 0
    np.testing.assert_allclose(
        inverse @ (factor.to_dense() + M.shift * np.eye(64)), np.eye(64), atol=1e-9
    )


def test_single_precision_files_stay_consistent(tmp_path):
    """Bases that are orthonormal to single precision only still make exact solves."""
    factor = random_hbs(64, 8, 4, np.random.default_rng(3))
    save_factor(factor, tmp_path / "f.h5", dtype="float32", compress=True)
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["bases"].dtype == file["leaf_blocks"].dtype == np.float32
    loaded = load_factor(tmp_path / "f.h5")
    F = loaded.to_dense() + 9.0 * np.eye(64)
    np.testing.assert_allclose(F, factor.to_dense() + 9.0 * np.eye(64), atol=1e-5)
    np.testing.assert_allclose(F @ loaded.solve(np.eye(64), 9.0), np.eye(64), atol=1e-11)
    np.testing.assert_allclose(loaded.logdet(9.0), np.linalg.slogdet(F), rtol=1e-12)


DAMAGE = {
    "ranks": (lambda f: f["ranks"].__setitem__(3, 9), "node 3 has rank 9"),
    "root": (lambda f: f["ranks"].__setitem__(0, 1), "that of the root 0"),
    "fewer": (lambda f: f["ranks"].__setitem__(3, 0), "where ranks make"),
    "order": (lambda f: f["permutation"].__setitem__(0, f["permutation"][1]), "each of the para"),
    "bounds": (lambda f: f["bounds"].__setitem__(1, 0), "must increase"),
    "type": (lambda f: _replaced(f, "ranks", f["ranks"][()] / 1.0), "ranks"),
    "large": (lambda f: f.attrs.__setitem__("basis_numbers", 10**9), "more than n = 32 allows"),
    "nan": (lambda f: f["bases"].__setitem__(0, np.nan), "finite"),
}


def _replaced(file, name, values):
    del file[name]
    file[name] = values


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files_are_refused(case, tmp_path):
    factor = random_hbs(32, 4, 2, np.random.default_rng(0), ragged=False)
    path = tmp_path / "f.h5"
    save_factor(factor, path)
    damage, message = DAMAGE[case]
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=message) as caught:
        load_factor(path)
    assert "f.h5" in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_factor_says_of_itself():
    factor = random_hbs(64, 8, 3, np.random.default_rng(0), ragged=False)
    told = factor.details()
    assert factor.numbers == 8 * 64 + 8 * 24 + 4 * 18 + 2 * 18 + 7 * 9
    assert factor.extent == "13.7 numbers a parameter"
    assert told["leaves"] == "8 of 8 to 8 parameters"
    assert told["ranks from the leaves up"].startswith("3 to 3 of 8 nodes, 3 to 3 of 4")
    assert factor.in_layout(Replicated(64)).tree == factor.tree


@pytest.mark.parametrize("format", ["hbs", "hodlr"])
def test_a_shift_that_cancels_the_diagonal_is_singular(format):
    factor = hc.compress(np.eye(64), rank=2, format=format, leaf_size=8)
    assert factor.inertia(-1.0).zero == 64
    with pytest.raises(InputError, match="with shift -1 is singular: 64 of its pivots are 0"):
        factor.solve(np.ones(64), -1.0)
