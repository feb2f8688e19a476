"""The low-rank factor: H ~ U diag(w) U^T."""

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse.linalg

from hesscomp.errors import InputError
from hesscomp.factors.certificate import Certificate
from hesscomp.factors.provenance import Provenance


@dataclass(frozen=True)
class LowRank:
    """A symmetric operator's dominant eigenpairs, with what is known about the rest.

    Attributes
    ----------
    eigenvalues : (k,) float64 array
        Sorted by absolute value, largest first.
    eigenvectors : (n, k) array
        Orthonormal; column j belongs to eigenvalue j.
    certificate : Certificate
    provenance : Provenance
    parameters : (n,) array or None
        The point at which the operator was taken.
    blocks : tuple of (name, shape, offset)
        The named pieces of the parameter vector.
    """

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    certificate: Certificate
    provenance: Provenance = field(default_factory=Provenance)
    parameters: np.ndarray | None = None
    blocks: tuple[tuple[str, tuple[int, ...], int], ...] = ()

    @property
    def n(self) -> int:
        return self.eigenvectors.shape[0]

    @property
    def rank(self) -> int:
        return self.eigenvectors.shape[1]

    def __matmul__(self, V: np.ndarray) -> np.ndarray:
        """F V for an (n,) or (n, k) array; 4 n rank operations a column."""
        V = self._checked(V)
        return self.eigenvectors @ _scale_rows(self.eigenvalues, self.eigenvectors.T @ V)

    def solve(self, B: np.ndarray, shift: float, tail: float | str = "last") -> np.ndarray:
        """Solve (F + tail (I - U U^T) + shift I) X = B.

        Parameters
        ----------
        B : (n,) or (n, j) array
        shift : float
            Added to the diagonal: the ridge, or a damping.
        tail : {"last", "zero"} or float
            Value taken for all unresolved eigenvalues: the smallest |w| of the factor (an upper
            guess), zero, or a number.

        Raises
        ------
        InputError
            If the shifted factor is singular or the shapes do not fit.

        Notes
        -----
        4 n rank operations a column. Exact for the matrix above; as a stand-in for (H + shift I)
        it is as good as the tail is flat, and better used to precondition (`preconditioner`).
        """
        B = self._checked(B)
        rest = self.tail_value(tail) + shift
        inside = self.eigenvalues + shift
        if (rest == 0 and self.rank < self.n) or np.any(inside == 0):
            raise InputError(
                f"the factor with shift {shift:g} and tail {tail} is singular; take a larger shift"
            )
        outer = 0.0 if self.rank == self.n else 1 / rest
        return self._spectral(1 / inside, outer, B)

    def preconditioner(self, shift: float) -> "Preconditioner":
        """A positive definite approximation of (H + shift I)^-1, whatever the signs of w.

        Eigenvalues 1 / max(|w + shift|, floor) on the range and 1 / max(shift + |w_k|, floor) on
        its complement (Frangella, Tropp and Udell 2023, section 2.3, with absolute values), the
        floor being the rounding level of the largest.
        """
        magnitude = np.abs(self.eigenvalues)
        floor = np.finfo(np.float64).eps * max(magnitude.max(initial=0.0) + abs(shift), 1e-300)
        inside = 1 / np.maximum(np.abs(self.eigenvalues + shift), floor)
        outside = 1 / max(shift + magnitude.min(initial=np.inf if self.rank else 0.0), floor)
        return Preconditioner(self, inside, float(outside))

    def tail_value(self, tail: float | str) -> float:
        """The number that `solve` takes for the unresolved eigenvalues."""
        if tail == "zero":
            return 0.0
        if tail == "last":
            return float(abs(self.eigenvalues[-1])) if self.rank else 0.0
        return tail_number(tail)

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """F as a SciPy linear operator."""
        product = self.__matmul__
        return scipy.sparse.linalg.LinearOperator(
            (self.n, self.n), matvec=product, rmatvec=product, matmat=product, rmatmat=product,
            dtype=np.float64,
        )  # fmt: skip

    def _spectral(self, inside: np.ndarray, outside: float, B: np.ndarray) -> np.ndarray:
        """U diag(inside) U^T B + outside (I - U U^T) B."""
        coordinates = self.eigenvectors.T @ B
        return outside * B + self.eigenvectors @ _scale_rows(inside - outside, coordinates)

    def _checked(self, V) -> np.ndarray:
        V = np.asarray(V, dtype=np.float64)
        if V.ndim not in (1, 2) or V.shape[0] != self.n:
            raise InputError(
                f"a factor of n = {self.n} does not fit an array of shape {V.shape}; "
                f"pass ({self.n},) or ({self.n}, k)"
            )
        return V


@dataclass(frozen=True)
class Preconditioner:
    """An application of `LowRank.preconditioner`: ``M @ B``."""

    factor: LowRank
    inside: np.ndarray
    outside: float

    def __matmul__(self, B: np.ndarray) -> np.ndarray:
        return self.factor._spectral(self.inside, self.outside, B)


def tail_number(tail: float | str) -> float:
    """A tail given as a number, or InputError."""
    try:
        value = float(tail)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"tail must be last, zero or a number, not {tail!r}")
    return value


def _scale_rows(scale: np.ndarray, block: np.ndarray) -> np.ndarray:
    return scale * block if block.ndim == 1 else scale[:, None] * block
