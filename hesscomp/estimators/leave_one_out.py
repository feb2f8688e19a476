"""A sketch from which any one column can be left out: the heart of XTrace and XDiag."""

from dataclasses import dataclass

import numpy as np

from hesscomp.estimators.exchangeable import pair_overlaps, pair_trace, without_diagonal
from hesscomp.operators.operator import Operator
from hesscomp.sketching.orthonormalize import orthonormalize


@dataclass(frozen=True)
class LeaveOneOut:
    """Y = H Omega = Q R, and what each column alone adds to its range.

    The range of Y without column i is Q (I - s_i s_i^T) Q^T, with s_i the normalised column i of
    R^-T (Epperly, Tropp and Webber 2024, on efficient implementation). Where the columns of Y are
    dependent to rounding, the others span what one of them spans, and every s_i is zero.

    Attributes
    ----------
    Omega, Y : (n, l) arrays
    Q : (n, r) array
        Orthonormal basis of Y's numerical range.
    R : (r, l) array
        Q^T Y.
    S : (r, l) array
        Column i is s_i.
    """

    Omega: np.ndarray
    Y: np.ndarray
    Q: np.ndarray
    R: np.ndarray
    S: np.ndarray

    @classmethod
    def draw(cls, operator: Operator, Omega: np.ndarray) -> "LeaveOneOut":
        """Sketch with (n, l) vectors; one block product of l columns."""
        world = operator.world
        Y = operator @ Omega
        Q = orthonormalize(Y, operator.layout)
        R = Q.T @ Y
        basis = world.on_root(_numerical_range, R, np.finfo(operator.dtype).eps)
        if basis.shape[1] < Omega.shape[1]:
            R = basis.T @ R
            return cls(Omega, Y, Q @ basis, R, np.zeros_like(R))
        return cls(Omega, Y, Q, R, world.on_root(_left_out_directions, R))

    def traces(self, core: np.ndarray, cross: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """Return leave-one-out and leave-two-out estimates of tr(A), from small matrices alone.

        Entry (j, j) of the result is tr(Q_j^T A Q_j) + (n - rank Q_j) mu^T A mu / ||mu||^2 with
        mu = (I - Q_j Q_j^T) omega_j: XTrace with the normalisation of the paper's section 2.3, for
        Omega uniform on the sphere. Entry (i, j) is the same of the sketch that
        never had column i. O(l^3) operations for all.

        Parameters
        ----------
        core, cross, squares : (r, r), (r, l) and (l,) arrays
            Q^T A Q, Q^T A Omega and the omega_i^T A omega_i of a symmetric A.

        Returns
        -------
        (l, l) array
            For `of_exchangeable`.
        """
        n, S, W = len(self.Q), self.S, self.Q.T @ self.Omega
        K, determinant = pair_overlaps(S.T @ S)
        N, E, P, U = S.T @ core @ S, S.T @ W, S.T @ cross, S.T @ (core @ W)
        own = np.diagonal
        # Q^T mu is W_j less its part in the span of s_i and s_j, which is a_i s_i + a_j s_j.
        a_i = (without_diagonal(E) - K * own(E)) / determinant
        a_j = (own(E) - K * E) / determinant
        lengths = n - np.sum(W**2, axis=0) + a_i * E + a_j * own(E)
        single = squares - 2 * np.sum(W * cross, axis=0) + np.sum(W * (core @ W), axis=0)
        residuals = single + 2 * (a_i * (P - U) + a_j * own(P - U))
        residuals += a_i**2 * own(N)[:, None] + a_j**2 * own(N) + 2 * a_i * a_j * N
        known = np.trace(core) - pair_trace(N, K, determinant)
        missing = np.sum(S**2, axis=0)  # 1, or 0 where the columns are dependent
        missing = missing + without_diagonal(np.tile(missing[:, None], len(missing)))
        return known + (n - self.Q.shape[1] + missing) * residuals / lengths


def _numerical_range(R: np.ndarray, precision: float) -> np.ndarray:
    """Return the left singular vectors of R whose singular values are above rounding."""
    U, s, _ = np.linalg.svd(R)
    return U[:, s > len(s) * precision * s[0]]


def _left_out_directions(R: np.ndarray) -> np.ndarray:
    directions = np.linalg.inv(R).T
    return directions / np.linalg.norm(directions, axis=0)
