"""XTrace: every random vector both sketches the range and probes the rest."""

import numpy as np

from hesscomp.estimators.exchangeable import of_exchangeable
from hesscomp.estimators.leave_one_out import LeaveOneOut
from hesscomp.estimators.results import Estimate
from hesscomp.estimators.vectors import sphere
from hesscomp.operators.operator import Operator

LEAST = 4  # columns that it needs: two vectors, twice


def xtrace(operator: Operator, columns: int, seed: int) -> Estimate:
    """Return tr(H) by XTrace (Epperly, Tropp and Webber 2024), normalised as in their section 2.3.

    With l = columns // 2 vectors it costs 2 l columns in two block products: n l words reduced,
    then l^2 (for a symmetric H the estimates need H Q only through Q^T H Q). Unbiased, and exact
    to rounding where l exceeds the rank of H. Collective.
    """
    l = columns // 2
    sketch = LeaveOneOut.draw(operator, sphere(operator.n, l, seed))
    core = operator.project(sketch.Q, sketch.Q)
    squares = np.sum(sketch.Omega * sketch.Y, axis=0)
    samples = operator.world.on_root(sketch.traces, (core + core.T) / 2, sketch.R, squares)
    return of_exchangeable(samples, "xtrace", 2 * l)
