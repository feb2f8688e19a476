"""A known operator that can be solved with, such as a prior's, in the place of a factor."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors.certificate import Certificate
from hesscomp.factors.factor import Inertia, LogDet
from hesscomp.factors.hierarchical import Elimination, Hierarchical
from hesscomp.factors.tree import Tree
from hesscomp.parallel.layout import Replicated

EXACT = Certificate(0.0, float("nan"), 0.0, estimator="exact", spectral_failure=0.0)
SAME = 1e-6  # how far products and solves may contradict each other, of their size


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Known(Hierarchical):
    """A symmetric positive definite operator that the user has, by its products and solves alone.

    The base of a `Structured` factor; `structured`, `compress_beside` and `compress_with_prior`
    make one of any object with a `shape`, ``@`` and `solve`. What else a factor can do is what the
    object offers: `diagonal` (and so the trace) by ``diagonal()``, `logdet` by ``logdet(shift)``,
    `inertia` by ``inertia(shift)``, with the same results; else InputError. It lives in memory:
    files and checkpoints refuse it.

    Attributes
    ----------
    matrix : object
        ``matrix @ V`` of an (n, j) array, whole on every rank; ``matrix.solve(b)`` of an (n,) one.
        Where `solve` has an argument `shift`, it solves (S + shift I) x = b.
    """

    matrix: Any

    kind = "known operator"
    arrays = MappingProxyType({})

    @classmethod
    def of(cls, matrix, world=None) -> Known:
        """Return the factor of an object with `shape`, ``@`` and `solve`. Collective.

        InputError unless it is square, symmetric and positive definite and its solves undo its
        products, as tried on two random vectors.
        """
        shape: tuple[int, ...] = tuple(getattr(matrix, "shape", ()))
        missing = [name for name in ("__matmul__", "solve") if not hasattr(matrix, name)]
        if missing or len(shape) != 2 or shape[0] != shape[1]:
            raise InputError(
                f"a known operator has a square `shape`, products (@) and `solve`; this "
                f"{type(matrix).__name__} has not, so take a SciPy sparse matrix or a factor"
            )
        made = cls(matrix=matrix, certificate=EXACT, layout=Replicated(int(shape[0]), world))
        made.check()
        return made

    def check(self) -> None:
        V = np.random.default_rng(0).standard_normal((self.n, 2))
        SV = self._product(V)
        forms = V.T @ SV
        if not abs(forms[0, 1] - forms[1, 0]) <= SAME * np.linalg.norm(SV):
            raise InputError("the known operator is not symmetric: u . S v is not v . S u")
        if not (np.diag(forms) > 0).all():
            raise InputError("the known operator is not positive definite: v . S v is not above 0")
        apart = np.linalg.norm(self._solve(SV, 0.0) - V) / np.linalg.norm(V)
        if not apart <= SAME:
            raise InputError(
                f"the `solve` of the known operator does not undo its products: a random vector "
                f"comes back with an error of {apart:.1g}"
            )

    @cached_property
    def tree(self) -> Tree:  # type: ignore[override]  # it is remembered
        """One leaf: rows are in the order of the parameters."""
        return Tree(np.arange(self.n), np.array([0, self.n]))

    @property
    def numbers(self) -> int:
        """None of its own."""
        return 0

    @property
    def extent(self) -> str:
        return f"a {type(self.matrix).__name__}"

    @property
    def is_blank(self) -> bool:
        return False

    @property
    def psd(self) -> bool:  # type: ignore[override]  # nothing sets it
        return True  # `check` refuses others

    def details(self, leading: int = 10) -> dict[str, str]:
        return {"known operator": type(self.matrix).__name__}

    def contents(self) -> dict[str, np.ndarray]:
        raise InputError(IN_MEMORY)

    def _product(self, X: np.ndarray) -> np.ndarray:
        return _checked(self.matrix @ X, X.shape, "product")

    def _tree_diagonal(self) -> np.ndarray:
        return _checked(self.offered("diagonal"), (self.n,), "diagonal")

    def logdet(self, shift: float) -> LogDet:
        return LogDet(*map(float, self.offered("logdet", shift)))

    def inertia(self, shift: float = 0.0, threshold: float | None = None) -> Inertia:
        """Return that of the object, which says itself what it counts as zero."""
        return self.offered("inertia", shift)

    def offered(self, name: str, *arguments):
        """Return what the object's method of this name does; InputError where it has none."""
        if not callable(method := getattr(self.matrix, name, None)):
            raise InputError(
                f"the known operator, a {type(self.matrix).__name__}, has no `{name}`, and it "
                "cannot be had from products and solves; give it that method"
            )
        return method(*arguments)

    def _eliminate(self, shift: float) -> Elimination:
        """Positive definite with a shift of at least 0; else as the object counts."""
        negative = zero = 0
        if shift < 0:
            counts = self.inertia(shift)
            negative, zero = counts.negative, counts.zero
        logabsdet = float("nan")  # `logdet` asks the object
        return Elimination(negative, zero, self.n - negative - zero, logabsdet, _At(self, shift))

    def _solve(self, B: np.ndarray, shift: float) -> np.ndarray:
        solve, about = self.matrix.solve, {}
        if "shift" in inspect.signature(solve).parameters:
            about = {"shift": shift}
        elif shift != 0:
            raise InputError(
                f"the `solve` of the known operator, a {type(self.matrix).__name__}, takes no "
                f"`shift`, and {shift:g} is asked for; write solve(b, shift), or ask with shift 0"
            )
        columns = [_checked(solve(b.copy(), **about), b.shape, "solution") for b in B.T]
        return np.stack(columns, axis=1) if columns else np.empty_like(B)


IN_MEMORY = (
    "a factor over a known operator cannot be stored: the operator is an object in memory; keep "
    "`vectors` and `weights`, and join them with it again by `structured`"
)


@dataclass(frozen=True)
class _At:
    """Solves with S + shift I."""

    known: Known
    shift: float

    def solve(self, B: np.ndarray) -> np.ndarray:
        return self.known._solve(B, self.shift)


def _checked(found, shape: tuple[int, ...], what: str) -> np.ndarray:
    out = np.asarray(found, dtype=np.float64)
    if out.shape != shape or not np.isfinite(out).all():
        raise InputError(
            f"a {what} of the known operator must be a finite array of shape {shape}, not one of "
            f"shape {out.shape}"
        )
    return out
