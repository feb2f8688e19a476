"""Training as Keras' users know it: progress, validation beside the loss, Ctrl-C that saves."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np

from hesscomp.api import as_problem, keras_options
from hesscomp.api.callbacks import VALIDATION, Callbacks
from hesscomp.errors import InputError, Interrupted
from hesscomp.optimizers.catalogue import OPTIMIZERS, optimizer_kind
from hesscomp.optimizers.first_order import SGD, Adam, AdamW
from hesscomp.optimizers.loop import TrainResult
from hesscomp.optimizers.loop import train as minimise
from hesscomp.optimizers.optimizer import Optimizer
from hesscomp.optimizers.options import Sampling, Saving, Stopping
from hesscomp.options import refuse_unknown
from hesscomp.parallel.watchdog.stop_signals import StopListener
from hesscomp.parallel.world import World
from hesscomp.problems.evaluation import rows_or_solution
from hesscomp.problems.problem import Problem

NOTICE = b"\nhesscomp: interrupted; training ends after this product\n"
PARTS = (Sampling, Stopping, Saving)
UNLIKE_KERAS = (  # what Keras' optimizers can have and ours cannot
    "amsgrad", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "loss_scale_factor",
    "gradient_accumulation_steps",
)  # fmt: skip
INSTEAD = {  # what people know from Keras
    "epochs": "give `max_passes`, or `max_steps`",
    "batch_size": "give `gradient`, the rows of a step's batch",
    "learning_rate": "it is the optimizer's: pass hc.Adam(0.01), or name it in `settings`",
    "metrics": "with `validation_data` the history has its loss, and accuracy for a classifier",
    "validation_split": "divide the rows, and give one part as `validation_data`",
    "shuffle": "each step draws its batch of all rows, by the `seed`",
    "steps_per_epoch": "give `max_steps`",
    "initial_epoch": "give a `folder`, and the same call goes on",
    "class_weight": "repeat the rows that count more, or let the loss look up a weight by y",
    "sample_weight": "repeat the rows that count more, or let the loss look up a weight by y",
}


def train(
    problem,
    optimizer: str | Optimizer | Any = "hessian-free",
    loss=None,
    data=None,
    *,
    validation_data=None,
    x0: np.ndarray | None = None,
    verbose: bool | None = None,
    callbacks=(),
    evaluate_every: int | None = None,
    settings: dict[str, Any] | None = None,
    **options,
) -> TrainResult:
    """Minimise a problem, or train a Keras model in place. Collective.

    Parameters
    ----------
    problem : Problem or keras.Model
        A model needs `loss` and `data` as in `hessian`, and gets the best weights at the end; after
        Ctrl-C too, but with a `folder` it is left as it was, for the same call to go on. A
        problem's model is left as it is (`problem.set_weights`).
    optimizer : str, Optimizer or keras.optimizers.SGD, Adam or AdamW
        "newton", "newton-cg", "hessian-free", "gauss-newton", "natural-gradient", "drsom", "sgd",
        "adam", "adamw", "adabelief", "soap", "sketchy-sgd", "saddle-free". The last seven take a
        schedule as their learning rate, hesscomp's
        (`hesscomp.optimizers.schedules.Schedule`, or its text, such as
        "cosine:0.01,steps=1000,warmup=100") or one of ``keras.optimizers.schedules``.
    loss, data
        With a model: its loss, and each rank's own rows (X, y).
    validation_data : (X, y) or Dataset, optional
        Rows whose loss, and accuracy for a classifier, are told beside the objective: `test_loss`
        and `test_accuracy` in the history. `hesscomp.equation` knows the solution, and its history
        has the `relative_error` at points of its own.
    x0 : (n,) array, optional
        The start; by default the problem's own.
    verbose : bool, optional
        Whether rank 0 shows a progress bar and a summary on standard error. Default: on a terminal
        and in a notebook.
    callbacks : callable or tuple of callables
        ``callback(row, x)`` after each step, with the history's row and the point; training stops
        where one returns True. Some of ``keras.callbacks`` may be among them.
        ``EarlyStopping(patience=N)`` stands for `patience`, and leaves the last weights in the
        model unless it has ``restore_best_weights=True``. ``CSVLogger(filename)`` writes the rows
        of the history as they come, with the names `loss`, `val_loss` and `val_accuracy`.
        ``ModelCheckpoint(filepath)`` saves the model (.keras), or its weights (.weights.h5),
        wherever `full_objective` is known, or with ``save_best_only=True`` wherever
        `val_loss`, `val_accuracy` or `loss` (over all rows) is the best so far, the start
        included. Rank 0 writes. ``TerminateOnNaN`` and ``ProgbarLogger`` are taken too.
    evaluate_every : int, optional
        With batches: steps between evaluations over all rows.
    settings : dict, optional
        Options of an optimizer that is named, such as ``{"damping": 10}``.
    **options
        Of `Sampling` (`gradient`, `curvature`, `acceptance`: shares of the rows, or numbers of
        rows, for a step's batches; `seed`), of `Stopping` (`max_steps`, `gradient_tolerance`,
        `target`, `max_passes`, `max_seconds`; `patience` stops early, after so many evaluations of
        `validation_data` without a lower loss, and the best weights are then those of the lowest
        one), of `Saving` (`folder`, `every`, `tensorboard`); with
        a model also of `KerasProblem`.

    Returns
    -------
    TrainResult
        `x`, `best`, `best_objective`, `history`, `status` and `reason`, and `test` (of the
        validation data, at `best`). `hesscomp.plot` draws it.

    Raises
    ------
    InputError
        For what cannot be used.
    Interrupted
        On Ctrl-C (a second one raises KeyboardInterrupt at once). With a `folder` the same call
        goes on from there.

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"))
    >>> hc.train(problem, "newton-cg", max_steps=20, gradient_tolerance=1e-6).converged
    True
    """
    asked = Callbacks.of(callbacks)
    options = asked.options(options)
    parts = {kind: _taken(options, kind) for kind in PARTS}
    if options:
        known = [part.name for kind in PARTS for part in fields(kind)] + keras_options()
        refuse_unknown(options, known, "train", INSTEAD)
    model = None if isinstance(problem, Problem) else problem
    problem = as_problem(problem, loss, data, options, "train")
    sampling, stopping = Sampling(**parts[Sampling]), Stopping(**parts[Stopping])
    saving = Saving(**parts[Saving])
    chosen = as_optimizer(optimizer, settings or {})
    test = rows_or_solution(problem, validation_data)
    asked.begin(problem, test, saving.folder)
    verbose = True if verbose is None and asked.shows_bar else verbose
    show = _Progress(problem.world, stopping.max_steps, verbose, saving.folder)
    try:
        with _stoppable(problem.world):
            result = minimise(
                problem, chosen, x0, sampling=sampling, stopping=stopping, saving=saving,
                callbacks=(show, *asked.functions), evaluate_every=evaluate_every, test=test,
            )  # fmt: skip
        asked.end(result)
    except Interrupted as why:
        if model is not None and why.best is not None and saving.folder is None:
            problem.set_weights(why.best)
        show.interrupted(why)
        raise
    finally:
        show.close()
    problem.warn_without_minimum(result.best)
    if model is not None:
        problem.set_weights(result.x if asked.keeps_last else result.best)
    show.summary(result)
    return result


def as_optimizer(optimizer: Any, settings: dict[str, Any]) -> Optimizer:
    """Return an optimizer by name, as it is, or from Keras' SGD, Adam and AdamW.

    Raises
    ------
    InputError
        For an unknown name, and for what Keras' optimizer does and ours does not.
    """
    if isinstance(optimizer, str):
        kind = optimizer_kind(optimizer)
        refuse_unknown(settings, [part.name for part in fields(kind)], optimizer)
        return kind(**settings)
    if settings:
        raise InputError("`settings` go with the name of an optimizer; give them where it is made")
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not hasattr(optimizer, "get_config"):
        raise InputError(
            f"the optimizer is a {type(optimizer).__name__}; pass a name ({', '.join(OPTIMIZERS)}) "
            "or an Optimizer"
        )
    return _of_keras(optimizer)


def _of_keras(optimizer: Any) -> Optimizer:
    """Return our SGD, Adam or AdamW with the options of Keras'."""
    name, told = type(optimizer).__name__, optimizer.get_config()
    for option in UNLIKE_KERAS:
        if told.get(option):
            raise InputError(f"{name} has {option}, which hesscomp's does not; leave it out")
    if getattr(optimizer, "_exclude_from_weight_decay", None) or getattr(
        optimizer, "_exclude_from_weight_decay_pattern", None
    ):
        raise InputError(f"{name} excludes variables from its weight decay; here it acts on all")
    common = {
        "learning_rate": told["learning_rate"],
        "weight_decay": float(told.get("weight_decay") or 0.0),
    }
    if name == "SGD":
        return SGD(**common, momentum=told["momentum"], nesterov=told["nesterov"])
    if name in ("Adam", "AdamW"):
        kind = Adam if name == "Adam" else AdamW
        betas = {"beta1": told["beta_1"], "beta2": told["beta_2"]}
        return kind(**common, **betas, epsilon=told["epsilon"])
    raise InputError(
        f"Keras' {name} has no counterpart here; take Keras' SGD, Adam or AdamW, or one of "
        f"{', '.join(OPTIMIZERS)}"
    )


def _taken(options: dict[str, Any], kind: type) -> dict[str, Any]:
    """Take the fields of a kind of options out of the options that were given."""
    names = [part.name for part in fields(kind) if part.name in options]
    return {name: options.pop(name) for name in names}


class _Progress:
    """A callback that shows a bar with its end, the objective and the validation beside it."""

    def __init__(self, world: World, steps: int, verbose: bool | None, folder) -> None:
        shown = sys.stderr.isatty() or "ipykernel" in sys.modules if verbose is None else verbose
        self.shown, self.steps, self.folder = shown and world.rank == 0, steps, folder
        self.bar: Any = None
        self.tested: dict[str, str] = {}

    def __call__(self, row: dict, x: np.ndarray) -> None:
        if not self.shown:
            return
        if self.bar is None:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=self.steps, desc="training", unit=" steps")
        self.bar.update(int(row["step"]) - self.bar.n)
        told = {"objective": f"{row['objective']:.6g}", "|g|": f"{row['gradient_norm']:.2g}"}
        for name, short in VALIDATION.items():
            if not np.isnan(row.get(name, np.nan)):
                self.tested[short] = f"{row[name]:.5g}"
        self.bar.set_postfix(told | self.tested, refresh=False)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def summary(self, result: TrainResult) -> None:
        text = (
            f"{result.status} after {result.steps} steps: {result.reason}; at the best point: "
            f"objective {result.best_objective:.8g}"
        )
        if result.test is not None:
            text += f"; validation: {result.test}"
        self._say(text)

    def interrupted(self, why: Interrupted) -> None:
        how = "a model has its best weights; with folder=... the same call could go on"
        if self.folder is not None:
            how = f"the same call goes on from {os.fspath(self.folder)}"
        self._say(f"interrupted {why.reached}; {how}")

    def _say(self, text: str) -> None:
        self.close()
        if self.shown:
            sys.stderr.write(f"hesscomp: {text}\n")


@contextmanager
def _stoppable(world: World) -> Iterator[None]:
    """Let Ctrl-C end training between two products, where nothing else does; else as it was."""
    main = threading.current_thread() is threading.main_thread()
    if world.stop_asked is not None or not main:
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    world.stop_asked = StopListener((signal.SIGINT,), NOTICE if world.rank == 0 else b"")
    try:
        yield
    finally:
        world.stop_asked = None
        signal.signal(signal.SIGINT, before)
