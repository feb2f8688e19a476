"""The contract of a problem: a global mean loss plus a ridge, over sharded data."""

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from hesscomp.curvature.digest import array_digest
from hesscomp.curvature.sharded import STACK_BYTES, ShardCurvature
from hesscomp.datasets import Shard
from hesscomp.errors import InputError
from hesscomp.factors import UNKNOWN, Diagonal, Factor, Kronecker
from hesscomp.operators.operator import Operator
from hesscomp.parallel.exact import sum_blocks
from hesscomp.parallel.rows import RowBlocks
from hesscomp.parallel.world import World
from hesscomp.problems import capabilities as ability
from hesscomp.problems.capabilities import Capability
from hesscomp.problems.row_terms import DataSlopes, OutputTerms

if TYPE_CHECKING:
    from hesscomp.problems.solution import Solution

Kind = TypeVar("Kind", bound=Factor)


class KroneckerMatrices(NamedTuple):
    """The blocks A x G of layers: (first parameter, A, G) each, and n numbers for all others."""

    layers: list[tuple[int, np.ndarray, np.ndarray]]
    diagonal: np.ndarray


@dataclass(frozen=True)
class ParameterBlock:
    """One named piece of the flat parameter vector."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


class Problem(ABC):
    """f(x) = (1/m) sum_i l_i(x) + (ridge/2) ||x||^2, m counting the rows of all ranks.

    Where rows have weights, l_i is weighted and m is the sum of the weights (`total`).

    A subclass writes `linearize` and either `loss_and_gradient` or `objective_and_gradient`, sets
    the attributes below, and declares and writes what else its problems can do (docs/problems.md).
    Its problems are copied, with `copy.copy`, and the copies given another `world`.

    Attributes
    ----------
    name : str
    n : int
        Number of parameters.
    rows : int
        m, over all ranks.
    parameter_blocks : tuple of ParameterBlock
        They follow each other and fill the vector of parameters.
    world : World
    row_blocks : int
        In reproducible mode, how many fixed blocks the rows of all ranks are cut into; else 0.
    blocks_here : tuple of slice
        In reproducible mode, the rows of each block that this rank holds.
    dataset_name : str
    fingerprint : str
        Of the training data, independent of the number of ranks.
    sample : str
        Which of its rows are taken.
    ridge : float
    penalized : slice
        The parameters that the ridge applies to, all by default.
    weight_sum : float or None
        The sum of all rows' weights, None where each row counts once.
    dtype : str
        Precision of curvature products, "float32" or "float64"; all else is float64.
    gradient_dtype : str
        In which networks compute objective and gradient: float64 too, but for batches of training.
    psd : bool
        Whether the Hessian is positive semidefinite everywhere.
    gauss_newton_psd : bool
        Whether the Gauss-Newton matrix is, with the capability `GAUSS_NEWTON`.
    free_scale : bool
        Whether the loss is a likelihood only up to a scale that data must tell: squared error.
    memory : float
        Bytes that a product may take on a rank, where the problem knows how to keep to them, and
        the separate addends of reproducible mode always.
    derivatives : str
        How its derivatives are made, in words; empty where there is nothing to say.
    usual_operator : str
        Which of its matrices is meant where none is named: "hessian", "ggn".
    capabilities : frozenset of Capability
        What it can do beyond this (`problems.capabilities`). A class declares what its problems
        have, and one problem may have fewer.
    initial : (n,) array
        Where to start, with the capability `INITIAL_POINT`.
    shard : Shard
        The rows here, with the capability `MARGINS`.
    solution : Solution
        With the capability `KNOWN_SOLUTION`.
    row_margins : int
        How many margins a row has, with that capability; 1 by default.
    """

    name: str
    n: int
    rows: int
    parameter_blocks: tuple[ParameterBlock, ...]
    world: World
    row_blocks: int = 0
    blocks_here: tuple[slice, ...]
    dataset_name: str
    fingerprint: str
    sample: str = "all"
    ridge: float = 0.0
    penalized: slice = slice(None)
    weight_sum: float | None = None
    dtype: str = "float64"
    gradient_dtype: str = "float64"
    psd: bool = False
    gauss_newton_psd: bool = False
    free_scale: bool = False
    memory: float = STACK_BYTES
    derivatives: str = ""
    usual_operator: str = "hessian"
    capabilities: frozenset[Capability] = frozenset()
    initial: np.ndarray
    shard: Shard
    solution: "Solution"
    row_margins: int = 1

    def __init_subclass__(cls, **options):
        """Refuse a class that declares a capability and lacks its methods."""
        super().__init_subclass__(**options)
        for capability in cls.capabilities:
            for name in capability.members:
                inherited = getattr(Problem, name, None)
                if inherited is not None and getattr(cls, name) is inherited:
                    raise TypeError(
                        f"{cls.__name__} declares the capability '{capability}'; write its method "
                        f"{name}, or do not declare it"
                    )

    def can(self, capability: Capability) -> bool:
        """Return whether this problem has a capability."""
        return capability in self.capabilities

    def require(self, capability: Capability) -> None:
        """Raise an InputError that says what to do, unless this problem has a capability."""
        if not self.can(capability):
            raise self.lacks(capability)

    def lacks(self, capability: Capability) -> InputError:
        """Return the error for a problem without a capability; it says what to do."""
        *others, last = capability.members
        needs = f"{', '.join(others)} and {last}" if others else last
        return InputError(
            f"{self.name} lacks the capability '{capability}'; {capability.remedy}. A problem of "
            f"your own class has it once the class declares it and has {needs}"
        )

    def objective_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return f(x) and its (n,) gradient, in float64, the same on every rank. Collective.

        Made of the sums that `loss_and_gradient` gives, by one reduction of n + 1 words, unless a
        class writes this method itself.
        """
        x = self.check_point(x)
        self.world.ledger.passes += 1
        return self.values_of_sums([self.loss_and_gradient(x, rows) for rows in self.parts_here], x)

    def values_of_sums(self, addends, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return f(x) and its gradient from (n + 1,) sums over each part's rows, the loss last.

        With the ridge. Collective: one reduction.
        """
        total = self.sum_parts(addends, (self.n + 1,))
        total /= self.total
        gradient = total[:-1]
        gradient[self.penalized] += self.ridge * x[self.penalized]
        return float(total[-1] + self.ridge_term(x)), gradient

    @property
    def row_work(self) -> float:
        """About how many multiply-adds the gradient of one row's loss takes."""
        return 3.0 * self.n

    @abstractmethod
    def linearize(self, x: np.ndarray) -> ShardCurvature:
        """Return the sum of the Hessians of this rank's rows at x; local.

        Without the ridge, and not divided by m.
        """

    def objective(self, x: np.ndarray) -> float:
        """Return f(x), in float64, the same on every rank. Collective.

        It costs as much as `objective_and_gradient`, unless a class writes a cheaper method.
        """
        return self.objective_and_gradient(x)[0]

    # Methods that need a capability: they raise InputError for a problem without it

    def sampled(self, fraction: float, seed: int = 0) -> "Problem":
        """Return this problem over a random sample of its rows. Collective.

        m is `fraction` of the rows, rounded. Each row is as likely as any other, every rank has its
        share up to two rows, and they are the same rows on any number of ranks.
        """
        raise self.lacks(ability.SAMPLING)

    def redrawn(self, step: int) -> "Problem":
        """Return this problem with the rows of a step of training. Collective.

        They depend on the step alone, not on the number of ranks.
        """
        raise self.lacks(ability.REDRAWING)

    def squared_gradients(self, x: np.ndarray) -> np.ndarray:
        """Return the mean over all rows of the squares of each row's gradient: (n,). Collective.

        The ridge is left out. Each row's gradient is squared, then the squares are averaged: they
        are the diagonal of the empirical Fisher matrix. One or two passes, one reduction of n
        words.
        """
        raise self.lacks(ability.SQUARED_GRADIENTS)

    def hessian_diagonal(self, x: np.ndarray) -> np.ndarray:
        """Return the diagonal of the Hessian without the ridge, (n,), by a pass or two. Collective.

        One reduction of n words, in float64.
        """
        raise self.lacks(ability.HESSIAN_DIAGONAL)

    def hessian_diagonal_at(self, x: np.ndarray, margins) -> np.ndarray:
        """Return `hessian_diagonal`, where the margins at x are known."""
        return self.hessian_diagonal(x)

    def hessian_trace(self, x: np.ndarray, margins=None) -> float | None:
        """Return the trace of the Hessian without the ridge, by less than its diagonal. Collective.

        None where only the diagonal gives it. `margins` are those at x, where they are known.
        """
        return None

    @property
    def rows_here(self) -> int:
        """How many of the rows are on this rank; they follow those of the ranks before."""
        raise self.lacks(ability.ROW_GRADIENTS)

    def row_gradients(
        self, x: np.ndarray, rows: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the gradients of the losses of single rows, as many at once as memory holds; local.

        Parameters
        ----------
        x : (n,) array
        rows : array of int, optional
            Which of this rank's rows, from 0 to `rows_here`; by default all, in order.

        Yields
        ------
        places : (B,) array of int
            The next of these rows.
        gradients : (B, n) float64 array
            Of l_i, with its weight, without the ridge and regularisers: their sum over all rows of
            all ranks, divided by `total`, is the gradient of the mean loss.
        """
        raise self.lacks(ability.ROW_GRADIENTS)

    def row_squares(self, x: np.ndarray) -> np.ndarray:
        """Return the squared norms of the gradients of this rank's rows, (rows_here,); local."""
        raise self.lacks(ability.ROW_GRADIENTS)

    def row_slopes(self, x: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Return the gradients of this rank's rows times an (n, k) array: (rows_here, k); local.

        Made of `row_gradients` unless a class writes a cheaper method; float64.
        """
        found = [gradients @ V for _, gradients in self.row_gradients(x)]
        return np.concatenate([np.empty((0, V.shape[1])), *found])

    @property
    def outputs(self) -> int:
        """How many numbers the output of a row has."""
        raise self.lacks(ability.ROW_OUTPUTS)

    def output_terms(self, x: np.ndarray, rows: slice) -> OutputTerms:
        """Return the Jacobians of some of this rank's rows, and their losses by output; local.

        In float64: r C n numbers for r rows of C outputs.
        """
        raise self.lacks(ability.ROW_OUTPUTS)

    def data_slopes(self, x: np.ndarray, V: np.ndarray) -> DataSlopes:
        """Return derivatives by the data of each row's gradient times columns of V. Collective.

        In float64; a reduction of twice the number of features for each column.
        """
        raise self.lacks(ability.DATA_SLOPES)

    def kronecker(
        self,
        x: np.ndarray,
        statistic: str = "type-2",
        *,
        samples: int = 1,
        seed: int = 0,
        corrected: bool = False,
    ) -> Kronecker:
        """Return the K-FAC approximation of the Gauss-Newton or a Fisher matrix. Collective.

        A layer's block is A x G in the order of its parameters, with A = (1/m) sum of a a^T and
        G = (1/m) sum of d d^T over all rows: a is the layer's input, with a 1 for its bias, and d
        a gradient with respect to its output (Martens and Grosse, "Optimizing neural networks with
        Kronecker-factored approximate curvature", ICML 2015, section 3). Convolutions, and dense
        layers at several places of a row, are expanded: A sums over the places, G is the mean
        over them (Grosse and Martens, "A Kronecker-factored approximate Fisher matrix for
        convolution layers", ICML 2016, theorem 1). Parameters of other layers, and those that
        several layers share, have the diagonal of the matrix.

        The `statistic` says which gradients: "type-2", with all columns of a root of the loss's
        second derivative, for the Gauss-Newton matrix; "sampled", of `samples` targets that are
        drawn from the model for each row, which depend on the seed and the row alone; "empirical",
        of the data's targets. Without ridge and regularisers.

        `corrected` keeps the eigenvectors of A x G and replaces the eigenvalues by the mean squares
        of the gradients in these directions: E-KFAC (George and others, "Fast approximate natural
        gradient descent in a Kronecker factored eigenbasis", NeurIPS 2018).
        """
        raise self.lacks(ability.KRONECKER_FACTORS)

    def kronecker_matrices(
        self, x: np.ndarray, statistic: str = "type-2", *, samples: int = 1, seed: int = 0
    ) -> KroneckerMatrices:
        """Return the A and G of `kronecker` themselves, and the diagonal elsewhere. Collective."""
        raise self.lacks(ability.KRONECKER_FACTORS)

    def kronecker_factors(self, x: np.ndarray, seed: int = 0) -> list:
        """Return (A, G) of each layer for sampled targets: the name in the last version."""
        warnings.warn(
            "`kronecker_factors` is now `kronecker_matrices`, with the statistic 'sampled'; the "
            "next version has only that",
            DeprecationWarning,
            stacklevel=2,
        )
        found = self.kronecker_matrices(x, "sampled", seed=seed)
        return [(A, G) for _, A, G in found.layers]

    def loss_and_gradient(self, x: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """Return the sums of the gradients and losses of some of this rank's rows; local.

        A float64 array (n + 1,) whose last number is the loss; without the ridge, not divided by m.
        """
        raise self.lacks(ability.SHARD_GRADIENTS)

    def gauss_newton(self, x: np.ndarray) -> ShardCurvature:
        """Return the sum of the Gauss-Newton matrices of this rank's rows at x; local.

        Of the data and of regularisers that are part of the rows' losses, without the ridge.
        """
        raise self.lacks(ability.GAUSS_NEWTON)

    def gauss_newton_rows(
        self, x: np.ndarray, rows: slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return R with R^T R = `gauss_newton`, (r, n), of some of this rank's rows, in float64.

        Where the problem is one of `least_squares`, also the r residuals, half whose squares are
        the rows' losses, and R is their Jacobian. Local; r n numbers.
        """
        raise self.lacks(ability.GAUSS_NEWTON_ROWS)

    @property
    def gauss_newton_count(self) -> int:
        """How many rows `gauss_newton_rows` gives on all ranks together. Collective."""
        return self.rows * self.outputs

    def residuals(self, x: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """Return the residuals of `gauss_newton_rows` alone, (r,); of `least_squares`. Local."""
        return self.gauss_newton_rows(x, rows)[1]

    @property
    def least_squares(self) -> bool:
        """Whether the loss of a row is half the sum of squares of its residuals."""
        raise self.lacks(ability.GAUSS_NEWTON_ROWS)

    def fisher(self, x: np.ndarray) -> ShardCurvature:
        """Return the sum of the Fisher matrices of this rank's rows at x; local."""
        raise self.lacks(ability.FISHER)

    def empirical_fisher(self, x: np.ndarray) -> ShardCurvature:
        """Return the sum of g g^T over this rank's rows, g being a row's gradient at x; local."""
        raise self.lacks(ability.EMPIRICAL_FISHER)

    def monte_carlo_fisher(self, x: np.ndarray, samples: int = 1, seed: int = 0) -> ShardCurvature:
        """Return the mean of `empirical_fisher` over targets drawn from the model. Collective.

        The targets of a row depend on the seed and the row alone, not on the number of ranks.
        """
        raise self.lacks(ability.MONTE_CARLO_FISHER)

    def over(self, data) -> "Problem":
        """Return the problem of the mean loss over other rows, without ridge and regularisers.

        The rows are the test rows of a `Dataset`, or a pair (X, y) of each rank's own. Collective.
        """
        raise self.lacks(ability.TEST_ROWS)

    def right_predictions(self, x: np.ndarray) -> tuple[int, int]:
        """Return the number of right predictions for this rank's rows, and of all; local.

        The prediction is the class of the largest output, or the sign of each output.
        """
        raise self.lacks(ability.CLASSIFICATION)

    def output(self, x: np.ndarray, X: np.ndarray) -> np.ndarray:
        """Return the model's output for rows X at the parameters x, in float64; local."""
        raise self.lacks(ability.PREDICTION)

    def picture(self, x: np.ndarray) -> dict[str, Any]:
        """Return what a picture of the solution at x shows. Collective.

        `axes`, one or two arrays of coordinates, and their `names`, if any; `u` on their grid, (a,)
        or (a, b), NaN outside; `error` there, of a known solution; `points`, (m, 1 or 2), of
        training.
        """
        raise self.lacks(ability.PICTURE)

    def read_weights(self, path: str | os.PathLike):
        """Return the `parameters` and the `fixed` weights that a file of Keras' holds.

        Raises InputError if the file cannot be read, or is one of another model.
        """
        raise self.lacks(ability.KERAS_WEIGHTS)

    def set_fixed(self, values) -> None:
        """Replace the weights that are no parameters; None brings back the first ones."""
        if values is not None:
            raise self.lacks(ability.KERAS_WEIGHTS)

    def save_model(self, path: str | os.PathLike, x: np.ndarray) -> None:
        """Write the model with the parameters x, which it keeps, to a .keras file; local."""
        raise self.lacks(ability.KERAS_MODEL)

    # The losses of rows are functions of margins A x, so that those along a line follow from the
    # margins at two of its points

    def margins(self, x: np.ndarray):
        """Return A x for this rank's rows, an array of the problem's own kind; local, one pass."""
        raise self.lacks(ability.MARGINS)

    def known_margins(self, values: np.ndarray):
        """Return margins that were computed before, as such an array; local.

        `values` has one number for each row, or (rows, k) where each row has k margins.
        """
        raise self.lacks(ability.MARGINS)

    def evaluate(self, x: np.ndarray, margins) -> tuple[float, np.ndarray]:
        """Return what `objective_and_gradient` does, where the margins at x are known.

        Also called at points that a line search may reject, where numbers may not be finite. x may
        be read-only.
        """
        raise self.lacks(ability.MARGINS)

    def losses_along(self, margins, direction, steps: np.ndarray) -> np.ndarray:
        """Return the mean loss, without ridge, at margins + step * direction for each of the steps.

        Collective; no pass over the data, one reduction of as many words as steps.
        """
        raise self.lacks(ability.MARGINS)

    def curvature_at(self, margins) -> ShardCurvature:
        """Return what `linearize` does, where the margins are known; local, no pass."""
        raise self.lacks(ability.MARGINS)

    def warn_without_minimum(self, x: np.ndarray) -> None:  # noqa: B027 (nothing is an answer)
        """Warn where x, at which a solver ended, shows that there is no minimum. Collective.

        Here nothing is known of that; a problem that can tell overrides it.
        """

    # Sums over the rows of all ranks

    def cut(self, shard: Shard) -> RowBlocks | None:
        """Return the fixed blocks of a shard's rows, noted here; None unless sums are reproducible.

        Collective. Raises InputError if a rank's rows are not whole blocks.
        """
        if not self.world.reproducible:
            return None
        with self.world.phase("cutting the data"):
            blocks = RowBlocks.of_shard(shard.start, len(shard.y), shard.total)
        self.row_blocks, self.blocks_here = blocks.count, blocks.local
        return blocks

    def keep_blocks(self, kept: np.ndarray) -> None:
        """In a sample, keep the fixed blocks of the rows here, of which some are `kept`; local."""
        if self.world.reproducible:
            ends = [int(np.count_nonzero(kept[: rows.stop])) for rows in self.blocks_here]
            self.blocks_here = tuple(map(slice, [0, *ends[:-1]], ends))

    @property
    def parts_here(self) -> tuple[slice, ...]:
        """The parts of this rank's rows that have an addend each in `sum_parts`.

        The fixed blocks in reproducible mode, else all rows at once.
        """
        return self.blocks_here if self.world.reproducible else (slice(None),)

    def sum_parts(self, addends: Sequence | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return the sum over `parts_here` and over the ranks; collective.

        `addends` holds an array of the given shape for each part; in reproducible mode there may be
        no parts, and the bits do not depend on the number of ranks (`sum_blocks`).
        """
        if self.world.reproducible:
            return sum_blocks(np.reshape(addends, (-1, *shape)), self.row_blocks, self.world)
        return self.world.sum(addends[0])

    # Methods that all problems share

    @property
    def total(self) -> float:
        """What sums over the rows are divided by: the rows' number, or the sum of their weights."""
        return float(self.rows) if self.weight_sum is None else self.weight_sum

    def ridge_term(self, x: np.ndarray, y: np.ndarray | None = None) -> float:
        """Return (ridge/2) x.y over the parameters that the ridge applies to; y is x by default."""
        x, y = x[self.penalized], (x if y is None else y)[self.penalized]
        return float(self.ridge / 2 * (x @ y))

    def regularized(self, matrix: Operator, damping: float = 0.0) -> Operator:
        """Return a curvature matrix with the ridge, and with a damping of all parameters."""
        if self.penalized == slice(None):
            return matrix.shifted(self.ridge + damping)
        return matrix + Diagonal(self.ridge_diagonal() + damping, certificate=UNKNOWN)

    def ridge_diagonal(self) -> np.ndarray:
        """Return what the ridge adds to the diagonal of the Hessian: (n,)."""
        diagonal = np.zeros(self.n)
        diagonal[self.penalized] = self.ridge
        return diagonal

    @property
    def blocks(self) -> tuple[ParameterBlock, ...]:
        """The former name of `parameter_blocks`, for one more version."""
        return self.parameter_blocks

    @blocks.setter
    def blocks(self, blocks: tuple[ParameterBlock, ...]) -> None:
        self.parameter_blocks = blocks

    def sample_name(self, fraction: float, seed: int) -> str:
        """Return the attribute `sample` of a sample of this problem."""
        outer = "" if self.sample == "all" else f"{self.sample}; "
        return f"{outer}{fraction!r}, seed {seed}"

    def compile(self) -> None:  # noqa: B027
        """Compile what can be compiled, so that no timed product has to; local."""

    def describe(self, factor: Kind, x: np.ndarray, indices: np.ndarray | None = None) -> Kind:
        """Return a factor with the provenance, point and parameter blocks of this problem.

        `indices` are the parameters whose matrix it is, whole blocks; None means all of them.
        """
        provenance = replace(
            factor.provenance,
            problem=self.name,
            dataset=self.dataset_name,
            data_fingerprint=self.fingerprint,
            rows=self.rows,
            ridge=self.ridge,
        )
        held = [b for b in self.parameter_blocks if indices is None or b.offset in indices]
        offsets = accumulate((block.size for block in held), initial=0)
        blocks = [(b.name, b.shape, offset) for b, offset in zip(held, offsets, strict=False)]
        x = x if indices is None else x[indices]
        return replace(factor, provenance=provenance, parameters=x, blocks=tuple(blocks))

    def run_identity(self, x: np.ndarray) -> dict[str, str]:
        """Return what decides the numbers of a run that starts at x, besides the run's options.

        Texts by name, the same on any number of ranks. A run continues in a folder only if its
        identity equals the one that is stored there.
        """
        return {
            "problem": self.name,
            "data": self.fingerprint,
            "sample": self.sample,
            "rows": str(self.rows),
            "ridge": repr(self.ridge),
            **({} if self.penalized == slice(None) else {"penalized": repr(self.penalized)}),
            "dtype": self.dtype,
            "reproducible": str(self.world.reproducible),
            "point": array_digest(x),
        }

    def first_point(self) -> np.ndarray:
        """`initial` where there is one, else zero."""
        return self.check_point(
            self.initial if self.can(ability.INITIAL_POINT) else np.zeros(self.n)
        )

    def nonfinite_place(self, x: np.ndarray) -> str:
        """Say, after a colon, where objective or gradient at x are not finite. Collective.

        Empty where that is not known.
        """
        return ""

    def check_point(self, x) -> np.ndarray:
        """Return x as a finite float64 (n,) array; InputError if it is none."""
        x = np.asarray(x, dtype=np.float64)
        if x.shape != (self.n,):
            raise InputError(
                f"the point has shape {x.shape}, but {self.name} on {self.dataset_name} has "
                f"{self.n} parameters"
            )
        if not np.isfinite(x).all():
            raise InputError(
                f"the point has {np.count_nonzero(~np.isfinite(x))} entries that are not finite"
            )
        return x


def check_numbers(ridge: float, dtype: str) -> None:
    """Raise InputError for a ridge or a type of numbers that no problem takes."""
    if not (np.isfinite(ridge) and ridge >= 0):
        raise InputError(f"ridge must be a finite number of at least 0, not {ridge}")
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype must be float32 or float64, not {dtype}")


def chunks(part: slice, rows: int, size: int) -> Iterator[slice]:
    """Cut a part of `rows` rows into chunks of at most `size`."""
    start, stop, _ = part.indices(rows)
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))
