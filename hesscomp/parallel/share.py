"""A rank's share of a stack of things that ranks can work on apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hesscomp.parallel.rows import row_ranges

if TYPE_CHECKING:
    from hesscomp.parallel.world import World


@dataclass(frozen=True)
class Share:
    """Which of a stack's entries a rank works on.

    Attributes
    ----------
    own : slice
    gathered : callable
        Returns what all ranks found, a stack, from what each found for its own entries. Collective.
    """

    own: slice
    gathered: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of(cls, count: int, world: World | None) -> Share:
        """Return this rank's share of `count` entries: a run of them, perhaps an empty one."""
        if world is None or world.size == 1:
            return WHOLE
        ends = row_ranges(count, world.size)
        counts = [last - first for first, last in ends]
        return cls(slice(*ends[world.rank]), lambda stack: world.gather_rows(stack, counts))


WHOLE = Share(slice(None), lambda stack: stack)
