"""Compress an operator to a certified factor."""

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from hesscomp.compression.approximation import Approximation, Probes
from hesscomp.compression.eigh import AdaptiveEigh, PowerEigh, RandomizedEigh
from hesscomp.compression.krylov import BlockKrylov
from hesscomp.compression.method import Method
from hesscomp.compression.nystrom import IndefiniteNystrom, Nystrom, RangeNystrom
from hesscomp.compression.one_pass import OnePass
from hesscomp.compression.options import SketchOptions, default_method, end_taken
from hesscomp.compression.svd import DirectSvd, RowEigh, RowSvd
from hesscomp.dense import LM, WHICH
from hesscomp.errors import InputError, NumericalError, OperatorError
from hesscomp.factors.factor import Factor
from hesscomp.factors.lowrank import LowRank
from hesscomp.factors.provenance import NAN, metered
from hesscomp.operators.operator import Operator
from hesscomp.options import option, refuse
from hesscomp.parallel.layout import PANEL
from hesscomp.parallel.resources import fits_in_memory, sketch_bytes

log = logging.getLogger(__name__)

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        *(BlockKrylov, RandomizedEigh, AdaptiveEigh, Nystrom, RangeNystrom, IndefiniteNystrom),
        *(OnePass, DirectSvd, RowEigh, RowSvd, PowerEigh),
    )
}
FROBENIUS = "frobenius"
RANK = 40  # of who asks for neither a rank nor a tolerance
KRYLOV = ("block", "max_columns", "max_basis", "residual_tolerance")  # that method's own
FIRST_BLOCK = 16  # columns of an adaptive sketch at first; it then grows by half


@dataclass(frozen=True, kw_only=True)
class FactorOptions(SketchOptions):
    """How to sketch, and by which method."""

    # Pairs of other methods are judged by `residual_tolerance` too, but none works towards it.
    krylov_alone: ClassVar[tuple[str, ...]] = KRYLOV[:-1]

    method: str = option(
        "auto", choices=("auto", *METHODS), advanced=True, help="compression algorithm"
    )

    def _check(self) -> None:
        super()._check()
        if self.method not in ("auto", BlockKrylov.name):
            refuse(self, self.krylov_alone, f"`method` {self.method}; take {BlockKrylov.name}")


@dataclass(frozen=True, kw_only=True)
class CompressionOptions(FactorOptions):
    """The options of `compress`."""

    which: str = option(
        LM, choices=WHICH,
        help="the eigenvalues: LM, of largest magnitude, or one end of the spectrum: LA, the "
        "largest, or SA, the smallest (most negative)",
    )  # fmt: skip
    rank: int | None = option(
        None, low=1, metavar="K", one_of="size",
        help=f"number of eigenpairs; default: {RANK} unless a tolerance is given",
    )  # fmt: skip
    tolerance: float | None = option(
        None, above=0, below=1, metavar="T", one_of="size",
        help="take the smallest rank with ||H - F|| <= T ||H||",
    )  # fmt: skip
    tolerance_norm: str | None = option(
        None, choices=(FROBENIUS, "spectral"), advanced=True,
        help=f"norm of `tolerance`; default: {FROBENIUS}",
    )  # fmt: skip
    max_rank: int | None = option(
        None, low=1, metavar="K", help="largest rank for `tolerance`; default: n"
    )

    def run_identity(self, part: type) -> dict[str, object]:
        return super().run_identity(part) | {"tolerance_norm": self.norm}

    @property
    def norm(self) -> str:
        """The norm of the tolerance."""
        return self.tolerance_norm or FROBENIUS

    def _check(self) -> None:
        super()._check()
        if self.rank is None and self.tolerance is None:
            raise InputError("neither `rank` nor `tolerance`; give one of them")
        if self.tolerance is None:
            refuse(self, ("max_rank", "tolerance_norm"), "a `rank`; they are for a `tolerance`")
        elif self.which != LM:
            raise InputError(
                f"`which` {self.which} takes a `rank`, not a `tolerance`: eigenvalues of one end "
                f"do not approximate H; give a `rank`, or leave out `which`"
            )
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
        rank that meets it. Fresh probes judge the factor as it is returned: its certificate says
        ``converged=True`` exactly where it meets the tolerance (`ErrorsByRank.meet`).
        Where `max_rank` does not suffice the factor has that rank and ``converged=False``.
    start : Factor, optional
        With krylov (which "auto" then takes): a factor of a nearby operator, such as of the same
        loss some steps of training before. Its range is worth a product: by default a third of the
        columns are saved (power 1), at equal error where the operators are near, and nothing but
        them is lost where they are not.
    **options
        The other fields of `CompressionOptions`: `which`, `method`, `oversample` (10), `power` (1),
        `seed`, `test_matrix`, `probe_count` (8), `layout`, `panel`; with a tolerance `max_rank` and
        `tolerance_norm`; of krylov `block`, `max_columns`, `max_basis`, `residual_tolerance`.

        `method`: "auto" or a name in `METHODS`, whose classes say what they do and cost. "auto"
        takes nystrom for operators declared semidefinite, and krylov for others, for more than one
        power step (the same products give krylov higher powers) and with an option of krylov.
        Where the sketch would be as wide as the matrix (under "auto": would cost as many products)
        the matrix is assembled instead, and the factor's method is "dense".

        `which`: "LM", the eigenvalues of largest magnitude, or those of one end of the spectrum:
        "LA", the largest, or "SA", the smallest, with a `rank` and by krylov (as "auto" does),
        eigh, adaptive or power. Such a factor does not approximate H: its certificate says so
        (``one_end``), its errors measure all that it leaves out, and its residual norms how good
        the eigenpairs are. The largest of an operator declared semidefinite are those of largest
        magnitude, and are taken as "LM".

        `layout`: "auto" takes rows where the operator has them already, or where a replicated
        sketch would need more than half of the memory that a rank has. With a tolerance that is
        judged by `max_rank`: name that, or the layout, where the rank may grow large.

    Returns
    -------
    LowRank
        With certificate and the provenance of method and costs; its eigenvectors in the layout
        (`LowRank.layout`). The result does not depend on the number of ranks.

    Raises
    ------
    InputError
        For arguments out of range.
    OperatorError
        For a method that needs a positive semidefinite operator, if this one is not declared so,
        and for one that cannot take one end of the spectrum.

    Notes
    -----
    For l = rank + oversample, eigh costs (2 + power) l + probes product columns, krylov at most as
    many, nystrom (1 + power) l (+ probes with power steps or a test matrix that is not Gaussian).
    Memory 5 n l numbers at most; krylov (4 + power) n l, or as little as 2 n l with `max_basis`; in
    the row layout a P-th of that on each of P ranks, and two or three (n, panel) arrays.
    """
    asked = CompressionOptions(rank=rank, tolerance=tolerance, **options)
    asked = replace(asked, which=end_taken(asked.which, operator.psd))
    operator = in_layout(operator, asked)
    made = metered(operator)
    sketch = _method(operator, asked, start)
    if rank is None:
        sketch, approximation, k, certificate = _grow_to_tolerance(sketch, asked)
    else:
        k, l = min(rank, operator.n), min(rank + asked.oversample, operator.n)
        sketch, approximation = _sketch_rank(sketch, l, asked.method == "auto")
        certificate = approximation.certificate(k, sketch.probes)
        certificate = replace(certificate, one_end=asked.which != LM and k < operator.n)
    factor = LowRank(
        approximation.eigenvalues[:k].copy(),
        np.ascontiguousarray(approximation.eigenvectors[:, :k]),
        certificate=certificate,
        provenance=made(
            method=sketch.name,
            which=asked.which,
            rank_requested=-1 if rank is None else rank,
            tolerance_requested=NAN if tolerance is None else tolerance,
            tolerance_norm="" if tolerance is None else asked.norm,
            residual_tolerance=NAN if certificate.residual_norms is None else asked.accuracy,
            oversample=asked.oversample,
            power=sketch.options.power,
            seed=asked.seed,
        ),
        layout=operator.layout,
    )
    return operator.describe(factor)


def in_layout(operator: Operator, asked: CompressionOptions) -> Operator:
    """The operator in the layout asked for, or in the one that fits into memory."""
    if asked.layout == "replicated":
        return operator.replicated()
    if asked.layout == "auto":
        columns = (asked.rank or asked.max_rank or FIRST_BLOCK) + asked.oversample
        needed = sketch_bytes(operator.n, columns, asked.power)
        if operator.layout.name == "rows" or fits_in_memory(operator.world, needed):
            return operator
    return operator.in_rows(asked.panel or PANEL)


class Dense(Method):
    """The matrix itself, where a sketch would be as wide: exact, at n columns."""

    name = "dense"

    def width(self, sketch: int) -> int:
        return self.operator.n

    columns = width

    def grow(self, columns: int) -> None:
        self.matrix, self.size = self.operator.to_dense(), self.operator.n

    def approximation(self) -> Approximation:
        layout = self.operator.layout
        w, S = layout.eigenpairs(self.matrix, self.options.which)
        norms = layout.on_root(_residual_norms, self.matrix, w, S)
        allowed = self.options.accuracy * float(np.abs(w).max(initial=0.0))
        return Approximation(
            w, layout.local(S), layout, range_error=0.0, galerkin=True, estimator="exact",
            residual_norms=norms, residual_allowed=allowed,
        )  # fmt: skip


def _residual_norms(A: np.ndarray, w: np.ndarray, S: np.ndarray) -> np.ndarray:
    return np.linalg.norm(A @ S - S * w, axis=0)


def _method(operator: Operator, asked: CompressionOptions, start: Factor | None) -> Method:
    """Return the method that was asked for, with an empty sketch."""
    name = asked.method
    if start is not None:
        if name not in ("auto", BlockKrylov.name):
            raise InputError(f"only method krylov starts from a factor, not {name}")
        if start.n != operator.n:
            raise InputError(
                f"a factor of n = {start.n} does not fit an operator of n = {operator.n}"
            )
        return BlockKrylov(operator, asked, start)
    if name == "auto":
        given = (getattr(asked, each) for each in KRYLOV)
        name = default_method(operator.psd, asked.power, asked.which, *given)
    if METHODS[name].needs_psd and not operator.psd:
        raise OperatorError(
            f"method {name} needs a positive semidefinite operator and this one is not "
            "declared so; use method krylov or eigh"
        )
    if asked.which != LM and not METHODS[name].takes_ends:
        raise OperatorError(
            f"method {name} takes the eigenvalues of largest magnitude alone, not `which` "
            f"{asked.which}; use method krylov"
        )
    return METHODS[name](operator, asked)


def _sketch_rank(sketch, l: int, auto: bool):
    """Return the sketch for rank + oversample = l, and its approximation.

    Where the sketch would be as wide as the matrix, or `auto` as dear, the matrix is assembled.
    """
    n, power = sketch.operator.n, sketch.options.power
    if (auto and sketch.columns(l) >= n) or min(sketch.width(l), (2 + power) * l) >= n:
        sketch = Dense(sketch.operator, sketch.options)
    sketch.operator.world.ledger.expect(sketch.columns(l))
    return _grow(sketch, sketch.width(l))


def _grow(sketch, columns: int):
    """Return the sketch with `columns` more, and its approximation.

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
        sketch = RandomizedEigh.on_range(sketch, sketch.Y)
        return sketch, sketch.approximation()


def _grow_to_tolerance(sketch, asked: CompressionOptions):
    """Grow until the tolerance is met: on the sketch's own estimate, then on fresh probes.

    What is judged is the error of what would be returned, after the cut.
    """
    operator, world, count = sketch.operator, sketch.operator.world, asked.probe_count
    largest = min(operator.n, (asked.max_rank or operator.n) + asked.oversample)
    ceiling = min(operator.n, sketch.width(largest))
    drawn, given = count, None
    columns = min(FIRST_BLOCK, ceiling)
    while True:
        sketch, approximation = _grow(sketch, columns)
        exact = sketch.name == Dense.name
        if asked.norm == "spectral" and sketch.probes is None and not exact:
            given = given or Probes.draw(operator, 0, count, asked.seed)
        own = None if exact else sketch.probes or given
        k, certificate = _cut(world, approximation, own, asked)
        if certificate.converged and not exact:
            fresh = Probes.draw(operator, drawn, drawn + count, asked.seed)
            drawn += count
            k, certificate = _cut(world, approximation, fresh, asked)
        if certificate.converged or exact or sketch.size >= ceiling:
            return sketch, approximation, k, certificate
        columns = min(max(sketch.size // 2, 1), ceiling - sketch.size)


def _cut(world, approximation: Approximation, probes, asked):
    """Return the smallest rank whose own certificate meets the tolerance, else the largest."""
    w = approximation.eigenvalues
    errors = world.broadcast(approximation.errors(probes))  # ranks may round them apart
    met = errors.meet(asked.tolerance, asked.norm, np.abs(w).max(initial=0.0))
    met = met[: (asked.max_rank or len(w)) + 1]
    converged = world.decide(met.any())
    k = world.broadcast(int(np.argmax(met)) if converged else len(met) - 1)
    return k, approximation.certificate(k, probes, errors, converged)
