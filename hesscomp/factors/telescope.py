"""Matrices that telescope over a tree: how a product goes up to the root and down again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hesscomp.parallel.share import WHOLE, Share

if TYPE_CHECKING:
    from hesscomp.factors.shares import Shares

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
    shares : Shares or None
        Where ranks hold their own nodes alone, of all entries of the lists before `meet`; the
        others are of all nodes, on every rank. By default a rank holds everything.
    meet : int
    level : int
        The level of the tree of the nodes of entry ``meet - 1``.
    """

    blocks: list[np.ndarray]
    upward: list[np.ndarray]
    shares: Shares | None = None
    meet: int = 0
    level: int = 0

    @property
    def numbers(self) -> int:
        """The numbers that it holds, here."""
        return sum(M.size for M in (*self.blocks, *self.upward))

    def joined(self) -> Telescope:
        """Return the same matrix with fewer levels above the leaves, where these are narrow.

        Collective where ranks share it: joined levels of which some are above the ranks' subtrees
        are then on all ranks.
        """
        groups: list[list[int]] = []
        for level in range(1, len(self.blocks)):
            rows = self.blocks[groups[-1][0]].shape[1] << (len(groups[-1]) - 1) if groups else WIDE
            if 2 * rows <= WIDE:
                groups[-1].append(level)
            else:
                groups.append([level])
        blocks, upward, meet = self.blocks[:1], self.upward[:1], 1 if self.meet else 0
        level = self.level + self.meet - 1  # of the leaves
        for group in groups:
            split = group[0] < self.meet <= group[-1]
            parts = [(self.blocks[i], [*self.upward, None][i]) for i in group]
            if split:
                parts = [self._everywhere(*part, i) for part, i in zip(parts, group, strict=True)]
            D, R = parts[0]
            for D1, R1 in parts[1:]:
                assert R is not None  # not of the root
                D, R = _join(D, R, D1, R1)
            if group[-1] < self.meet:
                meet, level = meet + 1, self.level + self.meet - 1 - group[-1]
            blocks.append(D)
            if R is not None:
                upward.append(R)
        return Telescope(blocks, upward, self.shares, meet, level)

    def _everywhere(
        self, D: np.ndarray, R: np.ndarray | None, entry: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what all nodes have of a level, which this rank may hold a part of."""
        if self.shares is None or entry >= self.meet:
            return D, R
        level = self.level + self.meet - 1 - entry
        gathered = self.shares.gathered
        return gathered(D, level), None if R is None else gathered(R, level)

    def product(self, X: np.ndarray, share: Share = WHOLE) -> np.ndarray:
        """Return the product with a (leaves, rows, j) array; both are of the leaves of a share.

        Where ranks hold their own nodes alone, of these.
        """
        blocks, upward, meet = self.blocks, self.upward, self.meet
        here = slice(None) if meet else share.own
        if not upward:
            return times(blocks[0][here], X)
        below, seen = [X], times(upward[0][here], X)
        if not meet:
            seen = share.gathered(seen)
        for level, D in enumerate(blocks[1:], 1):
            if level == meet:
                assert self.shares is not None
                seen = self.shares.gathered(seen, self.level)
            below.append(seen.reshape(len(D), D.shape[1], seen.shape[2]))
            if level < len(upward):
                seen = times(upward[level], below[-1])
        Y = times(blocks[-1], below.pop())
        for level in range(len(upward) - 1, -1, -1):
            D, R = blocks[level], upward[level]
            if level + 1 == meet:
                assert self.shares is not None
                given = Y.reshape(2**self.level, R.shape[1], Y.shape[2])[
                    self.shares.own(self.level)
                ]
            else:
                given = Y.reshape(*R.shape[:2], Y.shape[2])
            if level == 0:
                D, R, given = D[here], R[here], given[here]
            Y = _of_nodes(D, R, below.pop(), given)
        return Y


def _of_nodes(D: np.ndarray, R: np.ndarray, X: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Return D X + R^T given, for as many nodes as a cache holds."""
    Y, nodes = np.empty_like(X), max(PIECE // max(D.shape[1] * D.shape[2], 1), 1)
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
