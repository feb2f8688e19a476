"""The diagonal factor: H ~ diag(d)."""

from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors.certificate import UNKNOWN
from hesscomp.factors.factor import Factor, finite_shift, scale_rows


@dataclass(frozen=True, eq=False, repr=False)
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
    is_diagonal = True
    arrays = MappingProxyType({"entries": ("n",)})

    @property
    def extent(self) -> str:
        return "the diagonal"

    def details(self, leading: int = 10) -> dict[str, str]:
        d = self._spectrum()
        largest = np.argsort(-np.abs(d), kind="stable")[:leading]
        return {
            "trace": f"{self.trace():.6g}",
            "largest entries": "  ".join(f"{d[i]:.4g} (parameter {i})" for i in largest),
            "negative entries": f"{np.count_nonzero(d < 0)} of {self.n}",
        }

    def block_product(self, V: np.ndarray) -> np.ndarray:
        return scale_rows(self.entries, V)

    def solve(self, B: np.ndarray, shift: float) -> np.ndarray:
        """Solve (diag(d) + shift I) X = B for an (n,) or (n, j) array.

        Raises
        ------
        InputError
            If an entry of d + shift is 0, or the shapes do not fit.
        """
        B = self.checked(B)
        return scale_rows(self.inverse_diagonal(shift), B)

    def inverse_diagonal(self, shift: float) -> np.ndarray:  # type: ignore[override]  # no tail
        """Return 1 / (d + shift); InputError where an entry of d + shift is 0."""
        shifted = self.entries + finite_shift(shift)
        if self.layout.any(not shifted.all()):
            raise InputError(
                f"the factor with shift {shift:g} is singular: an entry of its diagonal is 0; take "
                "a larger shift"
            )
        return 1 / shifted

    def diagonal(self) -> np.ndarray:
        return self.entries.copy()

    def quadratic_form(self, V: np.ndarray) -> np.ndarray | float:
        V = self.checked(V)
        squares = (V if V.ndim > 1 else V[:, None]) ** 2
        form = self.layout.inner(self.entries[:, None], squares)[0]
        return form if V.ndim > 1 else float(form[0])

    def preconditioner(self, shift: float) -> "Diagonal":
        """Return diag(1 / max(|d + shift|, floor)); floor is the largest entry's rounding level."""
        inverse = 1 / np.maximum(np.abs(self.entries + finite_shift(shift)), self.floor(shift))
        return replace(self, entries=inverse, certificate=UNKNOWN)

    def _spectrum(self) -> np.ndarray:
        return self._whole(self.entries)  # as many words as the point has
