"""What an optimizer is: options, a state of arrays and numbers, and a step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from hesscomp.errors import InputError
from hesscomp.optimizers.batches import Task
from hesscomp.options import Options
from hesscomp.runs.checkpoint import Checkpoint

State = dict[str, Any]  # arrays and numbers; each optimizer knows its own


@dataclass(frozen=True)
class Outcome:
    """What a step has come to.

    Attributes
    ----------
    x : (n,) array
        The next point.
    state : dict
        The next state.
    values : dict of str to float
        For the log: the step's length, damping, CG iterations and so on; the same names each time.
    stuck : bool
        Whether no step was found and another try on the same rows would be the same.
    why : str
        What there is to say where it is.
    """

    x: np.ndarray
    state: State
    values: dict[str, float] = field(default_factory=dict)
    stuck: bool = False
    why: str = "no step lowers the objective: at the rounding level"


@dataclass(frozen=True)
class Optimizer(Options, ABC):
    """A method of optimization. Subclasses are frozen dataclasses; their fields are its options.

    All that changes is in the state: `step` neither keeps nor alters anything, so a run can be
    stopped, saved, taken back or resumed at any step.

    Attributes
    ----------
    name : str
    keeps_margins : bool
        Whether its steps end on a `Task.line`, so that margins, of a problem that has them, are
        moved along and kept. They are then part of a run's checkpoints.
    """

    name: ClassVar[str]
    keeps_margins = False

    def __post_init__(self):
        try:
            super().__post_init__()
        except InputError as error:
            raise InputError(f"{self.name}: {error}".replace("`", "")) from None

    @abstractmethod
    def start(self, x: np.ndarray) -> State:
        """The state before the first step, at the (n,) start x."""

    @abstractmethod
    def step(self, task: Task, state: State) -> Outcome:
        """One step from ``task.x``. Collective; decides on rank 0 what numbers decide."""

    def recover(self, state: State) -> State | None:
        """A more careful state, after the step from this one led to numbers that are not finite.

        None where there is none: the run then ends with NumericalError.
        """
        return None

    def upgraded(self, saved: Checkpoint) -> Checkpoint:
        """A run's checkpoint as this version would have written it, from that of an earlier one."""
        return saved

    def describe(self) -> str:
        """The name and the options, in words."""
        options = ", ".join(f"{part.name} {getattr(self, part.name)}" for part in fields(self))
        return f"{self.name} ({options})"
