"""The `hesscomp` command: subcommands, exit statuses (see `_parser`), and errors in one line."""

import argparse
import importlib
import logging
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import get_type_hints

import hesscomp
from hesscomp.cli.arguments import (
    add_arguments,
    as_written,
    request_from,
    warn_of_old_names,
    with_new_names,
)
from hesscomp.cli.exits import INTERRUPTED, UNREAD, report_error, write_no_more
from hesscomp.errors import one_line
from hesscomp.options import Options, described
from hesscomp.parallel import TIMEOUT
from hesscomp.parallel.watchdog.startup_timeout import startup_timeout

MOST = 2**53  # of whole numbers: arrays have no more entries, and as floats they are exact
STARTED = time.perf_counter()

COMMANDS = {
    "newton": "fit logistic regression by Newton's method with a compressed Hessian (MPI)",
    "train": "train a problem with a first- or second-order optimizer (MPI)",
    "compress": "compress a Hessian to a certified low-rank factor (MPI)",
    "diagonal": "make a certified factor of a Hessian's diagonal (MPI)",
    "update": "bring a factor up to date with new data or a new point (MPI)",
    "spectrum": "estimate and draw the spectral density of a Hessian (MPI)",
    "data": "describe a data set and how its rows would be divided among ranks (MPI)",
    "problems": "list the named problems with their data, network, loss and training",
    "inspect": "show the contents of a factor file",
    "compare": "compare two factor files: eigenvalues, subspaces, distances, provenance",
    "report": "write an HTML page about a factor: spectrum, certificate, energy by block, costs",
    "merge": "join factor files into one trajectory file",
    "repack": "gather a factor that is stored in several files into one file",
    "plot": "draw a factor's spectrum or a report's convergence",
    "figure": "draw a compression's error beside the smallest possible one, for a network (MPI)",
    "solve": "solve with a factor: (F + shift I) X = B",
    "plan": "predict the memory, communication and time of a compression on many ranks",
    "job": "write a SLURM job script for a command, and submit it if you ask for that",
    "doctor": "check MPI, TensorFlow, HDF5 and SLURM on this machine, and say what to do",
    "completion": "print the script with which a shell completes hesscomp's commands and options",
}
PARALLEL = ("newton", "train", "compress", "diagonal", "update", "spectrum", "figure", "data")
MODULES = {  # those of several commands; others have the command's name
    **dict.fromkeys(("compress", "diagonal", "update", "spectrum", "figure"), "curvature"),
    **dict.fromkeys(
        ("problems", "inspect", "compare", "report", "merge", "repack", "plot", "solve"), "serial"
    ),
}
WRAPPERS = ("job", "plan")  # another command's words follow after a --


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line and refuses huge whole numbers.

    Options must be written in full: an abbreviation could mean different options of two commands.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, allow_abbrev=False, **options)
        self.former: dict[str, str] = {}  # options by the names that they had in the last version
        self.register("type", int, _whole)

    def error(self, message: str):
        self.exit(2, f"hesscomp: error: {one_line(message)}; see {self.prog} --help\n")


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) > MOST:
        raise argparse.ArgumentTypeError(f"{text[:20]}... is too large")
    return value


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """A formatter that shows the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Lines(logging.Formatter):
    """Log records as lines that show parameters as they are `written` on the command line."""

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
            sys.stdout.flush()  # here, where a closed reader can still be reported by the status
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

    def run(options: argparse.Namespace, *session) -> int:
        request: Options = request_from(options, request_of(options.command))
        return _function(options.command)(request, *session)

    if options.command in PARALLEL:
        from hesscomp.cli.session import run_on_ranks

        return run_on_ranks(run, options, STARTED)
    warn_of_old_names(options)
    try:
        return run(options)
    except BrokenPipeError:
        raise
    except Exception as error:
        return report_error(error, written=options.written)


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"hesscomp.cli.{MODULES.get(command, command)}")


def _function(command: str) -> Callable[..., int]:
    return getattr(_module(command), f"run_{command}")


def request_of(command: str) -> type:
    """Return the class of a command's options: that of its function's `request`."""
    return get_type_hints(_function(command))["request"]


def parse(arguments: list[str], whole: bool = True) -> argparse.Namespace:
    """Return the options of a command line; where they are bad, print one line and exit with 2.

    For a command that wraps another one, `words` holds the words after the first `--`. Where more
    words may follow later (not `whole`), `missing` names the required options that are absent.
    """
    name = next((word for word in arguments if not word.startswith("-")), None)
    own, words = arguments, []
    if name in WRAPPERS and "--" in arguments:
        end = arguments.index("--")
        own, words = arguments[:end], arguments[end + 1 :]
    parser, commands, written = _parser(name)
    own, renamed = with_new_names(own, commands[name].former if name in commands else {})
    required = _let_go(commands[name]) if name in commands and not whole else []
    options, unknown = parser.parse_known_args(own)
    if unknown:
        hint = "; a command and its options follow after --" if name in WRAPPERS else ""
        chosen = commands.get(name, parser)
        chosen.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if name in WRAPPERS:
        options.words = words
    options.written, options.renamed = written, renamed
    options.missing = [
        action.metavar if not action.option_strings else action.option_strings[0]
        for action in required
        if getattr(options, action.dest) is None
    ]
    return options


def _let_go(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Make a parser's required options optional; return them."""
    required = [action for action in parser._actions if action.required]
    for action in required:
        action.required = False
    return required


def _comm_timeout(arguments: list[str]) -> float:
    """Return the value of `--comm-timeout` before anything else is parsed; its default if bad."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--comm-timeout", type=float, default=TIMEOUT)
    try:
        seconds = parser.parse_known_args(arguments)[0].comm_timeout
    except argparse.ArgumentError:
        return TIMEOUT
    return seconds if 0 < seconds < MOST else TIMEOUT


def whole_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser and those of all commands by name, all of them with their options."""
    parser, commands, _ = _parser(*COMMANDS)
    return parser, commands


def _parser(*names: str | None) -> tuple[argparse.ArgumentParser, dict, dict]:
    """Return the parser, the parsers of all commands by name, and how parameters are written.

    Only the named commands' parsers have their options.
    """
    written: dict[str, str] = {}
    parser = Parser(
        prog="hesscomp",
        description=hesscomp.__doc__,
        epilog="Commands marked (MPI) run on several ranks under mpiexec or srun. Exit status: "
        "0 done and converged, 1 a failure, 2 bad input or usage, 3 not converged (a plan: does "
        "not fit), 75 stopped by a signal, the same command resumes (--run), 130 interrupted "
        "(Ctrl-C), 141 the reader of the output closed it.",
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
        if command in names:  # only what is requested is imported
            written = _add_request(subparser, command)
    return parser, commands.choices, written


def _add_request(parser: Parser, command: str) -> dict[str, str]:
    """Add the options of a command to its parser; return how each parameter is written."""
    module, request = _module(command), request_of(command)
    parser.usage, parser.epilog = (getattr(module, name, None) for name in ("USAGE", "EPILOG"))
    parser.former = {each.former: each.flag for each in described(request) if each.former}
    written = add_arguments(parser, request)
    if command in PARALLEL:
        from hesscomp.cli.session import ComputingRankOptions

        written |= add_arguments(parser, getattr(module, "RANKS", ComputingRankOptions))
    return written
