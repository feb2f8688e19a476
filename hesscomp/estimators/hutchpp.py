"""Hutch++: the trace of a sketched range exactly, the rest by Hutchinson."""

import numpy as np

from hesscomp.estimators.results import Estimate
from hesscomp.estimators.vectors import signs
from hesscomp.operators.operator import Operator
from hesscomp.parallel import random
from hesscomp.sketching.orthonormalize import orthonormalize

LEAST = 4  # columns that it needs: one of the sketch twice, two probes


def hutchpp(operator: Operator, columns: int, seed: int) -> Estimate:
    """Return tr(H) by Meyer, Musco, Musco and Woodruff (2021), algorithm 1.

    tr(Q^T H Q) plus the mean of g^T (I - QQ^T) H (I - QQ^T) g. With l = columns // 3 columns of
    the sketch and columns - 2 l probes it costs `columns`, in two block products: n l words
    reduced, then (columns - l)^2. Unbiased; the standard error is that of the probes. Collective.
    """
    l = columns // 3
    sketch = operator @ signs(operator.n, l, seed, random.ESTIMATOR_SKETCH)
    Q = orthonormalize(sketch, operator.layout)
    probes = signs(operator.n, columns - 2 * l, seed)
    V = np.hstack([Q, probes - Q @ (Q.T @ probes)])
    products = np.diagonal(operator.project(V, V))
    return Estimate.of_samples(products[:l].sum() + products[l:], "hutch++", columns)
