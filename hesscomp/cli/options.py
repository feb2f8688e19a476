"""Options that several commands share."""

import argparse

from hesscomp.cli.session import Session, add_thread_argument, seconds_since
from hesscomp.compression import METHODS, SketchOptions
from hesscomp.datasets import fourier_features, load_dataset
from hesscomp.datasets.files import SOURCES
from hesscomp.errors import InputError
from hesscomp.factors.point import load_point
from hesscomp.parallel.layout import PANEL
from hesscomp.sketching.catalogue import TEST_MATRICES


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, metavar="NAME|FILE", help="adult, or a file")
    add_format_arguments(data)
    data.add_argument(
        "--features", choices=("raw", "fourier"), default="raw", help="fourier lifts the data"
    )
    data.add_argument("--feature-count", type=int, metavar="D", help="number of Fourier features")
    data.add_argument("--bandwidth", type=float, metavar="S", help="of the Fourier features")


def add_format_arguments(parser) -> None:
    parser.add_argument("--format", choices=tuple(SOURCES), help="default: by extension")
    parser.add_argument(
        "--label",
        metavar="NAME",
        help="label column, data set or (NPY, IDX) file; default: the last, y, beside",
    )
    parser.add_argument("--test", metavar="FILE", help="test data of the same form")


def add_problem_arguments(parser: argparse.ArgumentParser, ridge: float | None = 1e-3) -> None:
    source = "" if ridge is not None else "; default: that of F.h5"
    parser.add_argument(
        "--ridge", type=float, default=ridge, metavar="R", help=f"(R/2) ||x||^2{source}"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="of curvature products"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all random numbers")
    parser.add_argument(
        "--reproducible",
        action="store_true",
        help="the same bits on any number of ranks of as many threads; up to 1.3 times the cost",
    )
    add_thread_argument(parser)


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
        "--panel", type=int, default=PANEL, metavar="B", help="columns gathered at once with rows"
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
        "--residual-tolerance", type=float, default=1e-6, metavar="T",
        help="krylov: a pair has converged where ||H u - w u|| <= T |w_1|",
    )  # fmt: skip


def sketch_request(options) -> dict:
    """The arguments of `compress` that `add_sketch_arguments` asks for."""
    names = (
        *("method", "oversample", "power", "test_matrix", "seed", "layout", "panel"),
        *("block", "max_columns", "max_basis", "residual_tolerance"),
    )
    return {name: getattr(options, name) for name in names}


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


def add_point_argument(parser, default: str | None = "zero", **more) -> None:
    parser.add_argument(
        "--at", default=default, metavar="zero|FILE.npy|FILE.h5", **{"help": "the point", **more}
    )


def check_sketch(options) -> None:
    """Refuse sketch options that are out of range, before any work is done."""
    given = {name: getattr(options, name) for name in ("power", "seed", "oversample")}
    if hasattr(options, "layout"):
        names = ("block", "max_columns", "residual_tolerance")
        given |= {name: getattr(options, name) for name in names}
        given["basis"] = options.max_basis
        if options.panel < 1:
            raise InputError(f"--panel must be at least 1, not {options.panel}")
    SketchOptions(**given).validate()


def load_problem(options, session: Session):
    """The data set (lifted if asked) and its logistic regression problem."""
    fourier = options.features == "fourier"
    if fourier and (options.feature_count is None or options.bandwidth is None):
        raise InputError("--features fourier needs --feature-count D and --bandwidth S")
    if not fourier and (options.feature_count is not None or options.bandwidth is not None):
        raise InputError("--feature-count and --bandwidth go with --features fourier")
    dataset = load_dataset(
        options.data,
        session.world,
        format=options.format,
        label=options.label,
        test=options.test,
        targets="signs",
    )
    if fourier:
        dataset = fourier_features(
            dataset,
            session.world,
            options.feature_count,
            options.bandwidth,
            seed=options.seed,
            dtype=options.dtype,
        )
    session.start_tensorflow()  # after the data: what is wrong with them is said without it
    from hesscomp.problems.logistic import LogisticRegression

    problem = LogisticRegression(dataset, session.world, ridge=options.ridge, dtype=options.dtype)
    return dataset, problem


def load_hessian(options, session: Session, *, at: str):
    """The Hessian of `load_problem`'s problem at the point `at`, ready for products.

    Returns it with the seconds that starting up took. Compilation is timed apart.
    """
    world = session.world
    with world.ledger.timed("startup"):
        _, problem = load_problem(options, session)
        from hesscomp.curvature.hessian import HessianOperator

        with world.phase(f"reading the point {at}"):
            x = problem.check_point(load_point(at, problem.n))
    startup = seconds_since(session.started)
    with world.ledger.timed("compile"):
        problem.compile()
    return HessianOperator(problem, x), startup
