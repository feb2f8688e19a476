"""`hesscomp plan`: memory, words and time of a compression before it runs."""

import argparse
import math
import os
from dataclasses import replace

from hesscomp.cli.main import STARTED, Parser
from hesscomp.cli.sizes import format_bytes, parse_bytes
from hesscomp.errors import Incomplete, InputError
from hesscomp.parallel.layout import PANEL
from hesscomp.parallel.memory import PRODUCT_BYTES, sketch_bytes
from hesscomp.runs.slurm import MOST_WARNING, WARNING
from hesscomp.sketching.defaults import default_method
from hesscomp.sketching.plan import METHODS, NUMBER, VECTORS, Machine, Plan, Request, make_plan

SUBJECT = ("problem", "model", "loss", "data")
OWN = (
    *("--rank", "--tolerance", "--oversample", "--power", "--method", "--layout", "--panel"),
    *("--block", "--dtype"),
)
IDLE = (
    *("--out", "--report", "--run", "--save-point", "--max-rank", "--tolerance-norm"),
    *("--test-matrix", "--max-columns", "--max-basis", "--residual-tolerance"),
)
RATE = 5e10  # operations a second, where nothing else is known
FLOPS = 8  # of a network's Hessian for each parameter, row and column
MOST, LARGEST = 10**15, 1e30  # of counts and of other numbers; the models overflow beyond
SPARE = 1.2  # times the memory planned that is asked of SLURM
SAVING = 30  # seconds in which a rank saves what it has


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "hesscomp plan [options] [-- further options of hesscomp compress]"
    what = parser.add_argument_group(
        "problem", "its sizes; or the problem itself, which is loaded and timed on the ranks here"
    )
    what.add_argument("--n", type=_count, metavar="N", help="parameters, such as 1e8")
    what.add_argument("--rows", type=_count, metavar="M", help="rows of the data, on all ranks")
    for name in SUBJECT:
        what.add_argument(f"--{name}", metavar=name.upper(), help="as compress has it")
    request = parser.add_argument_group("compression")
    request.add_argument("--ranks", type=_count, required=True, metavar="P", help="MPI ranks")
    request.add_argument("--rank", type=_count, default=40, metavar="K", help="eigenpairs wanted")
    request.add_argument(
        "--oversample", type=_whole, default=10, metavar="P", help="columns beyond"
    )
    request.add_argument("--power", type=_whole, default=1, metavar="Q", help="power steps")
    request.add_argument("--method", choices=("auto", *METHODS), default="auto")
    request.add_argument("--psd", action="store_true", help="with --n: semidefinite, so nystrom")
    request.add_argument("--layout", choices=("auto", "replicated", "rows"), default="auto")
    request.add_argument(
        "--panel",
        type=_count,
        metavar="B",
        help=f"with --layout rows: columns gathered at once; default {PANEL}",
    )
    request.add_argument("--block", type=_count, metavar="B", help="krylov: columns of a block")
    request.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    machine = parser.add_argument_group("machine", "what a rank has and does")
    machine.add_argument("--memory", default="4G", metavar="SIZE", help="of a rank")
    machine.add_argument(
        "--memory-limit",
        metavar="SIZE",
        help=f"of a product; default {format_bytes(PRODUCT_BYTES)}",
    )
    machine.add_argument(
        "--row-bytes", type=_least_zero, metavar="B", help="of one row of the data"
    )
    machine.add_argument(
        "--row-seconds", type=_least_zero, metavar="S",
        help=f"of one column's product over one row; default: {FLOPS} N operations at --rate",
    )  # fmt: skip
    machine.add_argument(
        "--rate", type=_positive, metavar="F", help=f"operations/s; default {RATE:g}"
    )
    machine.add_argument(
        "--latency", type=_least_zero, metavar="S", help="of a message; default 5e-6"
    )
    machine.add_argument("--bandwidth", type=_positive, metavar="B", help="bytes/s; default 1e9")


def on_ranks(options: argparse.Namespace) -> bool:
    """Whether a plan loads a problem, on the ranks that it is given."""
    return any(getattr(options, name) is not None for name in SUBJECT)


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    if options.panel is not None and options.layout != "rows":
        raise InputError(f"--panel does not go with --layout {options.layout}; take --layout rows")
    sizes = [options.n, options.rows]
    if on_ranks(options) != (sizes == [None, None]) or (None in sizes) != on_ranks(options):
        raise Incomplete("give --n and --rows, or --problem, --model or --data, and not both")
    parse_bytes(options.memory, "--memory")
    if options.memory_limit is not None:
        parse_bytes(options.memory_limit, "--memory-limit")
    if on_ranks(options):
        for name in ("psd", "rate"):
            if getattr(options, name):
                raise InputError(f"--{name} goes with --n; of a problem it is found out")
        from hesscomp.cli.options import check_subject

        check_subject(_subject(options))
    elif options.rate is not None and options.row_seconds is not None:
        raise InputError("--rate and --row-seconds say the same; give one of them")
    elif options.words:
        raise InputError(f"{options.words[0]}: goes with --problem, --model or --data")


def run(options: argparse.Namespace) -> int:
    check(options)
    if on_ranks(options):
        from hesscomp.cli.session import run_on_ranks

        return run_on_ranks(
            lambda subject, session: _calibrate(subject, options, session),
            _subject(options),
            STARTED,
        )
    plan = make_plan(_request(options, options.n, options.rows, options.psd), _machine(options))
    print(plan_text(plan))
    return _status(plan)


def _status(plan: Plan) -> int:
    """0, or 3 where what was asked for cannot be had."""
    return 0 if plan.fits else 3


def _request(options, n: int, rows: int, psd: bool) -> Request:
    method = options.method
    if method == "auto":
        method = default_method(psd, options.power, options.block)
    return Request(
        n=n,
        rows=rows,
        ranks=options.ranks,
        method=method,
        auto=options.method == "auto",
        product_bytes=PRODUCT_BYTES
        if options.memory_limit is None
        else parse_bytes(options.memory_limit, "--memory-limit"),
        row_bytes=options.row_bytes or 0.0,
        row_seconds=FLOPS * n / (options.rate or RATE)
        if options.row_seconds is None
        else options.row_seconds,
        **{
            name: getattr(options, name)
            for name in ("rank", "oversample", "power", "layout", "block", "dtype")
        },
        panel=options.panel or PANEL,
    )


def _machine(options) -> Machine:
    given = {name: getattr(options, name) for name in ("latency", "bandwidth")}
    given = {name: value for name, value in given.items() if value is not None}
    return Machine(memory=parse_bytes(options.memory, "--memory"), **given)


def _subject(options) -> argparse.Namespace:
    """The options of `compress` that name the problem of a plan, and what its product is of."""
    from hesscomp.cli import compress

    for word in options.words or ():
        name = word.partition("=")[0]
        if name in OWN:
            raise InputError(f"{word}: give it before the --; a plan is for a --rank, no tolerance")
        if name in IDLE:
            raise InputError(f"{name}: changes nothing in a plan; leave it out")
    parser = Parser(prog="hesscomp compress")
    compress.add_arguments(parser)
    words = ["--out", os.devnull, "--dtype", options.dtype, *(options.words or ())]
    for name in (*SUBJECT, "memory_limit"):
        if getattr(options, name) is not None:
            words += [f"--{name.replace('_', '-')}", getattr(options, name)]
    return parser.parse_args(words)


def _calibrate(subject, options, session) -> int:
    from hesscomp.cli.curvature import find_points, load_curvature
    from hesscomp.curvature.calibration import product_cost
    from hesscomp.parallel.calibration import algebra_rate, network_speed
    from hesscomp.parallel.memory import resident_bytes

    world = session.world
    session.start_tensorflow()
    program = max(world.gather(resident_bytes()))
    points = find_points(subject, session)
    if len(points) > 1:
        raise InputError("--at: a plan is for one point, not for a trajectory")
    curvature, _ = load_curvature(subject, session, *points)
    operator, rows = curvature.operator, curvature.problem.rows
    held = sum(world.gather(resident_bytes() - program))
    columns = min(operator.n, options.rank + options.oversample)
    cost = product_cost(operator, columns)
    request = _request(options, operator.n, rows, operator.psd)
    request = replace(
        request,
        row_bytes=max(held - world.size * VECTORS * NUMBER * operator.n, 0) / rows
        if options.row_bytes is None
        else options.row_bytes,
        row_seconds=cost.seconds * world.size / (cost.columns * rows)
        if options.row_seconds is None
        else options.row_seconds,
        product_bytes=min(
            cost.bytes * columns / cost.columns, max(cost.bytes, request.product_bytes)
        ),
    )
    latency, bandwidth = network_speed(world, operator.n * columns)
    machine = replace(_machine(options), program=program, flops=algebra_rate(operator.n, columns))
    if options.latency is None and latency is not None:
        machine = replace(machine, latency=latency)
    if options.bandwidth is None and bandwidth is not None:
        machine = replace(machine, bandwidth=bandwidth)
    session.say(
        f"measured here; ranks: {world.size}, threads of each: {session.threads}, columns of a "
        f"product: {cost.columns}"
    )
    if world.size == 1 and None in (options.latency, options.bandwidth):
        session.say(
            "not measured, since it takes two ranks: latency and bandwidth that are not given"
        )
    plan = make_plan(request, machine)
    session.say(plan_text(plan))
    return _status(plan)


def _number(text: str, least: float, most: float = LARGEST) -> float:
    """A number that the models can compute with."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
    return value


def _positive(text: str) -> float:
    return _number(text, 1 / LARGEST)


def _least_zero(text: str) -> float:
    return _number(text, 0.0)


def _whole(text: str, least: int = 0) -> int:
    """A whole number, which may be written 1e8."""
    value = _number(text, least, MOST)
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is no count: give one such as 40 or 1e8")
    return int(value)


def _count(text: str) -> int:
    return _whole(text, 1)


def plan_text(plan: Plan) -> str:
    """A plan for people, with its reasons."""
    request, machine = plan.request, plan.machine
    total, seconds = sum(plan.memory.values()), sum(plan.seconds.values())
    l, P = request.columns, request.ranks
    whole = sketch_bytes(request.n, l, request.power)
    lines = [
        f"n = {request.n:,}, {request.rows:,} rows, rank {request.rank}: sketches of l = {l} "
        f"columns, on {P:,} ranks of {format_bytes(machine.memory)}",
        f"method         {plan.method}",
        f"layout         {plan.layout}: replicated, a sketch takes up to {format_bytes(whole)} "
        "on every rank",
        f"memory a rank  {format_bytes(total)}, at its peak",
        *(f"  {name:<12} {format_bytes(plan.memory[name])}: {why}" for name, why in _reasons(plan)),
        f"products       {plan.columns:,} columns in {plan.passes:,} passes over the data"
        + (", at most" if plan.method == "krylov" else ""),
        f"words reduced  {plan.words_reduced:,}",
        f"words gathered {plan.words_gathered:,}",
        f"time           {_duration(seconds)}: "
        + ", ".join(f"{name} {_duration(spent)}" for name, spent in plan.seconds.items()),
        f"  products     {request.row_seconds:.3g} s a column and row on a rank; the longest block "
        f"takes {_duration(plan.longest)}",
        f"  reductions   2 (log2 P x {machine.latency:.3g} s + (1 - 1/P) bytes / "
        f"{machine.bandwidth:.3g} bytes/s); gathers half of it",
        f"  algebra      {machine.flops:.3g} operations/s",
    ]
    if not plan.fits:
        return "\n".join([*lines, f"does not fit   {_remedy(plan)}"])
    memory = f"--mem-per-cpu={math.ceil(SPARE * total / 2**20)}M"
    warning = min(max(math.ceil(2 * plan.longest) + SAVING, WARNING), MOST_WARNING)
    lines.append(
        f"ask SLURM for  --ntasks={P} (hesscomp job: --nodes times --ranks-per-node) {memory} "
        f"--time={_slurm_time(2 * seconds)} --signal=B:USR1@{warning} (--warning={warning}), with "
        "one CPU a rank"
    )
    return "\n".join(lines)


def _reasons(plan: Plan):
    n, b, size = plan.request.n, plan.request.panel, plan.request.itemsize
    share = " / P" if plan.in_rows else ""
    gathered = f"two gathered panels of {b} columns, 2 n x {b} x {size} bytes, and " * plan.in_rows
    copies = plan.memory["sketch"] / (NUMBER * plan.rows_here * plan.request.columns)
    return (
        ("program", "Python, TensorFlow, MPI"),
        ("data", "the shard's rows"),
        ("vectors", f"{VECTORS} of n = {n:,} numbers: the point and gradients"),
        ("sketch", f"about {copies:.1f} arrays of n l{share} numbers"),
        ("product", f"{gathered}what the product itself takes"),
    )


def _remedy(plan: Plan) -> str:
    """What would make it fit."""
    request, machine = plan.request, plan.machine
    for panel in (8, 4, 2, 1):
        smaller = make_plan(replace(request, panel=panel, layout="rows"), machine)
        if panel < request.panel and smaller.fits:
            return f"--layout rows --panel {panel} would, in {_total(smaller)}"
    smallest = make_plan(replace(request, panel=1, layout="rows"), machine)
    return (
        f"even with --layout rows --panel 1 a rank takes {_total(smallest)}; give each rank more "
        "memory (--memory), or take more --ranks or a smaller --rank"
    )


def _total(plan: Plan) -> str:
    return format_bytes(sum(plan.memory.values()))


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _slurm_time(seconds: float) -> str:
    minutes = max(math.ceil(seconds / 60), 10)
    days, minutes = divmod(minutes, 1440)
    return (f"{days}-" if days else "") + f"{minutes // 60:02d}:{minutes % 60:02d}:00"
