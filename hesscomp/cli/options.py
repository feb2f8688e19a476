"""Options that several commands share."""

import argparse

from hesscomp.cli.session import Session, add_rank_arguments
from hesscomp.compression import METHODS, SketchOptions
from hesscomp.datasets import Dataset, fourier_features, load_dataset
from hesscomp.datasets.files import SOURCES
from hesscomp.datasets.load import NAMED
from hesscomp.errors import Incomplete, InputError
from hesscomp.parallel.layout import PANEL
from hesscomp.problems.catalogue import NAMED_PROBLEMS
from hesscomp.sketching.catalogue import TEST_MATRICES

KRYLOV = "krylov"
KRYLOV_OPTIONS = ("block", "max_columns", "max_basis", "residual_tolerance")
SHOWN = 4  # of the names of features
RIDGE = 1e-3  # of logistic regression; networks have none unless asked for


def add_data_arguments(
    parser: argparse.ArgumentParser, required: bool = True, test: bool = False
) -> None:
    """`test` says whether the command computes anything on test rows."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", required=required, metavar="NAME|FILE", help=f"{', '.join(NAMED)}, or a file"
    )
    add_format_arguments(data, test)
    data.add_argument(
        "--features", choices=("raw", "fourier"), default="raw", help="fourier lifts the data"
    )
    data.add_argument("--feature-count", type=int, metavar="D", help="number of Fourier features")
    data.add_argument("--bandwidth", type=float, metavar="S", help="of the Fourier features")


def add_format_arguments(parser, test: bool = False) -> None:
    parser.add_argument("--format", choices=tuple(SOURCES), help="default: by extension")
    parser.add_argument(
        "--label",
        metavar="NAME",
        help="label column, data set or (NPY, IDX) file; default: the last, y, beside",
    )
    if test:
        parser.add_argument("--test", metavar="FILE", help="test data of the same form")


def add_problem_arguments(parser: argparse.ArgumentParser, ridge: str = f"{RIDGE:g}") -> None:
    """`ridge` says what the default is."""
    parser.add_argument("--ridge", type=float, metavar="R", help=f"(R/2) ||x||^2; default: {ridge}")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        help="of curvature products; default: float32",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all random numbers")
    parser.add_argument(
        "--reproducible",
        action="store_true",
        help="the same bits on any number of ranks of as many threads; up to 1.3 times the cost",
    )
    add_rank_arguments(parser)


def add_sketch_arguments(parser: argparse.ArgumentParser) -> None:
    """What a factor's sketch is made with."""
    add_range_arguments(parser)
    parser.add_argument(
        "--layout",
        choices=("auto", "replicated", "rows"),
        default="auto",
        help="all rows of the sketch on every rank, or a slab on each; auto: by memory",
    )
    parser.add_argument(
        "--panel",
        type=int,
        metavar="B",
        help=f"with --layout rows: columns gathered at once; default {PANEL}",
    )
    parser.add_argument(
        "--block", type=int, metavar="B", help="krylov: columns of a block; default 16 to 32"
    )
    parser.add_argument(
        "--max-columns",
        type=int,
        metavar="C",
        help="krylov: most columns; default: as many as eigh",
    )
    parser.add_argument(
        "--max-basis", type=int, metavar="M", help="krylov: most columns held before a restart"
    )
    parser.add_argument(
        "--residual-tolerance", type=float, metavar="T",
        help="krylov: a pair counts as accurate where ||H u - w u|| <= T |w_1|; default "
        f"{SketchOptions.residual_tolerance:g}",
    )  # fmt: skip


def sketch_request(options) -> dict:
    """The arguments of `compress` that `add_sketch_arguments` asks for."""
    names = (
        *("method", "oversample", "power", "test_matrix", "seed", "layout", "panel"),
        *("block", "max_columns", "max_basis", "residual_tolerance"),
    )
    request = {name: getattr(options, name) for name in names}
    if request["residual_tolerance"] is None:
        request["residual_tolerance"] = SketchOptions.residual_tolerance
    elif options.method == "auto":  # only krylov has a use for it
        request["method"] = KRYLOV
    if request["panel"] is None:
        request["panel"] = PANEL
    return request


def factor_request(rank: int | None, options) -> dict:
    """The arguments of `compress` by the options of the command of that name."""
    size = {"tolerance": options.tolerance, "max_rank": options.max_rank}
    size["tolerance_norm"] = options.tolerance_norm or "frobenius"
    return {"rank": rank, **size, **sketch_request(options)}


def add_range_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method", choices=("auto", *METHODS), default="auto", help="of compression"
    )
    parser.add_argument(
        "--test-matrix", choices=tuple(TEST_MATRICES), default="gaussian", help="of the sketch"
    )
    parser.add_argument(
        "--oversample", type=int, default=10, metavar="P", help="sketch columns beyond the rank"
    )
    parser.add_argument(
        "--power", type=int, default=1, metavar="Q", help="further multiplications by H"
    )


def check_sketch(options) -> None:
    """Refuse sketch options that are out of range, before any work is done."""
    given = {name: getattr(options, name) for name in ("power", "seed", "oversample")}
    if hasattr(options, "layout"):
        krylov = {name: getattr(options, name) for name in KRYLOV_OPTIONS}
        given |= {name: value for name, value in krylov.items() if value is not None}
        if "max_basis" in given:
            given["basis"] = given.pop("max_basis")
        if options.panel is not None and options.panel < 1:
            raise InputError(f"--panel must be at least 1, not {options.panel}")
    SketchOptions(**given).validate()
    if hasattr(options, "layout"):
        if options.method not in ("auto", KRYLOV):
            refuse(options, KRYLOV_OPTIONS, f"--method {options.method}; take {KRYLOV}")
        if options.layout != "rows":
            refuse(options, ("panel",), f"--layout {options.layout}; take --layout rows")


def refuse(options, names, what: str) -> None:
    """Refuse options that are given and would change nothing."""
    for name in names:
        if getattr(options, name, None) is not None:
            raise InputError(f"--{name.replace('_', '-')} does not go with {what}")


def check_features(options) -> None:
    """Refuse options of the features that do not go together."""
    given = options.feature_count is not None, options.bandwidth is not None
    if options.features == "fourier" and not all(given):
        raise InputError("--features fourier needs --feature-count D and --bandwidth S")
    if options.features != "fourier" and any(given):
        raise InputError("--feature-count and --bandwidth go with --features fourier")


def check_subject(options) -> None:
    """Refuse options that name no problem, before any work is done."""
    named = NAMED_PROBLEMS.get(options.problem)
    network = options.model is not None or (named is not None and named.network is not None)
    if network and options.features != "raw":
        raise InputError(f"--features {options.features} does not go with a network")
    check_features(options)
    if options.model is not None and (options.loss is None or options.data is None):
        raise Incomplete("--model needs --loss and --data")
    if options.data is None and options.problem is None and options.model is None:
        raise Incomplete("name the data with --data, or a problem with --problem or --model")


def load_data(options, session: Session, targets: str | None, source: str | None = None) -> Dataset:
    """The data set that the options name, or `source`; says which columns it is made of."""
    dataset = load_dataset(
        options.data if source is None else source,
        session.world,
        format=options.format,
        label=options.label,
        test=getattr(options, "test", None),
        targets=targets,
    )
    if dataset.label_name is not None:
        names = [name or "(no name)" for name in dataset.feature_names]
        more = "" if len(names) <= SHOWN else f", ... {names[-1]}"
        session.say(
            f"label: {dataset.label_name}; {len(names)} "
            f"feature{'' if len(names) == 1 else 's'}: {', '.join(names[:SHOWN])}{more}"
        )
    return dataset


def load_logistic(options, session: Session):
    """The data set (lifted if asked) and its logistic regression problem."""
    fourier, dtype = options.features == "fourier", options.dtype or "float32"
    check_features(options)
    dataset = load_data(options, session, "signs")
    if fourier:
        dataset = fourier_features(
            dataset,
            session.world,
            options.feature_count,
            options.bandwidth,
            seed=options.seed,
            dtype=dtype,
        )
    session.start_tensorflow()  # after the data: what is wrong with them is said without it
    from hesscomp.problems.logistic import LogisticRegression

    ridge = RIDGE if options.ridge is None else options.ridge
    return dataset, LogisticRegression(dataset, session.world, ridge=ridge, dtype=dtype)
