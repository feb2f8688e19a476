"""Train any problem with any optimizer."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hesscomp.errors import InputError
from hesscomp.optimizers import optimizer_names
from hesscomp.optimizers.options import Sampling, Saving, Stopping
from hesscomp.optimizers.schedules import EXAMPLE, USED
from hesscomp.options import option, option_of, values
from hesscomp.parallel.world import World
from hesscomp.problems.capabilities import KERAS_MODEL, PICTURE
from hesscomp.runs.report import PICTURE_FILE, write_json
from hesscomp.workflows.curvature import TRAINED, known_point, read_ordering
from hesscomp.workflows.progress import (
    Checkpoints,
    Progress,
    check_outputs,
    save_vector,
    silent,
    write,
)
from hesscomp.workflows.subject import HeldOutRequest, ProblemRequest, Subject, make_problem

if TYPE_CHECKING:  # what loads TensorFlow
    from hesscomp.optimizers.loop import TrainResult
    from hesscomp.problems.evaluation import Evaluation
    from hesscomp.problems.solution import Distance

HELP = ("help",)  # settings that ask what settings there are


@dataclass(frozen=True, kw_only=True)
class TrainRequest(
    ProblemRequest, HeldOutRequest, Sampling, Stopping, Checkpoints, group="optimizer"
):
    """What to train, with which optimizer, how long, and what to write."""

    optimizer: str = option(choices=optimizer_names(), help="the optimizer")
    settings: tuple[str, ...] = option(
        (), flag="--set", metavar="NAME=VALUE",
        help="options of the optimizer, such as damping=10; "
        "`--set help` lists those of `optimizer`",
    )  # fmt: skip
    learning_rate: str | None = option(
        None, metavar="R|SCHEDULE",
        help=f"of first-order optimizers: a number, or a schedule ({', '.join(USED)}) such as "
        f"{EXAMPLE}",
    )  # fmt: skip
    at: str | None = option(
        None, metavar="zero|initial|sparse|FILE",
        help="the starting values; sparse: 15 incoming weights per unit; default: initial, or zero "
        "for logistic regression",
    )  # fmt: skip
    evaluate_every: int | None = option(
        None, low=1, group="output", metavar="K", advanced=True,
        help="with batches: steps between evaluations over all rows; default: about one pass",
    )  # fmt: skip
    tensorboard: bool = option_of(Saving, "tensorboard")
    save_point: str | None = option(
        None, also="--out", group="output", metavar="P.npy|M.keras",
        help="write the best point to this file; a name that ends in .keras: the model with it",
    )  # fmt: skip

    def _check(self) -> None:
        if self.settings == HELP:
            return
        super()._check()
        optimizer, _ = _parts(self)
        if self.evaluate_every is not None and self.gradient == 1:
            raise InputError(
                "`evaluate_every` goes with `gradient`: else each step evaluates all rows"
            )
        if self.patience is not None and self.test is None:
            raise InputError("`patience` goes with `test`: name the file of the test rows")
        if optimizer.gradients_only and (self.curvature, self.acceptance) != (1, 1):
            raise InputError(
                f"`curvature` and `acceptance` do not go with {self.optimizer}, which "
                "only takes gradients; leave them out"
            )
        if self.at == TRAINED:
            raise InputError(
                "`at` trained: training must start elsewhere; take zero, initial or sparse"
            )


@dataclass(frozen=True)
class Training:
    """A finished run.

    It succeeded if it reached the gradient norm or the target that was requested; where none was,
    if it did not diverge.
    """

    result: "TrainResult"
    test: "Evaluation | Distance | None"  # of the best point, with test rows or a known solution
    succeeded: bool


def train(
    request: TrainRequest,
    world: World,
    progress: Progress = silent,
    subject: Subject | None = None,
) -> Training:
    """Train a problem. Collective.

    `progress` gets the optimizer's options, each row of the history (a dict) at once, and the
    training at the end. `subject` is the problem, where the caller has it already.

    Raises
    ------
    InputError
        For a problem, a start or an output that cannot be used, or a folder of another run.
    Interrupted
        Where a signal stopped the world; with `request.run` the same request resumes.
    """
    from hesscomp.optimizers.loop import DIVERGED
    from hesscomp.optimizers.loop import train as minimise
    from hesscomp.optimizers.preconditioners import Refreshed
    from hesscomp.problems.evaluation import HeldOut, rows_or_solution

    optimizer, saving = _parts(request)
    if isinstance(optimizer, Refreshed) and optimizer.ordering is not None:
        optimizer = replace(optimizer, ordering=read_ordering(optimizer.ordering, world))
    sampling = Sampling(**values(request, Sampling))
    check_outputs(world, request.save_point)
    with world.ledger.timed("startup"):
        subject = subject or make_problem(request, world, progress)
        x0 = _start(request, subject.problem)
        if _names_model(request.save_point):
            subject.problem.require(KERAS_MODEL)
    with world.ledger.timed("compile"):
        subject.problem.compile()
    progress(optimizer.describe())

    def tell(row: dict, x) -> None:
        progress(row)

    test_rows = None if request.test is None else subject.data
    with world.ledger.timed("training"):
        result = minimise(
            subject.problem, optimizer, x0, sampling=sampling, stopping=request, saving=saving,
            callbacks=(tell,), evaluate_every=request.evaluate_every,
            test=rows_or_solution(subject.problem, test_rows),
        )  # fmt: skip
    subject.problem.warn_without_minimum(result.best)
    test = result.test
    if test is None and subject.data is not None and subject.data.test is not None:
        test = HeldOut(subject.problem, subject.data)(result.best)  # those of a named data set
    asked = request.gradient_tolerance > 0 or request.target is not None
    succeeded = result.status != DIVERGED and (result.converged or not asked)
    training = Training(result, test, succeeded)
    progress(training)
    if request.run is not None and subject.problem.can(PICTURE):
        picture = subject.problem.picture(result.best)
        folder = Path(request.run) / PICTURE_FILE
        write(world, progress, "solution", folder, lambda path: write_json(path, picture))
    what, writer = "point", save_vector(result.best)
    if _names_model(request.save_point):
        what, writer = "model", lambda path: subject.problem.save_model(path, result.best)
    write(world, progress, what, request.save_point, writer)
    return training


def _names_model(path: str | None) -> bool:
    return path is not None and path.endswith(".keras")


def _parts(request: TrainRequest):
    """Return the optimizer and what the run saves."""
    from hesscomp.optimizers.catalogue import make_optimizer

    saving = Saving(request.run, request.save_every or Saving.every, request.tensorboard)
    rate = () if request.learning_rate is None else (f"learning_rate={request.learning_rate}",)
    return make_optimizer(request.optimizer, (*request.settings, *rate)), saving


def _start(request: TrainRequest, problem):
    if request.at == "sparse":
        from hesscomp.optimizers.initial import sparse_initial

        return sparse_initial(problem.parameter_blocks, request.seed)
    return known_point(request.at, problem)
