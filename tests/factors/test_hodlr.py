"""HODLR factors where elimination is hard: pivots that vanish, definiteness, files, bad arrays."""

import itertools
import logging
from dataclasses import replace

import h5py
import numpy as np
import pytest
import scipy.linalg
from oracles import random_hodlr

import hesscomp as hc
from hesscomp.errors import InputError
from hesscomp.factors import UNKNOWN, Certificate, Hodlr, Tree, save_factor
from hesscomp.factors.hodlr import Form


def of_matrix(A: np.ndarray, leaf_size: int) -> Hodlr:
    """The factor of a matrix as it is, by the singular values of its blocks."""
    n = len(A)
    tree = Tree.halves(n, leaf_size)
    m, sides, ranks = n // tree.leaves, [], []
    for level in range(tree.levels):
        half = n >> (level + 1)
        blocks = [A[i : i + half, i + half : i + 2 * half] for i in range(0, n, 2 * half)]
        found = [scipy.linalg.svd(block) for block in blocks]
        k = [int(np.sum(s > 1e-13)) for _, s, _ in found]
        W = np.zeros((2 * len(blocks), half, max(k)))
        for i, (U, s, Vt) in enumerate(found):
            W[2 * i, :, : k[i]] = U[:, : k[i]] * np.sqrt(s[: k[i]])
            W[2 * i + 1, :, : k[i]] = Vt[: k[i]].T * np.sqrt(s[: k[i]])
        sides.append(W.reshape(tree.leaves, m, -1))
        ranks += k
    leaves = np.array([A[i : i + m, i : i + m] for i in range(0, n, m)])
    widths = [side.shape[2] for side in sides]
    form = Form(leaves, np.concatenate([leaves[:, :, :0], *sides], axis=2), widths)
    return Hodlr.of_form(tree, np.array(ranks), form, certificate=UNKNOWN)


def check_elimination(factor: Hodlr, A: np.ndarray, shift: float = 0.0) -> None:
    np.testing.assert_allclose(factor.to_dense(), A, atol=1e-12)
    shifted = A + shift * np.eye(len(A))
    found, w = factor.eliminated(shift), scipy.linalg.eigvalsh(shifted)
    assert (found.negative, found.zero) == (np.sum(w < 0), 0)
    np.testing.assert_allclose(factor.logdet(shift), np.linalg.slogdet(shifted), rtol=1e-9)
    b = np.random.default_rng(1).standard_normal((len(A), 2))
    x = np.linalg.solve(shifted, b)
    np.testing.assert_allclose(factor.solve(b, shift), x, atol=1e-8 * np.abs(x).max())


def permuted_swap(n: int, rng) -> np.ndarray:
    """A matrix with diagonal blocks of zeros, of which every leaf and every half is singular."""
    B = rng.standard_normal((n // 2, n // 2))
    return np.block([[np.zeros_like(B), B], [B.T, np.zeros_like(B)]])


@pytest.mark.parametrize("leaf_size", [32, 4])
def test_zeros_on_the_diagonal(leaf_size):
    A = permuted_swap(32, np.random.default_rng(0))
    check_elimination(of_matrix(A, leaf_size), A)


def test_a_singular_node_in_a_regular_matrix():
    """The first half has an eigenvalue 0, but none of its leaves has; so has the second."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((16, 16))
    A = A + A.T
    for half in (slice(0, 8), slice(8, 16)):
        w = np.linalg.eigvalsh(A[half, half])
        A[half, half] -= w[3] * np.eye(8)
    check_elimination(of_matrix(A, 4), A)
    check_elimination(of_matrix(A, 2), A)
    A[2:4, 2:4] = A[2:4, 2:4] - np.linalg.eigvalsh(A[2:4, 2:4])[0] * np.eye(2)
    check_elimination(of_matrix(A, 2), A)


@pytest.mark.parametrize("seed", range(3))
def test_shifts_at_eigenvalues_of_leaves(seed):
    factor = random_hodlr(40, 5, 2, np.random.default_rng(seed))
    A = factor.to_dense()
    for leaf in (0, 3):
        rows = factor.tree.permutation[factor.tree.node(factor.tree.levels, leaf)]
        shift = -float(np.linalg.eigvalsh(A[np.ix_(rows, rows)])[1])
        check_elimination(factor, A, shift)
        check_elimination(factor, A, shift + 1e-9)


def test_a_singular_matrix():
    A = np.outer(np.arange(1.0, 17), np.arange(1.0, 17))
    factor = of_matrix(A, 4)
    with pytest.raises(InputError, match=r"shift 0 is singular: \d+ of its pivots are 0"):
        factor.solve(np.ones(16), 0.0)
    assert factor.logdet(0.0) == (0.0, -np.inf)
    counts = factor.inertia(0.0)
    assert (counts.negative, counts.zero, counts.positive) == (0, 15, 1)
    check_elimination(factor, A, 1e-3)


def test_an_indefinite_preconditioner_is_raised_and_says_so(caplog):
    factor = random_hodlr(40, 5, 2, np.random.default_rng(0))
    least = np.linalg.eigvalsh(factor.to_dense())[0]
    with caplog.at_level(logging.WARNING):
        M = factor.preconditioner(1e-3)
    assert M.shift > -least and "not positive definite" in caplog.text
    assert np.linalg.eigvalsh(M.to_dense()).min() > 0


def test_a_file_is_read_with_h5py_alone(tmp_path):
    """As docs/factor-file.md says."""
    factor = random_hodlr(37, 5, 2, np.random.default_rng(0))
    save_factor(factor, tmp_path / "factor.h5")
    with h5py.File(tmp_path / "factor.h5") as f:
        order, bounds, ranks = f["permutation"][:], f["bounds"][:], f["block_ranks"][:]
        leaves, sides = f["leaf_blocks"][:], f["sides"][:]
    F, at = np.zeros((37, 37)), 0
    for start, stop in itertools.pairwise(bounds):
        size = stop - start
        F[start:stop, start:stop] = leaves[at : at + size**2].reshape(size, size)
        at += size**2
    at, count = 0, len(bounds) - 1
    for node, rank in enumerate(ranks):
        level = (node + 1).bit_length() - 1
        width = count >> level
        first = (node + 1 - 2**level) * width
        start, middle, stop = bounds[[first, first + width // 2, first + width]]
        W = sides[at : at + (stop - start) * rank].reshape(stop - start, rank)
        F[start:middle, middle:stop] = W[: middle - start] @ W[middle - start :].T
        F[middle:stop, start:middle] = F[start:middle, middle:stop].T
        at += W.size
    whole = np.empty_like(F)
    whole[np.ix_(order, order)] = F
    np.testing.assert_allclose(whole, factor.to_dense(), atol=1e-13)


def test_arrays_that_contradict_each_other():
    factor = random_hodlr(20, 5, 2, np.random.default_rng(0))
    for changed, message in (
        ({"block_ranks": factor.block_ranks[1:]}, "a tree of 4 leaves has 3 inner nodes, not 2"),
        ({"block_ranks": factor.block_ranks - 3}, "ranks of blocks must lie between 0 and n = 20"),
        ({"sides": factor.sides[1:]}, "sides hold"),
        ({"leaf_blocks": factor.leaf_blocks[1:]}, "leaf_blocks hold 99 numbers"),
    ):
        with pytest.raises(InputError, match=message):
            replace(factor, **changed).check()


@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_updates_are_cut_again(tolerance):
    rng = np.random.default_rng(0)
    factor = replace(random_hodlr(80, 10, 3, rng), certificate=Certificate(0.5, 10.0))
    B, c = rng.standard_normal((80, 2)), np.array([2.0, -1.0])
    wanted = factor.to_dense() + (B * c) @ B.T
    updated = factor.update(B, c, tolerance)
    error, norm = np.linalg.norm(updated.to_dense() - wanted), np.linalg.norm(wanted)
    assert error <= (tolerance or 1e-13) * norm
    assert updated.numbers > factor.numbers
    np.testing.assert_allclose(
        updated.certificate.frobenius_error_estimate, 0.5 + tolerance * norm, rtol=1e-9
    )
    back = updated.update(B, -c)
    if not tolerance:
        np.testing.assert_array_equal(back.block_ranks, factor.block_ranks)
        np.testing.assert_allclose(back.to_dense(), factor.to_dense(), atol=1e-12)
    with pytest.raises(InputError, match="an update takes"):
        factor.update(B, c[:1])
    with pytest.raises(InputError, match="tolerance must be"):
        factor.update(B, c, 1.0)


@pytest.mark.parametrize(
    "diagonal", [np.arange(1.0, 65.0), np.zeros(64)], ids=["diagonal", "zeros"]
)
def test_blocks_of_no_rank_on_a_whole_level(diagonal):
    factor = hc.compress(np.diag(diagonal), rank=2, format="hodlr", leaf_size=8)
    check_elimination(factor, np.diag(diagonal), 1.0)
    assert factor.preconditioner(1.0).shift == 1.0
