"""Progress of long work on standard error: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from shutil import get_terminal_size

from hesscomp.workflows.progress import Columns

QUIET = 2.0  # seconds before the first sign; short work shows none
TERMINAL_INTERVAL = 0.2
PLAIN_INTERVAL = 30.0


def progress_display() -> Callable[[Columns], None]:
    """Return what shows the product columns that a workflow tells of, where standard error goes."""
    return ProgressBar() if sys.stderr.isatty() else ProgressLines()


class ProgressBar:
    """How many product columns are done, of how many where that is known, and the time left."""

    def __init__(self):
        self.bar = None

    def __call__(self, columns: Columns) -> None:
        if self.bar is None:
            from tqdm import tqdm  # here: most commands show no bar

            tqdm.monitor_interval = 0  # no thread that looks after bars
            width, height = get_terminal_size()  # 80 x 24 for a terminal that does not know
            self.bar = tqdm(
                desc="product columns",
                unit=" columns",
                delay=QUIET,
                mininterval=TERMINAL_INTERVAL,
                miniters=1,
                ncols=width,
                nrows=height,
            )
        # What is known before is a bound: a method may end earlier, or round up to a block.
        total = None if columns.finished else columns.total
        self.bar.total = None if total is None else max(total, columns.done)
        self.bar.update(columns.done - self.bar.n)
        if columns.finished:
            self.bar.close()
            self.bar = None


class ProgressLines:
    """How many product columns are done, for pipes and logs."""

    def __init__(self):
        self.start = self.last = 0.0
        self.shown = False

    def __call__(self, columns: Columns) -> None:
        now = time.monotonic()
        if not columns.done and not columns.finished:
            self.start, self.shown = now, False
        if columns.finished or now - self.start < QUIET:
            return
        if self.shown and now - self.last < PLAIN_INTERVAL:
            return
        most = columns.total  # a bound, which a method may pass by less than a block
        of = f" of {most}" if most is not None and most >= columns.done else ""
        print(f"{columns.done}{of} product columns, {now - self.start:.0f} s", file=sys.stderr)
        self.shown, self.last = True, now
