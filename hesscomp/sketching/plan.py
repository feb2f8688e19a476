"""A compression before it runs: what it will reduce, hold and take, by stated models.

Words are counted by going through the drivers' steps (compression/nystrom.py, eigh.py, krylov.py)
with sizes in the place of arrays. Loads neither TensorFlow nor MPI.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, log2

from hesscomp.errors import InputError
from hesscomp.options import option
from hesscomp.parallel.layout import PANEL
from hesscomp.parallel.memory import COLUMN_COPIES, PRODUCT_BYTES, SHARE, sketch_bytes
from hesscomp.sketching.defaults import SketchSizes, block_size

METHODS = ("nystrom", "eigh", "krylov")
VECTORS = 3  # arrays of n numbers that each rank holds beside the sketch: points, gradients
NUMBER = 8  # bytes of a number of the sketch
MOST_STEPS = 10**5  # products, which are gone through one by one


@dataclass(frozen=True)
class Machine:
    """What a rank computes and communicates with.

    Attributes
    ----------
    memory : float
        Bytes that a rank may take.
    latency : float
        Seconds that a message takes, however short.
    bandwidth : float
        Bytes a second between two ranks while all communicate.
    flops : float
        Double precision operations a second of a rank in matrix products.
    program : float
        Bytes that TensorFlow, Python and the libraries take.
    """

    memory: float = 4 * 2**30
    latency: float = 5e-6
    bandwidth: float = 1e9
    flops: float = 1e10
    program: float = 700 * 2**20


@dataclass(frozen=True, kw_only=True)
class Request(SketchSizes):
    """A compression.

    `auto` says whether `compress` chose the method: it then assembles the matrix where that is no
    dearer. `row_bytes` are those of one row of the data on its rank, `row_seconds` those that one
    column's product over one row takes on a rank, and `product_bytes` those that a product takes at
    most beside its argument and result.
    """

    n: int = option(low=1)
    rows: int = option(low=1)
    ranks: int = option(low=1)
    rank: int = option(low=1)
    probes: int = 8
    method: str = option("krylov", choices=METHODS)
    auto: bool = False
    dtype: str = "float32"
    row_bytes: float = 0.0
    row_seconds: float = 0.0
    product_bytes: float = PRODUCT_BYTES

    def _check(self) -> None:
        super()._check()
        width = min(self.gathered, self.block or self.columns, self.columns)
        if (products := (self.power + 2) * self.columns // width) > MOST_STEPS:
            raise InputError(
                f"{products} products of {width} columns are more than can be planned; take a "
                "larger panel or block, or a smaller rank or power"
            )

    @property
    def columns(self) -> int:
        """l = rank + oversample, at most n."""
        return min(self.n, self.rank + self.oversample)

    @property
    def gathered(self) -> int:
        """Columns of a panel."""
        return self.panel or PANEL

    @property
    def itemsize(self) -> int:
        return 4 if self.dtype == "float32" else 8


@dataclass
class Plan:
    """What a compression costs; on the rank with the most, where memory and time are concerned.

    Attributes
    ----------
    request : Request
    machine : Machine
    layout, method : str
        Those taken; the method is "dense" where the matrix is assembled.
    columns, passes, words_reduced, words_gathered : int
        As the ledger counts them. With krylov usually the most: it stops where its pairs have
        converged, and goes on only for a cluster of eigenvalues wider than a block.
    seconds : dict of str to float
        Of products, communication and algebra.
    longest : float
        Seconds of the longest block product: a run reacts to signals only between block products.
    memory : dict of str to float
        Bytes of program, data, vectors, sketch and product.
    """

    request: Request
    machine: Machine
    layout: str
    method: str
    columns: int = 0
    passes: int = 0
    words_reduced: int = 0
    words_gathered: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"products": 0.0, "communication": 0.0, "algebra": 0.0}
    )
    longest: float = 0.0
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def in_rows(self) -> bool:
        return self.layout == "rows"

    @property
    def fits(self) -> bool:
        """Whether a rank has the memory."""
        return sum(self.memory.values()) <= self.machine.memory

    @property
    def rows_here(self) -> int:
        """Rows of the sketch."""
        return ceil(self.request.n / self.request.ranks) if self.in_rows else self.request.n

    def product(self, columns: int) -> None:
        """H V."""
        with self._block():
            for width in self._panels(columns):
                words = self.request.n * width
                self._reduce(words, self.request.itemsize, scattered=self.in_rows)
                if self.in_rows:
                    self.words_gathered += words
                    self._communicate(words * self.request.itemsize, 1)
            self._multiplied(columns)

    def project(self, columns: int) -> None:
        """Q^T H Q."""
        if self.in_rows:
            self.product(columns)
            self.inner(columns, columns)
        else:
            self.combine(columns, columns)
            with self._block():
                self._reduce(columns**2)
                self._multiplied(columns)

    def assemble(self) -> None:
        """The matrix."""
        n = self.request.n
        with self._block():
            self._reduce(n**2, self.request.itemsize)
            self.columns, self.passes = n, 1
            if self.in_rows:
                self._reduce(1)
            self._compute(n)
        self.seconds["algebra"] += 10 * n**3 / self.machine.flops  # eigenvalues and vectors

    def inner(self, a: int, b: int) -> None:
        """A^T B."""
        self.combine(a, b)
        if self.in_rows:
            self._reduce(a * b)

    def squares(self, columns: int) -> None:
        """The columns' sums of squares."""
        self.combine(columns, 1)
        if self.in_rows:
            self._reduce(columns)

    def combine(self, a: int, b: int) -> None:
        """Q S: a product with a small matrix."""
        self.seconds["algebra"] += 2 * self.rows_here * a * b / self.machine.flops

    def orthonormalize(self, columns: int, against: int = 0) -> None:
        """By CholeskyQR2; worse conditioned blocks take columns^2 words more."""
        for _ in range(2):
            self.inner(columns, columns)
            self.combine(columns, columns)
        if against:
            self.inner(against, columns)
            self.combine(against, columns)

    @contextmanager
    def _block(self) -> Iterator[None]:
        before = sum(self.seconds.values())
        yield
        self.longest = max(self.longest, sum(self.seconds.values()) - before)

    def _panels(self, columns: int) -> list[int]:
        width = min(columns, self.request.gathered) if self.in_rows else columns
        return [min(width, columns - first) for first in range(0, columns, width)]

    def _multiplied(self, columns: int) -> None:
        self.columns += columns
        self.passes += len(self._panels(columns))
        if self.in_rows:  # whether all is finite
            self._reduce(1)
        self._compute(columns)

    def _compute(self, columns: int) -> None:
        request = self.request
        self.seconds["products"] += (
            columns * request.row_seconds * ceil(request.rows / request.ranks)
        )

    def _reduce(self, words: int, itemsize: int = NUMBER, scattered: bool = False) -> None:
        self.words_reduced += words
        self._communicate(words * itemsize, 1 if scattered else 2)

    def _communicate(self, size: float, times: int) -> None:
        """Gather, reduce-scatter, or both (which are a reduction) of `size` bytes.

        log2(P) messages and (P - 1)/P of the bytes each: Thakur, Rabenseifner and Gropp (2005),
        recursive halving and doubling, the additions being left out.
        """
        ranks = self.request.ranks
        seconds = ceil(log2(ranks)) * self.machine.latency
        seconds += (1 - 1 / ranks) * size / self.machine.bandwidth
        self.seconds["communication"] += times * seconds


def make_plan(request: Request, machine: Machine | None = None) -> Plan:
    """What `compression.compress` will cost.

    Raises InputError for numbers out of range.
    """
    machine = machine or Machine()
    q, l, n = request.power, request.columns, request.n
    layout = request.layout
    data = request.row_bytes * ceil(request.rows / request.ranks)
    if layout == "auto":
        room = machine.memory - machine.program - data
        layout = "replicated" if sketch_bytes(n, l, q) <= SHARE * room else "rows"
    probes = 0 if request.method == "nystrom" and q == 0 else request.probes
    columns = (1 + q if request.method == "nystrom" else 2 + q) * l + probes
    width = (2 + q) * l if request.method == "krylov" else l
    dense = width >= n or (request.auto and columns >= n)
    plan = Plan(request, machine, layout, "dense" if dense else request.method)
    plan.memory = {"program": machine.program, "data": data, "vectors": VECTORS * NUMBER * n}
    if dense:
        plan.assemble()
        plan.memory |= {"sketch": 3.0 * NUMBER * n**2, "product": 0.0}
        return plan
    {"nystrom": _nystrom, "eigh": _eigh, "krylov": _krylov}[request.method](plan)
    plan.memory["sketch"] = NUMBER * plan.rows_here * l * _copies(plan)
    block = min(request.gathered, l) if plan.in_rows else l
    held = 2 * n * block * request.itemsize if plan.in_rows else 0
    plan.memory["product"] = held + max(
        min(request.product_bytes, COLUMN_COPIES * n * block * request.itemsize),
        COLUMN_COPIES * n * request.itemsize,
    )
    return plan


def _copies(plan: Plan) -> float:
    """Arrays of l columns that live at once, products' arguments and results among them.

    Measured above the idle process for n = 200,000, l = 60, on 1 to 4 ranks, in either layout.
    """
    q = plan.request.power
    return {"nystrom": 6.2, "eigh": 4.4 if q == 0 else 5.2, "krylov": 5.3 + q}[plan.method]


def _nystrom(plan: Plan) -> None:
    l, r = plan.request.columns, plan.request.probes
    certified = plan.request.power == 0  # by leave-one-out
    for _ in range(plan.request.power):
        plan.product(l)
        plan.orthonormalize(l)
    plan.product(l if certified else l + r)
    plan.squares(l)
    plan.squares(l)
    plan.inner(l, l)
    plan.combine(l, l)
    if certified:
        plan.combine(l, l)
        plan.squares(l)
    plan.orthonormalize(l)
    plan.inner(l, l)
    plan.combine(l, l)
    if not certified:
        _certificate(plan, galerkin=False)


def _eigh(plan: Plan) -> None:
    l, r = plan.request.columns, plan.request.probes
    for _ in range(plan.request.power):
        plan.product(l)
        plan.orthonormalize(l)
    plan.product(l + r)
    plan.orthonormalize(l)
    plan.project(l)
    plan.combine(l, l)
    _certificate(plan, galerkin=True)


def _krylov(plan: Plan) -> None:
    request = plan.request
    l, r = request.columns, request.probes
    b = min(request.n, request.block or block_size(l))
    steps = max((2 + request.power) * l // b, ceil(min(request.rank, request.n) / b), 1)
    plan.orthonormalize(b)
    for step in range(1, steps + 1):
        plan.product(b + r if step == 1 else b)
        plan.inner(step * b, b)
        plan.squares(b)
        plan.combine(step * b, b)
        plan.inner(b, b)
        plan.orthonormalize(b, against=step * b)
        plan.inner(b, b)
    plan.combine(steps * b, l)
    _certificate(plan, galerkin=True)


def _certificate(plan: Plan, galerkin: bool) -> None:
    l, r = plan.request.columns, plan.request.probes
    plan.inner(l, r)
    plan.combine(l, r)
    plan.squares(r)
    if not galerkin:
        plan.inner(l, r)
    plan.squares(r)
