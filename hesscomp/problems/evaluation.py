"""How well a problem's model does on rows that it was not fitted to."""

from dataclasses import dataclass
from functools import singledispatch

import numpy as np
import scipy.sparse

from hesscomp.curvature.losses import SigmoidCrossEntropy, SoftmaxCrossEntropy
from hesscomp.datasets import Dataset, Shard, from_arrays
from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.datasets.targets import SIGNS
from hesscomp.errors import InputError
from hesscomp.parallel.ledger import Ledger
from hesscomp.problems.differentiable import DifferentiableProblem
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.problems.objective import objective
from hesscomp.problems.problem import Problem
from hesscomp.problems.rows import Rows

TITLE = "test rows"
CROSS_ENTROPIES = (SoftmaxCrossEntropy, SigmoidCrossEntropy)


@dataclass(frozen=True)
class Evaluation:
    """What a model does on held-out rows of all ranks.

    Attributes
    ----------
    rows : int
    loss : float
        The mean of the rows' losses, without ridge and regularisers.
    accuracy : float or None
        The share of right predictions, where the loss is a softmax or sigmoid cross-entropy: the
        largest output, or the sign of each. None for other losses.
    """

    rows: int
    loss: float
    accuracy: float | None

    def columns(self) -> dict[str, float]:
        """The numbers by their names in a history."""
        accuracy = {} if self.accuracy is None else {"test_accuracy": self.accuracy}
        return {"test_loss": self.loss, **accuracy}

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.5f}"
        return f"loss {self.loss:.10g}{accuracy}, over {self.rows} rows"


class HeldOut:
    """Rows that a problem's model is judged by; call it with a point. Collective.

    Parameters
    ----------
    problem : Problem
        Its model and loss.
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
        self.problem, self.fingerprint = over(problem, data)
        self.problem.world = problem.world.with_ledger(Ledger())  # none of the training's work
        self.classifies = classifies(problem)
        self.columns = ("test_loss", "test_accuracy")[: 1 + self.classifies]

    def __call__(self, x: np.ndarray) -> Evaluation:
        """Evaluate the model at the parameters x: a pass over these rows or two."""
        problem = self.problem
        loss, accuracy = objective(problem, x), None
        if self.classifies:
            counts = np.array(guesses(problem, x), dtype=np.int64)
            right, total = problem.world.sum(counts).tolist()
            accuracy = right / total
        return Evaluation(problem.rows, loss, accuracy)


@singledispatch
def over(problem: Problem, data) -> tuple[Problem, str]:
    """The mean loss over other rows as a problem, and their fingerprint. Collective."""
    raise InputError(f"{problem.name} cannot be evaluated on test rows; give none")


@over.register
def _(problem: LogisticRegression, data):
    if isinstance(data, Dataset):
        shard, name = data.test, f"{data.name} (test)"
    else:
        shard, name = from_arrays(*data, problem.world, name=TITLE, targets=SIGNS).train, TITLE
    return problem.over(shard, name), fingerprint(shard, problem.world)


@over.register
def _(problem: DifferentiableProblem, data):
    rows = _rows(data, problem.world) if isinstance(data, Dataset) else Rows.of(data, problem.world)
    return problem.over(rows), rows.fingerprint


def _rows(data: Dataset, world) -> Rows:
    """The test rows of a data set, dense: they may have been too sparse to be stored so."""
    shard, name = data.test, f"{data.name} (test)"
    if scipy.sparse.issparse(shard.X):
        with world.phase(f"filling {name} up"):
            shard = Shard(shard.X.toarray(), shard.y, shard.start, shard.total)
    hashed = fingerprint(shard, world)
    return Rows(shard.X, shard.y, shard.start, shard.total, name, hashed, data.targets)


def classifies(problem: Problem) -> bool:
    """Whether a model's outputs are logits of classes, of which predictions can be counted."""
    loss = getattr(getattr(problem, "loss", None), "bare", None)
    return isinstance(problem, LogisticRegression) or isinstance(loss, CROSS_ENTROPIES)


@singledispatch
def guesses(problem: Problem, x: np.ndarray) -> tuple[int, int]:
    """How many of a classifier's predictions for the rows here are right, and of how many; local.

    The largest output, or the sign of each.
    """
    raise NotImplementedError


@guesses.register
def _(problem: LogisticRegression, x):
    return problem.right(x, problem.shard), len(problem.shard.y)


@guesses.register
def _(problem: DifferentiableProblem, x):
    right = total = 0
    for rows in (rows for part in problem.parts_here for rows in problem.chunks(part, "float64")):
        output, y = problem.output(x, problem.data.X[rows]), problem.data.y[rows]
        if isinstance(problem.loss.bare, SigmoidCrossEntropy):
            hits = (output > 0) == (y.reshape(output.shape) > 0.5)
        else:
            found = output.argmax(-1)
            distributions = y.ndim == output.ndim and y.shape[-1] == output.shape[-1]
            hits = found == (y.argmax(-1) if distributions else y.reshape(found.shape))
        right, total = right + np.count_nonzero(hits), total + hits.size
    return right, total
