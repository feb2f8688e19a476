"""The interface of factors: an operator that can also be solved with, and says how good it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors.basis import EPS
from hesscomp.factors.certificate import UNKNOWN, Certificate
from hesscomp.factors.provenance import Provenance
from hesscomp.operators.operator import Operator
from hesscomp.parallel.layout import Layout, Replicated

if TYPE_CHECKING:
    from hesscomp.parallel.world import World


INVERSE_PANEL = 256  # unit vectors that are solved for at once


class LogDet(NamedTuple):
    """Sign and logarithm of the magnitude of a determinant, as `numpy.linalg.slogdet` gives."""

    sign: float
    logabsdet: float


@dataclass(frozen=True)
class Inertia:
    """Counts of negative, zero and positive eigenvalues: `zero` those of |w| <= `threshold`."""

    negative: int
    zero: int
    positive: int
    threshold: float


class Absent:
    """A quantity that only some kinds of factor hold; InputError where another kind is asked."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, factor: Factor | None, owner: type):
        if factor is None:  # a dataclass looks here for a default
            raise AttributeError(self.name)
        raise InputError(
            f"a {factor.kind} factor has no {self.name}; this needs a factor of another kind, such "
            "as low-rank"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Factor(Operator):
    """A symmetric matrix F that stands for an operator H, and what is known about H - F.

    A factor is an operator: products, sums, multiples and the SciPy view are `Operator`'s. Its
    products take no data, so they count nothing in the ledger.

    A kind is a frozen dataclass that declares its name `kind`, the shapes of its `arrays` and the
    abstract methods below, and that `factors.kinds` lists. Layouts, files and checkpoints follow
    from the arrays; the trace, norm, determinant and inertia follow from `_spectrum`, or are the
    kind's own. In the row layout all methods are collective.

    Attributes
    ----------
    certificate : Certificate
    provenance : Provenance
    parameters : (n,) array or None
        The point at which the operator was taken.
    blocks : tuple of (name, shape, offset)
        The named pieces of the parameter vector.
    layout : Layout
        Of the rows of the factor's own array and of the (n, j) arrays that methods take and give:
        all n of them (by default), or this rank's slab; then all ranks call the methods together.
    kind : str
        The name of the kind, in files too.
    arrays : mapping of str to tuple of str
        The fields that make the matrix, with their shapes by name, such as ``("n", "rank")``.
        Exactly one shape begins with "n"; in the row layout each rank holds its rows of that array,
        unless the kind is not `in_slabs`.
    in_slabs : bool
        Whether ranks share one array by rows in the row layout. Of other kinds every rank holds
        all arrays in either layout, or shares them in a way of its own (`Hodlr`); it takes and
        gives its own rows of blocks.
    integers : set of str
        Those of the arrays that hold whole numbers, as int64.
    has_eigenpairs : bool
        Whether `eigenvalues`, `eigenvectors` and `rank` can be read; else they raise InputError.
    is_diagonal : bool
        Whether F is known to be a diagonal matrix, so that `diagonal()` is all of it.
    has_tail : bool
        Whether a part of the spectrum is unresolved: `solve` then takes a value for it, `tail`,
        which `tail_value` turns into a number.
    """

    certificate: Certificate
    provenance: Provenance = field(default_factory=Provenance)
    parameters: np.ndarray | None = None
    blocks: tuple[tuple[str, tuple[int, ...], int], ...] = ()
    layout: Layout = None  # type: ignore[assignment]  # replicated, which takes n

    kind: ClassVar[str]
    arrays: ClassVar[Mapping[str, tuple[str, ...]]]
    in_slabs: ClassVar[bool] = True
    integers: ClassVar[frozenset[str]] = frozenset()
    has_eigenpairs: ClassVar[bool] = False
    is_diagonal: ClassVar[bool] = False
    has_tail: ClassVar[bool] = False
    passes = 0
    dtype = np.dtype(np.float64)
    eigenvalues = Absent()
    eigenvectors = Absent()
    rank = Absent()

    def __post_init__(self):
        if self.layout is None:
            rows = getattr(self, self.row_array())
            object.__setattr__(self, "layout", Replicated(len(rows)))

    def checked_change(self, B, c=None) -> tuple[np.ndarray, np.ndarray]:
        """Return B and c of a change B diag(c) B^T as (n, m) and (m,) arrays; c is 1 by default.

        InputError for shapes that do not fit and numbers that are not finite. Collective in rows.
        """
        B = self.checked(B)
        B = B[:, None] if B.ndim == 1 else B
        c = np.ones(B.shape[1]) if c is None else np.atleast_1d(np.asarray(c, dtype=np.float64))
        if c.shape != (B.shape[1],) or not np.isfinite(c).all():
            raise InputError(
                f"an update of {B.shape[1]} columns takes as many finite weights, not {c}"
            )
        if self.layout.any(not np.isfinite(B).all()):
            raise InputError("an update takes finite columns; B has entries that are not finite")
        return B, c

    @abstractmethod
    def solve(self, B: np.ndarray, shift: float) -> np.ndarray:
        """Solve (F + shift I) X = B for an (n,) or (n, j) array; InputError where it is singular.

        A kind with a tail takes ``tail`` too, and adds its value on the unresolved space.
        """

    def tail_value(self, tail: float | str) -> float:
        """Return the number that `solve` takes for unresolved eigenvalues; see `has_tail`."""
        raise InputError(
            f"a {self.kind} factor has no tail: it leaves nothing unresolved; leave `tail` out"
        )

    def _spectrum(self) -> np.ndarray:
        """Return the eigenvalues that the factor holds, on every rank; all others are zero.

        A kind that has none writes `psd`, `trace`, `norm`, `logdet` and `inertia` itself.
        """
        raise NotImplementedError(f"{type(self).__name__} holds no eigenvalues")

    @property
    def psd(self) -> bool:  # type: ignore[override]  # nothing sets it
        return bool(np.all(self._spectrum() >= 0))

    def trace(self) -> float:
        """Return the trace of F."""
        return float(np.sum(self._spectrum()))

    def norm(self) -> float:
        """Return the spectral norm of F, ||F||_2."""
        return float(np.abs(self._spectrum()).max(initial=0.0))

    def logdet(self, shift: float) -> LogDet:
        """Return the sign and log |det| of F + shift I; 0 and -inf where it is singular."""
        inside, outside = self._spectrum() + finite_shift(shift), float(shift)
        rest = self.n - len(inside)
        if not inside.all() or (rest and outside == 0):
            return LogDet(0.0, -np.inf)
        negative = np.count_nonzero(inside < 0) + rest * (outside < 0)
        logabsdet = np.sum(np.log(np.abs(inside)))
        if rest:
            logabsdet += rest * np.log(abs(outside))
        return LogDet(-1.0 if negative % 2 else 1.0, float(logabsdet))

    def inertia(self, shift: float = 0.0, threshold: float | None = None) -> Inertia:
        """Return how many eigenvalues of F + shift I are negative, zero and positive.

        Those of at most the `threshold` in magnitude count as zero. By default it is their
        rounding level: eps max |w|, times their number where they come from an eigenproblem.
        """
        w, outside = self._spectrum(), finite_shift(shift)
        inside, rest = w + outside, self.n - len(w)
        if threshold is None:
            count = len(w) if self.has_eigenpairs else 1
            threshold = float(count * EPS * np.abs(w).max(initial=0.0))
        below = int(np.count_nonzero(inside < -threshold) + rest * (outside < -threshold))
        above = int(np.count_nonzero(inside > threshold) + rest * (outside > threshold))
        return Inertia(below, self.n - below - above, above, threshold)

    def floor(self, shift: float) -> float:
        """Return the rounding level of F + shift I; a preconditioner divides by no less."""
        return EPS * max(self.norm() + abs(shift), 1e-300)

    @abstractmethod
    def diagonal(self) -> np.ndarray:
        """Return the diagonal of F: these rows of it."""

    def inverse_diagonal(self, shift: float, **tail) -> np.ndarray:
        """Return the diagonal of (F + shift I)^-1: these rows of it.

        Takes ``tail`` as `solve` does. n solves in blocks, unless a kind knows better.
        """
        layout, out = self.layout, np.empty(self.layout.rows)
        for first in range(0, self.n, INVERSE_PANEL):
            units = np.arange(first, min(first + INVERSE_PANEL, self.n))
            X = self.solve(layout.units(units), shift, **tail)
            here = (units >= layout.start) & (units < layout.stop)
            rows = units[here] - layout.start
            out[rows] = X[rows, np.flatnonzero(here)]
        return out

    @abstractmethod
    def quadratic_form(self, V: np.ndarray) -> np.ndarray | float:
        """Return v^T F v for each column of an (n, j) array, or for the (n,) array itself."""

    @abstractmethod
    def preconditioner(self, shift: float) -> Operator:
        """Return a positive definite approximation of (H + shift I)^-1, whatever the signs of F."""

    @property
    @abstractmethod
    def extent(self) -> str:
        """How much the factor holds, in words that follow "at", such as ``rank 40``."""

    @abstractmethod
    def details(self, leading: int = 10) -> dict[str, str]:
        """Return the factor's contents as texts by name, with `leading` numbers of each list."""

    def summary(self, leading: int = 10) -> str:
        """Return what the factor is, how it was made and what it holds, as lines to print.

        With `leading` numbers of each list. ``hesscomp inspect`` prints more of a file. Collective
        in the row layout.
        """
        source = self.provenance
        columns = f", {source.columns} product columns" if source.columns >= 0 else ""
        made = {"method": source.method + columns} if source.method else {}
        told = {"kind": self.kind, **self.outline(), **made, **self.details(leading)}
        width = max(map(len, told))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in told.items())

    # An operator's

    def outline(self) -> dict[str, str]:
        known = self.certificate
        error = f"{known.relative_error:.2g} ({known.estimator or 'unknown'})"
        if known.relative_error != known.relative_error:  # NaN
            error = "not measured"
        return {"n": f"{self.n:,}", "holds": self.extent, "relative error": error}

    __repr__ = Operator.__repr__  # not that of a dataclass

    @property
    def n(self) -> int:  # type: ignore[override]  # nothing sets it
        return self.layout.n

    @property
    def world(self) -> World | None:  # type: ignore[override]  # as above, and may be None
        """The ranks that hold the factor; None where one process read it."""
        return self.layout.world

    @property
    def name(self) -> str:
        return f"{self.kind} factor"

    def in_layout(self, layout: Layout) -> Self:
        """Return this factor in another layout. Collective where this one is in rows."""
        if layout.name == "rows" and self.layout.name == "rows":
            return self
        if not self.in_slabs:
            return replace(self, layout=layout)
        name = self.row_array()
        rows = getattr(self, name)
        held: Any = self._whole(rows) if layout.name == "replicated" else layout.local(rows)
        return replace(self, **{name: held}, layout=layout)

    def _whole(self, rows: np.ndarray) -> np.ndarray:
        """Return all n rows of an (n,) or (n, k) array."""
        return self.layout.whole(rows) if rows.ndim > 1 else self.layout.whole(rows[:, None])[:, 0]

    # A kind's arrays, for files and checkpoints

    @classmethod
    def row_array(cls) -> str:
        """Return the name of the array with n rows, of which each rank may hold its own."""
        return next(name for name, shape in cls.arrays.items() if shape[0] == "n")

    @classmethod
    def size_names(cls) -> list[str]:
        """Return the names in the shapes of the kind's arrays but for n, such as "rank"."""
        return sorted({name for shape in cls.arrays.values() for name in shape} - {"n"})

    def sizes(self) -> dict[str, int]:
        """Return the lengths that `size_names` names."""
        lengths: dict[str, int] = {}
        for name, shape in self.arrays.items():
            lengths |= zip(shape, getattr(self, name).shape, strict=True)
        return {name: lengths[name] for name in self.size_names()}

    @classmethod
    def most(cls, n: int) -> int:
        """Return the largest length that a file may claim for one of `sizes`."""
        return n

    @classmethod
    def shapes(cls, n: int, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the kind's arrays, from `sizes`."""
        lengths = {"n": n, **sizes}
        return {name: tuple(lengths[of] for of in shape) for name, shape in cls.arrays.items()}

    @classmethod
    def blank(cls, n: int) -> Self:
        """Return the zero factor that holds the least: what stands where no factor was made yet."""
        shapes = cls.shapes(n, dict.fromkeys(cls.size_names(), 0))
        arrays: dict[str, Any] = {
            name: np.zeros(shape, cls.array_type(name)) for name, shape in shapes.items()
        }
        return cls(**arrays, certificate=UNKNOWN)

    @classmethod
    def array_type(cls, name: str) -> type:
        """Return the type of the numbers of one of the arrays."""
        return np.int64 if name in cls.integers else np.float64

    def check(self) -> None:
        """Raise InputError where arrays that were read contradict each other."""

    @property
    def is_blank(self) -> bool:
        """Whether all that it holds is zero, as in `blank`."""
        return not any(getattr(self, name).any() for name in self.arrays.keys() - self.integers)

    def contents(self) -> dict[str, np.ndarray]:
        """Return the kind's arrays by name, all rows of them. Collective in the row layout."""
        whole = self.in_layout(Replicated(self.n, self.world))
        return {name: getattr(whole, name) for name in self.arrays}


def finite_shift(shift: float) -> float:
    """Return the shift as a float; InputError unless it is finite."""
    if not np.isfinite(shift):
        raise InputError(f"shift must be finite, not {shift}")
    return float(shift)


def scale_rows(scale: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return diag(scale) times an (n,) or (n, k) array."""
    return scale * block if block.ndim == 1 else scale[:, None] * block
