"""Matrices that telescope over a tree: how a product goes up to the root and down again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hesscomp.parallel.share import WHOLE, Share

WIDE = 16  # rows up to which levels are joined: with smaller matrices the overhead dominates
# Of a matrix whose product with one vector is left to BLAS: least rows or columns, most numbers
NARROW, LONE = 8, 256
PIECE = 2**17  # entries of D that are multiplied at once, within the cache


@dataclass(frozen=True)
class Telescope:
    """The symmetric matrix of y = D x + R^T y1 at each node of a tree.

    R x goes up from a node, x of its parent is that of its two children, and y1 comes down from
    there. So do an `Hbs` matrix and its inverse.

    Attributes
    ----------
    blocks : list of (nodes, rows, rows) arrays
        D, symmetric: of the leaves, of the levels above them, and last of the root.
    upward : list of (nodes, kept, rows) arrays
        R, of all levels but the root's.
    """

    blocks: list[np.ndarray]
    upward: list[np.ndarray]

    @property
    def numbers(self) -> int:
        """The numbers that it holds."""
        return sum(M.size for M in (*self.blocks, *self.upward))

    def joined(self) -> Telescope:
        """Return the same matrix with fewer levels above the leaves, where these are narrow."""
        blocks, upward = self.blocks[:1], self.upward[:1]
        above = [*self.upward[1:], None]
        D, R = None, None
        for D1, R1 in zip(self.blocks[1:], above, strict=False):
            if D is not None and R is not None and 2 * D.shape[1] <= WIDE:
                D, R = _join(D, R, D1, R1)
                continue
            if D is not None and R is not None:
                blocks.append(D)
                upward.append(R)
            D, R = D1, R1
        return Telescope(blocks if D is None else [*blocks, D], upward)

    def product(self, X: np.ndarray, share: Share = WHOLE) -> np.ndarray:
        """Return the product with a (leaves, rows, j) array; both are of the leaves of a share."""
        here, blocks, upward = share.own, self.blocks, self.upward
        if not upward:
            return times(blocks[0][here], X)
        below, seen = [X], share.gathered(times(upward[0][here], X))
        for level, D in enumerate(blocks[1:], 1):
            below.append(seen.reshape(len(D), D.shape[1], seen.shape[2]))
            if level < len(upward):
                seen = times(upward[level], below[-1])
        Y = times(blocks[-1], below.pop())
        for D, R in zip(blocks[-2:0:-1], upward[:0:-1], strict=True):
            Y = _of_nodes(D, R, below.pop(), Y)
        return _of_nodes(blocks[0], upward[0], below.pop(), Y, here)


def _of_nodes(
    D: np.ndarray, R: np.ndarray, X: np.ndarray, Y: np.ndarray, here: slice = slice(None)
) -> np.ndarray:
    """Return D X + R^T Y of the nodes `here`, whose X is given, for as many as a cache holds.

    Y is the product at the parents of all nodes, two of which stand one below the other in it.
    """
    given = Y.reshape(*R.shape[:2], Y.shape[2])
    D, R, given = D[here], R[here], given[here]
    Y, nodes = np.empty_like(X), max(PIECE // (D.shape[1] * D.shape[2]), 1)
    for first in range(0, len(D), nodes):
        some = slice(first, first + nodes)
        times(D[some], X[some], out=Y[some])
        Y[some] += times(np.swapaxes(R[some], 1, 2), given[some])
    return Y


def times(A: np.ndarray, X: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return A @ X of stacks of matrices.

    A single column goes by `einsum`, which reads matrices of some dozen rows, and of less than
    eight, at twice the rate of BLAS' matrix-vector product.
    """
    rows, columns = A.shape[1:]
    if X.shape[2] != 1 or (min(rows, columns) >= NARROW and rows * columns <= LONE):
        return np.matmul(A, X, out=out)
    column = None if out is None else out[:, :, 0]
    return np.einsum("aij,aj->ai", A, X[:, :, 0], out=column)[:, :, None]


def _join(
    D: np.ndarray, R: np.ndarray, above: np.ndarray, upward: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return D and R of a level that has taken in the level below it."""
    kept, rows = R.shape[1:]

    def down(M: np.ndarray) -> np.ndarray:
        return np.concatenate([M[:, :, :kept] @ R[0::2], M[:, :, kept:] @ R[1::2]], axis=2)

    whole = down(np.swapaxes(down(above), 1, 2))
    whole[:, :rows, :rows] += D[0::2]
    whole[:, rows:, rows:] += D[1::2]
    return whole, None if upward is None else down(upward)
