"""The problem that a command works on: a named one, a Keras model's, one from Python, logistic."""

import importlib
import os
import sys
from dataclasses import dataclass

from hesscomp.cli.options import add_data_arguments, load_data, load_logistic, refuse
from hesscomp.cli.session import Session
from hesscomp.cli.sizes import format_bytes, parse_bytes
from hesscomp.datasets import Dataset
from hesscomp.datasets.mnist import FOLDER
from hesscomp.datasets.targets import TARGETS
from hesscomp.errors import InputError
from hesscomp.parallel.memory import PRODUCT_BYTES
from hesscomp.problems.catalogue import ANY, NAMED_PROBLEMS, SIGMOID_LOSS, SOFTMAX_LOSS, Recipe

TARGETS_OF = {  # those of other losses are values
    SOFTMAX_LOSS: "classes",
    SIGMOID_LOSS: "signs",
    "sparse_categorical_crossentropy": "classes",
    "binary_crossentropy": "classes",
}


@dataclass(frozen=True)
class Subject:
    """A problem and how it is trained; no recipe means by Newton's method.

    With its data set, unless a function of the user's makes the problem.
    """

    problem: object
    recipe: Recipe | None
    data: Dataset | None = None


def add_subject_arguments(parser, test: bool = False) -> None:
    """`test` says whether the command computes anything on test rows."""
    group = parser.add_argument_group("problem", "by default logistic regression over --data")
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--problem",
        metavar="NAME|MODULE:FUNCTION",
        help=f"{', '.join(NAMED_PROBLEMS)} (`hesscomp problems` says what they are); or a Python "
        "function of yours, called with the world, that returns a problem",
    )
    which.add_argument("--model", metavar="M.keras", help="a model of Keras' own layers")
    group.add_argument(
        "--loss",
        metavar="L",
        help=f"with --model: {SOFTMAX_LOSS}, {SIGMOID_LOSS}, squared-error, or a loss that Keras "
        "knows by name, such as sparse_categorical_crossentropy",
    )
    group.add_argument(
        "--targets", choices=TARGETS, help="what becomes of the labels; default: what the loss asks"
    )
    group.add_argument(
        "--engine", metavar="auto|layer-wise|generic", help="how products are made; default auto"
    )
    group.add_argument(
        "--check", choices=("auto", "full", "off"),
        help="compare a few rows of a network with Keras' own loss and TensorFlow's derivatives "
        "before any work; auto, the default, spends at most 2 seconds on it",
    )  # fmt: skip
    group.add_argument(
        "--memory-limit", metavar="BYTES",
        help=f"of one product on a rank, such as 2G; default {format_bytes(PRODUCT_BYTES)}",
    )  # fmt: skip
    add_data_arguments(parser, required=False, test=test)


def load_subject(options, session: Session) -> Subject:
    """The problem that the options name; says which, on what data and by which engine."""
    if options.memory_limit is not None:
        options.memory_limit = parse_bytes(options.memory_limit, "--memory-limit")
    named = NAMED_PROBLEMS.get(options.problem)
    if options.model is not None:
        subject = _from_model_file(options, session)
    elif named is not None and named.network is not None:
        subject = _named(options, session)
    elif options.problem is None or named is not None:
        refuse(
            options, ("loss", "targets", "engine", "check", "memory_limit"), "logistic regression"
        )
        options.data = options.data or (named and named.data)
        if options.data is None:
            raise InputError("name the data with --data, or a problem with --problem or --model")
        data, problem = load_logistic(options, session)
        return Subject(problem, None, data)
    elif ":" in options.problem:
        subject = Subject(_from_python(options, session), ANY)
    else:
        raise InputError(
            f"--problem {options.problem}: no such problem; take one of "
            f"{', '.join(NAMED_PROBLEMS)}, or package.module:function"
        )
    problem = subject.problem
    session.say(
        f"{problem.name} on {problem.dataset_name}: {problem.rows} rows, {problem.n} parameters"
        + (problem.derivatives and f"; {problem.derivatives}")
    )
    return subject


def _named(options, session: Session) -> Subject:
    named = NAMED_PROBLEMS[options.problem]
    refuse(options, ("loss",), f"--problem {options.problem}")
    source = options.data or named.data
    if source == "mnist" and options.data is None and not os.environ.get(FOLDER):
        source = "mnist-sample"
        session.say(f"data: mnist-sample, 5,000 images; {FOLDER} names no folder with all of MNIST")
    data = _load(options, session, source, options.targets or named.targets)
    from hesscomp.problems.models import build_network

    model = build_network(named.network, options.problem, options.seed)
    return Subject(_network(model, named.loss, data, options, session), named.recipe, data)


def _from_model_file(options, session: Session) -> Subject:
    if options.loss is None or options.data is None:
        raise InputError("--model needs --loss and --data")
    targets = options.targets or TARGETS_OF.get(options.loss, "values")
    data = _load(options, session, options.data, targets)
    from hesscomp.problems.models import load_model

    with session.world.phase(f"reading the model {options.model}"):
        model = load_model(options.model)
    return Subject(_network(model, options.loss, data, options, session), ANY, data)


def _load(options, session: Session, source: str, targets: str):
    refuse(options, ("feature_count", "bandwidth"), "a network")
    if options.features != "raw":
        raise InputError(f"--features {options.features} does not go with a network")
    data = load_data(options, session, targets, source)
    session.start_tensorflow()  # after the data: what is wrong with them is said without it
    return data


def _network(model, loss: str, data, options, session: Session):
    from hesscomp.problems.keras import KerasProblem

    return KerasProblem(
        model,
        loss,
        data,
        session.world,
        ridge=options.ridge or 0.0,
        dtype=options.dtype or "float32",
        memory=options.memory_limit or PRODUCT_BYTES,
        engine=options.engine or "auto",
        check=options.check or "auto",
    )


def _from_python(options, session: Session):
    """What the user's function makes of the world."""
    names = (
        *("data", "test", "label", "format", "loss", "targets", "engine", "check"),
        "memory_limit",
    )
    refuse(options, (*names, "ridge", "dtype"), f"--problem {options.problem}, which decides it")
    module, _, name = options.problem.partition(":")
    if not (name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise InputError(f"--problem {options.problem}: write package.module:function")
    session.start_tensorflow()
    from hesscomp.problems.problem import Problem

    if os.getcwd() not in sys.path:  # as `python -m` has it, and the script of `hesscomp` not
        sys.path.insert(0, os.getcwd())
    with session.world.phase(f"importing {module}"):
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"--problem {options.problem}: {error}") from error
        if not callable(function):
            raise InputError(
                f"--problem {options.problem}: is a {type(function).__name__}, no function"
            )
    problem = function(session.world)
    if not isinstance(problem, Problem):
        raise InputError(
            f"--problem {options.problem}: returned a {type(problem).__name__}; return a "
            "KerasProblem, FunctionProblem or another hesscomp.problems.problem.Problem"
        )
    return problem
