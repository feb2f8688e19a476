"""Binary logistic regression over sharded data."""

from hesscomp.datasets import Dataset
from hesscomp.parallel.world import World
from hesscomp.problems import capabilities as ability
from hesscomp.problems.catalogue import RIDGE
from hesscomp.problems.linear import Classifier, GeneralizedLinearModel
from hesscomp.problems.softmax import SoftmaxRegression


class LogisticRegression(Classifier):
    """E(x) = (1/W) sum_i w_i log(1 + exp(-b_i (a_i.x + o_i))) + (ridge/2) ||x||^2, b_i = +1 or -1.

    w_i are weights, W their sum, o_i offsets.
    Safe for margins of any size. Convex: the Hessian is positive semidefinite.

    Parameters
    ----------
    dataset : Dataset
        Its `train` shard is used, with its weights and offsets; `test` serves `accuracy` only.
    world : World, optional
        All ranks of the job by default.
    ridge : float
        Non-negative; applies to all n coefficients, and not to the intercept.
    dtype : {"float32", "float64"}
        Precision of curvature products. Loss and gradient are float64 always.
    intercept : bool
        Whether there is a constant beside the columns: a last parameter, for a column of ones that
        is not stored.

    Notes
    -----
    Memory per rank: the shard, once more in `dtype` where the data have another type, and a few
    vectors of its number of rows. A product with k columns is two passes of k columns over the
    shard, and one reduction of n k words.

    Raises
    ------
    InputError
        For labels that are not of two classes, and rows that are no vectors.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"), ridge=1e-3)
    >>> problem.n, problem.rows, round(problem.objective(np.zeros(109)), 4)  # log 2
    (109, 32561, 0.6931)
    """

    name = "logistic-regression"
    capabilities = GeneralizedLinearModel.capabilities | {ability.CLASSIFICATION}

    def __init__(
        self,
        dataset: Dataset,
        world: World | None = None,
        *,
        ridge: float = RIDGE,
        dtype: str = "float32",
        intercept: bool = False,
    ):
        super().__init__(
            dataset, world, family="logistic", ridge=ridge, dtype=dtype, intercept=intercept
        )


def linear_problem(
    dataset: Dataset, world: World | None = None, family: str = "logistic", **options
) -> GeneralizedLinearModel:
    """Return the problem of a family; those of classes also count right predictions."""
    if kind := {"logistic": LogisticRegression, "softmax": SoftmaxRegression}.get(family):
        return kind(dataset, world, **options)
    return GeneralizedLinearModel(dataset, world, family=family, **options)
