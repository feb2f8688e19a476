"""What every problem offers: a global mean loss plus a ridge, over sharded data."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from hesscomp.curvature.digest import array_digest
from hesscomp.curvature.operator import STACK_BYTES
from hesscomp.curvature.tensorflow import tf
from hesscomp.datasets import Shard
from hesscomp.errors import InputError
from hesscomp.factors import LowRank
from hesscomp.parallel.exact import sum_blocks
from hesscomp.parallel.rows import RowBlocks
from hesscomp.parallel.world import World
from hesscomp.problems.capabilities import INITIAL_POINT, MARGINS, SAMPLING, Capability


@dataclass(frozen=True)
class ParameterBlock:
    """One named piece of the flat parameter vector."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


class ShardCurvature(Protocol):
    """A shard's curvature at a point: sums over its rows, not divided by m, without the ridge.

    `products` and `dense_blocks` are `product` and `dense` for each of the shard's fixed blocks of
    rows alone, (blocks, n, k) and (blocks, n, n). They serve the reproducible mode.
    """

    def product(self, V: tf.Tensor) -> tf.Tensor: ...

    def products(self, V: tf.Tensor) -> tf.Tensor: ...

    def dense(self) -> tf.Tensor: ...

    def dense_blocks(self) -> tf.Tensor: ...


class Problem(ABC):
    """f(x) = (1/m) sum_i l_i(x) + (ridge/2) ||x||^2, m counting the rows of all ranks.

    Attributes
    ----------
    name : str
    n : int
        Number of parameters.
    rows : int
        m, over all ranks.
    ridge : float
    dtype : str
        Precision of curvature products, "float32" or "float64"; all else is float64.
    gradient_dtype : str
        In which networks compute objective and gradient: float64 too, but for batches of training.
    psd : bool
        Whether the Hessian is positive semidefinite everywhere.
    blocks : tuple of ParameterBlock
    row_blocks : int
        In reproducible mode, fixed blocks of rows on all ranks; else 0.
    memory : float
        Bytes that a product may take on a rank, where the problem knows how to keep to them, and
        the separate addends of reproducible mode always.
    fingerprint : str
        Of the training data, independent of the number of ranks.
    sample : str
        Which of its rows are taken.
    capabilities : frozenset of Capability
        What it can do beyond this (`problems.capabilities`). A class declares what its problems
        have, and one problem may have fewer.
    initial : (n,) array
        Where to start, with the capability `INITIAL_POINT`.
    """

    capabilities: frozenset[Capability] = frozenset()
    initial: np.ndarray
    name: str
    n: int
    rows: int
    ridge: float
    dtype: str
    gradient_dtype: str = "float64"
    psd: bool
    blocks: tuple[ParameterBlock, ...]
    dataset_name: str
    fingerprint: str
    sample: str = "all"
    world: World
    row_blocks: int = 0
    memory: float = STACK_BYTES

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

    @abstractmethod
    def objective_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """f(x) and its (n,) gradient, in float64; collective."""

    @abstractmethod
    def linearize(self, x: np.ndarray) -> ShardCurvature:
        """This shard's curvature at x; local."""

    def _sample_of(self, fraction: float, seed: int) -> str:
        """What `sample` is of a sample of this problem."""
        outer = "" if self.sample == "all" else f"{self.sample}; "
        return f"{outer}{fraction!r}, seed {seed}"

    def sampled(self, fraction: float, seed: int = 0) -> "Problem":
        """This problem over a random sample of its rows, the same on any number of ranks."""
        raise self.lacks(SAMPLING)

    def compile(self) -> None:  # noqa: B027 (nothing to do for most)
        """Trace what can be traced before its first use, so that no timed product is it; local."""

    def cut(self, shard: Shard) -> RowBlocks | None:
        """The fixed blocks of a shard's rows, noted here; None unless sums are reproducible.

        Collective. Raises InputError if a rank's rows are not whole blocks.
        """
        if not self.world.reproducible:
            return None
        with self.world.phase("cutting the data"):
            blocks = RowBlocks.of_shard(shard.start, len(shard.y), shard.total)
        self.row_blocks, self.blocks_here = blocks.count, blocks.local
        return blocks

    @property
    def parts_here(self) -> tuple[slice, ...]:
        """The parts of this shard's rows that have an addend each in `sum_parts`.

        The fixed blocks in reproducible mode, else all rows at once.
        """
        return self.blocks_here if self.world.reproducible else (slice(None),)

    def sum_parts(self, addends: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """The sum over `parts_here` and over the ranks; collective.

        Of arrays of a shape, one for each part, which may be none in reproducible mode; there the
        bits do not depend on the number of ranks (`sum_blocks`).
        """
        if self.world.reproducible:
            return sum_blocks(np.reshape(addends, (-1, *shape)), self.row_blocks, self.world)
        return self.world.sum(addends[0])

    # With the capability `MARGINS`: the rows' losses are functions of margins A x, linear in x, so
    # that those along a line follow from the margins at two points.

    def margins(self, x: np.ndarray):
        """A x for this shard's rows, one number each, as an array of the problem's kind."""
        raise self.lacks(MARGINS)

    def known_margins(self, values: np.ndarray):
        """Such an array of margins that were computed before."""
        raise self.lacks(MARGINS)

    def evaluate(self, x: np.ndarray, margins) -> tuple[float, np.ndarray]:
        """As `objective_and_gradient`, where the margins at x are known."""
        raise self.lacks(MARGINS)

    def losses_along(self, margins, direction, steps: np.ndarray) -> np.ndarray:
        """The mean losses without ridge at margins + step * direction, for each of the steps."""
        raise self.lacks(MARGINS)

    def curvature_at(self, margins) -> ShardCurvature:
        """As `linearize`, where the margins are known."""
        raise self.lacks(MARGINS)

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
