"""Run a command on all ranks: threads, time, signals, and errors that end every rank."""

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from threadpoolctl import threadpool_limits

from hesscomp.cli.arguments import request_from, warn_of_old_names
from hesscomp.cli.exits import INTERRUPTED, UNREAD, exit_status, report_error, write_no_more
from hesscomp.cli.progress import progress_display
from hesscomp.cli.tables import factor_table
from hesscomp.errors import HesscompError, InputError, Interrupted
from hesscomp.factors import Factor
from hesscomp.options import Options, option
from hesscomp.parallel import TIMEOUT
from hesscomp.parallel.resources import threads_per_rank
from hesscomp.parallel.watchdog.phase import in_words, phase_of
from hesscomp.parallel.watchdog.stop_signals import STOP_SIGNALS, StopListener
from hesscomp.parallel.world import World
from hesscomp.runs.slurm import REQUEUE
from hesscomp.workflows.progress import Columns

MOST_THREADS = 2**16
NOTICE = b"hesscomp: interrupted: ends after the current block product; Ctrl-C again ends it now\n"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise InputError(f"{text!r} is not a positive number of seconds")
    return seconds


@dataclass
class Session:
    """What a command needs besides its request: the world, its threads and its output."""

    world: World
    _limits: object = field(repr=False, default=None)
    columns: Callable[[Columns], None] = field(repr=False, default_factory=progress_display)

    def say(self, text: str = "") -> None:
        """Print a line on rank 0."""
        if self.world.rank == 0:
            print(text, flush=True)

    def show(self, event: object) -> None:
        """Show an event of a workflow on rank 0: a line, a factor, or product columns."""
        if isinstance(event, Factor):  # on all ranks: a kind may gather its rows for it
            self.say(factor_table(event))
        elif isinstance(event, Columns):
            if self.world.rank == 0:
                self.columns(event)
        else:
            self.say(str(event))

    def showing(self, texts: dict[type, Callable[[Any], str]], header: str = "") -> Callable:
        """Return a `show` that formats events of these types, under a header."""
        waiting = [header] if header else []

        def show(event: object) -> None:
            if type(event) not in texts:
                self.show(event)
                return
            if waiting:
                self.say(waiting.pop())
            self.say(texts[type(event)](event))

        return show


@dataclass(frozen=True, kw_only=True)
class RankOptions(Options, group="ranks"):
    """The options of every command that runs on ranks."""

    threads: int | None = option(
        None, low=1, high=MOST_THREADS, metavar="T",
        help="threads per rank; default: OMP_NUM_THREADS, or else the rank's share of the cores",
    )  # fmt: skip
    comm_timeout: float = option(
        TIMEOUT, above=0, unbounded=True, parse=_seconds, metavar="S", advanced=True,
        help="seconds that a rank waits for the others, which may be compiling, before all end",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ComputingRankOptions(RankOptions):
    """The options of commands that compute."""

    reproducible: bool = option(
        False, advanced=True,
        help="same bits on any number of ranks with as many threads; costs up to 1.3 times as much",
    )  # fmt: skip


def run_on_ranks(command, options, started: float) -> int:
    """Run ``command(options, session)`` on every rank; returns the exit status.

    Errors that all ranks raise together are printed once. A rank that fails alone prints its
    error, in one line, and ends the others. A signal ends a command with `--run FOLDER` so that it
    can resume.
    """
    written = getattr(options, "written", {})
    world = World(
        reproducible=getattr(options, "reproducible", False), timeout=options.comm_timeout
    )
    listen(options, world)
    if world.rank == 0:
        warn_of_old_names(options)
    try:
        world.threads = threads_per_rank(world, request_from(options, RankOptions).threads)
        limits = threadpool_limits(world.threads)
        world.ledger.seconds["startup"] = time.perf_counter() - started
        return command(options, Session(world, limits))
    except Interrupted as why:
        return _ended(options, world, why)
    except KeyboardInterrupt:
        if world.rank == 0:
            print("hesscomp: interrupted; unfinished work is lost", file=sys.stderr, flush=True)
        world.abort(INTERRUPTED)
    except BrokenPipeError:
        if world.size == 1:
            raise
        write_no_more()
        world.abort(UNREAD)
    except BaseException as error:
        while_doing = in_words(phase_of(error))
        if not world.everyone_is_here():
            report_error(error, f"rank {world.rank} alone failed{while_doing}: ", written)
            world.abort(exit_status(error))
        if world.rank == 0:
            who = "all ranks " if world.size > 1 else ""
            known = isinstance(error, HesscompError)
            report_error(error, "" if known else f"{who}failed{while_doing}: ", written)
        return exit_status(error)
    return 1


def listen(options, world: World) -> None:
    """From now on, let signals end a command with `--run` where it can be resumed.

    SIGINT does so without a folder too, so that the command reports what it has reached.
    """
    if hasattr(options, "run"):
        signals = (signal.SIGINT, *(() if options.run is None else STOP_SIGNALS))
        world.stop_asked = StopListener(signals, NOTICE if world.rank == 0 else b"")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # those that came before come now


def _ended(options, world: World, why: Interrupted) -> int:
    """Print that a signal ended the run and how to resume it; return the exit status."""
    by_hand = why.signal == signal.SIGINT
    if world.rank == 0:
        how = "interrupted" if by_hand else "ended by a signal"
        kept = "nothing is kept; with --run FOLDER the same command could resume"
        if options.run is not None:
            kept = f"the same command resumes from {options.run}"
        reached = why.reached and f" {why.reached}"
        print(f"hesscomp: {how}{reached}; {kept}", file=sys.stderr, flush=True)
    return INTERRUPTED if by_hand else REQUEUE
