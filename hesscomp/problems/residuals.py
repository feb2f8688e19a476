"""Networks that solve differential equations: weighted squares of residuals, and energies."""

import copy
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, cast

import numpy as np

from hesscomp.curvature.chunks import row_values
from hesscomp.curvature.combined import Combined
from hesscomp.curvature.losses import Loss
from hesscomp.curvature.networks.engine import NetworkEngine, cut
from hesscomp.curvature.networks.pointwise import Composed, Density, Grouped, SquaredResidual
from hesscomp.curvature.tensorflow import tf, view
from hesscomp.errors import InputError
from hesscomp.parallel.resources import PRODUCT_BYTES
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.problems import capabilities as ability
from hesscomp.problems.jet_engine import jet_engine, smoothness_of
from hesscomp.problems.keras import KerasProblem, check_model, parameter_names
from hesscomp.problems.named_jets import Jets
from hesscomp.problems.network import NetworkProblem
from hesscomp.problems.points import as_points
from hesscomp.problems.row_terms import RowPlaces
from hesscomp.problems.rows import RowSet
from hesscomp.problems.solution import Solution, Window
from hesscomp.problems.stateless import Traced, network_of

log = logging.getLogger(__name__)
SHOWN = 3000  # points of a picture
COUNT = 10_007  # points for which functions are traced first; no axis of anything else is so long
WORDS = ("u", "du", "laplacian", "d2u", "x")  # what residuals and densities are functions of


@dataclass(frozen=True)
class Group:
    """Points, and what is asked of a network there: a residual of an equation.

    Parameters
    ----------
    points : Points, (m, d) array or pair (array, weights)
        An array's weights are 1 / m: the mean over its points.
    residual : callable
        A function, of TensorFlow tensors, of any of these, named as here: `u` (B,), the network's
        values at B points; `du` (B, d), their derivatives; `laplacian` (B,); `d2u` (B, d, d), all
        second derivatives; `x` (B, d), the points. Of a network of c > 1 outputs u, laplacian are
        (B, c), du (B, c, d) and d2u (B, c, d, d). It returns (B,) or, for r equations, (B, r), each
        row from its own point alone. Only the derivatives that it takes are computed.
    weight : float
        Multiplies the points' weights.

    Examples
    --------
    >>> Group([[0.0], [1.0]], lambda u, x: u - x[:, 0], weight=10).taken
    ('u', 'x')
    """

    points: Any
    residual: Callable
    weight: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "points", as_points(self.points))
        if not (np.isfinite(self.weight) and self.weight > 0):
            raise InputError(f"a group's weight must be a positive number, not {self.weight}")
        object.__setattr__(self, "taken", _taken(self.residual))

    taken: tuple[str, ...] = ()


def _taken(function: Callable) -> tuple[str, ...]:
    """Return the names of what a function of jets takes."""
    name = getattr(function, "__name__", type(function).__name__)
    if not callable(function):
        raise InputError(f"a {name} is no function; give one of any of {', '.join(WORDS)}")
    taken = tuple(inspect.signature(function).parameters)
    unknown = [word for word in taken if word not in WORDS]
    if unknown or not {*taken} - {"x"}:
        raise InputError(
            f"the function {name} takes {', '.join(taken) or 'nothing'}; give a function of any of "
            f"{', '.join(WORDS)}, named so, u or a derivative among them"
        )
    return taken


def _listed(groups: Sequence[Group]) -> tuple[Group, ...]:
    if isinstance(groups, Group):
        raise InputError("groups must be a list: put the one group into brackets, [group]")
    return tuple(groups)


class PointProblem(NetworkProblem):
    """f(x) = sum over groups and their points of weight * a function of the network there.

    A row holds its point, its weight times the number of rows, and the number of its group. The
    groups are mixed evenly, so that each rank has its share of each.

    Attributes
    ----------
    model : keras.Model
    groups : tuple of Group
    widths : tuple of int
        How many numbers the output of a row has that is of a group, by group.
    """

    capabilities = (
        NetworkProblem.capabilities
        | {ability.KERAS_MODEL, ability.PICTURE, ability.REDRAWING}
    ) - {
        ability.CLASSIFICATION, ability.DATA_SLOPES, ability.FISHER, ability.KRONECKER_FACTORS,
        ability.MONTE_CARLO_FISHER, ability.TEST_ROWS,
    }  # fmt: skip
    usual_operator = "ggn"
    window: Window | None = None

    def __init__(
        self, model, groups: Sequence[Group], world: World | None = None, *,
        distance: Callable | None = None, boundary_values: Callable | None = None,
        ridge: float = 0.0, dtype: str = "float64", memory: float = PRODUCT_BYTES,
        engine: str = "auto",
    ):  # fmt: skip
        check_model(model)
        self.world = World.of_job() if world is None else world
        self.groups, self.model, self.name = _listed(groups), model, model.name
        with self.world.phase("reading the groups of points"):
            self.dimension = dimension = self._check(model)
        super().__init__(self._rows(0), self.world, ridge, dtype, memory)
        variables = model.trainable_variables
        self.pieces = cut(variable.shape for variable in variables)
        initial = np.concatenate([np.asarray(v, np.float64).reshape(-1) for v in variables])
        some = self.groups[0].points.rows(0, 3)[0]
        with self.world.phase("tracing the model"):
            traced = Traced(model, self.pieces, some, initial, dtype)
            traced.check_rows(some)
        self._check_smooth(some, initial)
        if len(traced.shape) != 1:
            raise InputError(f"{model.name} gives rows of shape {traced.shape}; flatten them")
        components = traced.shape[0]
        engines, widths = [], []
        for kind, group in enumerate(self.groups):
            jets = Jets(dimension, components, group.taken, distance, boundary_values)
            function, loss = self._function(kind, jets)
            with self.world.phase(f"tracing the function of {self._group_name(kind)}"):
                widths.append(self._width(kind, function, loss, (jets.width, dimension + 2), dtype))
            inner = jet_engine(model, self.pieces, loss, jets.level, engine)
            engines.append(Composed(inner, dimension, function, loss))
        loss = engines[0].loss
        whole = engines[0] if len(engines) == 1 else Grouped(engines, widths, loss)
        self._take_loss(loss, None)
        self.widths = tuple(widths)
        self._differentiate(whole, self.pieces, parameter_names(model), initial)
        if not self.redraws:
            self.capabilities = self.capabilities - {ability.REDRAWING}
        self._narrow = Jets(dimension, components, ("u",), distance, boundary_values)

    def _group_name(self, kind: int) -> str:
        """Return what messages call a group."""
        return f"group {kind}"

    def _width(self, kind: int, function: Callable, loss: Loss, sizes, dtype: str) -> int:
        """Return how many numbers a group's function gives for a point; trace it for that.

        InputError where it takes points together. It is traced for a known number of points too,
        where TensorFlow compares shapes that it else lets pass.
        """

        def traced(F, X):
            made = function(F, X)
            return made, loss.values(made, X)

        for count in (COUNT, None):
            specs = [tf.TensorSpec([count, size], dtype) for size in sizes]
            try:
                graph = tf.function(traced, autograph=False).get_concrete_function(*specs)
            except InputError as error:
                raise InputError(f"{self._group_name(kind)}: {error}") from error
        return graph.structured_outputs[0].shape[1]

    def _check(self, model) -> int:
        """Return the dimension of the points; InputError where the groups do not fit the model."""
        if not self.groups or not all(isinstance(group, Group) for group in self.groups):
            raise InputError(f"groups must be a list of one or more {Group.__name__}")
        shape = getattr(model, "input_shape", None)
        if not isinstance(shape, tuple) or len(shape) != 2:
            raise InputError(f"{model.name} takes {shape}; a network of points takes (rows, d)")
        for kind, group in enumerate(self.groups):
            if group.points.dimension != shape[1]:
                raise InputError(
                    f"the points of {self._group_name(kind)} have {group.points.dimension} "
                    f"coordinates, and {model.name} takes {shape[1]}"
                )
        if any(variable.regularizer is not None for variable in model.trainable_variables):
            raise InputError(f"{model.name} has regularisers; take them out, and give a `ridge`")
        return shape[1]

    def _check_smooth(self, some: np.ndarray, initial: np.ndarray) -> None:
        """Refuse derivatives at points that say nothing of the model's kinks; warn of gradients."""
        taken = {name for group in self.groups for name in group.taken}
        order = 2 if taken & {"laplacian", "d2u"} else int("du" in taken)
        if not order:
            return
        with self.world.phase("looking for kinks of the model"):
            smooth, what = smoothness_of(self.model, self.pieces, initial, some)
            if smooth < order - 1:
                raise InputError(
                    f"{self.name}: {what}, and second derivatives at points miss that; take a "
                    "smooth activation, such as tanh"
                )
        if smooth < order and self.world.rank == 0:
            log.warning(
                "%s: %s; gradients by the parameters leave out that this moves, so that training "
                "may stall; take a smooth activation, such as tanh", self.name, what,
            )  # fmt: skip

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the group of each row of all ranks, and its point among the group's."""
        counts = [group.points.count for group in self.groups]
        place = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        order = np.argsort(place, kind="stable")
        kinds = np.repeat(np.arange(len(counts)), counts)[order]
        return kinds, order - np.array([0, *accumulate(counts)])[kinds]

    def row_places(self) -> RowPlaces:
        """Return the group and the point of each of this rank's rows, in their order; local.

        It is the order of the first axis of what `hesscomp.jacobian` gives, of `output_terms` and
        `row_gradients`. Groups are mixed evenly. InputError from a sample of the points.
        """
        if self.rows != self._count:
            raise InputError("the rows of a sample are not known by their points; take all points")
        here = slice(self.data.start, self.data.start + self.rows_here)
        group, point = (found[here] for found in self._order())
        return RowPlaces(group, point, np.array(self.widths)[group])

    @property
    def _count(self) -> int:
        """How many points the groups have."""
        return sum(group.points.count for group in self.groups)

    @property
    def gauss_newton_count(self) -> int:
        counts = np.array([group.points.count for group in self.groups])
        if self.rows != self._count:  # a sample
            kinds = self.data.X[:, -1].astype(int)
            counts = self.world.sum(np.bincount(kinds, minlength=len(counts)).astype(float))
        return int(counts @ self.widths)

    def _rows(self, step: int) -> RowSet:
        """Return this rank's rows with the points of a step. Collective."""
        kinds, X = self._order()[0], None
        total = len(kinds)
        start, stop = row_range(total, self.world.rank, self.world.size)
        with self.world.phase("making points"):
            for kind, group in enumerate(self.groups):
                own = kinds == kind
                first = int(np.count_nonzero(own[:start]))
                here = np.flatnonzero(own[start:stop])
                points, weights = group.points.rows(first, first + len(here), step)
                if X is None:
                    X = np.empty((stop - start, points.shape[1] + 2))
                X[here, :-2] = points
                X[here, -2] = group.weight * weights * total
                X[here, -1] = kind
        return replace(RowSet.of((X, X), self.world), name="points")

    def redrawn(self, step: int) -> "PointProblem":
        return self.holding(self._rows(step))

    @property
    def redraws(self) -> bool:
        return any(group.points.redrawn for group in self.groups)

    def take_solution(self, known: Solution) -> None:
        """Take a known solution, so that runs tell their error and their pictures show it."""
        self.solution = known
        self.capabilities = self.capabilities | {ability.KNOWN_SOLUTION}

    def picture(self, x):
        """Return `Problem.picture`, in the `window`: by default what the points span.

        Of more than two coordinates, in the plane of the first two through the middle.
        """
        few = -(-self.rows // SHOWN)
        points = self.data.X[-self.data.start % few :: few, : self.dimension]
        shown = self.world.gather_rows(points, self.world.gather(len(points)))
        window = Window.around(shown) if self.window is None else self.window
        t, X, inside = window.grid()
        u = self.output(x, X)[:, 0]
        found: dict[str, Any] = {
            "axes": t, "names": list(window.names), "points": window.seen(shown)
        }  # fmt: skip
        if self.can(ability.KNOWN_SOLUTION):
            exact = self.solution.exact(X)
            u = self.solution.scaled(u, exact)
            found["error"] = np.where(inside, u - exact, np.nan).reshape(window.shape)
        return found | {"u": np.where(inside, u, np.nan).reshape(window.shape)}

    def _function(self, kind: int, jets: Jets) -> tuple[Callable, Loss]:
        """Return the function of a group's jets and rows, and the loss of what it gives.

        By default the group's residual times the roots of the weights, each of which is multiplied
        by the number of points, and half its squares.
        """

        def scaled(F, X):
            residual = jets.call(self.groups[kind].residual, F, X[:, : jets.dimension])
            return tf.sqrt(X[:, -2:-1]) * residual

        return scaled, SquaredResidual()

    @property
    def outputs(self) -> int:
        return max(self.widths)

    @property
    def _engines(self) -> Sequence[NetworkEngine]:
        """The engine of each group."""
        return self.engine.engines if isinstance(self.engine, Grouped) else [self.engine]

    def _row_values(self, theta, X) -> int:
        return max(row_values(engine.output, theta, X) for engine in self._engines)

    def nonfinite_place(self, x):
        """Return `Problem.nonfinite_place`: the group and the point of the first such row."""
        first = None
        with self.world.phase("looking for points that are not finite"):
            X, theta = self.data.X, tf.constant(x, "float64")
            for part in self.chunks(slice(None), "float64"):
                for kind, engine in enumerate(self._engines):
                    rows = X[part][X[part][:, -1] == kind]
                    fine = cast(Composed, engine).finite_rows(theta, tf.constant(rows)).numpy()
                    if first is None and not fine.all():
                        first = kind, rows[np.argmin(fine), : self.dimension].tolist()
        found = next(filter(None, self.world.gather(first)), None)
        if found is None:
            return ""
        kind, point = found
        place = ", ".join(f"{coordinate:.6g}" for coordinate in point)
        return f": the function of {self._group_name(kind)} or its derivative at ({place})"

    def output(self, x: np.ndarray, X: np.ndarray) -> np.ndarray:
        """Return u at points X (B, d), with the conditions that are built in: (B, c); local.

        InputError for points of another dimension.
        """
        X = np.asarray(X, np.float64)
        X = X[:, None] if X.ndim == 1 else X
        if X.ndim != 2 or X.shape[1] != self.dimension:
            raise InputError(
                f"{self.name} gives values at points (B, {self.dimension}); these have shape "
                f"{X.shape}"
            )
        key = "values of u"
        if key not in self._kernels:
            network = network_of(self.model, self.pieces)

            def values(theta, X):
                u = self._narrow.named(network(theta, X), X)["u"]
                return tf.reshape(u, [-1, self._narrow.components])

            self._kernels[key] = tf.function(values, autograph=False, reduce_retracing=True)
        return self._kernels[key](tf.constant(self.check_point(x)), tf.constant(X)).numpy()

    set_weights = KerasProblem.set_weights
    save_model = KerasProblem.save_model


class ResidualProblem(PointProblem):
    """f(x) = 1/2 sum over groups and their points of weight * |residual|^2, of a network.

    Least squares for differential equations: collocation ("physics-informed" networks), first-order
    systems (a network of several outputs: values and fluxes), data. Weights that make an integral
    make the objective half the squared norms of the residuals in L2.

    The problem's outputs are the residuals times sqrt(weight * m), with m the number of points of
    all groups, so that the objective is the mean over the points of half their squares.
    `hesscomp.jacobian` is theirs: a row for each point, the groups mixed evenly, as `row_places`
    tells, and as many numbers in each as the widest group has, zeros after those of a narrower one.
    J^T J / m is the Gauss-Newton matrix, which is always positive semidefinite; it is the Fisher
    matrix too, of unit Gaussian errors of the residuals.

    Parameters
    ----------
    model : keras.Model
        Of points (rows, d), without regularisers; not changed.
    groups : list of Group
        The equation within the domain, conditions on its boundary, at the start, and data.
    world : World, optional
        All ranks of the job by default. Every rank gives the same groups, and holds its share of
        the points.
    distance : callable, optional
        A function D(x), (B,), of points (B, d), in TensorFlow, that is zero where u is prescribed
        and positive elsewhere: u = g + D N is taken for the network's output N, so that Dirichlet
        conditions hold exactly and need no group.
    boundary_values : callable, optional
        g(x), (B,), with `distance`; zero by default. Of several outputs (B, c), as D may be.
    ridge, dtype, memory
        As for `KerasProblem`, but for the precision: float64 by default.
    engine : {"auto", "layer-wise", "generic"}
        How the network's derivatives by its inputs are made.

    Raises
    ------
    InputError
        For models, points and functions that do not fit, and for second derivatives of networks
        whose slope jumps (ReLU): at points they are zero. Where the highest derivative jumps, a
        warning says that gradients by the parameters leave out what moves with the jumps.

    Notes
    -----
    A row costs about d + 2 times what it costs without derivatives, (d + 1) with `du` alone, and
    one with `u` alone. Memory: the points, and `memory`.

    Examples
    --------
    -u'' = pi^2 sin(pi x) on (0, 1), u = 0 at the ends:

    >>> import keras, math
    >>> import tensorflow as tf
    >>> import hesscomp as hc
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential(
    ...     [keras.Input((1,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
    >>> inside = hc.Group(
    ...     hc.Box([0], [1]).grid(40),
    ...     lambda laplacian, x: laplacian + math.pi**2 * tf.sin(math.pi * x[:, 0]))
    >>> ends = hc.Group([[0.0], [1.0]], lambda u: u)
    >>> problem = hc.ResidualProblem(model, [inside, ends])
    >>> found = hc.train(problem, hc.NaturalGradient(damping=1e-8), max_steps=30)
    >>> bool(abs(problem.output(found.best, [[0.5]])[0, 0] - 1) < 1e-3)
    True
    """

    capabilities = PointProblem.capabilities | {ability.FISHER}

    def fisher(self, x):
        return self.products("gauss_newton", x, None, self.loss)

    def objective(self, x):
        x = self.check_point(x)
        self.world.ledger.passes += 1
        chunks = [self.chunks(part, "float64") for part in self.parts_here]
        # By the kernel of `residuals`, so that one is traced and not two.
        sums = [
            np.sum([r @ r for r in map(view, self._of_rows("residuals", x, part))], keepdims=True)
            for part in chunks
        ]
        return float(self.sum_parts(sums, (1,))[0] / self.rows + self.ridge * (x @ x)) / 2


class EnergyProblem(PointProblem):
    """f(x) = sum over points of weight * density(u, du, x): the Ritz method with a network.

    With the weights of a quadrature rule, the integral of an energy density: the Dirichlet energy
    1/2 |du|^2 - load u, say. The Gauss-Newton matrix is J^T B J with J the Jacobian of what the
    density takes and B the density's second derivative by it: that of the energy along the tangent
    space of the network's functions ("energy natural gradient", Müller and Zeinhofer, ICML 2023).

    Parameters
    ----------
    model : keras.Model
    density : callable
        A function of any of `u`, `du`, `laplacian`, `d2u`, `x` as in `Group`, that gives (B,).
    points : Points, (m, d) array or pair (array, weights)
    groups : list of Group, optional
        Residuals at other points, of which half the squares are added, such as penalties on the
        boundary.
    convex : bool
        Whether the density is convex in u and its derivatives; then the Gauss-Newton matrix is
        positive semidefinite.
    world, distance, boundary_values, ridge, dtype, memory, engine
        As for `ResidualProblem`.

    Examples
    --------
    >>> import keras
    >>> import tensorflow as tf
    >>> import hesscomp as hc
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential(
    ...     [keras.Input((1,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
    >>> problem = hc.EnergyProblem(  # -u'' = 1, u = 0 at both ends: u = x (1 - x) / 2
    ...     model, lambda u, du: tf.reduce_sum(du**2, 1) / 2 - u, hc.Box([0], [1]).gauss(10, 3),
    ...     distance=lambda x: x[:, 0] * (1 - x[:, 0]), convex=True)
    >>> found = hc.train(problem, hc.NaturalGradient(damping=1e-8), max_steps=12)
    >>> bool(abs(found.best_objective + 1 / 24) < 1e-8)
    True
    """

    def __init__(
        self, model, density: Callable, points, groups: Sequence[Group] = (),
        world: World | None = None, *, convex: bool = False, **options,
    ):  # fmt: skip
        self.convex = convex
        super().__init__(model, [Group(points, density), *_listed(groups)], world, **options)

    def fisher(self, x):
        raise InputError(
            "an energy has no Fisher matrix, since it is no likelihood of data; take the "
            "Gauss-Newton matrix (ggn)"
        )

    def _group_name(self, kind):
        return "the energy" if kind == 0 else super()._group_name(kind - 1)

    def _function(self, kind, jets):
        if kind > 0:
            return super()._function(kind, jets)
        density = self.groups[0].residual

        def weighted(X, F):
            made = jets.call(density, F, X[:, : jets.dimension])
            if made.shape[1] != 1:
                raise InputError(f"an energy density gives {made.shape[1]} numbers; give one")
            return X[:, -2] * made[:, 0]

        return lambda F, X: F, Density(weighted, "energy", self.convex)


class RayleighProblem(EnergyProblem):
    """f(x) = A / B, each the sum over points of weight * a density: a Rayleigh quotient.

    Its least value is the first eigenvalue of the operator of A with respect to that of B, and u
    the first eigenfunction, of any scale. The Gauss-Newton matrix is that of A, divided by B: with
    a quadratic A, a natural-gradient step is one of inverse iteration, u <- f A^-1 B u, within the
    tangent space of the network's functions. So it converges linearly, by the ratio of the first to
    the second eigenvalue.

    Parameters
    ----------
    model : keras.Model
    numerator, denominator : callable
        Densities as in `EnergyProblem`, convex: |du|^2 and u^2, say.
    points : Points, (m, d) array or pair (array, weights)
    world, distance, boundary_values, dtype, memory, engine
        As for `EnergyProblem`. No ridge: the quotient has no scale that it could be compared with.

    Examples
    --------
    -u'' = lambda u on (0, 1), u = 0 at both ends:

    >>> import keras, math
    >>> import tensorflow as tf
    >>> import hesscomp as hc
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential(
    ...     [keras.Input((1,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
    >>> problem = hc.RayleighProblem(
    ...     model, lambda du: du[:, 0] ** 2, lambda u: u**2, hc.Box([0], [1]).gauss(10, 3),
    ...     distance=lambda x: x[:, 0] * (1 - x[:, 0]))
    >>> found = hc.train(problem, "natural-gradient", max_steps=15)
    >>> bool(abs(found.best_objective / math.pi**2 - 1) < 1e-6)
    True
    """

    capabilities = EnergyProblem.capabilities - {
        ability.EMPIRICAL_FISHER, ability.GAUSS_NEWTON_ROWS, ability.ROW_GRADIENTS,
        ability.ROW_OUTPUTS, ability.SAMPLING, ability.SHARD_GRADIENTS, ability.SQUARED_GRADIENTS,
    }  # fmt: skip

    def __init__(
        self, model, numerator: Callable, denominator: Callable, points,
        world: World | None = None, *, ridge: float = 0.0, **options,
    ):  # fmt: skip
        if ridge:
            raise InputError("a Rayleigh quotient has no ridge; leave it out")
        super().__init__(model, numerator, points, (), world, convex=True, **options)
        self._below = EnergyProblem(
            model, denominator, points, (), self.world, convex=True, **options
        )

    def _take_loss(self, loss, penalty):
        super()._take_loss(loss, penalty)
        self.capabilities = self.capabilities & RayleighProblem.capabilities

    def redrawn(self, step):
        other = super().redrawn(step)
        other._below = self._below.redrawn(step)
        return other

    @property
    def below(self) -> EnergyProblem:
        """The denominator, in this problem's world."""
        other = copy.copy(self._below)
        other.world = self.world
        return other

    def objective(self, x):
        return super().objective(x) / self.below.objective(x)

    def objective_and_gradient(self, x):
        (above, slope), (below, other) = self._terms(x)
        return above / below, (slope - above / below * other) / below

    def _terms(self, x):
        return super().objective_and_gradient(x), self.below.objective_and_gradient(x)

    def linearize(self, x):
        (above, slope), (below, other) = self._terms(x)
        gradient = (slope - above / below * other) / below
        sides = np.stack([gradient, other / below], 1)
        parts = [(1 / below, super().linearize(x)), (-above / below**2, self.below.linearize(x))]
        return Combined(parts, sides, -float(self.rows), self.world.size, self.row_blocks)

    def gauss_newton(self, x):
        norm = self.below.objective(x)
        return Combined([(1 / norm, super().gauss_newton(x))])

    def run_identity(self, x):
        return {**super().run_identity(x), "denominator": self.below.run_identity(x)["model"]}
