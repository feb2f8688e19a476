"""Options that several commands share."""

import argparse

from hesscomp.cli.session import Session, add_thread_argument
from hesscomp.compression import METHODS, SketchOptions
from hesscomp.datasets import fourier_features, load_dataset
from hesscomp.datasets.files import SOURCES
from hesscomp.errors import InputError
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


def add_problem_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ridge", type=float, default=1e-3, metavar="R", help="(R/2) ||x||^2")
    parser.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="of curvature products"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all random numbers")
    add_thread_argument(parser)


def add_sketch_arguments(parser: argparse.ArgumentParser) -> None:
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
    SketchOptions(power=options.power, seed=options.seed, oversample=options.oversample).validate()


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
