"""`hesscomp plan`: predict the memory, communication and time of a compression."""

import argparse
import math
import os
from dataclasses import dataclass, replace

from hesscomp.cli.arguments import request_from
from hesscomp.cli.main import STARTED, parse, request_of
from hesscomp.compression.plan import NUMBER, VECTORS, Plan, make_plan
from hesscomp.dense import LM
from hesscomp.errors import Incomplete, InputError
from hesscomp.options import format_bytes, option
from hesscomp.parallel.resources import sketch_bytes
from hesscomp.runs.slurm import MOST_WARNING, WARNING
from hesscomp.workflows.planning import PlanRequest, measured_plan, plan

SUBJECT = ("problem", "model", "loss", "data")
OWN = (
    *("--rank", "--tolerance", "--oversample", "--power", "--method", "--layout", "--panel"),
    *("--block", "--dtype", "--memory-limit", "--which"),
)
IDLE = (
    *("--out", "--json", "--report", "--run", "--save-point", "--max-rank", "--tolerance-norm"),
    *("--test-matrix", "--max-columns", "--max-basis", "--residual-tolerance"),
)
SPARE = 1.2  # memory requested of SLURM, as a multiple of the memory planned
SAVING = 30  # seconds in which a rank saves what it has
USAGE = "hesscomp plan [options] [-- further options of hesscomp compress]"


@dataclass(frozen=True, kw_only=True)
class PlanCommand(PlanRequest):
    """Sizes, or the problem itself as `hesscomp compress` names it."""

    problem: str | None = option(None, metavar="PROBLEM", help="as for compress")
    model: str | None = option(None, metavar="MODEL", help="as for compress")
    loss: str | None = option(None, metavar="LOSS", help="as for compress")
    data: str | None = option(None, metavar="DATA", help="as for compress")
    command: tuple[str, ...] = ()  # further words of compress

    def _check(self) -> None:
        sizes, measured = [self.n, self.rows], on_ranks(self)
        if measured != (sizes == [None, None]) or (None in sizes) != measured:
            raise Incomplete("give either `n` and `rows`, or one of `problem`, `model` and `data`")
        super()._check()
        if measured:
            request_from(self.subject(), request_of("compress"))
        elif self.command:
            raise InputError(f"{self.command[0]}: goes with `problem`, `model` or `data`")

    def subject(self) -> argparse.Namespace:
        """Return the options of `compress` that name the problem and the operator of a plan."""
        for word in self.command:
            name = word.partition("=")[0]
            if name in OWN:
                why = "; a plan is for a --rank, not a tolerance" if name == "--tolerance" else ""
                raise InputError(f"{word}: give it before the --{why}")
            if name in IDLE:
                raise InputError(f"{name}: has no effect on a plan; leave it out")
        words = ["compress", "--out", os.devnull, *self.command]
        if ":" not in (self.problem or ""):  # a problem from Python decides it
            words += ["--dtype", self.dtype]
        for name in SUBJECT:
            if getattr(self, name) is not None:
                words += [f"--{name}", getattr(self, name)]
        if self.memory_limit is not None:
            words += ["--memory-limit", f"{self.memory_limit:.0f}"]
        return parse(words)


def on_ranks(options) -> bool:
    """Return whether a plan loads a problem, on the ranks that it runs on."""
    return any(getattr(options, name) is not None for name in SUBJECT)


def run_plan(request: PlanCommand) -> int:
    if not on_ranks(request):
        return _say(plan(request), print)
    from hesscomp.cli.session import run_on_ranks
    from hesscomp.workflows.factors import CompressRequest

    def measure(options, session) -> int:
        of = request_from(options, CompressRequest)
        return _say(measured_plan(request, of, session.world, session.show), session.say)

    return run_on_ranks(measure, request.subject(), STARTED)


def _say(plan: Plan, say) -> int:
    """Show a plan; return 0, or 3 where the compression does not fit."""
    say(plan_text(plan))
    return 0 if plan.fits else 3


def plan_text(plan: Plan) -> str:
    """Return a plan as text, with its reasons."""
    request, machine = plan.request, plan.machine
    total, seconds = sum(plan.memory.values()), sum(plan.seconds.values())
    l, P = request.columns, request.ranks
    whole = sketch_bytes(request.n, l, request.power)
    end = "" if request.which == LM else f" (--which {request.which})"
    lines = [
        f"n = {request.n:,}, {request.rows:,} rows, rank {request.rank}{end}: sketches of l = {l} "
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
    n, b, size = plan.request.n, plan.request.gathered, plan.request.itemsize
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
        if panel < request.gathered and smaller.fits:
            return f"--layout rows --panel {panel} would, in {_total(smaller)}"
    return (
        f"even with --layout rows --panel 1 a rank takes {_total(smaller)}; give each rank more "
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
