"""Make the problem of a request: named, a Keras model's, from Python, or logistic."""

import copy
import importlib
import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hesscomp.datasets import Dataset, fourier_features, load_dataset
from hesscomp.datasets.files import SOURCES
from hesscomp.datasets.load import NAMED
from hesscomp.datasets.mnist import FOLDER
from hesscomp.datasets.named_arrays import own_names, read_named
from hesscomp.datasets.reading import MISSING
from hesscomp.datasets.standardize import standardized
from hesscomp.datasets.targets import TARGETS
from hesscomp.errors import Incomplete, InputError
from hesscomp.linear.families import known_family
from hesscomp.options import Options, Seeded, byte_size, format_bytes, option, refuse
from hesscomp.parallel.resources import PRODUCT_BYTES
from hesscomp.parallel.world import World
from hesscomp.problems.catalogue import (
    ANY,
    EQUATIONS,
    LEAST_VISCOSITY,
    MOST_VISCOSITY,
    NAMED_PROBLEMS,
    RIDGE,
    SIGMOID_LOSS,
    SOFTMAX_LOSS,
    Recipe,
    check_viscosity,
)
from hesscomp.workflows.progress import Progress, silent

if TYPE_CHECKING:
    from hesscomp.problems.problem import Problem

NAMED_DATA = f"the data set: {', '.join(NAMED)}, or a file"
SHOWN = 4  # of the names of features
ROWS_BY = ("label", "weights", "offset", "missing")
COLUMNS_BY = ("categories", "ignore")
READ_BY = ("format", *ROWS_BY)
NAMES = (*NAMED_PROBLEMS, *EQUATIONS)  # of problems
DATA = ("data", "test", *READ_BY, *COLUMNS_BY, "memory_map")
OF_NETWORKS = ("loss", "targets", "engine", "check", "memory_limit")
TARGETS_OF = {  # those of other losses are values
    SOFTMAX_LOSS: "classes",
    SIGMOID_LOSS: "signs",
    **dict.fromkeys(
        (
            "sparse_categorical_crossentropy",
            "SparseCategoricalCrossentropy",
            "categorical_crossentropy",
            "CategoricalCrossentropy",
            "binary_crossentropy",
            "BinaryCrossentropy",
            "bce",
            "BCE",
        ),
        "classes",
    ),
}


@dataclass(frozen=True, kw_only=True)
class SourceRequest(Options, group="data"):
    """The data set."""

    data: str | None = option(None, metavar="NAME|FILE", help=NAMED_DATA)
    format: str | None = option(
        None, choices=tuple(SOURCES), flag="--data-format", former="--format", advanced=True,
        help="default: by the file's name",
    )  # fmt: skip
    label: str | None = option(
        None, metavar="NAME",
        help="the labels: a column (default: the last one), a data set of an HDF5 or NPZ file "
        "(default: y), or for NPY and IDX another file (default: the one beside the data)",
    )  # fmt: skip
    weights: str | None = option(
        None, metavar="NAME",
        help="how much each row counts: a column of a CSV file, or a data set of HDF5 or NPZ; "
        "default: 1; not for networks",
    )  # fmt: skip
    offset: str | None = option(
        None, metavar="NAME",
        help="what is added to each row's linear predictor, such as a logarithm of exposure: a "
        "column or a data set, as `weights`; not for networks",
    )  # fmt: skip
    missing: str | None = option(
        None, choices=MISSING,
        help="what becomes of missing values in CSV: refuse them, the default; drop their rows; or "
        "take them as a level, a feature NAME=(missing) of 0 and 1",
    )  # fmt: skip
    categories: tuple[str, ...] = option(
        (), metavar="NAME",
        help="columns of a CSV file whose numbers are codes; columns of texts are categories "
        "anyway, a feature NAME=TEXT of 0 and 1 for each text",
    )  # fmt: skip
    ignore: tuple[str, ...] = option(
        (), metavar="NAME", help="columns of a CSV file that are no features, such as identifiers"
    )
    memory_map: bool = option(
        False, advanced=True,
        help="leave the rows of an HDF5, NPZ or NPY file there, and read those that a step takes: "
        "for data larger than memory",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HeldOutRequest(Options, group="data"):
    """Test rows, for commands that evaluate a model on them."""

    test: str | None = option(None, metavar="FILE", help="test rows, in the format of the data")


@dataclass(frozen=True, kw_only=True)
class FeatureRequest(Options, group="data"):
    """The features that are computed from the rows."""

    features: str = option(
        "raw", choices=("raw", "fourier"), advanced=True,
        help="take the columns, or random Fourier features",
    )  # fmt: skip
    feature_count: int | None = option(
        None, low=1, metavar="D", advanced=True, help="number of Fourier features"
    )
    bandwidth: float | None = option(
        None, above=0, metavar="S", advanced=True, help="width of their kernel"
    )

    def _check(self) -> None:
        super()._check()
        given = self.feature_count is not None, self.bandwidth is not None
        if self.features == "fourier" and not all(given):
            raise InputError("`features` fourier needs `feature_count` and `bandwidth`; give both")
        if self.features != "fourier" and any(given):
            raise InputError("`feature_count` and `bandwidth` go with `features` fourier")


@dataclass(frozen=True, kw_only=True)
class NumberRequest(Seeded, group="numbers"):
    """The ridge and the precision."""

    ridge: float | None = option(
        None, low=0, metavar="R",
        help=f"add (R/2) ||x||^2 to the objective; default: 0; logistic regression: {RIDGE:g}",
    )  # fmt: skip
    dtype: str | None = option(
        None,
        choices=("float32", "float64"),
        help="precision of products; default: float32, of differential equations float64",
    )


@dataclass(frozen=True, kw_only=True)
class LogisticRequest(SourceRequest, FeatureRequest, NumberRequest):
    """Logistic regression over data."""

    intercept: bool = option(
        False, group="data",
        help="fit a constant beside the columns, the last coefficient, without ridge; the first "
        "level of each text column then has no feature: it is the reference",
    )  # fmt: skip

    @property
    def usual_dtype(self) -> str:
        """The precision of products where none is given."""
        return "float32"


@dataclass(frozen=True, kw_only=True)
class ProblemRequest(
    LogisticRequest, group="problem", about="by default logistic regression over `data`"
):
    """Any problem; by default logistic regression over data."""

    problem: str | None = option(
        None, metavar="NAME|MODULE:FUNCTION", one_of="problem",
        help=f"{', '.join(NAMES)} (`hesscomp problems` describes them); or your own "
        "Python function, which is called with the world and returns a problem",
    )  # fmt: skip
    model: str | None = option(
        None, metavar="M.keras", one_of="problem", help="a saved model of Keras' own layers"
    )
    viscosity: float | None = option(
        None, low=LEAST_VISCOSITY, high=MOST_VISCOSITY, metavar="NU", advanced=True,
        help="viscosity of `problem` burgers; default: 0.1 / pi",
    )  # fmt: skip
    loss: str | None = option(
        None, metavar="L",
        help=f"the loss of `model`: {SOFTMAX_LOSS}, {SIGMOID_LOSS}, squared-error, or one that "
        "Keras knows by name, such as sparse_categorical_crossentropy; of several outputs one for "
        "all, or OUTPUT=L,OUTPUT=L; default: the loss that the model was compiled with",
    )  # fmt: skip
    targets: str | None = option(
        None, choices=TARGETS, advanced=True,
        help="how labels become targets; default: as the loss needs them",
    )  # fmt: skip
    engine: str | None = option(
        None, metavar="auto|layer-wise|generic", advanced=True,
        help="algorithm of the products; default: auto",
    )  # fmt: skip
    check: str | None = option(
        None, choices=("auto", "full", "off"), advanced=True,
        help="check a network first: compare its loss and derivatives on a few rows with those of "
        "Keras and TensorFlow; auto, the default, takes at most 2 seconds, full checks everything",
    )  # fmt: skip
    memory_limit: float | None = byte_size(
        metavar="BYTES", advanced=True,
        help="most memory that one product takes on a rank, such as 2G; default: "
        f"{format_bytes(PRODUCT_BYTES)}",
    )  # fmt: skip

    @property
    def from_python(self) -> bool:
        """Whether the user's own Python function makes the problem."""
        return self.problem is not None and ":" in self.problem

    def _check(self) -> None:
        named = NAMED_PROBLEMS.get(self.problem or "")
        network = self.model is not None or (named is not None and named.network is not None)
        if network and self.features != "raw":
            raise InputError(f"`features` {self.features} does not go with a network; leave it out")
        super()._check()
        if self.model is not None and self.data is None:
            raise Incomplete("`model` needs `data`; give it too")
        if self.data is None and self.problem is None and self.model is None:
            raise Incomplete("no data and no problem; name one with `data`, `problem` or `model`")
        check_viscosity(self.problem, self.viscosity)
        if self.intercept and (network or self.from_python):
            raise InputError("`intercept` goes with logistic regression; leave it out")
        if self.model is not None:
            return
        given = f"`problem` {self.problem}"
        if network:
            refuse(self, ("loss",), given)
        elif self.problem in EQUATIONS:
            refuse(self, (*DATA, "loss", "targets", "check"), f"{given}, a differential equation")
        elif self.problem is None or named is not None:
            refuse(self, OF_NETWORKS, "logistic regression")
        elif self.from_python:
            refuse(self, (*DATA, *OF_NETWORKS, "ridge", "dtype"), f"{given}, which decides it")
            module, _, name = self.problem.partition(":")
            if not all(part.isidentifier() for part in (name, *module.split("."))):
                raise InputError(f"{given}: write package.module:function")
        else:
            raise InputError(
                f"{given}: no such problem; take one of {', '.join(NAMES)}, or "
                "package.module:function"
            )


@dataclass(frozen=True)
class Subject:
    """A problem and how it is trained."""

    problem: "Problem"
    recipe: Recipe | None  # None for Newton's method
    data: Dataset | None = None  # None where the user's own function makes the problem


def with_dtype(subject: Subject, dtype: str) -> Subject:
    """Return a subject whose products run in `dtype`, where that is float64 and its own is float32.

    The given subject stays as it is, and shares its data and what it has compiled; a linear model
    takes one more copy of float32 data. Problems of other classes decide their own precision.
    """
    from hesscomp.problems.differentiable import DifferentiableProblem
    from hesscomp.problems.linear import GeneralizedLinearModel

    problem = subject.problem
    if dtype != "float64" or problem.dtype == "float64":
        return subject
    if isinstance(problem, GeneralizedLinearModel):
        return replace(subject, problem=problem.exact())
    if isinstance(problem, DifferentiableProblem):
        other = copy.copy(problem)
        other.dtype = dtype
        return replace(subject, problem=other)
    return subject


def make_problem(request: ProblemRequest, world: World, progress: Progress = silent) -> Subject:
    """Make the problem that a request names, with its data; report both. Collective.

    Loads TensorFlow on this rank's GPU, with the world's number of threads where it is set.

    Raises
    ------
    InputError
        For data, a model or a function that cannot be used.
    """
    named = NAMED_PROBLEMS.get(request.problem or "")
    if request.model is not None:
        subject = _of_file(request, world, progress)
    elif named is not None and named.network is not None:
        subject = _network(request, world, progress)
    elif request.problem is None or named is not None:
        source = None if named is None else named.data
        data, problem = make_logistic(request, world, progress, source)
        return Subject(problem, None, data)
    elif request.problem in EQUATIONS:
        subject = _equation(request, world)
    else:
        subject = Subject(_from_python(request, world), ANY)
    problem = subject.problem
    progress(
        f"{problem.name} on {problem.dataset_name}: {problem.rows} rows, {problem.n} parameters"
        + (problem.derivatives and f"; {problem.derivatives}")
    )
    return subject


def read_data(
    request: SourceRequest, world: World, progress: Progress, targets: str | None,
    source: str | None = None,
) -> Dataset:  # fmt: skip
    """Return the data set of a request, or else of `source`; report its columns."""
    named = request.data or source
    assert named is not None  # a request without data is of a named problem
    asked = {name: getattr(request, name) for name in READ_BY}
    dataset = load_dataset(
        named, world, **{name: value for name, value in asked.items() if value is not None},
        test=getattr(request, "test", None), targets=targets, categories=request.categories,
        ignore=request.ignore, reference=getattr(request, "intercept", False),
        memory_map=request.memory_map,
    )  # fmt: skip
    if dataset.label_name is not None:
        names = [name or "(no name)" for name in dataset.feature_names or ()]
        more = "" if len(names) <= SHOWN else f", ... {names[-1]}"
        progress(
            f"label: {dataset.label_name}; {len(names)} "
            f"feature{'' if len(names) == 1 else 's'}: {', '.join(names[:SHOWN])}{more}"
        )
    if dataset.encoding is not None and (told := dataset.encoding.describe()):
        progress(f"encoded: {told}")
    return dataset


def make_logistic(
    request: LogisticRequest, world: World, progress: Progress = silent, source: str | None = None
):
    """Return the data set, with Fourier features if asked, and its problem. Collective."""
    dtype, family = request.dtype or request.usual_dtype, getattr(request, "family", "logistic")
    dataset = read_data(request, world, progress, known_family(family).targets, source)
    if request.feature_count is not None and request.bandwidth is not None:
        dataset = fourier_features(
            dataset, world, request.feature_count, request.bandwidth, seed=request.seed, dtype=dtype
        )
    if getattr(request, "standardize", False):
        dataset = standardized(dataset, world, centre=request.intercept)
    start_tensorflow(world)  # only now: errors in the data are reported without loading it
    from hesscomp.problems.logistic import linear_problem

    ridge = RIDGE if request.ridge is None else request.ridge
    return dataset, linear_problem(
        dataset, world, family, ridge=ridge, dtype=dtype, intercept=request.intercept
    )


def start_tensorflow(world: World) -> None:
    """Import TensorFlow on this rank's GPU, if any, with the world's threads, if set."""
    from hesscomp.curvature.tensorflow import set_threads, use_own_gpu

    place = world.place_here()
    with world.phase("choosing a GPU"):
        use_own_gpu(place)
    if world.threads > 0:
        set_threads(world.threads)


def _network(request: ProblemRequest, world: World, progress: Progress) -> Subject:
    """Return the problem of a named network."""
    made = NAMED_PROBLEMS[request.problem or ""]
    source = made.data
    if source == "mnist" and request.data is None and not os.environ.get(FOLDER):
        source = "mnist-sample"
        progress(f"data: {source}, 5,000 images; {FOLDER} names no folder with all of MNIST")
    data = read_data(request, world, progress, request.targets or made.targets, source)
    start_tensorflow(world)
    from hesscomp.problems.keras import KerasProblem
    from hesscomp.problems.models import build_network

    assert made.network is not None  # it is a network's
    model = build_network(made.network, request.problem or "", request.seed)
    problem = KerasProblem(model, made.loss, data, world, **_options(request))
    return Subject(problem, made.recipe, data)


def _equation(request: ProblemRequest, world: World) -> Subject:
    """Return the problem of a named differential equation."""
    start_tensorflow(world)
    from hesscomp.problems.equations import equation

    problem = equation(
        request.problem or "", world, viscosity=request.viscosity, seed=request.seed,
        ridge=request.ridge or 0.0, dtype=request.dtype or "float64",
        memory=request.memory_limit or PRODUCT_BYTES, engine=request.engine or "auto",
    )  # fmt: skip
    return Subject(problem, ANY)


def _of_file(request: ProblemRequest, world: World, progress: Progress) -> Subject:
    """Return the problem of a Keras model in a file."""
    loss, weights = _losses(request.loss or ""), None
    names = own_names(request.data or "", request.format)
    data = None
    if request.loss is not None and not names:
        data = _labelled(request, world, progress, loss)
    start_tensorflow(world)
    from hesscomp.problems.keras import KerasProblem
    from hesscomp.problems.models import compiled_loss, load_model

    path = request.model or ""
    with world.phase(f"reading the model {path}"):
        if request.loss is None:
            loss, weights = compiled_loss(path)
        model = load_model(path)
    if request.loss is None:
        progress(f"loss: {_words(loss)}, with which the model was compiled")
    given = {**_options(request), "loss_weights": weights}
    if names:
        problem = KerasProblem(model, loss, _named(request, names, model, world), world, **given)
        problem.dataset_name = request.data or ""
        return Subject(problem, ANY)
    data = data or _labelled(request, world, progress, loss)
    return Subject(KerasProblem(model, loss, data, world, **given), ANY, data)


def _labelled(request: ProblemRequest, world: World, progress: Progress, loss) -> Dataset:
    """Return the rows of a model with one input, with targets as its loss needs them."""
    targets = TARGETS_OF.get(loss if isinstance(loss, str) else type(loss).__name__, "values")
    return read_data(request, world, progress, request.targets or targets)


def _named(request: ProblemRequest, names: list[str], model, world: World) -> tuple:
    """Return a model's inputs and targets, which a file holds by their names."""
    given = "a file that has an array for each input and output"
    refuse(request, (*ROWS_BY, *COLUMNS_BY, "memory_map", "test", "targets"), given)
    from hesscomp.problems.several import by_names

    path = request.data or ""
    with world.phase(f"reading the names in {path}"):
        inputs, targets = by_names(model, names, path)
    arrays = read_named(path, [*inputs, *targets], world)
    X, y = ({name: arrays[name] for name in names} for names in (inputs, targets))
    return X, y if len(model.outputs) > 1 else arrays[targets[0]]


def _options(request: ProblemRequest) -> dict:
    """Return the options of `KerasProblem`."""
    return {
        "ridge": request.ridge or 0.0,
        "dtype": request.dtype or "float32",
        "memory": request.memory_limit or PRODUCT_BYTES,
        "engine": request.engine or "auto",
        "check": request.check or "auto",
    }


def _losses(text: str):
    """Return the name of a loss, or a dict of names by output."""
    if "=" not in text:
        return text
    pairs = [part.partition("=") for part in text.split(",")]
    return {output.strip(): loss.strip() for output, _, loss in pairs}


def _words(losses) -> str:
    """Return the names of losses, nested as Keras takes them."""
    if isinstance(losses, dict):
        return ", ".join(f"{output}={_words(loss)}" for output, loss in losses.items())
    if isinstance(losses, list):
        return ", ".join(map(_words, losses))
    return losses if isinstance(losses, str) else getattr(losses, "name", "none")


def _from_python(request: ProblemRequest, world: World):
    """Return the problem that the user's function makes."""
    assert request.problem is not None
    module, _, name = request.problem.partition(":")
    start_tensorflow(world)
    from hesscomp.problems.contract import check_attributes
    from hesscomp.problems.problem import Problem

    if os.getcwd() not in sys.path:  # `python -m` adds it, the script `hesscomp` does not
        sys.path.insert(0, os.getcwd())
    with world.phase(f"importing {module}"):
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"`problem` {request.problem}: {error}") from error
        if not callable(function):
            raise InputError(
                f"`problem` {request.problem}: is a {type(function).__name__}, not a function"
            )
    problem = function(world)
    if not isinstance(problem, Problem):
        raise InputError(
            f"`problem` {request.problem}: returned a {type(problem).__name__}; return a "
            "KerasProblem, FunctionProblem or another hesscomp.problems.problem.Problem"
        )
    with world.phase("checking the problem"):
        check_attributes(problem)
    return problem
