"""Multinomial logistic (softmax) regression over sharded data."""

from typing import Any

import numpy as np
import scipy.sparse

from hesscomp.curvature.classes import ClassCurvature, ClassDesign
from hesscomp.curvature.tensorflow import tf, view
from hesscomp.datasets import Dataset, Shard
from hesscomp.errors import InputError
from hesscomp.linear.model import pinned_entries
from hesscomp.parallel.rows import RowBlocks
from hesscomp.parallel.world import World
from hesscomp.problems import capabilities as ability
from hesscomp.problems.catalogue import RIDGE
from hesscomp.problems.linear import Classifier, GeneralizedLinearModel, check_dataset
from hesscomp.problems.problem import ParameterBlock, chunks
from hesscomp.problems.row_terms import OutputTerms

CACHED = 2**15  # scores whose exponentials are summed at once


class SoftmaxRegression(Classifier, GeneralizedLinearModel):
    """E(x) = (1/W) sum_i w_i (log sum_k exp(T_ik) - T_i,b_i) + (ridge/2) ||x||^2, T = A X + 1 c^T.

    Convex. X is (features, K), c the K intercepts, which have no ridge. Scores are determined only
    up to a common shift: the first intercept is 0, and without a ridge the whole first class is the
    reference, with coefficients 0. Neither changes the minimum.

    Parameters
    ----------
    dataset : Dataset
        With targets "classes"; its `train` shard is used, with its weights.
    world : World, optional
        All ranks of the job by default.
    ridge : float
        Non-negative; applies to the coefficients.
    dtype : {"float32", "float64"}
        Precision of curvature products. Loss and gradient are float64 always.
    intercept : bool
        Whether each class has a constant.

    Notes
    -----
    The parameters are the table of coefficients row after row, a row for each feature, then the
    intercepts of the classes but the first. A product with k columns costs 4 nnz K k operations; a
    reduction of n k words. Memory per rank: the shard, once more in `dtype` where the data have
    another type, and some tables of (rows, K).

    Raises
    ------
    InputError
        For labels that are no classes, fewer than two classes, offsets, and a class without rows
        where there is an intercept or no ridge.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> problem = hc.SoftmaxRegression(hc.load_data("mnist-sample"), intercept=True)
    >>> problem.n, round(problem.objective(np.zeros(7849)), 4)  # 784 x 10 and 9; log 10
    (7849, 2.3026)
    """

    capabilities = frozenset(
        {
            ability.CLASSIFICATION,
            ability.EMPIRICAL_FISHER,
            ability.HESSIAN_DIAGONAL,
            ability.MARGINS,
            ability.PREDICTION,
            ability.ROW_GRADIENTS,
            ability.ROW_OUTPUTS,
            ability.SAMPLING,
            ability.SQUARED_GRADIENTS,
            ability.TEST_ROWS,
        }
    )

    def __init__(
        self,
        dataset: Dataset,
        world: World | None = None,
        *,
        ridge: float = RIDGE,
        dtype: str = "float32",
        intercept: bool = False,
    ):
        check_dataset(dataset)
        self.outputs = self.row_margins = len(dataset.classes)
        self.reference = not ridge
        if self.outputs < 2 and dataset.targets == "classes":
            raise InputError(
                f"softmax regression needs two classes or more; {dataset.name} has "
                f"{', '.join(dataset.classes) or 'none'}"
            )
        super().__init__(
            dataset, world, family="softmax", ridge=ridge, dtype=dtype, intercept=intercept
        )
        self.classes = dataset.classes
        self.check_minimum()

    def check_minimum(self):
        counts = None if self.counts is None else self.counts.numpy()
        sums = self.world.sum(np.bincount(self.shard.y, counts, self.outputs).astype(float))
        if (self.intercept or not self.ridge) and not sums.all():
            raise InputError(
                f"{self.dataset_name}: class {self.classes[int(np.argmin(sums))]!r} has no rows of "
                "weight above 0, so that there is no minimum; number the classes without gaps, or "
                "give rows of each"
            )

    def _shape(self) -> None:
        K, free = self.outputs, self.outputs - self.reference
        self.pinned = pinned_entries(self.features, K, self.intercept, self.reference)
        self.n = int(np.count_nonzero(~self.pinned))
        coefficients = ParameterBlock("coefficients", (self.features, free), 0)
        self.parameter_blocks = (coefficients,)
        if self.intercept:
            self.parameter_blocks += (ParameterBlock("intercepts", (K - 1,), coefficients.size),)
            self.penalized = slice(0, coefficients.size)

    def coefficient_names(self, dataset):
        names = (*self.column_names(dataset), *(("(intercept)",) if self.intercept else ()))
        each = [f"{label}: {name}" for name in names for label in dataset.classes]
        return tuple(name for name, at in zip(each, self.pinned.flat, strict=True) if not at)

    def unscaling(self, scaling):
        K, free = self.outputs, np.flatnonzero(~self.pinned.reshape(-1))
        whole = scipy.sparse.kron(scaling.matrix(self.intercept), np.eye(K), format="csr")
        if self.intercept:  # whose first class stays at 0
            ones = scipy.sparse.kron(np.ones((K, 1)), whole[-K : -K + 1])
            whole = scipy.sparse.vstack([whole[:-K], whole[-K:] - ones], format="csr")
        return scipy.sparse.csr_array(whole)[free][:, free]

    def _make_design(self, shard: Shard, dtype: str, blocks: RowBlocks | None) -> None:
        if shard.offsets is not None:
            raise InputError(
                f"{self.dataset_name}: offsets do not go with softmax regression; leave them out"
            )
        self.design = ClassDesign(shard.X, self.pinned, tf.as_dtype(dtype), blocks)

    def known_margins(self, values: np.ndarray) -> tf.Tensor:
        """Return scores that were computed before, (rows, K)."""
        return super().known_margins(np.reshape(values, (-1, self.outputs)))

    def curvature_at(self, margins: tf.Tensor) -> ClassCurvature:
        P = self._probabilities(margins)
        counts = tf.ones([len(self.shard.y), 1], P.dtype) if self.counts is None else self._column()
        outer, diagonal = tf.sqrt(counts) * P, counts * P
        return self.design.curvature(outer, -1.0, diagonal)

    def empirical_fisher(self, x: np.ndarray) -> ClassCurvature:
        """Return the sum of g g^T over this rank's rows, g the gradient of a row's w l; local."""
        slopes = self._slopes(self.margins(x))
        return self.design.curvature(slopes, 1.0, tf.zeros_like(slopes))

    def losses_along(self, margins, direction, steps):
        losses = [self._losses(margins + step * direction) for step in steps]
        return self.sum_parts(self._part_sums(tf.stack(losses)), (len(steps),)) / self.total

    def _losses(self, margins: tf.Tensor) -> tf.Tensor:
        """Return each row's w l."""
        own = tf.gather(margins, self.labels, batch_dims=1)
        return self._counted(self._by_block(_log_sum, margins) - own)

    def _probabilities(self, margins: tf.Tensor) -> tf.Tensor:
        return self._by_block(tf.nn.softmax, margins)

    def _by_block(self, function, margins: tf.Tensor) -> tf.Tensor:
        """Return a function of rows of scores, of each fixed block alone in reproducible mode."""
        if not self.world.reproducible or not self.parts_here:
            return function(margins)
        return tf.concat([function(margins[part]) for part in self.parts_here], axis=0)

    def _slopes(self, margins: tf.Tensor) -> tf.Tensor:
        slopes = self._probabilities(margins) - tf.one_hot(
            self.labels, self.outputs, dtype=tf.float64
        )
        return slopes if self.counts is None else self._column() * slopes

    def _column(self) -> tf.Tensor:
        assert self.counts is not None
        return self.counts[:, None]

    def squared_gradients(self, x: np.ndarray) -> np.ndarray:
        return self._squared_columns(self._slopes(self.margins(x)).numpy() ** 2)

    def _diagonal_bends(self, margins: tf.Tensor) -> np.ndarray:
        P = self._probabilities(margins)
        bends = P * (1 - P)
        return (bends if self.counts is None else self._column() * bends).numpy()

    def _squared_columns(self, values: np.ndarray) -> np.ndarray:
        self.world.ledger.passes += 1
        sums = [self.design.squares(values, part) for part in self.design.parts]
        return self.sum_parts(np.reshape(sums, (-1, self.n)), (self.n,)) / self.total

    def _gradients(self, places: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        A = self._dense(places)
        table = A[:, :, None] * slopes[places][:, None, :]
        return table.reshape(len(A), -1)[:, self.design.free]

    def _squared_rows(self, values: np.ndarray) -> np.ndarray:
        first = values[:, int(self.reference) :].sum(axis=1)
        return first * self._row_norms + values[:, 1:].sum(axis=1) * self.intercept

    def row_slopes(self, x: np.ndarray, V: np.ndarray) -> np.ndarray:
        slopes = self._slopes_at(x)
        self.world.ledger.passes += V.shape[1]
        along = [(self.design.forward(v).numpy() * slopes).sum(axis=1) for v in V.T]
        return np.reshape(along, (V.shape[1], len(slopes))).T[self._held()]

    def output_terms(self, x: np.ndarray, rows: slice) -> OutputTerms:
        held, margins = self._held()[rows], self.margins(self.check_point(x))
        P, K = self._probabilities(margins).numpy()[held], self.outputs
        weights = np.ones(len(held)) if self.counts is None else self.counts.numpy()[held]
        J = np.einsum("rf,kl->rkfl", self._dense(held), np.eye(K)).reshape(len(held), K, -1)
        bends = P[:, :, None] * np.eye(K) - P[:, :, None] * P[:, None, :]
        slopes = self._slopes(margins).numpy()[held]
        return OutputTerms(J[:, :, self.design.free], slopes, weights[:, None, None] * bends)

    def _dense(self, places: np.ndarray) -> np.ndarray:
        A: Any = self.shard.X[places]
        A = A.toarray() if scipy.sparse.issparse(A) else A.astype(np.float64)
        return np.hstack([A, np.ones((len(A), int(self.intercept)))])

    def fit_statistics(self, x, free):
        loss = self.total * (self.objective(x) - self.ridge_term(x))
        return 2 * loss, 1.0, -loss

    def output(self, x: np.ndarray, X) -> np.ndarray:
        """Return the scores of rows X, (rows, K); local."""
        table = self.table(x)
        return np.asarray(X @ table[: self.features]) + table[self.features :].sum(axis=0)

    def table(self, x: np.ndarray) -> np.ndarray:
        """Return parameters as a table: a row for each feature and the intercept, K columns."""
        table = np.zeros(self.pinned.shape)
        table[~self.pinned] = x
        return table

    def _hits(self, x, X, y, offsets):
        return np.argmax(self.output(x, X), axis=1) == y


def _log_sum(scores: tf.Tensor) -> np.ndarray:
    """Return log sum_k exp(T_ik) of each row of scores T.

    It takes a few rows at a time, which then stay in cache, and turns them, as NumPy is slow along
    rows of ten numbers. Measured with 2 to 50 classes: about half the time of TensorFlow.
    """
    T = view(scores)
    found = np.empty(len(T))
    for part in chunks(slice(None), len(T), max(CACHED // T.shape[1], 1)):
        few = T[part].T.copy()
        top = few.max(axis=0)
        top[~np.isfinite(top)] = 0.0  # of which the sum is infinite or 0
        few -= top
        with np.errstate(over="ignore", divide="ignore"):
            found[part] = top + np.log(np.exp(few, out=few).sum(axis=0))
    return found
