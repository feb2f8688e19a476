"""Problems whose derivatives come from an engine: networks and functions."""

import copy
import weakref
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Self

import numpy as np

from hesscomp.curvature.chunks import Budget, Kept, RowSum
from hesscomp.curvature.digest import captured_digest, computation_digest
from hesscomp.curvature.networks.engine import Engine, Piece
from hesscomp.curvature.networks.operation import Unsupported
from hesscomp.curvature.tensorflow import fusing, keep_freed_memory, share, tf
from hesscomp.datasets.validation import row_size
from hesscomp.errors import InputError
from hesscomp.parallel.world import World
from hesscomp.problems import capabilities as ability
from hesscomp.problems.contract import wrong_slope
from hesscomp.problems.problem import ParameterBlock, Problem, check_numbers, chunks
from hesscomp.problems.row_terms import DataSlopes
from hesscomp.problems.rows import RowSet
from hesscomp.storage.npy import is_mapped

FUSED = 3 * 10**7  # numbers of a product from which element-wise arithmetic is worth compiling
COLUMNS = 16  # of that product, whatever its own: so each kind is traced once
SWEEPS = ("gradient", "values")  # what besides products takes a chunk of rows at once
SQUARED_NUMBERS = 2**23  # of gradients of single rows that are held at once


class DifferentiableProblem(Problem):
    """f(x) = (1/m) sum_i l_i(x) + (ridge/2) ||x||^2, its derivatives by an `Engine`.

    Attributes
    ----------
    engine : Engine
        `engine.name` and `engine.reason` say which one and why.
    initial : (n,) array
        The parameters that the problem was made with.
    """

    capabilities = frozenset(
        {
            ability.DATA_SLOPES,
            ability.INITIAL_POINT,
            ability.ROW_GRADIENTS,
            ability.SAMPLING,
            ability.SHARD_GRADIENTS,
            ability.SQUARED_GRADIENTS,
            ability.TEST_ROWS,
        }
    )
    loss_name = "a function"

    def __init__(self, rows: RowSet, world: World, ridge: float, dtype: str, memory: float):
        check_numbers(ridge, dtype)
        if not memory > 0:
            raise InputError(f"the memory of a product must be positive, not {memory}")
        self.world, self.ridge, self.dtype, self.memory = world, float(ridge), dtype, float(memory)
        self._take(rows)
        self.cut(rows)

    def _take(self, rows: RowSet) -> None:
        self.data, self.rows = rows, rows.total
        self.dataset_name, self.fingerprint = rows.name, rows.fingerprint
        self._tensors: dict = {}

    def _differentiate(self, engine: Engine, pieces: list[Piece], names: list[str], initial):
        """The parameters and their engine; to be called once by subclasses."""
        keep_freed_memory(self.memory)
        self.engine, self.initial = engine, np.asarray(initial, dtype=np.float64)
        self.n = len(self.initial)
        self.parameter_blocks = tuple(
            ParameterBlock(name, piece.shape, piece.offset)
            for name, piece in zip(names, pieces, strict=True)
        )
        self._kernels: dict = {}
        self._kept: weakref.WeakSet[Kept] = weakref.WeakSet()  # of the operators that are in use

    def sampled(self, fraction: float, seed: int = 0) -> "DifferentiableProblem":
        """Return `Problem.sampled`; the engine and what it has compiled are shared."""
        kept = self.data.picked(fraction, seed)
        other = copy.copy(self)
        other.sample = self.sample_name(fraction, seed)
        name = f"{self.dataset_name} (sample {fraction:g}, seed {seed})"
        other._take(self.data.only(kept, name, self.world))
        other.keep_blocks(kept)
        return other

    def holding(self, rows: RowSet) -> Self:
        """Return this problem with other rows; the engine and what it has compiled are shared."""
        other = copy.copy(self)
        other._take(rows)
        return other

    @property
    def derivatives(self) -> str:  # type: ignore[override]  # nothing sets it
        return f"{self.engine.name} engine: {self.engine.reason}"

    def over(self, data) -> "DifferentiableProblem":
        rows = self._fitted(RowSet.held_out(data, self.world))
        other = copy.copy(self)
        other.ridge, other.sample = 0.0, "all"
        other.engine, other._kernels = self.engine.data, {}
        other._take(rows)
        other.cut(rows)
        return other

    def _fitted(self, rows: RowSet) -> RowSet:
        """Other rows in the form that the model and the loss take. Collective."""
        return rows

    def run_identity(self, x: np.ndarray) -> dict[str, str]:
        """Return `Problem.run_identity` with the loss, the engine, and hashes of its computation.

        The hashes are of a trace of the gradient, which is made if there is none yet.
        """
        graph = self.compiled_gradient(self.dtype).get_concrete_function().graph
        return {
            **super().run_identity(x),
            "loss": self.loss_name,
            "engine": self.engine.name,
            "model": computation_digest(graph),
            "fixed weights": captured_digest(graph),
        }

    def tensors(self, dtype: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Return this shard's inputs and targets; real numbers in `dtype`, made once.

        Rows that are mapped into memory stay in their file: see `Mapped`.
        """
        if dtype not in self._tensors:
            self._tensors[dtype] = tuple(
                Mapped(part, _kind(part, dtype))
                if is_mapped(part)
                else share(np.ascontiguousarray(part, _kind(part, dtype)))
                for part in (self.data.X, self.data.y)
            )
        return self._tensors[dtype]

    def compiled(self, kind: str, dtype: str, rows: tuple, V=None, extra: tuple = ()):
        """Return a method of the engine, compiled once for any number of rows and columns.

        `dtype` is that of theta, its first argument. `rows` are tensors such as it will be called
        with, or their specs, nested as you like; V is an (n, k) tensor, of fewer rows where `extra`
        chooses some parameters. `extra` is hashable and passed on after the tensors.
        """

        def any_rows(part) -> tf.TensorSpec:
            return tf.TensorSpec([None, *part.shape[1:]], part.dtype)

        specs = [tf.TensorSpec([self.n], dtype), *tf.nest.map_structure(any_rows, list(rows))]
        specs += [] if V is None else [tf.TensorSpec([V.shape[0], None], V.dtype)]
        # Numbers of a product over the rows of all ranks, so that the bits depend on no rank count.
        fuses = (V is not None or kind in SWEEPS) and self._fuses(dtype)
        key = (kind, *tf.nest.flatten(specs), extra, fuses)
        if key not in self._kernels:
            method = getattr(self.engine, kind)

            def traced(*arguments):
                with fusing(fuses):
                    return method(*arguments, *extra)

            self._kernels[key] = tf.function(traced, autograph=False, input_signature=specs)
        return self._kernels[key]

    def _fuses(self, dtype: str) -> bool:
        return self.rows * self.budget(dtype).row_values * COLUMNS >= FUSED

    def compiled_gradient(self, dtype: str):
        """Return the engine's gradient, compiled for the rows here, of which there may be none."""
        return self.compiled("gradient", dtype, self.row_specs(dtype))

    def row_specs(self, dtype: str) -> tuple[tf.TensorSpec, tf.TensorSpec]:
        """Return the shapes and types of `tensors`, without making them."""
        X, y = (
            tf.TensorSpec(part.shape, _kind(part, dtype)) for part in (self.data.X, self.data.y)
        )
        return X, y

    def budget(self, dtype: str) -> Budget:
        """Return how many rows and columns a product takes at once."""
        if "row" not in self._kernels:
            X = self.data.X
            row = tf.TensorSpec([1, *X.shape[1:]], _kind(X, dtype))
            specs = tf.TensorSpec([self.n], dtype), row
            values, copies = self._row_values(*specs), self.engine.copies
            values += row_size(X) if is_mapped(X) else 0  # read for the product, and let go again
            tangents = copies * self.engine.row_tangents(*specs, values)
            self._kernels["row"] = values, copies, tangents
        return Budget(self.memory, self.n, *self._kernels["row"])

    @abstractmethod
    def _row_values(self, theta, X) -> int:
        """Return the numbers of one row's values."""

    def chunks(self, part: slice, dtype: str, k: int = 1) -> Iterator[slice]:
        """A part of the rows here, as many at once as the memory of a product with k columns."""
        start, stop, _ = part.indices(len(self.data.X))
        size = self.budget(dtype).rows(max(stop - start, 1), k, np.dtype(dtype).itemsize)
        return chunks(part, len(self.data.X), size)

    def _chunks_of_sums(self, part: slice, dtype: str) -> Iterator[slice]:
        """`chunks` of a loss or a gradient: few of an engine that holds no more than a block's."""
        if self.engine.block is None or is_mapped(self.data.X):
            return self.chunks(part, dtype)
        return chunks(part, len(self.data.X), max(len(self.data.X), 1))

    def chunks_here(self, dtype: str, k: int = 1) -> Iterator[slice]:
        """Yield the `chunks` of each of `parts_here`, which reproducible results are made of."""
        for part in self.parts_here:
            yield from self.chunks(part, dtype, k)

    def linearize(self, x: np.ndarray) -> RowSum:
        return self.products("hessian", x)

    def products(
        self, kind: str, x: np.ndarray, targets=None, *extra,
        chosen: tuple[int, ...] | None = None, kept: Kept | None = None,
    ) -> RowSum:  # fmt: skip
        """Return an engine's symmetric product at x as this shard's curvature; local.

        `targets` replaces the shard's; `extra` is passed on to the engine's method `kind`; `chosen`
        are the indices of parameter blocks that alone have rows and columns; `kept` is that of
        another product at x.
        """
        X, y = self.tensors(self.dtype)
        y = y if targets is None else targets
        theta, budget = tf.constant(x, self.dtype), self.budget(self.dtype)
        if chosen is not None:
            budget = replace(budget, n=sum(self.parameter_blocks[i].size for i in chosen))
        options = extra if chosen is None else (*extra, chosen)

        values = self.compiled("values", self.dtype, (X, y), extra=(kind == "hessian",))
        shape = values.get_concrete_function().structured_outputs
        kept = kept or Kept(lambda X, y: values(theta, X, y), budget.kept)
        self._kept.add(kept)

        def kernel(V):
            compiled = self.compiled(kind, self.dtype, (X, y, shape), V, options)
            traced = compiled.get_concrete_function()  # found once, not for each chunk
            return lambda X, y, values: traced(theta, X, y, values, V)

        def narrowed(chosen):
            return self.products(kind, x, targets, *extra, chosen=chosen, kept=kept)

        blocks = self.blocks_here if self.world.reproducible else ()
        return RowSum(
            kernel, X, y, budget.n, theta.dtype, budget, kept, blocks,
            narrowed if self.engine.narrows else None, self.world.pause,
        )  # fmt: skip

    def sums(
        self, kernel, x: np.ndarray, dtype: str, chunks: Iterable[slice], shapes, targets=None
    ) -> list[np.ndarray]:
        """Return the sums of a kernel's results over chunks of the rows here, in float64; local.

        ``kernel(theta, X, y)`` gives a tensor, or several, of the `shapes`. `dtype` is that of
        theta, X and y; `targets` take the place of the shard's y.
        """
        X, y = self.tensors(dtype)
        y = y if targets is None else targets
        theta, totals = tf.constant(x, dtype), [np.zeros(shape) for shape in shapes]
        for rows in chunks:
            terms = tf.nest.flatten(kernel(theta, some_rows(X, rows), some_rows(y, rows)))
            for total, term in zip(totals, terms, strict=True):
                total += term.numpy()
        return totals

    def loss_and_gradient(self, x: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        dtype = self.gradient_dtype
        kernel = self.compiled("gradient", dtype, self.tensors(dtype))
        loss, gradient = self.sums(
            kernel, x, dtype, self._chunks_of_sums(rows, dtype), [(), (self.n,)]
        )
        return np.append(gradient, loss)

    def objective(self, x: np.ndarray) -> float:
        x = self.check_point(x)
        self.world.ledger.passes += 1
        kind = "float64"
        if "losses" not in self._kernels:

            def loss_sum(*arguments):
                with fusing(self._fuses(kind)):
                    return self.engine.loss_sum(*arguments)

            self._kernels["losses"] = tf.function(loss_sum, autograph=False, reduce_retracing=True)
        kernel = self._kernels["losses"]
        parts = [self._chunks_of_sums(part, kind) for part in self.parts_here]
        sums = [self.sums(kernel, x, kind, part, [(1,)])[0] for part in parts]
        return float(self.sum_parts(sums, (1,))[0] / self.rows + self.ridge / 2 * (x @ x))

    def squared_gradients(self, x: np.ndarray) -> np.ndarray:
        """Return `Problem.squared_gradients`, computed in `dtype`."""
        self.world.ledger.passes += 1
        kernel, at_once = self._squared_gradients_kernel()
        if at_once:
            parts = [self.chunks(part, self.dtype) for part in self.parts_here]
        else:
            few = self._rows_at_once(self.dtype)
            parts = [chunks(part, self.rows_here, few) for part in self.parts_here]
        sums = [self.sums(kernel, x, self.dtype, part, [(self.n,)])[0] for part in parts]
        return self.sum_parts(sums, (self.n,)) / self.rows

    def _squared_gradients_kernel(self):
        """Return the sum of each row's squared gradient, and whether it takes all rows at once.

        It is the engine's own, or else made of each row's gradient alone.
        """
        if "squared gradients" not in self._kernels:
            kernel = self.compiled("squared_gradients", self.dtype, self.tensors(self.dtype))
            try:
                kernel.get_concrete_function()
                self._kernels["squared gradients"] = kernel, True
            except Unsupported:
                self._kernels["squared gradients"] = _sum_of_squares(self.engine), False
        return self._kernels["squared gradients"]

    @property
    def rows_here(self) -> int:
        return len(self.data.X)

    def row_gradients(self, x, rows=None):
        rows = np.arange(self.rows_here) if rows is None else np.asarray(rows, np.int64)
        dtype = self.gradient_dtype
        X, y = self.tensors(dtype)
        kernel = self.compiled("row_gradients", dtype, (X, y))
        theta = tf.constant(self.check_point(x), dtype)
        for part in chunks(slice(None), len(rows), self._rows_at_once(dtype)):
            found = kernel(theta, *(_taken(values, rows[part]) for values in (X, y)))
            yield rows[part], found.numpy().astype(np.float64, copy=False)

    def row_squares(self, x):
        """Return `Problem.row_squares`, without the gradients where the engine can."""
        dtype, x = self.gradient_dtype, self.check_point(x)
        kernel = self.compiled("row_squares", dtype, self.tensors(dtype))
        try:
            kernel.get_concrete_function()
        except Unsupported:
            found = [np.einsum("ij,ij->i", G, G) for _, G in self.row_gradients(x)]
        else:
            (X, y), theta = self.tensors(dtype), tf.constant(x, dtype)
            parts = self.chunks(slice(None), dtype)
            found = [
                kernel(theta, some_rows(X, rows), some_rows(y, rows)).numpy() for rows in parts
            ]
        return np.concatenate([np.zeros(0), *found])

    def data_slopes(self, x: np.ndarray, V: np.ndarray) -> DataSlopes:
        """Return `Problem.data_slopes`, checked on a few rows against differences.

        Raises
        ------
        InputError
            Where TensorFlow's derivatives are not those of the values, as of a loss that stops a
            gradient.
        """
        theta, X = tf.constant(x, "float64"), self.tensors("float64")[0]
        y = self._real_targets()
        kernel = self.compiled("data_slopes", "float64", (X, y), tf.constant(V[:, :1], "float64"))
        real = [part.dtype.is_floating for part in (X, y)]
        with self.world.phase("checking derivatives by the data"):
            if any(real) and len(X):
                self._check_data_slopes(kernel, theta, X[:3], y[:3], V[:, :1])
        size, labels = int(np.prod(X.shape[1:])), np.empty((*y.shape, V.shape[1]))
        shifts, scales = np.empty((size, V.shape[1])), np.empty((size, V.shape[1]))
        for i, v in enumerate(V.T):
            self.world.ledger.passes += 1
            addends = []
            for part in self.parts_here:
                sums = np.zeros((2, size))
                for rows in self.chunks(part, "float64"):
                    by_X, by_y = kernel(theta, X[rows], y[rows], tf.constant(v[:, None], "float64"))
                    labels[rows, ..., i] = by_y.numpy()
                    by_X = np.reshape(by_X, (-1, size))
                    sums += by_X.sum(axis=0), (by_X * np.reshape(X[rows], (-1, size))).sum(axis=0)
                addends.append(sums)
            shifts[:, i], scales[:, i] = self.sum_parts(addends, (2, size))
        by_X, by_y = real
        return DataSlopes(
            labels if by_y else None, shifts if by_X else None, scales if by_X else None
        )

    def _real_targets(self) -> tf.Tensor:
        """Return the targets here, as real numbers where the loss has derivatives by them."""
        return self.tensors("float64")[1]

    def _check_data_slopes(self, kernel, theta, X, y, V: np.ndarray) -> None:
        """Refuse derivatives by a few rows that are not those of their gradients times v."""
        slopes = self.compiled("row_slopes", "float64", (X, y), tf.constant(V, "float64"))
        ends = int(np.prod(X.shape))

        def parts(z):
            moved = (np.reshape(z[:ends], X.shape), np.reshape(z[ends:], y.shape))
            return [tf.cast(new, old.dtype) for new, old in zip(moved, (X, y), strict=True)]

        def value(z):  # whole numbers stay as they are
            X, y = kept(parts(z))
            return float(tf.reduce_sum(slopes(theta, X, y, tf.constant(V, "float64"))))

        def gradient(z):
            by_X, by_y = kernel(theta, *kept(parts(z)), tf.constant(V, "float64"))
            return np.concatenate([np.reshape(by_X, -1), np.reshape(by_y, -1)])

        def kept(moved):
            return [
                new if old.dtype.is_floating else old
                for new, old in zip(moved, (X, y), strict=True)
            ]

        here = np.concatenate([np.reshape(X, -1), np.reshape(y, -1)]).astype(np.float64)
        wrong = wrong_slope(value, gradient, here, tolerance=1e-4)
        if wrong is not None:
            raise InputError(
                f"{self.name}: TensorFlow's derivative of a gradient by the data along a direction "
                f"is {wrong[0]:.6g}, but that of its values is {wrong[1]:.6g}; leave the data out"
            )

    def _rows_at_once(self, dtype: str) -> int:
        """Return of how many rows the single gradients are held at once."""
        budget = self.budget(dtype)
        numbers = min(self.memory / 2 / np.dtype(dtype).itemsize, SQUARED_NUMBERS)
        return max(int(numbers // (self.n + budget.copies * budget.row_values)), 1)


def _sum_of_squares(engine: Engine):
    """Return the sum of squares of each row's own gradient."""

    def squares(theta, X, y):
        return tf.reduce_sum(tf.square(engine.row_gradients(theta, X, y)), axis=0)

    return tf.function(squares, autograph=False, reduce_retracing=True)


class Mapped:
    """Rows that stay in their file until they are sliced, which makes a tensor of those."""

    def __init__(self, rows: np.ndarray, dtype):
        self.rows, self.kind = rows, np.dtype(dtype)
        self.dtype, self.shape = tf.as_dtype(self.kind), tf.TensorShape(rows.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | np.ndarray) -> tf.Tensor:
        return share(np.ascontiguousarray(self.rows[rows], self.kind))

    def __tf_tensor__(self, dtype=None, name=None) -> tf.Tensor:
        return self[:]


def some_rows(values: tf.Tensor | Mapped, rows: slice) -> tf.Tensor:
    """Return some rows; a tensor itself where they are all: a slice costs half a millisecond."""
    whole = isinstance(values, tf.Tensor) and rows == slice(0, values.shape[0])
    return values if whole else values[rows]


def _taken(values: tf.Tensor | Mapped, rows: np.ndarray) -> tf.Tensor:
    return values[rows] if isinstance(values, Mapped) else tf.gather(values, rows)


def _kind(part: np.ndarray, dtype: str):
    """Return the type in which inputs or targets are computed with: real numbers in `dtype`."""
    return dtype if part.dtype.kind == "f" else part.dtype
