"""Make the operator (a Hessian or a relative of it) of a problem at a point."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hesscomp.compression.orderings import Ordering
from hesscomp.errors import InputError
from hesscomp.factors import Factor, load_factor
from hesscomp.factors.point import is_keras_file, load_array, load_point
from hesscomp.options import Options, option
from hesscomp.parallel.world import World
from hesscomp.problems.capabilities import INITIAL_POINT, SAMPLING, SHARD_GRADIENTS
from hesscomp.storage.files import find_files
from hesscomp.workflows.progress import Progress, save_vector, silent, write
from hesscomp.workflows.subject import ProblemRequest, Subject, make_problem

if TYPE_CHECKING:
    from hesscomp.curvature.restriction import Restricted
    from hesscomp.curvature.sharded import ProblemOperator
    from hesscomp.problems.problem import Problem

OPERATORS = {
    "hessian": "Hessian",
    "ggn": "Gauss-Newton matrix",
    "fisher": "Fisher matrix",
    "monte-carlo-fisher": "Monte Carlo Fisher matrix",
    "empirical-fisher": "empirical Fisher matrix",
    "finite-difference": "finite-difference Hessian",
}
MONTE_CARLO, TRAINED = "monte-carlo-fisher", "trained"
POINTS = "zero|initial|trained|FILE"
POINT_HELP = (
    "the parameter values: a .npy file, a factor, a run's checkpoint, Keras weights or a Keras "
    "model; default: initial, or zero for logistic regression"
)


@dataclass(frozen=True, kw_only=True)
class OperatorRequest(Options, group="operator"):
    """The matrix."""

    operator: str | None = option(
        None,
        choices=tuple(OPERATORS),
        help="the matrix; ggn and the Fisher matrices need a network, finite-difference takes "
        "differences of gradients; default: hessian, of differential equations ggn",
    )
    fisher_samples: int | None = option(
        None, low=1, metavar="S", advanced=True,
        help="monte-carlo-fisher only: targets drawn for each row; default: 1",
    )  # fmt: skip
    fisher_seed: int | None = option(
        None, low=0, high=2**32 - 1, metavar="S", advanced=True,
        help="seed of these targets; default: `seed`",
    )  # fmt: skip
    blocks: str | None = option(
        None, metavar="NAME[,NAME]",
        help="restrict the matrix to these layers or parameter blocks, such as dense_1/kernel",
    )  # fmt: skip
    sample: float | None = option(
        None, above=0, high=1, metavar="F", help="take a random fraction F of the rows"
    )

    def _check(self) -> None:
        super()._check()
        if self.operator != MONTE_CARLO and (self.fisher_samples, self.fisher_seed) != (None, None):
            raise InputError(
                f"`fisher_samples` and `fisher_seed` go with `operator` {MONTE_CARLO}, not with "
                f"{self.operator or 'another'}"
            )


@dataclass(frozen=True, kw_only=True)
class PointRequest(Options, group="operator"):
    """The point."""

    at: str | None = option(None, metavar=POINTS, help=POINT_HELP)
    epochs: int | None = option(
        None, low=1, metavar="E", advanced=True,
        help="epochs of `at` trained; default: as many as the recipe has",
    )  # fmt: skip
    save_point: str | None = option(
        None, metavar="P.npy", advanced=True, help="write the point to this file"
    )

    def _check(self) -> None:
        super()._check()
        if self.epochs is not None and self.at not in (TRAINED, (TRAINED,)):
            raise InputError("`epochs` goes with `at` trained")


@dataclass(frozen=True, kw_only=True)
class CurvatureRequest(ProblemRequest, OperatorRequest, PointRequest):
    """A matrix of a problem at a point."""


@dataclass(frozen=True)
class Curvature:
    """An operator with its problem and its point x, an (n,) array.

    `title` is the operator's name for readers, `kind` the one in requests, and `indices` the
    parameters that it is restricted to.
    """

    operator: "ProblemOperator | Restricted"
    problem: "Problem"
    x: np.ndarray
    title: str
    indices: np.ndarray | None = None
    kind: str = "hessian"

    @property
    def heading(self) -> str:
        """The title of a picture about the operator."""
        problem = self.problem
        return f"{self.title}: {problem.name} on {problem.dataset_name}, n = {self.operator.n}"

    def describe(self, factor: Factor) -> Factor:
        """Return a factor, wherever it comes from, with this problem, point and blocks in it."""
        return self.operator.describe(factor)

    def journaled(self, folder, identity: dict) -> AbstractContextManager:
        """Return the operator as a context; where a folder is named, it keeps the products.

        A folder with products of another operator or request, which `identity` tells, is refused.
        """
        from hesscomp.curvature.journal import journaled

        if folder is None:
            return nullcontext(self.operator)
        whole = {**self.problem.run_identity(self.x), "operator": self.title}
        whole |= {name: str(value) for name, value in identity.items()}
        return journaled(self.operator, folder, whole)

    def check_fit(self, factor: Factor, path: str) -> None:
        """Refuse a factor read from `path` whose order or parameter blocks differ from these."""
        problem, n = self.problem, self.operator.n
        where = f"{problem.name} on {problem.dataset_name}"
        if factor.n != n:
            raise InputError(f"{path}: has n = {factor.n}, but {where} has {n} parameters")
        wanted = self.describe(factor).blocks
        if factor.blocks not in ((), wanted):
            found, needed = next(
                pair for pair in zip(factor.blocks, wanted, strict=False) if pair[0] != pair[1]
            )
            raise InputError(
                f"{path}: has the parameter block {found[0]} of shape {found[1]} where {where} has "
                f"{needed[0]} of shape {needed[1]}; take a factor of the same model"
            )


def make_curvature(
    request: CurvatureRequest,
    world: World,
    progress: Progress = silent,
    at: str | None = None,
    subject: Subject | None = None,
) -> Curvature:
    """Make the operator that a request names, ready for products. Collective.

    `at` is a point in place of the request's. Where neither names one, it is the problem's initial
    point, or zero where it has none. `subject` is the problem, where the caller has it already.

    Raises
    ------
    InputError
        Where the request names several points, and for a problem or point that cannot be used.
    """
    with world.ledger.timed("startup"):
        subject = subject or make_problem(request, world, progress)
        x = make_point(request, subject, progress, at)
    return make_operator(request, sampled(request, subject.problem), x)


def sampled(request: CurvatureRequest, problem):
    """Return the problem over the fraction of its rows that a request asks for."""
    if request.sample is None:
        return problem
    return problem.sampled(request.sample, request.seed)


def make_point(
    request: CurvatureRequest, subject: Subject, progress: Progress = silent, at: str | None = None
) -> np.ndarray:
    """Return the point that is named or read from a file, or train it. Collective.

    `at` is a point in place of the request's.
    """
    problem = subject.problem
    if at is None and isinstance(request.at, tuple):
        points = find_points(request.at, problem.world)
        if len(points) > 1:
            raise InputError("`at` names several points; name one, or let `trajectory` take them")
        at = points[0] if points else None
    elif at is None:
        at = request.at
    problem.set_fixed(None)  # which the previous point may have set
    x = _trained(request, subject, progress) if at == TRAINED else known_point(at, problem)
    write(problem.world, progress, "point", request.save_point, save_vector(x))
    return x


def find_points(at: tuple[str, ...], world: World) -> list[str]:
    """Return the points that names and patterns stand for, as rank 0 sees them. Collective."""
    found = []
    with world.phase("looking for the points"):
        if world.rank == 0:
            found = find_files(list(at), "`at`")
    return world.broadcast(found)


def known_point(at: str | None, problem) -> np.ndarray:
    """Return the named or stored point `at`; by default the initial one or zero. Collective."""
    if at is None:
        return problem.first_point()
    with problem.world.phase(f"reading the point {at}"):
        if at == "initial":
            problem.require(INITIAL_POINT)
            x = problem.initial
        elif at != "zero" and is_keras_file(at):
            found = problem.read_weights(at)
            problem.set_fixed(found.fixed)
            x = found.parameters
        else:
            x = load_point(at, problem.n)
        return problem.check_point(x)


def _trained(request: CurvatureRequest, subject: Subject, progress: Progress) -> np.ndarray:
    """Train the problem by its recipe, or by Newton's method where it has none."""
    problem, recipe = subject.problem, subject.recipe
    ledger = problem.world.ledger
    if recipe is None:
        if request.epochs is not None:
            raise InputError(f"`epochs` does not go with {problem.name}: Newton's method trains it")
        from hesscomp.optimizers.newton import newton

        how = "Newton's method to ||g|| <= 1e-8"
        with ledger.timed("training"):
            result = newton(problem)
        x, value = result.x, result.objective
    else:
        from hesscomp.optimizers.recipe import train_by_recipe

        problem.require(SAMPLING)  # for its batches
        if request.epochs is not None:
            recipe = replace(recipe, epochs=request.epochs)
        how = str(recipe)
        with ledger.timed("training"):
            x = train_by_recipe(recipe, problem, seed=request.seed).x
        value = problem.objective(x)
    progress(f"trained: {how}, in {ledger.seconds['training']:.1f} s: objective {value:.6g}")
    return x


def make_operator(request: CurvatureRequest, problem, x: np.ndarray) -> Curvature:
    """Make the operator that a request names, of a problem at x. Times the compilation."""
    with problem.world.ledger.timed("compile"):
        problem.compile()
    from hesscomp.curvature import finite_difference, gauss_newton, hessian
    from hesscomp.curvature.restriction import Restricted

    kinds = {
        "hessian": hessian.HessianOperator,
        "ggn": gauss_newton.GaussNewtonOperator,
        "fisher": gauss_newton.FisherOperator,
        MONTE_CARLO: gauss_newton.MonteCarloFisherOperator,
        "empirical-fisher": gauss_newton.EmpiricalFisherOperator,
        "finite-difference": finite_difference.FiniteDifferenceHessian,
    }
    kind = request.operator or problem.usual_operator
    title = OPERATORS[kind]
    draws: tuple[int, ...] = ()
    if kind == MONTE_CARLO:
        seed = request.seed if request.fisher_seed is None else request.fisher_seed
        draws = request.fisher_samples or 1, seed
        title += f", {draws[0]} targets a row, seed {seed}"
    elif kind == "finite-difference":
        problem.require(SHARD_GRADIENTS)
    operator = kinds[kind](problem, x, *draws)
    if request.blocks is None:
        return Curvature(operator, problem, x, title, kind=kind)
    names = list(dict.fromkeys(filter(None, map(str.strip, request.blocks.split(",")))))
    restricted = Restricted(operator, names)
    title = f"{title} of {', '.join(names)}"
    return Curvature(restricted, problem, x, title, restricted.indices, kind)


def read_factor(path: str, world: World) -> Factor:
    """Read a factor file on all ranks. Collective."""
    with world.phase(f"reading the factor {path}"):
        return load_factor(path)


def read_ordering(given: Ordering, world: World) -> Ordering:
    """Return an ordering as it is, or the array in the file that is named. Collective."""
    if not isinstance(given, str) or not given.endswith(".npy"):
        return given
    with world.phase(f"reading the ordering {given}"):
        return load_array(given)
