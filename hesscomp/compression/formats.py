"""The formats of factors, one of which a compression makes, and how "auto" chooses."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, overload

import numpy as np

from hesscomp.compression.approximation import Approximation
from hesscomp.compression.compress import FROBENIUS, CompressionOptions, in_layout
from hesscomp.compression.compress import compress as compress_low_rank
from hesscomp.compression.hbs import HbsFit, TooNarrow, usual_columns
from hesscomp.compression.hodlr import HodlrOptions, compress_hodlr
from hesscomp.compression.nystrom import Nystrom
from hesscomp.compression.one_pass import from_sketch
from hesscomp.compression.options import SketchOptions
from hesscomp.compression.orderings import Ordering, default_leaf, make_tree
from hesscomp.compression.sketch import GaussianSketch
from hesscomp.errors import InputError, NumericalError
from hesscomp.factors.certificate import UNKNOWN
from hesscomp.factors.factor import Factor
from hesscomp.factors.hbs import Hbs
from hesscomp.factors.hierarchical import Hierarchical, InLeaves
from hesscomp.factors.hodlr import Hodlr, cut_of_block
from hesscomp.factors.lowrank import LowRank
from hesscomp.factors.provenance import NAN, metered
from hesscomp.factors.tree import Tree
from hesscomp.operators.operator import Operator
from hesscomp.options import option, option_of, refuse, values
from hesscomp.parallel.layout import RowLayout

log = logging.getLogger(__name__)

LOW_RANK, AUTO = "low-rank", "auto"
TOLERANCE = 1e-2  # of who asks for neither a rank nor a tolerance, but for a format
MARGIN = 0.9  # of the tolerance that the sketch's own probes must show
MOST_LEAVES = 32  # a sketch grows to the columns that so many leaves have rows, or to n
GROWTH = 1.5
USUAL = {"method": "auto", "which": "LM", "power": 1, "test_matrix": "gaussian"}  # of low rank
PROBES = 8  # by default


@dataclass(frozen=True)
class Candidate:
    """What a format would make of a sketch.

    Attributes
    ----------
    format : str
    columns : int
        Product columns that it takes, probes included.
    numbers : float
        Stored for each parameter.
    error : float
        Estimated relative error, in the Frobenius norm.
    factor : Factor or None
        Where the sketch gives it: without a certificate yet.
    rough : bool
        Whether the error is that of another format's factor, and of what this one would cut of it,
        marked by ~ in the table: of hodlr, before its own products are made.
    """

    format: str
    columns: int
    numbers: float
    error: float
    factor: Factor | None = None
    rough: bool = False


@dataclass(frozen=True)
class Selection:
    """The formats side by side, and the one chosen; `note` says what happened to a former one."""

    candidates: tuple[Candidate, ...]
    chosen: str
    tolerance: float
    note: str = ""

    def __str__(self) -> str:
        lines = [f"{'format':<10} {'columns':>8} {'numbers a parameter':>20} {'error':>9}"]
        for each in self.candidates:
            mark = "  taken" if each.format == self.chosen else ""
            error = f"{'~' if each.rough else ''}{each.error:.2e}"
            lines.append(
                f"{each.format:<10} {each.columns:8d} {each.numbers:20.1f} {error:>9}{mark}"
            )
        if self.note:
            lines.append(self.note)
        return "\n".join(lines)


class Format(ABC):
    """A kind of factor that a compression can be asked for; `FORMATS` lists them.

    It declares whether it is made of the columns of a `GaussianSketch` (`from_sketch`), and whether
    ranks share that work by rows, whatever the layout of the operator (`by_rows`).
    """

    name: str
    from_sketch = False
    by_rows = False

    @abstractmethod
    def columns(self, n: int, rank: int, oversample: int) -> int:
        """Return the product columns that a rank takes, probes included, for a choice of costs."""

    @abstractmethod
    def compress(
        self, sketch: GaussianSketch, asked: FormatOptions, tree: Tree, start: Factor | None
    ) -> Factor:
        """Return the certified factor; a sketch with columns may serve as they are."""

    @abstractmethod
    def candidate(
        self, sketch: GaussianSketch, asked: FormatOptions, tree: Tree, others: dict[str, Candidate]
    ) -> Candidate:
        """Return what the format makes of a sketch that others read too, without a product.

        `others` are the candidates of the formats before it in `FORMATS`.
        """


class LowRankFormat(Format):
    """`compression.compress.compress`; of a shared sketch, Nystrom or the one-pass method."""

    name = LOW_RANK

    def columns(self, n, rank, oversample):
        return min(rank + oversample, n)

    def compress(self, sketch, asked, tree, start):
        return compress_low_rank(sketch.operator, start=start, **values(asked, CompressionOptions))

    def candidate(self, sketch, asked, tree, others):
        found = self._approximation(sketch, asked)
        errors = found.errors(None if sketch.exact else sketch.probes)
        largest = np.abs(found.eigenvalues).max(initial=0.0)
        met = errors.meet(MARGIN * asked.tolerance, FROBENIUS, largest)
        met = met[: (asked.max_rank or len(met)) + 1]
        k = int(np.argmax(met)) if met.any() else len(met) - 1
        k = k if sketch.layout.world is None else sketch.layout.world.broadcast(k)
        factor = LowRank(
            found.eigenvalues[:k].copy(),
            np.ascontiguousarray(found.eigenvectors[:, :k]),
            certificate=UNKNOWN,
            layout=sketch.layout,
        )
        error = float(errors.frobenius[k] / (errors.norm or 1.0))
        return Candidate(self.name, sketch.columns, k * (1 + 1 / factor.n), error, factor)

    @staticmethod
    def _approximation(sketch: GaussianSketch, asked: FormatOptions) -> Approximation:
        layout, Omega = sketch.layout, sketch.Omega
        if sketch.matrix is not None:
            w, S = layout.eigenpairs(sketch.matrix)
            kept = np.abs(w) > 0
            U = np.ascontiguousarray(layout.local(S[:, kept]))
            return Approximation(w[kept], U, layout, 0.0, galerkin=True, estimator="exact")
        if sketch.operator.psd:
            method = Nystrom(sketch.operator, SketchOptions(power=0, seed=asked.seed))
            method.Z, method.Y, method.size = Omega, sketch.Y, sketch.size
            try:
                return method.approximation()
            except NumericalError as error:
                log.info("%s; the low-rank format is judged by the one-pass method", error)
        return from_sketch(layout, Omega, sketch.Y, max(2 * sketch.size // 3, 1))


class HbsFormat(Format):
    """Bases from the null spaces of one sketch; see `compression.hbs.climb`."""

    name = Hbs.kind
    from_sketch = by_rows = True

    def columns(self, n, rank, oversample):
        return min(usual_columns(n, default_leaf(n), rank) + PROBES, n)

    def compress(self, sketch, asked, tree, start):
        known = start.ranks if isinstance(start, Hbs) and start.tree == tree else None
        if asked.tolerance is None:
            ranks = asked.rank if known is None else np.minimum(known, asked.rank)
            fit = HbsFit(sketch, tree, 0)
            needed = asked.sketch_columns or fit.usual_columns(ranks)
            sketch.grow(max(needed - sketch.size, 0))
            try:
                factor = fit.factor(0.0, ranks, last=True)
            except TooNarrow as narrow:
                raise InputError(
                    f"{sketch.size} `sketch_columns` are too few for this tree and these ranks; "
                    f"take at least {narrow.columns}"
                ) from None
            return _certified(sketch, factor, sketch.probes, asked)
        if known is not None and asked.max_rank is None and not sketch.size:
            factor = self._with_ranks(sketch, asked, HbsFit(sketch, tree, 0), known)
            if factor is not None:
                return factor
        if not sketch.size:
            sketch.grow(first_columns(asked, tree))
        tolerance, fit = MARGIN * asked.tolerance, HbsFit(sketch, tree, asked.oversample)
        while True:
            try:
                factor, error = fit.meeting(tolerance, asked.max_rank)
            except TooNarrow as narrow:
                if grow(sketch, tree, narrow.columns):
                    continue
                factor, error = fit.widest(tolerance), np.inf
            reached = error <= tolerance
            factor = _certified(sketch, factor, sketch.fresh() if reached else sketch.probes, asked)
            if factor.certificate.converged or not reached:
                return factor
            tolerance *= MARGIN * asked.tolerance / factor.certificate.relative_error

    @staticmethod
    def _with_ranks(sketch, asked, fit: HbsFit, ranks: np.ndarray) -> Factor | None:
        """Return the factor with these ranks, if it meets the tolerance."""
        sketch.grow(asked.sketch_columns or fit.usual_columns(ranks))
        try:
            factor = fit.factor(0.0, ranks)
        except TooNarrow:
            return None
        if sketch.error(factor) > MARGIN * asked.tolerance * sketch.norm:
            return None
        certified = _certified(sketch, factor, sketch.fresh(), asked)
        return certified if certified.certificate.converged else None

    def candidate(self, sketch, asked, tree, others):
        fit = HbsFit(sketch, tree, asked.oversample)
        try:
            factor, error = fit.meeting(MARGIN * asked.tolerance, asked.max_rank)
        except TooNarrow:
            factor = fit.widest(MARGIN * asked.tolerance)
            error = sketch.error(factor) / (sketch.norm or 1.0)
        return Candidate(self.name, sketch.columns, factor.numbers / factor.n, error, factor)


class HodlrFormat(Format):
    """Off-diagonal blocks by peeling, whose products no other format can share."""

    name = Hodlr.kind

    def columns(self, n, rank, oversample):
        leaf = default_leaf(n)
        levels = Tree.halves(n, leaf).levels
        return min(2 * (rank + oversample) * levels + leaf + PROBES, n)

    def compress(self, sketch, asked, tree, start):
        rank = asked.rank or asked.max_rank
        if isinstance(start, Hodlr) and start.tree == tree:
            rank = start.block_ranks
        return compress_hodlr(
            sketch.known, tree, rank, asked.tolerance,
            oversample=asked.oversample, seed=asked.seed, probe_count=asked.probe_count,
            passes=asked.passes or HodlrOptions.passes,
        )  # fmt: skip

    def candidate(self, sketch, asked, tree, others):
        """The blocks of siblings as the HBS factor of the sketch has them; no factor."""
        near = others[Hbs.kind]
        assert isinstance(near.factor, Hbs)  # as that format makes
        columns, numbers = int(tree.leaf_sizes.max()), np.sum(tree.leaf_sizes**2)
        squares = 0.0  # of what is cut
        for level, B in enumerate(reversed(near.factor.stacks.couplings)):
            sizes = np.diff(tree.bounds[:: tree.leaves >> level])
            cut = cut_of_block(asked.tolerance * sketch.norm / 2, level, tree.levels)
            s = np.linalg.svd(B, compute_uv=False)
            rest = np.sqrt(np.cumsum(s[:, ::-1] ** 2, axis=1)[:, ::-1])
            ranks = np.sum(rest > cut, axis=1)
            squares += 2 * float(np.sum(np.where(rest > cut, 0.0, s) ** 2))
            columns += 2 * min(int(ranks.max()) + asked.oversample, int(sizes.max() + 1) // 2)
            numbers += np.sum(ranks * sizes)
        columns = near.columns + (0 if sketch.exact else int(columns))
        error = float(np.hypot(near.error, np.sqrt(squares) / (sketch.norm or 1.0)))
        return Candidate(self.name, columns, float(numbers) / tree.n, error, rough=True)


FORMATS: dict[str, Format] = {
    format.name: format for format in (LowRankFormat(), HbsFormat(), HodlrFormat())
}


@dataclass(frozen=True, kw_only=True)
class FormatOptions(CompressionOptions):
    """The options of `compress`: the format of the factor, and of hierarchical ones the tree."""

    factor_format: str = option(
        LOW_RANK, choices=(AUTO, *FORMATS), flag="--format", former="--factor-format",
        help="what the factor holds: eigenpairs (low-rank), or over a tree of the parameters "
        "off-diagonal blocks of low rank, with nested bases (hbs) or each with its own (hodlr), "
        "where `rank` is that of each node; auto tries all on one sketch and takes the smallest "
        "that meets the tolerance",
    )  # fmt: skip
    ordering: str | None = option(
        None, metavar="NAME|FILE.npy", advanced=True,
        help="of the tree: natural, unit, neuron, clusters, or a file with a permutation of the "
        "parameters or with their coordinates; default: unit or neuron for dense layers, else "
        "natural",
    )  # fmt: skip
    leaf_size: int | None = option(
        None, low=2, metavar="M", advanced=True, help="most parameters of a leaf of the tree"
    )
    sketch_columns: int | None = option(
        None, low=1, metavar="C", advanced=True,
        help="columns of a hierarchical format's first sketch; default: twice a leaf's and the "
        "rank",
    )  # fmt: skip
    passes: int | None = option_of(HodlrOptions, "passes", default=None, advanced=True)

    def _check(self) -> None:
        super()._check()
        if self.factor_format != Hodlr.kind:
            refuse(self, ("passes",), f"the format {self.factor_format}; take {Hodlr.kind}")
        if self.factor_format == LOW_RANK:
            names = "ordering", "leaf_size", "sketch_columns"
            refuse(self, names, f"the format {LOW_RANK}; take hbs or auto")
            return
        refuse(
            self, ("block", "max_columns", "max_basis", "residual_tolerance"),
            f"the format {self.factor_format}; take {LOW_RANK}",
        )  # fmt: skip
        for name, usual in USUAL.items():
            if getattr(self, name) != usual:
                raise InputError(
                    f"`{name}` does not go with the format {self.factor_format}; take {LOW_RANK}"
                )
        if self.factor_format != AUTO and not FORMATS[self.factor_format].from_sketch:
            what = f"the format {self.factor_format}; take hbs or auto"
            refuse(self, ("sketch_columns",), what)
        if self.norm != FROBENIUS:
            raise InputError(
                f"the format {self.factor_format} knows a tolerance in the norm {FROBENIUS} only, "
                f"not {self.norm}"
            )
        if self.factor_format == AUTO and self.tolerance is None:
            raise InputError(f"the format {AUTO} chooses by a `tolerance`; give one, not a `rank`")


@overload
def compress(
    operator: Operator,
    rank: int | None = None,
    tolerance: float | None = None,
    *,
    format: Literal["low-rank"] = "low-rank",
    start: Factor | None = None,
    **options,
) -> LowRank: ...


@overload
def compress(
    operator: Operator,
    rank: int | None = None,
    tolerance: float | None = None,
    *,
    format: str,
    start: Factor | None = None,
    tree: Tree | None = None,
    ordering: Ordering = None,
    on_choice: Callable[[Selection], None] | None = None,
    **options,
) -> Factor: ...


def compress(
    operator,
    rank=None,
    tolerance=None,
    *,
    format="low-rank",
    start=None,
    tree=None,
    ordering=None,
    on_choice=None,
    **options,
):
    """Compress a symmetric operator to a factor with an error certificate. Collective.

    Parameters
    ----------
    operator : Operator
    rank : int, optional
        Eigenpairs wanted; of hbs the columns of each node's basis, at most.
    tolerance : float, optional
        Grow the sketch until ||H - F||_F <= tolerance ||H||_F, both estimated, and fresh probes
        agree. A factor that does not reach it has ``certificate.converged`` False.
    format : {"low-rank", "hbs", "hodlr", "auto"}
        low-rank: see `compression.compress.compress`, which has the other options and is meant
        where spectra decay. hbs: see `Hbs`; meant where off-diagonal blocks have low rank in some
        ordering of the parameters, as kernels, smoothing operators and networks' Gauss-Newton
        matrices before training. hodlr: see `compression.hodlr.compress_hodlr`, which takes more
        columns and asks less of the matrix: its blocks share nothing. auto: one sketch, which all
        formats read; of those that meet the tolerance the one with the fewest numbers a parameter,
        and low-rank where they are equal.
    start : Factor, optional
        Of a nearby operator. low-rank: its range saves products. hbs: its tree and ranks are taken,
        which makes the sketch as narrow as can be; with a tolerance they are tried first. hodlr:
        its tree is taken, and its ranks where neither rank nor tolerance is given.
    tree : Tree, optional
        Of a hierarchical format; by default halves of the `ordering`, with leaves of at most
        `leaf_size` (64) parameters.
    ordering : str, array or Tree, optional
        "natural", "unit", "neuron", "clusters"; an (n,) array of whole numbers, a permutation; or
        an (n,) or (n, d) array of floating-point numbers, coordinates, which make a kd-tree. By
        default "unit" for the indefinite matrix of two dense layers, "neuron" for others of dense
        layers, else "natural".
    on_choice : callable, optional
        With auto: gets the `Selection`, whose text is the table of the formats. It gets a second
        one where hodlr was chosen, misses the tolerance once it is made, and another format meets
        it.
    **options
        Of `FormatOptions`.

    Returns
    -------
    LowRank, Hbs or Hodlr

    Raises
    ------
    InputError
        For options out of range or that do not go with the format, an ordering that does not fit,
        a tree that is no partition.

    Notes
    -----
    HBS of leaves of m parameters takes s = 2 (m + rank) columns, whatever n is (with a tolerance 3
    m at first, then as many as the ranks need), and `probe_count` (8) probes; with a tolerance as
    many fresh ones again. Memory: 2 n s numbers, a P-th of that on each of P ranks, and what a
    product takes; every rank gets the whole factor.

    References
    ----------
    Levitt and Martinsson (2022), "Linear-complexity black-box randomized compression of
    rank-structured matrices".
    """
    if format not in (AUTO, *FORMATS):
        raise InputError(f"`format` must be one of {', '.join((AUTO, *FORMATS))}, not {format}")
    if format == LOW_RANK:
        if tree is not None or on_choice is not None:
            raise InputError(
                f"`tree` and `on_choice` do not go with the format {LOW_RANK}; take hbs"
            )
        asked = {name: options.pop(name, None) for name in OWN[1:]} | {"ordering": ordering}
        if any(value is not None for value in asked.values()):
            FormatOptions(rank=rank, tolerance=tolerance, **asked, **options)
        return compress_low_rank(operator, rank, tolerance, start=start, **options)
    if start is not None and not isinstance(start, Hierarchical):
        raise InputError(
            f"the format {format} starts from a hierarchical factor, not from one of kind "
            f"{start.kind}"
        )
    same_ranks = rank is None and tolerance is None
    if same_ranks:
        if isinstance(start, InLeaves):
            rank = max(start.largest_rank, 1)
        else:
            tolerance = TOLERANCE
    return _hierarchical(
        operator,
        start,
        tree,
        ordering,
        on_choice,
        FormatOptions(rank=rank, tolerance=tolerance, factor_format=format, **options),
        same_ranks,
    )


OWN = ("ordering", "leaf_size", "sketch_columns", "passes")


def _hierarchical(
    operator, start, tree, ordering, on_choice, asked: FormatOptions, same_ranks: bool
) -> Factor:
    operator = in_layout(operator, asked)
    made = metered(operator)
    layout = operator.layout
    by_rows = asked.factor_format != AUTO and FORMATS[asked.factor_format].by_rows
    if by_rows and layout.name == "replicated" and layout.world is not None:
        layout = RowLayout(operator.n, operator.world)  # each rank works on its own part
    sketch = GaussianSketch(operator, asked.seed, asked.probe_count, layout)
    if tree is not None and (ordering is not None or asked.leaf_size is not None):
        raise InputError(
            "`tree` says the ordering and the leaves; leave `ordering`, `leaf_size` out"
        )
    if start is not None and tree is None and ordering is None:
        tree = start.tree
    leaf = asked.leaf_size or default_leaf(operator.n)
    if tree is None and isinstance(ordering, str) and ordering == "clusters":
        sketch.grow(3 * leaf)
    tree = make_tree(sketch, ordering if tree is None else tree, leaf)
    if asked.factor_format == AUTO:
        factor = _chosen(sketch, asked, tree, on_choice)
    else:
        if asked.factor_format == Hodlr.kind and not same_ranks:
            start = None  # a rank or a tolerance that was asked for holds for each block
        factor = FORMATS[asked.factor_format].compress(sketch, asked, tree, start)
    method = factor.provenance.method or ("dense" if sketch.exact else factor.kind)
    provenance = made(
        method=method,
        rank_requested=-1 if asked.rank is None else asked.rank,
        tolerance_requested=NAN if asked.tolerance is None else asked.tolerance,
        tolerance_norm="" if asked.tolerance is None else FROBENIUS,
        oversample=asked.oversample,
        power=0,
        seed=asked.seed,
    )
    factor = replace(factor, provenance=provenance).in_layout(operator.layout)
    return operator.describe(factor)


def _chosen(sketch: GaussianSketch, asked: FormatOptions, tree: Tree, on_choice) -> Factor:
    """Return the factor of the format that is the smallest of those that meet the tolerance.

    Whether HODLR meets it is known once it is made. If it does not, the next smallest that does is
    returned.
    """
    assert asked.tolerance is not None  # by its check
    operator = sketch.operator
    tolerance, needed = MARGIN * asked.tolerance, first_columns(asked, tree) - sketch.size
    if needed > 0:
        sketch.grow(needed)
    while True:
        by_name: dict[str, Candidate] = {}
        for name, each in FORMATS.items():
            by_name[name] = each.candidate(sketch, asked, tree, by_name)
        found = list(by_name.values())
        known = {each.format: each.error for each in found if not each.rough}
        # HODLR's numbers are read from the HBS factor: they hold where that meets the tolerance.
        met = [each for each in found if known.get(each.format, known[Hbs.kind]) <= tolerance]
        if met:
            met.sort(key=lambda each: each.numbers)
            best = met[0]
            if sketch.exact or best.columns < operator.n:
                break
            sketch.grow(operator.n)  # the matrix itself takes fewer columns
        elif not grow(sketch, tree, 0):
            best = min(found, key=lambda each: known.get(each.format, np.inf))
            break
    chosen = Selection(tuple(found), best.format, asked.tolerance)

    def tell(selection: Selection) -> None:
        log.info("%s", selection)
        if on_choice is not None:
            on_choice(selection)

    def made(candidate: Candidate) -> Factor:
        if candidate.factor is not None:
            measured = sketch.fresh() if met else sketch.probes
            factor = _certified(sketch, candidate.factor, measured, asked)
            if factor.certificate.converged or not met:
                return factor
        return FORMATS[candidate.format].compress(sketch, asked, tree, None)

    tell(chosen)
    factor = made(best)
    if best.factor is not None or factor.certificate.converged:
        return factor
    missed = replace(best, error=factor.certificate.relative_error, rough=False)
    rows = tuple(missed if each is best else each for each in found)
    note = f"{best.format} was made and misses the tolerance of {asked.tolerance:g}"
    for other in met[1:]:
        instead = made(other)
        if instead.certificate.converged:
            tell(replace(chosen, candidates=rows, chosen=other.format, note=note))
            return instead
    return factor


def _certified(sketch: GaussianSketch, factor: Factor, measured, asked: FormatOptions) -> Factor:
    known = sketch.certificate(factor, measured, asked.tolerance)
    return replace(factor, certificate=known)


def first_columns(asked: FormatOptions, tree: Tree) -> int:
    """Return the columns of the first sketch for a tolerance, usually three times a leaf's."""
    leaf = int(tree.leaf_sizes.max())
    return max(asked.sketch_columns or 3 * leaf + asked.oversample, leaf + asked.oversample + 1)


def grow(sketch: GaussianSketch, tree: Tree, needed: int) -> bool:
    """Grow a sketch by half or to the columns needed; return whether it may grow so far."""
    most = max(MOST_LEAVES * int(tree.leaf_sizes.max()), 2 * sketch.operator.n * sketch.exact)
    columns = min(max(int(GROWTH * sketch.size), needed), most)
    if columns <= sketch.size or columns < needed:
        return False
    sketch.grow(columns - sketch.size)
    return True
