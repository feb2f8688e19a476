"""`hesscomp train`: any optimizer on any problem."""

import argparse
import math
import time

from hesscomp.cli.curvature import known_point, save_vector
from hesscomp.cli.interruption import add_run_argument
from hesscomp.cli.options import add_problem_arguments, check_subject
from hesscomp.cli.session import Session
from hesscomp.cli.subject import add_subject_arguments, load_subject
from hesscomp.errors import InputError

HEADER = f"{'step':>6} {'objective':>16} {'||gradient||':>13} {'passes':>10} {'seconds':>8}"
INTERVAL = 0.5  # seconds between two rows that are shown
FIRST_ORDER = ("sgd", "adam", "adabelief")
NAMES = ("newton", "newton-cg", "hessian-free", "gauss-newton", "drsom", *FIRST_ORDER)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject_arguments(parser, test=True)
    method = parser.add_argument_group("optimizer")
    method.add_argument("--optimizer", choices=NAMES, required=True)
    method.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE",
        help="its options, such as damping=10; `--set help` shows them with their defaults",
    )  # fmt: skip
    method.add_argument(
        "--at", metavar="zero|initial|sparse|FILE",
        help="the start; sparse: 15 incoming weights a unit; default: initial, zero for logistic",
    )  # fmt: skip
    for purpose in ("gradient", "curvature", "acceptance"):
        method.add_argument(
            f"--{purpose}-batch", type=float, default=1.0, metavar="F",
            help="share of the rows that a step draws for it, or above 1 a number of rows",
        )  # fmt: skip
    stop = parser.add_argument_group("stopping")
    stop.add_argument("--max-steps", type=int, default=100, metavar="K")
    stop.add_argument("--tol", type=float, default=0.0, metavar="T", help="stop at ||g||_2 <= T")
    stop.add_argument("--target", type=float, metavar="F", help="stop at this objective")
    stop.add_argument("--max-passes", type=float, metavar="P", help="over the data")
    stop.add_argument("--max-seconds", type=float, metavar="S")
    add_problem_arguments(stop, "0, logistic regression 1e-3")
    output = parser.add_argument_group("output")
    add_run_argument(output, "history and checkpoints")
    output.add_argument(
        "--save-every", type=int, metavar="K", help="with --run: steps; default: 10"
    )
    output.add_argument(
        "--evaluate-every", type=int, metavar="K",
        help="steps between objectives over all rows, with batches; default: about a pass",
    )  # fmt: skip
    output.add_argument("--tensorboard", action="store_true", help="scalars in FOLDER/tensorboard")
    output.add_argument("--save-point", metavar="P.npy", help="write the best point, one array")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    if options.set != ["help"]:
        check_subject(options)
        _request(options)


def _request(options):
    """The optimizer, its batches, when it stops and what it saves."""
    from hesscomp.optimizers.batches import Sampling
    from hesscomp.optimizers.catalogue import make_optimizer
    from hesscomp.optimizers.loop import Saving, Stopping

    optimizer = make_optimizer(options.optimizer, options.set)
    sampling = Sampling(
        options.gradient_batch, options.curvature_batch, options.acceptance_batch, options.seed
    )
    limits = {
        name: getattr(options, name)
        for name in ("target", "max_passes", "max_seconds")
        if getattr(options, name) is not None
    }
    stopping = Stopping(options.max_steps, options.tol, **limits)
    every = Saving.every if options.save_every is None else options.save_every
    saving = Saving(options.run, every, options.tensorboard)
    for part in (optimizer, sampling, stopping, saving):
        part.validate()
    if options.evaluate_every is not None and options.gradient_batch == 1:
        raise InputError("--evaluate-every goes with --gradient-batch: else all rows are evaluated")
    if options.save_every is not None and options.run is None:
        raise InputError("--save-every goes with --run")
    batches = options.curvature_batch, options.acceptance_batch
    if options.optimizer in FIRST_ORDER and batches != (1, 1):
        raise InputError(
            f"--curvature-batch and --acceptance-batch do not go with {options.optimizer}, which "
            "takes gradients alone"
        )
    if options.at == "trained":
        raise InputError("--at trained: that is what train is for; take zero, initial or sparse")
    return optimizer, sampling, stopping, saving


def run(options: argparse.Namespace, session: Session) -> int:
    from hesscomp.optimizers.catalogue import options_of
    from hesscomp.optimizers.loop import DIVERGED, train
    from hesscomp.problems.evaluation import HeldOut

    if options.set == ["help"]:
        session.say(f"{options.optimizer}: {options_of(options.optimizer)}")
        return 0
    check_subject(options)
    optimizer, sampling, stopping, saving = _request(options)
    session.check_outputs(options.save_point)
    subject = load_subject(options, session)
    x0 = _start(options, subject, session)
    with session.world.ledger.timed("compile"):
        subject.problem.compile()
    session.say(optimizer.describe())
    session.say(HEADER)
    shown = _Rows(session)
    try:
        with session.world.ledger.timed("training"):
            result = train(
                subject.problem, optimizer, x0, sampling=sampling, stopping=stopping,
                saving=saving, callbacks=(shown,), evaluate_every=options.evaluate_every,
                test=subject.data if options.test is not None else None,
            )  # fmt: skip
    finally:
        shown.last()
    for step, text in result.history.events:
        session.say(f"step {step}: {text}")
    session.say(f"{result.status} after {result.steps} steps: {result.reason}")
    session.say(f"best objective over all rows: {result.best_objective:.15g}")
    test = result.test
    if test is None and subject.data is not None and subject.data.test is not None:
        test = HeldOut(subject.problem, subject.data)(result.best)  # those of a named data set
    if test is not None:
        session.say(f"test, at that point: {test}")
    session.write("point", options.save_point, lambda path: save_vector(result.best, path))
    asked = options.tol > 0 or options.target is not None
    return 3 if result.status == DIVERGED or (asked and not result.converged) else 0


def _start(options, subject, session: Session):
    if options.at == "sparse":
        from hesscomp.optimizers.initial import sparse_initial

        return sparse_initial(subject.problem.blocks, options.seed)
    return known_point(options.at, subject, session)


class _Rows:
    """Shows rows of the history as they come, not too many, and the last one."""

    def __init__(self, session: Session):
        self.session, self.due, self.held = session, 0.0, None

    def __call__(self, row: dict, x) -> None:
        self.held = row
        if time.monotonic() >= self.due:
            self.last()

    def last(self) -> None:
        """Show the row that came last, unless it is shown."""
        row, self.held = self.held, None
        if row is None:
            return
        self.due = time.monotonic() + INTERVAL
        measured = {name: value for name, value in row.items() if not math.isnan(value)}
        more = {name: value for name, value in measured.items() if name not in COMMON}
        self.session.say(
            f"{row['step']:6.0f} {row['objective']:16.10f} {row['gradient_norm']:13.5e} "
            f"{row['passes']:10.1f} {row['seconds']:8.1f}  "
            + " ".join(f"{name} {value:.3g}" for name, value in more.items())
        )


COMMON = ("step", "objective", "gradient_norm", "passes", "seconds", "columns", "work", "words")
