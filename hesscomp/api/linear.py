"""Fitted linear models with their statistics, from Python."""

from __future__ import annotations

import os
from inspect import signature
from typing import TYPE_CHECKING

from hesscomp.api import load_data
from hesscomp.datasets import Dataset, from_arrays
from hesscomp.datasets.standardize import standardized
from hesscomp.datasets.tables import is_table
from hesscomp.errors import InputError
from hesscomp.options import described, refuse_unknown
from hesscomp.parallel.world import World

if TYPE_CHECKING:
    from hesscomp.linear import LinearModel
    from hesscomp.problems.linear import GeneralizedLinearModel

READ_BY = ("label", "missing", "categories", "ignore")  # options of `load_data` for a file


def fit_linear(
    data, family: str = "logistic", *, intercept: bool = True, ridge: float = 0.0, weights=None,
    offsets=None, covariance: str = "observed", errors_of: tuple[str, ...] = (), world=None,
    dtype: str = "float64", standardize: bool = False, **options,
) -> LinearModel:  # fmt: skip
    """Fit a generalised linear model by Newton's method, with its statistics. Collective.

    Parameters
    ----------
    data : str, path, Dataset or (X, y)
        A file or a named data set, or each rank's own rows.
    family : {"logistic", "softmax", "least-squares", "poisson", "gamma", "tweedie"} or str
        "softmax" is multinomial logistic regression. Poisson, gamma and Tweedie regression have the
        logarithm as link; "tweedie:1.7" is of power 1.7, "tweedie" of 1.5.
    intercept : bool
        Fit a constant, the last coefficient; the first level of each text column of a file is then
        the reference.
    ridge : float
        (ridge/2) ||x||^2 is added to the mean loss, without the intercept.
    weights, offsets : (rows,) array or str, optional
        How much each row counts, and what is added to its linear predictor; with a file the names
        of columns. For standard errors of the observed information a row of weight w counts as w
        equal rows; the sandwich takes each row as one observation, whatever its weight.
    covariance : {"observed", "robust", "none"}
        What standard errors come from: the observed information, the sandwich HC0, or nothing.
    errors_of : tuple of str
        Above 4,000 coefficients, those whose standard errors are computed exactly (by CG). The
        others have approximate ones, with a stated error; robust errors have only these.
    world, dtype
        As of `GeneralizedLinearModel`.
    standardize : bool
        Fit columns of standard deviation 1, and undo it in the model: the ridge is then on their
        coefficients, and no column weighs by its unit. Deviations are over all ranks and weighted.
        Dense columns are also centred where there is an intercept (a copy of the rows); sparse ones
        stay sparse, and the intercept does the same.
    **options
        `solver`, `tolerance`, `max_iterations` and others of `NewtonOptions`; with a file also
        `label`, `missing`, `categories` and `ignore` of `load_data`.

    Returns
    -------
    LinearModel
        `coefficients`, `names`, `standard_errors`, `p_values`, `predict`; printed, it is a table.

    Raises
    ------
    InputError
        For data or columns that cannot be used, such as columns that depend on each other.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> model = hc.fit_linear((X, [0, 1, 0, 1]))
    >>> model.names, model.coefficients.round(4), model.standard_errors.round(4)
    (('x1', '(intercept)'), array([ 0.9082, -1.3623]), array([1.0852, 1.9749]))
    """
    from hesscomp.optimizers.newton import newton
    from hesscomp.optimizers.options import NewtonOptions
    from hesscomp.optimizers.standard_errors import check_statistics, linear_model, named_columns
    from hesscomp.workflows.minimum import warn_without_minimum

    read = {name: options.pop(name) for name in READ_BY if name in options}
    named = [name for name in signature(fit_linear).parameters if name != "options"]
    solving = [each.name for each in described(NewtonOptions, told=False)]
    refuse_unknown(options, [*READ_BY, *named, *solving], "fit_linear")
    problem, dataset = linear_problem(
        data, family, world, weights, offsets, read, standardize, ridge=ridge, intercept=intercept,
        dtype=dtype,
    )  # fmt: skip
    check_statistics(problem, dataset, covariance, tuple(errors_of))
    with named_columns(problem, dataset):
        result = newton(problem, None, NewtonOptions(**options))
    warn_without_minimum(problem, dataset, result)
    return linear_model(problem, dataset, result, covariance, tuple(errors_of))


def linear_problem(
    data, family: str, world: World | None, weights, offsets, read: dict | None = None,
    standardize: bool = False, *, intercept: bool, **options,
) -> tuple[GeneralizedLinearModel, Dataset]:  # fmt: skip
    """Return the problem of a family over data of any kind, and its data set."""
    from hesscomp.linear.families import known_family
    from hesscomp.problems import logistic

    world, targets = world or World.of_job(), known_family(family).targets
    beside = {"weights": weights, "offset": offsets}
    if isinstance(data, str | os.PathLike):
        given = {name: value for name, value in beside.items() if value is not None}
        data = load_data(data, world, targets=targets, reference=intercept, **given, **(read or {}))
    elif read:
        raise InputError(f"`{next(iter(read))}` goes with a file")
    elif not isinstance(data, Dataset):
        if is_table(data):
            raise InputError(
                "of a whole table hesscomp cannot tell the labels; pass (X, y) of its columns, or "
                "write it, table.to_csv('rows.csv', index=False), and pass 'rows.csv': then texts "
                "and missing values are encoded too"
            )
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise InputError(
                "the data must be a data set, the name or the file of one, or a pair (X, y) of "
                "rows and labels; rows' weights go into `weights`"
            )
        X, y = data
        data = from_arrays(X, y, world, targets=targets, weights=weights, offsets=offsets)
    elif weights is not None or offsets is not None:
        raise InputError("`weights` and `offsets` go with arrays or a file; a Dataset has its own")
    if standardize:
        data = standardized(data, world, centre=intercept)
    return logistic.linear_problem(data, world, family, intercept=intercept, **options), data
