"""The hierarchically off-diagonal low-rank factor: a basis for each off-diagonal block of a tree.

Product and inverse have one form, `Form`: diagonal blocks of the leaves, and for each pair of
siblings a small matrix between what their bases see.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors.basis import EPS
from hesscomp.factors.hierarchical import Elimination, Hierarchical
from hesscomp.factors.tree import Tree

DELAY = 1e-7  # a pivot below this part of the largest is left to the end
DELAYED = 512  # pivots that may be
ACCURATE = 1e-12  # relative residual of a solve that needs no refinement
REFINEMENTS = 2


@dataclass(frozen=True, eq=False, repr=False)
class Hodlr(Hierarchical):
    """A symmetric matrix whose off-diagonal blocks have low rank, by the nodes of a `tree`.

    The block of two siblings is W_1 W_2^T, where each has as many columns as that block's rank: its
    singular vectors, times the roots of its singular values. A leaf holds its whole diagonal block
    (Ambikasaran and Darve 2013).

    `compression.hodlr.compress_hodlr` makes one. Leaves of m parameters and ranks k on L levels
    take m + k L numbers a parameter. A product takes twice as many operations for each column, an
    elimination about 10 m^2 + 4 (k L)^2 a parameter.

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

    permutation: np.ndarray
    bounds: np.ndarray
    block_ranks: np.ndarray
    leaf_blocks: np.ndarray
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
        """Return the factor of a `Form` without couplings; `about` are fields of every `Factor`."""
        leaf, sides = _masks(tree, ranks)
        return cls(
            permutation=tree.permutation,
            bounds=tree.bounds,
            block_ranks=np.asarray(ranks, np.int64),
            leaf_blocks=form.leaves[leaf],
            sides=np.concatenate(
                [np.empty(0), *(form.side(i)[mask] for i, mask in enumerate(sides))]
            ),
            **about,
        )

    @classmethod
    def most(cls, n: int) -> int:
        return n * n + 1

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
        wanted = {
            "leaf_blocks": int(np.sum(tree.leaf_sizes**2)),
            "sides": int(np.sum(lengths * ranks)),
        }
        for name, numbers in wanted.items():
            if (found := len(getattr(self, name))) != numbers:
                raise InputError(f"{name} hold {found} numbers, where the ranks make {numbers}")

    @property
    def is_blank(self) -> bool:
        return not len(self.leaf_blocks) or super().is_blank

    @cached_property
    def tree(self) -> Tree:  # type: ignore[override]  # it is remembered
        return Tree(self.permutation, self.bounds)

    @property
    def numbers(self) -> int:
        return len(self.leaf_blocks) + len(self.sides)

    @cached_property
    def form(self) -> Form:
        """The arrays as stacks of equal matrices, padded with zeros."""
        tree, ranks = self.tree, self.block_ranks
        leaf, sides = _masks(tree, ranks)
        m, widths = leaf.shape[1], [mask.shape[2] for mask in sides]
        stack = np.zeros((tree.leaves, m, m + sum(widths)))
        form = Form(stack, widths, [None] * len(widths))
        form.leaves[leaf] = self.leaf_blocks
        first = 0
        for i, mask in enumerate(sides):
            numbers = int(np.count_nonzero(mask))
            form.side(i)[mask] = self.sides[first : first + numbers]
            first += numbers
        return form

    @cached_property
    def _inside(self) -> np.ndarray:
        """The (leaves, m) booleans of rows that are no padding."""
        sizes = self.tree.leaf_sizes
        return np.arange(sizes.max()) < sizes[:, None]

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

    def summary(self, leading: int = 10) -> dict[str, str]:
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
        return np.diagonal(self.form.leaves, axis1=1, axis2=2)[self._inside]

    def _product(self, X: np.ndarray) -> np.ndarray:
        return applied(self.form, self._inside, X)

    def _eliminate(self, shift: float) -> Elimination:
        return eliminate(self, shift)


def _place(node: int) -> tuple[int, int]:
    """Return the level of an inner node, and its place in it."""
    level = (node + 1).bit_length() - 1
    return level, node + 1 - 2**level


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
    """blockdiag(D) + sum over levels of W C W^T, where C couples the two children of each node.

    Attributes
    ----------
    stack : (leaves, m, m + K) array
        Of each leaf its rows of D, and of the sides W of all levels side by side, root's first.
    widths : list of int
        The columns of each level in W; they add up to K.
    couplings : list of (2^level, 2 k, 2 k) arrays or None
        None exchanges the children: the block between them is then W_1 W_2^T.
    """

    stack: np.ndarray
    widths: list[int]
    couplings: list[np.ndarray | None]

    @property
    def m(self) -> int:
        return self.stack.shape[1]

    @property
    def leaves(self) -> np.ndarray:
        return self.stack[:, :, : self.m]

    def columns(self, level: int) -> slice:
        """Return which columns of W are a level's."""
        first = sum(self.widths[:level])
        return slice(first, first + self.widths[level])

    def side(self, level: int) -> np.ndarray:
        """Return the (leaves, m, k) sides of a level; a view."""
        columns = self.columns(level)
        return self.stack[:, :, self.m + columns.start : self.m + columns.stop]

    def product(self, Z: np.ndarray) -> np.ndarray:
        """Return the product with a (leaves, m, j) array."""
        if not self.widths:
            return self.stack @ Z
        leaves, _, j = Z.shape
        seen = np.swapaxes(self.stack[:, :, self.m :], 1, 2) @ Z
        given = np.empty_like(seen)
        for level, (k, coupling) in enumerate(zip(self.widths, self.couplings, strict=True)):
            columns, children = self.columns(level), 2 ** (level + 1)
            group = leaves // children
            by_child = seen[:, columns].reshape(children, group, k, j).sum(axis=1)
            if coupling is None:
                moved = by_child.reshape(children // 2, 2, k, j)[:, ::-1]
            else:
                moved = coupling @ by_child.reshape(children // 2, 2 * k, j)
            given[:, columns] = np.repeat(moved.reshape(children, k, j), group, axis=0)
        return self.stack @ np.concatenate([Z, given], axis=1)


def applied(form: Form, inside: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Return the product with an (n, j) array: the rows of all leaves, without padding."""
    if inside.all():
        return form.product(X.reshape(*inside.shape, -1)).reshape(X.shape)
    Z = np.zeros((*inside.shape, X.shape[1]))
    Z[inside] = X
    return form.product(Z)[inside]


class _Signs:
    """Counts of the signs of pivots, and the logarithm of their product."""

    def __init__(self):
        self.negative = self.positive = self.zero = 0
        self.logabsdet = 0.0

    def count(self, w: np.ndarray, times: int = 1) -> None:
        """Add pivots, none of them 0; or take them away, with `times` -1."""
        self.negative += times * int(np.count_nonzero(w < 0))
        self.positive += times * int(np.count_nonzero(w > 0))
        self.logabsdet += times * float(np.sum(np.log(np.abs(w))))

    def correct(self, w: np.ndarray, inverse: np.ndarray) -> None:
        """Go from A to A + E C E^T, of the eigenvalues of C^-1 + E^T A^-1 E and those of C^-1.

        Haynsworth's inertia additivity: what the first has positive is negative in the sum, less
        what the second has.
        """
        self.negative += int(np.count_nonzero(w > 0)) - int(np.count_nonzero(inverse > 0))
        self.positive += int(np.count_nonzero(w < 0)) - int(np.count_nonzero(inverse < 0))
        self.logabsdet += float(np.sum(np.log(np.abs(w))) - np.sum(np.log(np.abs(inverse))))


def eliminate(factor: Hodlr, shift: float) -> Elimination:
    """Eliminate F + shift I from the leaves up: each node is its children's blocks plus W C W^T.

    The inverse of a node is that of its children less X M^-1 X^T (Woodbury), where X is the
    children's inverse times W, and M = C^-1 + W^T X; the signs add up by Haynsworth (1968). So it
    has the form of the factor itself, `Form`, and a solve costs as a product. Eigenvectors of a
    leaf or of an M whose pivots are nearly 0 are given another one, and all of these corrections
    are made at the end, where they meet each other.
    """
    form, inside, signs = factor.form, factor._inside, _Signs()
    leaves, m, _ = form.stack.shape
    A = form.leaves + shift * (np.eye(m) * inside[:, :, None])
    scale = float(np.abs(A).max(initial=0.0)) or 1.0
    index = np.arange(m)
    A[:, index, index] += scale * ~inside
    delayed = _Delayed(leaves, m)
    w, V = np.linalg.eigh(A)
    w = delayed.leaves(w, V, scale)
    signs.count(w)
    signs.count(np.full(np.count_nonzero(~inside), scale), -1)
    inverse = Form(np.empty_like(form.stack), form.widths, [])
    D, X = inverse.leaves, inverse.stack[:, :, m:]
    np.matmul(V / w[:, None, :], np.swapaxes(V, 1, 2), out=D)
    D *= inside[:, :, None] & inside[:, None, :]
    np.matmul(D, form.stack[:, :, m:], out=X)
    for level in reversed(range(len(form.widths))):
        k, columns, children = form.widths[level], form.columns(level), 2 ** (level + 1)
        rows = leaves * m // children
        W = form.side(level).reshape(children, rows, k)
        upper = X[:, :, : columns.stop].reshape(children, rows, columns.stop)
        seen = np.swapaxes(W, 1, 2) @ upper
        M = np.zeros((children // 2, 2 * k, 2 * k))
        M[:, :k, :k], M[:, k:, k:] = seen[0::2, :, columns], seen[1::2, :, columns]
        M[:, :k, k:] = M[:, k:, :k] = np.eye(k)
        mu, Z = np.linalg.eigh((M + np.swapaxes(M, 1, 2)) / 2)
        mu, Z = delayed.nodes(mu, Z, W, signs)
        signs.correct(mu, np.empty(0))
        coupling = (Z / mu[:, None, :]) @ np.swapaxes(Z, 1, 2)
        inverse.couplings.insert(0, -coupling)
        if columns.start:
            given = coupling @ seen[:, :, : columns.start].reshape(len(mu), 2 * k, columns.start)
            taken = upper[:, :, columns] @ given.reshape(children, k, columns.start)
            X[:, :, : columns.start] -= taken.reshape(leaves, m, columns.start)
    # Each level's swap has k eigenvalues 1 and k of -1.
    pairs = sum(k * 2**level for level, k in enumerate(form.widths))
    signs.negative -= pairs
    signs.positive -= pairs
    solver = Solver(factor, shift, inverse, *delayed.finish(inverse, signs))
    return Elimination(signs.negative, signs.zero, signs.positive, signs.logabsdet, solver)


class _Delayed:
    """The pivots that were replaced: A = A' + E diag(1 / c) E^T for the matrix A' without them."""

    def __init__(self, leaves: int, m: int):
        self.shape = leaves, m
        self.vectors: list[np.ndarray] = []
        self.inverses: list[np.ndarray] = []

    @property
    def count(self) -> int:
        return sum(map(len, self.inverses))

    def _take(self, small: np.ndarray) -> bool:
        return small.any() and self.count + np.count_nonzero(small) <= DELAYED

    def leaves(self, w: np.ndarray, V: np.ndarray, scale: float) -> np.ndarray:
        """Return eigenvalues of the leaves of which none is near 0."""
        small = np.abs(w) < DELAY * scale
        if not self._take(small):
            return np.where(w == 0, EPS * scale, w)
        where, which = np.nonzero(small)
        E = np.zeros((*self.shape, len(where)))
        # w = scale + (w - scale), and the second of these is negative.
        E[where, :, np.arange(len(where))] = V[where, :, which] * np.sqrt(scale - w[small])[:, None]
        self.vectors.append(E)
        self.inverses.append(-np.ones(len(where)))
        return np.where(small, scale, w)

    def nodes(self, mu: np.ndarray, Z: np.ndarray, W: np.ndarray, signs: _Signs):
        """Return eigenpairs of the nodes' M, with others where one was near 0.

        M + Z D Z^T is C'^-1 + W^T X for C' = C - C Z (D^-1 + Z^T C Z)^-1 Z^T C.
        """
        small = np.abs(mu) < DELAY
        if not self._take(small):
            return np.where(mu == 0, EPS, mu), Z
        mu, Z, k = mu.copy(), Z.copy(), W.shape[2]
        C = np.roll(np.eye(2 * k), k, axis=0)
        for node in np.nonzero(small.any(axis=1))[0]:
            near, M = Z[node][:, small[node]], (Z[node] * mu[node]) @ Z[node].T
            t, S = np.linalg.eigh(near.T @ C @ near)
            near, added = near @ S, np.where(t < 0, -1.0, 1.0)
            mu[node], Z[node] = np.linalg.eigh(M + (near * added) @ near.T)
            # The swap is counted by all; here it is another matrix.
            swap = np.linalg.eigvalsh(C + (near * added) @ near.T)
            signs.correct(np.empty(0), swap)
            signs.negative += k
            signs.positive += k
            sides = W[2 * node : 2 * node + 2] @ (C @ near).reshape(2, k, -1)
            E = np.zeros((len(W), W.shape[1], len(t)))
            E[2 * node : 2 * node + 2] = sides
            self.vectors.append(E.reshape(*self.shape, -1))
            self.inverses.append(added + t)
        return mu, Z

    def finish(self, inverse: Form, signs: _Signs) -> tuple[np.ndarray, np.ndarray]:
        """Return Y = A'^-1 E and (diag(c) + E^T Y)^-1, after the signs of the latter."""
        if not self.count:
            return np.empty((*self.shape, 0)), np.empty((0, 0))
        E, c = np.concatenate(self.vectors, axis=2), np.concatenate(self.inverses)
        Y = inverse.product(E)
        S = np.einsum("imp,imq->pq", E, Y, optimize=True) + np.diag(c)
        w, V = np.linalg.eigh((S + S.T) / 2)
        nothing = np.abs(w) <= 8 * len(w) * EPS * max(np.abs(w).max(), 1.0)
        signs.correct(w[~nothing], c)
        signs.zero += int(np.count_nonzero(nothing))
        return Y, (V[:, ~nothing] / w[~nothing]) @ V[:, ~nothing].T


class Solver:
    """Solves with an eliminated factor; where pivots were small it refines the solution."""

    def __init__(self, factor: Hodlr, shift: float, inverse: Form, Y: np.ndarray, S: np.ndarray):
        self.factor, self.shift, self.inverse = factor, shift, inverse
        self.Y, self.S = Y[factor._inside], S
        b = np.random.default_rng(0).standard_normal((factor.n, 1))
        residual = np.linalg.norm(self._residual(b, self._once(b)))
        self.steps = 0 if residual <= ACCURATE * np.linalg.norm(b) else REFINEMENTS

    def solve(self, B: np.ndarray) -> np.ndarray:
        X = self._once(B)
        for _ in range(self.steps):
            X += self._once(self._residual(B, X))
        return X

    def _once(self, B: np.ndarray) -> np.ndarray:
        X = applied(self.inverse, self.factor._inside, B)
        return X - self.Y @ (self.S @ (self.Y.T @ B)) if len(self.S) else X

    def _residual(self, B: np.ndarray, X: np.ndarray) -> np.ndarray:
        return B - self.factor._product(X) - self.shift * X
