"""Ranks, blocks and an operator without numbers, on which the methods run for a plan.

Of a small matrix only the shape is known (`Unknown`), and of a block of n rows nothing is held: so
neither takes memory or time. What the methods send and compute is counted, and timed by a machine's
rates. Loads neither TensorFlow nor MPI.
"""

from dataclasses import dataclass
from math import ceil, log2

import numpy as np

from hesscomp.curvature.sharded import ShardedOperator
from hesscomp.dense import leading_eigenvectors, sorted_eigh
from hesscomp.parallel.layout import PANEL, Layout
from hesscomp.parallel.ledger import Ledger


@dataclass(frozen=True)
class Machine:
    """What a rank computes and communicates with."""

    memory: float = 4 * 2**30  # bytes that a rank may take
    latency: float = 5e-6  # seconds that a message takes, however short
    bandwidth: float = 1e9  # bytes per second between two ranks while all communicate
    flops: float = 1e10  # double precision operations per second of a rank in matrix products
    program: float = 700 * 2**20  # bytes that TensorFlow, Python and the libraries take


class Unknown(np.ndarray):
    """An array of which only the shape is known: one entry, NaN or False, stands for all.

    What NumPy makes of it entry by entry, by sums, matrix products, blocks and norms is of the same
    kind, as are zeros and identities ``like`` it. All else is done on a full array of NaNs.
    """

    def __array_ufunc__(self, ufunc, method, *inputs, axis=0, **options):
        shapes = [np.shape(x) for x in inputs]
        if method == "reduce":
            dropped = range(self.ndim) if axis is None else np.atleast_1d(axis) % self.ndim
            kept = (size for i, size in enumerate(self.shape) if i not in dropped)
            return unknown(*kept, entry=self.entry)
        if method != "__call__":
            inputs = [np.asarray(x) for x in inputs]
            return getattr(ufunc, method)(*inputs, axis=axis)
        if ufunc is np.matmul:
            return unknown(*shapes[0][:-1], *shapes[1][1:])
        entry = ufunc(*(getattr(x, "entry", 1.0) for x in inputs))
        return unknown(*np.broadcast_shapes(*shapes), entry=entry)

    def __array_function__(self, function, types, arguments, options):
        if function in RULES:
            return RULES[function](*arguments, **options)
        return super().__array_function__(function, types, arguments, options)

    @property
    def entry(self):
        """What stands for every entry."""
        return self[(0,) * self.ndim] if self.size else self.dtype.type(np.nan)


def unknown(*shape: int, entry=np.nan, dtype=None) -> np.ndarray:
    """Return an array of this shape that takes no memory; a number for no dimensions."""
    return np.broadcast_to(np.asarray(entry, dtype), shape).view(Unknown)[()]


def _concatenate(arrays, axis=0, **options):
    shape = list(np.shape(arrays[0]))
    shape[axis] = sum(np.shape(array)[axis] for array in arrays)
    return unknown(*shape)


RULES = {
    np.concatenate: _concatenate,
    np.block: lambda rows: _concatenate([_concatenate(row, 1) for row in rows]),
    np.eye: lambda size, **options: unknown(size, size),
    np.zeros: lambda shape, **options: unknown(*shape),
    np.linalg.norm: lambda x, axis=None: np.sqrt((x * x).sum(axis)),
}


class CountingWorld:
    """Ranks that only count and time what they would send: a `World` for a plan.

    `seconds` are those of products, communication and algebra, `longest` those that a run computes
    at most before it looks whether it was asked to stop.
    """

    rank, threads, reproducible = 0, -1, False

    def __init__(self, size: int, machine: Machine):
        self.size, self.machine = size, machine
        self.ledger = Ledger()
        self.seconds = {"products": 0.0, "communication": 0.0, "algebra": 0.0}
        self.longest = self._looked = 0.0

    def sum(self, array: np.ndarray, scattered: bool = False) -> np.ndarray:
        """Count a reduction, of which every rank gets all or its rows."""
        self.ledger.reduced(array.size)
        self._communicate(array.nbytes, 1 if scattered else 2)
        return array

    def gather(self, array: np.ndarray) -> None:
        """Count a gather of the ranks' rows of an array."""
        self.ledger.words_gathered += array.size
        self._communicate(array.nbytes, 1)

    def compute(self, operations: float) -> None:
        """Count dense algebra."""
        self.seconds["algebra"] += operations / self.machine.flops

    def on_root(self, work, *arguments) -> np.ndarray:
        """Return an array of the result's shape: the first argument's, but for eigenvectors."""
        size = len(arguments[0])
        if work is sorted_eigh:
            self.compute(10 * size**3)
            return unknown(size + 1, size)
        return unknown(size, arguments[1] if work is leading_eigenvectors else size)

    def decide(self, flag: bool) -> bool:
        """Yes: the methods ask for what is usual, and krylov whether it has to go on."""
        return True

    def check_interrupt(self) -> None:
        """Note how long it took since the last look."""
        now = sum(self.seconds.values())
        self.longest, self._looked = max(self.longest, now - self._looked), now

    def pause(self) -> None:
        """Nobody visits a plan."""

    def _communicate(self, size: float, times: int) -> None:
        """Gather, reduce-scatter, or both (which are a reduction) of `size` bytes.

        log2(P) messages and (P - 1)/P of the bytes each: Thakur, Rabenseifner and Gropp (2005),
        recursive halving and doubling, the additions being left out.
        """
        seconds = ceil(log2(self.size)) * self.machine.latency
        seconds += (1 - 1 / self.size) * size / self.machine.bandwidth
        self.seconds["communication"] += times * seconds


class CountingLayout(Layout):
    """Blocks of n rows of which none is held, replicated or, with a panel, in rows."""

    def __init__(self, n, world, panel=None):
        super().__init__(n, world, 0, 0)
        self.panel, self.name = panel, "rows" if panel else "replicated"
        self.counted = ceil(n / world.size) if panel else n  # rows that a rank computes with

    def whole(self, block):
        block = unknown(self.n, block.shape[1], dtype=block.dtype)
        if self.panel:
            self.world.gather(block)
        return block

    def inner(self, A, B):
        product = unknown(A.shape[1], B.shape[1])
        self.world.compute(2 * self.counted * product.size)
        return self._shared(product)

    def combine(self, Q, S, out=None):
        self.world.compute(2 * self.counted * S.size)
        return np.empty((0, *S.shape[1:])) if out is None else out

    def take(self, block, indices):
        return self._shared(unknown(len(indices), block.shape[1]))

    def argmax(self, values):
        return 0

    def any(self, flag):
        self._shared(unknown(1))
        return False

    def _shared(self, sums):
        """What the ranks sum of their rows, where each has its own."""
        return self.world.sum(sums) if self.panel else sums

    def _width(self, columns, most):
        return super()._width(min(columns, self.panel or columns), most)

    def _reduce(self, array):
        self.world.sum(array, scattered=bool(self.panel))
        return np.empty((0, array.shape[1]))

    def _summed_rows(self, part):
        return self._shared(unknown(*part(slice(None)).shape))


class CountingOperator(ShardedOperator):
    """An operator in a `CountingWorld` whose products take each rank `seconds` a column."""

    _assembles = True

    def __init__(self, n, world, *, psd, dtype, seconds: float):
        super().__init__(n, world, psd=psd, dtype=dtype)
        self.layout, self.seconds = CountingLayout(n, world), seconds

    def in_rows(self, panel=PANEL):
        return self.in_layout(CountingLayout(self.n, self.world, panel))

    def replicated(self):
        return self.in_layout(CountingLayout(self.n, self.world))

    def _local(self, V):
        self.world.seconds["products"] += V.shape[1] * self.seconds
        return V

    def _local_projection(self, Q, V):
        self.world.compute(2 * self.n * Q.shape[1] * V.shape[1])
        return unknown(Q.shape[1], self._local(V).shape[1])

    def _assembled(self):
        return self.world.sum(self._local(unknown(self.n, self.n, dtype=self.dtype)))
