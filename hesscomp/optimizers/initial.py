"""Starting points for networks."""

import numpy as np

from hesscomp.parallel import random
from hesscomp.problems.problem import ParameterBlock

INCOMING = 15  # connections that a unit keeps


def sparse_initial(
    blocks: tuple[ParameterBlock, ...], seed: int = 0, incoming: int = INCOMING
) -> np.ndarray:
    """Martens' sparse initialisation (2010, section 5): few, large incoming weights for each unit.

    Parameters
    ----------
    blocks : tuple of ParameterBlock
        Of two axes or more, the last counting the units: weights. Others (biases) stay zero.
    seed : int
        Names the numbers, whatever the number of ranks.
    incoming : int
        Standard normal weights of each unit, at places drawn without replacement; all other
        weights are zero. A unit with fewer inputs has them all.

    Returns
    -------
    (n,) array
    """
    x = np.zeros(sum(block.size for block in blocks))
    for block in (block for block in blocks if len(block.shape) > 1):
        span, units = (block.offset, block.offset + block.size), block.shape[-1]
        keys = random.uniform(seed, random.INITIAL_WEIGHTS, span, (0, 1)).reshape(-1, units)
        values = random.standard_normal(seed, random.INITIAL_WEIGHTS, span, (1, 2))
        places = np.argsort(keys, axis=0, kind="stable")[:incoming]
        weights = np.zeros_like(keys)
        chosen = np.take_along_axis(values.reshape(-1, units), places, axis=0)
        np.put_along_axis(weights, places, chosen, axis=0)
        x[span[0] : span[1]] = weights.reshape(-1)
    return x
