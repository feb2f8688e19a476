"""When a low-rank preconditioner is made again, and which one serves until then."""

from dataclasses import dataclass

import numpy as np

from hesscomp.compression import SketchOptions, compress
from hesscomp.factors import UNKNOWN, Factor, LowRank, from_contents
from hesscomp.operators.operator import Operator
from hesscomp.optimizers.optimizer import State

VECTOR_PENALTY = 6.0  # cost of a lone column against one in a wide block (memory, arithmetic)
HORIZON = 5  # solves over which a new sketch must pay, where nothing says when the run ends


@dataclass(frozen=True)
class RefreshPolicy:
    """A factor of a curvature operator, sketched again when that pays.

    The state keeps how the factor has served: `rate`, CG iterations for each digit of the residual
    in the last solve, and `fresh_rate`, those in the first solve with this factor. A new factor is
    made when the iterations that it is expected to save within the horizon, at `VECTOR_PENALTY`
    columns each, outweigh the columns of its sketch.

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
        SketchOptions(seed=self.seed, oversample=self.oversample)  # which refuses it

    def start(self, n: int) -> State:
        """Return the state before the first factor is made."""
        return {**LowRank.blank(n).contents(), "rate": 0.0, "fresh_rate": 0.0}

    def current(self, operator: Operator, state: State, horizon: float) -> tuple[Factor, int]:
        """Return the factor that serves the next solve, and the columns that were sketched for it.

        0 columns for the factor of the state. The horizon is the number of digits that are still to
        be solved for, in this solve and in later ones.
        """
        columns = min(self.rank + self.oversample, operator.n)
        saved = (state["rate"] - state["fresh_rate"]) * max(horizon, 0.0)
        kept = from_contents(state, UNKNOWN)
        if operator.world.decide(kept.is_blank or bool(saved * VECTOR_PENALTY > columns)):
            factor = self.made(operator)
            return factor, factor.provenance.columns
        return kept, 0

    def made(self, operator: Operator) -> Factor:
        """Return a new factor."""
        with operator.world.ledger.timed("compress"):
            return compress(
                operator, self.rank, oversample=self.oversample, power=0, seed=self.seed,
                layout="replicated",
            )  # fmt: skip

    def kept(self, state: State, factor: Factor, sketched: int, solve: tuple) -> State:
        """Return the state after a solve: (iterations, residual before, residual after)."""
        iterations, before, after = solve
        rate = float(iterations / max(np.log10(before / max(after, 1e-300)), 0.1))
        fresh_rate = rate if sketched else state["fresh_rate"]
        return {**factor.contents(), "rate": rate, "fresh_rate": fresh_rate}
