"""The curvature that a command works on: an operator of a problem at a point, by options."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from hesscomp.cli.session import Session, seconds_since
from hesscomp.cli.subject import Subject, load_subject
from hesscomp.errors import InputError
from hesscomp.factors import LowRank
from hesscomp.factors.point import is_keras_file, load_point
from hesscomp.problems.capabilities import INITIAL_POINT, SAMPLING, SHARD_GRADIENTS
from hesscomp.storage.files import atomic_path, find_files

OPERATORS = {
    "hessian": "Hessian",
    "ggn": "Gauss-Newton matrix",
    "fisher": "Fisher matrix",
    "monte-carlo-fisher": "Monte Carlo Fisher matrix",
    "empirical-fisher": "empirical Fisher matrix",
    "finite-difference": "finite-difference Hessian",
}
MONTE_CARLO = "monte-carlo-fisher"
POINTS = "zero|initial|trained|FILE"


@dataclass(frozen=True)
class Curvature:
    """An operator with what it is of.

    Attributes
    ----------
    operator : Operator
    problem : Problem
    x : (n,) array
        The point.
    title : str
        What the operator is, for people.
    indices : array or None
        The parameters that the operator is restricted to.
    """

    operator: object
    problem: object
    x: np.ndarray
    title: str
    indices: np.ndarray | None = None

    def describe(self, factor: LowRank) -> LowRank:
        """A factor of the operator, told what it is of."""
        factor = self.problem.describe(factor, self.x, self.indices)
        if self.indices is None:
            return factor
        name = f"{self.operator.base.name}, restricted"
        return replace(factor, provenance=replace(factor.provenance, operator=name))

    def journaled(self, folder, request: dict) -> AbstractContextManager:
        """The operator for one `request`, its products kept in a folder if one is named.

        See `curvature.journal`; a folder with products of another operator or request is refused.
        """
        from hesscomp.curvature.journal import journaled

        if folder is None:
            return nullcontext(self.operator)
        request = {name: str(value) for name, value in request.items()}
        identity = {**self.problem.run_identity(self.x), "operator": self.title, **request}
        return journaled(self.operator, folder, identity)


def add_operator_arguments(parser) -> None:
    parser.add_argument(
        "--operator",
        choices=tuple(OPERATORS),
        default="hessian",
        help="ggn, fisher and empirical-fisher need a network; finite-difference takes gradients",
    )
    parser.add_argument(
        "--fisher-samples", type=int, metavar="S",
        help="monte-carlo-fisher: targets drawn for each row; default 1",
    )  # fmt: skip
    parser.add_argument(
        "--fisher-seed", type=int, metavar="S", help="of these targets; default: --seed"
    )
    parser.add_argument(
        "--blocks",
        metavar="NAME[,NAME]",
        help="restrict it to these layers or parameter blocks, such as dense_1/kernel",
    )
    parser.add_argument(
        "--sample", type=float, metavar="F", help="over this fraction of the rows, at random"
    )


def add_point_argument(parser, *, several: bool = False, help: str | None = None) -> None:
    many = {"nargs": "+"} if several else {}
    parser.add_argument(
        "--at",
        metavar=POINTS,
        help=help
        or "the point: a .npy file, a factor, a run's checkpoint, Keras weights or model; "
        "default: initial, and zero for logistic regression"
        + ("; several files, or a pattern: a trajectory" if several else ""),
        **many,
    )
    parser.add_argument(
        "--epochs", type=int, metavar="E", help="of --at trained; default: the problem's recipe"
    )
    parser.add_argument("--save-point", metavar="P.npy", help="write the point, one array")


def check_curvature(options) -> None:
    """Refuse options of the operator and the point that do not go together."""
    if options.operator != MONTE_CARLO and (options.fisher_samples, options.fisher_seed) != (
        None,
        None,
    ):
        raise InputError(
            f"--fisher-samples and --fisher-seed go with --operator {MONTE_CARLO}, not with "
            f"{options.operator}"
        )
    if options.epochs is not None and options.at not in ("trained", ["trained"]):
        raise InputError("--epochs goes with --at trained")
    if options.epochs is not None and options.epochs < 1:
        raise InputError(f"--epochs must be at least 1, not {options.epochs}")


def load_curvature(options, session: Session, at: str | None = None) -> tuple[Curvature, float]:
    """The operator that the options ask for at the point `at`, ready for products.

    Returns it with the seconds that starting up took. Compilation is timed apart.
    """
    check_curvature(options)
    with session.world.ledger.timed("startup"):
        subject = load_subject(options, session)
        x = read_point(at, subject, options, session)
    startup = seconds_since(session.started)
    return curvature_at(x, sampled(subject.problem, options), options), startup


def sampled(problem, options):
    """The problem over the fraction of its rows that the options ask for."""
    if options.sample is None:
        return problem
    return problem.sampled(options.sample, options.seed)


def read_point(at: str | None, subject: Subject, options, session: Session) -> np.ndarray:
    """The point `at` in words or in a file; a trained one is trained here. Collective."""
    subject.problem.set_fixed(None)  # what the point before has left
    trained = at == "trained"
    x = _trained(subject, options, session) if trained else known_point(at, subject, session)
    session.write("point", options.save_point, lambda path: save_vector(x, path))
    return x


def find_points(options, session: Session) -> list[str]:
    """What `--at` names, patterns expanded as rank 0 sees them. Collective."""
    found = []
    with session.world.phase("looking for the points"):
        if session.is_root:
            found = find_files(options.at or [], "--at")
    return session.world.broadcast(found)


def known_point(at: str | None, subject: Subject, session: Session) -> np.ndarray:
    """The point `at` in words or in a file; by default the initial one, else zero. Collective."""
    if at is None:
        return subject.problem.first_point()
    with session.world.phase(f"reading the point {at}"):
        return subject.problem.check_point(_read(at, subject.problem))


def _read(at: str, problem) -> np.ndarray:
    if at == "initial":
        problem.require(INITIAL_POINT)
        return problem.initial
    if at != "zero" and is_keras_file(at):
        found = problem.read_weights(at)
        problem.set_fixed(found.fixed)
        return found.parameters
    return load_point(at, problem.n)


def _trained(subject: Subject, options, session: Session) -> np.ndarray:
    """The problem trained by its recipe, or by Newton's method where it has none."""
    problem, ledger = subject.problem, session.world.ledger
    if subject.recipe is None:
        if options.epochs is not None:
            raise InputError(f"--epochs does not go with {problem.name}: Newton's method trains it")
        from hesscomp.optimizers.newton import newton

        how = "Newton's method to ||g|| <= 1e-8"
        with ledger.timed("training"):
            result = newton(problem)
        x, value = result.x, result.objective
    else:
        from hesscomp.optimizers.recipe import follow

        problem.require(SAMPLING)  # for its batches
        recipe = subject.recipe
        if options.epochs is not None:
            recipe = replace(recipe, epochs=options.epochs)
        how = str(recipe)
        with ledger.timed("training"):
            result = follow(recipe, problem, seed=options.seed)
        x, value = result.x, problem.objective(result.x)
    session.say(f"trained: {how}, in {ledger.seconds['training']:.1f} s: objective {value:.6g}")
    return x


def save_vector(x: np.ndarray, path) -> None:
    """Write one array as a .npy file, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, x)


def curvature_at(x: np.ndarray, problem, options) -> Curvature:
    """The operator that the options ask for, at x."""
    with problem.world.ledger.timed("compile"):
        problem.compile()
    operator, title = _operator(x, problem, options)
    if options.blocks is None:
        return Curvature(operator, problem, x, title)
    from hesscomp.curvature.restriction import Restricted

    named = (name.strip() for name in options.blocks.split(","))
    names = list(dict.fromkeys(name for name in named if name))
    restricted = Restricted(operator, names)
    title = f"{title} of {', '.join(names)}"
    return Curvature(restricted, problem, x, title, restricted.indices)


def _operator(x: np.ndarray, problem, options) -> tuple[object, str]:
    """The operator and what it is, for people."""
    from hesscomp.curvature import finite_difference, gauss_newton, hessian

    name, samples, seed = options.operator, options.fisher_samples, options.fisher_seed
    title = OPERATORS[name]
    if name == MONTE_CARLO:
        samples, seed = 1 if samples is None else samples, options.seed if seed is None else seed
        title += f", {samples} targets a row, seed {seed}"
        return gauss_newton.MonteCarloFisherOperator(problem, x, samples, seed), title
    if name == "finite-difference":
        problem.require(SHARD_GRADIENTS)
    kinds = {
        "hessian": hessian.HessianOperator,
        "ggn": gauss_newton.GaussNewtonOperator,
        "fisher": gauss_newton.FisherOperator,
        "empirical-fisher": gauss_newton.EmpiricalFisherOperator,
        "finite-difference": finite_difference.FiniteDifferenceHessian,
    }
    return kinds[name](problem, x), title
