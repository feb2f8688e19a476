"""`sensitivity`: how a minimum depends on its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hesscomp.api import as_point
from hesscomp.errors import InputError
from hesscomp.factors import Factor

if TYPE_CHECKING:
    import os

    import numpy as np

    from hesscomp.influence.result import Sensitivity
    from hesscomp.problems.problem import Problem


def sensitivity(
    problem: Problem, x: np.ndarray | str | os.PathLike | None = None,
    factor: Factor | None = None, *, test=None, target=None, **options,
) -> Sensitivity:  # fmt: skip
    """Return how a minimum, and what it predicts, depends on the weights and values of its data.

    Which rows made a test loss what it is, which rows would move the parameters, what a column or
    the ridge does: derivatives by dx*/dt = -H^-1 d_t grad f, solved by CG to a stated residual.

    Parameters
    ----------
    problem : Problem
        A `KerasProblem`, `FunctionProblem`, or a linear model such as `LogisticRegression`.
    x : (n,) array, str or path, optional
        A minimum of the objective; or a name or file as in `hessian`, by default the model's
        weights. How far it is from a minimum is in the result, and warned of.
    factor : Factor, optional
        A factor of any kind of the Hessian or Gauss-Newton matrix at x: the preconditioner of the
        solves, and the inverse in `leverage` and `laplace`. By default one is made.
    test : Dataset, or (X, y), optional
        Rows whose mean loss is the target: a data set's test rows, or each rank's own.
    target : (n,) or (n, j) array, optional
        Gradients of functions of x that are targets too: a unit vector for a coefficient.
    **options
        Of `SensitivityOptions`: `operator` ("hessian" or "ggn"), `test_rows` (each a target),
        `leading` (rows whose own gradients are solved for), `leverage`, `by_data`, `laplace`,
        `tolerance`, `max_iterations`, `damping`, `gradient_limit`, `dispersion`, `tail`, `seed`.

    Returns
    -------
    Sensitivity
        `influence` (m, k), `chosen` rows and their `parameters` (n, c), `residuals` of all solves,
        `gradient_norm`, `statistics`, `laplace`. `plot` draws it. Collective.

    Raises
    ------
    InputError
        At a point of negative curvature, where no minimum is (take ``operator="ggn"`` or a
        `damping`), and where options do not go together.

    Examples
    --------
    >>> import hesscomp as hc
    >>> data = hc.load_data("adult", dtype="float64")
    >>> problem = hc.LogisticRegression(data, ridge=1e-3, dtype="float64")
    >>> result = hc.sensitivity(problem, hc.newton(problem).x, test=data)
    >>> result.influence.shape, result.converged, result.stationary
    ((32561, 1), True, True)
    """
    from hesscomp.influence.sensitivity import sensitivity as find
    from hesscomp.problems.problem import Problem

    if not isinstance(problem, Problem):
        raise InputError(
            f"sensitivity takes a problem, not {type(problem).__name__}; make one of the model or "
            "the data, such as KerasProblem(model, loss, (X, y)) or LogisticRegression(dataset)"
        )
    return find(problem, as_point(problem, x), factor, test=test, target=target, **options)
