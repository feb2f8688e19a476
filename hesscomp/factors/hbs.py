"""The hierarchically block separable factor: one basis for each node of a tree."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors.basis import EPS
from hesscomp.factors.hierarchical import Elimination, InLeaves
from hesscomp.factors.shares import Shares
from hesscomp.factors.telescope import Telescope
from hesscomp.factors.tree import Tree
from hesscomp.parallel.share import WHOLE, Share

DELAY = 1e-3  # a pivot below this part of its coupling is left to the parent
PIECE = 2**15  # numbers of the blocks that are eliminated at once: so many stay in a cache

Work = Callable[[np.ndarray, Share], np.ndarray]


@dataclass(frozen=True, eq=False, repr=False)
class Hbs(InLeaves):
    """A symmetric matrix whose off-diagonal blocks have nested bases, by the nodes of a `tree`.

    The block of two leaves is U_i (...) U_j^T: an orthonormal basis U for each leaf, and for each
    node above one of the coordinates of its two children, who are coupled by a small matrix B.
    A leaf holds its whole diagonal block, so that the matrix can be eliminated leaf by leaf (a
    symmetric ULV factorisation; Chandrasekaran, Gu and Pals 2006).

    `compression.compress` makes one with ``format="hbs"``. Leaves of m parameters and ranks k take
    about m + k + 3 k^2 / m numbers a parameter. A product takes up to 2.5 operations a number for
    each column, an elimination about 10 m^2 a parameter; both are linear in n.

    Attributes
    ----------
    permutation : (n,) int64 array
    bounds : (leaves + 1,) int64 array
        Those of the `tree`.
    ranks : (2 leaves - 1,) int64 array
        Columns of each node's basis: of the root, which has none, then level by level. Node i has
        the children 2 i + 1 and 2 i + 2.
    leaf_blocks : (leaf_numbers,) float64 array
        The leaves' diagonal blocks, row by row, one after the other.
    bases : (basis_numbers,) float64 array
        The bases row by row, of the leaves first, then of one level after the other up to that of
        the root's children. A leaf's has its parameters as rows, another's the coordinates of its
        first child and then of its second.
    couplings : (coupling_numbers,) float64 array
        The matrices B row by row, of the lowest level above the leaves first and of the root last:
        coordinates of the first child by those of the second.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> x = np.linspace(0, 1, 256)
    >>> H = np.exp(-np.abs(x[:, None] - x) / 0.1)
    >>> F = hc.compress(H, rank=4, format="hbs", leaf_size=8)
    >>> bool(np.abs(F.to_dense() - H).max() < 1e-12), F.logdet(0.0).sign
    (True, 1.0)
    """

    ranks: np.ndarray
    bases: np.ndarray
    couplings: np.ndarray

    kind = "hbs"
    arrays = MappingProxyType(
        {
            "permutation": ("n",),
            "bounds": ("cuts",),
            "ranks": ("nodes",),
            "leaf_blocks": ("leaf_numbers",),
            "bases": ("basis_numbers",),
            "couplings": ("coupling_numbers",),
        }
    )
    integers = frozenset({"permutation", "bounds", "ranks"})

    @classmethod
    def of_stacks(cls, tree: Tree, stacks: Stacks, **about) -> Hbs:
        """Return the factor that stacks hold; `about` are fields of every `Factor`."""
        shapes = Shapes.of(tree, stacks.ranks)
        return cls(
            permutation=tree.permutation,
            bounds=tree.bounds,
            ranks=stacks.ranks,
            leaf_blocks=shapes.leaf.pack(stacks.leaves),
            bases=_packed(shapes.bases, stacks.bases),
            couplings=_packed(shapes.couplings, stacks.couplings),
            **about,
        )

    @classmethod
    def most(cls, n: int) -> int:
        return 4 * n * n + 1

    def check(self) -> None:
        """Raise InputError where the arrays are no factor of this kind."""
        tree, ranks = self.tree, self.ranks
        if len(ranks) != 2 * tree.leaves - 1:
            raise InputError(
                f"a tree of {tree.leaves} leaves has {2 * tree.leaves - 1} ranks, not {len(ranks)}"
            )
        if ranks[0] or ranks.min() < 0:
            raise InputError("the ranks must be at least 0, and that of the root 0")
        below = np.append(ranks[1:].reshape(-1, 2).sum(axis=1), tree.leaf_sizes)
        if (ranks > below).any():
            node = int(np.argmax(ranks > below))
            raise InputError(
                f"node {node} has rank {ranks[node]}, but its basis has only {below[node]} rows"
            )
        if below.max(initial=0) > self.n:
            raise InputError("the ranks are larger than the matrix")
        self.check_lengths(self._shapes.lengths)

    @property
    def largest_rank(self) -> int:
        return int(self.ranks.max(initial=0))

    @cached_property
    def _shapes(self) -> Shapes:
        return Shapes.of(self.tree, self.ranks)

    @cached_property
    def stacks(self) -> Stacks:
        """The arrays as stacks of equal matrices, level by level; views where sizes are equal."""
        shapes = self._shapes

        return Stacks(
            self.ranks,
            shapes.leaf.unpack(self.leaf_blocks),
            _unpacked(shapes.bases, self.bases),
            _unpacked(shapes.couplings, self.couplings),
        )

    def details(self, leading: int = 10) -> dict[str, str]:
        tree, shown = self.tree, []
        for level in range(tree.levels, 0, -1)[:leading]:
            of = self.ranks[2**level - 1 : 2 ** (level + 1) - 1]
            shown.append(f"{of.min()} to {of.max()} of {len(of)} nodes")
        sizes = tree.leaf_sizes
        return {
            "numbers": f"{self.numbers} ({self.extent})",
            "leaves": f"{tree.leaves} of {sizes.min()} to {sizes.max()} parameters",
            "ranks from the leaves up": ", ".join(shown) or "none: one leaf",
        }

    # In the order of the tree

    def _tree_diagonal(self) -> np.ndarray:
        return _diagonals(self.stacks.leaves)[self._shapes.leaf.row_mask]

    @cached_property
    def telescope(self) -> Telescope:
        """The matrix as products take it; its levels above the leaves are further numbers."""
        stacks = self.stacks
        blocks = [stacks.leaves, *(_hollow(B) for B in stacks.couplings)]
        upward = [np.ascontiguousarray(_transposed(U)) for U in stacks.bases]
        return Telescope(blocks, upward).joined()

    def _product(self, X: np.ndarray, share: Share = WHOLE) -> np.ndarray:
        return self._shapes.leaf.worked(X, share, self.telescope.product)

    def _eliminate(self, shift: float) -> Elimination:
        return eliminate(self.stacks, self._shapes, shift, Shares(self.tree))


@dataclass(frozen=True)
class Stacks:
    """The matrices of a factor as stacks, padded with zeros to the largest of a level.

    Attributes
    ----------
    ranks : (2 leaves - 1,) int array
    leaves : (leaves, m, m) array
    bases : list of (nodes, rows, k) arrays
        From the leaves up to the root's children. The rows of a node above the leaves are twice
        the columns of the level below: first child, second child.
    couplings : list of (nodes, k, k) arrays
        From the lowest level above the leaves to the root.

    Where ranks share a factor, the nodes are those that `Shares.own` says, with the widths that the
    levels have on all ranks together; the ranks are of all nodes.
    """

    ranks: np.ndarray
    leaves: np.ndarray
    bases: list[np.ndarray]
    couplings: list[np.ndarray]


@dataclass(frozen=True)
class Ragged:
    """A stack of matrices with their own numbers of rows and columns, and how it is packed.

    Attributes
    ----------
    rows, columns : (nodes,) int arrays
    padded : (int, int)
        The rows and columns of a matrix of the stack.
    children : (nodes, 2) int array or None
        Where the rows are those of two children: how many of each. Each is padded by itself.
    """

    rows: np.ndarray
    columns: np.ndarray
    padded: tuple[int, int]
    children: np.ndarray | None = None

    @classmethod
    def of_leaves(cls, tree: Tree) -> Ragged:
        """Return the diagonal blocks of a tree's leaves."""
        sizes = tree.leaf_sizes
        return cls(sizes, sizes, (int(sizes.max()),) * 2)

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.rows), *self.padded

    @property
    def size(self) -> int:
        return int(self.rows @ self.columns)

    @cached_property
    def row_mask(self) -> np.ndarray:
        """The (nodes, rows) booleans of rows that are no padding."""
        most = self.padded[0]
        if self.children is None:
            return np.arange(most) < self.rows[:, None]
        return (np.arange(most // 2) < self.children[:, :, None]).reshape(-1, most)

    @cached_property
    def mask(self) -> np.ndarray | None:
        """What of the padded stack is stored; None for all of it."""
        if self.size == np.prod(self.shape):
            return None
        columns = np.arange(self.shape[2]) < self.columns[:, None]
        return self.row_mask[:, :, None] & columns[:, None, :]

    def pack(self, stack: np.ndarray) -> np.ndarray:
        return stack.reshape(-1) if self.mask is None else stack[self.mask]

    def unpack(self, flat: np.ndarray) -> np.ndarray:
        if self.mask is None:
            return flat.reshape(self.shape)
        stack = np.zeros(self.shape)
        stack[self.mask] = flat
        return stack

    @cached_property
    def _padded(self) -> bool:
        return int(self.rows.sum()) != len(self.rows) * self.shape[1]

    def worked(self, X: np.ndarray, share: Share, work: Work) -> np.ndarray:
        """Return ``work(X, share)`` for the (rows, j) array of a share, which it gets as a stack.

        The rows of a node are padded with zeros.
        """
        if not self._padded:
            Y = work(X.reshape(len(X) // self.shape[1], self.shape[1], X.shape[1]), share)
            return Y.reshape(X.shape)
        inside = self.row_mask[share.own]
        stack = np.zeros((*inside.shape, X.shape[1]))
        stack[inside] = X
        return work(stack, share)[inside]


@dataclass(frozen=True)
class Shapes:
    """The sizes of all matrices of a factor."""

    leaf: Ragged
    bases: list[Ragged]
    couplings: list[Ragged]

    @classmethod
    def of(cls, tree: Tree, ranks: np.ndarray) -> Shapes:
        sizes, levels = tree.leaf_sizes, tree.levels
        most, below = int(sizes.max()), None
        bases, couplings = [], []
        for level in range(levels, 0, -1):
            k = ranks[2**level - 1 : 2 ** (level + 1) - 1]
            wide, rows = max(int(k.max()), 1), sizes if below is None else below.sum(axis=1)
            bases.append(Ragged(rows, k, (most, wide), below))
            most, below = 2 * wide, k.reshape(-1, 2)
            couplings.append(Ragged(below[:, 0], below[:, 1], (wide, wide)))
        return cls(Ragged.of_leaves(tree), bases, couplings)

    @property
    def lengths(self) -> dict[str, int]:
        return {
            "leaf_blocks": self.leaf.size,
            "bases": sum(part.size for part in self.bases),
            "couplings": sum(part.size for part in self.couplings),
        }


def _packed(parts: list[Ragged], stacks: list[np.ndarray]) -> np.ndarray:
    """Return stacks as one flat array."""
    flat = [part.pack(stack) for part, stack in zip(parts, stacks, strict=True)]
    return np.concatenate([np.empty(0), *flat])


def _unpacked(parts: list[Ragged], flat: np.ndarray) -> list[np.ndarray]:
    """Return the stacks that a flat array holds."""
    ends = itertools.pairwise(np.cumsum([0, *(part.size for part in parts)]))
    return [part.unpack(flat[start:stop]) for part, (start, stop) in zip(parts, ends, strict=True)]


def _diagonals(stack: np.ndarray) -> np.ndarray:
    return np.diagonal(stack, axis1=1, axis2=2)


def _transposed(stack: np.ndarray) -> np.ndarray:
    return np.swapaxes(stack, 1, 2)


def _hollow(B: np.ndarray) -> np.ndarray:
    """Return the couplings [[0, B], [B^T, 0]]."""
    k = B.shape[1]
    out = np.zeros((len(B), 2 * k, 2 * k))
    out[:, :k, k:], out[:, k:, :k] = B, _transposed(B)
    return out


@dataclass(frozen=True)
class UlvSolver:
    """Solves with an eliminated matrix, whose inverse telescopes.

    At each node the solution is x = G b + R^T x1: R b is the right side of what the node keeps,
    whose solution x1 comes down, and G is the pseudo-inverse of what it eliminates.
    """

    leaf: Ragged
    inverse: Telescope

    def solve(self, B: np.ndarray, share: Share = WHOLE) -> np.ndarray:
        return self.leaf.worked(B, share, self.inverse.product)


def eliminate(stacks: Stacks, shapes: Shapes, shift: float, shares: Shares) -> Elimination:
    """Eliminate F + shift I by a symmetric ULV factorisation, from the leaves to the root.

    A node's block A is rotated to its basis U and the complement, which meets nothing outside the
    node. The eigenvectors of the complement's block are eliminated, but for those whose eigenvalue
    is below `DELAY` times their coupling: these join U in what the parent gets, so that pivots are
    never small. The signs of the pivots are those of the eigenvalues (Sylvester).

    About 10 rows^3 operations for a node of so many rows. Collective where ranks share the tree:
    each eliminates its own subtrees, and all of them what these leave.
    """
    leaf, levels = shapes.leaf, shares.tree.levels
    A = stacks.leaves + shift * np.eye(leaf.padded[0])
    largest = max(float(np.abs(part).max(initial=0.0)) for part in (A, *stacks.couplings))
    scale = float(shares.largest(np.array([largest]))[0]) or 1.0
    scale = max(scale, abs(shift))  # where the shift cancels the diagonal, its rounding is left
    inside = leaf.row_mask[shares.own(levels)]
    work = _Pivots(scale, 4 * EPS * leaf.padded[0] * scale, shares)
    inverses, reductions = [], []
    for i, U in enumerate(stacks.bases):
        level = levels - i
        if i:
            U = _placed(U, shapes.bases[i].padded[0] // 2, A.shape[1] // 2)
        columns = shapes.bases[i].columns[shares.own(level)]
        G, R, S, kept = work.nodes(A, U, columns, inside, level)
        inverses.append(G)
        reductions.append(R)
        if level == shares.top:
            S, kept = shares.gathered(S, level), shares.gathered(kept, level)
        A, inside = _coupled(S, stacks.couplings[i]), kept.reshape(len(kept) // 2, 2 * S.shape[1])
    inverses.append(work.root(A, inside))
    negative, zero, positive, logabsdet = work.found()
    meet = 0 if shares.alone else levels - shares.top + 1
    inverse = Telescope(inverses, reductions, shares, meet, shares.top).joined()
    counts = int(negative), int(zero), int(positive)
    return Elimination(*counts, float(logabsdet), UlvSolver(leaf, inverse))


def _placed(U: np.ndarray, rank: int, kept: int) -> np.ndarray:
    """Return a basis with rows of zeros for what the children keep beside their own bases."""
    if rank == kept:
        return U
    out = np.zeros((len(U), 2 * kept, U.shape[2]))
    out[:, :rank], out[:, kept : kept + rank] = U[:, :rank], U[:, rank:]
    return out


def _coupled(S: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Return the blocks of parents from what their children keep, S, and the couplings."""
    kept, rank = S.shape[1], B.shape[1]
    A = np.zeros((len(B), 2 * kept, 2 * kept))
    A[:, :kept, :kept], A[:, kept:, kept:] = S[0::2], S[1::2]
    A[:, :rank, kept : kept + rank] = B
    A[:, kept : kept + rank, :rank] = _transposed(B)
    return A


def _joined(parts: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return stacks as one, those of smaller matrices with zeros at their ends."""
    shapes = np.array([part.shape for part in parts])
    out, first = np.zeros((shapes[:, 0].sum(), *shapes[:, 1:].max(axis=0)), parts[0].dtype), 0
    for part in parts:
        within = tuple(slice(length) for length in part.shape[1:])
        out[(slice(first, first + len(part)), *within)] = part
        first += len(part)
    return out


class _Pivots:
    """The pivots found so far, and the elimination of one level's nodes."""

    def __init__(self, scale: float, level: float, shares: Shares):
        self.scale, self.level = scale, level  # of the numbers, and of their rounding
        self.shares = shares
        self.totals = np.zeros(4)
        self.parts: list[np.ndarray] = []

    def nodes(
        self, A: np.ndarray, U: np.ndarray, ranks: np.ndarray, inside: np.ndarray, level: int
    ):
        """Eliminate what is outside the bases U of nodes with blocks A, on a level of the tree.

        Returns
        -------
        G, R : stacks, as in `UlvSolver`
        S : (nodes, kept, kept) array
            The Schur complements.
        kept : (nodes, kept) bool array
            What of these is no padding.
        """
        rows, width = A.shape[1], U.shape[2]
        G, found, step = np.empty(A.shape), [], max(PIECE // max(rows**2, 1), 1)
        for first in range(0, len(A), step):
            here = slice(first, first + step)
            G[here], *rest = self._piece(A[here], U[here], ranks[here], inside[here])
            found.append(rest)
        if level >= self.shares.top and not self.shares.alone:  # with as many kept on all ranks
            most = max((part[1].shape[1] for part in found), default=width)
            width = int(self.shares.largest(np.array([most]))[0])
            nothing = (0, width, rows), (0, width, width), (0, width)
            found.append([np.zeros(nothing[0]), np.zeros(nothing[1]), np.zeros(nothing[2], bool)])
        self._add(level)
        return G, *(_joined(parts) for parts in zip(*found, strict=True))

    def _piece(self, A: np.ndarray, U: np.ndarray, ranks: np.ndarray, inside: np.ndarray):
        nodes, rows, width = U.shape
        A = self._padded(A, inside)
        Q, triangle = np.linalg.qr(U, mode="complete")
        # U = Q1 C, so coordinates U^T x are kept where the basis is Q1 C^-T.
        triangle = triangle[:, :width]
        index = np.arange(rows)
        triangle[:, index[:width], index[:width]] += index[:width] >= ranks[:, None]
        logs = 2 * np.sum(np.log(np.abs(_diagonals(triangle))), axis=1)
        T = _transposed(Q) @ A @ Q
        basis = index < ranks[:, None]  # of these columns of Q
        outer = ~basis
        rest = T * (outer[:, :, None] & outer[:, None, :])
        # The eigenvalues of the rest come first, those of the basis' coordinates after them.
        high = 2 * np.sqrt(np.einsum("ijk,ijk->i", rest, rest)) + self.scale
        rest[:, index, index] += high[:, None] * basis
        w, V = np.linalg.eigh(rest)
        own = index < (rows - ranks)[:, None]
        V *= outer[:, :, None] & own[:, None, :]
        C = (T * (basis[:, :, None] & outer[:, None, :])) @ V
        coupling = np.linalg.norm(C, axis=1)
        nothing = own & (np.abs(w) <= self.level) & (coupling <= self.level)
        delayed = own & ~nothing & (np.abs(w) < DELAY * coupling)
        pivots = own & ~nothing & ~delayed
        inverse = np.divide(1.0, w, out=np.zeros_like(w), where=pivots)
        self._count(w, pivots, nothing, inside, logs)
        kept = basis[:, :width]
        K = np.zeros((nodes, rows, width))
        K[:, :width] = _transposed(np.linalg.inv(triangle)) * kept[:, None, :]
        E = Q @ V
        G = (E * inverse[:, None, :]) @ _transposed(E)

        def reduced(nodes, K: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, ...]:
            D = _transposed(K) @ C[nodes]  # what is kept, by eigenvectors; delayed meet no others
            weighted = D * inverse[nodes, None, :]
            R = _transposed(Q[nodes] @ K) - weighted @ _transposed(E[nodes])
            S = _transposed(K) @ T[nodes] @ K - weighted @ _transposed(D)
            return R, (S + _transposed(S)) / 2, kept

        late = delayed.any(axis=1)
        if not late.any():
            return G, *reduced(slice(None), K, kept)
        # Each by itself, so that its bits do not depend on what other nodes delay.
        order = np.concatenate([np.flatnonzero(~late), np.flatnonzero(late)])
        usual = order[: len(late) - int(late.sum())]
        found = [reduced(usual, K[usual], kept[usual])]
        for node in order[len(usual) :, None]:
            chosen = V[node][:, :, delayed[node[0]]]
            wide = np.hstack([kept[node], np.ones((1, chosen.shape[2]), bool)])
            found.append(reduced(node, np.concatenate([K[node], chosen], axis=2), wide))
        back = np.argsort(order)
        return G, *(_joined(parts)[back] for parts in zip(*found, strict=True))

    def root(self, A: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Eliminate all that is left; return its pseudo-inverse."""
        w, V = np.linalg.eigh(self._padded(A, inside))
        nothing = np.abs(w) <= self.level
        self._count(w, ~nothing, nothing, inside, 0.0)
        self._add(0)
        inverse = np.divide(1.0, w, out=np.zeros_like(w), where=~nothing)
        return (V * inverse[:, None, :]) @ _transposed(V)

    def _padded(self, A: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Return A with the scale on the diagonal where it holds nothing."""
        if inside.all():
            return A
        A = A * (inside[:, :, None] & inside[:, None, :])
        index = np.arange(A.shape[1])
        A[:, index, index] += self.scale * ~inside
        return A

    def _count(self, w, pivots, nothing, inside, logs) -> None:
        """Count the pivots of nodes, without those of padding, which are the scale."""
        padding = np.sum(~inside, axis=1)
        sizes = np.log(np.abs(np.where(pivots, w, 1.0)))
        self.parts.append(
            np.stack(
                [
                    np.sum(pivots & (w < 0), axis=1),
                    np.sum(nothing, axis=1),
                    np.sum(pivots & (w > 0), axis=1) - padding,
                    logs + np.sum(sizes, axis=1) - padding * np.log(self.scale),
                ],
                axis=1,
            )
        )

    def _add(self, level: int) -> None:
        """Add up what was counted of a level's nodes."""
        counted = np.concatenate([np.empty((0, 4)), *self.parts])
        self.totals += self.shares.gathered(counted, level).sum(axis=0)
        self.parts = []

    def found(self) -> np.ndarray:
        """Return the negative, zero and positive pivots, and the sum of their logarithms.

        Rank 0's: above the subtrees all ranks find them, perhaps rounded apart.
        """
        totals = self.totals
        if self.shares.world is not None and not self.shares.alone:
            totals = self.shares.world.broadcast(totals)
        return totals
