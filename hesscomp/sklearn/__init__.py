"""Linear models as scikit-learn estimators: serially, or under mpiexec on each rank's own rows.

Needs scikit-learn (the extra `sklearn`). Parameters are named and mean what they do there, and
`tol` is the norm of the gradient of the mean objective.
"""

from hesscomp.sklearn.cross_validation import LogisticRegressionCV, TweedieRegressorCV
from hesscomp.sklearn.estimators import (
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    TweedieRegressor,
)

__all__ = [
    "GammaRegressor", "LinearRegression", "LogisticRegression", "LogisticRegressionCV",
    "PoissonRegressor", "Ridge", "TweedieRegressor", "TweedieRegressorCV",
]  # fmt: skip
