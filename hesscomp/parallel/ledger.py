"""What a run costs: columns, passes over the data, reductions, words and seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

from hesscomp.parallel.watchdog.phase import named_phase


@dataclass
class Ledger:
    """Running totals of one world's work."""

    columns: int = 0  # multiplied by a curvature operator
    # Sweeps over all rows of the data, of whatever kind: one block product of any width is one
    # pass, and so is one product with the data matrix or with its transpose.
    passes: int = 0
    # Columns whose products an earlier run had made (`runs.journal`): they count as columns and
    # passes of the result, but cost none now.
    replayed: int = 0
    # Beyond one column for each pass: with `passes`, what the same columns cost one by one.
    extra_columns: int = 0
    reductions: int = 0  # over the ranks, agreements on errors included
    words_reduced: int = 0  # array elements in these reductions
    words_gathered: int = 0  # array elements gathered from the ranks' slabs, in the row layout
    # Wall time of this rank by phase. Phases may nest; a phase's time includes what runs in it.
    seconds: dict[str, float] = field(default_factory=dict)
    # At most what `columns` will be once the work under way is done, where that is known.
    expected: int | None = field(default=None, repr=False, compare=False)
    # Called after every block product: where progress is shown from.
    listener: Callable[["Ledger"], None] | None = field(default=None, repr=False, compare=False)

    def expect(self, columns: int) -> None:
        """Say that the work that begins takes so many product columns, at most."""
        self.expected = self.columns + columns

    def product(self, columns: int, passes: int = 1) -> None:
        """Count one block product of `columns` columns."""
        self.columns += columns
        self.passes += passes
        self.extra_columns += max(columns - passes, 0)
        if self.listener is not None:
            self.listener(self)

    def reduced(self, words: int) -> None:
        """Count one reduction of `words` array elements."""
        self.reductions += 1
        self.words_reduced += words

    def add(self, other: "Ledger") -> None:
        """Count all of another ledger's work here too."""
        for each in fields(self):
            if each.type is int:
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        for phase, seconds in other.seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        if other.columns and self.listener is not None:
            self.listener(self)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time spent in the block to `phase`."""
        start = time.perf_counter()
        try:
            with named_phase(phase):
                yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def as_dict(self) -> dict:
        """Return the totals as plain numbers, for reports."""
        names = "columns", "passes", "replayed", "reductions", "words_reduced", "words_gathered"
        return {name: getattr(self, name) for name in names} | {"seconds": dict(self.seconds)}
