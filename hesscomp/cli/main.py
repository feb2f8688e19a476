"""The `hesscomp` command: subcommands, exit statuses, and errors in one line.

Exit status: 0 done (and converged), 1 a failure, 2 bad input or usage, 3 not converged (of `plan`:
it does not fit), 75 ended by a signal with all that is needed to go on, 130 interrupted (Ctrl-C),
141 nobody reads what is printed any more.
"""

import argparse
import importlib
import logging
import sys
import time
from collections.abc import Callable

import hesscomp
from hesscomp.cli.arguments import add_arguments, as_written, flags, request_from
from hesscomp.cli.exits import INTERRUPTED, UNREAD, report_error, write_no_more
from hesscomp.errors import one_line
from hesscomp.parallel import TIMEOUT
from hesscomp.parallel.watchdog.startup_timeout import startup_timeout

MOST = 2**53  # of whole numbers: arrays have no more entries, and as floats they are exact
STARTED = time.perf_counter()

COMMANDS = {
    "newton": "fit logistic regression by Newton's method with a compressed Hessian (MPI)",
    "train": "train a problem with an optimizer of first or second order (MPI)",
    "compress": "compress a Hessian to a certified low-rank factor (MPI)",
    "diagonal": "make a certified factor of a Hessian's diagonal (MPI)",
    "update": "bring a factor up to date with new data or a new point (MPI)",
    "spectrum": "estimate and draw the spectral density of a Hessian (MPI)",
    "data": "describe a data set and how it would be sharded (MPI)",
    "problems": "list the problems that have names: data, network, loss, training",
    "inspect": "show what a factor file holds",
    "compare": "compare two factor files: eigenvalues, subspaces, distances, provenance",
    "report": "write a page about a factor: spectrum, certificate, energy by block, costs",
    "merge": "make one trajectory file of factor files",
    "repack": "make one file of a factor whose rows lie in slabs",
    "plot": "draw a factor's spectrum or a report's convergence",
    "figure": "draw a compression beside the best one, for a trained network (MPI)",
    "solve": "solve with a factor: (F + shift I) X = B",
    "plan": "say what a compression will hold, reduce and take on many ranks",
    "job": "write a SLURM job script for a command, and submit it if asked",
}
PARALLEL = ("newton", "train", "compress", "diagonal", "update", "spectrum", "figure", "data")
WRAPPERS = ("job", "plan")  # another command's words follow after a --


class Parser(argparse.ArgumentParser):
    """Says what is wrong in the command line in one line; whole numbers have an end.

    Options are written in full: an abbreviation of one command's may be another one of the next.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, allow_abbrev=False, **options)
        self.register("type", int, _whole)

    def error(self, message: str):
        self.exit(2, f"hesscomp: error: {one_line(message)}; see {self.prog} --help\n")


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) > MOST:
        raise argparse.ArgumentTypeError(f"{text[:20]}... is too large")
    return value


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Lines(logging.Formatter):
    """Log records as lines, in which parameters are shown as they are `written`."""

    def __init__(self, written: dict[str, str]):
        super().__init__("hesscomp: %(message)s")
        self.written = written

    def format(self, record: logging.LogRecord) -> str:
        return as_written(super().format(record), self.written)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()  # here, where it can still be said quietly that nobody reads it
    except BrokenPipeError:
        write_no_more()
        return UNREAD
    except KeyboardInterrupt:
        print("hesscomp: interrupted", file=sys.stderr, flush=True)
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    with startup_timeout(_comm_timeout(arguments), "MPI's start"):
        options = parse(arguments)  # imports the command's module, and MPI where it takes ranks
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(options.written))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if options.command is None:
        _parser(None)[0].print_help()
        return 2
    command = importlib.import_module(f"hesscomp.cli.{options.command}")
    if options.command in PARALLEL:
        from hesscomp.cli.session import run_on_ranks

        return run_on_ranks(_by_request(command), options, STARTED)
    try:
        return _by_request(command)(options)
    except BrokenPipeError:
        raise
    except Exception as error:
        return report_error(error, written=options.written)


def _by_request(command) -> Callable:
    """What runs a command's module by a command line's options."""
    return lambda options, *session: command.run(request_from(options, command.REQUEST), *session)


def parse(arguments: list[str], whole: bool = True) -> argparse.Namespace:
    """The options of a command line; where they are bad, one line and the end with status 2.

    Of a command that wraps another one, `words` are those after the first `--`.
    Where more may follow later (not `whole`), `missing` names what is required and not there.
    """
    name = next((word for word in arguments if not word.startswith("-")), None)
    own, words = arguments, []
    if name in WRAPPERS and "--" in arguments:
        end = arguments.index("--")
        own, words = arguments[:end], arguments[end + 1 :]
    parser, commands, written = _parser(name)
    required = _let_go(commands[name]) if name in commands and not whole else []
    options, unknown = parser.parse_known_args(own)
    if unknown:
        hint = "; a command and its options follow after --" if name in WRAPPERS else ""
        chosen = commands.get(name, parser)
        chosen.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if name in WRAPPERS:
        options.words = words
    options.written = written.get(name, {})
    options.missing = [
        action.metavar if not action.option_strings else action.option_strings[0]
        for action in required
        if getattr(options, action.dest) is None
    ]
    return options


def _let_go(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Make what a parser requires optional; returns what that was."""
    required = [action for action in parser._actions if action.required]
    for action in required:
        action.required = False
    return required


def _comm_timeout(arguments: list[str]) -> float:
    """What `--comm-timeout` says, looked for before all else is read; the default if it is bad."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--comm-timeout", type=float, default=TIMEOUT)
    try:
        seconds = parser.parse_known_args(arguments)[0].comm_timeout
    except argparse.ArgumentError:
        return TIMEOUT
    return seconds if 0 < seconds < MOST else TIMEOUT


def _parser(name: str | None) -> tuple[argparse.ArgumentParser, dict, dict]:
    """The parser, that of the named command complete, and the parsers of all commands by name.

    With how the named command's parameters are written.
    """
    written: dict[str, dict[str, str]] = {}
    parser = Parser(
        prog="hesscomp",
        description=hesscomp.__doc__,
        epilog="Commands marked (MPI) run on several ranks under mpiexec or srun. Exit status: "
        "0 done and converged, 1 a failure, 2 bad input or usage, 3 not converged (a plan: does "
        "not fit), 75 ended by a signal with all that is needed to go on (--run), 130 interrupted "
        "(Ctrl-C), 141 nobody reads the output.",
    )
    parser.add_argument("--version", action="version", version=f"hesscomp {hesscomp.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command, summary in COMMANDS.items():
        subparser = commands.add_parser(
            command,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=HelpFormatter,
        )
        if command == name:  # only what is asked for is imported
            written[name] = _add_request(subparser, command)
    return parser, commands.choices, written


def _add_request(parser: argparse.ArgumentParser, command: str) -> dict[str, str]:
    """Give a parser the options of a command's request, and of its ranks; how each is written."""
    module = importlib.import_module(f"hesscomp.cli.{command}")
    parser.usage, parser.epilog = (getattr(module, name, None) for name in ("USAGE", "EPILOG"))
    parts = [module.REQUEST]
    if command in PARALLEL:
        from hesscomp.cli.session import ComputingRankOptions

        parts.append(getattr(module, "RANKS", ComputingRankOptions))
    written: dict[str, str] = {}
    for part in parts:
        add_arguments(parser, part)
        written |= flags(part)
    return written
