"""HBS from one sketch: the bases of a tree's nodes, level by level, from H Omega alone.

Levitt and Martinsson (2022), "Linear-complexity black-box randomized compression of rank-structured
matrices", for symmetric matrices: rows and columns share their bases, and one sketch serves both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hesscomp.compression.sketch import GaussianSketch
from hesscomp.factors.basis import EPS
from hesscomp.factors.certificate import UNKNOWN
from hesscomp.factors.hbs import Hbs, Stacks
from hesscomp.factors.tree import Tree
from hesscomp.parallel.layout import Layout
from hesscomp.parallel.rows import row_range

if TYPE_CHECKING:
    from hesscomp.parallel.world import World

TRIES = 10  # of a threshold for a tolerance
AIM, LOOSE = 0.8, 1.5  # of it, and how much better an error is good enough
SPARE = 2  # log2 of the subtrees that a rank has for its own, at least


@dataclass(frozen=True)
class Cut:
    """Where the bases end.

    Attributes
    ----------
    threshold : float
        Of the singular values of a node's off-diagonal block, as the sketch shows them.
    rank : int, (nodes,) int array or None
        The most columns of a basis, of all nodes or of each (as `Hbs.ranks`).
    oversample : int
        Columns that the sketch must have beyond a node's rows and rank, where no rank is given.
    """

    threshold: float
    rank: int | np.ndarray | None = None
    oversample: int = 10

    def limits(self, level: int, nodes: slice) -> int | np.ndarray | None:
        """Return the most columns for these nodes of a level."""
        if isinstance(self.rank, np.ndarray):
            return self.rank[2**level - 1 : 2 ** (level + 1) - 1][nodes]
        return self.rank


class TooNarrow(Exception):
    """A sketch has fewer columns than the ranks need: at least `columns` would do."""

    def __init__(self, columns: int):
        super().__init__(columns)
        self.columns = columns


class Shares:
    """The subtrees whose lower levels each rank works on, so that no rank holds all of a sketch.

    Above level `top` all ranks do the same little work.
    """

    def __init__(self, tree: Tree, world: World | None):
        self.tree, self.world = tree, world
        size, rank = (1, 0) if world is None else (world.size, world.rank)
        self.top = 0 if size == 1 else min(tree.levels, (size - 1).bit_length() + SPARE)
        self.ranges = [row_range(2**self.top, r, size) for r in range(size)]
        self.first, self.last = self.ranges[rank]

    def positions(self, rank: int) -> slice:
        """Return the positions of the tree that a rank works on."""
        first, last = (end << (self.tree.levels - self.top) for end in self.ranges[rank])
        return slice(int(self.tree.bounds[first]), int(self.tree.bounds[last]))

    def own(self, level: int) -> slice:
        """Return the nodes of a level that this rank works on."""
        if level < self.top:
            return slice(0, 2**level)
        return slice(self.first << (level - self.top), self.last << (level - self.top))

    def collected(self, layout: Layout, block: np.ndarray) -> np.ndarray:
        """Return the rows of a block that this rank works on, in the order of the tree."""
        wanted = [self.tree.permutation[self.positions(r)] for r in range(len(self.ranges))]
        if self.world is None or layout.name == "replicated":
            rank = 0 if self.world is None else self.world.rank
            return np.ascontiguousarray(block[wanted[rank]])  # strides may decide on last bits
        here = [(rows >= layout.start) & (rows < layout.stop) for rows in wanted]
        sent = [block[rows[held] - layout.start] for rows, held in zip(wanted, here, strict=True)]
        received = self.world.exchange(sent)
        mine = wanted[self.world.rank]
        out, starts = np.empty((len(mine), block.shape[1])), _starts(layout)
        for start, stop, rows in zip(starts, starts[1:], received, strict=False):
            out[(mine >= start) & (mine < stop)] = rows
        return out

    def gathered(self, stack: np.ndarray, level: int) -> np.ndarray:
        """Return all nodes of a level at or below `top`, from each rank's own."""
        if self.world is None or self.world.size == 1:
            return stack
        counts = [(last - first) << (level - self.top) for first, last in self.ranges]
        flat = stack.reshape(len(stack), int(np.prod(stack.shape[1:])))
        return self.world.gather_rows(flat, counts).reshape(sum(counts), *stack.shape[1:])

    def most(self, value: int) -> int:
        """Return the largest of the ranks' numbers."""
        if self.world is None:
            return int(value)
        return int(self.world.max(np.array([value], dtype=np.int64))[0])


def _starts(layout: Layout) -> list[int]:
    """Return the first rows of all ranks, and n."""
    ranges = [row_range(layout.n, rank, layout.world.size) for rank in range(layout.world.size)]  # type: ignore[union-attr]
    return [start for start, _ in ranges] + [layout.n]


@dataclass
class _Level:
    """The nodes of one level: their rows, compact, and what was found of them."""

    rows: np.ndarray  # (nodes,) valid rows
    children: np.ndarray | None = None  # (nodes, 2) ranks of the children; None of leaves
    width: int = 0  # the padded rank of a child
    bases: np.ndarray = field(default_factory=lambda: np.empty(0))  # (nodes, r, k)
    rest: np.ndarray = field(default_factory=lambda: np.empty(0))  # (nodes, r, r): D
    ranks: np.ndarray = field(default_factory=lambda: np.empty(0))  # (nodes,)


def build(shares: Shares, Omega: np.ndarray, Y: np.ndarray, cut: Cut) -> Stacks:
    """Return the matrices of an HBS approximation of H from Y = H Omega. Collective.

    Parameters
    ----------
    shares : Shares
    Omega, Y : (rows, s) arrays
        This rank's rows, in the order of the tree.
    cut : Cut

    Raises
    ------
    TooNarrow
        Where s is less than the rows of a node, its rank and the oversample together.

    Notes
    -----
    A leaf's test rows Omega_i (m x s) have null vectors N, and Y_i N is a sample of H's rows of
    the leaf outside its diagonal block, whose range is the basis U. Of the diagonal block, Y_i
    Omega_i^+ tells all but U (...) U^T, which is left to the parent: its children's U^T (Y_i - D
    Omega_i) and U^T Omega_i are its sketch. From the root, whose block is all known, the diagonal
    blocks are put back down to the leaves. (As published they stay at their levels, and then
    cannot be eliminated.)

    About 8 s rows^2 operations for a node of so many rows, and 5 n s numbers of memory, each a
    P-th on P ranks; the ranks gather the finished matrices.
    """
    tree = shares.tree
    levels: list[_Level] = []
    sizes = tree.leaf_sizes[shares.own(tree.levels)]
    stacks, level = _ragged(Omega, Y, sizes, int(tree.leaf_sizes.max())), _Level(sizes)
    for depth in range(tree.levels, 0, -1):
        needed = _find_bases(level, stacks, cut, cut.limits(depth, shares.own(depth)))
        if (most := shares.most(needed)) > stacks[0].shape[2]:
            raise TooNarrow(most)
        width = shares.most(int(level.ranks.max(initial=1)))
        level.bases = U = np.ascontiguousarray(level.bases[:, :, :width])
        upward = np.swapaxes(U, 1, 2)
        stacks = upward @ stacks[0], upward @ (stacks[1] - level.rest @ stacks[0])
        levels.append(level)
        ranks = level.ranks
        if depth == shares.top:
            ranks = shares.gathered(ranks[:, None], depth)[:, 0]
            stacks = shares.gathered(stacks[0], depth), shares.gathered(stacks[1], depth)
        children = ranks.reshape(-1, 2)
        level = _Level(children.sum(axis=1), children, width)
        most = shares.most(int(level.rows.max(initial=1)))
        stacks = _compact(stacks[0], level, most), _compact(stacks[1], level, most)
    root = level
    if stacks[0].shape[1] > stacks[0].shape[2]:
        raise TooNarrow(stacks[0].shape[1] + cut.oversample)
    _, _, G = _least_squares(*stacks, _inside(root.rows, stacks[0].shape[1]))
    return _push_down(shares, levels, root, (G + np.swapaxes(G, 1, 2)) / 2)


def _ragged(Omega, Y, sizes, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the leaves' rows as stacks, padded with zeros at the end of each leaf."""
    inside = _inside(sizes, most)
    if inside.all():
        return tuple(block.reshape(len(sizes), most, -1) for block in (Omega, Y))  # type: ignore[return-value]
    out = []
    for block in (Omega, Y):
        stack = np.zeros((len(sizes), most, block.shape[1]))
        stack[inside] = block
        out.append(stack)
    return out[0], out[1]


def _inside(rows: np.ndarray, most: int) -> np.ndarray:
    return np.arange(most) < rows[:, None]


def _valid(level: _Level) -> np.ndarray:
    """Return which of the padded rows of two children hold something."""
    assert level.children is not None  # of no leaf
    return (np.arange(level.width) < level.children[:, :, None]).reshape(len(level.rows), -1)


def _compact(stack: np.ndarray, level: _Level, most: int) -> np.ndarray:
    """Return the rows of two children as those of their parent, those that are none at the end."""
    joined = stack.reshape(len(level.rows), 2 * level.width, stack.shape[2])
    valid = _valid(level)
    if valid.all():
        return joined[:, :most]
    order = np.argsort(~valid, axis=1, kind="stable")[:, :most]
    return np.take_along_axis(joined, order[:, :, None], 1)


def _padded_rows(stack: np.ndarray, level: _Level) -> np.ndarray:
    """Undo `_compact`."""
    valid = _valid(level)
    if valid.all() and stack.shape[1] == 2 * level.width:
        return stack
    place = np.maximum(np.cumsum(valid, axis=1) - 1, 0)[:, :, None]
    return np.take_along_axis(stack, place, 1) * valid[:, :, None]


def _least_squares(Omega, Y, inside):
    """Return the (nodes, s, r) orthonormal Q of Omega^T = Q R, Y Q, and Y Omega^+."""
    Q, R = np.linalg.qr(np.swapaxes(Omega, 1, 2))
    Q *= inside[:, None, :]
    index = np.arange(R.shape[1])
    R[:, index, index] += ~inside
    YQ = Y @ Q
    return Q, YQ, np.swapaxes(np.linalg.solve(R, np.swapaxes(YQ, 1, 2)), 1, 2)


def _find_bases(level: _Level, stacks, cut: Cut, limits) -> int:
    """Put bases, ranks and remainders into a level; return the columns that this takes at least."""
    Omega, Y = stacks
    nodes, most, s = Omega.shape
    if most + 1 > s:
        level.ranks = np.zeros(nodes, np.int64)
        return most + 1 + cut.oversample
    inside = _inside(level.rows, most)
    Q, YQ, M = _least_squares(Omega, Y, inside)
    outside = Y - YQ @ np.swapaxes(Q, 1, 2)  # Y N N^T, which has the left singular vectors of Y N
    triangle = np.linalg.qr(np.swapaxes(outside, 1, 2), mode="r")
    U, sigma, _ = np.linalg.svd(np.swapaxes(triangle, 1, 2))
    sigma /= np.sqrt(s - level.rows)[:, None]
    found = np.sum(sigma > cut.threshold, axis=1)
    ranks = np.minimum(found, level.rows)
    if limits is not None:
        ranks = np.minimum(ranks, limits)
    level.ranks = ranks
    U = U * _inside(ranks, most)[:, None, :]
    kept = U[:, :, : int(ranks.max(initial=0))]
    P = M - kept @ (np.swapaxes(kept, 1, 2) @ M)
    W = P @ kept
    P -= W @ np.swapaxes(kept, 1, 2)
    mixed = W @ np.swapaxes(kept, 1, 2)
    level.rest = (P + np.swapaxes(P, 1, 2)) / 2 + mixed + np.swapaxes(mixed, 1, 2)
    level.bases = U
    needed = level.rows + ranks + cut.oversample
    if limits is not None:  # what was asked for is found, if less well
        needed = np.minimum(needed, s)
    return int(needed.max(initial=0))


def _push_down(shares: Shares, levels: list[_Level], root: _Level, G: np.ndarray) -> Stacks:
    """Return the matrices, with all diagonal blocks put down to the leaves."""
    tree = shares.tree
    couplings, bases, ranks = [], [], [np.zeros(1, np.int64)]
    above = root
    for depth, level in zip(range(1, tree.levels + 1), reversed(levels), strict=True):
        width = above.width
        G = np.swapaxes(_padded_rows(np.swapaxes(_padded_rows(G, above), 1, 2), above), 1, 2)
        B = G[:, :width, width:]
        A = np.stack([G[:, :width, :width], G[:, width:, width:]], axis=1)
        A = A.reshape(-1, width, width)
        if depth == shares.top:
            A = A[shares.own(depth)]
        G = level.rest + level.bases @ A @ np.swapaxes(level.bases, 1, 2)
        mine = depth >= shares.top
        U = level.bases if level.children is None else _padded_rows(level.bases, level)
        couplings.append(shares.gathered(B, depth - 1) if depth - 1 >= shares.top else B)
        bases.append(shares.gathered(U, depth) if mine else U)
        of = level.ranks.astype(np.int64)
        ranks.append(shares.gathered(of[:, None], depth)[:, 0] if mine else of)
        above = level
    leaves = shares.gathered(G, tree.levels)
    return Stacks(
        np.concatenate(ranks),
        (leaves + np.swapaxes(leaves, 1, 2)) / 2,
        bases[::-1],
        [np.ascontiguousarray(B) for B in couplings[::-1]],
    )


def usual_columns(n: int, leaf_size: int, rank: int) -> int:
    """Return the columns of a sketch for a rank: twice a leaf's and the rank.

    The nodes above the leaves have two such ranks as rows, and get 10 more than they need.
    """
    rank = min(rank, n // 2)
    return max(2 * (leaf_size + rank), 3 * rank + 10)


class HbsFit:
    """HBS factors of one sketch: of a rank, or of the least that meets a tolerance."""

    def __init__(self, sketch: GaussianSketch, tree: Tree, oversample: int):
        self.sketch, self.tree, self.oversample = sketch, tree, oversample
        self.shares = Shares(tree, sketch.layout.world)
        self.rows: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def rounding(self) -> float:
        """The threshold below which singular values are noise."""
        return 4 * float(EPS) * self.sketch.norm

    def usual_columns(self, ranks: int | np.ndarray) -> int:
        """Return `usual_columns`; for known ranks half as many to spare as they are."""
        leaf = int(self.tree.leaf_sizes.max())
        if not isinstance(ranks, np.ndarray):
            return usual_columns(self.tree.n, leaf, ranks)
        rows = np.append(ranks[1:].reshape(-1, 2).sum(axis=1), self.tree.leaf_sizes)
        return int((rows + ranks + np.maximum(ranks // 2, 10)).max())

    def widest(self, tolerance: float) -> Hbs:
        """Return the factor of the largest rank for which the sketch has enough columns."""
        size, leaf = self.sketch.size, int(self.tree.leaf_sizes.max())
        rank = max(min(size - leaf - self.oversample, (size - self.oversample) // 3), 1)
        threshold = tolerance * self.sketch.norm / np.sqrt(2 * self.tree.leaves - 1)
        return self.factor(threshold, rank)

    def factor(self, threshold: float, rank: int | np.ndarray | None = None) -> Hbs:
        """Return the factor with the bases that a threshold leaves, of at most `rank` columns.

        Raises TooNarrow.
        """
        if self.rows is None or self.rows[0].shape[1] != self.sketch.size:
            sketch, layout = self.sketch, self.sketch.layout
            self.rows = tuple(  # type: ignore[assignment]
                self.shares.collected(layout, block) for block in (sketch.Omega, sketch.Y)
            )
        assert self.rows is not None  # as just made
        cut = Cut(max(threshold, self.rounding), rank, self.oversample)
        stacks = build(self.shares, *self.rows, cut)
        return Hbs.of_stacks(self.tree, stacks, certificate=UNKNOWN, layout=self.sketch.layout)

    def meeting(self, tolerance: float, rank: int | None = None) -> tuple[Hbs, float]:
        """Return a factor, and its estimated relative error, at most the tolerance if that can be.

        The sketch's own probes judge. Raises TooNarrow where it has too few columns to tell.
        """
        norm = self.sketch.norm or 1.0
        threshold = tolerance * norm / np.sqrt(2 * self.tree.leaves - 1)
        best = last = None
        for _ in range(TRIES):
            factor = self.factor(threshold, rank)
            error = self.sketch.error(factor) / norm
            met, change = error <= tolerance, AIM * tolerance / max(error, 1e-300)
            if met:
                smaller = best is None or factor.numbers < best[0].numbers
                best = (factor, error) if smaller else best
                if error * LOOSE > tolerance or not smaller:
                    break
                threshold *= min(change, 10.0)
            else:
                same = last is not None and np.array_equal(last[0].ranks, factor.ranks)
                last = factor, error
                if best is not None or same or threshold <= self.rounding:
                    break
                threshold *= max(change, 0.1)
        found = best or last
        assert found is not None  # there was a try
        return found
