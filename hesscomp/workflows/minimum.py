"""Whether a fit that has ended is near a minimum, or on its way to infinity."""

import copy
import logging
from typing import TYPE_CHECKING

import numpy as np

from hesscomp.errors import NumericalError, some
from hesscomp.optimizers.options import NewtonOptions
from hesscomp.parallel.ledger import Ledger

if TYPE_CHECKING:
    from hesscomp.datasets import Dataset
    from hesscomp.optimizers.newton import NewtonResult
    from hesscomp.problems.linear import GeneralizedLinearModel

log = logging.getLogger(__name__)

MOVED = 0.3  # of a row's predictor by one more step, from which on there is probably no minimum
GROWN = 0.01  # of a coefficient in that step
ROUNDING = 1e-9  # of the largest coefficient: less tells nothing
TINY = 1e-300  # a tolerance that no gradient meets


def warn_without_minimum(
    problem: "GeneralizedLinearModel", dataset: "Dataset", result: "NewtonResult"
) -> None:
    """Warn where a fit without a ridge has no minimum, or probably none. Collective.

    Where the classes can be separated but for rows on the border, or all rows of a level have the
    same target, the loss falls for ever along some direction, and so slowly that the gradient
    reaches any tolerance. Newton's step then still moves predictors by about 1, however small the
    gradient is; near a minimum it hardly moves them. So one more step is made, and thrown away:
    it costs what a step costs, which is not counted in the run's ledger.
    """
    problem.warn_without_minimum(result.x)
    if problem.ridge or not result.converged:
        return
    from hesscomp.optimizers.newton import newton
    from hesscomp.problems.linear import Classifier

    if isinstance(problem, Classifier) and problem.accuracy(result.x, dataset.train) == 1:
        return  # of which the problem has warned
    apart = copy.copy(problem)
    apart.world = problem.world.with_ledger(Ledger())
    options = NewtonOptions(solver="pcg", max_iterations=1, tolerance=TINY)
    try:
        further = newton(apart, result.x, options).x
    except NumericalError:  # of all ranks: no step can be made, which tells nothing
        return
    change = np.abs(apart.margins(further).numpy() - apart.margins(result.x).numpy())
    (moved,) = apart.world.max(np.array([change.max(initial=0.0)]))
    if moved < MOVED:
        return
    names = problem.coefficient_names(dataset)
    least = GROWN * np.abs(result.x) + ROUNDING * np.abs(result.x).max()
    grown = np.flatnonzero(np.abs(further - result.x) > least)
    if problem.world.rank == 0:
        log.warning(
            "%s: probably no minimum without a ridge: a further step moves the predictors of some "
            "rows by %.2g, small as the gradient is, as where the classes can be separated but for "
            "rows on the border, or all rows of a level have the same target. %s: where the run "
            "ended, not estimates; set a ridge",
            dataset.name, moved, some([names[i] for i in grown]) if len(grown) else "Coefficients",
        )  # fmt: skip
