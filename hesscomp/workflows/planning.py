"""Memory, words and time of a compression before it runs."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hesscomp.compression.counting import Machine
from hesscomp.compression.plan import METHODS, NUMBER, VECTORS, Plan, Request, make_plan
from hesscomp.errors import InputError
from hesscomp.options import Options, option, values
from hesscomp.parallel.memory import PRODUCT_BYTES
from hesscomp.sketching.defaults import SketchSizes, count, default_method
from hesscomp.workflows.sizes import format_bytes, parse_bytes

if TYPE_CHECKING:  # what loads MPI: plans of stated sizes do not
    from hesscomp.parallel.world import World
    from hesscomp.workflows.compression import CompressRequest
    from hesscomp.workflows.progress import Progress

RATE = 5e10  # operations a second, where nothing else is known
FLOPS = 8  # of a network's Hessian for each parameter, row and column
LARGEST = 1e30  # of numbers; the models overflow beyond


def _rate(**about):
    return option(None, low=1 / LARGEST, high=LARGEST, **about)


def _amount(**about):
    return option(None, low=0, high=LARGEST, **about)


@dataclass(frozen=True, kw_only=True)
class MachineRequest(Options, group="machine", about="what a rank has and does"):
    """What a rank has and does, as far as it is known."""

    memory: float | None = option(
        None, above=0, unit="bytes", parse=parse_bytes, metavar="SIZE",
        help=f"of a rank; default {format_bytes(Machine.memory)}",
    )  # fmt: skip
    memory_limit: float | None = option(
        None, above=0, unit="bytes", parse=parse_bytes, metavar="SIZE",
        help=f"of a product; default {format_bytes(PRODUCT_BYTES)}",
    )  # fmt: skip
    row_bytes: float | None = _amount(metavar="B", help="of one row of the data")
    row_seconds: float | None = _amount(
        metavar="S",
        help=f"of one column's product over one row; default: {FLOPS} N operations at `rate`",
    )
    rate: float | None = _rate(metavar="F", help=f"operations/s; default {RATE:g}")
    latency: float | None = _amount(metavar="S", help="of a message; default 5e-6")
    bandwidth: float | None = _rate(metavar="B", help="bytes/s; default 1e9")


@dataclass(frozen=True, kw_only=True)
class PlanRequest(
    SketchSizes,
    MachineRequest,
    group="problem",
    about="its sizes; or the problem itself, which is loaded and timed on the ranks here",
):
    """What to plan for: sizes, unless the problem itself is measured (`measured_plan`)."""

    n: int | None = count(None, metavar="N", help="parameters, such as 1e8")
    rows: int | None = count(None, metavar="M", help="rows of the data, on all ranks")
    ranks: int = count(group="compression", metavar="P", help="MPI ranks")
    rank: int = count(40, group="compression", metavar="K", help="eigenpairs wanted")
    method: str = option(
        "auto", choices=("auto", *METHODS), group="compression", help="of compression"
    )
    psd: bool = option(False, group="compression", help="with `n`: semidefinite, so nystrom")
    dtype: str = option(
        "float32", choices=("float32", "float64"), group="compression", help="of the products"
    )

    def _check(self) -> None:
        super()._check()
        if self.n is None:
            for name in ("psd", "rate"):
                if getattr(self, name):
                    raise InputError(f"`{name}` goes with `n`; of a problem it is found out")
        elif self.rate is not None and self.row_seconds is not None:
            raise InputError("`rate` and `row_seconds` say the same; give one of them")


def plan(request: PlanRequest) -> Plan:
    """Plan a compression of stated sizes. Loads neither TensorFlow nor MPI.

    Raises
    ------
    InputError
        Where the sizes are missing, or too large for the models.
    """
    if request.n is None or request.rows is None:
        raise InputError("give `n` and `rows`; `measured_plan` finds those of a problem")
    return make_plan(_sizes(request, request.n, request.rows, request.psd), _machine(request))


def _sizes(request: PlanRequest, n: int, rows: int, psd: bool) -> Request:
    method = request.method
    if method == "auto":
        method = default_method(psd, request.power, request.block)
    row_seconds = request.row_seconds
    return Request(
        n=n,
        rows=rows,
        method=method,
        ranks=request.ranks,
        dtype=request.dtype,
        auto=request.method == "auto",
        product_bytes=request.memory_limit or PRODUCT_BYTES,
        row_bytes=request.row_bytes or 0.0,
        row_seconds=FLOPS * n / (request.rate or RATE) if row_seconds is None else row_seconds,
        **values(request, SketchSizes),
    )


def _machine(request: PlanRequest) -> Machine:
    given = {name: getattr(request, name) for name in ("memory", "latency", "bandwidth")}
    return Machine(**{name: value for name, value in given.items() if value is not None})


def measured_plan(
    request: PlanRequest, of: "CompressRequest", world: "World", progress: "Progress | None" = None
) -> Plan:
    """Plan a compression of a problem, which is loaded and timed on the ranks here. Collective.

    Parameters
    ----------
    request : PlanRequest
        Without `n` and `rows`.
    of : CompressRequest
        The problem, operator and point; what it says of sketch and output does not matter.
    world : World
    progress : callable, optional

    Raises
    ------
    InputError
        For what `compress` refuses, and for a trajectory.
    """
    from hesscomp.curvature.calibration import product_cost
    from hesscomp.parallel.calibration import algebra_rate, network_speed
    from hesscomp.parallel.memory import resident_bytes
    from hesscomp.workflows.curvature import find_points, make_curvature
    from hesscomp.workflows.progress import silent
    from hesscomp.workflows.subject import start_tensorflow

    progress = progress or silent
    start_tensorflow(world)
    program = max(world.gather(resident_bytes()))
    points = find_points(of.at, world)
    if len(points) > 1:
        raise InputError("`at`: a plan is for one point, not for a trajectory")
    curvature = make_curvature(of, world, progress, *points)
    operator, rows = curvature.operator, curvature.problem.rows
    held = sum(world.gather(resident_bytes() - program))
    columns = min(operator.n, request.rank + request.oversample)
    cost = product_cost(operator, columns)
    sizes = _sizes(request, operator.n, rows, operator.psd)
    sizes = replace(
        sizes,
        dtype=curvature.problem.dtype,
        row_bytes=max(held - world.size * VECTORS * NUMBER * operator.n, 0) / rows
        if request.row_bytes is None
        else request.row_bytes,
        row_seconds=cost.seconds * world.size / (cost.columns * rows)
        if request.row_seconds is None
        else request.row_seconds,
        product_bytes=min(
            cost.bytes * columns / cost.columns, max(cost.bytes, sizes.product_bytes)
        ),
    )
    latency, bandwidth = network_speed(world, operator.n * columns)
    machine = replace(_machine(request), program=program, flops=algebra_rate(operator.n, columns))
    if request.latency is None and latency is not None:
        machine = replace(machine, latency=latency)
    if request.bandwidth is None and bandwidth is not None:
        machine = replace(machine, bandwidth=bandwidth)
    threads = f", threads of each: {world.threads}" if world.threads > 0 else ""
    progress(f"measured here; ranks: {world.size}{threads}, columns of a product: {cost.columns}")
    if world.size == 1 and None in (request.latency, request.bandwidth):
        progress("not measured, since it takes two ranks: latency and bandwidth that are not given")
    return make_plan(sizes, machine)
