"""A path of ridges with cross-validation, along which points and factors are reused."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hesscomp.errors import InputError, NumericalError
from hesscomp.factors import Factor
from hesscomp.optimizers.newton import newton
from hesscomp.optimizers.options import NewtonOptions
from hesscomp.parallel import random
from hesscomp.problems.linear import GeneralizedLinearModel

OPTIONS = NewtonOptions()


@dataclass(frozen=True)
class RidgePath:
    """The minima for several ridges, and how well those of parts of the rows predict the others.

    Attributes
    ----------
    ridges : (r,) array
        From the largest to the smallest.
    coefficients : (r, n) array
        The minima over all rows.
    objectives : (r,) array
    held_out : (folds, r) array
        The mean loss, without ridge, of each fold's rows at the minimum of all others.
    iterations, sketches, steps : int
        CG iterations in all, the fits that made a factor of their own, and Newton steps in all.
    problem : str
    penalized : int
        How many parameters have a ridge: the first ones.
    weights : (folds,) array, optional
        The total weight of each fold's rows; equal without it.
    """

    ridges: np.ndarray
    coefficients: np.ndarray = field(repr=False)
    objectives: np.ndarray = field(repr=False)
    held_out: np.ndarray = field(repr=False)
    iterations: int = 0
    sketches: int = 0
    problem: str = ""
    penalized: int = 0
    weights: np.ndarray | None = field(repr=False, default=None)
    steps: int = 0

    @property
    def losses(self) -> np.ndarray:
        """The mean over the folds of `held_out`, by their weights: (r,)."""
        return np.average(self.held_out, axis=0, weights=self.weights)

    @property
    def errors(self) -> np.ndarray:
        """The standard error of `losses`, from the spread of the folds: (r,)."""
        squares = (self.held_out - self.losses) ** 2
        spread = np.average(squares, axis=0, weights=self.weights)
        return np.sqrt(spread / (len(self.held_out) - 1))

    @property
    def best(self) -> int:
        """Which ridge has the lowest loss."""
        return int(np.argmin(self.losses))

    @property
    def simplest(self) -> int:
        """Which is the largest ridge whose loss is within a standard error of the lowest."""
        limit = self.losses[self.best] + self.errors[self.best]
        return int(np.flatnonzero(self.losses <= limit)[0])

    def __str__(self) -> str:
        lines = [f"{'ridge':>10} {'loss left out':>14} {'std. error':>11}"]
        for i, told in enumerate(zip(self.ridges, self.losses, self.errors, strict=True)):
            marks = ["lowest"] * (i == self.best) + ["within an error"] * (i == self.simplest)
            lines.append("{:10.3g} {:14.8f} {:11.2e}  ".format(*told) + ", ".join(marks))
        return "\n".join(line.rstrip() for line in lines)


def ridge_path(
    problem: GeneralizedLinearModel, ridges: Sequence[float] | np.ndarray, *, folds: int = 5,
    seed: int = 0, options: NewtonOptions = OPTIONS,
) -> RidgePath:  # fmt: skip
    """Fit a linear model for several ridges, and cross-validate each. Collective.

    Parameters
    ----------
    problem : GeneralizedLinearModel
        Its own ridge does not count.
    ridges : sequence of float
        Above 0.
    folds : int
        At least 2. Each row is in one, drawn by the seed and its place: the same on any number of
        ranks.
    options : NewtonOptions
        The solver auto is pcg here, whose factors serve along the path.

    Returns
    -------
    RidgePath

    Raises
    ------
    InputError
        For ridges or folds that cannot be.
    NumericalError
        If a fit does not converge.

    Notes
    -----
    The fits go from the largest ridge to the smallest, each from the minimum before it. A factor is
    of the Hessian without the ridge, so the one that served last preconditions the next ridge too;
    those of all rows serve the folds. Folds count rows zero times: no data are copied.

    Examples
    --------
    >>> import hesscomp as hc
    >>> import numpy as np
    >>> from hesscomp.datasets import from_arrays
    >>> X, y = np.arange(8.0)[:, None] - 3.5, np.array([0, 0, 1, 0, 1, 0, 1, 1])
    >>> problem = hc.LogisticRegression(from_arrays(X, y, hc.World()), intercept=True)
    >>> path = hc.ridge_path(problem, [1.0, 1e-4], folds=2)
    >>> path.best, path.coefficients.round(2)[:, 0].tolist()
    (0, [0.28, 0.59])
    """
    if not isinstance(problem, GeneralizedLinearModel):
        raise InputError(
            f"ridge_path takes a linear model, not {type(problem).__name__}; make one, such as "
            "hesscomp.LogisticRegression(hesscomp.load_data(...))"
        )
    ridges = np.sort(np.asarray(ridges, np.float64))[::-1]
    if ridges.ndim != 1 or not len(ridges) or not np.all((ridges > 0) & np.isfinite(ridges)):
        raise InputError("`ridges` must be one or more finite numbers above 0")
    if not 2 <= folds <= problem.rows:
        raise InputError(f"`folds` must be at least 2 and at most the rows, not {folds}")
    if problem.reference:
        raise InputError("the problem was made without a ridge; make it with any ridge above 0")
    place = (problem.shard.start, problem.shard.start + len(problem.shard.y))
    fold = (random.uniform(seed, random.FOLDS, place, (0, 1))[:, 0] * folds).astype(int)
    return cross_validated(problem, lambda total: ridges, fold, folds, options)


def held_out_loss(problem: GeneralizedLinearModel, x: np.ndarray) -> float:
    """Return the mean loss of the rows that a problem counts, without ridge. Collective."""
    return problem.objective(x) - problem.ridge_term(x)


def fail(why: str) -> None:
    raise NumericalError(why)


def cross_validated(
    problem: GeneralizedLinearModel, ridges_of: Callable[[float], np.ndarray], fold: np.ndarray,
    folds: int, options: NewtonOptions, judge: Callable = held_out_loss,
    on_failure: Callable[[str], None] = fail,
) -> RidgePath:  # fmt: skip
    """Return `ridge_path` for folds of any kind. Collective.

    `ridges_of` gives the ridges, falling, of a fit of rows of a total weight: they vary with it
    where a penalty goes with the sum of the losses, not their mean. `fold` is the fold of each row
    here, and `judge` gives a number for `held_out` from a problem that counts the rows of a fold
    alone, and the minimum of the others. `on_failure` is told why a fit did not converge.
    """
    counts = None if problem.counts is None else problem.counts.numpy()
    weights = problem.world.sum(np.bincount(fold, counts, folds).astype(float))
    if not weights.all():
        raise InputError(
            f"fold {int(np.argmin(weights)) + 1} of {folds} has no rows of weight above 0; take "
            "fewer folds or another seed"
        )
    for i in range(folds):
        problem.leaving_out(fold == i).check_minimum()
    if options.solver == "auto":
        options = replace(options, solver="pcg")
    steps, ridges = _Steps(options, on_failure), ridges_of(problem.total)
    given: list[Factor | None] = [None] * len(ridges)
    whole = steps.along(problem, ridges, given)
    held_out = np.empty((folds, len(ridges)))
    for i in range(folds):
        others, own = problem.leaving_out(fold == i), problem.leaving_out(fold != i)
        for j, (x, _) in enumerate(steps.along(others, ridges_of(others.total), given)):
            held_out[i, j] = judge(own, x)
    points, objectives = zip(*whole, strict=True)
    return RidgePath(
        ridges, np.array(points), np.array(objectives), held_out, steps.iterations, steps.sketches,
        problem.name, len(range(problem.n)[problem.penalized]), weights,
        steps.steps,
    )  # fmt: skip


@dataclass
class _Steps:
    """The fits along paths, and what they cost."""

    options: NewtonOptions
    on_failure: Callable[[str], None]
    steps: int = 0
    iterations: int = 0
    sketches: int = 0

    def along(self, problem, ridges, given: list[Factor | None]) -> list[tuple[np.ndarray, float]]:
        """Return minimum and objective for each ridge; `given` are the factors, and are kept."""
        x, factor, found = None, None, []
        for j, ridge in enumerate(ridges):
            made = copy.copy(problem)
            made.ridge = float(ridge)
            factor = given[j] or factor
            named = self.options if factor is None else replace(self.options, preconditioner=factor)
            fit = newton(made, x, named)
            if not fit.converged:
                self.on_failure(
                    f"the fit with the ridge {ridge:g} did not converge: {fit.reason}; raise "
                    "`tolerance` or `max_iterations`"
                )
            self.iterations += sum(row.cg_iterations for row in fit.history)
            self.steps += fit.iterations
            self.sketches += fit.factor is not None
            factor = given[j] = fit.factor or factor
            x = fit.x
            found.append((fit.x, fit.objective))
        return found
