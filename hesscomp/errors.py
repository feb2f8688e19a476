"""The errors that hesscomp raises on purpose; each carries one clear line for the user."""

from collections.abc import Iterable

SHOWN = 20  # of names in a message
MOST = 500  # characters of what others say, which may quote what a file holds


def one_line(text: str) -> str:
    """A text without line breaks and control characters: it may quote what a file holds."""
    marks = (mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)
    return "".join(" " if mark in ("\\n", "\\r", "\\t") else mark for mark in marks)


def reason(error: object) -> str:
    """What somebody else's error, or a file, says: one line, and not a long one."""
    return one_line(" ".join(str(error).split()))[:MOST]


def some(names: Iterable[str]) -> str:
    """The first of some names, in words."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name[:40] for name in names[:SHOWN]) + more


class HesscompError(Exception):
    """Base of every error raised on purpose. Its text is one line: what, where, remedy."""

    def __init__(self, text: str = ""):
        super().__init__(one_line(text))


class InputError(HesscompError, ValueError):
    """Bad input or usage: a file, an option or an argument (exit status 2)."""


class OperatorError(HesscompError, ValueError):
    """An algorithm and an operator that do not fit, such as Nystrom on an indefinite one."""


class NumericalError(HesscompError, ArithmeticError):
    """A computation that left the finite numbers or could not be carried out."""


class Interrupted(HesscompError):
    """A signal asked the run to end; raised on all ranks, what is finished being on disk."""


class RankFailure(HesscompError, RuntimeError):
    """Another MPI rank failed; raised on all ranks with the lowest failing rank's message."""
