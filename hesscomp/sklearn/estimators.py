"""The estimators: each makes a problem of its rows, and runs Newton's method on it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse.linalg
import scipy.special
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,  # what scikit-learn's own guide for estimators names
    check_is_fitted,
    validate_data,
)

from hesscomp.curvature.hessian import HessianOperator
from hesscomp.datasets import from_arrays
from hesscomp.datasets.standardize import standardized
from hesscomp.errors import InputError, NumericalError
from hesscomp.linear.families import known_family
from hesscomp.optimizers.newton import newton
from hesscomp.optimizers.options import NewtonOptions
from hesscomp.optimizers.standard_errors import DENSE
from hesscomp.parallel.world import World
from hesscomp.problems.logistic import linear_problem

FLOATS = [np.float64, np.float32]
EPS = float(np.finfo(float).eps)
DETERMINED = 1e-12  # least eigenvalue of scaled columns that determine their coefficients
MATH = SimpleNamespace(
    exp=np.exp, sigmoid=scipy.special.expit, softplus=lambda t: np.logaddexp(0, t),
    ones_like=np.ones_like,
)  # fmt: skip


# Makes __init__ from a class' annotated parameters and those of its bases, as scikit-learn has it:
# each becomes the attribute of its name, as it is given.
parameters = dataclass(eq=False, repr=False, kw_only=True)


@contextmanager
def agreed(name: str) -> Iterator[None]:
    """Run local checks; where they fail on one of several ranks, all raise. Collective."""
    world = World.of_job()
    if world.size == 1:
        yield
        return
    with world.phase(name):
        try:
            yield
        except (ValueError, TypeError) as error:  # what scikit-learn's checks raise
            raise InputError(str(error)) from error


@parameters
class _Linear(BaseEstimator):
    """What all share: rows and weights as scikit-learn checks them, and the fit.

    Under mpiexec each rank passes its own rows, of the same columns; the fit, its coefficients and
    `score` are of the rows of all ranks, and predictions of the rank's own.
    """

    fit_intercept: bool = True
    tol: float = 1e-9
    max_iter: int = 100
    solver: str = "auto"
    dtype: str = "float32"
    standardize = warm_start = False  # where they are no parameters

    def _rows(self, X, y, sample_weight, **options) -> tuple[Any, np.ndarray, np.ndarray | None]:
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=FLOATS, **options)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        return X, y, sample_weight

    def _solve(self, X, y, weights, family: str, ridge: float, start) -> tuple[Any, np.ndarray]:
        """Fit a family; return the problem and its coefficients. `start` gives those to begin."""
        problem, T = self._problem(X, y, weights, family, ridge)
        auto = self.solver == "auto"  # CG takes columns that depend on each other
        options = NewtonOptions(
            "pcg" if auto and not ridge else self.solver, self.tol, self.max_iter
        )
        begin = start(problem) if self.warm_start else None
        if begin is not None and T is not None:
            begin = scipy.sparse.linalg.spsolve(T.tocsc(), begin)
        try:
            result = newton(problem, begin, options)
        except NumericalError:  # of a ridge that is within the rounding of the assembled Hessian
            if not auto or not ridge:
                raise
            result = newton(problem, begin, replace(options, solver="pcg"))
        self.n_iter_, self.objective_ = result.iterations, result.objective
        if not result.converged:
            warnings.warn(
                f"Newton's method did not converge: {result.reason}; raise max_iter or tol, or "
                "scale the data",
                ConvergenceWarning,
                stacklevel=4,
            )
        return problem, result.x if T is None else T @ result.x

    def _problem(self, X, y, weights, family: str, ridge: float) -> tuple[Any, Any]:
        """Return the problem, and T with T x the coefficients, or None for the identity."""
        world = World.of_job()
        data = from_arrays(X, y, world, targets=known_family(family).targets, weights=weights)
        if self.standardize:
            data = standardized(data, world, centre=self.fit_intercept)
        problem = linear_problem(
            data, world, family, ridge=ridge, dtype=self.dtype, intercept=self.fit_intercept
        )
        return problem, None if data.scaling is None else problem.unscaling(data.scaling)

    def _predictor(self, X) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=FLOATS, reset=False)
        return np.asarray(X @ self.coef_.T) + self.intercept_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


@parameters
class Classifier(ClassifierMixin, _Linear):
    """Models of two and of several classes."""

    class_weight: Any = None
    standardize: bool = False

    def _family(self) -> str:
        return "logistic" if len(self.classes_) == 2 else "softmax"

    def _encoded(self, X, y, sample_weight) -> tuple[Any, np.ndarray, Any, Any]:
        """Return rows, targets, weights with those of the classes, and without. Collective."""
        with agreed("checking rows"):
            X, y, given = self._rows(X, y, sample_weight)
            check_classification_targets(y)
        world = World.of_job()
        self.classes_ = np.unique(np.concatenate(world.gather(np.unique(y))))
        K, own = len(self.classes_), np.searchsorted(self.classes_, y)
        if K < 2:
            raise InputError(f"the labels have one class, {self.classes_[0]!r}; give two or more")
        return X, 2.0 * own - 1 if K == 2 else own, self._weighted(own, given, world), given

    def _take(self, problem, x: np.ndarray) -> None:
        """Take the coefficients of a problem."""
        table = x[:, None]
        if self._family() == "softmax":  # scores count by differences: as in scikit-learn of mean 0
            table = problem.table(x)
            table = table - table.mean(axis=1, keepdims=True)
        self.coef_ = table[: problem.features].T.copy()
        self.intercept_ = table[problem.features :].sum(axis=0)

    def _weighted(self, own: np.ndarray, weights: np.ndarray | None, world: World):
        """Return the rows' weights times those of their classes."""
        if self.class_weight is None:
            return weights
        weights, K = np.ones(len(own)) if weights is None else weights, len(self.classes_)
        if isinstance(self.class_weight, str):
            if self.class_weight != "balanced":
                raise InputError(
                    f"class_weight must be a dict, 'balanced' or None, not {self.class_weight!r}"
                )
            sums = world.sum(np.bincount(own, weights, minlength=K))
            if not sums.all():
                raise InputError(
                    f"class {self.classes_[np.argmin(sums)]!r} has the weight 0, and "
                    "class_weight='balanced' divides by it; leave its rows out"
                )
            factors = sums.sum() / (K * sums)
        else:
            if wrong := [label for label in self.class_weight if label not in self.classes_]:
                raise InputError(f"class_weight: no row has the label {wrong[0]!r}; leave it out")
            factors = np.array([self.class_weight.get(label, 1.0) for label in self.classes_])
        return weights * factors[own]

    def _start(self, problem) -> np.ndarray | None:
        """Return the last fit's coefficients as parameters of a problem, where they fit."""
        if not hasattr(self, "coef_") or self.coef_.shape[1] != problem.features:
            return None
        table = np.vstack([self.coef_.T, self.intercept_[None]])
        table = table[: problem.features + problem.intercept]
        if problem.row_margins == 1:
            return table[:, 0] if table.shape[1] == 1 else None
        if table.shape[1] != problem.row_margins:
            return None
        return np.where(problem.pinned[:, :1], table - table[:, :1], table)[~problem.pinned]

    def decision_function(self, X):
        """Return the log odds of the second class, or the scores of all: (rows,) or (rows, K)."""
        scores = self._predictor(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict_proba(self, X):
        """Return the probability of each class: (rows, K)."""
        scores = self.decision_function(X)
        if scores.ndim == 2:
            return scipy.special.softmax(scores, axis=1)
        return np.column_stack([scipy.special.expit(-scores), scipy.special.expit(scores)])

    def predict_log_proba(self, X):
        """Return the logarithms of `predict_proba`."""
        scores = self.decision_function(X)
        if scores.ndim == 2:
            return scipy.special.log_softmax(scores, axis=1)
        return np.column_stack([scipy.special.log_expit(-scores), scipy.special.log_expit(scores)])

    def predict(self, X):
        """Return the likeliest class of each row."""
        scores = self.decision_function(X)
        at = scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)
        return self.classes_[at]

    def score(self, X, y, sample_weight=None):
        """Return the accuracy on the rows of all ranks."""
        with agreed("predicting rows"):
            right = self.predict(X) == np.asarray(y)
            weights = np.ones(len(right)) if sample_weight is None else np.asarray(sample_weight)
            sums = np.array([weights @ right, weights.sum()], float)
        hits, total = World.of_job().sum(sums)
        return float(hits / total)


@parameters
class LogisticRegression(Classifier):
    """Logistic regression, of several classes softmax regression; the intercept has no penalty.

    Parameters
    ----------
    C : float
        Minimises C sum_i w_i l_i + ||coef||^2 / 2; `numpy.inf` for no penalty.
    fit_intercept : bool
    class_weight : dict, "balanced" or None
        Factors of the weights of classes; "balanced" makes all classes weigh the same.
    tol : float
        ||gradient||_2 of the objective over C sum_i w_i at which the fit ends.
    max_iter : int
        Newton steps.
    warm_start : bool
        Begin where the last fit ended.
    solver : {"auto", "pcg", "direct"}
        As of `hesscomp.newton`.
    dtype : {"float32", "float64"}
        Precision of curvature products; objective and gradient are float64.
    standardize : bool
        Fit columns of standard deviation 1 over the rows of all ranks, dense ones with an intercept
        centred, and undo it in the coefficients: a StandardScaler before it, also under mpiexec.

    Attributes
    ----------
    classes_ : (K,) array
    coef_ : (1, features) or (K, features) array
    intercept_ : (1,) or (K,) array
    n_iter_ : int
    objective_ : float
        The mean loss with its penalty.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hesscomp.sklearn import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> LogisticRegression(C=10).fit(X, y).predict_proba(X[:1]).round(3)
    array([[0.997, 0.003, 0.   ]])
    """

    C: float = field(default=1.0, kw_only=False)
    warm_start: bool = False

    def fit(self, X, y, sample_weight=None):
        """Fit rows, the rank's own under mpiexec; `sample_weight` says how much each counts."""
        if not self.C > 0:
            raise InputError(f"C must be above 0, not {self.C}")
        X, targets, weights, _ = self._encoded(X, y, sample_weight)
        total = total_weight(targets, weights)
        ridge = 0.0 if np.isinf(self.C) else float(1 / (self.C * max(total, 1e-300)))
        self._take(*self._solve(X, targets, weights, self._family(), ridge, self._start))
        return self


@parameters
class _Regressor(RegressorMixin, _Linear):
    """Models of numbers: the family and its ridge are the subclass' own."""

    alpha = 0.0  # where it is no parameter

    def _family(self) -> str:
        raise NotImplementedError

    def _ridge(self, total: float) -> float:
        return self.alpha

    def fit(self, X, y, sample_weight=None):
        """Fit rows, the rank's own under mpiexec; `sample_weight` says how much each counts."""
        with agreed("checking rows"):
            X, y, weights = self._rows(X, y, sample_weight, y_numeric=True)
        family = self._family()
        ridge = self._ridge(total_weight(y, weights))
        if not ridge >= 0:
            raise InputError(f"alpha must be at least 0, not {self.alpha}")
        y = np.asarray(y, np.float64)
        self._take(*self._solve(X, y, weights, family, float(ridge), self._start))
        return self

    def _take(self, problem, x: np.ndarray) -> None:
        """Take the coefficients of a problem."""
        self.coef_ = x[: problem.features].copy()
        self.intercept_ = float(x[problem.features :].sum())

    def _start(self, problem) -> np.ndarray | None:
        if not hasattr(self, "coef_") or len(self.coef_) != problem.features:
            return None
        return np.append(self.coef_, [self.intercept_] * problem.intercept)

    def predict(self, X):
        """Return the mean of each row's target."""
        return known_family(self._family()).mean(self._predictor(X))

    def score(self, X, y, sample_weight=None):
        """Return the share of the deviance that is explained, over the rows of all ranks.

        Of least squares it is R^2.
        """
        with agreed("predicting rows"):
            t, y = self._predictor(X), np.asarray(y, np.float64)
            weights = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight)
        return explained(known_family(self._family()), t, y, weights)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        family = known_family(self._family())
        tags.target_tags.positive_only = not family.allowed(np.array([-1.0]))[0]
        return tags


def explained(family: Any, t: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Return the share of the deviance that predictors t explain, over all ranks. Collective.

    Where the targets are all equal, so that there is none, 1 of a perfect fit and else 0.
    """
    world = World.of_job()
    total, mean = world.sum(np.array([weights.sum(), weights @ y], float))
    with np.errstate(divide="ignore", invalid="ignore"):
        constant = np.full(len(y), np.log(mean / total) if family.mean is np.exp else mean / total)
        losses = [family.loss(MATH, at, y) - family.least(y) for at in (t, constant)]
    left, null = world.sum(np.array([weights @ loss for loss in losses], float))
    if not null > 0:  # NaN of targets that are all 0
        return float(left <= 0)
    return float(1 - left / null)


def total_weight(y: np.ndarray, weights: np.ndarray | None) -> float:
    """Return the weight of the rows of all ranks, their number where they have none. Collective."""
    return float(World.of_job().sum(np.array([len(y) if weights is None else weights.sum()]))[0])


def shortest_least_squares(problem) -> np.ndarray:
    """Return the shortest minimum of least squares, with any intercept; from the dense Hessian."""
    origin, k = np.zeros(problem.n), problem.features
    gradient = problem.objective_and_gradient(origin)[1]
    H, b = HessianOperator(problem, origin).to_dense(), -gradient

    def solved(H, b):
        coefficients, ones = H[:k, :k], H[:k, k:]
        means = ones / H[k:, k:] if problem.intercept else ones
        S, r = coefficients - means @ ones.T, b[:k] - means @ b[k:]
        s = np.sqrt(np.maximum(np.diag(S), 0))
        s[s**2 <= EPS * np.diag(coefficients)] = 0  # constant columns
        live, found = s > 0, np.zeros(k)
        s = s[live]
        w, U = np.linalg.eigh(S[np.ix_(live, live)] / np.outer(s, s))
        if not len(w) or w[0] > DETERMINED:
            found[live] = U @ (U.T @ (r[live] / s) / w) / s
        else:
            w, U = np.linalg.eigh(S)
            kept = w > EPS * k * np.trace(S)
            found = U[:, kept] @ ((U[:, kept].T @ r) / w[kept])
        return np.append(found, b[k:] / np.diag(H)[k:] - means.T @ found)

    return problem.world.on_root(solved, H, b)


@parameters
class PoissonRegressor(_Regressor):
    """Poisson regression with the logarithm as link; the intercept has no penalty.

    Parameters
    ----------
    alpha : float
        Minimises the mean half deviance and alpha ||coef||^2 / 2.
    fit_intercept, tol, max_iter, warm_start, solver, dtype, standardize
        As of `LogisticRegression`.

    Attributes
    ----------
    coef_ : (features,) array
    intercept_ : float
    n_iter_ : int
    objective_ : float
        The mean loss with its penalty, up to what the targets alone decide.

    Examples
    --------
    >>> import numpy as np
    >>> from hesscomp.sklearn import PoissonRegressor
    >>> X = np.array([[0.0], [1.0], [2.0]])
    >>> PoissonRegressor(alpha=0).fit(X, [1, 2, 4]).predict([[3.0]]).round(4)
    array([8.])
    """

    alpha: float = 1.0
    warm_start: bool = False
    standardize: bool = False

    def _family(self):
        return "poisson"


class GammaRegressor(PoissonRegressor):
    """Gamma regression with the logarithm as link; parameters as of `PoissonRegressor`.

    Examples
    --------
    >>> import numpy as np
    >>> from hesscomp.sklearn import GammaRegressor
    >>> X = np.array([[0.0], [1.0], [2.0]])
    >>> GammaRegressor(alpha=0).fit(X, [1, 2, 4]).predict([[3.0]]).round(4)
    array([8.])
    """

    def _family(self):
        return "gamma"


@parameters
class Tweedie(_Regressor):
    """Models whose variance is the mean to a power."""

    power: float = 0.0
    standardize: bool = False

    def _family(self):
        named = {0: "least-squares", 1: "poisson", 2: "gamma"}
        if self.power in named:
            return named[self.power]
        if not 1 < self.power < 2:
            raise InputError(f"power must be 0, or from 1 to 2, not {self.power}")
        return f"tweedie:{self.power!r}"


@parameters
class TweedieRegressor(Tweedie):
    """A model whose variance is the mean to a power; the intercept has no penalty.

    Parameters
    ----------
    power : float
        0: normal, with the identity as link; 1: Poisson; between 1 and 2: compound Poisson; 2:
        gamma, with the logarithm as link.
    alpha, fit_intercept, tol, max_iter, warm_start, solver, dtype, standardize
        As of `PoissonRegressor`.

    Examples
    --------
    >>> import numpy as np
    >>> from hesscomp.sklearn import TweedieRegressor
    >>> X = np.array([[0.0], [1.0], [2.0]])
    >>> TweedieRegressor(power=1.5, alpha=0).fit(X, [1, 2, 4]).predict([[3.0]]).round(4)
    array([8.])
    """

    alpha: float = 1.0
    warm_start: bool = False


@parameters
class Ridge(_Regressor):
    """Least squares with a penalty; the intercept has none.

    Parameters
    ----------
    alpha : float
        Minimises ||y - X coef - intercept||^2 + alpha ||coef||^2.
    fit_intercept, tol, max_iter, warm_start, solver, dtype, standardize
        As of `LogisticRegression`.

    Examples
    --------
    >>> import numpy as np
    >>> from hesscomp.sklearn import Ridge
    >>> X = np.array([[0.0], [1.0], [2.0]])
    >>> Ridge(alpha=2).fit(X, [0.0, 1.0, 2.0]).coef_.round(4)
    array([0.5])
    """

    alpha: float = field(default=1.0, kw_only=False)
    warm_start: bool = False
    standardize: bool = False

    def _family(self):
        return "least-squares"

    def _ridge(self, total):
        return self.alpha / max(total, 1e-300)


@parameters
class LinearRegression(_Regressor):
    """Least squares; parameters as of `Ridge`, without a penalty.

    Up to 4,000 coefficients the normal equations are solved in float64 by eigenvalues: where
    columns depend on each other the coefficients are the shortest ones, and directions in which the
    rows vary by less than 1e-15 of their whole variance count as none: scale columns of very
    different sizes there. A column counts as constant, with the coefficient 0, where its variance
    is below 2e-16 of its mean square. Above, it is Newton's method, and then they are some of the
    best ones.

    Examples
    --------
    >>> import numpy as np
    >>> from hesscomp.sklearn import LinearRegression
    >>> X = np.array([[0.0], [1.0], [2.0]])
    >>> LinearRegression().fit(X, [1.0, 3.0, 5.0]).coef_.round(4)
    array([2.])
    """

    warm_start: bool = False

    def _family(self):
        return "least-squares"

    def _solve(self, X, y, weights, family, ridge, start):
        problem, _ = self._problem(X, y, weights, family, ridge)
        if problem.n > DENSE:
            return super()._solve(X, y, weights, family, ridge, start)
        x = shortest_least_squares(problem.exact())
        self.n_iter_, self.objective_ = 1, problem.objective(x)
        return problem, x
