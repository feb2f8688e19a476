"""HBS from one sketch: the bases of a tree's nodes, level by level, from H Omega alone.

Levitt and Martinsson (2022), "Linear-complexity black-box randomized compression of rank-structured
matrices", for symmetric matrices: rows and columns share their bases, and one sketch serves both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hesscomp.compression.sketch import GaussianSketch
from hesscomp.errors import InputError
from hesscomp.factors.basis import EPS
from hesscomp.factors.certificate import UNKNOWN
from hesscomp.factors.hbs import Hbs, Stacks
from hesscomp.factors.shares import Shares
from hesscomp.factors.tree import Tree
from hesscomp.parallel.layout import Layout, RowLayout
from hesscomp.parallel.regrouping import Regrouping

TRIES = 10  # of a threshold for a tolerance
AIM, LOOSE = 0.8, 1.5  # of it, and how much better an error is good enough
PIECE = 2**20  # numbers of the sketch of a subtree that is climbed at once
QUANTUM = 4  # of rows and columns


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


class TooNarrow(InputError):
    """A sketch has fewer columns than the ranks need: at least `columns` would do."""

    def __init__(self, columns: int):
        super().__init__(f"too few `sketch_columns` for this tree; take at least {columns}")
        self.columns = columns


class Subtrees(Shares):
    """The subtrees whose lower levels each rank climbs, so that no rank holds all of a sketch."""

    def joint(self, size: int) -> int:
        """Return the level below which subtrees are climbed one by one, for `size` columns."""
        pieces = -(-self.tree.n * size // PIECE)
        return min(max(self.top, (pieces - 1).bit_length(), 1), self.tree.levels)

    def pieces(self, level: int) -> list[list[slice]]:
        """Return, for each step, the nodes of a level that the ranks work on, one each or none."""
        ends = [[end << (level - self.top) for end in ends] for ends in self.ranges]
        steps = max(last - first for first, last in ends)
        return [
            [slice(min(first + i, last), min(first + i + 1, last)) for first, last in ends]
            for i in range(steps)
        ]

    def collected(
        self, layout: Layout, block: np.ndarray, level: int, nodes: list[slice]
    ) -> np.ndarray:
        """Return the rows of a block below this rank's nodes, in the order of the tree.

        `nodes` are those of all ranks.
        """
        bounds = self.tree.bounds[:: self.tree.leaves >> level]
        parts = [(int(bounds[of.start]), int(bounds[of.stop])) for of in nodes]
        if isinstance(layout, RowLayout) and layout.world.size > 1:
            return Regrouping(layout, self.tree.permutation, parts).there(block)
        mine = slice(*parts[0 if self.world is None else self.world.rank])
        # Strides may decide on last bits.
        return np.ascontiguousarray(block[self.tree.permutation[mine]], np.float64)


@dataclass
class _Level:
    """The nodes of one level: their rows, compact, and what was found of them."""

    rows: np.ndarray  # (nodes,) valid rows
    children: np.ndarray | None = None  # (nodes, 2) ranks of the children; None of leaves
    width: int = 0  # the padded rank of a child
    bases: np.ndarray = field(default_factory=lambda: np.empty(0))  # (nodes, r, k)
    rest: np.ndarray = field(default_factory=lambda: np.empty(0))  # (nodes, r, r): D
    ranks: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # (nodes,)


Pair = tuple[np.ndarray, np.ndarray]
Fetch = Callable[[int, list[slice]], Pair]


def climb(shares: Subtrees, fetch: Fetch, size: int, cut: Cut) -> list[_Level]:
    """Return the levels of an HBS approximation of H from Y = H Omega, root last. Collective.

    Parameters
    ----------
    shares : Subtrees
    fetch : callable
        Returns the (rows, s) arrays Omega and Y below this rank's nodes, in the order of the tree,
        for a level and all ranks' nodes. Collective.
    size : int
        The columns of the sketch, s.
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
    blocks are then put back down to the leaves, by `push_down`. (As published they stay at their
    levels, and then cannot be eliminated.)

    Each rank fetches and climbs its subtrees one by one, so that it holds little beside the sketch.
    About 12 s rows^2 operations for a node of so many rows, in shapes that are the node's own: its
    bits depend neither on the other nodes nor on the number of ranks.
    """
    tree, joint = shares.tree, shares.joint(size)
    climbed: dict[int, list[_Level]] = {depth: [] for depth in range(tree.levels, joint - 1, -1)}
    needed, tops, stop = np.zeros(tree.levels + 1, np.int64), [], joint
    rank = 0 if shares.world is None else shares.world.rank
    level, stacks = _leaves(tree, joint, slice(0, 0), (np.empty((0, size)),) * 2)
    for nodes in shares.pieces(joint):
        blocks, mine = fetch(joint, nodes), nodes[rank]
        if mine.start == mine.stop:
            continue
        level, stacks = _leaves(tree, joint, mine, blocks)
        above = stacks
        for depth in range(tree.levels, 0, -1):
            of = slice(mine.start << (depth - joint), mine.stop << (depth - joint))
            columns, above = _find_bases(level, stacks, cut, cut.limits(depth, of))
            climbed[depth].append(level)
            needed[depth] = max(needed[depth], columns)
            if columns > size:
                stop = depth
            if depth == stop:
                break
            level, stacks = _parents(level.ranks, above)
        tops.append(above)
    _check(shares, needed, size)
    lowest = range(tree.levels, max(joint, 1) - 1, -1)
    levels = [_whole(shares, climbed.pop(depth)) for depth in lowest]
    for depth in range(joint - 1, -1, -1):
        ranks, width = levels[-1].ranks, levels[-1].bases.shape[2]
        Omega, Y = (_stacked([top[i] for top in tops], (width, size)) for i in (0, 1))
        if depth + 1 == shares.top:
            ranks = shares.gathered(ranks[:, None], depth + 1)[:, 0]
            Omega, Y = (shares.gathered(stack, depth + 1) for stack in (Omega, Y))
        level, stacks = _parents(ranks, (Omega, Y))
        if depth:
            columns, above = _find_bases(level, stacks, cut, cut.limits(depth, shares.own(depth)))
            needed[depth] = columns
            _check(shares, needed, size)
            levels.append(_whole(shares, [level]))
            tops = [above]
    root = level
    most = int(shares.largest(root.rows.max(initial=0)[None])[0])  # a lone leaf is on one rank
    if most > size:
        raise TooNarrow(most + cut.oversample)
    G, _ = _least_squares(*stacks, _inside(root.rows, stacks[0].shape[1]))
    root.rest = (G + np.swapaxes(G, 1, 2)) / 2
    return [*levels, root]


def _check(shares: Subtrees, needed: np.ndarray, size: int) -> None:
    """Raise TooNarrow, on all ranks, where the lowest level that needs more columns has too few."""
    needed = shares.largest(needed)
    if (narrow := np.flatnonzero(needed > size)).size:
        raise TooNarrow(int(needed[narrow[-1]]))


def _leaves(tree: Tree, joint: int, nodes: slice, blocks: Pair) -> tuple[_Level, Pair]:
    """Return the leaves below nodes of the joint level, and their rows of blocks as stacks."""
    down = tree.levels - joint
    sizes = tree.leaf_sizes[nodes.start << down : nodes.stop << down]
    inside = _inside(sizes, int(tree.leaf_sizes.max()))
    stacks = []
    for block in blocks:
        stack = np.zeros((*inside.shape, block.shape[1]))
        stack[inside] = block
        stacks.append(stack)
    return _Level(sizes), (stacks[0], stacks[1])


def _parents(ranks: np.ndarray, stacks: Pair) -> tuple[_Level, Pair]:
    """Return the level above nodes of these ranks, and its sketch from theirs."""
    children = ranks.reshape(-1, 2)
    level = _Level(children.sum(axis=1), children, stacks[0].shape[1])
    most = int(_rounded(level.rows).max(initial=1))
    return level, (_compact(stacks[0], level, most), _compact(stacks[1], level, most))


def _whole(shares: Subtrees, parts: list[_Level]) -> _Level:
    """Return one level of all its parts, padded alike on all ranks."""
    rows, ranks = (
        np.concatenate([np.empty(0, np.int64), *(getattr(part, name) for part in parts)])
        for name in ("rows", "ranks")
    )
    most, width, below = shares.largest(
        np.array(
            [
                rows.max(initial=1),
                ranks.max(initial=1),
                max((part.width for part in parts), default=0),
            ]
        )
    )
    children = [part.children for part in parts if part.children is not None]
    return _Level(
        rows,
        np.concatenate([np.empty((0, 2), np.int64), *children]) if below else None,
        int(below),
        _stacked([part.bases for part in parts], (most, width)),
        _stacked([part.rest for part in parts], (most, most)),
        ranks,
    )


def _stacked(parts: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return stacks as one of matrices of this shape, without or with zeros at their ends."""
    out, first = np.zeros((sum(len(part) for part in parts), *shape)), 0
    for part in parts:
        _, rows, columns = part.shape
        out[first : first + len(part), :rows, :columns] = part[:, : shape[0], : shape[1]]
        first += len(part)
    return out


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
    if valid.all() and most <= joined.shape[1]:
        return joined[:, :most]
    order = np.argsort(~valid, axis=1, kind="stable")[:, :most]
    out = np.zeros((len(joined), most, joined.shape[2]))
    out[:, : order.shape[1]] = np.take_along_axis(joined, order[:, :, None], 1)
    return out


def _padded_rows(stack: np.ndarray, level: _Level) -> np.ndarray:
    """Undo `_compact`."""
    valid = _valid(level)
    if valid.all() and stack.shape[1] == 2 * level.width:
        return stack
    place = np.maximum(np.cumsum(valid, axis=1) - 1, 0)[:, :, None]
    return np.take_along_axis(stack, place, 1) * valid[:, :, None]


def _least_squares(Omega, Y, inside) -> Pair:
    """Return M = Y Omega^+ and the rest Y - M Omega, by normal equations.

    A normal matrix Omega of four times as many columns as rows has a condition number of about 3;
    of narrower ones, whose Gram matrices lose digits, the solution is refined once.
    """
    rows, size = Omega.shape[1:]
    across, index = np.swapaxes(Omega, 1, 2), np.arange(rows)
    gram = Omega @ across
    gram[:, index, index] += ~inside * float(size)
    inverse = np.linalg.inv(gram)
    M = (Y @ across) @ inverse
    rest = Y - M @ Omega
    if 4 * rows > size:
        more = (rest @ across) @ inverse
        M += more
        rest -= more @ Omega
    return M, rest


def _find_bases(level: _Level, stacks: Pair, cut: Cut, limits) -> tuple[int, Pair]:
    """Put bases, ranks and remainders into a level.

    Returns the columns of a sketch that this takes at least, and the sketch of the bases'
    coordinates, which is worth something where these are no more than there are.
    """
    Omega, Y = stacks
    nodes, most, size = Omega.shape
    shapes, needed = np.minimum(_rounded(level.rows), min(most, size)), np.zeros(nodes, np.int64)
    level.ranks, found = np.zeros(nodes, np.int64), []
    for rows in np.unique(shapes):
        here = np.flatnonzero(shapes == rows)
        of, inside = level.rows[here], _inside(level.rows[here], rows)
        if of.max() + 1 > size:
            needed[here] = of + 1 + cut.oversample
            continue
        M, outside = _least_squares(_of(Omega, here, rows), _of(Y, here, rows), inside)
        # Y N N^T has the left singular vectors of Y N.
        triangle = np.linalg.qr(np.swapaxes(outside, 1, 2), mode="r")
        U, sigma, _ = np.linalg.svd(np.swapaxes(triangle, 1, 2))
        sigma /= np.sqrt(size - of)[:, None]
        ranks = np.minimum(np.sum(sigma > cut.threshold, axis=1), of)
        if limits is not None:
            ranks = np.minimum(ranks, limits[here] if isinstance(limits, np.ndarray) else limits)
        needed[here] = of + ranks + cut.oversample
        level.ranks[here] = ranks
        found.append((here, U * _inside(ranks, rows)[:, None, :], M))
    if limits is not None:  # what was asked for is found, if less well
        needed = np.where(level.rows + 1 > size, needed, np.minimum(needed, size))
    width = int(level.ranks.max(initial=1))
    level.bases, level.rest = np.zeros((nodes, most, width)), np.zeros((nodes, most, most))
    up = np.zeros((nodes, width, size)), np.zeros((nodes, width, size))
    for here, U, M in found:
        rows, wide = U.shape[1], np.minimum(_rounded(level.ranks[here]), U.shape[1])
        for columns in np.unique(wide):
            chosen = wide == columns
            of, kept, seen = here[chosen], U[chosen, :, :columns], M[chosen]
            upward, shown = np.swapaxes(kept, 1, 2), min(columns, width)
            P = seen - kept @ (upward @ seen)
            W = P @ kept
            P -= W @ upward
            mixed = W @ upward
            D = (P + np.swapaxes(P, 1, 2)) / 2 + mixed + np.swapaxes(mixed, 1, 2)
            tested, image = _of(Omega, of, rows), _of(Y, of, rows)
            level.bases[of, :rows, :shown] = kept[:, :, :shown]
            level.rest[of, :rows, :rows] = D
            up[0][of, :shown] = (upward @ tested)[:, :shown]
            up[1][of, :shown] = (upward @ image - (upward @ D) @ tested)[:, :shown]
    return int(needed.max(initial=0)), up


def _of(stack: np.ndarray, nodes: np.ndarray, rows: int) -> np.ndarray:
    """Return the first rows of some nodes, a view where these are all."""
    return stack[:, :rows] if len(nodes) == len(stack) else stack[nodes, :rows]


def _rounded(sizes: np.ndarray) -> np.ndarray:
    """Return sizes rounded up, so that nodes of nearly one size are worked on together."""
    return -(-sizes // QUANTUM) * QUANTUM


def push_down(shares: Subtrees, levels: list[_Level]) -> Stacks:
    """Return the matrices, with all diagonal blocks put down to the leaves. Collective.

    Empties the list of levels. The ranks gather what each has of its subtrees.
    """
    tree = shares.tree
    couplings, bases, ranks = [], [], [np.zeros(1, np.int64)]
    above = levels.pop()
    G = above.rest
    for depth in range(1, tree.levels + 1):
        level = levels.pop()
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
    return Stacks(
        np.concatenate(ranks),
        shares.gathered((G + np.swapaxes(G, 1, 2)) / 2, tree.levels),
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
        self.shares = Subtrees(tree, sketch.layout.world)

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

    def factor(
        self, threshold: float, rank: int | np.ndarray | None = None, last: bool = False
    ) -> Hbs:
        """Return the factor with the bases that a threshold leaves, of at most `rank` columns.

        Where it is the last of this sketch, that is let go: what follows takes as much memory.
        Raises TooNarrow.
        """
        sketch, cut = self.sketch, Cut(max(threshold, self.rounding), rank, self.oversample)
        levels = climb(self.shares, self._fetch(), sketch.size, cut)
        if last:
            sketch.let_go()
        stacks = push_down(self.shares, levels)
        return Hbs.of_stacks(self.tree, stacks, certificate=UNKNOWN, layout=sketch.layout)

    def _fetch(self) -> Fetch:
        sketch, blocks = self.sketch, (self.sketch.seen, self.sketch.images)

        def fetch(level: int, nodes: list[slice]) -> Pair:
            first, second = (
                self.shares.collected(sketch.layout, block, level, nodes) for block in blocks
            )
            return first, second

        return fetch

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
