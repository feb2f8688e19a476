"""Natural gradient: Gauss-Newton steps solved exactly, with a tiny damping and a grid line search.

Müller and Zeinhofer, "Achieving high accuracy with PINNs via energy natural gradient descent" (ICML
2023); the kernel form and the momentum are those of SPRING (Goldshlager, Abrahamsen and Lin,
Journal of Computational Physics 516, 2024).
"""

import logging
from dataclasses import KW_ONLY, dataclass
from functools import partial

import numpy as np
import scipy.linalg

from hesscomp.compression import FORMATS
from hesscomp.compression.formats import LOW_RANK
from hesscomp.errors import NumericalError
from hesscomp.factors.factor import Factor
from hesscomp.krylov.cg import conjugate_gradients
from hesscomp.operators.operator import Operator
from hesscomp.optimizers.acceptance import ROUNDING
from hesscomp.optimizers.batches import Task
from hesscomp.optimizers.optimizer import Outcome, State
from hesscomp.optimizers.preconditioners import HORIZON, Refreshed
from hesscomp.optimizers.rows import GaussNewtonRows, StreamedRows
from hesscomp.options import option
from hesscomp.parallel.cholesky import cholesky
from hesscomp.parallel.gram import gram_matrix
from hesscomp.problems.capabilities import GAUSS_NEWTON_ROWS
from hesscomp.problems.problem import Problem

log = logging.getLogger(__name__)
SQUARES, OTHERS = 1e-12, 1e-8  # least dampings, where none is given
FIRST = 1e8  # times the least damping, that of the first step
STEADY, RATE = 4, 4.0  # the damping grows by RATE^(k - STEADY) where a step's length is 2^-k
JITTER = 10.0  # by which the damping grows where a matrix has no Cholesky factor
TRIES = 12
KERNEL, ROWS, STREAMED, MATRIX, CG = "kernel", "rows", "streamed rows", "matrix", "cg"


@dataclass(frozen=True)
class NaturalGradient(Refreshed):
    """(G + (ridge + lambda) I) d = -g, G the Gauss-Newton matrix; then the best length t = 2^-k.

    For least squares G = R^T R, with R the Jacobian of the m residuals r. Where m < n this is
    solved by the Gram matrix (kernel form): d = -R^T (R R^T + lambda I)^-1 r. Else G is made whole
    (parameter form). Both go by Cholesky's factorization. Where m and n are above `direct`, by CG,
    preconditioned by a factor of G, and G is never made.

    The step of least squares follows a curve: x + t d + t^2 / 2 a, with a the solution for the
    residuals' second derivative along d in the place of r. This "geodesic acceleration" (Transtrum
    and Sethna, arXiv:1201.5885) costs the residuals once more and a solve; measured, with a tiny
    damping it lets steps be long to the end, and pays where points are redrawn too. CG goes
    without.

    lambda is at least `damping` times the mean eigenvalue of G that is not zero by its shape, and
    10^8 times this at first. It is multiplied by 4^(k - 4) after a step of length 2^-k: it falls
    until steps are short, and grows only where they are very short. In a step whose matrix has no
    Cholesky factor it grows by tens. (Measured: dampings with which steps have full length, or
    which lower the objective most in one step, end far higher.)

    Notes
    -----
    A step costs the rows' gradients, of which that of least squares is made,
    m n min(m, n) + min(m, n)^3 / 3 operations that the ranks share, and about four objectives.
    Memory: m n / P numbers and min(m, n)^2. Reduced: min(m, n)^2 words. Any problem with a
    Gauss-Newton matrix serves; the kernel form needs one of least squares without regularisers, and
    all rows in each batch.
    InputError from a problem that has no Gauss-Newton matrix.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import hesscomp as hc
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> data = np.eye(2), np.array([1.0, 2.0])
    >>> found = hc.train(model, hc.NaturalGradient(), "squared-error", data, max_steps=2)
    >>> found.best_objective < 1e-9
    True
    """

    damping: float | None = option(
        None, above=0,
        help="least lambda, as a share of the mean eigenvalue of the matrix; default: "
        f"{SQUARES:g} for least squares of the same rows in each step, else {OTHERS:g}",
    )  # fmt: skip
    momentum: float = option(
        0.0, low=0, below=1,
        help="share of the last step from which the next is damped, as in SPRING; 0: from no step",
    )  # fmt: skip
    halvings: int = option(40, low=1, help="largest k of the line search over lengths 2^-k")
    direct: int = option(
        10_000, low=1, help="number of parameters, and of residuals, above which CG solves"
    )
    preconditioner: str | Factor = option(
        LOW_RANK, choices=tuple(FORMATS),
        help="format of the factor that preconditions CG; in Python also a factor",
    )  # fmt: skip
    _: KW_ONLY
    forcing: float = option(1e-3, above=0, below=1, help="relative residual of CG")
    max_cg: int = option(500, low=1, help="most CG iterations of a step")
    name = "natural-gradient"

    def start(self, x):
        return {
            "halvings": 0, "previous": np.zeros_like(x), "caution": FIRST,
            **self.first_factor(len(x)),
        }  # fmt: skip

    def recover(self, state):
        caution = min(100 * state["caution"], 1e9 / (self.damping or SQUARES))
        return {**state, "caution": caution, "previous": np.zeros_like(state["previous"])}

    def keeps_rows(self, problem):
        form = self._form(problem, _count(problem), True)
        return _is_least_squares(problem) and form in (KERNEL, ROWS)

    def _form(self, problem: Problem, count: int, whole: bool) -> str:
        """Return by what systems are solved; `whole` says that the gradient is of the same rows."""
        n = problem.n
        few = count < n and count <= self.direct and problem.penalized == slice(None)
        if whole and few and _is_least_squares(problem):
            return KERNEL
        if n > self.direct:
            return CG
        if not problem.can(GAUSS_NEWTON_ROWS):
            return MATRIX
        held = np.dtype(float).itemsize * count * n / problem.world.size
        return STREAMED if held > problem.memory and not problem.world.reproducible else ROWS

    def step(self, task: Task, state: State) -> Outcome:
        batch, caution = task.curvature_batch, state["caution"]
        problem = batch.problem
        squares, count = _is_least_squares(problem), _count(problem)
        form = self._form(problem, count, batch is task.gradient_batch)
        fixed = batch is task.batches.full  # which points that are redrawn never are
        least = self.damping or (SQUARES if squares and fixed else OTHERS)
        kept = self.momentum * state["previous"]
        system = _System(task, least * caution, kept, count)
        bend, costs = np.zeros_like(task.x), {"cg_iterations": 0.0, "sketch_columns": 0.0}
        if form == KERNEL:
            direction, bend, damping = system.by_kernel(batch.rows_at(task.x))
        elif form == ROWS:
            direction, bend, damping = system.by_rows(batch.rows_at(task.x))
        elif form == STREAMED:
            direction, bend, damping = system.by_rows(StreamedRows(problem, task.x))
        elif form == MATRIX:
            direction, damping = system.by_matrix(batch.gauss_newton(task.x).to_dense())
        else:
            matrix = batch.gauss_newton(task.x)
            direction, damping, state, costs = self._by_cg(task, system, matrix, state)
        if self.preconditioner != LOW_RANK and not costs["cg_iterations"]:
            self._say_unused(task)
        if not task.world.decide(bool(np.isfinite(bend).all())):
            bend = np.zeros_like(bend)
        length, k = self._search(task, direction, bend, int(state["halvings"]))
        exponent = k - STEADY if length else STEADY
        step = length * direction + length**2 / 2 * bend if length else np.zeros_like(direction)
        following = {
            **state, "halvings": k, "previous": step,
            "caution": min(max(caution * RATE**exponent, 1.0), 1 / least),
        }  # fmt: skip
        values = {"step_length": length, "damping": damping, **costs}
        return Outcome(task.x + step, following, values, stuck=length == 0)

    def _say_unused(self, task: Task) -> None:
        if task.world.rank == 0 and task.step == 0:
            log.warning(
                "natural-gradient: the preconditioner is not used, since systems of at most %d "
                "unknowns are solved directly; a smaller `direct` lets CG solve them", self.direct,
            )  # fmt: skip

    def _by_cg(self, task: Task, system: "_System", matrix: Operator, state: State):
        """Return the direction, lambda, the state with the factor, and what it cost."""
        factor, sketched = self.current_factor(matrix, state, HORIZON)
        damping = system.share * max(factor.trace(), 0.0) / min(matrix.n, system.rows)
        shift, b = system.ridge + damping, system.right_side(damping)
        norm = float(np.linalg.norm(b))
        solved = conjugate_gradients(
            task.regularized(matrix, damping), b, tolerance=self.forcing * norm,
            preconditioner=factor.preconditioner(shift), max_iterations=self.max_cg,
        )  # fmt: skip
        solve = solved.iterations, norm, solved.residual_norm
        state = {**state, **self.served(state, factor, sketched, solve)}
        costs = {"cg_iterations": float(solved.iterations), "sketch_columns": float(sketched)}
        return solved.x, damping, state, costs

    def _search(
        self, task: Task, direction: np.ndarray, bend: np.ndarray, start: int
    ) -> tuple[float, int]:
        """Return t = 2^-k, 0 for none, where the objective ends falling along the curve, and k.

        From the k of the last step on, up and down the grid. A first length may raise the objective
        by its rounding.
        """
        view, decide = task.acceptance_batch, task.world.decide
        found: dict[int, float] = {}

        def lower(k: int, than: float) -> bool:
            if k not in found:
                t = 2.0**-k
                found[k] = view.objective(task.x + t * direction + t**2 / 2 * bend)
            return decide(found[k] < than)

        k, level = min(start, self.halvings), task.value + ROUNDING * abs(task.value)
        while not lower(k, level):
            k += 1
            if k > self.halvings:
                return 0.0, 0
        first = k
        while k > 0 and lower(k - 1, found[k]):
            k -= 1
        while k == first and k < self.halvings and lower(k + 1, found[k]):
            k = first = k + 1
        return 2.0**-k, k


def _is_least_squares(problem: Problem) -> bool:
    return problem.can(GAUSS_NEWTON_ROWS) and problem.least_squares


def _count(problem: Problem) -> int:
    """Return a bound of the rank of the Gauss-Newton matrix, by its rows. Collective."""
    return problem.gauss_newton_count if problem.can(GAUSS_NEWTON_ROWS) else problem.rows


class _System:
    """(G + (ridge + lambda) I) d = -g + lambda p, with p what d is damped from.

    `rows` bounds the rank of G, and `share` is what lambda is of its mean eigenvalue.
    """

    def __init__(self, task: Task, share: float, kept: np.ndarray, rows: int):
        self.task, self.share, self.kept, self.rows = task, share, kept, rows
        self.world, self.ridge = task.world, task.ridge

    def right_side(self, damping: float) -> np.ndarray:
        return damping * self.kept - self.task.gradient

    def by_kernel(self, rows: GaussNewtonRows) -> tuple[np.ndarray, np.ndarray, float]:
        """Solve for least squares in the space of the residuals; return d, its bend, and lambda."""
        m = rows.problem.rows
        with self.world.ledger.timed("gram"):
            K = gram_matrix(rows.whole(), self.world)  # m times the kernel
        damping, solve = self._factored(K, m * self.ridge)
        damping /= m
        shift = self.ridge + damping

        def pulled(residuals: list[np.ndarray]) -> np.ndarray:
            return rows.transposed(rows.split(solve(m * rows.gathered(residuals))))

        # Half |R d + r|^2 / m + ridge |x + d|^2 + damping |d - p|^2, d = centre + R^T z.
        centre = (damping * self.kept - self.ridge * self.task.x) / shift
        along = rows.residuals
        if centre.any():
            along = [r + moved for r, moved in zip(along, rows.along(centre), strict=True)]
        direction = centre - pulled(along)
        return direction, -pulled(rows.bends(direction)), damping

    def by_rows(self, rows: GaussNewtonRows | StreamedRows) -> tuple[np.ndarray, np.ndarray, float]:
        """Solve in the space of the parameters, G made of its rows; return as `by_kernel`."""
        direction, damping = self.by_matrix(rows.matrix())
        if not rows.problem.least_squares:
            return direction, np.zeros_like(direction), damping
        return direction, -self.solve(rows.pulled_bends(direction)), damping

    def by_matrix(self, G: np.ndarray) -> tuple[np.ndarray, float]:
        """Solve in the space of the parameters."""
        damping, self.solve = self._factored(G, self.task.batches.problem.ridge_diagonal())
        return self.solve(self.right_side(damping)), damping

    def _factored(self, K: np.ndarray, ridge: float | np.ndarray):
        """Return lambda, and the solver with K + lambda I and a ridge, for which K is changed."""
        mean = float(np.trace(K)) / max(min(len(K), self.rows), 1)
        if not np.isfinite(mean):
            raise NumericalError("the Gauss-Newton matrix holds numbers that are not finite")
        damping, places = self.share * mean if mean > 0 else self.share, np.diag_indices_from(K)
        diagonal = K[places] + ridge
        for _ in range(TRIES):
            K[places] = diagonal + damping
            try:
                factor = cholesky(K, self.world)
            except np.linalg.LinAlgError:
                damping *= JITTER
            else:
                # Of its transpose, whose columns lie in memory as LAPACK wants them.
                whole = factor.T, False
                return damping, partial(scipy.linalg.cho_solve, whole, check_finite=False)
        raise NumericalError(
            f"the Gauss-Newton matrix has no Cholesky factor with a damping of {damping:g}"
        )
