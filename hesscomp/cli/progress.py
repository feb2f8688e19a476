"""Progress of long work: a line that rewrites itself, or plain lines off a terminal."""

import sys
import time

from hesscomp.workflows.progress import Columns

QUIET = 2.0  # seconds before the first sign; short work shows none
PLAIN_INTERVAL = 30.0
TERMINAL_INTERVAL = 0.2


class ProgressLine:
    """Shows on standard error how many product columns are done."""

    def __init__(self):
        self.terminal = sys.stderr.isatty()
        self.start = self.last = 0.0
        self.shown = False

    def __call__(self, columns: Columns) -> None:
        now = time.monotonic()
        if not columns.done and not columns.finished:
            self.start, self.shown = now, False
        if columns.finished:
            if self.shown and self.terminal:
                print(file=sys.stderr)
            return
        interval = TERMINAL_INTERVAL if self.terminal else PLAIN_INTERVAL
        if now - self.start < QUIET or (self.shown and now - self.last < interval):
            return
        text = f"{columns.done} product columns, {now - self.start:.0f} s"
        end = "" if self.terminal else "\n"
        start = "\r" if self.terminal else ""
        print(f"{start}{text}", end=end, file=sys.stderr, flush=True)
        self.shown, self.last = True, now
