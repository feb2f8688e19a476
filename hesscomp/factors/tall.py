"""QR factorisations of the tall matrices of a tree's nodes, whose rows lie on several ranks."""

from __future__ import annotations

import numpy as np

from hesscomp.factors.shares import Children


class TallQr:
    """Y = Q R for the rows Y of the first or second children of a level's nodes. Collective.

    Of pieces first, then of two R, one above the other, up to the child (Demmel, Grigori, Hoemmen
    and Langou 2012, algorithm 1, over the tree): a rank works on its own pieces, and rank 0 on what
    is left of them where a child lies on several ranks.

    Parameters
    ----------
    children : Children
    Y : (leaves, m, k) array
        Of this rank's leaves; padding is zero. Other rows than the children's are not read.

    Attributes
    ----------
    R : (nodes, r, k) array
        For each node (see `Children`), with at most as many rows as the padded child has. Its
        diagonal is not negative: signs that rounding may decide would make Q another.

    Notes
    -----
    A child with fewer rows than columns has columns of zeros in Q from the number of its rows on.
    """

    def __init__(self, children: Children, Y: np.ndarray):
        self.children = children
        self.inside = children.inside
        self.inner, R = self._pieces(children.pieces(Y))
        self.joins: list[np.ndarray] = []  # Q of two R, from the pieces up
        for level in range(children.cut, children.lowest, -1):
            Q, R = _joined(R, self._held(level, R))
            self.joins.append(Q)
        self.above: list[np.ndarray] = []
        if children.meet:
            self.above, R = self._met(R)
        self.signs = np.where(np.diagonal(R, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, :, None]
        self.R = R * self.signs

    def _held(self, level: int, R: np.ndarray, everywhere: bool = False) -> np.ndarray | None:
        """Return which rows of R of the nodes of a level are no padding; None for all."""
        if self.inside is None:
            return None
        rows = self.children.rows(level, everywhere)
        return np.arange(R.shape[1]) < rows[:, None]

    def _pieces(self, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.inside is None:
            return np.linalg.qr(Y)
        Q, R = np.linalg.qr(padding_last(Y, self.inside, self.children.longest))
        return put_back(Q, self.inside), R

    def _met(self, R: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Join what the ranks have, on rank 0."""
        children, k = self.children, R.shape[2]
        levels = range(children.shares.top, children.level, -1)
        every, found = children.met(R), []

        def joins(R):
            parts = []
            for level in levels:
                Q, R = _joined(R, self._held(level, R, everywhere=True))
                parts.append(Q.ravel())
            return np.concatenate([*parts, R.ravel()])

        flat, at = children.at_nodes(joins, every), 0
        nodes, r = every.shape[:2]
        for _ in levels:
            nodes, rows, r = nodes // 2, 2 * r, min(2 * r, k)
            found.append(flat[at : at + nodes * rows * r].reshape(nodes, rows, r))
            at += nodes * rows * r
        return found, flat[at:].reshape(nodes, r, k)

    def apply(self, S: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write Q S into the rows of the children in a contiguous (leaves, m, j) array; return it.

        S is a (nodes, r, j) array.
        """
        children, S = self.children, S * self.signs
        for Q in reversed(self.above):
            S = _split(Q, S)
        if children.meet:
            top, level = children.shares.top, children.level
            here = np.arange(2**top)
            below = here[(here >> (top - level)) & 1 == children.child]
            S = S[(below >= children.shares.first) & (below < children.shares.last)]
        for Q in reversed(self.joins):
            S = _split(Q, S)
        children.put(out, self.inner @ S)
        return out

    def basis(self, out: np.ndarray) -> np.ndarray:
        """Write Q itself; see `apply`."""
        nodes, r = self.R.shape[:2]
        return self.apply(np.broadcast_to(np.eye(r), (nodes, r, r)), out)


def _joined(R: np.ndarray, held: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return Q and R of each two matrices, one above the other; `held` are their valid rows."""
    nodes, r, k = R.shape
    pairs = R.reshape(nodes // 2, 2 * r, k)
    if held is None:
        return np.linalg.qr(pairs)
    inside = held.reshape(nodes // 2, 2 * r)
    Q, R = np.linalg.qr(padding_last(pairs, inside, 2 * r))
    return put_back(Q, inside), R


def _split(Q: np.ndarray, S: np.ndarray) -> np.ndarray:
    """Return Q S of joined matrices, as it is for each of the two."""
    nodes, rows, _ = Q.shape
    return (Q @ S).reshape(2 * nodes, rows // 2, S.shape[2])


def padding_last(Y: np.ndarray, inside: np.ndarray, longest: int) -> np.ndarray:
    """Return the rows of a stack with those of padding last, and no more of these than needed.

    A Householder vector whose pivot is a row of padding leaves rounding there, and orthonormal
    columns that a matrix of low rank does not determine may lie there altogether. Where padding
    comes last, all is zero that is below a pivot in it. `longest` is the most rows that are no
    padding.
    """
    if inside.all():
        return Y
    most = max(longest, min(Y.shape[1:]))
    order = np.argsort(~inside, axis=1, kind="stable")[:, :most, None]
    return np.take_along_axis(Y, order, 1)


def put_back(Q: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Undo `padding_last`; padding is zero, whatever it was."""
    if inside.all():
        return Q
    places = np.maximum(np.cumsum(inside, axis=1) - 1, 0)[:, :, None]
    return np.where(inside[:, :, None], np.take_along_axis(Q, places, 1), 0.0)
