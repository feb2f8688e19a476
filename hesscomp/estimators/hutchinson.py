"""The trace as a mean of quadratic forms."""

import numpy as np

from hesscomp.estimators.results import Estimate
from hesscomp.estimators.vectors import signs
from hesscomp.operators.operator import Operator

LEAST = 2  # columns that it needs


def hutchinson(operator: Operator, columns: int, seed: int) -> Estimate:
    """Return tr(H) as the mean of omega^T H omega over random signs (Girard 1987; Hutchinson 1990).

    Unbiased, with variance 2 (||H||_F^2 - sum of h_ii^2) / columns. One block product, which
    reduces columns^2 words. Collective.
    """
    Omega = signs(operator.n, columns, seed)
    samples = np.diagonal(operator.project(Omega, Omega))
    return Estimate.of_samples(samples, "hutchinson", columns)
