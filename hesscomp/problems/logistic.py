"""Binary logistic regression over sharded data."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse

from hesscomp.curvature.design import DenseDesign, SparseDesign, make_design
from hesscomp.curvature.sharded import ShardCurvature
from hesscomp.curvature.tensorflow import tf
from hesscomp.datasets import Dataset, Shard, from_arrays
from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.datasets.targets import SIGNS
from hesscomp.datasets.validation import check_columns
from hesscomp.errors import InputError
from hesscomp.parallel.rows import RowBlocks
from hesscomp.parallel.world import World
from hesscomp.problems import capabilities as ability
from hesscomp.problems.catalogue import RIDGE
from hesscomp.problems.problem import ParameterBlock, Problem, check_numbers, chunks
from hesscomp.problems.row_terms import DataSlopes, OutputTerms
from hesscomp.problems.rows import RowSet

ROW_NUMBERS = 2**23  # of gradients of single rows that are held at once
VECTOR = 64  # elements: a multiple of every processor's vector length


class LogisticRegression(Problem):
    """E(x) = (1/m) sum_i log(1 + exp(-b_i a_i.x)) + (ridge/2) ||x||^2, labels b_i = +1 or -1.

    Safe for margins of any size. Convex: the Hessian is positive semidefinite.

    Parameters
    ----------
    dataset : Dataset
        Its `train` shard is used; `test` serves `accuracy` only.
    world : World, optional
        All ranks of the job by default.
    ridge : float
        Non-negative; applies to all n coefficients.
    dtype : {"float32", "float64"}
        Precision of curvature products. Loss and gradient are float64 always.

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
    psd = True
    outputs = 1
    capabilities = frozenset(
        {
            ability.CLASSIFICATION,
            ability.DATA_SLOPES,
            ability.MARGINS,
            ability.PREDICTION,
            ability.ROW_GRADIENTS,
            ability.ROW_OUTPUTS,
            ability.SAMPLING,
            ability.SQUARED_GRADIENTS,
            ability.TEST_ROWS,
        }
    )
    counts: tf.Tensor | None = None  # of each row: 1, or 0 where a sample leaves it out

    def __init__(
        self,
        dataset: Dataset,
        world: World | None = None,
        *,
        ridge: float = RIDGE,
        dtype: str = "float32",
    ):
        world = World.of_job() if world is None else world
        check_numbers(ridge, dtype)
        if dataset.targets != "signs":
            raise InputError(
                f"logistic regression needs labels of two classes, and {dataset.name} was read "
                f"with targets {dataset.targets}; read it with targets signs"
            )
        check_columns(dataset.train.X, dataset.name, "logistic regression")
        self.world, self.ridge, self.dtype = world, float(ridge), dtype
        self.n, self.fingerprint = dataset.features, dataset.fingerprint
        self.parameter_blocks = (ParameterBlock("coefficients", (self.n,), 0),)
        self._take(dataset.train, dataset.name, dtype, self.cut(dataset.train))

    def _take(self, shard: Shard, name: str, dtype: str, blocks: RowBlocks | None = None) -> None:
        self.shard, self.rows, self.dataset_name = shard, shard.total, name
        self.design = make_design(shard.X, dtype, blocks)
        self.labels = tf.convert_to_tensor(shard.y)

    def sampled(self, fraction: float, seed: int = 0) -> "LogisticRegression":
        """Return `Problem.sampled`, with copies of its rows.

        In reproducible mode all rows are kept, at the cost of all; those left out count zero times.
        """
        shard, other = self.shard, copy.copy(self)
        rows = RowSet(
            shard.y, shard.y, shard.start, shard.total, self.dataset_name, self.fingerprint
        )
        counted = np.ones(len(shard.y), bool)
        if self.counts is not None:  # a sample of a sample
            counted = self.counts.numpy() > 0
            rows = rows.only(counted, self.dataset_name, self.world)
        kept = rows.picked(fraction, seed)
        other.sample = self.sample_name(fraction, seed)
        name = f"{self.dataset_name} (sample {fraction:g}, seed {seed})"
        picked = rows.only(kept, name, self.world)
        other.rows, other.dataset_name = picked.total, name
        if self.world.reproducible:
            counts = np.zeros(len(shard.y))
            counts[counted] = kept
            other.counts = tf.convert_to_tensor(counts)
        else:
            other._take(replace(picked, X=shard.X[kept]), name, self.dtype)
        return other

    def over(self, data: Dataset | tuple[Any, Any]) -> "LogisticRegression":
        if isinstance(data, Dataset):
            shard, name = data.test, f"{data.name} (test)"
        else:
            name = "test rows"
            shard = from_arrays(*data, self.world, name=name, targets=SIGNS).train
        assert shard is not None  # who evaluates on test rows has looked
        check_columns(shard.X, name, "logistic regression")
        if shard.X.shape[1] != self.n:
            raise InputError(f"{name}: has {shard.X.shape[1]} columns; {self.name} has {self.n}")
        other = copy.copy(self)
        other.ridge, other.counts, other.sample = 0.0, None, "all"
        other.fingerprint = fingerprint(shard, self.world)
        other._take(shard, name, shard.X.dtype.name, other.cut(shard))
        return other

    def compile(self) -> None:
        """Trace the data products, so that no timed one is the first; local, no pass."""
        self.design.compile()

    def linearize(self, x: np.ndarray) -> "LogisticCurvature":
        return self.curvature_at(self.margins(x))

    def margins(self, x: np.ndarray) -> tf.Tensor:
        """Return a_i.x for this shard's rows; local, one pass."""
        self.world.ledger.passes += 1
        return self.design.forward(tf.convert_to_tensor(x, tf.float64))

    def known_margins(self, values: np.ndarray) -> tf.Tensor:
        return tf.convert_to_tensor(values, tf.float64)

    def curvature_at(self, margins: tf.Tensor) -> "LogisticCurvature":
        return LogisticCurvature(self.design, self._weights(margins))

    def _weights(self, margins: tf.Tensor) -> tf.Tensor:
        """Return the second derivative of each row's loss by its margin."""
        return self._counted(self._each(lambda t: tf.sigmoid(t) * tf.sigmoid(-t), margins))

    def objective_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        return self.evaluate(x, self.margins(x))

    def objective(self, x: np.ndarray) -> float:
        margins = self.margins(x)
        loss = self.losses_along(margins, tf.zeros_like(margins), np.zeros(1))[0]
        return float(loss + self.ridge / 2 * (x @ x))

    def evaluate(self, x: np.ndarray, margins: tf.Tensor) -> tuple[float, np.ndarray]:
        """Return E(x) and its gradient where the margins are known; one pass, one reduction."""
        self.world.ledger.passes += 1
        losses, slopes = map(self._counted, self._each(_losses_and_slopes, margins, self.labels))
        if self.world.reproducible:
            gradients = self.design.adjoint_by_row_block(slopes)
        else:
            gradients = self.design.adjoint(slopes)[None]
        addends = np.hstack([gradients, self._part_sums(losses[None])])
        total = self.sum_parts(addends, (self.n + 1,)) / self.rows
        return float(total[-1] + self.ridge / 2 * (x @ x)), total[:-1] + self.ridge * x

    def squared_gradients(self, x: np.ndarray) -> np.ndarray:
        self.world.ledger.passes += 1
        slopes = self._each(_losses_and_slopes, self.margins(x), self.labels)[1]
        squares, parts = self._counted(slopes).numpy() ** 2, self.parts_here
        sums = np.zeros((len(parts), self.n))
        for i, part in enumerate(parts):
            for rows in chunks(part, len(squares), 1024):  # float32 rows are widened, a few at once
                sums[i] += (self.shard.X[rows] ** 2).T @ squares[rows]
        return self.sum_parts(sums, (self.n,)) / self.rows

    @property
    def rows_here(self) -> int:
        return len(self._held())

    def row_gradients(self, x, rows=None):
        held, slopes = self._held(), self._slopes(x)
        chosen = np.arange(len(held)) if rows is None else np.asarray(rows, np.int64)
        for part in chunks(slice(None), len(chosen), max(ROW_NUMBERS // self.n, 1)):
            places = held[chosen[part]]
            yield chosen[part], slopes[places, None] * self._dense(places)

    def row_squares(self, x):
        held, slopes = self._held(), self._slopes(x)
        found = [np.zeros(0)]
        for part in chunks(slice(None), len(held), 1024):  # float32 rows are widened, a few at once
            A = self.shard.X[held[part]].astype(np.float64)
            squares = A.multiply(A) if scipy.sparse.issparse(A) else A * A
            found.append(np.asarray(squares.sum(axis=1)).reshape(-1))
        return slopes[held] ** 2 * np.concatenate(found)

    def row_slopes(self, x: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Return `Problem.row_slopes`, by one pass for each column and one more."""
        return (self._slopes(x)[:, None] * self._forward(V))[self._held()]

    def output_terms(self, x: np.ndarray, rows: slice) -> OutputTerms:
        held, weights = self._held()[rows], self._weights(self.margins(x)).numpy()
        slopes, curvature = self._slopes(x)[held, None], weights[held, None, None]
        return OutputTerms(self._dense(held)[:, None], slopes, curvature)

    def data_slopes(self, x: np.ndarray, V: np.ndarray) -> DataSlopes:
        """Return `Problem.data_slopes`; labels by the probability of the label +1."""
        along, slopes = self._forward(V), np.asarray(self._counted(self._slopes(x)))
        bends = self._weights(self.margins(x)).numpy()[:, None] * along
        # g . v = slope(t) a.v with t = a.x, so that d(g . v)/da = bend x + slope v.
        sums = self._sums(np.column_stack([bends, slopes]))
        backs = np.column_stack([self._adjoint(each) for each in (*bends.T, slopes)])
        shifts = x[:, None] * sums[:-1] + sums[-1] * V
        scales = x[:, None] * backs[:, :-1] + backs[:, -1:] * V
        return DataSlopes(-along[self._held()], shifts, scales)

    def _forward(self, V: np.ndarray) -> np.ndarray:
        """Return A V for the shard, column by column: bits depend on no chunk."""
        self.world.ledger.passes += V.shape[1]
        columns = [self.design.forward(tf.constant(v)).numpy() for v in V.T]
        return np.reshape(columns, (V.shape[1], len(self.shard.y))).T

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Return a number or more for each row of the shard summed over the rows of all ranks."""
        return self.sum_parts(self._part_sums(tf.constant(values.T)), values.shape[1:])

    def _adjoint(self, values: np.ndarray) -> np.ndarray:
        """Return A^T values over the rows of all ranks."""
        values = tf.constant(values)
        if self.world.reproducible:
            return self.sum_parts(self.design.adjoint_by_row_block(values).numpy(), (self.n,))
        return self.sum_parts(self.design.adjoint(values).numpy()[None], (self.n,))

    def _dense(self, places: np.ndarray) -> np.ndarray:
        """Return rows of the shard, dense and in float64."""
        part: Any = self.shard.X[places]
        return part.toarray() if scipy.sparse.issparse(part) else part.astype(np.float64)

    def _slopes(self, x: np.ndarray) -> np.ndarray:
        """Return the derivatives of the losses of the rows here by their margins."""
        margins = self.margins(self.check_point(x))
        return self._each(_losses_and_slopes, margins, self.labels)[1].numpy()

    def _held(self) -> np.ndarray:
        """Return which rows here count: all, but for samples in reproducible mode."""
        if self.counts is None:
            return np.arange(len(self.shard.y))
        return np.flatnonzero(self.counts.numpy())

    def losses_along(
        self, margins: tf.Tensor, direction: tf.Tensor, steps: np.ndarray
    ) -> np.ndarray:
        column = tf.convert_to_tensor(steps, tf.float64)[:, None]
        losses = self._each(
            lambda m, d, y: _softplus(-y * (m + column * d)), margins, direction, self.labels
        )
        addends = self._part_sums(self._counted(losses))
        return self.sum_parts(addends, (len(steps),)) / self.rows

    def _each(self, function, *vectors: tf.Tensor):
        """Return an element-wise function of (rows,) tensors; equal elements give equal bits.

        Vector instructions and what is left over for single ones may round apart, so in
        reproducible mode vectors are lengthened until nothing is left over.
        """
        if not self.world.reproducible:
            return function(*vectors)
        rows = vectors[0].shape[0]
        more = -rows % VECTOR
        out = function(*(tf.pad(vector, [[0, more]]) for vector in vectors))
        return tf.nest.map_structure(lambda tensor: tensor[..., :rows], out)

    def _counted(self, values: tf.Tensor) -> tf.Tensor:
        """Return (..., rows) values with zeros for the rows that a sample leaves out."""
        return values if self.counts is None else values * self.counts

    def _part_sums(self, values: tf.Tensor) -> np.ndarray:
        """Return (j, rows) values summed over each of the parts here: (parts, j)."""
        if not self.world.reproducible:
            return tf.reduce_sum(values, axis=1).numpy()[None]
        sums = [values.numpy()[:, rows].sum(axis=1) for rows in self.parts_here]
        return np.array(sums).reshape(-1, len(values))

    def output(self, x: np.ndarray, X) -> np.ndarray:
        """Return the margins a.x of rows X: positive where the label +1 is likelier; local."""
        return X @ x

    def right_predictions(self, x: np.ndarray) -> tuple[int, int]:
        shard = self.shard
        if self.counts is not None:  # a sample in reproducible mode holds the other rows too
            kept = self.counts.numpy() > 0
            shard = replace(shard, X=shard.X[kept], y=shard.y[kept])
        return self.right(x, shard), len(shard.y)

    def accuracy(self, x: np.ndarray, shard: Shard) -> float:
        """Return the share of all ranks' rows whose label is the sign of a.x; NaN if none.

        A row with a.x = 0 is taken as negative, as scikit-learn does.
        """
        counts = np.array([self.right(x, shard), len(shard.y)], dtype=np.int64)
        right, total = self.world.sum(counts).tolist()
        return right / total if total else float("nan")

    def right(self, x: np.ndarray, shard: Shard) -> int:
        """Return how many rows of this rank's `shard` have the sign of a.x as label; local."""
        hits = 0
        for rows in chunks(slice(None), len(shard.y), 1024):  # float32 rows are widened, a few each
            hits += int(np.count_nonzero((shard.X[rows] @ x > 0) == (shard.y[rows] > 0)))
        return hits


@dataclass(frozen=True)
class LogisticCurvature(ShardCurvature):
    """A shard's sum of sigma(t) sigma(-t) a a^T."""

    design: DenseDesign | SparseDesign
    weights: tf.Tensor
    assembles = True

    def product(self, V: tf.Tensor) -> tf.Tensor:
        return self.design.gram_product(self.weights, V)

    def product_by_row_block(self, V: tf.Tensor) -> tf.Tensor:
        return self.design.gram_product_by_row_block(self.weights, V)

    def dense(self) -> tf.Tensor:
        return self.design.gram(self.weights)

    def dense_by_row_block(self) -> tf.Tensor:
        return self.design.gram_by_row_block(self.weights)


# Element-wise work runs eagerly: a handful of operations at 15 us each, where calling a compiled
# function costs 200 us.


def _softplus(t: tf.Tensor) -> tf.Tensor:
    """Return log(1 + exp(t)) to full precision for any t, which tf.nn.softplus does not."""
    return tf.maximum(t, 0.0) + tf.math.log1p(tf.exp(-tf.abs(t)))


def _losses_and_slopes(margins, labels):
    t = labels * margins
    return _softplus(-t), -labels * tf.sigmoid(-t)
