"""What this process is doing, by name: for what is said when it fails or is waited for."""

from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager

WIDTH = 200  # bytes of a board
_running: list[str] = []
_rest = ""  # what is done where no block runs
_board: MutableSequence[int] | None = None


@contextmanager
def activity(name: str) -> Iterator[None]:
    """Do the block under this name. Blocks may nest; the innermost counts."""
    _running.append(name)
    _show()
    try:
        yield
    except BaseException as error:
        if not hasattr(error, "activity"):
            error.activity = name
        raise
    finally:
        _running.pop()
        _show()


def name_the_rest(name: str) -> None:
    """What this process does from now on where no block runs."""
    global _rest
    _rest = name
    _show()


def current() -> str:
    """What runs now; empty where that has no name."""
    return _running[-1] if _running else _rest


def of_error(error: BaseException) -> str:
    """What ran when the error was raised."""
    return getattr(error, "activity", current())


def inside(name: str) -> str:
    """The words for it in a sentence."""
    return f" in {name}" if name else ""


def show_on(board: MutableSequence[int]) -> None:
    """Keep what runs written on a board of `WIDTH` bytes, which another process may read."""
    global _board
    _board = board
    _show()


def read(board: MutableSequence[int]) -> str:
    """What a board shows."""
    return bytes(board[:WIDTH]).rstrip(b"\0").decode(errors="replace")


def _show() -> None:
    if _board is not None:
        _board[:WIDTH] = current().encode()[:WIDTH].ljust(WIDTH, b"\0")
