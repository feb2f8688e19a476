"""The diagonal factor: H ~ diag(d)."""

from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors.basis import EPS
from hesscomp.factors.certificate import UNKNOWN
from hesscomp.factors.factor import (
    Factor,
    Inertia,
    LogDet,
    finite_shift,
    rounding_level,
    scale_rows,
)


@dataclass(frozen=True, eq=False)
class Diagonal(Factor):
    """A symmetric operator's diagonal: n numbers, and every operation with them costs n.

    `estimators.diagonal_factor` makes one of an operator. It is the Jacobi preconditioner
    (`preconditioner`), and a scale of the parameters; as an approximation it is as good as the
    operator is diagonal, which its certificate says.

    Attributes
    ----------
    entries : (n,) float64 array
        The diagonal; in the row layout this rank's part of it.
    """

    entries: np.ndarray

    kind = "diagonal"
    arrays = MappingProxyType({"entries": ("n",)})

    @property
    def psd(self) -> bool:  # type: ignore[override]  # nothing sets it
        return bool(np.all(self._all() >= 0))

    @property
    def extent(self) -> str:
        return "the diagonal"

    def summary(self, leading: int = 10) -> dict[str, str]:
        d = self._all()
        largest = np.argsort(-np.abs(d), kind="stable")[:leading]
        return {
            "trace": f"{self.trace():.6g}",
            "largest entries": "  ".join(f"{d[i]:.4g} (parameter {i})" for i in largest),
            "negative entries": f"{np.count_nonzero(d < 0)} of {self.n}",
        }

    def _block(self, V: np.ndarray) -> np.ndarray:
        return scale_rows(self.entries, V)

    def solve(self, B: np.ndarray, shift: float) -> np.ndarray:
        """Solve (diag(d) + shift I) X = B for an (n,) or (n, j) array.

        Raises
        ------
        InputError
            If an entry of d + shift is 0, or the shapes do not fit.
        """
        B, shifted = self._checked(B), self.entries + finite_shift(shift)
        if self.layout.any(not shifted.all()):
            raise InputError(
                f"the factor with shift {shift:g} is singular: an entry of its diagonal is 0; take "
                "a larger shift"
            )
        return scale_rows(1 / shifted, B)

    def logdet(self, shift: float) -> LogDet:
        shifted = self._all() + finite_shift(shift)
        if not shifted.all():
            return LogDet(0.0, -np.inf)
        sign = -1.0 if np.count_nonzero(shifted < 0) % 2 else 1.0
        return LogDet(sign, float(np.sum(np.log(np.abs(shifted)))))

    def trace(self) -> float:
        return float(np.sum(self._all()))

    def diagonal(self) -> np.ndarray:
        return self.entries.copy()

    def norm(self) -> float:
        """Return the largest |d|."""
        return float(np.abs(self._all()).max(initial=0.0))

    def quadratic_form(self, V: np.ndarray) -> np.ndarray | float:
        V = self._checked(V)
        squares = (V if V.ndim > 1 else V[:, None]) ** 2
        form = self.layout.inner(self.entries[:, None], squares)[0]
        return form if V.ndim > 1 else float(form[0])

    def inertia(self, shift: float = 0.0, threshold: float | None = None) -> Inertia:
        """Return how many entries of d + shift are negative, zero and positive.

        Those of at most the `threshold` in magnitude count as zero; by default eps max |d|, the
        rounding level of one sum.
        """
        d = self._all()
        shifted = d + finite_shift(shift)
        if threshold is None:
            threshold = rounding_level(d, 1)
        below = int(np.count_nonzero(shifted < -threshold))
        above = int(np.count_nonzero(shifted > threshold))
        return Inertia(below, self.n - below - above, above, threshold)

    def preconditioner(self, shift: float) -> "Diagonal":
        """Return diag(1 / max(|d + shift|, floor)); floor is the largest entry's rounding level."""
        floor = EPS * max(self.norm() + abs(finite_shift(shift)), 1e-300)
        inverse = 1 / np.maximum(np.abs(self.entries + shift), floor)
        return replace(self, entries=inverse, certificate=UNKNOWN)

    def _all(self) -> np.ndarray:
        """Return all n entries, on every rank: as many words as the point has."""
        return self._whole(self.entries)
