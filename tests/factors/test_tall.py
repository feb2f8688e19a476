"""QR factorisations over a tree: orthonormal bases, zero padding, the same on any ranks."""

import numpy as np
import pytest

from hesscomp.factors.shares import Shares
from hesscomp.factors.tall import TallQr
from hesscomp.factors.tree import Tree
from hesscomp.parallel.world import World

pytestmark = pytest.mark.ranks(most=4)


def bases(shares: Shares, Y: np.ndarray, level: int, child: int) -> tuple[np.ndarray, np.ndarray]:
    """Q and R of all nodes of a level; Q by rows of the tree."""
    qr = TallQr(shares.children(level, child), shares.stacked(Y[shares.positions]))
    Q = qr.basis(np.zeros((*shares.mask.shape, qr.R.shape[1])))
    assert not Q[~shares.mask].any()
    return shares.together(shares.flat(Q)), shares.gathered(qr.R, level)


@pytest.mark.parametrize(("k", "rank"), [(3, 3), (20, 20), (20, 2), (70, 70)])
@pytest.mark.parametrize("leaves", [4, 128])
def test_bases_of_children(world, k, rank, leaves):
    """Of fewer rows than columns, and of a lower rank, too; padding lies between the rows."""
    rng = np.random.default_rng(0)
    bounds = np.cumsum([0, 1, 64, *rng.integers(1, 65, leaves - 2)])
    tree = Tree(np.arange(bounds[-1]), bounds)
    Y = rng.standard_normal((tree.n, rank)) @ rng.standard_normal((rank, k))
    for level in range(tree.levels):
        for child in (0, 1):
            Q, R = bases(Shares(tree, world), Y, level, child)
            for one, other in zip(
                (Q, R), bases(Shares(tree, World.serial()), Y, level, child), strict=True
            ):
                np.testing.assert_array_equal(one, other)
            assert (np.diagonal(R, axis1=1, axis2=2) >= 0).all()
            for node in range(2**level):
                rows = tree.node(level + 1, 2 * node + child)
                most = min(rows.stop - rows.start, Q.shape[1])
                np.testing.assert_allclose(Q[rows] @ R[node], Y[rows], atol=1e-11)
                eye = np.diag((np.arange(Q.shape[1]) < most).astype(float))
                np.testing.assert_allclose(Q[rows].T @ Q[rows], eye, atol=1e-12)


@pytest.mark.serial
def test_a_tree_is_shared_by_subtrees():
    """All leaves have one owner, whatever the number of ranks; what adds up does so by pairs."""
    tree = Tree.halves(1000, 8)

    class Ranks:
        def __init__(self, size: int, rank: int):
            self.size, self.rank = size, rank

    for size in (1, 3, 5, 40, 200):
        held = [Shares(tree, Ranks(size, rank)).leaves for rank in range(size)]
        assert [leaf for of in held for leaf in range(of.start, of.stop)] == list(range(128))
        most = max(of.stop - of.start for of in held)
        assert most <= max(1.5 * 128 / size, 128 / 16)
    alone = Shares(tree)
    values = np.arange(128.0)[:, None]
    np.testing.assert_array_equal(alone.raised(values, 7, 5)[:2, 0], [6.0, 22.0])
