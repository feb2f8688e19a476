"""What an optimizer is: options, a state of arrays and numbers, and a step."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors import Factor, Tree
from hesscomp.optimizers.batches import Batches, Task
from hesscomp.options import Options
from hesscomp.problems.problem import Problem
from hesscomp.runs.checkpoint import Checkpoint

State = dict[str, Any]  # arrays and numbers; each optimizer knows its own
SPREAD = "spread"  # the name of an array in it of which each rank has a part


@dataclass(frozen=True)
class Outcome:
    """Where a step leads.

    The values are for the history: the step's length, damping, CG iterations and so on, under the
    same names in each step. A step is stuck where none was found and another try on the same rows
    would be the same.
    """

    x: np.ndarray  # (n,), the next point
    state: State  # the next one
    values: dict[str, float] = field(default_factory=dict)
    stuck: bool = False
    why: str = "no step lowers the objective: at the rounding level"  # it is stuck


@dataclass(frozen=True)
class Optimizer(Options, ABC):
    """A method of optimization. Subclasses are frozen dataclasses; their fields are its options.

    All that changes is in the state: `step` neither keeps nor alters anything, so a run can be
    stopped, saved, taken back or resumed at any step.

    Where its steps end on a `Task.line`, it may declare that it `keeps_margins`: those of a problem
    that has them are then moved along, kept, and part of a run's checkpoints. One that takes
    `gradients_only` has no use for batches of the curvature and of acceptance.

    The state is the same on all ranks, but for an array ``state[SPREAD]``, (numbers here,), of
    which each rank has the part that `part_here` names. A run begins with zeros there.
    """

    name: ClassVar[str]
    keeps_margins = False
    gradients_only = False

    def __post_init__(self):
        try:
            super().__post_init__()
        except InputError as error:
            raise InputError(f"{self.name}: {error}".replace("`", "")) from None

    @abstractmethod
    def start(self, x: np.ndarray) -> State:
        """Return the state before the first step, at the (n,) start x."""

    @abstractmethod
    def step(self, task: Task, state: State) -> Outcome:
        """Take a step from ``task.x``. Collective; rank 0 decides where numbers decide."""

    def keeps_rows(self, problem: Problem) -> bool:
        """Return whether a step takes the rows of the Gauss-Newton matrix of least squares.

        Objective and gradient are then made of them. Constant in a run.
        """
        return False

    def part_here(self, batches: Batches) -> tuple[int, int]:
        """Return the first of this rank's numbers of a spread state, and one past the last.

        They follow those of the rank before; 0, 0 where no state is spread. Constant in a run.
        """
        return 0, 0

    def recover(self, state: State) -> State | None:
        """Return a more careful state, after a step from this one led to numbers not finite.

        None where there is none: the run then ends with NumericalError.
        """
        return None

    def remark(self, rows: list[dict[str, float]]) -> str:
        """Say in one line what a user should know of a run, from the rows of its history."""
        return ""

    def upgraded(self, saved: Checkpoint) -> Checkpoint:
        """Return a checkpoint of an earlier version as this version would have written it."""
        told = saved.facts.get("optimizer")
        if isinstance(told, str) and self.same_options(told):
            return replace(saved, facts={**saved.facts, "optimizer": self.describe()})
        return saved

    def describe(self) -> str:
        """Return the name and the options, in words; of arrays and factors a digest."""
        options = (f"{part.name} {in_words(getattr(self, part.name))}" for part in fields(self))
        return f"{self.name} ({', '.join(options)})"

    def same_options(self, told: str) -> bool:
        """Return whether a `describe` of an earlier version tells these options.

        Options that it does not name, since they did not exist yet, have their defaults.
        """
        name, _, rest = told.partition(" (")
        options = dict(each.partition(" ")[::2] for each in rest.removesuffix(")").split(", "))
        mine = {part.name: in_words(getattr(self, part.name)) for part in fields(self)}
        usual = {part.name: in_words(part.default) for part in fields(self)}
        return name == self.name and usual | options == mine


def in_words(value) -> str:
    """Return an option's value in words without a comma; of arrays and factors a digest."""
    if isinstance(value, Factor):
        return f"{value.kind} factor {_digest(*value.contents().values())}"
    if isinstance(value, Tree):
        return f"tree {_digest(value.permutation, value.bounds)}"
    if isinstance(value, np.ndarray):
        return f"array {_digest(value)}"
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {value[name]}" for name in sorted(value))
    return str(value)


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]
