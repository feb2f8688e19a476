"""Generalised linear models over sharded data."""

import copy
import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse

from hesscomp.curvature.design import make_design, squared_rows, weighted_squares
from hesscomp.curvature.intercept import WithIntercept
from hesscomp.curvature.sharded import ShardCurvature
from hesscomp.curvature.tensorflow import keep_freed_memory, tf
from hesscomp.datasets import Dataset, Shard, from_arrays
from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.datasets.scaling import Scaling
from hesscomp.datasets.targets import CLASSES, SIGNS, VALUES
from hesscomp.datasets.validation import check_columns
from hesscomp.errors import InputError
from hesscomp.linear.families import known_family
from hesscomp.parallel.rows import RowBlocks
from hesscomp.parallel.world import World
from hesscomp.problems import capabilities as ability
from hesscomp.problems.catalogue import RIDGE
from hesscomp.problems.problem import ParameterBlock, Problem, check_numbers, chunks
from hesscomp.problems.row_terms import DataSlopes, OutputTerms
from hesscomp.problems.rows import RowSet

log = logging.getLogger(__name__)

ROW_NUMBERS = 2**23  # of gradients of single rows that are held at once
NEEDED = {SIGNS: "labels of two classes", CLASSES: "labels of classes", VALUES: "real numbers"}
FREED = 2.0**28  # bytes that vectors of rows leave for the next ones (on text, a tenth of a run)
VECTOR = 64  # elements: a multiple of every processor's vector length


def softplus(t: tf.Tensor) -> tf.Tensor:
    """Return log(1 + exp(t)) to full precision for any t, which tf.nn.softplus does not."""
    return tf.maximum(t, 0.0) + tf.math.log1p(tf.exp(-tf.abs(t)))


# What families are written with. Element-wise work runs eagerly: a handful of operations at 15 us
# each, where calling a compiled function costs 200 us.
MATH = SimpleNamespace(
    exp=tf.exp, sigmoid=tf.sigmoid, softplus=softplus, ones_like=tf.ones_like
)  # fmt: skip


def check_dataset(dataset) -> None:
    """Raise InputError for what is no data set."""
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"a linear model is made of a data set, not of {type(dataset).__name__}; take what "
            "hesscomp.load_data reads, or hesscomp.datasets.from_arrays(X, y, world) of arrays"
        )


class GeneralizedLinearModel(Problem):
    """E(x) = (1/W) sum_i w_i l(a_i.x + o_i, b_i) + (ridge/2) ||x||^2, l the loss of a `Family`.

    Convex: the Hessian is positive semidefinite. w_i are the rows' weights, 1 without any, and W is
    their sum; o_i are offsets, 0 without any.

    Parameters
    ----------
    dataset : Dataset
        Its `train` shard is used, with its weights and offsets; `test` serves evaluations only.
    world : World, optional
        All ranks of the job by default.
    family : {"logistic", "least-squares", "poisson", "gamma", "tweedie", "tweedie:POWER"}
        The loss; the last four have the logarithm as link. Variances of "tweedie" rise as the
        mean's power, 1.5 by default.
    ridge : float
        Non-negative; applies to the coefficients, and not to the intercept.
    dtype : {"float32", "float64"}
        Precision of curvature products. Loss and gradient are float64 always.
    intercept : bool
        Whether there is a constant beside the n columns: a last parameter, for a column of ones
        that is not stored.

    Raises
    ------
    InputError
        For targets that the family does not take.

    Notes
    -----
    Memory per rank: the shard, once more in `dtype` where the data have another type, and a few
    vectors of its number of rows.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> from hesscomp.datasets import from_arrays
    >>> counts = from_arrays(np.eye(3), np.array([0, 2, 5]), hc.World(), targets="values")
    >>> model = hc.GeneralizedLinearModel(counts, family="poisson", intercept=True)
    >>> [(block.name, block.size) for block in model.parameter_blocks]
    [('coefficients', 3), ('intercept', 1)]
    """

    psd = True
    outputs = 1
    capabilities = frozenset(
        {
            ability.DATA_SLOPES,
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
    reference = False  # whether a class has no coefficients
    left_out: np.ndarray | None = None  # which rows here do not count
    _norms: np.ndarray | None = None
    counts: tf.Tensor | None = None  # of each row: its weight, or 0 where a sample leaves it out

    def __init__(
        self,
        dataset: Dataset,
        world: World | None = None,
        *,
        family: str,
        ridge: float = RIDGE,
        dtype: str = "float32",
        intercept: bool = False,
    ):
        world = World.of_job() if world is None else world
        check_numbers(ridge, dtype)
        check_dataset(dataset)
        self.family: Any = known_family(family)
        self.family_name = family
        self.free_scale = self.family.dispersed
        self.name, what = self.family.title, self.family.title.replace("-", " ")
        if dataset.targets != self.family.targets:
            needed = NEEDED[self.family.targets]
            raise InputError(
                f"{what} needs {needed}, and {dataset.name} was read with targets "
                f"{dataset.targets}; read it with targets {self.family.targets}"
            )
        check_columns(dataset.train.X, dataset.name, what)
        keep_freed_memory(FREED)
        self.world, self.ridge, self.dtype = world, float(ridge), dtype
        self.features, self.intercept = dataset.features, bool(intercept)
        self.fingerprint = dataset.fingerprint
        self._shape()
        self._take(dataset.train, dataset.name, dtype, self.cut(dataset.train))

    def _shape(self) -> None:
        """Say which parameters there are."""
        self.n = self.features + self.intercept
        self.parameter_blocks = (ParameterBlock("coefficients", (self.features,), 0),)
        if self.intercept:
            self.parameter_blocks += (ParameterBlock("intercept", (1,), self.features),)
            self.penalized = slice(0, self.features)

    def _take(self, shard: Shard, name: str, dtype: str, blocks: RowBlocks | None = None) -> None:
        with self.world.phase(f"checking {name}"):
            wrong = np.flatnonzero(~self.family.allowed(shard.y))
            if len(wrong):
                raise InputError(
                    f"{name}: row {shard.start + wrong[0] + 1} has the target "
                    f"{shard.y[wrong[0]]:g}; {self.name} takes {self.family.rule}"
                )
        self.shard, self.rows, self.dataset_name = shard, shard.total, name
        self._norms = None
        self._make_design(shard, dtype, blocks)
        self.labels = tf.convert_to_tensor(shard.y)
        self.offsets = None if shard.offsets is None else tf.convert_to_tensor(shard.offsets)
        self._count(shard.weights)

    def column_names(self, dataset: Dataset) -> tuple[str, ...]:
        """Return the names of the columns, or x1, x2 and so on."""
        return dataset.feature_names or tuple(f"x{i + 1}" for i in range(self.features))

    def coefficient_names(self, dataset: Dataset) -> tuple[str, ...]:
        """Return a name for each parameter."""
        return (*self.column_names(dataset), *(("(intercept)",) if self.intercept else ()))

    def unscaling(self, scaling: Scaling) -> scipy.sparse.csr_array:
        """Return T with T x the parameters for columns as they were before a scaling."""
        return scaling.matrix(self.intercept)

    def check_minimum(self) -> None:
        """Raise InputError where the rows leave the objective without a minimum. Collective."""

    def _make_design(self, shard: Shard, dtype: str, blocks: RowBlocks | None) -> None:
        design = make_design(shard.X, dtype, blocks)
        self.design: Any = WithIntercept(design, blocks) if self.intercept else design

    def _count(self, counts: np.ndarray | None) -> None:
        """Take the (rows,) counts of this rank's rows, None where each counts once. Collective."""
        self.counts, self.weight_sum = None, None
        if counts is not None:
            self.counts = tf.convert_to_tensor(counts)
            sums = self._part_sums(self.counts[None])
            self.weight_sum = float(self.sum_parts(sums, (1,))[0])
            if not self.total > 0:
                raise InputError(f"{self.dataset_name}: all rows have the weight 0")

    def exact(self) -> "GeneralizedLinearModel":
        """Return this problem with curvature products in float64; float32 data are copied."""
        if self.dtype == "float64":
            return self
        other = copy.copy(self)
        other.dtype, other.design = "float64", self.design.exact()
        return other

    def sampled(self, fraction: float, seed: int = 0) -> "GeneralizedLinearModel":
        """Return `Problem.sampled`, with copies of its rows.

        In reproducible mode all rows are kept, at the cost of all; those left out count zero times.
        """
        shard, other = self.shard, copy.copy(self)
        counted, weights = self._counted_here(), shard.weights
        rows = RowSet(
            shard.y, shard.y, shard.start, shard.total, weights, shard.offsets,
            name=self.dataset_name, fingerprint=self.fingerprint,
        )  # fmt: skip
        if not counted.all():  # a sample of a sample
            rows = rows.only(counted, self.dataset_name, self.world)
        kept = rows.picked(fraction, seed)
        other.sample = self.sample_name(fraction, seed)
        name = f"{self.dataset_name} (sample {fraction:g}, seed {seed})"
        picked = rows.only(kept, name, self.world)
        other.rows, other.dataset_name = picked.total, name
        if self.world.reproducible:
            other.left_out = np.ones(len(shard.y), bool)
            other.left_out[np.flatnonzero(counted)[kept]] = False
            other._count(~other.left_out * (1.0 if weights is None else weights))
        else:
            other._take(replace(picked, X=shard.X[kept]), name, self.dtype)
        return other

    def leaving_out(self, rows: np.ndarray) -> "GeneralizedLinearModel":
        """Return this problem without some of this rank's rows. Collective.

        `rows` are booleans for the shard's rows. They are kept and count zero times, so that
        nothing is copied and a product costs as much as one with all rows.
        """
        other, shard = copy.copy(self), self.shard
        other.left_out = ~self._counted_here() | rows
        left = self.world.sum(np.array([np.count_nonzero(~other.left_out)], float))
        other.rows = int(left[0])
        other.dataset_name = f"{self.dataset_name} (without {self.rows - other.rows} rows)"
        weights = np.ones(len(shard.y)) if shard.weights is None else shard.weights
        other._count(~other.left_out * weights)
        return other

    def _counted_here(self) -> np.ndarray:
        """Return which of this rank's rows are in the sample: (rows,) booleans."""
        return np.ones(len(self.shard.y), bool) if self.left_out is None else ~self.left_out

    def over(self, data: Dataset | tuple[Any, Any]) -> "GeneralizedLinearModel":
        if isinstance(data, Dataset):
            shard, name = data.test, f"{data.name} (test)"
        else:
            name = "test rows"
            shard = from_arrays(*data, self.world, name=name, targets=self.family.targets).train
        assert shard is not None  # who evaluates on test rows has looked
        check_columns(shard.X, name, self.name.replace("-", " "))
        if shard.X.shape[1] != self.features:
            found, own = shard.X.shape[1], self.features
            raise InputError(f"{name}: has {found} columns; {self.name} has {own}")
        if self.offsets is not None and shard.offsets is None:
            raise InputError(
                f"{name}: has no offsets, and the training rows have; load a file that has them"
            )
        other = copy.copy(self)
        other.ridge, other.left_out, other.sample = 0.0, None, "all"
        other.fingerprint = fingerprint(shard, self.world)
        other._take(shard, name, shard.X.dtype.name, other.cut(shard))
        return other

    def compile(self) -> None:
        """Trace the data products, so that no timed one is the first; local, no pass."""
        self.design.compile()

    def linearize(self, x: np.ndarray) -> ShardCurvature:
        return self.curvature_at(self.margins(x))

    def margins(self, x: np.ndarray) -> tf.Tensor:
        """Return a_i.x for this shard's rows; local, one pass."""
        self.world.ledger.passes += 1
        return self.design.forward(np.asarray(x, np.float64))

    def known_margins(self, values: np.ndarray) -> tf.Tensor:
        return tf.convert_to_tensor(values, tf.float64)

    def curvature_at(self, margins: tf.Tensor) -> ShardCurvature:
        return self.design.curvature(self._bends(margins))

    def empirical_fisher(self, x: np.ndarray) -> ShardCurvature:
        """Return the sum of g g^T over this rank's rows, g the gradient of a row's w l; local."""
        return self.design.curvature(self._slopes(self.margins(x)) ** 2)

    def objective_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        return self.evaluate(x, self.margins(x))

    def objective(self, x: np.ndarray) -> float:
        margins = self.margins(x)
        loss = self.losses_along(margins, tf.zeros_like(margins), np.zeros(1))[0]
        return float(loss + self.ridge_term(x))

    def evaluate(self, x: np.ndarray, margins: tf.Tensor) -> tuple[float, np.ndarray]:
        """Return E(x) and its gradient where the margins are known; one pass, one reduction."""
        self.world.ledger.passes += 1
        losses, slopes = self._losses(margins), self._slopes(margins)
        gradients, sums = self._backs(slopes), self._part_sums(losses[None])
        return self.values_of_sums(np.hstack([gradients, sums]), x)

    def _backs(self, values: tf.Tensor) -> np.ndarray:
        """Return A^T values of this rank's rows for each of its parts: (parts, n)."""
        if self.world.reproducible:
            return self.design.adjoint_by_row_block(values)
        return self.design.adjoint(values)[None]

    def squared_gradients(self, x: np.ndarray) -> np.ndarray:
        return self._squared_columns(self._slopes(self.margins(x)).numpy() ** 2)

    def hessian_diagonal(self, x: np.ndarray) -> np.ndarray:
        return self.hessian_diagonal_at(x, self.margins(x))

    def hessian_diagonal_at(self, x: np.ndarray, margins: tf.Tensor) -> np.ndarray:
        return self._squared_columns(self._diagonal_bends(margins))

    def hessian_trace(self, x: np.ndarray, margins: tf.Tensor | None = None) -> float:
        bends = self._diagonal_bends(self.margins(x) if margins is None else margins)
        return float(self._sums(self._squared_rows(bends)[:, None])[0]) / self.total

    def _diagonal_bends(self, margins: tf.Tensor) -> np.ndarray:
        """Return the second derivative of each row's loss by each of its margins."""
        return self._bends(margins).numpy()

    def _squared_columns(self, values: np.ndarray) -> np.ndarray:
        """Return the sums over all rows of squares times a value of each row, over the total."""
        self.world.ledger.passes += 1
        parts, X = self.parts_here, self.shard.X
        sums = np.empty((len(parts), self.n))
        for i, part in enumerate(parts):
            A = X if part.indices(len(values)) == (0, len(values), 1) else X[part]
            sums[i, : self.features] = weighted_squares(A, values[part, None])[:, 0]
            sums[i, self.features :] = values[part].sum()
        found = self.sum_parts(sums, (self.n,))
        found /= self.total
        return found

    @property
    def rows_here(self) -> int:
        return int(np.count_nonzero(self._counted_here()))

    def row_gradients(self, x, rows=None):
        held, slopes = self._held(), self._slopes_at(x)
        chosen = np.arange(len(held)) if rows is None else np.asarray(rows, np.int64)
        for part in chunks(slice(None), len(chosen), max(ROW_NUMBERS // self.n, 1)):
            places = held[chosen[part]]
            yield chosen[part], self._gradients(places, slopes)

    def _gradients(self, places: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """Return the gradients of a few rows of the shard, given all rows' slopes."""
        return slopes[places, None] * self._dense(places)

    def row_squares(self, x):
        return self._squared_rows(self._slopes_at(x) ** 2)[self._held()]

    def _squared_rows(self, values: np.ndarray) -> np.ndarray:
        """Return the squared norm of each row times its values, over all parameters: (rows,)."""
        return values * (self._row_norms + self.intercept)

    @property
    def _row_norms(self) -> np.ndarray:
        """The squared norms of the shard's rows, without the intercept's column.

        They are computed once for a problem, and are not counted as a pass: a run that resumes,
        which computes them again, has the same counts.
        """
        if self._norms is None:
            self._norms = squared_rows(self.shard.X)
        return self._norms

    def row_slopes(self, x: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Return `Problem.row_slopes`, by one pass for each column and one more."""
        return (self._slopes_at(x)[:, None] * self._forward(V))[self._held()]

    def output_terms(self, x: np.ndarray, rows: slice) -> OutputTerms:
        held, margins = self._held()[rows], self.margins(self.check_point(x))
        slopes, bends = self._slopes(margins).numpy(), self._bends(margins).numpy()
        found = self._dense(held)[:, None], slopes[held, None], bends[held, None, None]
        return OutputTerms(*found, self._pearson(margins)[held])

    def data_slopes(self, x: np.ndarray, V: np.ndarray) -> DataSlopes:
        """Return `Problem.data_slopes`; labels by the probability of the label +1."""
        along, margins = self._forward(V), self.margins(self.check_point(x))
        slopes, bends = self._slopes(margins).numpy(), self._bends(margins).numpy()[:, None] * along
        at = self._predictor(margins), self.labels
        by_target = self._counted(self._each("slope_by_target", *at)).numpy()
        # g . v = slope(t) a.v with t = a.x, so that d(g . v)/da = bend x + slope v.
        sums = self._sums(np.column_stack([bends, slopes]))
        backs = np.column_stack([self._adjoint(each) for each in (*bends.T, slopes)])
        own = slice(0, self.features)
        x, V, backs = x[own], V[own], backs[own]
        shifts = x[:, None] * sums[:-1] + sums[-1] * V
        scales = x[:, None] * backs[:, :-1] + backs[:, -1:] * V
        return DataSlopes((by_target[:, None] * along)[self._held()], shifts, scales)

    def _pearson(self, margins: tf.Tensor) -> np.ndarray:
        """Return each row's w (y - mean)^2 / variance."""
        mean = self.family.mean(self._predictor(margins).numpy())
        if self.family.targets != VALUES:  # a label has no dispersion
            return np.zeros(len(mean))
        squares = (self.shard.y - mean) ** 2 / self.family.variance(mean)
        return squares if self.counts is None else squares * self.counts.numpy()

    def fit_statistics(self, x: np.ndarray, free: float) -> tuple[float, float, float]:
        """Return the deviance, the dispersion and the log likelihood at x. Collective.

        `free` are the rows' weights less the parameters: what Pearson's statistic is divided by,
        where the family has a dispersion. Two passes; the log likelihood is NaN where the density
        is not known. Sums are reproducible as those of the objective.
        """
        family, y, margins = self.family, self.shard.y, self.margins(self.check_point(x))
        t = self._predictor(margins)
        losses = self._each("loss", t, self.labels).numpy()
        above = self._counted(tf.constant(losses - family.least(y))).numpy()
        loss, pearson = self._sums(np.column_stack([above, self._pearson(margins)]))
        deviance, scale = 2 * float(loss), float(pearson) / free if family.dispersed else 1.0
        at = deviance / self.total if family.by_mean_deviance else scale
        densities = family.log_density(y, t.numpy(), at)
        likelihood = self._sums(self._counted(tf.constant(densities)).numpy()[:, None])
        return deviance, scale, float(likelihood[0])

    def _forward(self, V: np.ndarray) -> np.ndarray:
        """Return A V for the shard, column by column: bits depend on no chunk."""
        self.world.ledger.passes += V.shape[1]
        columns = [self.design.forward(v).numpy() for v in np.asarray(V.T, np.float64)]
        return np.reshape(columns, (V.shape[1], len(self.shard.y))).T

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Return a number or more for each row of the shard summed over the rows of all ranks."""
        return self.sum_parts(self._part_sums(tf.constant(values.T)), values.shape[1:])

    def _adjoint(self, values: np.ndarray) -> np.ndarray:
        """Return A^T values over the rows of all ranks."""
        return self.sum_parts(self._backs(tf.constant(values)), (self.n,))

    def _dense(self, places: np.ndarray) -> np.ndarray:
        """Return rows of the shard, dense and in float64, with the intercept's column."""
        A: Any = self.shard.X[places]
        A = A.toarray() if scipy.sparse.issparse(A) else A.astype(np.float64)
        return np.hstack([A, np.ones((len(A), self.n - self.features))])

    def _slopes_at(self, x: np.ndarray) -> np.ndarray:
        return self._slopes(self.margins(self.check_point(x))).numpy()

    def _held(self) -> np.ndarray:
        """Return which of this rank's rows are in the sample, by their places."""
        return np.flatnonzero(self._counted_here())

    def losses_along(
        self, margins: tf.Tensor, direction: tf.Tensor, steps: np.ndarray
    ) -> np.ndarray:
        column = tf.convert_to_tensor(steps, tf.float64)[:, None]
        losses = self._each(
            lambda m, t, d, y: self.family.loss(m, t + column * d, y),
            self._predictor(margins), direction, self.labels,
        )  # fmt: skip
        addends = self._part_sums(self._counted(losses))
        return self.sum_parts(addends, (len(steps),)) / self.total

    def _predictor(self, margins: tf.Tensor) -> tf.Tensor:
        """Return the margins with the rows' offsets."""
        return margins if self.offsets is None else margins + self.offsets

    def _losses(self, margins: tf.Tensor) -> tf.Tensor:
        """Return each row's w_i l_i."""
        return self._counted(self._each("loss", self._predictor(margins), self.labels))

    def _slopes(self, margins: tf.Tensor) -> tf.Tensor:
        """Return each row's w_i l'_i."""
        return self._counted(self._each("slope", self._predictor(margins), self.labels))

    def _bends(self, margins: tf.Tensor) -> tf.Tensor:
        """Return each row's w_i l''_i."""
        return self._counted(self._each("bend", self._predictor(margins), self.labels))

    def _each(self, function, *vectors: tf.Tensor):
        """Return one of the family's functions, or such a one, of (rows,) tensors.

        Equal elements give equal bits.

        Vector instructions and what is left over for single ones may round apart, so in
        reproducible mode vectors are lengthened until nothing is left over.
        """
        if isinstance(function, str):
            function = getattr(self.family, function)
        if not self.world.reproducible:
            return function(MATH, *vectors)
        rows = vectors[0].shape[0]
        more = -rows % VECTOR
        out = function(MATH, *(tf.pad(vector, [[0, more]]) for vector in vectors))
        return tf.nest.map_structure(lambda tensor: tensor[..., :rows], out)

    def _counted(self, values: tf.Tensor) -> tf.Tensor:
        """Return (..., rows) values times the rows' counts."""
        return values if self.counts is None else values * self.counts

    def _part_sums(self, values: tf.Tensor) -> np.ndarray:
        """Return (j, rows) values summed over each of the parts here: (parts, j)."""
        if not self.world.reproducible:
            return tf.reduce_sum(values, axis=1).numpy()[None]
        sums = [values.numpy()[:, rows].sum(axis=1) for rows in self.parts_here]
        return np.array(sums).reshape(-1, len(values))

    def output(self, x: np.ndarray, X) -> np.ndarray:
        """Return the margins a.x of rows X, without offsets; local."""
        return X @ x[: self.features] + x[self.features :].sum()


class Classifier(GeneralizedLinearModel):
    """A model of classes: it also counts right predictions."""

    def right_predictions(self, x: np.ndarray) -> tuple[int, int]:
        shard = self.shard
        if self.left_out is not None:  # a sample in reproducible mode holds the other rows too
            kept = self._counted_here()
            shard = replace(shard, X=shard.X[kept], y=shard.y[kept])
        return self.right(x, shard), len(shard.y)

    def accuracy(self, x: np.ndarray, shard: Shard) -> float:
        """Return the share of all ranks' rows whose class is predicted; NaN if there are no rows.

        Of two classes the first where both are as likely, as scikit-learn takes it. Weights do not
        count.
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
        """Return how many of this rank's `shard`'s rows have the predicted class; local."""
        hits = 0
        for rows in chunks(slice(None), len(shard.y), 1024):  # float32 rows are widened, a few each
            offsets = 0.0 if shard.offsets is None else shard.offsets[rows]
            hits += int(np.count_nonzero(self._hits(x, shard.X[rows], shard.y[rows], offsets)))
        return hits

    def _hits(self, x: np.ndarray, X, y: np.ndarray, offsets) -> np.ndarray:
        """Return which of some rows have the predicted class."""
        return (self.output(x, X) + offsets > 0) == (y > 0)
