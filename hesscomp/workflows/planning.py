"""Predict the memory, communication and time of a compression."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hesscomp.compression.compress import RANK, CompressionOptions
from hesscomp.compression.counting import Machine
from hesscomp.compression.options import SketchSizes, count, default_method, end_taken
from hesscomp.compression.plan import METHODS, NUMBER, VECTORS, Plan, Request, make_plan
from hesscomp.errors import InputError
from hesscomp.options import Options, byte_size, format_bytes, option, option_of, values
from hesscomp.parallel.resources import PRODUCT_BYTES, algebra_rate, network_speed, resident_bytes

if TYPE_CHECKING:  # what loads MPI: plans of stated sizes do not
    from hesscomp.parallel.world import World
    from hesscomp.workflows.factors import CompressRequest
    from hesscomp.workflows.progress import Progress

RATE = 5e10  # operations a second, where nothing else is known
FLOPS = 8  # of a network's Hessian for each parameter, row and column
LARGEST = 1e30  # of numbers; the models overflow beyond


def _rate(**about):
    return option(None, low=1 / LARGEST, high=LARGEST, **about)


def _amount(**about):
    return option(None, low=0, high=LARGEST, **about)


@dataclass(frozen=True, kw_only=True)
class MachineRequest(Options, group="machine", about="the memory and the speed of a rank"):
    """The memory and the speed of a rank, as far as they are known."""

    memory: float | None = byte_size(
        metavar="SIZE",
        help=f"memory of a rank, such as 4G; default: {format_bytes(Machine.memory)}",
    )
    memory_limit: float | None = byte_size(
        metavar="SIZE", advanced=True,
        help=f"most memory that a product takes; default: {format_bytes(PRODUCT_BYTES)}",
    )  # fmt: skip
    row_bytes: float | None = _amount(
        metavar="B", advanced=True, help="bytes of one row of the data; default: 0"
    )
    row_seconds: float | None = _amount(
        metavar="S", advanced=True,
        help="seconds that a rank takes for one column's product over one row; default: "
        f"{FLOPS} N operations at `rate`",
    )  # fmt: skip
    rate: float | None = _rate(
        metavar="F", advanced=True, help=f"operations per second; default: {RATE:g}"
    )
    latency: float | None = _amount(
        metavar="S", advanced=True, help=f"seconds of a message; default: {Machine.latency:g}"
    )
    bandwidth: float | None = _rate(
        metavar="B", advanced=True, help=f"bytes per second sent; default: {Machine.bandwidth:g}"
    )


@dataclass(frozen=True, kw_only=True)
class PlanRequest(
    SketchSizes,
    MachineRequest,
    group="problem",
    about="give its sizes, or the problem itself: it is then loaded and timed on these ranks",
):
    """The sizes to plan for; `measured_plan` measures them instead."""

    n: int | None = count(None, metavar="N", help="number of parameters, such as 1e8")
    rows: int | None = count(None, metavar="M", help="rows of the data on all ranks together")
    ranks: int = count(group="compression", metavar="P", help="number of MPI ranks")
    rank: int | None = count(
        None, group="compression", metavar="K",
        help=f"number of eigenpairs; default: what compress takes, {RANK} or less",
    )  # fmt: skip
    which: str = option_of(CompressionOptions, "which")
    method: str = option(
        "auto", choices=("auto", *METHODS), group="compression", advanced=True,
        help="compression algorithm; auto picks one from the matrix's properties",
    )  # fmt: skip
    psd: bool = option(
        False, group="compression", advanced=True, help="with `n`: a semidefinite matrix"
    )
    dtype: str = option(
        "float32", choices=("float32", "float64"), group="compression", help="precision of products"
    )

    def _check(self) -> None:
        super()._check()
        if self.n is None:
            for name in ("psd", "rate"):
                if getattr(self, name):
                    raise InputError(f"`{name}` goes with `n`; a problem itself is measured")
        elif self.rate is not None and self.row_seconds is not None:
            raise InputError("`rate` and `row_seconds` both state the speed; give one of them")


def plan(request: PlanRequest) -> Plan:
    """Plan a compression of stated sizes. Loads neither TensorFlow nor MPI.

    Raises
    ------
    InputError
        Where the sizes are missing or too large for the cost models.
    """
    return make_plan(_sizes(request), _machine(request))


def _sizes(request: PlanRequest) -> Request:
    if request.n is None or request.rows is None:
        raise InputError("give `n` and `rows`; `measured_plan` measures them for a problem")
    method, row_seconds = request.method, request.row_seconds
    if method == "auto":
        method = default_method(request.psd, request.power, request.which, request.block)
    if row_seconds is None:
        row_seconds = FLOPS * request.n / (request.rate or RATE)
    return Request(
        n=request.n, rows=request.rows, method=method, ranks=request.ranks, dtype=request.dtype,
        auto=request.method == "auto", product_bytes=request.memory_limit or PRODUCT_BYTES,
        row_bytes=request.row_bytes or 0.0, row_seconds=row_seconds,
        which=end_taken(request.which, request.psd),
        **values(request, SketchSizes) | {"rank": request.rank or RANK},
    )  # fmt: skip


def _machine(request: PlanRequest) -> Machine:
    given = {name: getattr(request, name) for name in ("memory", "latency", "bandwidth")}
    return Machine(**{name: value for name, value in given.items() if value is not None})


def measured_plan(
    request: PlanRequest, of: "CompressRequest", world: "World", progress: "Progress | None" = None
) -> Plan:
    """Plan a compression of a problem that is loaded and timed on these ranks. Collective.

    The request names neither `n` nor `rows`. `of` has the problem, the operator and the point; its
    options for sketch and output are ignored. Where the request has no `rank` either, what is
    planned is what `compress` then does: of a large model a first look at some of its rows.

    Raises
    ------
    InputError
        For what `compress` refuses, and for a trajectory.
    """
    from hesscomp.curvature.calibration import product_cost
    from hesscomp.workflows.curvature import make_operator, make_point, sampled
    from hesscomp.workflows.factors import first_look
    from hesscomp.workflows.progress import silent
    from hesscomp.workflows.subject import make_problem, start_tensorflow

    progress = progress or silent
    start_tensorflow(world)
    program = max(world.gather(resident_bytes()))
    of = of if request.rank is None else replace(of, rank=request.rank)
    subject = make_problem(of, world, progress)
    x = make_point(of, subject, progress)
    of = first_look(of, subject.problem, progress)
    assert of.rank is not None  # since it has no tolerance
    curvature = make_operator(of, sampled(of, subject.problem), x)
    n, rows, psd = curvature.operator.n, curvature.problem.rows, curvature.operator.psd
    held = sum(world.gather(resident_bytes() - program))
    columns = min(n, of.rank + request.oversample)
    cost = product_cost(curvature.operator, columns)
    latency, bandwidth = network_speed(world, n * columns)
    measured = {
        "row_bytes": max(held - world.size * VECTORS * NUMBER * n, 0) / rows,
        "row_seconds": cost.seconds * world.size / (cost.columns * rows),
        "latency": latency,
        "bandwidth": bandwidth,
    }
    measured |= {k: v for k, v in values(request, PlanRequest).items() if v is not None}
    measured |= {"n": n, "rows": rows, "psd": psd, "dtype": curvature.problem.dtype}
    measured["rank"] = int(of.rank)
    request = PlanRequest(**measured)
    sizes = _sizes(request)
    most = max(cost.bytes, sizes.product_bytes)
    sizes = replace(sizes, product_bytes=min(cost.bytes * columns / cost.columns, most))
    machine = replace(_machine(request), program=program, flops=algebra_rate(n, columns))
    threads = f", threads of each: {world.threads}" if world.threads > 0 else ""
    progress(f"measured here; ranks: {world.size}{threads}, columns of a product: {cost.columns}")
    if world.size == 1 and None in (request.latency, request.bandwidth):
        progress("latency and bandwidth need two ranks to be measured; defaults replace them")
    return make_plan(sizes, machine)
