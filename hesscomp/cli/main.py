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
from hesscomp.cli.commands import COMMANDS, PARALLEL, WRAPPERS, not_there, overview
from hesscomp.cli.exits import INTERRUPTED, UNREAD, report_error, write_no_more
from hesscomp.cli.parser import ENDS, MOST, HelpFormatter, Parser
from hesscomp.errors import MissingLibraryError
from hesscomp.options import Options, described, nearest
from hesscomp.parallel import TIMEOUT, import_mpi_unstarted
from hesscomp.parallel.watchdog.startup_timeout import startup_timeout

STARTED = time.perf_counter()


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
    except MissingLibraryError as error:
        return report_error(error)
    except KeyboardInterrupt:
        print("hesscomp: interrupted", file=sys.stderr, flush=True)
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    with startup_timeout(comm_timeout(arguments), "MPI's start"):
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
    return importlib.import_module(f"hesscomp.cli.{COMMANDS[command].module or command}")


def _function(command: str) -> Callable[..., int]:
    return getattr(_module(command), f"run_{command}")


def request_of(command: str) -> type:
    """Return the class of a command's options: that of its function's `request`."""
    return get_type_hints(_function(command))["request"]


def parse(arguments: list[str], whole: bool = True) -> argparse.Namespace:
    """Return the options of a command line; where they are bad, print one line and exit with 2.

    For a command that wraps another one, `words` holds the words after the first `--`. Where more
    words may follow later (not `whole`), `absent` names the required options that are absent, and
    `given` those that are there, whether or not they have their defaults.
    """
    name = next((word for word in arguments if not word.startswith("-")), None)
    own, words = arguments, []
    if name in WRAPPERS and "--" in arguments:
        end = arguments.index("--")
        own, words = arguments[:end], arguments[end + 1 :]
    parser, commands, written = _parser(name)
    renamed: list[str] = []
    if name in commands:
        own, renamed = with_new_names(own, commands[name].former, commands[name].choices())
    _refuse_unknown(name, own, parser, commands)
    required = _let_go(commands[name]) if name in commands and not whole else []
    options, unknown = parser.parse_known_args(own)
    if unknown:
        chosen = commands.get(name or "", parser)
        chosen.error(f"unrecognized arguments: {' '.join(unknown)}{_hint(name)}")
    if name in WRAPPERS:
        options.words = words
    options.written, options.renamed = written, renamed
    options.absent = [
        action.metavar if not action.option_strings else action.option_strings[0]
        for action in required
        if getattr(options, action.dest) is None
    ]
    if name in commands and not whole:
        options.given = _given(parser, commands[name], own)
    return options


def _given(parser: Parser, command: Parser, words: list[str]) -> list[str]:
    """Return the names of a command's options that are among words which were parsed already."""
    for action in command._actions:
        action.default = argparse.SUPPRESS
    found = vars(parser.parse_known_args(words)[0])
    return [action.dest for action in command._actions if action.dest in found]


def _refuse_unknown(name: str | None, words: list[str], parser: Parser, commands: dict) -> None:
    """End with one line where there is no such command or option; say what may be meant."""
    end = words.index(name) if name in words else len(words)
    if _refuse_options(words[:end], parser, "") or name is None:
        return
    if name not in commands:
        missing = not_there("command", name, nearest(name, COMMANDS))
        if name in hesscomp.__all__:
            missing = f"no command {name}; it is a function of Python, hesscomp.{name}"
        parser.refuse(missing, "the commands")
    _refuse_options(words[end + 1 :], commands[name], _hint(name))


def _refuse_options(words: list[str], chosen: Parser, hint: str) -> bool:
    """Refuse the first option that there is not; return whether other words count no more."""
    for word in words:
        option = word.partition("=")[0]
        if chosen.lacks(option):
            _refuse_option(option, chosen, hint)
        if option == "--" or option in ENDS:
            return True
    return False


def _refuse_option(option: str, chosen: Parser, hint: str) -> None:
    near, owners = nearest(option, chosen.names()), _owners(option)
    if not owners:
        hint = ""
    elif chosen.overview is not None:
        hint = "; options follow the command"
    listed = "the commands" if chosen.overview is not None else "all options"
    chosen.refuse(not_there("option", option, near, owners) + hint, listed)


def _hint(name: str | None) -> str:
    return "; a command and its options follow after --" if name in WRAPPERS else ""


def _owners(option: str) -> list[str]:
    """Return the commands that have an option; none where MPI, which many import, is missing."""
    try:
        import_mpi_unstarted()
        return [name for name, parser in whole_parser()[1].items() if not parser.lacks(option)]
    except (ImportError, RuntimeError):
        return []


def _let_go(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Make a parser's required options optional; return them."""
    required = [action for action in parser._actions if action.required]
    for action in required:
        action.required = False
    return required


def comm_timeout(arguments: list[str]) -> float:
    """Return the value of `--comm-timeout` before anything else is parsed; its default if bad."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--comm-timeout", type=float, default=TIMEOUT)
    try:
        seconds = parser.parse_known_args(arguments)[0].comm_timeout
    except argparse.ArgumentError:
        return TIMEOUT
    return seconds if 0 < seconds < MOST else TIMEOUT


def whole_parser() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser and those of all commands by name, all of them with their options."""
    parser, commands, _ = _parser(*COMMANDS)
    return parser, commands


def _parser(*names: str | None) -> tuple[Parser, dict[str, Parser], dict]:
    """Return the parser, the parsers of all commands by name, and how parameters are written.

    Only the named commands' parsers have their options.
    """
    written: dict[str, str] = {}
    parser = Parser(prog="hesscomp")
    parser.overview = overview((hesscomp.__doc__ or "").partition("\n")[0])
    parser.offer_all()
    parser.add_argument("--version", action="version", version=f"hesscomp {hesscomp.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command, about in COMMANDS.items():
        summary = about.summary + " (MPI)" * about.parallel
        subparser = commands.add_parser(
            command,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=HelpFormatter,
        )
        subparser.examples = about.examples
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
    parser.offer_all()
    return written
