"""Lanczos from many start vectors at once, and the Gauss quadratures it gives."""

import numpy as np
import scipy.linalg

from hesscomp.operators.operator import Operator


class Lanczos:
    """k independent Lanczos recurrences that advance together, fully reorthogonalised.

    H V_p = V_p T_p + beta_p v_p e^T for each start vector p: k Krylov spaces, not one block Krylov
    space, so every T_p is tridiagonal (Golub and Van Loan, Matrix Computations, algorithm 10.1.1;
    classical Gram-Schmidt twice against all earlier vectors). A recurrence that has found an
    invariant subspace ends there, and its column leaves the block. Collective.

    Parameters
    ----------
    operator : Operator
    starts : (n, k) array
        Start vectors, nonzero, the same on all ranks; normalised here.
    steps : int
        Most steps that will be taken; at most n.

    Attributes
    ----------
    steps : int
        Steps taken so far.
    diagonals, off_diagonals : (k, limit) arrays
        Row p holds T_p's diagonal and the betas, zero from step ``lengths[p]`` on; the last beta is
        the residual's norm.
    lengths : (k,) int array
        Steps of each recurrence: less than `steps` where it has ended early.

    Notes
    -----
    A step is one block product of at most k columns, so one reduction of n k words; step j takes
    8 n k j operations to keep the bases orthogonal, which take n k steps numbers. Rank 0 decides.
    """

    def __init__(self, operator: Operator, starts: np.ndarray, steps: int):
        self.operator = operator
        self.steps = 0
        k = starts.shape[1]
        self._limit = min(steps, operator.n)
        self._bases = np.empty((k, self._limit, operator.n))
        self._next = (starts / np.linalg.norm(starts, axis=0)).T.copy()
        self._active = list(range(k))
        self.diagonals, self.off_diagonals = np.zeros((k, self._limit)), np.zeros((k, self._limit))
        self.lengths = np.zeros(k, dtype=int)

    @property
    def finished(self) -> bool:
        """Whether every recurrence has ended or reached the limit."""
        return not self._active or self.steps == self._limit

    @property
    def exhausted(self) -> bool:
        """Whether some recurrence has ended: its start vector's Krylov space is all found."""
        return len(self._active) < len(self.lengths)

    def advance(self) -> None:
        """Take one step of every recurrence that has not ended; one block product."""
        j, active = self.steps, self._active
        self._bases[active, j] = self._next
        images = np.array((self.operator @ self._next.T).T, order="C")  # a copy: changed below
        diagonal, beta = np.empty(len(active)), np.empty(len(active))
        for row, p in enumerate(active):
            diagonal[row], images[row] = _orthogonalize(images[row], self._bases[p, : j + 1])
            beta[row] = np.linalg.norm(images[row])
        diagonal, beta = self.operator.world.broadcast((diagonal, beta))
        self.diagonals[active, j], self.off_diagonals[active, j] = diagonal, beta
        self.lengths[active] = self.steps = j + 1
        reach = np.abs(self.diagonals[active]).max(axis=1) + self.off_diagonals[active].max(axis=1)
        alive = beta > 10 * np.finfo(self.operator.dtype).eps * reach
        self._next = images[alive] / beta[alive, None]
        self._active = [p for p, goes_on in zip(active, alive, strict=True) if goes_on]

    def ritz(self, steps: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (k, steps) nodes, weights and residuals, from the first `steps` steps or all.

        Nodes are the Ritz values, ascending, and weights the squared first components of their
        eigenvectors: each row is a Gauss quadrature whose weights sum to 1 (Golub and Welsch 1969).
        A recurrence that ended early repeats its last node with weight zero. Residuals are
        ||H u - w u|| of each Ritz pair.
        """
        cut = self.steps if steps is None else min(steps, self.steps)
        return tuple(
            self.operator.world.on_root(
                _ritz, self.diagonals, self.off_diagonals, np.minimum(self.lengths, cut), cut
            )
        )


def _orthogonalize(image: np.ndarray, basis: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the image's component along the last row of the basis, and its orthogonal part."""
    coordinates = basis @ image
    rest = image - coordinates @ basis
    rest -= (basis @ rest) @ basis
    return float(coordinates[-1]), rest


def _ritz(diagonals, betas, lengths, steps) -> np.ndarray:
    out = np.zeros((3, len(lengths), steps))
    for p, length in enumerate(lengths):
        w, S = scipy.linalg.eigh_tridiagonal(diagonals[p, :length], betas[p, : length - 1])
        out[0, p] = w[-1]
        out[:, p, :length] = w, S[0] ** 2, np.abs(betas[p, length - 1] * S[-1])
    return out
