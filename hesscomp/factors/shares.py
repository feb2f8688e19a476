"""Who holds which nodes of a tree: each rank a run of subtrees, and all ranks what is above."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hesscomp.factors.tree import Tree
from hesscomp.parallel.layout import Layout, RowLayout
from hesscomp.parallel.regrouping import Regrouping
from hesscomp.parallel.rows import row_ranges
from hesscomp.parallel.share import WHOLE, Share

if TYPE_CHECKING:
    from hesscomp.parallel.world import World

SPARE = 2  # log2 of the subtrees that a rank has for its own, at least
PIECES, PIECE_ROWS = 16, 1024  # of the rows of large nodes: at least so many, of at most so many


class Shares:
    """The subtrees of each rank, all nodes of which it holds or works on.

    What is above level `top` is little, and the same on all ranks. Where there is one rank, or none
    shares anything, it holds the whole tree; so one algorithm serves all. Nothing that a rank does
    with a node depends on which ranks hold the others, and sums go up the tree by pairs, so that
    results have the same bits on any number of ranks.

    Parameters
    ----------
    tree : Tree
    world : World, optional
        The ranks that share the tree; by default this process holds all of it.

    Attributes
    ----------
    piece : int
        The level of nodes that are worked on in one piece, which depends on the tree alone. `top`
        is this level, or one nearer to the root.
    top : int
        The level of the subtrees.
    ranges : list of (int, int)
        Each rank's nodes of level `top`.
    """

    def __init__(self, tree: Tree, world: World | None = None):
        self.tree, self.world = tree, world
        size, rank = (1, 0) if world is None else (world.size, world.rank)
        self.alone = size == 1
        most = max((tree.n // PIECE_ROWS).bit_length() - 1, PIECES.bit_length() - 1)
        self.piece = min(tree.levels, most)
        self.top = 0 if self.alone else min(self.piece, (size - 1).bit_length() + SPARE)
        self.ranges = row_ranges(2**self.top, size)
        self.first, self.last = self.ranges[rank]

    @classmethod
    def of(cls, tree: Tree, layout: Layout) -> Shares:
        """Return who holds what of a factor in this layout: in rows, each rank its own."""
        return cls(tree, layout.world if isinstance(layout, RowLayout) else None)

    def own(self, level: int) -> slice:
        """Return the nodes of a level that this rank works on."""
        if level < self.top:
            return slice(0, 2**level)
        down = level - self.top
        return slice(self.first << down, self.last << down)

    @property
    def leaves(self) -> slice:
        """The leaves of this rank."""
        return self.own(self.tree.levels)

    @property
    def leaf_share(self) -> Share:
        """The leaves of this rank as a share of the stack of all leaves."""
        if self.alone:
            return WHOLE
        return Share(self.leaves, lambda stack: self.gathered(stack, self.tree.levels))

    @property
    def positions(self) -> slice:
        """The positions of the ordering that this rank holds."""
        return slice(*(int(self.tree.bounds[end]) for end in (self.leaves.start, self.leaves.stop)))

    def parts(self) -> list[tuple[int, int]]:
        """Return the positions of the ordering that each rank holds."""
        bounds = self.tree.bounds[:: self.tree.leaves >> self.top]
        return [(int(bounds[first]), int(bounds[last])) for first, last in self.ranges]

    def gathered(self, stack: np.ndarray, level: int) -> np.ndarray:
        """Return all nodes of a level, from each rank's own. Collective at `top` and below it."""
        if self.alone or level < self.top:
            return stack
        down = level - self.top
        return self.gathered_by(stack, [(last - first) << down for first, last in self.ranges])

    def gathered_by(self, stack: np.ndarray, counts: list[int]) -> np.ndarray:
        """Return all ranks' entries, from so many of each. Collective."""
        assert self.world is not None  # more than one rank
        return self.world.gather_rows(stack, counts)

    def gathered_numbers(self, numbers: np.ndarray, by_leaf: np.ndarray) -> np.ndarray:
        """Return the numbers of all leaves, one after the other, from those of each rank's own.

        `by_leaf` says how many each leaf has.
        """
        down = self.tree.levels - self.top
        counts = [int(by_leaf[first << down : last << down].sum()) for first, last in self.ranges]
        return self.gathered_by(numbers[:, None], counts)[:, 0]

    def together(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of all positions of the ordering, from each rank's own."""
        if self.alone:
            return rows
        return self.gathered_by(rows, [stop - start for start, stop in self.parts()])

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Return the largest of the ranks' numbers, one for each place.

        How often the ranks agree depends on their number, so that it counts no words.
        """
        return values if self.alone else np.max(self.world.gather(values), axis=0)  # type: ignore

    def total(self, values: np.ndarray, level: int) -> float:
        """Return the sum of one number for each of this rank's nodes of a level, over all nodes."""
        return float(np.sum(self.gathered(values, level)))

    def raised(self, stack: np.ndarray, level: int, to: int) -> np.ndarray:
        """Return what nodes of a level add up to at a level above it, from each rank's own.

        Of level `to`, this rank's own nodes, or all where it is above `top`. Sums are made by
        pairs of siblings, one level after the other.
        """
        for above in range(level - 1, to - 1, -1):
            if above == self.top - 1:
                stack = self.gathered(stack, self.top)
            stack = stack[0::2] + stack[1::2]
        return stack

    def children(self, level: int, child: int) -> Children:
        """Return the first or second children of the nodes of a level, in pieces."""
        return Children(self, level, child)

    def of_leaves(self, nodes: np.ndarray, level: int) -> np.ndarray:
        """Return, for each of this rank's leaves, what its node of a level above has.

        `nodes` are as `own` says.
        """
        here = np.arange(self.leaves.start, self.leaves.stop) >> (self.tree.levels - level)
        return nodes[here - self.own(level).start]

    @cached_property
    def mask(self) -> np.ndarray:
        """Which of the padded rows of this rank's leaves hold something: (leaves, m) booleans."""
        sizes = self.tree.leaf_sizes
        return np.arange(sizes.max()) < sizes[self.leaves, None]

    @cached_property
    def full(self) -> bool:
        """Whether all leaves have the same size."""
        sizes = self.tree.leaf_sizes
        return bool((sizes == sizes[0]).all())

    def stacked(self, rows: np.ndarray) -> np.ndarray:
        """Return rows of this rank's positions as a stack of leaves, padded with zeros."""
        if self.full:
            return rows.reshape(*self.mask.shape, rows.shape[1])
        stack = np.zeros((*self.mask.shape, rows.shape[1]))
        stack[self.mask] = rows
        return stack

    def flat(self, stack: np.ndarray) -> np.ndarray:
        """Undo `stacked`."""
        if self.full:
            return stack.reshape(len(stack) * stack.shape[1], stack.shape[2])
        return stack[self.mask]


class Children:
    """The first or second children of a level's nodes, in pieces of their rows.

    A piece is a child, or one of the nodes below it of level `Shares.piece`. Matrices of what the
    ranks hold are stacks of their leaves; those of a node, such as R of a QR factorisation, are
    stacks of what `Shares.own` says of the level: where this is above `top`, or children are at it,
    all ranks have all of them.
    """

    def __init__(self, shares: Shares, level: int, child: int):
        self.shares, self.nodes_level, self.child = shares, level, child
        self.level = level + 1
        self.cut = max(shares.piece, self.level)
        own, tree = shares.own(self.cut), shares.tree
        index = np.arange(own.start, own.stop)
        self.chosen = (index >> (self.cut - self.level)) & 1 == child
        self.node = (index[self.chosen] >> (self.cut - level)) - shares.own(level).start
        self.group = tree.leaves >> self.cut  # leaves of a piece
        self.sizes = np.diff(tree.bounds[:: tree.leaves >> self.level])[child::2][shares.own(level)]
        self.longest = int(np.diff(tree.bounds[:: self.group]).max())  # on any rank

    def pieces(self, stack: np.ndarray) -> np.ndarray:
        """Return the (pieces, rows, k) rows of these children in a stack of leaves, a copy."""
        m, k = stack.shape[1:]
        return stack.reshape(len(self.chosen), self.group * m, k)[self.chosen]

    def put(self, out: np.ndarray, pieces: np.ndarray) -> None:
        """Write the rows of these children into a contiguous stack of leaves."""
        out.reshape(len(self.chosen), self.group * out.shape[1], out.shape[2])[self.chosen] = pieces

    @cached_property
    def inside(self) -> np.ndarray | None:
        """Which rows of the pieces are no padding; None for all."""
        if self.shares.full:
            return None
        mask = self.shares.mask
        return mask.reshape(len(self.chosen), self.group * mask.shape[1])[self.chosen]

    @property
    def meet(self) -> bool:
        """Whether children of one node may lie on several ranks."""
        return self.level <= self.shares.top

    @property
    def lowest(self) -> int:
        """The level up to which a rank's pieces are joined on it alone."""
        return self.shares.top if self.meet else self.level

    def rows(self, level: int, everywhere: bool = False) -> np.ndarray:
        """Return the rows, without padding, of the nodes of a level that make up the children.

        Of those that this rank holds, or of all.
        """
        sizes = np.diff(self.shares.tree.bounds[:: self.shares.tree.leaves >> level])
        index = np.arange(2**level)
        if not everywhere:
            index = index[self.shares.own(level)]
        return sizes[index[(index >> (level - self.level)) & 1 == self.child]]

    def met(self, stack: np.ndarray) -> np.ndarray:
        """Return the nodes of level `top` below all these children, from each rank's own."""
        top, level = self.shares.top, self.level
        counts = [
            int(np.sum((np.arange(first, last) >> (top - level)) & 1 == self.child))
            for first, last in self.shares.ranges
        ]
        return self.shares.gathered_by(stack, counts)

    def summed(self, stack: np.ndarray) -> np.ndarray:
        """Return what pieces add up to, for each node."""
        for _ in range(self.cut - self.lowest):
            stack = stack[0::2] + stack[1::2]
        if not self.meet:
            return stack
        stack = self.met(stack)
        for _ in range(self.shares.top - self.level):
            stack = stack[0::2] + stack[1::2]
        return stack

    def at_nodes(self, work: Callable[..., np.ndarray], *stacks: np.ndarray) -> np.ndarray:
        """Return ``work(*stacks)`` of stacks of nodes; rank 0's where all ranks have these."""
        if self.meet:
            assert self.shares.world is not None
            return self.shares.world.on_root(work, *stacks)
        return work(*stacks)


class TreeRows:
    """How rows of blocks go from a layout to the ranks' positions of the ordering, and back."""

    def __init__(self, shares: Shares, layout: Layout):
        self.shares, self.layout = shares, layout
        self.order = shares.tree.permutation
        self.moving = None
        if isinstance(layout, RowLayout) and not shares.alone:
            self.moving = Regrouping(layout, self.order, shares.parts())

    @cached_property
    def places(self) -> np.ndarray:
        """Where each parameter stands in the order of the tree."""
        places = np.empty(len(self.order), np.int64)
        places[self.order] = np.arange(len(self.order))
        return places

    def there(self, block: np.ndarray) -> np.ndarray:
        """Return the rows of this rank's positions of a block in the layout."""
        if self.moving is not None:
            return self.moving.there(block)
        return block.take(self.order[self.shares.positions], axis=0)

    def back(self, rows: np.ndarray) -> np.ndarray:
        """Return the layout's rows of a block, of which each rank gives its positions."""
        if self.moving is not None:
            return self.moving.back(rows)
        return self.shares.together(rows).take(self.places, axis=0)

    def leaf_numbers(self) -> np.ndarray:
        """Return the leaf of each of the layout's rows."""
        places = self.layout.local(self.places)
        return np.searchsorted(self.shares.tree.bounds, places, side="right") - 1
