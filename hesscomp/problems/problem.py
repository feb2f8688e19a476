"""What every problem offers: a global mean loss plus a ridge, over sharded data."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from hesscomp.curvature.digest import array_digest
from hesscomp.curvature.sharded import STACK_BYTES
from hesscomp.curvature.tensorflow import tf
from hesscomp.datasets import Shard
from hesscomp.errors import InputError
from hesscomp.factors import Factor
from hesscomp.parallel.exact import sum_blocks
from hesscomp.parallel.rows import RowBlocks
from hesscomp.parallel.world import World


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
    """

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
        raise InputError(f"{self.name} cannot be sampled; use all rows")

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

    def describe(self, factor: Factor, x: np.ndarray, indices: np.ndarray | None = None) -> Factor:
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

    def facts(self, x: np.ndarray) -> dict[str, str]:
        """What decides the numbers of a computation that starts at x, besides its own options.

        By name, in texts, the same on any number of ranks: a run goes on in a folder only if these
        are those that it was begun with.
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
