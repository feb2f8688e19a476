"""Preconditioners that are made in every step: diagonal, and by Kronecker factors."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from hesscomp.factors import UNKNOWN, Diagonal
from hesscomp.optimizers.batches import View

EXPONENT = 0.75
TINY = 1e-30  # for the mean eigenvalue of a layer that nothing depends on


def squared_gradients(batch: View, x: np.ndarray, shift: float) -> Diagonal:
    """diag(mean of squared per-example gradients + shift)^-0.75 (Martens 2010, section 4.7)."""
    moments = batch.problem.squared_gradients(x) + shift
    return Diagonal(moments**-EXPONENT, certificate=UNKNOWN)


@dataclass(frozen=True)
class Kronecker:
    """The inverse of a block diagonal matrix, the block of a layer A x S.

    Attributes
    ----------
    inverses : list of (a, a) and (s, s) arrays
        Of each layer's A and S.
    """

    inverses: list[tuple[np.ndarray, ...]]

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        out, start = np.empty_like(v), 0
        for A, S in self.inverses:
            part = slice(start, start + len(A) * len(S))
            V = v[part].reshape(len(A), len(S)).astype(A.dtype)
            out[part] = (A @ V @ S).reshape(-1)
            start = part.stop
        return out


def kronecker(batch: View, x: np.ndarray, shift: float, seed: int) -> Kronecker:
    """(A + pi gamma I)^-1 x (S + gamma / pi I)^-1 for each layer, gamma^2 = shift.

    pi^2 is the ratio of the mean eigenvalues of A and S (Martens and Grosse 2015, section 6.3).
    Memory: the factors, twice; inverses cost a third of a cubed and of s cubed, on each rank.
    """
    problem, gamma, inverses = batch.problem, np.sqrt(shift), []
    for A, S in problem.kronecker_factors(x, seed):
        means = [max(np.trace(part) / len(part), TINY) for part in (A, S)]
        pi = np.sqrt(means[0] / means[1])
        damped = ((A, pi * gamma), (S, gamma / pi))
        inverses.append(tuple(_inverse(M, d).astype(problem.dtype) for M, d in damped))
    return Kronecker(inverses)


def _inverse(M: np.ndarray, shift: float) -> np.ndarray:
    """(M + shift I)^-1 of a positive semidefinite matrix."""
    return scipy.linalg.inv(M + shift * np.eye(len(M)), assume_a="pos")
