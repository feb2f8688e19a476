"""When a low-rank preconditioner is worth a new sketch."""

from dataclasses import dataclass

import numpy as np

VECTOR_PENALTY = 6.0  # cost of a lone column against one in a wide block (memory, arithmetic)


@dataclass(frozen=True)
class Upkeep:
    """How a preconditioner has served: CG iterations for each digit of the residual.

    The rule: a factor is made anew when the iterations that a fresh one is expected to save, at
    `VECTOR_PENALTY` columns each, outweigh the columns of its sketch.

    Attributes
    ----------
    rate, fresh_rate : float
        In the last solve, and in the first one with the present factor.
    """

    rate: float = 0.0
    fresh_rate: float = 0.0

    def refresh_pays(self, digits: float, columns: int) -> bool:
        """Whether a sketch of so many columns pays, with so many digits still to be solved for."""
        saved = (self.rate - self.fresh_rate) * max(digits, 0.0)
        return bool(saved * VECTOR_PENALTY > columns)

    def after(self, iterations: int, before: float, residual: float, fresh: bool) -> "Upkeep":
        """The record after a solve that took the residual's norm from `before` to `residual`."""
        rate = iterations / max(np.log10(before / max(residual, 1e-300)), 0.1)
        return Upkeep(rate, rate if fresh else self.fresh_rate)
