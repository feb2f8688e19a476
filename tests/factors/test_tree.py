"""Trees are partitions, and orderings put together what belongs together."""

import numpy as np
import pytest

from hesscomp.errors import InputError
from hesscomp.factors.tree import Tree, cluster_order, kd_order, neuron_order, unit_order

NETWORK = (
    ("hidden/kernel", (3, 2), 0),
    ("hidden/bias", (2,), 6),
    ("out/kernel", (2, 4), 8),
    ("out/bias", (4,), 16),
)


@pytest.mark.parametrize("n", [1, 2, 5, 64, 65, 1000])
@pytest.mark.parametrize("leaf_size", [2, 7, 64])
def test_halves_hold_at_most_a_leaf(n, leaf_size):
    tree = Tree.halves(n, leaf_size)
    sizes = tree.leaf_sizes
    assert tree.n == n == sizes.sum() and tree.leaves == 2**tree.levels
    assert sizes.min() >= 1 and sizes.max() <= leaf_size
    assert tree.levels == 0 or -(-n >> (tree.levels - 1)) > leaf_size
    for level in range(tree.levels):
        for i in range(2**level):
            node, halves = tree.node(level, i), [tree.node(level + 1, 2 * i + j) for j in (0, 1)]
            assert (halves[0].start, halves[1].stop) == (node.start, node.stop)
            assert halves[0].stop == halves[1].start


@pytest.mark.parametrize(
    ("permutation", "bounds", "message"),
    [
        ([0, 0, 2], [0, 3], "does not name each of the parameters 0 to 2 once"),
        ([0, 1, 2], [0, 1, 2, 3], "1, 2, 4, 8, ... leaves, not 3"),
        ([0, 1, 2], [0, 2], "begin with 0 and end with 3, not with 0 and 2"),
        ([0, 1, 2], [0, 0, 3], "leaf 0 of the tree holds the positions 0:0"),
        ([0, 1, 2], [0], "leaves, not 0"),
        ([0.5, 1, 2], [0, 3], "must be a list of whole numbers"),
    ],
)
def test_what_is_no_tree_is_refused(permutation, bounds, message):
    with pytest.raises(InputError, match=message):
        Tree(np.array(permutation), np.array(bounds))


def test_bad_requests_are_refused():
    with pytest.raises(InputError, match=r"n = 4 parameters has the shape \(4,\), not \(3,\)"):
        Tree.halves(4, 2, permutation=[0, 1, 2])
    with pytest.raises(InputError, match="leaves of at least 2"):
        Tree.halves(4, 1)
    with pytest.raises(InputError, match="no node 2 of level 1"):
        Tree.halves(8, 2).node(1, 2)
    with pytest.raises(InputError, match="array of finite numbers"):
        kd_order(np.array([0.0, np.nan]))


def test_trees_are_equal_by_their_numbers():
    assert Tree.halves(9, 3) == Tree.halves(9, 3) != Tree.halves(9, 3, np.arange(9)[::-1])


def test_a_kd_tree_cuts_the_widest_axis():
    x, y = np.meshgrid(np.arange(8), 3 * np.arange(4), indexing="ij")
    points = np.column_stack([x.ravel(), y.ravel()])
    shuffled = np.random.default_rng(0).permutation(32)
    order = kd_order(points[shuffled], 4)
    tree = Tree.halves(32, 4, order)
    for i in range(8):
        spread = np.ptp(points[shuffled][order[tree.node(3, i)]], axis=0)
        assert spread.tolist() in ([1, 3], [3, 0])
    line = np.random.default_rng(1).uniform(size=50)
    sides = kd_order(line, 10)[Tree.halves(50, 10).node(1, 0)]
    assert np.sort(line)[24] == line[sides].max()


def test_clusters_are_found():
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat(np.arange(2), 16))
    rows = rng.standard_normal((2, 20))[kinds] * rng.uniform(-2, 2, (32, 1))
    order = cluster_order(rows, 16)
    assert len(set(kinds[order[:16]])) == len(set(kinds[order[16:]])) == 1


def test_networks_are_ordered_by_their_units():
    first = [0, 2, 4, 6]  # into the first hidden unit, and its bias
    second = [1, 3, 5, 7]
    assert unit_order(NETWORK, 20).tolist() == [
        *(*first, 8, 9, 10, 11),
        *(*second, 12, 13, 14, 15),
        *(16, 17, 18, 19),
    ]
    outputs = [index for j in range(4) for index in (8 + j, 12 + j, 16 + j)]
    assert neuron_order(NETWORK, 20).tolist() == [*first, *second, *outputs]
    without = (("a", (3, 2), 0), ("b", (2, 1), 6))
    assert neuron_order(without, 8).tolist() == [0, 2, 4, 1, 3, 5, 6, 7]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((), "names of parameter blocks, and there are none"),
        ((("conv", (3, 3, 1, 2), 0),), "conv of shape"),
        ((("a", (3, 2), 0), ("b", (3, 2), 6)), "2 outputs meet 3 inputs"),
    ],
)
def test_other_parameters_have_no_neurons(blocks, message):
    with pytest.raises(InputError, match=message):
        neuron_order(blocks, 18)
    with pytest.raises(InputError, match="not of 1"):
        unit_order((("a", (3, 2), 0),), 6)
