"""Compress an operator to a certified factor."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from hesscomp.compression.adaptive import AdaptiveEigh
from hesscomp.compression.approximation import Approximation, Probes
from hesscomp.compression.eigh import PowerEigh, RandomizedEigh
from hesscomp.compression.indefinite import IndefiniteNystrom
from hesscomp.compression.krylov import BlockKrylov
from hesscomp.compression.nystrom import Nystrom, RangeNystrom
from hesscomp.compression.one_pass import OnePass
from hesscomp.compression.options import SketchOptions
from hesscomp.compression.rows import RowEigh, RowSvd
from hesscomp.compression.svd import DirectSvd
from hesscomp.errors import InputError, NumericalError, OperatorError
from hesscomp.factors.factor import Factor
from hesscomp.factors.lowrank import LowRank
from hesscomp.factors.provenance import NAN, metered
from hesscomp.operators.operator import Operator
from hesscomp.options import option, refuse
from hesscomp.parallel.layout import PANEL
from hesscomp.parallel.memory import fits_in_memory, sketch_bytes
from hesscomp.sketching.defaults import default_method

log = logging.getLogger(__name__)

METHODS = {
    method.name: method
    for method in (
        BlockKrylov,
        RandomizedEigh,
        AdaptiveEigh,
        Nystrom,
        RangeNystrom,
        IndefiniteNystrom,
        OnePass,
        DirectSvd,
        RowEigh,
        RowSvd,
        PowerEigh,
    )
}
FROBENIUS = "frobenius"
KRYLOV = ("block", "max_columns", "max_basis", "residual_tolerance")  # that method's own
FIRST_BLOCK = 16  # columns of an adaptive sketch at first; it then grows by half


@dataclass(frozen=True, kw_only=True)
class FactorOptions(SketchOptions):
    """How to sketch, and by which method."""

    # Pairs of other methods are judged by `residual_tolerance` too, but none works towards it.
    krylov_alone: ClassVar[tuple[str, ...]] = KRYLOV[:-1]

    method: str = option("auto", choices=("auto", *METHODS), help="compression algorithm")

    def _check(self) -> None:
        super()._check()
        if self.method not in ("auto", BlockKrylov.name):
            refuse(self, self.krylov_alone, f"`method` {self.method}; take {BlockKrylov.name}")


@dataclass(frozen=True, kw_only=True)
class CompressionOptions(FactorOptions):
    """The options of `compress`."""

    rank: int | None = option(
        None, low=1, metavar="K", one_of="size",
        help="number of eigenpairs; default: 40 unless a tolerance is given",
    )  # fmt: skip
    tolerance: float | None = option(
        None, above=0, below=1, metavar="T", one_of="size",
        help="take the smallest rank with ||H - F|| <= T ||H||",
    )  # fmt: skip
    tolerance_norm: str | None = option(
        None, choices=(FROBENIUS, "spectral"), help=f"norm of `tolerance`; default: {FROBENIUS}"
    )
    max_rank: int | None = option(
        None, low=1, metavar="K", help="largest rank for `tolerance`; default: n"
    )

    def facts(self, part: type) -> dict[str, object]:
        return super().facts(part) | {"tolerance_norm": self.tolerance_norm or FROBENIUS}

    def _check(self) -> None:
        super()._check()
        if self.rank is None and self.tolerance is None:
            raise InputError("neither `rank` nor `tolerance`; give one of them")
        if self.tolerance is None:
            refuse(self, ("max_rank", "tolerance_norm"), "a `rank`; they are for a `tolerance`")
        else:
            refuse(self, ("max_columns", "max_basis"), "a `tolerance`; they are for a `rank`")


def compress(
    operator: Operator,
    rank: int | None = None,
    tolerance: float | None = None,
    *,
    start: Factor | None = None,
    **options,
) -> LowRank:
    """Compress a symmetric operator to a low-rank factor with an error certificate.

    Ask for a `rank` or for a `tolerance`, not both. Collective.

    Parameters
    ----------
    operator : Operator
        Symmetric; whether it is positive semidefinite decides which methods fit.
    rank : int, optional
        Eigenpairs wanted; at most n are given.
    tolerance : float, optional
        Grow the sketch until ||H - F|| <= tolerance ||H||, both estimated, and cut to the smallest
        rank that meets it, both on fresh probes. The certificate is that of the factor as it is
        returned, after the cut, and says ``converged=True`` exactly where it meets the tolerance:
        in the Frobenius norm where its `relative_error` does, in the spectral norm where its bound
        is at most the tolerance times what ||H|| is at least (`ErrorsByRank.meet`). Where
        `max_rank` does not suffice the factor has that rank and ``converged=False``.
    start : Factor, optional
        With krylov (which "auto" then takes): a factor of a nearby operator, such as of the same
        loss some steps of training before. Its range is worth a product: by default a third of the
        columns are saved (power 1), at equal error where the operators are near, and nothing but
        them is lost where they are not.
    **options
        The other fields of `CompressionOptions`: `method`, `oversample` (10), `power` (1), `seed`,
        `test_matrix`, `probe_count` (8), `layout`, `panel`; with a tolerance `max_rank` and
        `tolerance_norm`; of krylov `block`, `max_columns`, `max_basis`, `residual_tolerance`.

        Of `method`: "auto" or a name in `METHODS`, whose classes say what they do and cost. "auto"
        takes nystrom (with the stable shift) for operators declared semidefinite, but krylov where
        more than one power step is asked for (the same products give it higher powers) or an option
        of krylov is given, and krylov elsewhere. Where the sketch would be as wide as the matrix
        (under "auto": would cost as many products) the matrix is assembled instead, and the
        factor's method is "dense".

        Of `layout`: "auto" takes rows where a replicated sketch would need more than half of the
        memory that a rank has (with a tolerance, one of `max_rank`: name that, or the layout, where
        it may grow large), and what the operator has where it is in rows already.

        Errors are measured by probes where the test matrix is not Gaussian. The result does not
        depend on the number of ranks.

    Returns
    -------
    LowRank
        With certificate and the provenance of method and costs; its eigenvectors in the layout
        (`LowRank.layout`).

    Raises
    ------
    InputError
        For arguments out of range.
    OperatorError
        For a method that needs a positive semidefinite operator, if this one is not declared so.

    Notes
    -----
    For l = rank + oversample, eigh costs (2 + power) l + probes product columns, krylov at most as
    many, nystrom (1 + power) l (+ probes with power steps). Memory 5 n l numbers at most; krylov
    (4 + power) n l, or as little as 2 n l with `max_basis`; in the row layout a P-th of that on
    each of P ranks, and two or three (n, panel) arrays.
    """
    asked = CompressionOptions(rank=rank, tolerance=tolerance, **options)
    kind = _choose(operator, asked, start)
    operator = _in_layout(operator, asked)
    made = metered(operator)
    if rank is not None:
        l = min(operator.n, rank + asked.oversample)
        sketch = kind(operator, asked)
        if asked.method == "auto" and sketch.columns(l) >= operator.n:
            sketch = Dense(operator, asked)
        sketch, approximation = _sketch_rank(sketch, l)
        k = min(rank, operator.n)
        certificate = approximation.certificate(k, sketch.probes)
    else:
        sketch, approximation, k, certificate = _grow_to_tolerance(
            kind(operator, asked),
            tolerance,
            asked.tolerance_norm or FROBENIUS,
            min(asked.max_rank or operator.n, operator.n),
        )
    return LowRank(
        approximation.eigenvalues[:k].copy(),
        np.ascontiguousarray(approximation.eigenvectors[:, :k]),
        certificate=certificate,
        provenance=made(
            method=sketch.name,
            rank_requested=-1 if rank is None else rank,
            tolerance_requested=NAN if tolerance is None else tolerance,
            tolerance_norm="" if tolerance is None else asked.tolerance_norm or FROBENIUS,
            residual_tolerance=NAN if certificate.residual_norms is None else asked.accuracy,
            oversample=asked.oversample,
            power=sketch.options.power,
            seed=asked.seed,
        ),
        layout=operator.layout,
    )


def blank_factor(n: int) -> Factor:
    """What stands where `compress` has made no factor yet, such as in a checkpoint: rank 0."""
    return LowRank.blank(n)


def _in_layout(operator: Operator, asked: CompressionOptions) -> Operator:
    """The operator in the layout asked for, or in the one that fits into memory."""
    if asked.layout == "replicated":
        return operator.replicated()
    if asked.layout == "auto":
        columns = (asked.rank or asked.max_rank or FIRST_BLOCK) + asked.oversample
        needed = sketch_bytes(operator.n, columns, asked.power)
        if operator.layout.name == "rows" or fits_in_memory(operator.world, needed):
            return operator
    return operator.in_rows(asked.panel or PANEL)


class Dense:
    """The matrix itself, where a sketch would be as wide: exact, at n columns."""

    name = "dense"
    probes = None

    def __init__(self, operator: Operator, options: SketchOptions):
        self.operator, self.options = operator, options
        self.size = 0

    def width(self, sketch: int) -> int:
        """All columns, whatever is asked."""
        return self.operator.n

    columns = width

    def grow(self, columns: int) -> None:
        self.matrix = self.operator.to_dense()
        self.size = self.operator.n

    def approximation(self) -> Approximation:
        layout = self.operator.layout
        w, S = layout.eigenpairs(self.matrix)
        U = layout.local(S)
        return Approximation(w, U, layout, range_error=0.0, galerkin=True, estimator="exact")


def _choose(operator: Operator, asked: CompressionOptions, start: Factor | None):
    if start is not None:
        if asked.method not in ("auto", BlockKrylov.name):
            raise InputError(f"only method krylov starts from a factor, not {asked.method}")
        if start.n != operator.n:
            raise InputError(
                f"a factor of n = {start.n} does not fit an operator of n = {operator.n}"
            )
        return partial(BlockKrylov, start=start)
    if asked.method == "auto":
        given = (getattr(asked, name) for name in KRYLOV)
        return METHODS[default_method(operator.psd, asked.power, *given)]
    kind = METHODS[asked.method]
    if kind.needs_psd and not operator.psd:
        raise OperatorError(
            f"method {asked.method} needs a positive semidefinite operator and this one is not "
            "declared so; use method krylov or eigh"
        )
    return kind


def _sketch_rank(sketch, l: int):
    """The sketch for rank + oversample = l, and its approximation."""
    width = sketch.width(l)
    if min(width, (2 + sketch.options.power) * l) >= sketch.operator.n:
        sketch, width = Dense(sketch.operator, sketch.options), sketch.operator.n
    sketch.operator.world.ledger.expect(sketch.columns(l))
    return _grow(sketch, width)


def _grow(sketch, columns: int):
    """The sketch with `columns` more, and its approximation.

    Where the sketch would fill the space the matrix is assembled instead, and where a Nystrom core
    turns out negative its sketch becomes the range of an eigendecomposition.
    """
    if sketch.options.rank is None and sketch.size + columns >= sketch.operator.n:
        sketch = Dense(sketch.operator, sketch.options)
    sketch.grow(columns)
    try:
        return sketch, sketch.approximation()
    except NumericalError as error:
        log.warning("%s; continuing with method eigh on the same sketch", error)
        sketch = RandomizedEigh.on_range(sketch)
        return sketch, sketch.approximation()


def _grow_to_tolerance(sketch, tolerance, norm, max_rank):
    """Grow until the tolerance is met: on the sketch's own estimate, then on fresh probes.

    What is judged is the error of what would be returned, after the cut.
    """
    operator, options = sketch.operator, sketch.options
    ceiling = min(operator.n, sketch.width(min(operator.n, max_rank + options.oversample)))
    drawn, given = options.probe_count, None
    columns = min(FIRST_BLOCK, ceiling)
    while True:
        sketch, approximation = _grow(sketch, columns)
        exact = sketch.name == Dense.name
        if norm == "spectral" and sketch.probes is None and not exact:
            given = given or Probes.draw(operator, 0, options.probe_count, options.seed)
        own = None if exact else sketch.probes or given
        k, certificate = _cut(approximation, own, tolerance, norm, max_rank, operator.world)
        if certificate.converged and not exact:
            fresh = Probes.draw(operator, drawn, drawn + options.probe_count, options.seed)
            drawn += options.probe_count
            k, certificate = _cut(approximation, fresh, tolerance, norm, max_rank, operator.world)
        if certificate.converged or exact or sketch.size >= ceiling:
            return sketch, approximation, k, certificate
        columns = min(max(sketch.size // 2, 1), ceiling - sketch.size)


def _cut(approximation, probes, tolerance, norm, max_rank, world):
    """The smallest rank whose own certificate meets the tolerance, else the largest allowed."""
    errors = world.broadcast(approximation.errors(probes))  # ranks may round them apart
    w = approximation.eigenvalues
    met = errors.meet(tolerance, norm, np.abs(w).max(initial=0.0))[: max_rank + 1]
    converged = world.decide(met.any())
    k = world.broadcast(int(np.argmax(met)) if converged else len(met) - 1)
    return k, approximation.certified(k, errors, probes, converged)
