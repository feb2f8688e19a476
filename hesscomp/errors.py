"""The errors that hesscomp raises on purpose; each carries one clear line for the user."""


class HesscompError(Exception):
    """Base of every error raised on purpose. Its text is one line: what, where, remedy."""


class InputError(HesscompError, ValueError):
    """Bad input or usage: a file, an option or an argument (exit status 2)."""


class OperatorError(HesscompError, ValueError):
    """An algorithm and an operator that do not fit, such as Nystrom on an indefinite one."""


class NumericalError(HesscompError, ArithmeticError):
    """A computation that left the finite numbers or could not be carried out."""


class RankFailure(HesscompError, RuntimeError):
    """Another MPI rank failed; raised on all ranks with the lowest failing rank's message."""
