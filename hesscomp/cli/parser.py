"""A parser whose help has two lengths and examples, and whose errors are one line."""

import argparse
import sys
from collections.abc import Container

from hesscomp.cli.commands import example_lines
from hesscomp.errors import one_line
from hesscomp.parallel.watchdog.rank_watchdog import launched_rank

MOST = 2**53  # of whole numbers: arrays have no more entries, and as floats they are exact
HELP_ALL = "--help-all"
ENDS = ("-h", "--help", HELP_ALL, "--version")  # after these nothing else counts


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """A formatter that shows the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line and refuses huge whole numbers.

    Options must be written in full: an abbreviation could mean different options of two commands.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, allow_abbrev=False, **options)
        self.former: dict[str, str] = {}  # options by the names that they had in the last version
        self.advanced: set[str] = set()  # names of the options that only --help-all shows
        self.examples: dict[str, str] = {}
        self.overview: str | None = None  # the help, where it does not come from the options
        self.register("type", int, _whole)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {one_line(message)}; see {self.prog} --help\n")

    def refuse(self, message: str, listed: str):
        """End with one line that says where what there is can be read."""
        every = HELP_ALL if self.advanced else "--help"
        listed = f"('{self.prog} {every}' lists {listed})"
        self.exit(2, f"{self.prog}: error: {one_line(message)} {listed}\n")

    def _print_message(self, message, file=None):
        """Print on the first rank alone: all ranks parse the same words, before MPI's start."""
        if launched_rank() in (None, "0"):
            super()._print_message(message, file)

    def names(self) -> list[str]:
        """Return the long names of all options."""
        return [name for name in self._option_string_actions if name.startswith("--")]

    def choices(self) -> dict[str, Container[str]]:
        """Return what each option's value may be, of those that list it."""
        actions = self._option_string_actions.items()
        return {name: tuple(action.choices) for name, action in actions if action.choices}

    def lacks(self, word: str) -> bool:
        """Return whether a word names an option that there is not."""
        return (
            word.startswith("-")
            and word.strip("-") != ""
            and not any(sign.isspace() for sign in word)
            and not _is_number(word)
            and word not in self._option_string_actions
        )

    def offer_all(self) -> None:
        """Add --help-all; it stays unmentioned where no option is advanced."""
        more = f"show {len(self.advanced)} more options, for advanced use"
        self.add_argument(
            HELP_ALL, action=_HelpAll, nargs=0, default=argparse.SUPPRESS,
            help=more if self.advanced else argparse.SUPPRESS,
        )  # fmt: skip

    def format_help(self, whole: bool = False) -> str:
        """Return the help: of the basic options, or of all."""
        if self.overview is not None:
            return self.overview
        hidden = frozenset() if whole else self.advanced
        formatter = self._get_formatter()
        usage = self.usage or (None if whole else self._short_usage())
        formatter.add_usage(usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for group in self._action_groups:
            shown = [action for action in group._group_actions if action.dest not in hidden]
            if shown:
                formatter.start_section(group.title)
                formatter.add_text(group.description)
                formatter.add_arguments(shown)
                formatter.end_section()
        formatter.add_text(self.epilog)
        text = formatter.format_help()
        if self.examples:
            text += "\n" + "\n".join(example_lines(self.examples)) + "\n"
        if hidden:
            text += f"\n'{self.prog} {HELP_ALL}' shows {len(hidden)} more options.\n"
        return text

    def _short_usage(self) -> str:
        words = [self.prog]
        required = [action for action in self._actions if action.required]
        for action in sorted(required, key=lambda each: bool(each.option_strings)):
            value = str(action.metavar or action.dest.upper())
            value += " ..." if action.nargs == "+" else ""
            words.append(" ".join([*action.option_strings[-1:], value]))
        return " ".join([*words, "[options]"]).replace("%", "%%")


class _HelpAll(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        parser._print_message(parser.format_help(whole=True), sys.stdout)
        parser.exit()


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) > MOST:
        raise argparse.ArgumentTypeError(f"{text[:20]}... is too large")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
