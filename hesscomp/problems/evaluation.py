"""How well a problem's model does on rows that it was not fitted to."""

from dataclasses import dataclass

import numpy as np

from hesscomp.datasets import Dataset
from hesscomp.errors import InputError
from hesscomp.parallel.ledger import Ledger
from hesscomp.problems.capabilities import CLASSIFICATION, KNOWN_SOLUTION
from hesscomp.problems.problem import Problem
from hesscomp.problems.solution import Solution


@dataclass(frozen=True)
class Evaluation:
    """What a model does on held-out rows of all ranks.

    Attributes
    ----------
    rows : int
    loss : float
        The mean of the rows' losses, weighted where the rows are, without ridge and regularisers.
    accuracy : float or None
        The share of right predictions; None for a problem that is not a classification.
    """

    rows: int
    loss: float
    accuracy: float | None

    def columns(self) -> dict[str, float]:
        """Return the numbers by their names in a history."""
        accuracy = {} if self.accuracy is None else {"test_accuracy": self.accuracy}
        return {"test_loss": self.loss, **accuracy}

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.5f}"
        return f"loss {self.loss:.10g}{accuracy}, over {self.rows} rows"


def rows_or_solution(problem: Problem, test):
    """Return test rows where they are given, else the known solution, or None without one."""
    return problem.solution if test is None and problem.can(KNOWN_SOLUTION) else test


def judge_of(problem: Problem, test) -> "HeldOut | Solution":
    """Return what judges a problem's model: a known solution as it is, else held-out rows."""
    return test if isinstance(test, Solution) else HeldOut(problem, test)


class HeldOut:
    """Rows that a problem's model is judged by; call it with a point. Collective.

    Parameters
    ----------
    problem : Problem
        Its model and loss; with the capability `TEST_ROWS`.
    data : Dataset, or (X, y)
        A data set's test rows, or each rank's own rows, of any number.

    Attributes
    ----------
    fingerprint : str
        Of the rows, independent of the number of ranks.
    columns : tuple of str
        The names of what is found, in a history.
    """

    def __init__(self, problem: Problem, data: Dataset | tuple):
        if isinstance(data, Dataset) and data.test is None:
            raise InputError(f"{data.name}: has no test rows; name their file")
        self.problem = problem.over(data)
        self.problem.world = problem.world.with_ledger(Ledger())  # none of the training's work
        self.fingerprint = self.problem.fingerprint
        self.columns = ("test_loss", "test_accuracy")[: 1 + problem.can(CLASSIFICATION)]

    def __call__(self, x: np.ndarray) -> Evaluation:
        """Evaluate the model at the parameters x: a pass over these rows or two."""
        problem = self.problem
        loss, accuracy = problem.objective(x), None
        if problem.can(CLASSIFICATION):
            counts = np.array(problem.right_predictions(x), dtype=np.int64)
            right, total = problem.world.sum(counts).tolist()
            accuracy = right / total
        return Evaluation(problem.rows, loss, accuracy)
