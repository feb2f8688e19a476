"""How a command ends: exit statuses, and errors in one line."""

import os
import sys

from hesscomp.cli.arguments import as_written
from hesscomp.errors import InputError, OperatorError, describe, whole_story

INTERRUPTED, UNREAD = 130, 141  # 128 and the number of SIGINT, of SIGPIPE


def exit_status(error: BaseException) -> int:
    """Return 2 for errors that the user can correct, in input or usage, and else 1."""
    return 2 if isinstance(error, InputError | OperatorError) else 1


def report_error(
    error: BaseException, before: str = "", written: dict[str, str] | None = None
) -> int:
    """Say in one line what went wrong, after some words; returns the exit status.

    Parameters that it names are shown as they are `written` on the command line.
    """
    said = as_written(describe(error), written or {})
    text = f"hesscomp: error: {before}{said}{whole_story(error)}"
    print(text, file=sys.stderr, flush=True)
    return exit_status(error)


def write_no_more() -> None:
    """Discard the output streams whose readers have closed them; later output is lost."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
