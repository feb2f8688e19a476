"""Commands that run on all ranks: threads, time, and errors that end every rank."""

import sys
import time
from argparse import ArgumentTypeError
from dataclasses import dataclass, field

from threadpoolctl import threadpool_limits

from hesscomp.cli.exits import INTERRUPTED, UNREAD, exit_status, report_error, write_no_more
from hesscomp.cli.interruption import ended, listen
from hesscomp.errors import HesscompError, InputError, Interrupted
from hesscomp.parallel import TIMEOUT
from hesscomp.parallel.threads import threads_per_rank
from hesscomp.parallel.watchdog.phase import in_words, phase_of
from hesscomp.parallel.world import World
from hesscomp.storage.files import check_outputs

MOST_THREADS = 2**16


@dataclass
class Session:
    """What a command needs beside its options: the world, its threads and the clock."""

    world: World
    threads: int
    started: float
    _limits: object = field(repr=False, default=None)

    @property
    def is_root(self) -> bool:
        """Whether this rank speaks and writes."""
        return self.world.rank == 0

    def say(self, text: str = "") -> None:
        """Print a line on rank 0."""
        if self.is_root:
            print(text, flush=True)

    def start_tensorflow(self) -> None:
        """Import TensorFlow with this session's threads, on this rank's GPU if there is one."""
        from hesscomp.curvature.tensorflow import set_threads, use_own_gpu

        place = self.world.place_here()
        with self.world.phase("choosing a GPU"):
            use_own_gpu(place)
        set_threads(self.threads)

    def check_outputs(self, *paths) -> None:
        """Refuse outputs that could not be written, before the work is done."""
        with self.world.phase("checking the output files"):
            if self.is_root:
                check_outputs(*paths)

    def write(self, what: str, path, writer) -> None:
        """Let rank 0 call ``writer(path)``; all ranks learn if that fails."""
        if path is None:
            return
        with self.world.phase(f"writing {path}"):
            if self.is_root:
                writer(path)
        self.say(f"wrote {what}: {path}")


def add_rank_arguments(parser) -> None:
    """What every command that runs on ranks takes."""
    parser.add_argument(
        "--threads",
        type=int,
        default=None,
        metavar="T",
        help="threads per rank; by default OMP_NUM_THREADS, else the rank's share of its cores",
    )
    parser.add_argument(
        "--comm-timeout",
        type=_seconds,
        default=TIMEOUT,
        metavar="S",
        help="seconds that a rank waits for the others, which may compile or read, before all end",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


def run_on_ranks(command, options, started: float) -> int:
    """Run ``command(options, session)`` on every rank; returns the exit status.

    Errors that all ranks raise together are printed once. A rank that fails alone prints its
    error, in one line, and ends the others. A signal ends a command with `--run FOLDER` so that it
    can go on.
    """
    world = World(
        reproducible=getattr(options, "reproducible", False), timeout=options.comm_timeout
    )
    listen(options, world)
    try:
        if options.threads is not None and not 1 <= options.threads <= MOST_THREADS:
            raise InputError(f"--threads must be 1 to {MOST_THREADS}, not {options.threads}")
        threads = threads_per_rank(world, options.threads)
        world.threads, limits = threads, threadpool_limits(threads)
        return command(options, Session(world, threads, started, limits))
    except Interrupted as why:
        return ended(options, world, why)
    except KeyboardInterrupt:
        if world.rank == 0:
            print("hesscomp: interrupted; what was under way is lost", file=sys.stderr, flush=True)
        world.abort(INTERRUPTED)
    except BrokenPipeError:
        if world.size == 1:
            raise
        write_no_more()
        world.abort(UNREAD)
    except BaseException as error:
        while_doing = in_words(phase_of(error))
        if not world.everyone_is_here():
            report_error(error, f"rank {world.rank} alone failed{while_doing}: ")
            world.abort(exit_status(error))
        if world.rank == 0:
            who = "all ranks " if world.size > 1 else ""
            known = isinstance(error, HesscompError)
            report_error(error, "" if known else f"{who}failed{while_doing}: ")
        return exit_status(error)
    return 1


def seconds_since(started: float) -> float:
    return time.perf_counter() - started
