"""What an optimizer sees of a problem in one step: three batches, and what their use costs."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hesscomp.curvature.gauss_newton import GaussNewtonOperator
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.errors import InputError
from hesscomp.operators.operator import Operator
from hesscomp.optimizers.acceptance import Search, backtrack
from hesscomp.optimizers.options import ACCEPTANCE, CURVATURE, GRADIENT, Sampling
from hesscomp.optimizers.rows import GaussNewtonRows
from hesscomp.parallel.ledger import Ledger
from hesscomp.parallel.world import World
from hesscomp.problems.capabilities import HESSIAN_DIAGONAL, MARGINS, REDRAWING
from hesscomp.problems.problem import Problem

TRIALS = 4  # objectives along a line that moved margins give at once


class HessianDiagonal:
    """The diagonal of a problem's Hessian at a point, and its trace, without the ridge.

    Each is computed when it is first asked for, of the margins at the point where those are known.
    Collective.
    """

    def __init__(self, problem: Problem, x: np.ndarray, margins=None):
        self._problem, self._x, self._margins = problem, x, margins

    @cached_property
    def values(self) -> np.ndarray:
        if self._margins is None:
            return self._problem.hessian_diagonal(self._x)
        return self._problem.hessian_diagonal_at(self._x, self._margins)

    @cached_property
    def trace(self) -> float:
        known = self._problem.hessian_trace(self._x, self._margins)
        return float(self.values.sum()) if known is None else known


def kept(x: np.ndarray) -> np.ndarray:
    """Return a point as it is now: itself where nobody may change it."""
    return x.copy() if x.flags.writeable else x


def _are_equal(x: np.ndarray, y: np.ndarray) -> bool:
    """Return whether two points are one; a few numbers are compared first, as most are not."""
    return x is y or (np.array_equal(x[:8], y[:8]) and np.array_equal(x, y))


class View:
    """A problem or a batch of it, whose `share` of all rows it has.

    It counts in its `ledger` what is computed, lists the objectives in `tried`, and keeps the last
    values; where it `keeps_margins`, also those at the last point, so that lines can move them.
    Where it `keeps_rows`, values at a point are made of the rows of its Gauss-Newton matrix there.
    """

    def __init__(
        self, problem: Problem, share: float = 1.0, keeps_margins: bool = False,
        keeps_rows: bool = False,
    ):  # fmt: skip
        self.ledger, self.share = Ledger(), share
        self.keeps_margins, self.keeps_rows = keeps_margins, keeps_rows
        self.tried: list[float] = []
        self.problem = copy.copy(problem)
        self.problem.world = problem.world.with_ledger(self.ledger)
        self._known: list[tuple[np.ndarray, tuple[float, np.ndarray]]] = []
        self._margins: tuple[np.ndarray, object] | None = None
        self._rows: GaussNewtonRows | None = None

    def know(self, x: np.ndarray, objective: float, gradient: np.ndarray) -> None:
        """Keep the values at x, and those at the point before it."""
        self._known = [(kept(x), (objective, gradient)), *self._known[:1]]

    def _recall(self, x: np.ndarray) -> tuple[float, np.ndarray] | None:
        return next((values for point, values in self._known if _are_equal(point, x)), None)

    def objective_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return f(x) and its gradient; free at the last two points where both were requested."""
        values = self._recall(x)
        if values is None:
            if self.keeps_margins:
                values = self.problem.evaluate(x, self.margins(x))
            elif self.keeps_rows:
                values = self.rows_at(x).objective_and_gradient()
            else:
                values = self.problem.objective_and_gradient(x)
            self.tried.append(values[0])
            self.know(x, *values)
        return values

    def objective(self, x: np.ndarray) -> float:
        """Return f(x); free where `objective_and_gradient` is."""
        values = self._recall(x)
        if values is not None:
            return values[0]
        self.tried.append(self.problem.objective(x))
        return self.tried[-1]

    def rows_at(self, x: np.ndarray) -> GaussNewtonRows:
        """Return the rows of the Gauss-Newton matrix at x; free at the last such point."""
        if self._rows is None or not _are_equal(self._rows.x, x):
            self._rows = None  # before there are others
            self._rows = GaussNewtonRows(self.problem, x)
        return self._rows

    @property
    def rows_here(self) -> tuple[int, int]:
        """The first of this rank's rows and one past the last; 0, 0 where no margins are kept."""
        if not self.keeps_margins:
            return 0, 0
        shard = self.problem.shard
        return shard.start, shard.start + len(shard.y)

    def margins(self, x: np.ndarray):
        """Return the margins at x of this rank's rows; free at the last such point."""
        if self._margins is not None and _are_equal(self._margins[0], x):
            return self._margins[1]
        self.keep_margins(x, margins := self.problem.margins(x))
        return margins

    def keep_margins(self, x: np.ndarray, margins) -> None:
        """Take these for the margins at x, in place of those at the point before."""
        self._margins = kept(x), margins

    def hessian(self, x: np.ndarray) -> Operator:
        """Return the Hessian of the data term at x, without the ridge."""
        shard = self.problem.curvature_at(self.margins(x)) if self.keeps_margins else None
        return HessianOperator(self.problem, x, shard)

    def diagonal_of(self, x: np.ndarray) -> HessianDiagonal | None:
        """Return the diagonal of `hessian`; None where a problem does not know it."""
        if not (self.problem.psd and self.problem.can(HESSIAN_DIAGONAL)):
            return None
        return HessianDiagonal(self.problem, x, self.margins(x) if self.keeps_margins else None)

    def gauss_newton(self, x: np.ndarray) -> Operator:
        """Return the Gauss-Newton matrix of the data term at x, without the ridge.

        It is the Hessian where that is always positive semidefinite, as for generalised linear
        models.
        """
        return self.hessian(x) if self.problem.psd else GaussNewtonOperator(self.problem, x)

    def flush_costs(self) -> Ledger:
        """Return the costs since the last call, and count from zero again."""
        used = copy.copy(self.ledger)
        used.seconds = dict(used.seconds)
        Ledger.__init__(self.ledger, listener=self.ledger.listener)
        return used


@dataclass
class Task:
    """One step's work.

    Attributes
    ----------
    step : int
        Counted from 0; with the seed it names all random numbers of the step.
    x : (n,) array
    batches : Batches
    known : tuple, optional
        Objective and gradient at x, if they need not be computed.
    goal : float
        The gradient norm at which the run ends; 0 if nothing says it.
    objective, gradient : float, (n,) array
        Those of the gradient batch at x, ridge included.
    full : float
        The objective over all rows at x; NaN until it is known.
    """

    step: int
    x: np.ndarray
    batches: "Batches" = field(repr=False)
    known: tuple | None = field(default=None, repr=False)
    goal: float = 0.0

    def __post_init__(self):
        if self.known is not None:
            self.gradient_batch.know(self.x, *self.known[:2])
        with self.world.ledger.timed("gradient"):
            self.objective, self.gradient = self.gradient_batch.objective_and_gradient(self.x)
        self.gradient_norm, self.full = float(np.linalg.norm(self.gradient)), np.nan

    @property
    def world(self) -> World:
        return self.batches.problem.world

    @property
    def ridge(self) -> float:
        return self.batches.problem.ridge

    def regularized(self, matrix: Operator, damping: float = 0.0) -> Operator:
        """Return a curvature matrix with the problem's ridge, and with a damping."""
        return self.batches.problem.regularized(matrix, damping)

    @cached_property
    def gradient_batch(self) -> View:
        return self.batches.view(GRADIENT, self.step)

    @cached_property
    def curvature_batch(self) -> View:
        return self.batches.view(CURVATURE, self.step)

    @cached_property
    def acceptance_batch(self) -> View:
        return self.batches.view(ACCEPTANCE, self.step)

    @property
    def whole(self) -> bool:
        """Whether gradient and acceptance use all rows: objectives of steps can be compared."""
        return self.batches.whole

    @cached_property
    def value(self) -> float:
        """The acceptance batch's objective at x."""
        return self.trial(self.x)

    def trial(self, x: np.ndarray) -> float:
        """Return the acceptance batch's objective at a point that is likely to be the next one.

        Where the gradient uses the same rows, it is computed too and kept for the next step.
        """
        view = self.acceptance_batch
        return view.objective_and_gradient(x)[0] if self.whole else view.objective(x)

    def line(self, direction: np.ndarray) -> "Line":
        """Return the line x + t direction, for a search along it."""
        kind = MarginLine if self.batches.full.keeps_margins else Line
        return kind(self, direction)


class Line:
    """The points x + t d that a step chooses from; `slope` is the objective's, at t = 0."""

    at_once = 1  # how many objectives along it take one reduction together

    def __init__(self, task: Task, direction: np.ndarray):
        self.task, self.direction = task, direction
        self.slope = float(task.gradient @ direction)

    def search(self, **rules) -> Search:
        """Find the first t of sufficient decrease, by the rules of `backtrack`."""
        task = self.task
        return backtrack(
            self.objectives, task.value, self.slope, task.world, at_once=self.at_once, **rules
        )

    def objectives(self, lengths: np.ndarray) -> Sequence[float] | np.ndarray:
        """Return the acceptance batch's objectives at some t."""
        return [self.task.trial(self.task.x + length * self.direction) for length in lengths]

    def end(self, length: float) -> np.ndarray:
        """Return the point at t, where the step ends."""
        return self.task.x + length * self.direction


class MarginLine(Line):
    """A line along which margins are moved: one pass over the data serves all objectives on it.

    At the first length, where the line mostly ends, also the gradient is computed, by another
    pass: the next step needs it. Further objectives take no pass, and several of them one reduction
    of as many words. The points may not be changed: they are kept without copies.
    """

    at_once = TRIALS

    def __init__(self, task: Task, direction: np.ndarray):
        super().__init__(task, direction)
        self.view = task.gradient_batch
        self.margins, self.along = self.view.margins(task.x), self.view.problem.margins(direction)
        self._last: tuple[float, np.ndarray] | None = None  # the last length's point

    def objectives(self, lengths: np.ndarray) -> Sequence[float] | np.ndarray:
        if len(lengths) == 1 and self._last is None:
            return [self.task.trial(self.end(lengths[0]))]
        x, d, problem = self.task.x, self.direction, self.view.problem
        losses = problem.losses_along(self.margins, self.along, lengths)
        xx, xd, dd = problem.ridge_term(x), problem.ridge_term(x, d), problem.ridge_term(d)
        values = losses + xx + 2 * lengths * xd + lengths**2 * dd
        self.view.tried.extend(values)
        return values

    def end(self, length: float) -> np.ndarray:
        if self._last is None or self._last[0] != length:
            x = super().end(length)
            x.setflags(write=False)
            self.view.keep_margins(x, self.margins + length * self.along)
            self._last = length, x
        return self._last[1]


class Batches:
    """The batches of all steps over one problem, and the sum of what they cost.

    Attributes
    ----------
    whole : bool
        Whether gradients and acceptance use all rows. Only then margins are kept, where the problem
        has some and the optimizer wants them.
    full : View
        All rows.
    passes, columns : float
        Passes over the data and product columns so far, a batch's weighted by its share.
    work : float
        The passes where every product column costs one.
    words : float
        Reduced so far.
    """

    def __init__(
        self, problem: Problem, sampling: Sampling, keeps_margins: bool = False,
        keeps_rows: bool = False,
    ):  # fmt: skip
        gradient, curvature, acceptance = (
            sampling.share(purpose, problem.rows) for purpose in (GRADIENT, CURVATURE, ACCEPTANCE)
        )
        self.problem, self.sampling = problem, sampling
        self.redraws = problem.can(REDRAWING)
        if self.redraws and sampling != Sampling(seed=sampling.seed):
            raise InputError(
                f"{problem.name} draws its points anew in each step; take no batches of them"
            )
        self.whole = gradient == acceptance == 1 and not self.redraws
        keeps_margins = keeps_margins and self.whole and problem.can(MARGINS)
        self.keeps_rows = keeps_rows and gradient == curvature == 1
        self.full = View(
            problem, keeps_margins=keeps_margins, keeps_rows=self.keeps_rows and not self.redraws
        )
        self.passes = self.columns = self.work = self.words = 0.0
        self._open = [self.full]
        self._drawn: tuple[int, View] | None = None  # the last step's, of points that are redrawn

    def view(self, purpose: int, step: int) -> View:
        """Return the batch of one purpose in one step.

        Of points that are redrawn in each step one serves all purposes; all rows are those that the
        problem was made with.
        """
        if self.redraws:
            if self._drawn is None or self._drawn[0] != step:
                self._drawn = step, View(self.problem.redrawn(step), keeps_rows=self.keeps_rows)
                self._open.append(self._drawn[1])
            return self._drawn[1]
        share = self.sampling.share(purpose, self.problem.rows)
        if share == 1:
            return self.full
        seed = np.random.SeedSequence([self.sampling.seed, purpose, step])
        batch = self.problem.sampled(share, int(seed.generate_state(1, np.uint64)[0]))
        if purpose == GRADIENT:  # the sample's error is far above that of rounding
            batch.gradient_dtype = batch.dtype
        self._open.append(View(batch, share))
        return self._open[-1]

    def flush_costs(self) -> None:
        """Add what the views have cost to the totals and to the problem's ledger."""
        for view in self._open:
            used = view.flush_costs()
            self.passes += view.share * used.passes
            self.columns += view.share * used.columns
            self.work += view.share * (used.passes + used.extra_columns)
            self.words += used.words_reduced
            self.problem.world.ledger.add(used)
            view.tried.clear()
        self._open = [self.full]
        if self._drawn is not None:
            self._open.append(self._drawn[1])

    @property
    def tried(self) -> list[float]:
        """The objectives that were computed since the costs were flushed."""
        return [value for view in self._open for value in view.tried]
