"""One loop for all optimizers: batches, log, checkpoints, stopping, and numbers gone bad."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hesscomp.errors import InputError, Interrupted, NumericalError
from hesscomp.factors import hierarchical
from hesscomp.optimizers.acceptance import ROUNDING
from hesscomp.optimizers.batches import Batches, Task, kept
from hesscomp.optimizers.optimizer import SPREAD, Optimizer, State
from hesscomp.optimizers.options import Sampling, Saving, Stopping
from hesscomp.parallel.ledger import Ledger
from hesscomp.problems.evaluation import Evaluation, judge_of
from hesscomp.problems.problem import Problem
from hesscomp.problems.solution import Distance
from hesscomp.runs.checkpoint import Checkpoint, open_run, save_checkpoint
from hesscomp.runs.history import History
from hesscomp.storage.lock import sole_use

if TYPE_CHECKING:
    from hesscomp.runs.tensorboard import ScalarWriter

RECOVERIES = 20  # in a row, after which a run is given up
IDLE = 20  # steps over all rows at the lowest objective without a gain: there is none to be had
LEVEL = 100  # times the rounding of an objective, within which it counts as the lowest

COUNTERS = {  # attributes by their names in checkpoints
    "lost": "nonfinite_steps",
    **{name: name for name in ("best_objective", "recoveries", "idle", "lowest", "flattest")},
}

COSTS = ("passes", "columns", "work", "words")  # of `Batches`, in the history and in checkpoints
CONVERGED, STOPPED, DIVERGED = "converged", "stopped", "diverged"

Callback = Callable[[dict[str, float], np.ndarray], bool | None]


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended.

    The best point has the lowest objective over all rows among the points at which it is known; the
    start is one of them. With `patience` it has the lowest loss on the test rows. `objective` and
    `gradient_norm` are those of the last gradient batch at the last point.

    The history has one row for each point: `step`, `objective` and `gradient_norm` of the gradient
    batch there, `full_objective` where it is known, totals of `passes`, `columns`, `work` (batches
    by their share; see `Batches`), `words` and `seconds`, and the optimizer's values of the step
    that led there. With test rows also `test_loss`, and `test_accuracy` of a classifier, wherever
    `full_objective` is known.
    """

    x: np.ndarray = field(repr=False)  # (n,), the last point
    best: np.ndarray = field(repr=False)  # (n,)
    best_objective: float
    objective: float
    gradient_norm: float
    steps: int
    status: str  # "converged", "stopped" or "diverged"
    reason: str  # in words
    history: History = field(repr=False)
    test: Evaluation | Distance | None = None  # at `best`, where there are test rows
    remark: str = ""  # of the optimizer, in words: how it preconditioned
    state: State = field(repr=False, default_factory=dict)  # the optimizer's last

    @property
    def converged(self) -> bool:
        return self.status == CONVERGED


ALL_ROWS, STOPPING, NOTHING_SAVED = Sampling(), Stopping(), Saving()


def train(
    problem: Problem,
    optimizer: Optimizer,
    x0: np.ndarray | None = None,
    *,
    sampling: Sampling = ALL_ROWS,
    stopping: Stopping = STOPPING,
    saving: Saving = NOTHING_SAVED,
    callbacks: tuple[Callback, ...] = (),
    evaluate_every: int | None = None,
    test=None,
) -> TrainResult:
    """Minimise a problem. Collective.

    Parameters
    ----------
    problem : Problem
    optimizer : Optimizer
    x0 : (n,) array, optional
        The start; by default the problem's `initial`, else zero.
    sampling : Sampling
        The batches; all rows by default.
    stopping : Stopping
    saving : Saving
    callbacks : tuple of callables
        Each called as ``callback(row, x)`` with each row of the history and its point, on every
        rank; a run stops where one of them returns True on rank 0. It must not change x.
    evaluate_every : int, optional
        Steps between objectives over all rows, where gradients are of batches; by default as many
        as make a pass.
    test : Dataset, (X, y) or Solution, optional
        Test rows: those of a data set, or each rank's own; or a known solution. They do not change
        the run, only its history and its result have the loss on them, or the error.

    Returns
    -------
    TrainResult
        With the same numbers, bit for bit on the same number of ranks and threads, whether the run
        was stopped and resumed or not; in reproducible mode on any number of ranks.

    Raises
    ------
    InputError
        For options out of range, a start that does not fit, a folder with another run.
    NumericalError
        If the objective or the gradient at the start are not finite.
    Interrupted
        If a rank was asked to stop (`World.stop_asked`): the run ends after the present block
        product, at the point before the step, with a checkpoint of it.

    Notes
    -----
    Where a step leads to numbers that are not finite, the run goes back to the point before with
    the state of the optimizer's `recover`; after 20 times in a row it ends. Where a line search or
    a trust region meets such numbers on the way, it shortens the step. The history's events name
    both. Memory: the optimizer's, and some vectors of n.

    In five lines, for a Keras model::

        problem = KerasProblem(model, "softmax-cross-entropy", (X, y), World())
        result = train(problem, Adam(learning_rate=1e-3), sampling=Sampling(gradient=128))
        problem.set_weights(result.x)
    """
    run = _Run(problem, optimizer, sampling, stopping, saving, callbacks, evaluate_every, test)
    with sole_use(saving.folder, problem.world), said_once(hierarchical.log):
        return run.run(x0)


@contextmanager
def said_once(log: logging.Logger) -> Iterator[None]:
    """Let each warning through once, whatever its numbers, and tell at the end how often it came.

    For what the factors of a run say in every step.
    """
    said: dict[str, list[str]] = {}

    def is_first(record: logging.LogRecord) -> bool:
        texts = said.setdefault(record.msg, [])
        texts.append(record.getMessage())
        return len(texts) == 1

    log.addFilter(is_first)
    try:
        yield
    finally:
        log.removeFilter(is_first)
        for first, *others in said.values():
            if others:
                log.warning("%d times in this run, at first: %s", 1 + len(others), first)


class _Run:
    """One run: what a checkpoint of it holds, and the rules for moving on."""

    def __init__(
        self, problem, optimizer, sampling, stopping, saving, callbacks, evaluate_every, test
    ) -> None:
        self.problem, self.optimizer = problem, optimizer
        self.world = problem.world.with_ledger(Ledger())  # keeping the run is no part of its cost
        self.stopping, self.saving, self.callbacks = stopping, saving, callbacks
        self.batches = Batches(
            problem, sampling, optimizer.keeps_margins, optimizer.keeps_rows(problem)
        )
        share = sampling.share(0, problem.rows)
        self.every = round(1 / share) if evaluate_every is None else evaluate_every
        if self.every < 1:
            raise InputError(f"`evaluate_every` must be at least 1, not {evaluate_every}")
        self.facts = {"optimizer": optimizer.describe(), "sampling": str(sampling)}
        self.held_out = None if test is None else judge_of(problem, test)
        if self.held_out is not None:
            self.facts["test rows"] = self.held_out.fingerprint
        if stopping.patience is not None:
            if self.held_out is None:
                raise InputError("`patience` goes with test rows (validation data); give some")
            if "test_loss" not in self.held_out.columns:
                raise InputError("`patience` watches a loss on test rows, of which this has none")
            self.facts["patience"] = "with the test loss"  # of any number of evaluations
        self.history = History()
        self.step, self.recoveries = 0, 0
        self.resumed: tuple[float, np.ndarray, float] | None = None  # values at a restored point
        self.best_objective = self.lowest = self.flattest = self.lowest_test = np.inf
        self.waited = 0  # evaluations of the test rows since their lowest loss
        # Since the last gain: steps, and objectives that were not finite
        self.idle = self.nonfinite_steps = 0
        self.begun, self.seconds_before = time.perf_counter(), 0.0
        self.writer: ScalarWriter | None = None
        self.saved = -1  # the step of the last checkpoint

    def run(self, x0) -> TrainResult:
        self._prepare(x0)
        status = None
        while status is None:
            task = self._evaluate()
            if task is None:
                status = DIVERGED, f"not finite {RECOVERIES} times in a row, at step {self.step}"
                break
            status = self._judge(task)
            self.batches.flush_costs()
            self._record(task)
            called_off = self._called_off()
            status = status or called_off or self._out_of_patience()
            self._note_numbers(task.objective, task.full)
            if status is not None or self.step % self.saving.every == 0:
                self._save(task)
            if status is None:
                status = self._advance(task)
        task = self._last
        status = self._conclude(task, status)
        self._finish(*status)
        return TrainResult(
            self.x.copy(), self.best.copy(), self.best_objective, task.objective,
            task.gradient_norm, self.step, *status, self.history,
            None if self.held_out is None else self.held_out(self.best),
            self.optimizer.remark(self.history.rows), self.state,
        )  # fmt: skip

    # Beginning and end

    def _prepare(self, x0) -> None:
        x0 = self.problem.first_point() if x0 is None else x0
        self.x = self.best = self.problem.check_point(x0).copy()
        part = self.optimizer.part_here(self.batches)
        self.state = self.optimizer.start(self.x)
        self.spreads = any(self.world.gather(part[1]))
        if self.spreads:
            self.state[SPREAD] = np.zeros(part[1] - part[0])
        self.width = 1 if self.spreads else self.problem.row_margins
        self.values: dict[str, float] = {}
        self.good: tuple[np.ndarray, State] | None = None
        folder = self.saving.folder
        if folder is None:
            return
        self.facts |= self.problem.run_identity(self.x)
        self._note_numbers(0.0, np.nan)
        start, stop = rows = part if self.spreads else self.batches.full.rows_here
        self.ranges = self.world.gather(rows)
        names = ("step", "objective", "gradient_norm", *COSTS, "seconds")
        blank = replace(
            self._checkpoint(self.x, np.zeros((stop - start) * self.width)),
            step=1,
            history=History([dict.fromkeys(names, 0.0)]),
        )
        saved = open_run(folder, blank, self.world, rows, self.optimizer.upgraded)
        if saved is not None:
            self._restore(saved)
        if self.saving.tensorboard:
            with self.world.phase("opening the file of scalars"):
                if self.world.rank == 0:
                    # Here: the library behind it loads torch where that is installed.
                    from hesscomp.runs.tensorboard import ScalarWriter

                    self.writer = ScalarWriter(Path(folder) / "tensorboard")

    def _conclude(self, task: Task, status: tuple[str, str]) -> tuple[str, str]:
        """Evaluate the last point over all rows, if that was not due; return the status then.

        This comes after the checkpoint, which is therefore the same as that of a run that goes on.
        """
        if self.world.decide(np.isfinite(task.full)):
            return status
        task.full = self.batches.full.objective(task.x)
        tested = self._tested(task)
        self._note_best(task, tested)
        found = {"full_objective": float(task.full), **tested}
        self.history.rows[-1].update(found)
        self._write_scalars(found)
        return self._reached(task) or status

    def _finish(self, status, reason) -> None:
        self.batches.flush_costs()
        if self.saving.folder is None:
            return
        with self.world.phase(f"writing {self.saving.folder}"):
            if self.world.rank == 0 and self.saving.history:
                facts = {"status": status, "reason": reason, "steps": self.step, **self.facts}
                self.history.write_json(Path(self.saving.folder) / "history.json", **facts)
                self.history.write_csv(Path(self.saving.folder) / "history.csv")
            if self.writer is not None:
                self.writer.close()

    # One step

    def _evaluate(self) -> Task | None:
        """Return the task at the first point back from here that is finite; None at the limit."""
        while True:
            task = Task(
                self.step, self.x, self.batches, self.resumed, self.stopping.gradient_tolerance
            )
            finite = np.isfinite(task.objective) and np.isfinite(task.gradient_norm)
            if self.world.decide(finite):
                self._last = task
                if self.good is None or self.x is not self.good[0]:
                    self.recoveries = 0
                return task
            what = f"objective {task.objective}, gradient norm {task.gradient_norm}"
            if self.good is None:
                place = task.gradient_batch.problem.nonfinite_place(self.x)
                raise NumericalError(f"{what} at the start are not finite{place}; start elsewhere")
            if not self._take_back(what, " are not finite; take smaller steps or a line search"):
                return None

    def _take_back(self, what: str, remedy: str = "") -> bool:
        """Return to the last good point, more carefully; say whether that is still allowed.

        Raises NumericalError where the optimizer has no more careful state.
        """
        assert self.good is not None  # a point before this one
        self.x, before = self.good
        self.state = self.optimizer.recover(before)
        if self.state is None:
            raise NumericalError(what + remedy)
        self.recoveries += 1
        self.nonfinite_steps += 1
        self.history.events.append((self.step, f"{what}; taken back"))
        self.good = self.x, self.state
        return self.recoveries <= RECOVERIES

    def _judge(self, task: Task) -> tuple[str, str] | None:
        """Return whether and why the run ends here."""
        self.batches.flush_costs()
        stop = self.stopping
        if task.gradient_batch is self.batches.full:
            task.full = task.objective
        elif self.resumed is not None:
            task.full = self.resumed[2]
        elif self.step % self.every == 0:
            task.full = self.batches.full.objective(task.x)
        judged, self.resumed = self.resumed is not None, None
        reached = self._reached(task)
        if reached is not None:
            return reached
        if self.step >= stop.max_steps:
            return STOPPED, f"max_steps is {stop.max_steps}"
        if task.whole and not (self.recoveries or judged) and self._idles(task):
            return self._ended("no step gains anything: at the rounding level")
        used = {
            "max_passes": self.batches.passes,
            "max_seconds": time.perf_counter() - self.begun,
        }
        for name, amount in used.items():
            limit = getattr(stop, name)
            if limit is not None and self.world.decide(amount >= limit):
                return STOPPED, f"{name} is {limit:g}"
        return None

    def _note_best(self, task: Task, tested: dict[str, float]) -> None:
        better = task.full < self.best_objective
        if self.stopping.patience is not None:
            better = self._lowers_test_loss(tested["test_loss"])
        if self.world.decide(better):
            self.best, self.best_objective = kept(task.x), task.full

    def _lowers_test_loss(self, loss: float) -> bool:
        """Note a loss on the test rows, or NaN for none; return whether it is the lowest."""
        lower = loss < self.lowest_test
        self.lowest_test = min(self.lowest_test, loss)
        self.waited = 0 if lower else self.waited + bool(np.isfinite(loss))
        return lower

    def _out_of_patience(self) -> tuple[str, str] | None:
        patience = self.stopping.patience
        if patience is None or not self.world.decide(self.waited >= patience):
            return None
        return STOPPED, f"no lower loss on the test rows in {self.waited} evaluations"

    def _reached(self, task: Task) -> tuple[str, str] | None:
        """Return whether and how the run reached what was requested."""
        if self.world.decide(task.gradient_norm <= self.stopping.gradient_tolerance):
            return CONVERGED, "the gradient norm reached the tolerance"
        target = self.stopping.target
        if target is not None and self.world.decide(task.full <= target):
            return CONVERGED, "the objective reached the target"
        return None

    def _idles(self, task: Task) -> bool:
        """Return whether neither objective nor gradient have improved for `IDLE` steps.

        Steps that end above the lowest objective do not count: some methods climb on their way. A
        gradient at the rounding of the first one is no improvement: it is smaller by chance.
        """
        noise = ROUNDING * abs(task.objective)
        rows = self.history.rows
        first = rows[0]["gradient_norm"] if rows else task.gradient_norm
        known = task.gradient_norm > np.finfo(float).eps * first
        flatter = known and task.gradient_norm < 0.9 * self.flattest
        if self.world.decide(task.objective < self.lowest - noise or flatter):
            self.idle = self.nonfinite_steps = 0
        elif self.world.decide(task.objective <= self.lowest + LEVEL * noise):
            self.idle += 1
        self.lowest = min(self.lowest, task.objective)
        self.flattest = min(self.flattest, task.gradient_norm)
        return self.idle >= IDLE

    def _record(self, task: Task) -> None:
        """Add a row to the history, and note the best point."""
        tested = self._tested(task)
        self._note_best(task, tested)
        row = {
            "step": float(self.step),
            "objective": float(task.objective),
            "gradient_norm": task.gradient_norm,
            "full_objective": float(task.full),
            **tested,
            **{name: getattr(self.batches, name) for name in COSTS},
            "seconds": self.world.broadcast(self._seconds()),
            **{name: float(value) for name, value in self.values.items()},
        }
        self.history.rows.append(row)
        self._write_scalars({k: v for k, v in row.items() if np.isfinite(v)})

    def _tested(self, task: Task) -> dict[str, float]:
        """Return the evaluation on test rows, if any; NaN where the objective is not known."""
        if self.held_out is None:
            return {}
        if self.world.decide(np.isfinite(task.full)):
            return self.held_out(task.x).columns()
        return dict.fromkeys(self.held_out.columns, np.nan)

    def _write_scalars(self, values: dict[str, float]) -> None:
        if not self.saving.tensorboard or self.saving.folder is None:
            return
        with self.world.phase("writing scalars"):
            if self.writer is not None:
                self.writer.write(self.step, values)

    def _called_off(self) -> tuple[str, str] | None:
        if not self.callbacks:
            return None
        row = self.history.rows[-1]
        wishes = [callback(row, self.x) for callback in self.callbacks]
        return (STOPPED, "by a callback") if self.world.decide(any(wishes)) else None

    def _advance(self, task: Task) -> tuple[str, str] | None:
        """Take a step; a signal within it ends the run at the point before it."""
        self.good = self.x, self.state
        try:
            self.world.check_interrupt()
            outcome = self.optimizer.step(task, self.state)
        except Interrupted as why:
            self._save(task)
            self._finish(STOPPED, "by a signal")
            why.best = self.best.copy()
            why.reached = (
                f"at step {self.step} with objective {task.objective:.10g}, the best over all rows "
                f"being {self.best_objective:.10g}"
            )
            raise
        except NumericalError as error:
            self.step += 1
            if self._take_back(str(error)):
                return None
            return DIVERGED, f"{RECOVERIES} failures in a row: {error}"
        tried = self.batches.tried
        nonfinite = int(np.count_nonzero(~np.isfinite(tried)))
        self.nonfinite_steps += nonfinite
        if nonfinite:
            text = f"{nonfinite} of {len(tried)} objectives tried were not finite; step shortened"
            self.history.events.append((self.step + 1, text))
        if outcome.stuck and task.whole:
            return self._ended(outcome.why)
        self.step += 1
        self.x, self.state, self.values = outcome.x, outcome.state, outcome.values
        return None

    def _ended(self, why: str) -> tuple[str, str]:
        """Return the status of a run that gains nothing any more."""
        if self.world.decide(self.nonfinite_steps > 0):
            what = why.partition(":")[0]
            return DIVERGED, f"{what}, or leads to numbers that are not finite, at step {self.step}"
        return STOPPED, why

    # Checkpoints

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.begun

    def _note_numbers(self, objective: float, full: float) -> None:
        """Keep the numbers that a checkpoint of this point needs and a step from it changes."""
        self.numbers = {
            "objective": objective,
            "full_objective": full,
            **{stored: getattr(self, name) for stored, name in COUNTERS.items()},
            **{name: getattr(self.batches, name) for name in COSTS},
            "seconds": self._seconds(),
        }

    def _save(self, task: Task) -> None:
        """Write a checkpoint of the task's point.

        It holds the objective and the gradient, so that a run that resumes computes nothing twice,
        but not the point's row of the history, which such a run adds.
        """
        if self.saving.folder is None or self.saved == self.step:
            return
        full = self.batches.full
        rows = full.margins(task.x) if full.keeps_margins else self.state.get(SPREAD)
        checkpoint = self._checkpoint(task.gradient, rows)
        save_checkpoint(checkpoint, self.saving.folder, self.world)
        self.saved = self.step

    def _checkpoint(self, gradient: np.ndarray, rows) -> Checkpoint:
        """Return the checkpoint; `rows` are this rank's margins, or its part of a spread state."""
        arrays = {"x": self.x, "best": self.best, "gradient": gradient}
        facts = {**self.facts, **self.numbers}
        history = History(self.history.rows[:-1], self.history.events)
        if self.spreads or self.batches.full.keeps_margins:
            rows = np.reshape(rows, (-1, self.width))
        else:
            rows = None
        return Checkpoint(
            self.step, arrays, {k: v for k, v in self.state.items() if k != SPREAD}, self.values,
            facts, history, rows, self.ranges,
        )  # fmt: skip

    def _restore(self, saved: Checkpoint) -> None:
        if "patience" in saved.facts and self.stopping.patience is None:
            raise InputError(
                f"{self.saving.folder}: its run has `patience`, and with it another best point; "
                "give it again, or name another folder"
            )
        self.step = self.saved = saved.step
        self.history = saved.history
        self.state, self.values = saved.state, saved.values
        self.x, self.best = saved.arrays["x"], saved.arrays["best"]
        if saved.rows is not None and self.spreads:
            self.state[SPREAD] = saved.rows[:, 0]
        elif saved.rows is not None:
            values = saved.rows[:, 0] if self.problem.row_margins == 1 else saved.rows
            margins = self.problem.known_margins(values)
            self.batches.full.keep_margins(self.x, margins)
        facts = saved.facts
        self.resumed = facts["objective"], saved.arrays["gradient"], facts["full_objective"]
        for stored, name in COUNTERS.items():
            setattr(self, name, facts[stored])
        for name in COSTS:
            setattr(self.batches, name, facts[name])
        self.seconds_before = facts["seconds"]
        for loss in self.history.column("test_loss"):
            self._lowers_test_loss(loss)
