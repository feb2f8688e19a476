"""The errors that hesscomp raises on purpose; each carries one clear line for the user."""


def one_line(text: str) -> str:
    """A text without line breaks and control characters: it may quote what a file holds."""
    marks = (mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)
    return "".join(" " if mark in ("\\n", "\\r", "\\t") else mark for mark in marks)


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


class RankFailure(HesscompError, RuntimeError):
    """Another MPI rank failed; raised on all ranks with the lowest failing rank's message."""
