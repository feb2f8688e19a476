"""How a command ends: exit statuses, and errors in one line."""

import os
import sys

from hesscomp.errors import InputError, OperatorError, describe, whole_story

INTERRUPTED, UNREAD = 130, 141  # 128 and the number of SIGINT, of SIGPIPE


def exit_status(error: BaseException) -> int:
    """2 for what the user can mend in input or usage, 1 for any other failure."""
    return 2 if isinstance(error, InputError | OperatorError) else 1


def report_error(error: BaseException, before: str = "") -> int:
    """Say in one line what went wrong, after some words; returns the exit status."""
    text = f"hesscomp: error: {before}{describe(error)}{whole_story(error)}"
    print(text, file=sys.stderr, flush=True)
    return exit_status(error)


def write_no_more() -> None:
    """Let go of the streams that nobody reads any more; what is written to them then is lost."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
