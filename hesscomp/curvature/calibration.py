"""What an operator's product takes, measured."""

import time
from dataclasses import dataclass

import numpy as np

from hesscomp.curvature.operator import Operator
from hesscomp.parallel.memory import peak_bytes, reset_peak, resident_bytes

LONG = 30.0  # seconds after which a product is not repeated
REPEATS = 3


@dataclass(frozen=True)
class ProductCost:
    """Of a block product, on the rank with the most.

    Attributes
    ----------
    seconds : float
    bytes : float
        Beside the program, the data, argument and result.
    """

    seconds: float
    bytes: float


def product_cost(operator: Operator, columns: int) -> ProductCost:
    """Time and memory of a product with this many columns, after a first that compiles. Collective.

    Costs up to four products, two where one takes more than half a minute.
    """
    world = operator.world
    V = np.ones((operator.layout.rows, columns))
    operator @ V
    before = resident_bytes()
    reset_peak()
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        operator @ V
        spent.append(time.perf_counter() - start)
        if world.decide(spent[-1] > LONG):
            break
    taken = max(peak_bytes() - before - V.nbytes, 0)
    return ProductCost(max(world.gather(float(np.median(spent)))), max(world.gather(taken)))
