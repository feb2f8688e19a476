"""The errors that hesscomp raises on purpose; each carries one clear line for the user."""

import os
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

SHOWN = 20  # of names in a message
MOST = 500  # characters of what others say, which may quote what a file holds
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of terminals, in the messages of Keras
TRACEBACK = "HESSCOMP_TRACEBACK"  # set in the environment: errors come with their traceback
# Of Python, NumPy and TensorFlow.
OUT_OF_MEMORY = ("MemoryError", "_ArrayMemoryError", "ResourceExhaustedError")


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters: it may quote what a file holds."""
    marks = (mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)
    return "".join(" " if mark in ("\\n", "\\r", "\\t") else mark for mark in marks)


def reason(error: object) -> str:
    """Return what somebody else's error, or a file, says: one line, and not a long one."""
    return one_line(" ".join(COLOURS.sub("", str(error)).split()))[:MOST]


def describe(error: BaseException) -> str:
    """Return an error's message: one line, and for an unforeseen error also where it was."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    if isinstance(error, HesscompError):
        return str(error)
    kind, text = type(error).__name__, reason(error)
    if kind in OUT_OF_MEMORY:
        return (
            f"memory ran out ({text or kind}); give each rank more, or take more ranks: "
            "`hesscomp plan` says what one needs"
        )
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{kind}: {text}{place}; {TRACEBACK}=1 shows the way there"


def whole_story(error: BaseException) -> str:
    """Return the traceback of an error, after a line break, if the user requested it."""
    return "\n" + "".join(traceback.format_exception(error)) if os.environ.get(TRACEBACK) else ""


def some(names: Iterable[str]) -> str:
    """Return the first of some names, in words."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name[:40] for name in names[:SHOWN]) + more


class HesscompError(Exception):
    """Base of every error raised on purpose. Its text is one line: what, where, remedy."""

    def __init__(self, text: str = ""):
        super().__init__(one_line(text))


class InputError(HesscompError, ValueError):
    """Bad input or usage: a file, an option or an argument (exit status 2)."""


class Incomplete(InputError):
    """Usage that lacks something, which may yet be added."""


class OperatorError(HesscompError, ValueError):
    """An algorithm and an operator that do not fit, such as Nystrom on an indefinite one."""


class NumericalError(HesscompError, ArithmeticError):
    """A computation that left the finite numbers or could not be carried out."""


class MissingLibraryError(HesscompError, ImportError):
    """A library that is to be installed."""


class Interrupted(HesscompError):
    """A signal asked the run to end; raised on all ranks, what is finished being on disk.

    `signal` is its number (where ranks heard several, the largest). `reached` says in words how
    far the run has come; `best` is the best point of a training.
    """

    def __init__(self, text: str = "", signal: int = 0):
        super().__init__(text)
        self.signal, self.reached, self.best = signal, "", None


class RankFailure(HesscompError, RuntimeError):
    """Another MPI rank failed; raised on all ranks with the lowest failing rank's message."""
