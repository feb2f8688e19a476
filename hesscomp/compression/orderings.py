"""The tree of a hierarchical compression: by a name, an array, or the operator's parameters."""

from __future__ import annotations

import numpy as np

from hesscomp.compression.sketch import GaussianSketch
from hesscomp.errors import InputError
from hesscomp.factors.diagonal import Diagonal
from hesscomp.factors.tree import LEAF, Tree, cluster_order, kd_order, neuron_order, unit_order
from hesscomp.operators.operator import Operator

Ordering = str | Tree | np.ndarray | None

NAMES = ("natural", "unit", "neuron", "clusters")


def default_leaf(n: int) -> int:
    """Return the parameters of a leaf: 64, or an eighth of a small matrix."""
    return max(min(LEAF, n // 8), 2)


def make_tree(sketch: GaussianSketch, ordering: Ordering, leaf_size: int) -> Tree:
    """Return the tree over the parameters of a sketch's operator; see `formats.compress`.

    The ordering "clusters" needs a sketch with columns; all of its rows are gathered.
    """
    operator, n = sketch.operator, sketch.operator.n
    if isinstance(ordering, str) or ordering is None:
        return Tree.halves(n, leaf_size, _by_name(sketch, ordering or _usual(operator), leaf_size))
    return given_tree(ordering, n, leaf_size)


def given_tree(ordering: Tree | np.ndarray, n: int, leaf_size: int) -> Tree:
    """Return the tree of n parameters that is given, or whose order or coordinates are.

    Raises
    ------
    InputError
        For what is none of these, or of another n.
    """
    if isinstance(ordering, Tree):
        if ordering.n != n:
            raise InputError(f"a tree over n = {ordering.n} does not fit an operator of n = {n}")
        return ordering
    values = np.asarray(ordering)
    if values.dtype.kind not in "fiub" or values.ndim == 0:
        raise InputError(
            f"an ordering is one of {', '.join(NAMES)}, a permutation or coordinates, not an array "
            f"of shape {values.shape} and type {values.dtype}"
        )
    if np.issubdtype(values.dtype, np.integer):
        return Tree.halves(n, leaf_size, values)
    if len(values) != n:
        raise InputError(f"{n} parameters have as many coordinates, not {len(values)}")
    return Tree.halves(n, leaf_size, kd_order(values, leaf_size))


def _by_name(sketch: GaussianSketch, name: str, leaf_size: int) -> np.ndarray | None:
    operator = sketch.operator
    if name == "natural":
        return None
    if name == "clusters":
        return cluster_order(sketch.layout.whole(sketch.Y), leaf_size)
    if name in ("unit", "neuron"):
        order = unit_order if name == "unit" else neuron_order
        return order(_blocks(operator), operator.n)
    raise InputError(
        f"an ordering is one of {', '.join(NAMES)}, a permutation or coordinates, not {name!r}"
    )


def _usual(operator: Operator) -> str:
    """Return the ordering that fits an operator's parameters."""
    blocks = _blocks(operator)
    for name, order in (("unit", unit_order), ("neuron", neuron_order)):
        if name == "unit" and operator.psd:  # a Gauss-Newton matrix couples a layer's outputs
            continue
        try:
            order(blocks, operator.n)
        except InputError:
            continue
        return name
    return "natural"


def _blocks(operator: Operator):
    return operator.describe(Diagonal.blank(operator.n)).blocks
