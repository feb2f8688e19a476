"""Problems with a loss of a model's output: Gauss-Newton and Fisher matrices, K-FAC."""

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np

from hesscomp.curvature.chunks import RowSum, row_values
from hesscomp.curvature.losses import (
    Loss,
    Outer,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)
from hesscomp.curvature.networks.engine import NetworkEngine
from hesscomp.curvature.networks.penalty import Penalty
from hesscomp.curvature.tensorflow import tf, view
from hesscomp.errors import InputError
from hesscomp.factors import Kronecker
from hesscomp.parallel import random
from hesscomp.problems import capabilities as ability
from hesscomp.problems.differentiable import DifferentiableProblem, some_rows
from hesscomp.problems.kronecker import kronecker_factor, kronecker_matrices
from hesscomp.problems.problem import KroneckerMatrices, chunks
from hesscomp.problems.row_terms import OutputTerms


class NetworkProblem(DifferentiableProblem):
    """f(x) = (1/m) sum_i l(y_i, model(x; a_i)) + r(x) + (ridge/2) ||x||^2, by a `NetworkEngine`.

    Attributes
    ----------
    loss : Loss
        l, of the model's output.
    penalty : Penalty or None
        r, the regularisers.
    """

    capabilities = DifferentiableProblem.capabilities | {
        ability.CLASSIFICATION,
        ability.EMPIRICAL_FISHER,
        ability.FISHER,
        ability.GAUSS_NEWTON,
        ability.GAUSS_NEWTON_ROWS,
        ability.KRONECKER_FACTORS,
        ability.MONTE_CARLO_FISHER,
        ability.PREDICTION,
        ability.ROW_OUTPUTS,
    }

    engine: NetworkEngine

    def _take_loss(self, loss: Loss, penalty: Penalty | None) -> None:
        """Take the loss and the regularisers; to be called once by subclasses."""
        self.loss, self.penalty, self.loss_name = loss, penalty, loss.name
        self.free_scale = isinstance(loss.bare, SquaredError)
        self.gauss_newton_psd = loss.convex and (penalty is None or penalty.convex)
        if not isinstance(loss.bare, SoftmaxCrossEntropy | SigmoidCrossEntropy):
            self.capabilities = self.capabilities - {ability.CLASSIFICATION}
        if not loss.convex or penalty is not None:
            self.capabilities = self.capabilities - {ability.GAUSS_NEWTON_ROWS}
        if not loss.natural:
            self.capabilities = self.capabilities - {ability.FISHER}

    def _row_values(self, theta, X) -> int:
        return row_values(self.engine.output, theta, X)

    @cached_property
    def row_work(self) -> float:
        """`Problem.row_work`, with layers at several places of a row, as convolutions, at each."""
        layers = self.engine.outer_layers
        if not layers:
            return 3.0 * self.n
        rows, loss = self.row_specs(self.dtype), Outer(self.loss)
        kernel = self.compiled("outer_factors", self.dtype, rows, extra=(loss,))
        shapes = tf.nest.flatten(kernel.get_concrete_function().structured_outputs)[::2]
        repeats = [(found.shape[1] or 1) - 1 for found in shapes]
        sizes = [sum(self.parameter_blocks[i].size for i in own) for own in layers]
        return 3.0 * (self.n + float(np.dot(repeats, sizes)))

    def output(self, x: np.ndarray, X: np.ndarray) -> np.ndarray:
        """Compute the model's output for rows X at the parameters x, in float64, at once; local.

        A Keras model's logits where the loss is computed from them (`KerasProblem.at_logits`).
        """
        X = tf.convert_to_tensor(X.astype(np.float64) if X.dtype.kind == "f" else X)
        kernel = self.compiled("output", "float64", (X,))
        return kernel(tf.constant(x, tf.float64), X).numpy()

    def right_predictions(self, x: np.ndarray) -> tuple[int, int]:
        right = total = 0
        for rows in self.chunks_here("float64"):
            output, y = self.output(x, self.data.X[rows]), self.data.y[rows]
            if isinstance(self.loss.bare, SigmoidCrossEntropy):
                hits = (output > 0) == (y.reshape(output.shape) > 0.5)
            else:
                found = output.argmax(-1)
                distributions = y.ndim == output.ndim and y.shape[-1] == output.shape[-1]
                hits = found == (y.argmax(-1) if distributions else y.reshape(found.shape))
            right, total = right + int(np.count_nonzero(hits)), total + hits.size
        return right, total

    # Terms of single rows

    def row_slopes(self, x: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Return `Problem.row_slopes`, by products with the Jacobian."""
        if not V.shape[1]:  # which TensorFlow's kernels cannot split
            return np.empty((self.rows_here, 0))
        self.world.ledger.passes += V.shape[1]
        theta, (X, y) = tf.constant(x, "float64"), self.tensors("float64")
        panel, found = tf.constant(V, "float64"), [np.empty((0, V.shape[1]))]
        kernel = self.compiled("row_slopes", "float64", (X, y), panel)
        for rows in self.chunks_here("float64", V.shape[1]):
            found.append(kernel(theta, X[rows], y[rows], panel).numpy())
        return np.concatenate(found)

    @property
    def outputs(self) -> int:
        return int(np.prod(self._output_shape))

    @property
    def _output_shape(self) -> tuple[int, ...]:
        X = self.tensors("float64")[0]
        made = self.compiled("output", "float64", (X,)).get_concrete_function()
        return tuple(made.structured_outputs.shape[1:])

    def output_terms(self, x: np.ndarray, rows: slice) -> OutputTerms:
        C, parts = self.outputs, self._of_rows("output_terms", x, self._few_rows(rows))
        shapes = (C, self.n), (C,), (C, C)
        terms = [
            np.concatenate([np.empty((0, *shape)), *(part[i].numpy() for part in parts)])
            for i, shape in enumerate(shapes)
        ]
        return OutputTerms(*terms)

    def _real_targets(self) -> tf.Tensor:
        y = self.tensors("float64")[1]
        outputs = tf.zeros([len(y), *self._output_shape], "float64")
        real = self.loss.real_targets(outputs, y)
        return y if real is None else real

    # Matrices J^T B J, with J the derivative of the output and B a curvature of the loss

    def gauss_newton(self, x: np.ndarray) -> RowSum:
        return self.products("penalized_gauss_newton", x, None, self.loss)

    @property
    def least_squares(self) -> bool:
        return self.loss.squares

    def gauss_newton_rows(self, x, rows=slice(None)):
        found = self._of_rows("gauss_newton_rows", x, self._few_rows(rows))
        R = [view(part) for part, _ in found]
        residuals = np.concatenate([np.empty(0), *(part.numpy() for _, part in found)])
        return R[0] if len(R) == 1 else np.concatenate([np.empty((0, self.n)), *R]), residuals

    def residuals(self, x, rows=slice(None)):
        found = self._of_rows("residuals", x, self._few_rows(rows))  # in the order of the rows' R
        return np.concatenate([np.empty(0), *(part.numpy() for part in found)])

    def _few_rows(self, rows: slice) -> Iterator[slice]:
        """Return chunks of some rows, of so many that memory holds three times their Jacobians."""
        size = 3 * np.dtype(float).itemsize * self.n * self.outputs
        return chunks(rows, self.rows_here, max(int(self.memory // size), 1))

    def _of_rows(self, kind: str, x: np.ndarray, parts: Iterable[slice]) -> list:
        """Return what an engine's method gives of some parts of the rows here."""
        theta, (X, y) = tf.constant(x, "float64"), self.tensors("float64")
        kernel = self.compiled(kind, "float64", (X, y))
        return [kernel(theta, some_rows(X, part), some_rows(y, part)) for part in parts]

    def fisher(self, x: np.ndarray) -> RowSum:
        if not self.loss.natural:
            raise InputError(
                f"the Fisher matrix of the loss {self.loss.name} is not known; take the "
                "Gauss-Newton matrix (ggn) or the empirical Fisher matrix (empirical-fisher)"
            )
        return self.products("gauss_newton", x, None, self.loss)

    def empirical_fisher(self, x: np.ndarray) -> RowSum:
        return self.products("gauss_newton", x, None, Outer(self.loss))

    def monte_carlo_fisher(self, x: np.ndarray, samples: int = 1, seed: int = 0) -> RowSum:
        targets = self.sampled_targets(x, samples, seed)
        return self.products("gauss_newton", x, targets, Outer(self.loss, samples))

    def sampled_targets(self, x: np.ndarray, samples: int, seed: int) -> tf.Tensor:
        """Draw (rows, samples, ...) targets for the rows here from float64 outputs."""

        def of(rows: slice) -> tf.Tensor:
            noise = _RowNoise(seed, self.data.start + rows.start, self.data.start + rows.stop)
            output = tf.constant(self.output(x, self.data.X[rows]))
            drawn = tf.stack([self.loss.sample(output, noise) for _ in range(samples)], axis=1)
            return tf.cast(drawn, self.dtype) if drawn.dtype.is_floating else drawn

        with self.world.phase("sampling targets"):
            chunks = list(self.chunks_here("float64", samples)) or [slice(0, 0)]
            return tf.concat([of(rows) for rows in chunks], 0)

    def kronecker(
        self,
        x: np.ndarray,
        statistic: str = "type-2",
        *,
        samples: int = 1,
        seed: int = 0,
        corrected: bool = False,
    ) -> Kronecker:
        """Return `Problem.kronecker`, of the layers that the layer-wise engine knows.

        A pass for the factors, one for a correction, and one where other layers have parameters;
        of each as many gradients for each row as the output has numbers (type-2), or `samples`.
        Reduces (inputs + 1)^2 + outputs^2 words a layer, and for a correction their product.

        Raises
        ------
        InputError
            Where no layer has Kronecker factors, the loss is not convex (type-2) or no likelihood
            (sampled).
        """
        loss, targets, about = self._statistic(x, statistic, samples, seed)
        return self.describe(kronecker_factor(self, x, loss, targets, corrected, **about), x)

    def kronecker_matrices(
        self, x: np.ndarray, statistic: str = "type-2", *, samples: int = 1, seed: int = 0
    ) -> KroneckerMatrices:
        """Return `Problem.kronecker_matrices`; cost and errors as `kronecker`."""
        loss, targets, _ = self._statistic(x, statistic, samples, seed)
        return kronecker_matrices(self, x, loss, targets)

    def _statistic(self, x, statistic: str, samples: int, seed: int):
        """Return the loss whose roots are the gradients, its targets, and words about them."""
        if statistic == "sampled":
            if samples < 1:
                raise InputError(f"sampled targets need at least 1 sample, not {samples}")
            self.world.ledger.passes += 1
            targets = self.sampled_targets(x, samples, seed)
            return Outer(self.loss, samples), targets, {
                "method": f"sampled ({samples})", "seed": seed
            }  # fmt: skip
        if statistic == "empirical":
            return Outer(self.loss), None, {"method": statistic}
        if statistic == "type-2":
            return self.loss, None, {"method": statistic}
        raise InputError(f"unknown statistic {statistic}; use type-2, sampled or empirical")


class _RowNoise:
    """Random numbers for rows start:stop of all ranks' rows, other ones at each call."""

    def __init__(self, seed: int, start: int, stop: int):
        self.seed, self.rows, self.used = seed, (start, stop), 0

    def uniform(self, size: int) -> tf.Tensor:
        return self._draw(random.uniform, size)

    def normal(self, size: int) -> tf.Tensor:
        return self._draw(random.standard_normal, size)

    def _draw(self, draw, size):
        columns = (self.used, self.used + size)
        self.used += size
        return tf.constant(draw(self.seed, random.TARGET_SAMPLES, self.rows, columns))
