"""What a compression will reduce, hold and take, by running `compress` on sizes alone.

Loads neither TensorFlow nor MPI.
"""

from dataclasses import dataclass
from math import ceil

from hesscomp.compression.compress import CompressionOptions, compress
from hesscomp.compression.counting import CountingOperator, CountingWorld, Machine
from hesscomp.compression.options import SketchSizes
from hesscomp.dense import LM
from hesscomp.errors import InputError
from hesscomp.options import option, option_of, values
from hesscomp.parallel.layout import PANEL
from hesscomp.parallel.resources import COLUMN_COPIES, PRODUCT_BYTES, SHARE, sketch_bytes

METHODS = ("nystrom", "eigh", "krylov")
VECTORS = 3  # arrays of n numbers that each rank holds beside the sketch: points, gradients
NUMBER = 8  # bytes of a number of the sketch
MOST_STEPS = 10**4  # products, which are gone through one by one
MOST_COLUMNS = 10**6  # of a sketch: every rank has matrices of so many rows and columns


@dataclass(frozen=True, kw_only=True)
class Request(SketchSizes):
    """A compression.

    `auto` says whether `compress` chose the method: it then assembles the matrix where that is no
    dearer. A row of the data takes `row_bytes` on its rank, and one column's product over it
    `row_seconds`. A product takes at most `product_bytes` beside its argument and result.
    """

    n: int = option(low=1)
    rows: int = option(low=1)
    ranks: int = option(low=1)
    rank: int = option(low=1)
    which: str = option_of(CompressionOptions, "which")
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
        if self.columns > MOST_COLUMNS:
            raise InputError(
                f"sketches of {self.columns} columns are more than can be planned, since each rank "
                f"holds matrices of that order; take a smaller rank, for at most {MOST_COLUMNS}"
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

    @property
    def shard(self) -> int:
        """Rows of the data on the rank with the most."""
        return ceil(self.rows / self.ranks)


@dataclass(frozen=True)
class Plan:
    """What a compression costs; memory and time are those of the rank with the most.

    Counts are the ledger's. With krylov they are usually upper bounds: it stops where its pairs
    have converged, and goes on only for a cluster of eigenvalues wider than a block.
    """

    request: Request
    machine: Machine
    layout: str  # the one taken
    method: str  # the one taken; "dense" where the matrix is assembled
    columns: int
    passes: int
    words_reduced: int
    words_gathered: int
    seconds: dict[str, float]  # of products, communication and algebra
    longest: float  # seconds of a block product and the algebra before it; signals wait so long

    @property
    def in_rows(self) -> bool:
        return self.layout == "rows"

    @property
    def rows_here(self) -> int:
        """Rows of the sketch."""
        return ceil(self.request.n / self.request.ranks) if self.in_rows else self.request.n

    @property
    def memory(self) -> dict[str, float]:
        """Bytes of program, data, vectors, sketch and product."""
        request = self.request
        n, l = request.n, request.columns
        if self.method == "dense":
            sketch, product = 3.0 * NUMBER * n**2, 0.0
        else:
            copies = _copies(self.method, request.power)
            copies += self.method == "eigh" and request.which != LM  # which keeps H Q
            sketch = NUMBER * self.rows_here * l * copies
            column, block = n * request.itemsize, min(request.gathered, l) if self.in_rows else l
            gathered = 2 * column * block if self.in_rows else 0
            product = gathered + max(
                min(request.product_bytes, COLUMN_COPIES * column * block), COLUMN_COPIES * column
            )
        return {
            "program": self.machine.program,
            "data": request.row_bytes * request.shard,
            "vectors": VECTORS * NUMBER * n,
            "sketch": sketch,
            "product": product,
        }

    @property
    def fits(self) -> bool:
        """Whether a rank has the memory."""
        return sum(self.memory.values()) <= self.machine.memory


def make_plan(request: Request, machine: Machine | None = None) -> Plan:
    """What `compression.compress` will cost.

    Raises InputError for numbers out of range, and for what `compress` refuses.
    """
    machine = machine or Machine()
    layout = request.layout
    if layout == "auto":
        room = machine.memory - machine.program - request.row_bytes * request.shard
        needed = sketch_bytes(request.n, request.columns, request.power)
        layout = "replicated" if needed <= SHARE * room else "rows"
    world = CountingWorld(request.ranks, machine)
    operator = CountingOperator(
        request.n,
        world,
        psd=request.method == "nystrom",
        dtype=request.dtype,
        seconds=request.row_seconds * request.shard,
    )
    made = compress(
        operator,
        which=request.which,
        method="auto" if request.auto else request.method,
        **{**values(request, SketchSizes), "layout": layout},
    ).provenance
    return Plan(
        request,
        machine,
        layout,
        made.method,
        made.columns,
        made.passes,
        made.words_reduced,
        world.ledger.words_gathered,
        world.seconds,
        world.longest,
    )


def _copies(method: str, power: int) -> float:
    """Arrays of l columns that live at once, products' arguments and results among them.

    Measured above the idle process for n = 200,000, l = 60, on 1 to 4 ranks, in either layout.
    """
    return {"nystrom": 6.2, "eigh": 4.4 if power == 0 else 5.2, "krylov": 5.3 + power}[method]
