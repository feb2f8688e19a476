"""`hesscomp train`: train any problem with any optimizer."""

import math
import time

from hesscomp.cli.session import Session
from hesscomp.cli.tables import OBJECTIVE_WIDTH, objective_text
from hesscomp.workflows.training import HELP, Training, TrainRequest, train

HEADER = (
    f"{'step':>6} {'objective':>{OBJECTIVE_WIDTH}} {'||gradient||':>13} {'passes':>10} "
    f"{'seconds':>8}"
)
INTERVAL = 0.5  # seconds between two rows that are shown
COMMON = ("step", "objective", "gradient_norm", "passes", "seconds", "columns", "work", "words")


def run_train(request: TrainRequest, session: Session) -> int:
    if request.settings == HELP:
        from hesscomp.optimizers.catalogue import options_of

        session.say(f"{request.optimizer}: {options_of(request.optimizer)}")
        return 0
    rows = _Rows(session)
    try:
        return 0 if train(request, session.world, rows).succeeded else 3
    finally:
        rows.last()


class _Rows:
    """Shows the history's rows, at most one in `INTERVAL` and always the last, and other events."""

    def __init__(self, session: Session):
        self.session, self.due = session, 0.0
        self.held: dict | None = None
        self.show = session.showing({dict: _line, Training: _summary}, HEADER)

    def __call__(self, event: object) -> None:
        if not isinstance(event, dict):
            self.last()
            self.show(event)
            return
        self.held = event
        if time.monotonic() >= self.due:
            self.last()

    def last(self) -> None:
        """Show the latest row, unless it has been shown."""
        row, self.held = self.held, None
        if row is not None:
            self.due = time.monotonic() + INTERVAL
            self.show(row)


def _line(row: dict) -> str:
    measured = {name: value for name, value in row.items() if not math.isnan(value)}
    more = {name: value for name, value in measured.items() if name not in COMMON}
    return (
        f"{row['step']:6.0f} {objective_text(row['objective'])} "
        f"{row['gradient_norm']:13.5e} {row['passes']:10.1f} {row['seconds']:8.1f}  "
        + " ".join(f"{name} {value:.3g}" for name, value in more.items())
    )


def _summary(training: Training) -> str:
    result = training.result
    lines = [f"step {step}: {text}" for step, text in result.history.events]
    lines += [
        f"{result.status} after {result.steps} steps: {result.reason}",
        f"at the best point, objective over all rows: {result.best_objective:.15g}",
    ]
    if result.remark:
        lines.append(result.remark)
    if training.test is not None:
        lines.append(f"test, at that point: {training.test}")
    return "\n".join(lines)
