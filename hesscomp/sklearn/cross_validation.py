"""Estimators that choose their penalty by cross-validation, along a path of ridges."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import check_cv

from hesscomp.errors import InputError
from hesscomp.linear.families import known_family
from hesscomp.optimizers.options import NewtonOptions
from hesscomp.optimizers.ridge_path import cross_validated
from hesscomp.parallel.world import World
from hesscomp.sklearn.estimators import (
    Classifier,
    Tweedie,
    agreed,
    explained,
    parameters,
    total_weight,
)


def _hits(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (scores > 0) == (y > 0) if scores.ndim == 1 else scores.argmax(axis=1) == y


def _log_probabilities(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    if scores.ndim == 1:
        return scipy.special.log_expit(y * scores)
    return scipy.special.log_softmax(scores, axis=1)[np.arange(len(y)), y]


SCORES = {"accuracy": _hits, "neg_log_loss": _log_probabilities}  # means over the rows left out


class _CrossValidated:
    """The path over folds, for estimators of all kinds."""

    def _choose(
        self, X, y, weights, given, family: str, penalties: np.ndarray,
        ridges: Callable[[np.ndarray, float], np.ndarray], score: Callable,
    ) -> int:  # fmt: skip
        """Fit the path, take the coefficients of the best penalty and return its place.

        `ridges` says which ridges the penalties are of rows of a total weight, `weights` are those
        of the fits and `given` those of scores, `score` a function of scores, targets and weights.
        """
        if not len(penalties) or not np.all((penalties > 0) & np.isfinite(penalties)):
            raise InputError("the penalties must be one or more finite numbers above 0")
        fold, folds = self._folds(y)
        total = total_weight(y, weights)
        order = np.argsort(-ridges(penalties, total), kind="stable")
        counts = np.ones(len(y)) if given is None else given
        problem, T = self._problem(X, y, weights, family, 1.0)  # type: ignore[attr-defined]

        def judge(own, x: np.ndarray) -> float:
            kept = ~own.left_out
            return score(own.output(x, own.shard.X[kept]), y[kept], counts[kept])

        how: Any = self
        failed: list[str] = []
        path = cross_validated(
            problem, lambda total: ridges(penalties[order], total), fold, folds,
            NewtonOptions(how.solver, how.tol, how.max_iter), judge, failed.append,
        )  # fmt: skip
        if failed:
            warnings.warn(failed[0], ConvergenceWarning, stacklevel=3)
        self.scores_ = np.empty_like(path.held_out)
        self.scores_[:, order] = path.held_out
        best = int(np.argmax(self.scores_.mean(axis=0)))
        at = int(np.flatnonzero(order == best)[0])
        self.n_iter_, self.objective_ = path.steps, float(path.objectives[at])
        x = path.coefficients[at]
        self._take(problem, x if T is None else T @ x)  # type: ignore[attr-defined]
        return best

    def _folds(self, y: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the fold of each row here, and how many there are. Collective.

        They are drawn over the rows of all ranks, one rank's after the other's.
        """
        world, cv = World.of_job(), self.cv  # type: ignore[attr-defined]
        every = world.gather(y)
        labels, start = np.concatenate(every), sum(map(len, every[: world.rank]))
        with agreed("drawing folds"):
            splitter = check_cv(cv, labels, classifier=is_classifier(self))
            splits = list(splitter.split(np.zeros((len(labels), 1)), labels))
        tests = np.zeros(len(labels), int)
        fold = np.zeros(len(labels), int)
        for i, (train, test) in enumerate(splits):
            fold[test] = i
            tests[test] += 1
            tests[test] += len(train) + len(test) != len(labels)
        if len(splits) < 2 or np.any(tests != 1):
            raise InputError(
                "cv must be two folds or more that put each row into one test set, and all others "
                "into its training set; give a number, KFold or StratifiedKFold"
            )
        fold = world.broadcast(fold)  # those of rank 0, where they are drawn without a seed
        return fold[start : start + len(y)], len(splits)


@parameters
class LogisticRegressionCV(_CrossValidated, Classifier):
    """Logistic or softmax regression whose penalty is chosen by cross-validation.

    The fits of a fold go from the largest penalty to the smallest, each from the minimum before it,
    and factors of the Hessian serve all folds and penalties.

    Parameters
    ----------
    Cs : int or sequence of float
        The penalties to choose from, as C of `LogisticRegression`; a number stands for that many
        from 1e-4 to 1e4.
    cv : int, splitter or iterable of (train, test)
        Each row is in one test set; a number stands for stratified folds. Of the rows of all ranks,
        one rank's after the other's.
    scoring : {"accuracy", "neg_log_loss"}
        What is averaged over the folds; the largest mean wins.
    fit_intercept, class_weight, tol, max_iter, solver, dtype, standardize
        As of `LogisticRegression`. Deviations are those of all rows, not of a fold's.

    Attributes
    ----------
    C_ : float
    Cs_ : (c,) array
    scores_ : (folds, c) array
    classes_, coef_, intercept_, objective_
        As of `LogisticRegression`, of the fit of all rows with `C_`.
    n_iter_ : int
        Newton steps of all fits.

    Notes
    -----
    Memory: the labels of all rows on each rank, beside what one fit takes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hesscomp.sklearn import LogisticRegressionCV
    >>> X, y = load_iris(return_X_y=True)
    >>> LogisticRegressionCV(Cs=[0.01, 1.0], cv=3).fit(X, y).C_
    1.0
    """

    Cs: Any = 10
    cv: Any = 5
    scoring: str = "accuracy"

    def fit(self, X, y, sample_weight=None):
        """Fit rows, the rank's own under mpiexec; `sample_weight` says how much each counts."""
        if self.scoring not in SCORES:
            raise InputError(f"scoring must be one of {', '.join(SCORES)}, not {self.scoring}")
        many = isinstance(self.Cs, int | np.integer)
        Cs = np.logspace(-4, 4, self.Cs) if many else np.asarray(self.Cs, np.float64)
        X, targets, weights, given = self._encoded(X, y, sample_weight)
        by_row = SCORES[self.scoring]

        def score(scores, y, w) -> float:
            good, total = World.of_job().sum(np.array([w @ by_row(scores, y), w.sum()], float))
            return float(good / total)

        best = self._choose(
            X, targets, weights, given, self._family(), Cs, lambda Cs, total: 1 / (Cs * total),
            score,
        )  # fmt: skip
        self.Cs_, self.C_ = Cs, float(Cs[best])
        return self


@parameters
class TweedieRegressorCV(_CrossValidated, Tweedie):
    """Least squares, Poisson, Tweedie or gamma regression with a penalty by cross-validation.

    Parameters
    ----------
    power : float
        The family, as of `TweedieRegressor`: 0 least squares, 1 Poisson, 2 gamma.
    alphas : sequence of float
        The penalties to choose from, as alpha of `TweedieRegressor`.
    cv : int, splitter or iterable of (train, test)
        As of `LogisticRegressionCV`; a number stands for folds of consecutive rows.
    fit_intercept, tol, max_iter, solver, dtype, standardize
        As of `LogisticRegressionCV`.

    Attributes
    ----------
    alpha_ : float
        The one with the largest share of the deviance explained, in the mean over the folds.
    scores_ : (folds, a) array
    coef_, intercept_, objective_
        As of `TweedieRegressor`, of the fit of all rows with `alpha_`.
    n_iter_ : int
        Newton steps of all fits.

    Examples
    --------
    >>> import numpy as np
    >>> from hesscomp.sklearn import TweedieRegressorCV
    >>> X = np.arange(12.0)[:, None] / 12
    >>> TweedieRegressorCV(power=1, alphas=[1.0, 1e-3], cv=3).fit(X, np.exp(2 * X[:, 0])).alpha_
    0.001
    """

    alphas: Any = (0.01, 0.1, 1.0)
    cv: Any = 5

    def fit(self, X, y, sample_weight=None):
        """Fit rows, the rank's own under mpiexec; `sample_weight` says how much each counts."""
        with agreed("checking rows"):
            X, y, weights = self._rows(X, y, sample_weight, y_numeric=True)
        y, alphas = np.asarray(y, np.float64), np.asarray(self.alphas, np.float64)
        family: Any = known_family(self._family())
        best = self._choose(
            X, y, weights, weights, self._family(), alphas, lambda alphas, total: alphas,
            lambda t, y, w: explained(family, t, y, w),
        )  # fmt: skip
        self.alpha_ = float(alphas[best])
        return self
