"""HODLR factors from products alone, by peeling: level after level, less what is known already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from hesscomp.compression.approximation import Probes, certificate_by_probes
from hesscomp.errors import InputError
from hesscomp.factors.certificate import UNKNOWN, Certificate
from hesscomp.factors.factor import Factor
from hesscomp.factors.hodlr import (
    Form,
    Hodlr,
    coordinates,
    cut_of_block,
    exchanged,
    truncated,
)
from hesscomp.factors.provenance import NAN, Provenance, metered
from hesscomp.factors.shares import Shares, TreeRows
from hesscomp.factors.tall import TallQr
from hesscomp.factors.tree import Tree
from hesscomp.operators.operator import Operator
from hesscomp.options import Seeded, option
from hesscomp.sketching.test_matrices import gaussian

FIRST = 8  # rank of a level that a tolerance begins with; it then grows by half
WIDER = 2  # times the columns of one side that generalised Nystrom takes of the other
PIECE = 2**16  # numbers of the rows of leaves that are worked on at once
NEAR, SAFE = 4.0, 0.8  # times the tolerance: what a second attempt is worth, and what it aims at
ROUNDING = 8.0  # singular values below this many times the rounding of the products are none


@dataclass(frozen=True, kw_only=True)
class HodlrOptions(Seeded, group="compression"):
    """The options of `compress_hodlr`."""

    rank: int | None = option(
        None, low=1, metavar="K", help="largest rank of a block; default: as the tolerance needs"
    )
    tolerance: float | None = option(
        None, above=0, below=1, metavar="T", help="take ranks with ||H - F|| <= T ||H||"
    )
    oversample: int = option(10, low=0, help="columns of a level's sketch beyond the rank")
    passes: int = option(
        2, low=1, high=2,
        help="hodlr: 2, the default: the other side of a level by products with the first one's "
        "basis; 1: generalised Nystrom, half as many block products",
    )  # fmt: skip
    probe_count: int = option(8, low=1, help="random vectors that measure the error")

    def _check(self) -> None:
        super()._check()
        if self.rank is None and self.tolerance is None:
            raise InputError("neither `rank` nor `tolerance`; give one of them, or both")


def compress_hodlr(
    operator: Operator,
    tree: Tree,
    rank: int | np.ndarray | None = None,
    tolerance: float | None = None,
    **options,
) -> Hodlr:
    """Compress a symmetric operator to a HODLR factor over a tree, from products. Collective.

    Peeling by the matrix's symmetry (Lin, Lu and Ying 2011; Martinsson 2016). From the root down,
    a random block that is zero on the second children gives, less what the coarser levels explain,
    a basis Q of the rows of each block; a second product, with these bases, gives its other side.
    Columns of the identity, one in each leaf, give the leaves.

    Parameters
    ----------
    operator : Operator
    tree : Tree
        Whose nodes are the blocks.
    rank : int or (leaves - 1,) array of integers, optional
        The largest rank of a block; or one for each block, in the order of `Hodlr.block_ranks`. A
        level's sketch is then as wide as the largest of that level needs.
    tolerance : float, optional
        Of each block as much is cut as keeps ||H - F|| below tolerance ||H|| in all (Frobenius
        norms, the latter estimated). Without a `rank` a level's sketch grows until its columns
        beyond `oversample` miss no more. A factor that the probes find above the tolerance, by not
        more than 4 times, is made once more with a smaller share of it, for as many products again.
        ``certificate.converged`` says whether fresh probes find the tolerance met.
    **options
        The other fields of `HodlrOptions`: `oversample` (10), `passes` (2), `seed`, `probe_count`.
        One pass is the generalised Nystrom method with twice as many columns on the second side
        (with as many as on the first its errors are unbounded): half as many block products, and
        half as many columns again.

    Returns
    -------
    Hodlr

    Raises
    ------
    InputError
        For arguments out of range, a tree of another n, or ranks that are not one for each block.

    Notes
    -----
    With leaves of m parameters and L levels, 2 (rank + oversample) L + m product columns, or
    3 (rank + oversample) L + m in one pass, in 2 L + 1 or L + 1 block products, and the probes in
    one more. A level takes no more columns than its blocks have. About 6 (rank + oversample)^2
    operations a parameter and level, and 8 rank (rank + oversample) for each coarser level, which
    the ranks share: each works on its own subtrees (`Shares`), whatever the layout. Of each level
    above these, the ranks gather (rank + oversample)^2 numbers for each subtree, and rank 0
    finishes its blocks.
    Memory: the factor, and five (n, rank + oversample) arrays; in the row layout a rank holds its
    own rows of all of these. The bits depend on the number of ranks only by the operator's, and not
    at all in reproducible mode.
    """
    limits = None
    if isinstance(rank, np.ndarray):
        limits = rank
        if (
            limits.shape != (tree.leaves - 1,)
            or limits.dtype.kind not in "iu"
            or limits.min(initial=0) < 0
        ):
            raise InputError(
                f"`rank` must be a number, or {tree.leaves - 1} integers of at least 0 for a tree "
                f"of {tree.leaves} leaves"
            )
        rank = int(limits.max(initial=1))
    asked = HodlrOptions(rank=rank, tolerance=tolerance, **options)
    if tree.n != operator.n:
        raise InputError(f"a tree over n = {tree.n} does not fit an operator of n = {operator.n}")
    made = metered(operator)
    peeling = Peeling(operator, tree, asked, limits)
    factor = peeling.factor(made)
    if tolerance is not None and rank is None and not factor.certificate.converged:
        missed = factor.certificate.relative_error / tolerance
        if operator.layout.decide(missed <= NEAR):
            error = SAFE * peeling.error / missed
            factor = Peeling(operator, tree, asked, error=error).factor(made)
    return operator.describe(factor)


class Peeling:
    """The levels of a HODLR factor, from the root down; each rank has the rows of its own leaves.

    Whatever the layout of the operator is, the ranks share the tree (`Shares`). `limits` are the
    largest ranks of the blocks, where these are not the same for all. A second attempt is given the
    `error` to aim at, in the Frobenius norm, and has probes of its own.
    """

    def __init__(
        self,
        operator: Operator,
        tree: Tree,
        asked: HodlrOptions,
        limits: np.ndarray | None = None,
        error: float | None = None,
    ):
        self.operator, self.tree, self.asked, self.limits = operator, tree, asked, limits
        self.layout = operator.layout
        self.shares = Shares(tree, self.layout.world)
        self.rows = TreeRows(self.shares, self.layout)
        self.m, self.drawn = int(tree.leaf_sizes.max()), 0
        self.leaf_of_row = self.rows.leaf_numbers()
        first = 0 if error is None else asked.probe_count
        self.probes = Probes.draw(operator, first, first + asked.probe_count, asked.seed)
        self.norm = self.layout.norm(self.probes.images) / np.sqrt(asked.probe_count)
        self.error = (asked.tolerance or 0.0) * self.norm if error is None else error
        self.room = self.empty(0)  # holds `sides`, and columns to come
        self.widths: list[int] = []
        self.ranks: list[np.ndarray] = []

    def factor(self, made: Callable[..., Provenance]) -> Hodlr:
        asked, tree = self.asked, self.tree
        for level in range(tree.levels):
            W, ranks = self._level(level)
            self._add(W)
            self.ranks.append(ranks)
        ranks = np.concatenate([np.empty(0, np.int64), *self.ranks])
        form = Form(self._leaves(), np.ascontiguousarray(self.sides), self.widths)
        factor = Hodlr.of_form(
            tree, ranks, form, self.shares, certificate=UNKNOWN, layout=self.layout
        )
        return replace(
            factor,
            certificate=certified(factor, self.probes, asked.tolerance, factor.frobenius()),
            provenance=made(
                method="peeling" if asked.passes == 2 else "peeling in one pass",
                rank_requested=-1 if asked.rank is None else asked.rank,
                tolerance_requested=NAN if asked.tolerance is None else asked.tolerance,
                tolerance_norm="" if asked.tolerance is None else "frobenius",
                oversample=asked.oversample,
                power=0,
                seed=asked.seed,
            ),
        )

    @property
    def inside(self) -> np.ndarray:
        """Which of the padded rows of this rank's leaves hold something."""
        return self.shares.mask

    @property
    def sides(self) -> np.ndarray:
        """The (leaves, m, K) sides of the levels that are known."""
        return self.room[:, :, : sum(self.widths)]

    def empty(self, columns: int) -> np.ndarray:
        return np.zeros((*self.inside.shape, columns))

    def _add(self, W: np.ndarray) -> None:
        """Take the sides of a level; the room doubles where it ends, so that few are copied."""
        known, width = self.sides, W.shape[2]
        first = known.shape[2]
        if first + width > self.room.shape[2]:
            self.room = np.empty((*self.inside.shape, 2 * first + width))
            self.room[:, :, :first] = known
        self.room[:, :, first : first + width] = W
        self.widths.append(width)

    def _level(self, level: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the (leaves, m, k) sides of a level, and the ranks of its nodes."""
        asked, layout = self.asked, self.layout
        most = int(np.diff(self.tree.bounds[:: self.tree.leaves >> (level + 1)]).max())
        # A share for what is cut, one for what the bases miss; and both come back in the leaves,
        # whose identity columns see all of the coarser levels' error.
        error = self.error / 2
        cut = cut_of_block(error, level, self.tree.levels)
        rank = asked.rank or FIRST
        kept: int | np.ndarray | None = asked.rank
        if self.limits is not None:
            of_level = self.limits[2**level - 1 : 2 ** (level + 1) - 1]
            rank, kept = int(of_level.max()), of_level[self.shares.own(level)]
        columns = min(max(rank + asked.oversample, 1), most)
        sketch = Sketch(self, level, columns)
        while asked.rank is None and sketch.columns < most:
            spare = max(asked.oversample, 1)
            if layout.decide(sketch.missed(spare) <= cut):
                break
            sketch = sketch.wider(min(sketch.columns // 2, most - sketch.columns))
        noise = ROUNDING * np.finfo(self.operator.dtype).eps * self.norm
        kept = sketch.columns if kept is None else kept
        return truncated(sketch.Q, sketch.across(), kept, cut, noise)

    def _leaves(self) -> np.ndarray:
        """Return the (leaves, m, m) diagonal blocks of this rank's leaves."""
        D = self.unexplained(np.eye(self.m) * self.inside[:, :, None])
        D = D + np.swapaxes(D, 1, 2)
        D /= 2
        return D

    def random(self, level: int, child: int, columns: int) -> np.ndarray:
        """Return fresh normal columns that are zero but on each node's first or second child.

        In the layout.
        """
        first, self.drawn = self.drawn, self.drawn + columns
        omega = gaussian(self.layout, first, self.drawn, self.asked.seed)
        omega[(self.leaf_of_row >> (self.tree.levels - level - 1)) & 1 != child] = 0.0
        return omega

    def in_leaves(self, block: np.ndarray) -> np.ndarray:
        """Return the rows of this rank's leaves of a block in the layout, as a stack."""
        return self.shares.stacked(self.rows.there(block))

    def unexplained(self, stack: np.ndarray, block: np.ndarray | None = None) -> np.ndarray:
        """Return the product of H, less what is known of it, with a (leaves, m, j) array.

        `block` is the same in the layout, where that is known.
        """
        if block is None:
            block = self.rows.back(self.shares.flat(stack))
        out = self.in_leaves(self.operator @ block)
        if not self.widths:
            return out
        sides = self.sides
        given = exchanged(coordinates(sides, stack), self.widths, self.shares)
        step = max(PIECE // (self.m * max(stack.shape[2], 1)), 1)
        for first in range(0, len(out), step):
            here = slice(first, first + step)
            out[here] -= sides[here] @ given[here]
        return out


class Sketch:
    """Bases Q of a level's blocks A between first and second children.

    Two passes: A ~ Q (A^T Q)^T. In one pass A^T Q is the least-squares solution of
    (A^T Q) (Q^T Psi) = A^T Psi, for random Psi of twice as many columns.
    """

    def __init__(self, peeling: Peeling, level: int, columns: int, before: Sketch | None = None):
        self.peeling, self.level = peeling, level
        self.first, self.second = (peeling.shares.children(level, child) for child in (0, 1))
        random = [peeling.random(level, 1, columns)]
        if peeling.asked.passes == 1:
            random.append(peeling.random(level, 0, WIDER * columns))
        block = random[0] if len(random) == 1 else np.concatenate(random, axis=1)
        stack = peeling.in_leaves(block)
        Y = peeling.unexplained(stack, block)
        # Y, Z and Psi: what H makes of either block, and the block on the first children.
        found = [Y[:, :, :columns]]
        if peeling.asked.passes == 1:
            found += [Y[:, :, columns:], stack[:, :, columns:]]
        if before is not None:
            found = [np.concatenate(pair, axis=2) for pair in zip(before.found, found, strict=True)]
        self.found: list[np.ndarray] = found
        self.Q = TallQr(self.first, found[0])

    @property
    def columns(self) -> int:
        return self.found[0].shape[2]

    def wider(self, columns: int) -> Sketch:
        return Sketch(self.peeling, self.level, columns, self)

    def missed(self, spare: int) -> float:
        """Return the largest estimate of ||A - Q Q^T A||_F for the bases without `spare` columns.

        The mean of what these leave of that many random vectors (Halko, Martinsson and Tropp 2011,
        section 4.4); all columns together miss less.
        """
        kept = max(self.columns - spare, 0)
        rest = self.Q.R[:, kept:, kept:]
        most = np.sqrt(np.sum(rest**2, axis=(1, 2)) / (self.columns - kept)).max(initial=0.0)
        return float(self.peeling.shares.largest(np.array([most]))[0])

    def across(self) -> np.ndarray:
        """Return A^T Q, in the rows of the second children of a (leaves, m, s) array."""
        peeling, shape = self.peeling, self.found[0].shape
        Q = self.Q.basis(np.zeros(shape))
        if peeling.asked.passes == 2:
            return peeling.unexplained(Q)
        _, Z, Psi = self.found
        seen = np.swapaxes(self.first.pieces(Psi), 1, 2) @ self.first.pieces(Q)
        # A child with fewer rows than there are columns has columns of zeros in Q.
        held = np.arange(shape[2]) < self.first.sizes[:, None]

        def inverse(seen, held):
            return np.swapaxes(np.linalg.pinv(seen), 1, 2) * held[:, None, :]

        solved = self.second.at_nodes(inverse, self.first.summed(seen), held)
        out = np.zeros(shape)
        self.second.put(out, self.second.pieces(Z) @ solved[self.second.node])
        return out


def certified(factor: Factor, probes: Probes, tolerance: float | None, size: float) -> Certificate:
    """Return the certificate of a factor by fresh probes; `size` is its own Frobenius norm."""
    layout = factor.layout
    squares = layout.squares(probes.images - factor @ probes.vectors)
    error = np.sqrt(np.mean(squares))
    norm = np.hypot(size, error)
    met = tolerance is None or layout.decide(error <= tolerance * norm)
    return certificate_by_probes(squares, norm, converged=met)
