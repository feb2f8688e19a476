"""The low-rank factor: H ~ U diag(w) U^T, its functions and its arithmetic."""

from dataclasses import dataclass, replace
from numbers import Real
from types import MappingProxyType
from typing import Self

import numpy as np

from hesscomp.dense import LA, SA
from hesscomp.errors import InputError
from hesscomp.factors.basis import EPS, complete
from hesscomp.factors.certificate import NAN, UNKNOWN, Certificate
from hesscomp.factors.factor import Factor, finite_shift, scale_rows
from hesscomp.operators.operator import Operator
from hesscomp.parallel import random


@dataclass(frozen=True, eq=False, repr=False)
class LowRank(Factor):
    """A symmetric operator's leading eigenpairs, with what is known about the rest.

    Factors of this kind add, subtract and take multiples: ``F + G``, ``F - G``, ``2 * F``.
    Functions of F + shift I are exact on all of the space: on the complement of U, F is zero.

    Attributes
    ----------
    eigenvalues : (k,) float64 array
        The leading first: by absolute value or, where one end of the spectrum was compressed
        (`Certificate.one_end`), from that end.
    eigenvectors : (n, k) array
        Orthonormal; column j belongs to eigenvalue j.
    """

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray

    kind = "low-rank"
    arrays = MappingProxyType({"eigenvalues": ("rank",), "eigenvectors": ("n", "rank")})
    has_eigenpairs = True
    has_tail = True

    @property
    def rank(self) -> int:
        return self.eigenvectors.shape[1]

    @property
    def extent(self) -> str:
        ends = {LA: " of the largest eigenvalues", SA: " of the smallest eigenvalues"}
        end = ends.get(self.provenance.which, "") if self.certificate.one_end else ""
        return f"rank {self.rank}{end}"

    def details(self, leading: int = 10) -> dict[str, str]:
        values = "  ".join(f"{value:.4g}" for value in self.eigenvalues[:leading])
        more = f"  ... {self.eigenvalues[-1]:.4g}" if self.rank > leading else ""
        return {"rank": f"{self.rank}", "eigenvalues": values + more}

    def block_product(self, V: np.ndarray) -> np.ndarray:
        """Return the product, at 4 n rank operations a column."""
        coordinates = scale_rows(self.eigenvalues, self.layout.inner(self.eigenvectors, V))
        return self.layout.combine(self.eigenvectors, coordinates)

    def __add__(self, other: Operator) -> Operator:
        """Return F + G as one factor; error estimates add, eigenvalues that cancel are dropped.

        It keeps the provenance, point and blocks as far as the two agree on them. Costs are those
        of `update` with the eigenvectors of G. The sum with another operator is an operator.
        """
        if not isinstance(other, LowRank):
            return super().__add__(other)
        if self.n != other.n:
            raise InputError(f"factors of n = {self.n} and n = {other.n} do not add")
        w, U = self._joined(other.in_layout(self.layout).eigenvectors, other.eigenvalues)
        mine, others = self.parameters, other.parameters
        known = mine is not None and others is not None and np.array_equal(mine, others)
        return self._made(
            "sum",
            w,
            self.certificate.plus(other.certificate, w),
            eigenvectors=U,
            provenance=self.provenance.shared(other.provenance),
            parameters=mine if known else None,
            blocks=self.blocks if self.blocks == other.blocks else (),
        )

    def __mul__(self, number: float) -> Self:
        """Return number F, a factor of number H. The eigenvectors are shared, not copied."""
        if not isinstance(number, Real):
            return NotImplemented
        number = float(number)
        if not np.isfinite(number):
            raise InputError(f"a factor can be multiplied by finite numbers only, not {number}")
        which = self.provenance.which
        if number < 0:  # which turns the spectrum round
            which = {LA: SA, SA: LA}.get(which, which)
        return replace(
            self,
            eigenvalues=number * self.eigenvalues,
            certificate=self.certificate.scaled(number),
            provenance=replace(self.provenance.derived("multiple"), ridge=NAN, which=which),
        )

    __rmul__ = __mul__

    def solve(self, B: np.ndarray, shift: float, tail: float | str = "last") -> np.ndarray:
        """Solve (F + tail (I - U U^T) + shift I) X = B.

        Parameters
        ----------
        B : (n,) or (n, j) array
        shift : float
            Added to the diagonal: the ridge, or a damping.
        tail : {"last", "zero"} or float
            Value taken for all unresolved eigenvalues: the smallest |w| of the factor (an upper
            guess), zero, or a number. Of a factor of one end there is no "last": it would say
            nothing about the other end.

        Raises
        ------
        InputError
            If the shifted factor is singular or the shapes do not fit.

        Notes
        -----
        4 n rank operations a column. Exact for the matrix above. It approximates the solution with
        H + shift I only if the tail is flat; else use `preconditioner` in an iterative solver.
        """
        B = self.checked(B)
        rest = self.tail_value(tail) + shift
        inside = self.eigenvalues + shift
        if (rest == 0 and self.rank < self.n) or np.any(inside == 0):
            raise self._singular(shift, tail)
        outer = 0.0 if self.rank == self.n else 1 / rest
        return self._spectral(1 / inside, outer, B)

    def _singular(self, shift: float, tail: float | str) -> InputError:
        return InputError(
            f"the factor with shift {shift:g} and tail {tail} is singular; take a larger shift"
        )

    def sqrt(self, V: np.ndarray, shift: float = 0.0) -> np.ndarray:
        """Return (F + shift I)^(1/2) V, the symmetric root, for an (n,) or (n, j) array.

        Eigenvalues that are negative only by rounding (see `inertia`) count as zero; InputError
        where others are negative, or the shapes do not fit. 4 n rank operations a column.
        """
        inside, outside = self._definite(shift, zeros=True)
        return self._spectral(
            np.sqrt(np.maximum(inside, 0.0)), np.sqrt(max(outside, 0.0)), self.checked(V)
        )

    def inverse_sqrt(self, V: np.ndarray, shift: float) -> np.ndarray:
        """Return (F + shift I)^(-1/2) V, the symmetric root, for an (n,) or (n, j) array.

        InputError unless F + shift I is positive definite and the shapes fit. 4 n rank operations
        a column.
        """
        inside, outside = self._definite(shift, zeros=False)
        outer = 0.0 if self.rank == self.n else 1 / np.sqrt(outside)
        return self._spectral(1 / np.sqrt(inside), outer, self.checked(V))

    def sample(self, count: int, shift: float, seed: int = 0) -> np.ndarray:
        """Return independent draws from the normal law of mean 0 and covariance (F + shift I)^-1.

        Parameters
        ----------
        count : int
            Draws, the columns of the (n, count) result; a larger count only adds draws.
        shift : float
            InputError unless F + shift I is positive definite: above 0 unless F has full rank.
        seed : int
            Determines the draws, whatever the number of ranks.
        """
        if count < 1:
            raise InputError(f"the number of samples must be at least 1, not {count}")
        rows = self.layout.start, self.layout.stop
        normals = random.standard_normal(seed, random.FACTOR_SAMPLES, rows, (0, count))
        return self.inverse_sqrt(normals, shift)

    def diagonal(self) -> np.ndarray:
        """Return the (n,) diagonal of F; 2 n rank operations, no further array of that size."""
        U = self.eigenvectors
        return np.einsum("ij,ij,j->i", U, U, self.eigenvalues)

    def inverse_diagonal(  # type: ignore[override]  # as `solve` has
        self, shift: float, tail: float | str = "last"
    ) -> np.ndarray:
        """Return the diagonal of (F + tail (I - U U^T) + shift I)^-1; 2 n rank operations."""
        squares, outside = self.eigenvectors**2, self.tail_value(tail) + finite_shift(shift)
        inside = self.eigenvalues + shift
        if (outside == 0 and self.rank < self.n) or np.any(inside == 0):
            raise self._singular(shift, tail)
        outer = 0.0 if self.rank == self.n else 1 / outside
        return outer + squares @ (1 / inside - outer)

    def quadratic_form(self, V: np.ndarray) -> np.ndarray | float:
        return self.eigenvalues @ self.layout.inner(self.eigenvectors, self.checked(V)) ** 2

    def positive(self) -> Self:
        """Return |F|: the same eigenvectors with absolute eigenvalues.

        Newton steps with |F| + shift I leave saddle points downhill (Dauphin and others 2014).
        """
        w = np.abs(self.eigenvalues)
        return self._made("absolute value", w, self.certificate.absolute())

    def update(
        self,
        B: np.ndarray,
        c: np.ndarray | None = None,
        *,
        rank: int | None = None,
        tolerance: float | None = None,
    ) -> Self:
        """Return F + B diag(c) B^T as one factor, cut to a rank or a tolerance if one is given.

        Parameters
        ----------
        B : (n,) or (n, m) array
        c : (m,) array, optional
            Of either sign; ones by default.
        rank, tolerance
            As in `truncate`; without either, all but the eigenvalues that cancel to rounding stay.

        Returns
        -------
        LowRank
            Of at most rank + m eigenpairs. Its certificate takes B diag(c) B^T as exactly the
            change of H: the error is that of F, and of what is cut.

        Raises
        ------
        InputError
            For shapes that do not fit and numbers that are not finite.

        Notes
        -----
        An eigenproblem of order k + m for rank k (Brand 2006), about 16 n m (k + m) +
        2 n (k + m)^2 operations and two (n, k + m) arrays.
        """
        B, c = self.checked_change(B, c)
        w, U = self._joined(B, c)
        whole = self._made("update", w, self.certificate.updated(w), eigenvectors=U)
        if rank is None and tolerance is None:
            return whole
        return whole.truncate(rank, tolerance)

    def downdate(self, B: np.ndarray, c: np.ndarray | None = None, **options) -> Self:
        """Return F - B diag(c) B^T; see `update`."""
        return self.update(B, -np.ones(np.shape(B)[1:]) if c is None else -np.asarray(c), **options)

    def truncate(self, rank: int | None = None, tolerance: float | None = None) -> Self:
        """Return the leading eigenpairs: `rank` of them, or the fewest that meet the tolerance.

        InputError unless exactly one of the two is given, and is in range.

        Parameters
        ----------
        rank : int, optional
            All are kept where it is above the factor's.
        tolerance : float, optional
            Of the estimated ||H - F||_F / ||H||_F, what F itself misses included.

        Returns
        -------
        LowRank
            Its certificate adds what is dropped: in squares for Ritz pairs, else its norm
            (`Certificate.by_rank`). ``converged`` says whether that meets the tolerance; one that F
            misses already keeps all and is not converged.
        """
        if (rank is None) == (tolerance is None):
            raise InputError("truncate takes either a rank or a tolerance")
        known, w, k, converged = self.certificate, self.eigenvalues, self.rank, True
        if rank is not None:
            if rank < 1:
                raise InputError(f"rank must be at least 1, not {rank}")
            k = min(rank, k)
        if tolerance is not None:
            if not 0 < tolerance < 1:
                raise InputError(f"tolerance must be between 0 and 1, not {tolerance}")
            met = known.by_rank(w).meet(tolerance, "frobenius", self.norm())
            converged = bool(met.any())
            k = int(np.argmax(met)) if converged else k
        return replace(
            self,
            eigenvalues=w[:k].copy(),
            eigenvectors=np.ascontiguousarray(self.eigenvectors[:, :k]),
            certificate=replace(known.truncated(w, k), converged=converged),
            provenance=replace(
                self.provenance,
                rank_requested=-1 if rank is None else rank,
                tolerance_requested=NAN if tolerance is None else tolerance,
                tolerance_norm="" if tolerance is None else "frobenius",
            ),
        )

    def preconditioner(self, shift: float) -> Operator:
        """Return a positive definite approximation of (H + shift I)^-1, whatever the signs of w.

        Eigenvalues 1 / max(|w + shift|, floor) on the range and 1 / max(shift + |w_k|, floor) on
        its complement (Frangella, Tropp and Udell 2023, section 2.3, with absolute values), the
        floor being the rounding level of the largest.
        """
        floor, smallest = self.floor(shift), self._last()
        inside = 1 / np.maximum(np.abs(self.eigenvalues + shift), floor)
        outside = 1 / max(shift + smallest, floor)
        scaled = replace(self, eigenvalues=inside - outside, certificate=UNKNOWN)
        return scaled.shifted(float(outside))

    def tail_value(self, tail: float | str) -> float:
        if tail == "zero":
            return 0.0
        if tail == "last":
            if self.certificate.one_end:
                raise InputError(
                    f"a factor of {self.extent} says nothing of the others; give `tail` a number, "
                    "or zero"
                )
            return self._last()
        return tail_number(tail)

    def _last(self) -> float:
        """Return the |w| of the last eigenvalue; 0 where there is none."""
        return float(abs(self.eigenvalues[-1])) if self.rank else 0.0

    def _spectrum(self) -> np.ndarray:
        return self.eigenvalues

    def _joined(self, B: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return eigenpairs of F + B diag(c) B^T but for those at its rounding level.

        The eigenproblem is that of the joint basis of U and B; no n x n matrix is made.
        """
        B = B * np.sqrt(np.abs(c))  # so that directions are kept or left by what they weigh
        basis = np.hstack([self.eigenvectors, complete(self.eigenvectors, B, self.layout)])
        if not basis.shape[1]:
            return np.zeros(0), basis
        X = self.layout.inner(basis, B)
        T = (X * np.sign(c)) @ X.T
        T[np.diag_indices(self.rank)] += self.eigenvalues
        w, S = self.layout.eigenpairs(T)
        size = self.norm() + np.sum(X**2)
        k = np.count_nonzero(np.abs(w) > len(w) * EPS * size)
        return w[:k], self.layout.combine(basis, S[:, :k])

    def _made(self, how: str, w: np.ndarray, certificate: Certificate, **others) -> Self:
        """Return a factor made from this one; `how` joins its method, w are its eigenvalues.

        It is converged only if its own certificate meets the tolerance that was requested: the sum
        of two factors that meet one need not meet it.
        """
        made = replace(self, eigenvalues=w, certificate=certificate, **others)
        asked = made.provenance
        if not np.isnan(asked.tolerance_requested):
            met = certificate.by_rank(w).meet(
                asked.tolerance_requested, asked.tolerance_norm, made.norm()
            )
            certificate = replace(certificate, converged=certificate.converged and bool(met[-1]))
        return replace(made, certificate=certificate, provenance=asked.derived(how))

    def _spectral(self, inside: np.ndarray, outside: float, B: np.ndarray) -> np.ndarray:
        """Return U diag(inside) U^T B + outside (I - U U^T) B."""
        U, layout = self.eigenvectors, self.layout
        return outside * B + layout.combine(U, scale_rows(inside - outside, layout.inner(U, B)))

    def _definite(self, shift: float, zeros: bool) -> tuple[np.ndarray, float]:
        """Return the eigenvalues of F + shift I on the range of U and on its complement.

        InputError unless all are positive; with `zeros` some may be zero.
        """
        inside, outside = self.eigenvalues + finite_shift(shift), float(shift)
        counts = self.inertia(shift)
        if counts.negative or (counts.zero and not zeros):
            least = inside.min(initial=outside if self.rank < self.n else np.inf)
            need = "semidefinite" if zeros else "definite"
            raise InputError(
                f"the factor with shift {shift:g} is not positive {need}: its smallest eigenvalue "
                f"is {least:.3g}; take a larger shift, or positive() for absolute eigenvalues"
            )
        return inside, outside


def tail_number(tail: float | str) -> float:
    """Return the number that a tail is, or that a text says; InputError for any other."""
    try:
        value = float(tail)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"tail must be last, zero or a number, not {tail!r}")
    return value
