"""A sketch from which any one column can be left out: the heart of XTrace and XDiag."""

from dataclasses import dataclass

import numpy as np

from hesscomp.curvature.operator import Operator
from hesscomp.sketching.orthonormalize import orthonormalize


@dataclass(frozen=True)
class LeaveOneOut:
    """Y = H Omega = Q R, and what each column alone adds to its range.

    The range of Y without column i is Q (I - s_i s_i^T) Q^T, with s_i the normalised column i of
    R^-T (Epperly, Tropp and Webber 2024, section 2.1 and appendix A). Where the columns of Y are
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
        Q = orthonormalize(Y, world)
        R = Q.T @ Y
        basis = world.on_root(_numerical_range, R, np.finfo(operator.dtype).eps)
        if basis.shape[1] < Omega.shape[1]:
            R = basis.T @ R
            return cls(Omega, Y, Q @ basis, R, np.zeros_like(R))
        return cls(Omega, Y, Q, R, world.on_root(_left_out_directions, R))

    def traces(self, core: np.ndarray, cross: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """The l leave-one-out estimates of tr(A), from small matrices alone.

        tr(Q_i^T A Q_i) + (n - rank Q_i) mu^T A mu / ||mu||^2 with mu = (I - Q_i Q_i^T) omega_i:
        equation (2.3) of the paper with the normalisation of its section 2.3, for Omega uniform
        on the sphere.

        Parameters
        ----------
        core, cross, squares : (r, r), (r, l) and (l,) arrays
            Q^T A Q, Q^T A Omega and the omega_i^T A omega_i of a symmetric A.
        """
        n, l = self.Omega.shape
        W = self.Q.T @ self.Omega
        inside = W - self.S * np.sum(self.S * W, axis=0)  # Q^T Q_i Q_i^T omega_i
        left_out = np.sum(self.S**2, axis=0)  # 1, or 0 where the columns are dependent
        lengths = n - np.sum(inside**2, axis=0)
        residuals = squares - 2 * np.sum(inside * cross, axis=0)
        residuals += np.sum(inside * (core @ inside), axis=0)
        known = np.trace(core) - np.sum(self.S * (core @ self.S), axis=0)
        return known + (n - self.Q.shape[1] + left_out) * residuals / lengths


def _numerical_range(R: np.ndarray, precision: float) -> np.ndarray:
    """Left singular vectors of R whose singular values are above rounding."""
    U, s, _ = np.linalg.svd(R)
    return U[:, s > len(s) * precision * s[0]]


def _left_out_directions(R: np.ndarray) -> np.ndarray:
    directions = np.linalg.inv(R).T
    return directions / np.linalg.norm(directions, axis=0)
