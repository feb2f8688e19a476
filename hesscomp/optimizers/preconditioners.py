"""Preconditioners: diagonal, by Kronecker factors, and low-rank ones of an optimizer's state."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from hesscomp.compression import SketchOptions, blank_factor, compress
from hesscomp.factors import UNKNOWN, Diagonal, Factor, from_contents
from hesscomp.operators.operator import Operator
from hesscomp.optimizers.batches import View
from hesscomp.optimizers.optimizer import State
from hesscomp.optimizers.upkeep import Upkeep
from hesscomp.problems.kronecker import kronecker_factors
from hesscomp.problems.second_moment import gradient_second_moment

EXPONENT = 0.75
HORIZON = 5  # solves over which a new sketch must pay
TINY = 1e-30  # for the mean eigenvalue of a layer that nothing depends on


def squared_gradients(batch: View, x: np.ndarray, shift: float) -> Diagonal:
    """diag(mean of squared per-example gradients + shift)^-0.75 (Martens 2010, section 4.7)."""
    moments = gradient_second_moment(batch.problem, x) + shift
    return Diagonal(moments**-EXPONENT, certificate=UNKNOWN)


@dataclass(frozen=True)
class Kronecker:
    """The inverse of a block diagonal matrix, the block of a layer A x S.

    Attributes
    ----------
    inverses : list of (a, a) and (s, s) arrays
        Of each layer's A and S.
    """

    inverses: list[tuple[np.ndarray, np.ndarray]]

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
    for A, S in kronecker_factors(problem, x, seed):
        means = [max(np.trace(part) / len(part), TINY) for part in (A, S)]
        pi = np.sqrt(means[0] / means[1])
        damped = ((A, pi * gamma), (S, gamma / pi))
        inverses.append(tuple(_inverse(M, d).astype(problem.dtype) for M, d in damped))
    return Kronecker(inverses)


def _inverse(M: np.ndarray, shift: float) -> np.ndarray:
    """(M + shift I)^-1 of a positive semidefinite matrix."""
    return scipy.linalg.inv(M + shift * np.eye(len(M)), assume_a="pos")


@dataclass(frozen=True)
class FactorPolicy:
    """A factor of a curvature operator, made anew when that pays (`Upkeep`, over five solves).

    Attributes
    ----------
    rank, oversample, seed : int
        Of `compress`; sketched without power steps: Nystrom where the operator is semidefinite,
        block Krylov elsewhere.
    """

    rank: int
    oversample: int = 10
    seed: int = 0

    def validate(self) -> None:
        """Raise InputError for a value out of range."""
        SketchOptions(
            seed=self.seed, oversample=self.oversample
        )  # which refuses what is out of range

    def start(self, n: int) -> State:
        return {**blank_factor(n).contents(), "rate": 0.0, "fresh_rate": 0.0}

    def current(self, operator: Operator, state: State, digits: float) -> tuple[Factor, int]:
        """The factor that serves a solve to so many digits, and what its sketch took just now.

        In columns; 0 for the factor of the state.
        """
        upkeep = Upkeep(state["rate"], state["fresh_rate"])
        columns = min(self.rank + self.oversample, operator.n)
        kept = from_contents(state, UNKNOWN)
        pays = kept.is_blank or upkeep.refresh_pays(HORIZON * digits, columns)
        if operator.world.decide(pays):
            factor = self.made(operator)
            return factor, factor.provenance.columns
        return kept, 0

    def made(self, operator: Operator) -> Factor:
        """A new factor."""
        return compress(
            operator, self.rank, oversample=self.oversample, power=0, seed=self.seed,
            layout="replicated",
        )  # fmt: skip

    def kept(self, state: State, factor: Factor, sketched: int, solve: tuple) -> State:
        """The state after a solve: (iterations, residual before, residual after)."""
        upkeep = Upkeep(state["rate"], state["fresh_rate"]).after(*solve, fresh=sketched > 0)
        return {
            **factor.contents(),
            "rate": float(upkeep.rate),
            "fresh_rate": float(upkeep.fresh_rate),
        }
