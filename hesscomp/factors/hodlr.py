"""The hierarchically off-diagonal low-rank factor: a low rank for each off-diagonal block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
import scipy.sparse.linalg

from hesscomp.errors import InputError, NumericalError
from hesscomp.factors.basis import EPS
from hesscomp.factors.hbs import Shapes, Stacks, eliminate
from hesscomp.factors.hierarchical import Elimination, InLeaves, spectral_norm
from hesscomp.factors.shares import Shares
from hesscomp.factors.tall import TallQr, padding_last, put_back
from hesscomp.factors.telescope import times
from hesscomp.factors.tree import Tree
from hesscomp.parallel.layout import Layout, Replicated
from hesscomp.parallel.share import WHOLE, Share


@dataclass(frozen=True, eq=False, repr=False)
class Hodlr(InLeaves):
    """A symmetric matrix whose off-diagonal blocks have low rank, by the nodes of a `tree`.

    The block of two siblings is W_1 W_2^T, where each has as many columns as that block's rank: its
    singular vectors, times the roots of its singular values. A leaf holds its whole diagonal block
    (Ambikasaran and Darve 2013).

    `compression.hodlr.compress_hodlr` makes one. Leaves of m parameters and ranks k on L levels
    take m + k L numbers a parameter. A product takes up to 2.4 operations a number for each column.
    It is eliminated as the `Hbs` factor that it is to rounding: with r for the rank of what a node
    has in common with all others, at most k times its level, in about 10 (m^2 + r^2) operations a
    parameter.

    In the row layout each rank holds the leaves of its own subtrees (`Shares`) and their rows of
    the sides, and eliminates these; memory and work fall with the number of ranks. All methods are
    then collective.

    Attributes
    ----------
    permutation : (n,) int64 array
    bounds : (leaves + 1,) int64 array
        Those of the `tree`.
    block_ranks : (leaves - 1,) int64 array
        Of each inner node, that of the block between its two children: the root's, then level by
        level. Node i has the children 2 i + 1 and 2 i + 2.
    leaf_blocks : (leaf_numbers,) float64 array
        The leaves' diagonal blocks, row by row, one after the other. In the row layout those of
        this rank's leaves.
    sides : (side_numbers,) float64 array
        The matrices W, row by row: of the root's two children, then of one level after the other.
        In the row layout the rows of this rank's leaves.

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
    def of_form(
        cls, tree: Tree, ranks: np.ndarray, form: Form, shares: Shares | None = None, **about
    ) -> Hodlr:
        """Return the factor of a `Form`. Collective where ranks share it.

        Parameters
        ----------
        tree, ranks
        form : Form
            Of this rank's leaves.
        shares : Shares, optional
            Which leaves these are; by default all.
        **about
            Fields of every `Factor`. The layout may be another than that of the shares.
        """
        shares = shares or Shares(tree)
        layout = about.get("layout") or Replicated(tree.n)
        if full := _is_full(tree, ranks):
            parts = [form.leaves, *(form.side(level) for level in range(tree.levels))]
        else:
            leaf, sides = _masks(shares, ranks)
            parts = [form.leaves[leaf], *(form.side(i)[mask] for i, mask in enumerate(sides))]
        flat = [part.reshape(part.size) for part in parts]
        held = Shares.of(tree, layout)
        if held.alone and not shares.alone:
            flat = [
                shares.gathered_numbers(part, of)
                for part, of in zip(flat, _numbers(tree, ranks), strict=True)
            ]
        made = cls(
            permutation=tree.permutation,
            bounds=tree.bounds,
            block_ranks=np.asarray(ranks, np.int64),
            leaf_blocks=flat[0],
            sides=np.concatenate([np.empty(0), *flat[1:]]),
            **about,
        )
        if full and held.alone == shares.alone:
            made.__dict__["form"] = form
        return made

    def in_layout(self, layout: Layout) -> Hodlr:
        """Return this factor in another layout. Collective where this one is in rows."""
        if layout.name == "rows" and self.layout.name == "rows":
            return self
        if not len(self.bounds):  # blank
            return replace(self, layout=layout)
        shares = Shares.of(self.tree, layout)
        if self.shares.alone and shares.alone:
            return replace(self, layout=layout)
        by_leaf = _numbers(self.tree, self.block_ranks)
        flat = []
        for held, of in zip([self.leaf_blocks, *self._levels()], by_leaf, strict=True):
            if shares.alone:
                flat.append(self.shares.gathered_numbers(held, of))
            else:
                at = int(of[: shares.leaves.start].sum())
                flat.append(held[at : at + int(of[shares.leaves].sum())].copy())
        sides = np.concatenate([np.empty(0), *flat[1:]])
        return replace(self, leaf_blocks=flat[0], sides=sides, layout=layout)

    def _levels(self) -> list[np.ndarray]:
        """Return the sides of each level, those that are held here."""
        by_leaf = _numbers(self.tree, self.block_ranks)[1:]
        ends = np.cumsum([int(of[self.shares.leaves].sum()) for of in by_leaf])
        return np.split(self.sides, ends[:-1]) if len(ends) else []

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
        leaves, *sides = (int(of[self.shares.leaves].sum()) for of in _numbers(tree, ranks))
        self.check_lengths({"leaf_blocks": leaves, "sides": sum(sides)})

    @property
    def numbers(self) -> int:
        return sum(int(of.sum()) for of in _numbers(self.tree, self.block_ranks))

    @property
    def is_blank(self) -> bool:
        """Collective in the row layout."""
        if not len(self.bounds):
            return True
        return not self.layout.any(self.leaf_blocks.any() or self.sides.any())

    @cached_property
    def form(self) -> Form:
        """The arrays as stacks of equal matrices, padded with zeros, of the leaves held here."""
        leaf, sides = _masks(self.shares, self.block_ranks)
        m, widths = leaf.shape[1], [mask.shape[2] for mask in sides]
        rows = len(leaf), m
        form = Form(np.zeros((*rows, m)), np.zeros((*rows, sum(widths))), widths)
        form.leaves[leaf] = self.leaf_blocks
        for i, (mask, numbers) in enumerate(zip(sides, self._levels(), strict=True)):
            form.side(i)[mask] = numbers
        return form

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
        B, c = self.checked(B), np.asarray(c, dtype=np.float64)
        if B.ndim != 2 or c.shape != (B.shape[1],) or not np.isfinite(c).all():
            raise InputError(
                f"an update takes an (n, j) array and j finite weights, not shapes {B.shape} and "
                f"{c.shape}"
            )
        if not 0 <= tolerance < 1:
            raise InputError(f"tolerance must be at least 0 and below 1, not {tolerance}")
        form, tree, shares = self.form, self.tree, self.shares
        added = shares.stacked(self.rows.there(B))
        weighted = added * c
        core, before = c[:, None] * self.layout.inner(B, B), self.frobenius()
        change = float(np.sum(core * core.T))
        seen = np.sum(weighted * form.product(added, shares), axis=(1, 2))
        squares = before**2 + 2 * shares.total(seen, tree.levels) + change
        norm = float(np.sqrt(max(squares, 0.0)))
        noise = 8 * EPS * (before + np.sqrt(max(change, 0.0)))
        D = form.leaves + weighted @ np.swapaxes(added, 1, 2)
        sides, ranks = [], []
        for level in range(tree.levels):
            children = shares.children(level, 0), shares.children(level, 1)
            first, second = (
                np.concatenate([form.side(level), more], axis=2) for more in (weighted, added)
            )
            Q = TallQr(children[0], first)
            Z = np.zeros((*second.shape[:2], Q.R.shape[1]))
            R = np.swapaxes(Q.R, 1, 2)[children[1].node]
            children[1].put(Z, children[1].pieces(second) @ R)
            cut = cut_of_block(tolerance * norm, level, tree.levels)
            W, of = truncated(Q, Z, Z.shape[2], cut, noise)
            sides.append(W)
            ranks.append(of)
        made = Hodlr.of_form(
            tree,
            np.concatenate([np.empty(0, np.int64), *ranks]),
            Form(D, np.concatenate([D[:, :, :0], *sides], axis=2), [W.shape[2] for W in sides]),
            shares,
            certificate=self.certificate,
            layout=self.layout,
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
        )

    def frobenius(self) -> float:
        """Return ||F||_F: of the leaves' blocks and, twice, of the blocks of siblings."""
        shares, levels = self.shares, self.tree.levels
        squares = shares.total(np.sum(self.form.leaves**2, axis=(1, 2)), levels)
        for level in range(levels):
            W = self.form.side(level)
            grams = shares.raised(np.swapaxes(W, 1, 2) @ W, levels, level + 1)
            if level + 1 == shares.top:
                grams = shares.gathered(grams, level + 1)
            squares += 2 * shares.total(np.sum(grams[0::2] * grams[1::2], axis=(1, 2)), level)
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
        shares = self.shares
        own = np.diagonal(self.form.leaves, axis1=1, axis2=2)[shares.mask]
        return shares.together(own[:, None])[:, 0]

    @cached_property
    def _norm(self) -> float:
        """Rank 0 asks for products, and the others do their part of them."""
        if self.shares.alone:
            return super()._norm
        shares, world = self.shares, self.shares.world
        assert world is not None  # several ranks

        def product(V: np.ndarray | None) -> np.ndarray | None:
            V = world.broadcast(V)
            return None if V is None else shares.together(self._product(V[shares.positions]))

        found: float | str = ""
        if world.rank == 0:
            try:
                found = spectral_norm(self.n, product)  # type: ignore[arg-type]  # arrays are given
            except scipy.sparse.linalg.ArpackError as error:
                found = str(error)
            product(None)
        else:
            while product(None) is not None:
                pass
        found = world.broadcast(found)
        if isinstance(found, str):
            raise NumericalError(f"the norm of the {self.name} was not found: {found}")
        return found

    def _product(self, X: np.ndarray, share: Share = WHOLE) -> np.ndarray:
        shares = self.shares
        return shares.flat(self.form.product(shares.stacked(X), shares))

    def _eliminate(self, shift: float) -> Elimination:
        stacks = self._nested
        return eliminate(stacks, Shapes.of(self.tree, stacks.ranks), shift, self.shares)

    @cached_property
    def _nested(self) -> Stacks:
        return nested(self.form, self.shares)


def _is_full(tree: Tree, ranks: np.ndarray) -> bool:
    """Return whether nothing in the stacks of a `Form` is padding."""
    of_levels = [ranks[2**level - 1 : 2 ** (level + 1) - 1] for level in range(tree.levels)]
    return all(len(np.unique(sizes)) == 1 for sizes in (tree.leaf_sizes, *of_levels))


def _masks(shares: Shares, ranks: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return what of the padded leaf blocks, and of each level's sides, is stored.

    Of this rank's leaves.
    """
    inside, sides = shares.mask, []
    for level in range(shares.tree.levels):
        of = ranks[2**level - 1 : 2 ** (level + 1) - 1]
        here = shares.of_leaves(of[shares.own(level)], level)
        columns = np.arange(of.max()) < here[:, None]
        sides.append(inside[:, :, None] & columns[:, None, :])
    return inside[:, :, None] & inside[:, None, :], sides


def _numbers(tree: Tree, ranks: np.ndarray) -> list[np.ndarray]:
    """Return the numbers of each leaf: of its block, and of its rows of each level's sides."""
    sizes = tree.leaf_sizes
    by_level = [ranks[2**level - 1 : 2 ** (level + 1) - 1] for level in range(tree.levels)]
    return [
        sizes**2,
        *(sizes * np.repeat(of, tree.leaves >> level) for level, of in enumerate(by_level)),
    ]


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

    def product(self, Z: np.ndarray, shares: Shares) -> np.ndarray:
        """Return the product with a (leaves, m, j) array; both are of the leaves of a rank."""
        given = exchanged(coordinates(self.sides, Z), self.widths, shares)
        Y = times(self.leaves, Z)
        Y += times(self.sides, given)
        return Y


def coordinates(W: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """Return W^T Z, (leaves, K, j), for (leaves, m, K) sides and a (leaves, m, j) array."""
    return times(np.swapaxes(W, 1, 2), Z)


def exchanged(given: np.ndarray, widths: list[int], shares: Shares) -> np.ndarray:
    """Return what siblings see of each other: the sides W times it are the product without leaves.

    Coordinates add up on the way to the root; what siblings have of each other's comes down again.
    Collective: ranks exchange what their subtrees add up to.

    Parameters
    ----------
    given : (leaves, K, j) array
        The `coordinates` of Z.
    widths : list of int
        The columns of each level in W, root's first; perhaps not of the lowest levels.
    shares : Shares
        Whose leaves these are.

    Returns
    -------
    (leaves, K, j) array
    """
    crossed: list[np.ndarray] = []
    given = shares.raised(given, shares.tree.levels, len(widths))
    for level in range(len(widths) - 1, -1, -1):
        if level + 1 == shares.top:
            given = shares.gathered(given, level + 1)
        first = sum(widths[:level])
        crossed.append(given[:, first:].reshape(len(given) // 2, 2, *given[:, first:].shape[1:]))
        given = given[0::2, :first] + given[1::2, :first]
    down = given  # no columns, of the root
    for level in range(len(widths)):
        of_children = crossed.pop()
        nodes, _, k, j = of_children.shape
        first = down.shape[1]
        out = np.empty((nodes, 2, first + k, j))
        out[:, :, :first] = down[:, None]
        out[:, :, first:] = of_children[:, ::-1]
        down = out.reshape(2 * nodes, first + k, j)
        if level + 1 == shares.top:
            down = down[shares.own(level + 1)]
    return down if len(widths) == shares.tree.levels else shares.of_leaves(down, len(widths))


def nested(form: Form, shares: Shares) -> Stacks:
    """Return the same matrix with nested bases, as `Hbs` has: exact to rounding. Collective.

    A node's basis spans its rows of the sides of all levels above it; what rounding is in the
    matrix is left out, so that sides that are alike on several levels count once.
    """
    T, levels = form.sides, shares.tree.levels
    sizes = np.empty((len(T), T.shape[2]))  # singular values of the blocks of these columns
    for level in range(levels):
        columns = form.columns(level)
        squares = shares.raised(np.sum(form.side(level) ** 2, axis=1), levels, level + 1)
        sizes[:, columns] = shares.of_leaves(squares, level + 1)
    size = max(np.abs(form.leaves).max(initial=0.0), sizes.max(initial=0.0))
    size = float(shares.largest(np.array([size]))[0])
    ranks: list[np.ndarray] = []
    bases, couplings = [], []
    inside = shares.mask
    for level in reversed(range(levels)):
        columns = form.columns(level)
        U, kept = _range(T * np.sqrt(sizes)[:, None, :], inside, EPS * size)
        k = kept.sum(axis=1)
        width = int(k.max(initial=0))
        if level >= shares.top - 1:
            width = int(shares.largest(np.array([width]))[0])
        U = put_back((U * kept[:, None, :])[:, :, :width], inside)
        T, kept = np.swapaxes(U, 1, 2) @ T, kept[:, :width]
        ranks.insert(0, shares.gathered(k, level + 1))
        if level == shares.top - 1:
            T, kept, sizes = (shares.gathered(each, level + 1) for each in (T, kept, sizes))
        inside = kept.reshape(len(kept) // 2, 2 * width)
        B = T[0::2, :, columns] @ np.swapaxes(T[1::2, :, columns], 1, 2)
        T = T[:, :, : columns.start].reshape(len(T) // 2, 2 * width, columns.start)
        sizes = sizes[0::2, : columns.start]
        bases.append(U)
        couplings.append(B)
    return Stacks(np.concatenate([np.zeros(1, np.int64), *ranks]), form.leaves, bases, couplings)


def _range(T: np.ndarray, inside: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the left singular vectors of a stack, padding last, and which are above `least`."""
    most = inside.sum(axis=1)
    U, s, _ = np.linalg.svd(padding_last(T, inside, inside.shape[1]), full_matrices=False)
    return U, (s > least) & (np.arange(s.shape[1]) < most[:, None])


def cut_of_block(error: float, level: int, levels: int) -> float:
    """Return what may be cut of each block of a level, so that all cuts make the error at most.

    Both are Frobenius norms. Every level has the same share; a block stands twice in the matrix.
    """
    return error / float(np.sqrt(2 * 2**level * max(levels, 1)))


def truncated(
    Q: TallQr, Z: np.ndarray, rank: int | np.ndarray, cut: float, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sides of the blocks Q Z^T, cut to their leading singular values. Collective.

    At most `rank` of those above `noise`, no more than a block has rows or columns, and the fewest
    that leave no more than `cut` in the Frobenius norm.

    Parameters
    ----------
    Q : TallQr
        Of the rows of a level's first children.
    Z : (leaves, m, k) array
        Of which the rows of second children are read; padding is zero.
    rank : int or (nodes,) array
        The same for all blocks, or one for each node of the level that `Shares.own` says.
    cut, noise : float

    Returns
    -------
    (leaves, m, columns) array
        Of this rank's leaves; columns beyond the rank are zero, and so is padding.
    (nodes,) int array
        The ranks of all nodes of the level.
    """
    first, shares = Q.children, Q.children.shares
    second = shares.children(first.nodes_level, 1)
    P = TallQr(second, Z)
    most = np.minimum(rank, np.minimum(first.sizes, second.sizes))

    def cores(R: np.ndarray) -> np.ndarray:
        U, s, Vt = np.linalg.svd(np.swapaxes(R, 1, 2))  # Q Z^T = Q R^T P^T
        rest = np.sqrt(np.cumsum(s[:, ::-1] ** 2, axis=1)[:, ::-1])
        keep = (rest > cut) & (s > noise) & (np.arange(s.shape[1]) < most[:, None])
        root = np.sqrt(s * keep)[:, None, :]
        return np.stack([U * root, np.swapaxes(Vt, 1, 2) * root])

    U, V = second.at_nodes(cores, P.R)
    ranks = shares.gathered(np.count_nonzero(U.any(axis=1), axis=1), first.nodes_level)
    width = int(ranks.max())
    W = np.zeros((*Z.shape[:2], width))
    Q.apply(np.ascontiguousarray(U[:, :, :width]), W)
    P.apply(np.ascontiguousarray(V[:, :, :width]), W)
    return W, ranks
