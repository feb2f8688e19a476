"""The hierarchically off-diagonal low-rank factor: a low rank for each off-diagonal block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors.basis import EPS
from hesscomp.factors.hbs import Ragged, Shapes, Stacks, eliminate
from hesscomp.factors.hierarchical import Elimination, InLeaves
from hesscomp.factors.telescope import times
from hesscomp.factors.tree import Tree
from hesscomp.parallel.share import WHOLE, Share

TALL = 1024  # rows of a matrix that is orthonormalised in one piece


@dataclass(frozen=True, eq=False, repr=False)
class Hodlr(InLeaves):
    """A symmetric matrix whose off-diagonal blocks have low rank, by the nodes of a `tree`.

    The block of two siblings is W_1 W_2^T, where each has as many columns as that block's rank: its
    singular vectors, times the roots of its singular values. A leaf holds its whole diagonal block
    (Ambikasaran and Darve 2013).

    `compression.hodlr.compress_hodlr` makes one. Leaves of m parameters and ranks k on L levels
    take m + k L numbers a parameter. A product takes twice as many operations for each column. It
    is eliminated as the `Hbs` factor that it is to rounding: with r for the rank of what a node has
    in common with all others, at most k times its level, in about 10 (m^2 + r^2) operations a
    parameter.

    Attributes
    ----------
    permutation : (n,) int64 array
    bounds : (leaves + 1,) int64 array
        Those of the `tree`.
    block_ranks : (leaves - 1,) int64 array
        Of each inner node, that of the block between its two children: the root's, then level by
        level. Node i has the children 2 i + 1 and 2 i + 2.
    leaf_blocks : (leaf_numbers,) float64 array
        The leaves' diagonal blocks, row by row, one after the other.
    sides : (side_numbers,) float64 array
        The matrices W, row by row: of the root's two children, then of one level after the other.

    Examples
    --------
    >>> import numpy as np
    >>> from hesscomp.compression.hodlr import compress_hodlr
    >>> from hesscomp.factors.tree import Tree
    >>> from hesscomp.operators.matrix import MatrixOperator
    >>> x = np.linspace(0, 1, 256)
    >>> H = np.exp(-np.abs(x[:, None] - x) / 0.1)
    >>> F = compress_hodlr(MatrixOperator(H), Tree.halves(256, 32), rank=4)
    >>> bool(np.abs(F.to_dense() - H).max() < 1e-12), F.inertia().negative, F.logdet(0.0).sign
    (True, 0, 1.0)
    """

    block_ranks: np.ndarray
    sides: np.ndarray

    kind = "hodlr"
    arrays = MappingProxyType(
        {
            "permutation": ("n",),
            "bounds": ("cuts",),
            "block_ranks": ("inner_nodes",),
            "leaf_blocks": ("leaf_numbers",),
            "sides": ("side_numbers",),
        }
    )
    integers = frozenset({"permutation", "bounds", "block_ranks"})

    @classmethod
    def of_form(cls, tree: Tree, ranks: np.ndarray, form: Form, **about) -> Hodlr:
        """Return the factor of a `Form`; `about` are fields of every `Factor`."""
        if full := _is_full(tree, ranks):
            parts = [form.leaves, *(form.side(level) for level in range(tree.levels))]
        else:
            leaf, sides = _masks(tree, ranks)
            parts = [form.leaves[leaf], *(form.side(i)[mask] for i, mask in enumerate(sides))]
        made = cls(
            permutation=tree.permutation,
            bounds=tree.bounds,
            block_ranks=np.asarray(ranks, np.int64),
            leaf_blocks=parts[0].reshape(-1),
            sides=np.concatenate([np.empty(0), *(part.reshape(-1) for part in parts[1:])]),
            **about,
        )
        if full:
            made.__dict__["form"] = form
        return made

    @classmethod
    def most(cls, n: int) -> int:
        return n * n + 1

    @property
    def largest_rank(self) -> int:
        return int(self.block_ranks.max(initial=0))

    def check(self) -> None:
        """Raise InputError where the arrays are no factor of this kind."""
        tree, ranks = self.tree, self.block_ranks
        if len(ranks) != tree.leaves - 1:
            raise InputError(
                f"a tree of {tree.leaves} leaves has {tree.leaves - 1} inner nodes, not "
                f"{len(ranks)}"
            )
        if ranks.min(initial=0) < 0 or ranks.max(initial=0) > self.n:
            raise InputError(f"the ranks of blocks must lie between 0 and n = {self.n}")
        rows = [tree.node(*_place(node)) for node in range(len(ranks))]
        lengths = np.array([part.stop - part.start for part in rows], np.int64)
        leaf_numbers, side_numbers = np.sum(tree.leaf_sizes**2), np.sum(lengths * ranks)
        self.check_lengths({"leaf_blocks": int(leaf_numbers), "sides": int(side_numbers)})

    @cached_property
    def form(self) -> Form:
        """The arrays as stacks of equal matrices, padded with zeros."""
        tree, ranks = self.tree, self.block_ranks
        leaf, sides = _masks(tree, ranks)
        m, widths = leaf.shape[1], [mask.shape[2] for mask in sides]
        rows = tree.leaves, m
        form = Form(np.zeros((*rows, m)), np.zeros((*rows, sum(widths))), widths)
        form.leaves[leaf] = self.leaf_blocks
        first = 0
        for i, mask in enumerate(sides):
            numbers = int(np.count_nonzero(mask))
            form.side(i)[mask] = self.sides[first : first + numbers]
            first += numbers
        return form

    @cached_property
    def _leaf(self) -> Ragged:
        return Ragged.of_leaves(self.tree)

    def update(self, B: np.ndarray, c: np.ndarray, tolerance: float = 0.0) -> Hodlr:
        """Return F + B diag(c) B^T, with the ranks cut again.

        With the eigenpairs of a difference H_new - F it goes to a new point:
        ``E = compress(H_new - F, 20); F.update(E.eigenvectors, E.eigenvalues, 1e-3)``.

        Parameters
        ----------
        B : (n, j) array
        c : (j,) array
        tolerance : float
            At most tolerance ||F + B diag(c) B^T||_F is cut, which is added to the error estimate;
            with 0 only rounding is.

        Notes
        -----
        About 6 (k + j)^2 operations a parameter and level.
        """
        B, c = self.layout.whole(self.checked(B)), np.asarray(c, dtype=np.float64)
        if B.ndim != 2 or c.shape != (B.shape[1],) or not np.isfinite(c).all():
            raise InputError(
                f"an update takes an (n, j) array and j finite weights, not shapes {B.shape} and "
                f"{c.shape}"
            )
        if not 0 <= tolerance < 1:
            raise InputError(f"tolerance must be at least 0 and below 1, not {tolerance}")
        form, tree = self.form, self.tree
        inside = self._leaf.row_mask
        added = np.zeros((*inside.shape, len(c)))
        added[inside] = B[tree.permutation]
        weighted = added * c
        core, before = c[:, None] * (B.T @ B), self.frobenius()
        change = float(np.sum(core * core.T))
        squares = before**2 + 2 * np.sum(weighted * form.product(added)) + change
        norm = float(np.sqrt(max(squares, 0.0)))
        noise = 8 * EPS * (before + np.sqrt(max(change, 0.0)))
        D = form.leaves + weighted @ np.swapaxes(added, 1, 2)
        sides, ranks = [], []
        for level in range(tree.levels):
            rows = len(D) * form.m >> (level + 1)
            first, second = (
                np.concatenate([form.side(level), more], axis=2).reshape(2 ** (level + 1), rows, -1)
                for more in (weighted, added)
            )
            of_children = inside.reshape(2 ** (level + 1), rows)
            held = of_children[0::2], of_children[1::2]
            Q, R = tall_qr(first[0::2], held[0])
            cut = cut_of_block(tolerance * norm, level, tree.levels)
            Z = second[1::2] @ np.swapaxes(R, 1, 2)
            W = truncated(Q, Z, held, Q.shape[2], cut, noise)
            of = np.count_nonzero(W.any(axis=1), axis=1)[1::2]
            sides.append(W[:, :, : of.max()].reshape(len(D), form.m, of.max()))
            ranks.append(of)
        made = Hodlr.of_form(
            tree,
            np.concatenate([np.empty(0, np.int64), *ranks]),
            Form(D, np.concatenate([D[:, :, :0], *sides], axis=2), [W.shape[2] for W in sides]),
            certificate=self.certificate,
        )
        found, known = made.frobenius(), self.certificate
        error = known.frobenius_error_estimate + tolerance * norm
        return replace(
            made,
            certificate=replace(
                known,
                frobenius_error_estimate=error,
                frobenius_norm_estimate=float(np.hypot(found, error)),
                spectral_error_bound=known.spectral_error_bound + tolerance * norm,
            ),
            provenance=self.provenance.derived("update"),
            parameters=self.parameters,
            blocks=self.blocks,
            layout=self.layout,
        )

    def frobenius(self) -> float:
        """Return ||F||_F: of the leaves' blocks and, twice, of the blocks of siblings."""
        squares = float(np.sum(self.leaf_blocks**2))
        for level in range(self.tree.levels):
            W = self.form.side(level)
            gram = np.swapaxes(W, 1, 2) @ W
            gram = (
                gram.reshape(2 ** (level + 1), -1, *gram.shape[1:]).sum(axis=1) if W.size else gram
            )
            squares += 2 * float(np.sum(gram[0::2] * gram[1::2]))
        return float(np.sqrt(squares))

    def details(self, leading: int = 10) -> dict[str, str]:
        tree, ranks = self.tree, self.block_ranks
        by_level = [ranks[2**i - 1 : 2 ** (i + 1) - 1] for i in range(tree.levels)]
        shown = [f"{of.min()} to {of.max()} of {len(of)}" for of in by_level[:leading]]
        sizes = tree.leaf_sizes
        return {
            "numbers": f"{self.numbers} ({self.extent})",
            "leaves": f"{tree.leaves} of {sizes.min()} to {sizes.max()} parameters",
            "ranks of blocks from the root down": ", ".join(shown) or "none: one leaf",
        }

    # In the order of the tree

    def _tree_diagonal(self) -> np.ndarray:
        return np.diagonal(self.form.leaves, axis1=1, axis2=2)[self._leaf.row_mask]

    def _product(self, X: np.ndarray, share: Share = WHOLE) -> np.ndarray:
        return self._leaf.worked(X, share, self.form.product)

    def _eliminate(self, shift: float) -> Elimination:
        stacks = self._nested
        return eliminate(stacks, Shapes.of(self.tree, stacks.ranks), shift)

    @cached_property
    def _nested(self) -> Stacks:
        return nested(self.form, self.tree)


def _place(node: int) -> tuple[int, int]:
    """Return the level of an inner node, and its place in it."""
    level = (node + 1).bit_length() - 1
    return level, node + 1 - 2**level


def _is_full(tree: Tree, ranks: np.ndarray) -> bool:
    """Return whether nothing in the stacks of a `Form` is padding."""
    of_levels = [ranks[2**level - 1 : 2 ** (level + 1) - 1] for level in range(tree.levels)]
    return all(len(np.unique(sizes)) == 1 for sizes in (tree.leaf_sizes, *of_levels))


def _masks(tree: Tree, ranks: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return what of the padded leaf blocks, and of each level's sides, is stored."""
    sizes = tree.leaf_sizes
    inside = np.arange(sizes.max()) < sizes[:, None]
    sides = []
    for level in range(tree.levels):
        of = np.repeat(ranks[2**level - 1 : 2 ** (level + 1) - 1], tree.leaves >> level)
        columns = np.arange(of.max()) < of[:, None]
        sides.append(inside[:, :, None] & columns[:, None, :])
    return inside[:, :, None] & inside[:, None, :], sides


@dataclass(frozen=True)
class Form:
    """The matrices of a factor as stacks, padded with zeros to the largest of a level.

    Attributes
    ----------
    leaves : (leaves, m, m) array
        Of each leaf its rows of D.
    sides : (leaves, m, K) array
        And of the sides W of all levels side by side, root's first.
    widths : list of int
        The columns of each level in W; they add up to K.
    """

    leaves: np.ndarray
    sides: np.ndarray
    widths: list[int]

    @property
    def m(self) -> int:
        return self.leaves.shape[1]

    def columns(self, level: int) -> slice:
        """Return which columns of W are a level's."""
        first = sum(self.widths[:level])
        return slice(first, first + self.widths[level])

    def side(self, level: int) -> np.ndarray:
        """Return the (leaves, m, k) sides of a level; a view."""
        return self.sides[:, :, self.columns(level)]

    def product(self, Z: np.ndarray, share: Share = WHOLE) -> np.ndarray:
        """Return the product with a (leaves, m, j) array; both are of the leaves of a share."""
        here = share.own
        W = self.sides[here]
        given = exchanged(share.gathered(coordinates(W, Z)), self.widths)
        Y = times(self.leaves[here], Z)
        Y += times(W, given[here])
        return Y


def coordinates(W: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """Return W^T Z, (leaves, K, j), for (leaves, m, K) sides and a (leaves, m, j) array."""
    return times(np.swapaxes(W, 1, 2), Z)


def exchanged(given: np.ndarray, widths: list[int]) -> np.ndarray:
    """Return what siblings see of each other: the sides W times it are the product without leaves.

    Parameters
    ----------
    given : (leaves, K, j) array
        The `coordinates` of Z; overwritten.
    widths : list of int
        The columns of each level in W, root's first.

    Returns
    -------
    (leaves, K, j) array
    """
    (leaves, _, j), first = given.shape, 0
    for level, k in enumerate(widths):
        columns, children = slice(first, first + k), 2 ** (level + 1)
        group, first = leaves // children, first + k
        by_child = given[:, columns].reshape(children, group, k, j).sum(axis=1)
        moved = by_child.reshape(children // 2, 2, k, j)[:, ::-1]
        given[:, columns] = np.repeat(moved.reshape(children, k, j), group, axis=0)
    return given


def nested(form: Form, tree: Tree) -> Stacks:
    """Return the same matrix with nested bases, as `Hbs` has: exact to rounding.

    A node's basis spans its rows of the sides of all levels above it; what rounding is in the
    matrix is left out, so that sides that are alike on several levels count once.
    """
    leaves, T = len(form.leaves), form.sides
    sizes = np.empty((leaves, T.shape[2]))  # singular values of the blocks of these columns
    for level in range(len(form.widths)):
        children = 2 ** (level + 1)
        group, squares = leaves // children, np.sum(form.side(level) ** 2, axis=1)
        squares = squares.reshape(children, group, form.widths[level])
        sizes[:, form.columns(level)] = np.repeat(squares.sum(axis=1), group, axis=0)
    size = max(np.abs(form.leaves).max(initial=0.0), sizes.max(initial=0.0))
    ranks: list[np.ndarray] = []
    bases, couplings = [], []
    inside = Ragged.of_leaves(tree).row_mask
    for level in reversed(range(len(form.widths))):
        columns = form.columns(level)
        weighted = _padding_last(T * np.sqrt(sizes)[:, None, :], inside)
        U, s, _ = np.linalg.svd(weighted, full_matrices=False)
        kept = (s > EPS * size) & (np.arange(s.shape[1]) < inside.sum(axis=1)[:, None])
        k = kept.sum(axis=1)
        U = _put_back((U * kept[:, None, :])[:, :, : k.max()], inside)
        inside = kept[:, : k.max()].reshape(len(kept) // 2, -1)
        T = np.swapaxes(U, 1, 2) @ T
        B = T[0::2, :, columns] @ np.swapaxes(T[1::2, :, columns], 1, 2)
        T = T[:, :, : columns.start].reshape(len(T) // 2, 2 * T.shape[1], columns.start)
        sizes = sizes[0::2, : columns.start]
        ranks.insert(0, k)
        bases.append(U)
        couplings.append(B)
    return Stacks(np.concatenate([np.zeros(1, np.int64), *ranks]), form.leaves, bases, couplings)


def cut_of_block(error: float, level: int, levels: int) -> float:
    """Return what may be cut of each block of a level, so that all cuts make the error at most.

    Both are Frobenius norms. Every level has the same share; a block stands twice in the matrix.
    """
    return error / float(np.sqrt(2 * 2**level * max(levels, 1)))


def tall_qr(Y: np.ndarray, inside: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return Q and R of a stack of tall matrices: of pieces that the caches hold, then of their R.

    Demmel, Grigori, Hoemmen and Langou 2012, algorithm 1, with one level of pieces.

    Parameters
    ----------
    Y : (nodes, rows, k) array
        Rows are cut in halves while both halves are whole and longer than TALL.
    inside : (nodes, rows) bool array, optional
        Which rows are no padding, all by default. Padding must be zero in Y, and is in Q. A matrix
        with fewer rows than columns has columns of zeros in Q from the number of its rows on.
    """
    if inside is None or inside.all():
        return _tall_qr(Y)
    Q, R = _tall_qr(_padding_last(Y, inside))
    return _put_back(Q, inside), R


def _padding_last(Y: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the rows of a stack with those of padding last, and no more of these than needed.

    A Householder vector whose pivot is a row of padding leaves rounding there, and orthonormal
    columns that a matrix of low rank does not determine may lie there altogether. Where padding
    comes last, all is zero that is below a pivot in it.
    """
    most = max(int(inside.sum(axis=1).max()), min(Y.shape[1:]))
    order = np.argsort(~inside, axis=1, kind="stable")[:, :most, None]
    return np.take_along_axis(Y, order, 1)


def _put_back(Q: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Undo `_padding_last`; padding is zero, whatever it was."""
    places = np.maximum(np.cumsum(inside, axis=1) - 1, 0)[:, :, None]
    return np.where(inside[:, :, None], np.take_along_axis(Q, places, 1), 0.0)


def _tall_qr(Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nodes, rows, k = Y.shape
    pieces = 1
    while rows % (2 * pieces) == 0 and rows // (2 * pieces) >= max(TALL, k):
        pieces *= 2
    if pieces == 1 or k == 0:
        return np.linalg.qr(Y)
    inner, R = np.linalg.qr(Y.reshape(nodes * pieces, rows // pieces, k))
    outer, R = np.linalg.qr(R.reshape(nodes, pieces * k, k))
    return (inner @ outer.reshape(nodes * pieces, k, k)).reshape(Y.shape), R


def truncated(
    Q: np.ndarray,
    Z: np.ndarray,
    inside: tuple[np.ndarray, np.ndarray],
    rank: int,
    cut: float,
    noise: float,
) -> np.ndarray:
    """Return the sides of the blocks Q Z^T, cut to their leading singular values.

    At most `rank` of those above `noise`, no more than a block has rows or columns, and the fewest
    that leave no more than `cut` in the Frobenius norm.

    Parameters
    ----------
    Q, Z : (nodes, rows, k) arrays
        Padding is zero; Q has orthonormal columns, or columns of zeros.
    inside : pair of (nodes, rows) bool arrays
        Which rows of Q, and of Z, are no padding.

    Returns
    -------
    (2 nodes, rows, columns) array
        First child, second child; columns beyond the rank are zero, and so is padding.
    """
    P, R = tall_qr(Z, inside[1])
    U, s, Vt = np.linalg.svd(np.swapaxes(R, 1, 2))  # Q Z^T = Q R^T P^T
    rest = np.sqrt(np.cumsum(s[:, ::-1] ** 2, axis=1)[:, ::-1])
    most = np.minimum(rank, np.minimum(*(of.sum(axis=1) for of in inside)))
    keep = (rest > cut) & (s > noise) & (np.arange(s.shape[1]) < most[:, None])
    root = np.sqrt(s * keep)[:, None, :]
    W = np.empty((2 * len(Q), *Q.shape[1:]))
    np.multiply(Q @ U, root, out=W[0::2])
    np.multiply(P @ np.swapaxes(Vt, 1, 2), root, out=W[1::2])
    return W
