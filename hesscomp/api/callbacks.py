"""Keras' callbacks in `train`: what each stands for here, and what a run cannot do."""

from __future__ import annotations

import math
import string
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hesscomp.errors import InputError
from hesscomp.optimizers.loop import TrainResult
from hesscomp.parallel.ledger import Ledger
from hesscomp.parallel.world import World
from hesscomp.problems.capabilities import KERAS_MODEL
from hesscomp.problems.problem import Problem
from hesscomp.runs.checkpoint import NAME, PREVIOUS, load_checkpoint
from hesscomp.runs.history import History
from hesscomp.storage.files import atomic_path, check_writable

VALIDATION = {"test_loss": "val_loss", "test_accuracy": "val_accuracy"}
KERAS_NAMES = {"objective": "loss", **VALIDATION}  # by the names in a history
MONITORS = {"loss": "full_objective", **{keras: ours for ours, keras in VALIDATION.items()}}
MODEL, WEIGHTS = ".keras", ".weights.h5"
INSTEAD_OF_EPOCHS = "there are no epochs here; write {step}"
TWICE = "early stopping is asked for twice; give one EarlyStopping or `patience`"
SCHEDULED = "make the optimizer with a schedule as its learning rate"
TAKEN = "EarlyStopping, ModelCheckpoint, CSVLogger, TerminateOnNaN and ProgbarLogger"
IN_PLACE_OF = {  # of Keras' callbacks
    "BackupAndRestore": "give a `folder`, and the same call goes on",
    "History": "leave it out: the result has the `history`",
    "LearningRateScheduler": SCHEDULED,
    "ReduceLROnPlateau": SCHEDULED,
    "TensorBoard": "give a `folder` and `tensorboard=True`",
}


@dataclass
class Callbacks:
    """What the callbacks of a call of `train` ask for.

    Attributes
    ----------
    functions : list of callables
        Of (row, x), in the order in which they were given.
    patience : int or None
        That of EarlyStopping.
    keeps_last : bool
        Whether the model gets the last weights, and not the best.
    shows_bar : bool
        Whether a progress bar was asked for.
    """

    functions: list[Callable] = field(default_factory=list)
    patience: int | None = None
    keeps_last: bool = False
    shows_bar: bool = False

    @classmethod
    def of(cls, given) -> Callbacks:
        """Return what is asked for by one callback or several, functions and Keras' own.

        Raises
        ------
        InputError
            For a callback, or an argument of one, that has no counterpart here.
        """
        found = cls()
        for each in given if isinstance(given, Iterable) else (given,):
            kind = type(each).__name__
            if kind == "EarlyStopping":
                found._stop_early(each)
            elif kind == "ModelCheckpoint":
                found.functions.append(ModelFile(each))
            elif kind == "CSVLogger":
                found.functions.append(CsvLog(each))
            elif kind == "TerminateOnNaN":
                if getattr(each, "raise_error", False):
                    raise InputError(
                        "TerminateOnNaN has raise_error=True, and a run here takes steps to "
                        "numbers that are not finite back; leave it out, and ask `result.status`"
                    )
            elif kind == "ProgbarLogger":
                found.shows_bar = True
            elif callable(each):
                found.functions.append(each)
            else:
                remedy = IN_PLACE_OF.get(kind, f"of Keras' only {TAKEN} can be taken")
                raise InputError(
                    f"a callback is a function of (row, x), and {kind} is none; {remedy}"
                )
        return found

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a run, with the patience."""
        if self.patience is None:
            return options
        if options.get("patience") is not None:
            raise InputError(TWICE)
        return {**options, "patience": self.patience}

    def begin(self, problem: Problem, test, folder) -> None:
        """Check what the writers of files need before anything is computed. Collective."""
        for each in self.functions:
            if isinstance(each, Writer):
                each.begin(problem, test, folder)

    def end(self, result: TrainResult) -> None:
        """Tell the writers the last row, to which a run that ends adds what it lacked."""
        for each in self.functions:
            if isinstance(each, Writer):
                each.end(result)

    def _stop_early(self, stopping) -> None:
        if self.patience is not None:
            raise InputError(TWICE)
        for name, value in (
            ("monitor", "val_loss"), ("min_delta", 0), ("baseline", None), ("start_from_epoch", 0),
        ):  # fmt: skip
            if getattr(stopping, name) != value:
                raise InputError(
                    f"EarlyStopping has {name}={getattr(stopping, name)!r}, and a run here can "
                    f"only have {value!r}; change it, or pass a function of (row, x) as a callback"
                )
        self.patience = max(int(stopping.patience), 1)
        self.keeps_last = not stopping.restore_best_weights


class Writer:
    """A callback that writes files on rank 0; all ranks raise together where it cannot."""

    world: World

    def begin(self, problem: Problem, test, folder) -> None:
        """Check the paths and what is written, for a run with test rows or None. Collective."""
        self.world = problem.world.with_ledger(Ledger())  # writing is no part of a run's cost

    def end(self, result: TrainResult) -> None:
        """Take the last row with what came to it at the end. Collective."""


class CsvLog(Writer):
    """Keras' CSVLogger: a line for each row of the history, under Keras' names.

    Lines are appended; where a row has numbers with new names, the file is replaced as a whole. A
    run that goes on from its `folder` keeps the lines of the steps before, as if it had not
    stopped.
    """

    def __init__(self, given) -> None:
        self.path, self.separator, self.append = Path(given.filename), given.sep, given.append
        if not (isinstance(self.separator, str) and len(self.separator) == 1):
            raise InputError(
                f"CSVLogger has separator={self.separator!r}; give one character, such as ','"
            )
        self.history: History | None = None  # what the file holds; on rank 0
        self.names: list[str] = []

    def begin(self, problem: Problem, test, folder) -> None:
        super().begin(problem, test, folder)
        self.history = None
        with self.world.phase(f"opening {self.path}"):
            if self.world.rank == 0:
                check_writable(self.path)
                if self.append and self.path.exists():
                    History.read_csv(self.path, self.separator)

    def __call__(self, row: dict, x: np.ndarray) -> None:
        with self.world.phase(f"writing {self.path}"):
            if self.world.rank == 0:
                self._add(under_keras_names(row))

    def end(self, result: TrainResult) -> None:
        with self.world.phase(f"writing {self.path}"):
            if self.history is not None:
                self.history.rows[-1] = under_keras_names(result.history.rows[-1])
                self.history.write_csv(self.path, self.separator)

    def _add(self, row: dict) -> None:
        if self.history is None:
            self.history, self.names = History(self._earlier(row["step"])), []
        self.history.rows.append(row)
        if set(row) <= set(self.names):
            self.history.append_csv(self.path, self.names, self.separator)
        else:
            self.names = self.history.names
            self.history.write_csv(self.path, self.separator)

    def _earlier(self, step: int) -> list[dict[str, float]]:
        """Return the rows of the file that stay in it when a run begins at a step."""
        if not self.path.exists() or not (self.append or step > 0):
            return []
        try:
            rows = History.read_csv(self.path, self.separator).rows
        except InputError:
            if self.append:
                raise
            return []
        while step > 0 and rows and rows[-1]["step"] >= step:  # the run takes these steps again
            rows.pop()
        return [{**row, "step": int(row["step"])} for row in rows]


class ModelFile(Writer):
    """Keras' ModelCheckpoint: the model at each evaluation over all rows, or at the best so far.

    The start is evaluated too. The best value is kept in Keras' object, as Keras does; a run that
    goes on from its `folder` knows those of the steps before.
    """

    def __init__(self, given) -> None:
        self.given, self.name = given, str(given.filepath)
        self.column, self.fields = "", _fields(self.name)
        ending = WEIGHTS if given.save_weights_only else MODEL
        if not self.name.endswith(ending):
            raise InputError(
                f"ModelCheckpoint has filepath={self.name}; name a {MODEL} file, or a {WEIGHTS} "
                "file with save_weights_only=True"
            )
        if given.save_freq != "epoch":
            raise InputError(
                f"ModelCheckpoint has save_freq={given.save_freq!r}, and here a model is saved "
                "where it is evaluated; leave it out, and give `evaluate_every` to `train`"
            )
        if given.save_best_only:
            if given.monitor not in MONITORS:
                raise InputError(
                    f"ModelCheckpoint has monitor={given.monitor!r}, of which a run has no "
                    f"values; use one of {', '.join(MONITORS)}"
                )
            self.column = MONITORS[given.monitor]
        self.told: set[str] = set()  # names of the rows
        self.due = False  # whether the last row lacked what an evaluation tells

    def begin(self, problem: Problem, test, folder) -> None:
        super().begin(problem, test, folder)
        if not problem.can(KERAS_MODEL):
            raise InputError(
                f"ModelCheckpoint saves a Keras model, and {problem.name} has none; give a "
                "`folder`, which then holds the point"
            )
        self.problem: Any = problem
        self.folder, self.told = folder, set()
        needs = [self.given.monitor] if self.column else []
        for name in (*needs, *self.fields):
            if test is None and name in VALIDATION.values():
                raise InputError(
                    f"ModelCheckpoint needs {name}, and there are no validation rows; give "
                    "`validation_data`"
                )
        with self.world.phase(f"opening {self.name}"):
            if self.world.rank == 0 and not self.fields:
                Path(self.name).parent.mkdir(parents=True, exist_ok=True)
                check_writable(self.name)

    def __call__(self, row: dict, x: np.ndarray) -> None:
        with self.world.phase(f"writing {self.name}"):
            if not self.told:
                self._check_names(row)
                if self.world.rank == 0 and row["step"] > 0 and self.column:
                    self._recall()
            self.due = not math.isfinite(row["full_objective"])
            if self.world.rank == 0 and not self.due:
                self._save(row, x)

    def end(self, result: TrainResult) -> None:
        if self.world.decide(self.due):
            self(result.history.rows[-1], result.x)

    def _check_names(self, row: dict) -> None:
        self.told = set(row)
        known = set(under_keras_names(row))
        for name in self.fields:
            if name not in known:
                raise InputError(
                    f"{self.name}: a row of the history has no {name}; use some of "
                    f"{', '.join(sorted(known))}"
                )
        try:
            self._path(row)
        except (LookupError, ValueError) as error:
            raise InputError(f"{self.name}: {error}; name a file as {{step:04d}}{MODEL}") from error
        if self.column and self.column not in row:
            raise InputError(
                f"ModelCheckpoint has monitor={self.given.monitor!r}, which this problem's "
                "validation does not tell; monitor another number"
            )

    def _recall(self) -> None:
        """Take the best value of the steps that a run in a folder took before it was stopped."""
        if not self.fields and not Path(self.name).exists():
            return  # nothing was saved then
        path = Path(self.folder) / NAME
        path = path if path.exists() else path.with_name(PREVIOUS)
        for value in load_checkpoint(path).history.column(self.column):
            self._improves(value)

    def _improves(self, value: float) -> bool:
        """Note a value that is monitored; return whether it is the best."""
        best, mode = self.given.best, getattr(self.given, "mode", "auto")
        if not math.isfinite(value):
            return False
        highest = mode == "max" or (mode != "min" and self.column == "test_accuracy")
        if best is None or (value > best if highest else value < best):
            self.given.best = float(value)
            return True
        return False

    def _save(self, row: dict, x: np.ndarray) -> None:
        before = self.given.best
        if self.column and not self._improves(row[self.column]):
            return
        path = self._path(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        model = self.problem.model
        weights = model.get_weights()  # where a run starts, for the same call to find its folder
        try:
            if self.given.save_weights_only:
                self.problem.set_weights(x)
                with atomic_path(path) as temporary:
                    model.save_weights(temporary)
            else:
                self.problem.save_model(path, x)
        finally:
            model.set_weights(weights)
        if self.given.verbose:
            why = ""
            if self.column:
                first = "" if before is None else f" from {before:.5g}"
                why = f"{self.given.monitor} improved{first} to {row[self.column]:.5g}, "
            _tell(f"step {row['step']:.0f}: {why}saved {path}")

    def _path(self, row: dict) -> Path:
        told = {**under_keras_names(row), "loss": row["full_objective"]}
        return Path(self.name.format(**told) if self.fields else self.name)


def under_keras_names(row: dict[str, float]) -> dict[str, float]:
    """Return a row of a history with Keras' names where it has one."""
    told = {KERAS_NAMES.get(name, name): value for name, value in row.items()}
    return {**told, "step": int(row["step"])}


def _fields(name: str) -> list[str]:
    """Return the names between braces in a file's name.

    Raises
    ------
    InputError
        For braces that do not pair, and for an epoch or a batch.
    """
    try:
        fields = [part[1] for part in string.Formatter().parse(name) if part[1] is not None]
    except ValueError as error:
        raise InputError(f"{name}: {error}; write {{step}} for the number of the step") from error
    for each in ("epoch", "batch"):
        if each in fields:
            raise InputError(f"{name}: {INSTEAD_OF_EPOCHS}")
    return fields


def _tell(text: str) -> None:
    """Write a line above the progress bar, if there is one."""
    from tqdm.auto import tqdm

    tqdm.write(f"hesscomp: {text}", file=sys.stderr)
