"""What an operator's product takes, measured."""

import time
from dataclasses import dataclass

import numpy as np

from hesscomp.operators.operator import Operator
from hesscomp.parallel.resources import peak_bytes, reset_peak, resident_bytes

LONG = 20.0  # seconds that a product may take by what one column took, and all repeats together
REPEATS = 3
LARGEST = 2.0**30  # bytes of the block that is multiplied


@dataclass(frozen=True)
class ProductCost:
    """The cost of a block product on the most expensive rank."""

    columns: int  # of the block that was multiplied
    seconds: float
    bytes: float  # beside the program, the data, argument and result


def product_cost(operator: Operator, columns: int) -> ProductCost:
    """Measure time and memory of a product with so many columns, or fewer if slow. Collective.

    Takes less than two minutes, compiling aside; where one column takes more than 20 seconds, two
    products of it.
    """
    world, rows = operator.world, operator.layout.rows
    one = _cost(operator, 1)
    fits = min(LONG / max(one.seconds, 1e-9), LARGEST / (8 * max(rows, 1)), columns)
    width = min(world.gather(int(fits)))
    return _cost(operator, width) if width > 1 else one


def _cost(operator: Operator, columns: int) -> ProductCost:
    """From some products after a first."""
    world, V = operator.world, np.ones((operator.layout.rows, columns))
    operator @ V
    before = resident_bytes()
    reset_peak()
    spent: list[float] = []
    while len(spent) < REPEATS and not world.decide(sum(spent) > LONG):
        start = time.perf_counter()
        operator @ V
        spent.append(time.perf_counter() - start)
    taken = max(peak_bytes() - before - V.nbytes, 0)
    seconds = float(np.median(spent))
    return ProductCost(columns, max(world.gather(seconds)), max(world.gather(taken)))
