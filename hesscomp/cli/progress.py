"""Progress of long work: a line that rewrites itself, or plain lines off a terminal."""

import sys
import time

from hesscomp.cli.session import Session

QUIET = 2.0  # seconds before the first sign; short work shows none
PLAIN_INTERVAL = 30.0
TERMINAL_INTERVAL = 0.2


class Progress:
    """Show on rank 0's standard error how many product columns are done while a block runs."""

    def __init__(self, session: Session, what: str):
        self.session, self.what = session, what
        self.terminal = sys.stderr.isatty()
        self.shown = False

    def __enter__(self) -> "Progress":
        self.start = self.last = time.monotonic()
        self.first = self.session.world.ledger.columns
        if self.session.is_root:
            self.session.world.ledger.listener = self._update
        return self

    def __exit__(self, *_) -> None:
        self.session.world.ledger.listener = None
        if self.shown and self.terminal:
            print(file=sys.stderr)

    def _update(self, ledger) -> None:
        now = time.monotonic()
        interval = TERMINAL_INTERVAL if self.terminal else PLAIN_INTERVAL
        if now - self.start < QUIET or (self.shown and now - self.last < interval):
            return
        text = f"{ledger.columns - self.first} {self.what}, {now - self.start:.0f} s"
        end = "" if self.terminal else "\n"
        start = "\r" if self.terminal else ""
        print(f"{start}{text}", end=end, file=sys.stderr, flush=True)
        self.shown, self.last = True, now
