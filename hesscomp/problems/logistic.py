"""Binary logistic regression over sharded data."""

import logging
from dataclasses import replace

import numpy as np

from hesscomp.datasets import Dataset, Shard
from hesscomp.parallel.world import World
from hesscomp.problems import capabilities as ability
from hesscomp.problems.catalogue import RIDGE
from hesscomp.problems.linear import GeneralizedLinearModel
from hesscomp.problems.problem import chunks

log = logging.getLogger(__name__)


class LogisticRegression(GeneralizedLinearModel):
    """E(x) = (1/m) sum_i log(1 + exp(-b_i a_i.x)) + (ridge/2) ||x||^2, labels b_i = +1 or -1.

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

    def right_predictions(self, x: np.ndarray) -> tuple[int, int]:
        shard = self.shard
        if self.left_out is not None:  # a sample in reproducible mode holds the other rows too
            kept = self._counted_here()
            shard = replace(shard, X=shard.X[kept], y=shard.y[kept])
        return self.right(x, shard), len(shard.y)

    def accuracy(self, x: np.ndarray, shard: Shard) -> float:
        """Return the share of all ranks' rows whose label is the sign of a.x; NaN if none.

        A row with a.x = 0 is taken as negative, as scikit-learn does. Weights do not count.
        """
        counts = np.array([self.right(x, shard), len(shard.y)], dtype=np.int64)
        right, total = self.world.sum(counts).tolist()
        return right / total if total else float("nan")

    def warn_without_minimum(self, x: np.ndarray) -> None:
        separated = self.ridge == 0 and self.accuracy(x, self.shard) == 1
        if separated and self.world.rank == 0:
            log.warning(
                "%s: the coefficients separate the classes without an error, so without a ridge "
                "there is no minimum: they are those where the run ended; set a ridge",
                self.dataset_name,
            )

    def right(self, x: np.ndarray, shard: Shard) -> int:
        """Return how many rows of this rank's `shard` have the sign of a.x as label; local."""
        hits = 0
        for rows in chunks(slice(None), len(shard.y), 1024):  # float32 rows are widened, a few each
            margins = self.output(x, shard.X[rows])
            if shard.offsets is not None:
                margins = margins + shard.offsets[rows]
            hits += int(np.count_nonzero((margins > 0) == (shard.y[rows] > 0)))
        return hits


def linear_problem(
    dataset: Dataset, world: World | None = None, family: str = "logistic", **options
) -> GeneralizedLinearModel:
    """Return the problem of a family; logistic regression also counts right predictions."""
    if family == "logistic":
        return LogisticRegression(dataset, world, **options)
    return GeneralizedLinearModel(dataset, world, family=family, **options)
