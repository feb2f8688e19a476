"""Train any problem with any optimizer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hesscomp.errors import InputError
from hesscomp.options import option
from hesscomp.parallel.world import World
from hesscomp.workflows.curvature import TRAINED, known_point
from hesscomp.workflows.progress import (
    Progress,
    check_outputs,
    run_folder,
    save_vector,
    silent,
    write,
)
from hesscomp.workflows.subject import HeldOutRequest, ProblemRequest, make_problem

if TYPE_CHECKING:  # what loads TensorFlow
    from hesscomp.optimizers.loop import TrainResult
    from hesscomp.problems.evaluation import Evaluation

FIRST_ORDER = ("sgd", "adam", "adabelief")
NAMES = ("newton", "newton-cg", "hessian-free", "gauss-newton", "drsom", *FIRST_ORDER)
HELP = ("help",)  # settings that ask what settings there are
BATCH = "fraction of the rows drawn for a step's {}; above 1: number of rows"


@dataclass(frozen=True, kw_only=True)
class TrainRequest(ProblemRequest, HeldOutRequest, group="optimizer"):
    """What to train, with which optimizer, how long, and what to write."""

    optimizer: str = option(choices=NAMES, help="the optimizer")
    settings: tuple[str, ...] = option(
        (), flag="--set", metavar="NAME=VALUE",
        help="options of the optimizer, such as damping=10; "
        "`--set help` lists those of `optimizer`",
    )  # fmt: skip
    at: str | None = option(
        None, metavar="zero|initial|sparse|FILE",
        help="the starting values; sparse: 15 incoming weights per unit; default: initial, or zero "
        "for logistic regression",
    )  # fmt: skip
    gradient_batch: float = option(1.0, above=0, metavar="F", help=BATCH.format("gradient"))
    curvature_batch: float = option(1.0, above=0, metavar="F", help=BATCH.format("curvature"))
    acceptance_batch: float = option(1.0, above=0, metavar="F", help=BATCH.format("acceptance"))
    max_steps: int = option(100, low=0, group="stopping", metavar="K", help="stop after K steps")
    tol: float = option(0.0, low=0, group="stopping", metavar="T", help="stop at ||g||_2 <= T")
    target: float | None = option(
        None, group="stopping", metavar="F", help="stop where the objective is at most F"
    )
    max_passes: float | None = option(
        None, above=0, unbounded=True, group="stopping", metavar="P",
        help="stop after P passes over the data",
    )  # fmt: skip
    max_seconds: float | None = option(
        None, above=0, unbounded=True, group="stopping", metavar="S",
        help="stop after S seconds of this call",
    )  # fmt: skip
    run: str | None = run_folder("the history and checkpoints")
    save_every: int | None = option(
        None, low=1, group="output", metavar="K", help="save in `run` every K steps; default: 10"
    )
    evaluate_every: int | None = option(
        None, low=1, group="output", metavar="K",
        help="with batches: steps between evaluations over all rows; default: about one pass",
    )  # fmt: skip
    tensorboard: bool = option(False, group="output", help="write scalars to FOLDER/tensorboard")
    save_point: str | None = option(
        None, group="output", metavar="P.npy", help="write the best point to this file"
    )

    def _check(self) -> None:
        if self.settings == HELP:
            return
        super()._check()
        _parts(self)
        if self.evaluate_every is not None and self.gradient_batch == 1:
            raise InputError(
                "`evaluate_every` goes with `gradient_batch`: else each step evaluates all rows"
            )
        if self.save_every is not None and self.run is None:
            raise InputError("`save_every` goes with `run`")
        batches = self.curvature_batch, self.acceptance_batch
        if self.optimizer in FIRST_ORDER and batches != (1, 1):
            raise InputError(
                f"`curvature_batch` and `acceptance_batch` do not go with {self.optimizer}, which "
                "only takes gradients; leave them out"
            )
        if self.at == TRAINED:
            raise InputError(
                "`at` trained: training must start elsewhere; take zero, initial or sparse"
            )


@dataclass(frozen=True)
class Training:
    """A finished run.

    Attributes
    ----------
    result : TrainResult
    test : Evaluation or None
        The best point's evaluation on test rows, where there are any.
    succeeded : bool
        Whether it reached the gradient norm or the target that was requested; where none was,
        whether it did not diverge.
    """

    result: "TrainResult"
    test: "Evaluation | None"
    succeeded: bool


def train(request: TrainRequest, world: World, progress: Progress = silent) -> Training:
    """Train a problem. Collective.

    `progress` gets the optimizer's options, each row of the history (a dict) at once, and the
    training at the end.

    Raises
    ------
    InputError
        For a problem, a start or an output that cannot be used, or a folder of another run.
    Interrupted
        Where a signal stopped the world; with `request.run` the same request resumes.
    """
    from hesscomp.optimizers.loop import DIVERGED
    from hesscomp.optimizers.loop import train as minimise
    from hesscomp.problems.evaluation import HeldOut

    optimizer, sampling, stopping, saving = _parts(request)
    check_outputs(world, request.save_point)
    with world.ledger.timed("startup"):
        subject = make_problem(request, world, progress)
        x0 = _start(request, subject.problem)
    with world.ledger.timed("compile"):
        subject.problem.compile()
    progress(optimizer.describe())

    def tell(row: dict, x) -> None:
        progress(row)

    with world.ledger.timed("training"):
        result = minimise(
            subject.problem, optimizer, x0, sampling=sampling, stopping=stopping, saving=saving,
            callbacks=(tell,), evaluate_every=request.evaluate_every,
            test=subject.data if request.test is not None else None,
        )  # fmt: skip
    test = result.test
    if test is None and subject.data is not None and subject.data.test is not None:
        test = HeldOut(subject.problem, subject.data)(result.best)  # those of a named data set
    asked = request.tol > 0 or request.target is not None
    succeeded = result.status != DIVERGED and (result.converged or not asked)
    training = Training(result, test, succeeded)
    progress(training)
    write(world, progress, "point", request.save_point, save_vector(result.best))
    return training


def _parts(request: TrainRequest):
    """Return the checked optimizer, its batches, when it stops, and what it saves."""
    from hesscomp.optimizers.batches import Sampling
    from hesscomp.optimizers.catalogue import make_optimizer
    from hesscomp.optimizers.loop import Saving, Stopping

    optimizer = make_optimizer(request.optimizer, list(request.settings))
    batches = request.gradient_batch, request.curvature_batch, request.acceptance_batch
    sampling = Sampling(*batches, request.seed)
    limits = {
        name: getattr(request, name)
        for name in ("target", "max_passes", "max_seconds")
        if getattr(request, name) is not None
    }
    stopping = Stopping(request.max_steps, request.tol, **limits)
    saving = Saving(request.run, request.save_every or Saving.every, request.tensorboard)
    for part in (optimizer, sampling, stopping, saving):
        part.validate()
    return optimizer, sampling, stopping, saving


def _start(request: TrainRequest, problem):
    if request.at == "sparse":
        from hesscomp.optimizers.initial import sparse_initial

        return sparse_initial(problem.blocks, request.seed)
    return known_point(request.at, problem)
