"""What every problem offers: a global mean loss plus a ridge, over sharded data."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from hesscomp.curvature.digest import array_digest
from hesscomp.curvature.operator import STACK_BYTES
from hesscomp.curvature.shard import ShardCurvature
from hesscomp.errors import InputError
from hesscomp.factors import LowRank
from hesscomp.problems.capabilities import (
    CLASSIFICATION,
    EMPIRICAL_FISHER,
    FISHER,
    GAUSS_NEWTON,
    INITIAL_POINT,
    KERAS_WEIGHTS,
    KRONECKER_FACTORS,
    MONTE_CARLO_FISHER,
    PREDICTION,
    SAMPLING,
    SHARD_GRADIENTS,
    SQUARED_GRADIENTS,
    TEST_ROWS,
    Capability,
)
from hesscomp.problems.shard_sums import ShardSums


@dataclass(frozen=True)
class ParameterBlock:
    """One named piece of the flat parameter vector."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


class Problem(ShardSums, ABC):
    """f(x) = (1/m) sum_i l_i(x) + (ridge/2) ||x||^2, m counting the rows of all ranks.

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
    blocks : tuple of ParameterBlock
        They follow each other and fill the vector of parameters.
    world : World
        That and `row_blocks`: see `ShardSums`.
    dataset_name : str
    fingerprint : str
        Of the training data, independent of the number of ranks.
    sample : str
        Which of its rows are taken.
    ridge : float
    dtype : str
        Precision of curvature products, "float32" or "float64"; all else is float64.
    gradient_dtype : str
        In which networks compute objective and gradient: float64 too, but for batches of training.
    psd : bool
        Whether the Hessian is positive semidefinite everywhere.
    gauss_newton_psd : bool
        Whether the Gauss-Newton matrix is, with the capability `GAUSS_NEWTON`.
    memory : float
        Bytes that a product may take on a rank, where the problem knows how to keep to them, and
        the separate addends of reproducible mode always.
    derivatives : str
        How its derivatives are made, in words; empty where there is nothing to say.
    capabilities : frozenset of Capability
        What it can do beyond this (`problems.capabilities`). A class declares what its problems
        have, and one problem may have fewer.
    initial : (n,) array
        Where to start, with the capability `INITIAL_POINT`.
    """

    name: str
    n: int
    rows: int
    blocks: tuple[ParameterBlock, ...]
    dataset_name: str
    fingerprint: str
    sample: str = "all"
    ridge: float = 0.0
    dtype: str = "float64"
    gradient_dtype: str = "float64"
    psd: bool = False
    gauss_newton_psd: bool = False
    memory: float = STACK_BYTES
    derivatives: str = ""
    capabilities: frozenset[Capability] = frozenset()
    initial: np.ndarray

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
        """Whether this problem has a capability."""
        return capability in self.capabilities

    def require(self, capability: Capability) -> None:
        """Raise InputError, which says what to do, unless this problem has a capability."""
        if not self.can(capability):
            raise self.lacks(capability)

    def lacks(self, capability: Capability) -> InputError:
        """The error that says that this problem does not have a capability, and what to do."""
        return InputError(
            f"{self.name} lacks the capability '{capability}'; {capability.remedy}. A problem of "
            f"your own class has it once the class declares it and has {capability.needs}"
        )

    def objective_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """f(x) and its (n,) gradient, in float64. Collective; one reduction of n + 1 words.

        Of the sums that `loss_and_gradient` gives, unless a class writes this method instead.
        """
        x = self.check_point(x)
        self.world.ledger.passes += 1
        addends = [self.loss_and_gradient(x, rows) for rows in self.parts_here]
        total = self.sum_parts(addends, (self.n + 1,)) / self.rows
        return float(total[-1] + self.ridge / 2 * (x @ x)), total[:-1] + self.ridge * x

    @abstractmethod
    def linearize(self, x: np.ndarray) -> ShardCurvature:
        """This shard's curvature at x; local."""

    def objective(self, x: np.ndarray) -> float:
        """f(x), in float64; collective.

        One pass and one reduction of one word where a class knows how; here those of the gradient.
        """
        return self.objective_and_gradient(x)[0]

    # What needs a capability; without it these raise InputError.

    def sampled(self, fraction: float, seed: int = 0) -> "Problem":
        """This problem over a random sample of its rows, the same on any number of ranks.

        Each row is taken with probability `fraction`, independently; m is their count. Collective.
        """
        raise self.lacks(SAMPLING)

    def squared_gradients(self, x: np.ndarray) -> np.ndarray:
        """(1/m) sum over all rows of the squares of each row's gradient, without the ridge: (n,).

        Not the square of the mean gradient: each row's gradient is squared whole, then averaged;
        the diagonal of the empirical Fisher matrix. Collective; a pass or two, one reduction of n
        words.
        """
        raise self.lacks(SQUARED_GRADIENTS)

    def kronecker_factors(
        self, x: np.ndarray, seed: int = 0
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each layer, in order: (1/m) sum a a^T and (1/m) sum d d^T over all rows.

        a is the layer's input, with a 1 for its bias, d the gradient by its output of the loss of a
        target drawn from the model's own distribution: their Kronecker product stands for the
        layer's block of the Gauss-Newton matrix, in the order of the parameters (Martens and
        Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML
        2015, section 3). The targets depend on the seed and the row alone. Collective.
        """
        raise self.lacks(KRONECKER_FACTORS)

    def loss_and_gradient(self, x: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """The sum over rows here of losses and of gradients, (n + 1,) float64, loss last; local."""
        raise self.lacks(SHARD_GRADIENTS)

    def gauss_newton(self, x: np.ndarray) -> ShardCurvature:
        """This shard's Gauss-Newton matrix at x, as `linearize`; local."""
        raise self.lacks(GAUSS_NEWTON)

    def fisher(self, x: np.ndarray) -> ShardCurvature:
        """This shard's Fisher matrix at x, of the data term, as `linearize`; local."""
        raise self.lacks(FISHER)

    def empirical_fisher(self, x: np.ndarray) -> ShardCurvature:
        """The sum of g g^T over this shard's rows, g being a row's gradient; local."""
        raise self.lacks(EMPIRICAL_FISHER)

    def monte_carlo_fisher(self, x: np.ndarray, samples: int = 1, seed: int = 0) -> ShardCurvature:
        """As `empirical_fisher`, the mean over targets drawn from the model at x. Collective.

        The targets of a row depend on the seed and the row alone, not on the number of ranks.
        """
        raise self.lacks(MONTE_CARLO_FISHER)

    def over(self, data) -> "Problem":
        """The mean loss over other rows, without ridge and regularisers. Collective.

        Those are the test rows of a `Dataset`, or a pair (X, y) of each rank's own.
        """
        raise self.lacks(TEST_ROWS)

    def right_predictions(self, x: np.ndarray) -> tuple[int, int]:
        """How many of the predictions for the rows here are right, and of how many; local.

        The largest output, or the sign of each.
        """
        raise self.lacks(CLASSIFICATION)

    def output(self, x: np.ndarray, X: np.ndarray) -> np.ndarray:
        """The model's output for rows X at the parameters x, in float64; local."""
        raise self.lacks(PREDICTION)

    def read_weights(self, path: str | os.PathLike):
        """The `parameters` and the `fixed` weights in a file of Keras'; InputError on a bad one."""
        raise self.lacks(KERAS_WEIGHTS)

    def set_fixed(self, values) -> None:
        """Compute with other weights that are not parameters; None: with the first ones again."""
        if values is not None:
            raise self.lacks(KERAS_WEIGHTS)

    # What subclasses build on

    def sample_name(self, fraction: float, seed: int) -> str:
        """What `sample` is of a sample of this problem."""
        outer = "" if self.sample == "all" else f"{self.sample}; "
        return f"{outer}{fraction!r}, seed {seed}"

    def compile(self) -> None:
        """Trace what can be traced before its first use, so that no timed product is it; local."""

    def describe(
        self, factor: LowRank, x: np.ndarray, indices: np.ndarray | None = None
    ) -> LowRank:
        """`factor`, told which problem it belongs to and at which point it was made.

        `indices` are the parameters that it is of, whole blocks, where it is not of all.
        """
        provenance = replace(
            factor.provenance,
            problem=self.name,
            dataset=self.dataset_name,
            data_fingerprint=self.fingerprint,
            rows=self.rows,
            ridge=self.ridge,
        )
        blocks, offset = [], 0
        for block in self.blocks:
            if indices is None or block.offset in indices:
                blocks.append((block.name, block.shape, offset))
                offset += block.size
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
            "dtype": self.dtype,
            "reproducible": str(self.world.reproducible),
            "point": array_digest(x),
        }

    def first_point(self) -> np.ndarray:
        """`initial` where there is one, else zero."""
        return self.check_point(self.initial if self.can(INITIAL_POINT) else np.zeros(self.n))

    def check_point(self, x) -> np.ndarray:
        """x as a finite float64 (n,) array, or InputError."""
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


def chunks(part: slice, rows: int, size: int) -> Iterator[slice]:
    """A part of `rows` rows, `size` of them at a time."""
    start, stop, _ = part.indices(rows)
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))
