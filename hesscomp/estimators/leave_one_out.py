"""Estimates that leave out one random vector at a time, and their standard errors."""

from dataclasses import dataclass

import numpy as np

from hesscomp.estimators.sampling import Estimate, standard_error
from hesscomp.operators.operator import Operator
from hesscomp.sketching.orthonormalize import orthonormalize

# Pairs of left-out columns whose directions agree to this are treated as if they agreed no better.
SMALLEST_DETERMINANT = 1e-10


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
        Omega uniform on the sphere. Entry (i, j) is the same of the sketch that never had column
        i. The (l, l) array is for `of_exchangeable`; O(l^3) operations.

        Parameters
        ----------
        core, cross, squares : (r, r), (r, l) and (l,) arrays
            Q^T A Q, Q^T A Omega and the omega_i^T A omega_i of a symmetric A.
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


def of_exchangeable(estimates: np.ndarray, method: str, columns: int) -> Estimate:
    """Return the mean of leave-one-out estimates, with the jackknife's standard error.

    Epperly, Tropp and Webber (2024) take the spread of the leave-one-out estimates. It ignores
    that they share all but one of their vectors, as its authors warn: we have seen it three times
    too small (exponential decay, XNysTrace). The jackknife compares the whole estimator with
    itself without vector i, and needs no further products. Its variance is not too small on
    average (Efron and Stein 1981; for matrix computations Epperly and Tropp 2024, "Efficient error
    and variance estimation for randomized matrix computations"). But it is that of an estimator
    with one vector less: we have seen it up to twice too large where the spectrum decays slowly,
    and up to nine times where one vector less matters.

    Parameters
    ----------
    estimates : (l, l) array
        Entry (j, j): estimate j. Entry (i, j): the same, made without vector i.
    """
    l = len(estimates)
    replicates = np.sum(without_diagonal(estimates), axis=1) / (l - 1)
    error = np.sqrt((l - 1) / l * np.sum((replicates - replicates.mean()) ** 2))
    spread = float(standard_error(np.diagonal(estimates)))
    value = float(np.trace(estimates)) / l
    return Estimate.of_error(value, float(error), method, columns, l, spread)


def without_diagonal(matrix: np.ndarray) -> np.ndarray:
    """Return the matrix with zeros on its diagonal."""
    return matrix - np.diag(np.diagonal(matrix))


def pair_overlaps(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return inner products of pairs of unit vectors, and the pairs' Gram determinants.

    On the diagonal stand 0 and 1: a vector paired with none.
    """
    overlaps = without_diagonal(gram)
    return overlaps, np.maximum(1 - overlaps**2, SMALLEST_DETERMINANT)


def pair_trace(core: np.ndarray, overlaps: np.ndarray, determinant: np.ndarray) -> np.ndarray:
    """Return tr(K_II^-1 core_II) for all pairs I = {i, j}, K being their Gram matrix."""
    own = np.diagonal(core)
    others = without_diagonal(np.tile(own[:, None], len(own)))
    return (others + own - 2 * overlaps * core) / determinant
