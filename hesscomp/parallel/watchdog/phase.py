"""The name of what this process is doing: for what is said when it fails or is waited for."""

from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap

BOARD_BYTES = 200
_running: list[str] = []
_outer = ""  # what is done where no block runs
_board: mmap | bytearray | None = None


@contextmanager
def named_phase(name: str) -> Iterator[None]:
    """Run the block under this name. Blocks may nest; the innermost counts."""
    _running.append(name)
    _show()
    try:
        yield
    except BaseException as error:
        if not hasattr(error, "phase"):
            error.phase = name  # type: ignore[attr-defined]
        raise
    finally:
        _running.pop()
        _show()


def set_outer_phase(name: str) -> None:
    """Name what this process does from now on where no block runs."""
    global _outer
    _outer = name
    _show()


def current_phase() -> str:
    """Return the name of what runs now; empty where it has none."""
    return _running[-1] if _running else _outer


def phase_of(error: BaseException) -> str:
    """Return the name of what ran when the error was raised."""
    return getattr(error, "phase", current_phase())


def in_words(phase: str) -> str:
    """Return the words for a phase in a sentence; nothing for one without a name."""
    return f" in {phase}" if phase else ""


def show_phase_on(board: mmap | bytearray | None) -> None:
    """Keep the current phase written on a board, `BOARD_BYTES` that another process may read."""
    global _board
    _board = board
    _show()


def read_phase(board: mmap | bytearray) -> str:
    """Return the phase that a board shows."""
    return bytes(board[:BOARD_BYTES]).rstrip(b"\0").decode(errors="replace")


def _show() -> None:
    if _board is not None:
        text = current_phase().encode()[:BOARD_BYTES]
        _board[:BOARD_BYTES] = text.ljust(BOARD_BYTES, b"\0")
