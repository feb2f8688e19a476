"""Preconditioners: diagonal ones, and low-rank ones that live in an optimizer's state."""

from dataclasses import dataclass

import numpy as np

from hesscomp.compression import compress
from hesscomp.curvature.operator import Operator
from hesscomp.factors import LowRank
from hesscomp.factors.certificate import Certificate
from hesscomp.optimizers.batches import View
from hesscomp.optimizers.optimizer import State
from hesscomp.optimizers.upkeep import Upkeep
from hesscomp.problems.second_moment import gradient_second_moment

EXPONENT = 0.75
HORIZON = 5  # solves over which a new sketch must pay
UNKNOWN = Certificate(float("nan"), float("nan"))


@dataclass(frozen=True)
class Diagonal:
    """The inverse of a positive diagonal matrix."""

    values: np.ndarray

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        return v / (self.values if v.ndim == 1 else self.values[:, None])


def squared_gradients(batch: View, x: np.ndarray, shift: float) -> Diagonal:
    """diag(mean of squared per-example gradients + shift)^-0.75 (Martens 2010, section 4.7)."""
    return Diagonal((gradient_second_moment(batch.problem, x) + shift) ** EXPONENT)


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

    def start(self, n: int) -> State:
        return {
            "eigenvalues": np.zeros(0), "eigenvectors": np.zeros((n, 0)),
            "rate": 0.0, "fresh_rate": 0.0,
        }  # fmt: skip

    def current(self, operator: Operator, state: State, digits: float) -> tuple[LowRank, int]:
        """The factor that serves a solve to so many digits, and what its sketch took just now.

        In columns; 0 for the factor of the state.
        """
        upkeep = Upkeep(state["rate"], state["fresh_rate"])
        columns = min(self.rank + self.oversample, operator.n)
        old = not state["eigenvectors"].shape[1]
        if operator.world.decide(old or upkeep.refresh_pays(HORIZON * digits, columns)):
            factor = self.made(operator)
            return factor, factor.provenance.columns
        return LowRank(state["eigenvalues"], state["eigenvectors"], UNKNOWN), 0

    def made(self, operator: Operator) -> LowRank:
        """A new factor."""
        return compress(
            operator, self.rank, oversample=self.oversample, power=0, seed=self.seed,
            layout="replicated",
        )  # fmt: skip

    def kept(self, state: State, factor: LowRank, sketched: int, solve: tuple) -> State:
        """The state after a solve: (iterations, residual before, residual after)."""
        upkeep = Upkeep(state["rate"], state["fresh_rate"]).after(*solve, fresh=sketched > 0)
        return {
            "eigenvalues": factor.eigenvalues, "eigenvectors": factor.eigenvectors,
            "rate": float(upkeep.rate), "fresh_rate": float(upkeep.fresh_rate),
        }  # fmt: skip
