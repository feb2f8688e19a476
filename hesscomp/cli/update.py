"""`hesscomp update`: bring a factor up to date with new data or a new point."""

import argparse
from dataclasses import replace
from pathlib import Path

from hesscomp.cli.known import check_fit, load_known
from hesscomp.cli.options import (
    add_data_arguments,
    add_point_argument,
    add_problem_arguments,
    add_sketch_arguments,
    check_sketch,
    load_hessian,
)
from hesscomp.cli.output import add_factor_outputs, deliver_factor
from hesscomp.cli.progress import Progress
from hesscomp.cli.session import Session
from hesscomp.compression import check_request, correct
from hesscomp.errors import InputError
from hesscomp.factors import LowRank


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F.h5", help="the factor to start from")
    add_data_arguments(parser)
    request = parser.add_argument_group("correction")
    request.add_argument(
        "--rank", type=int, default=10, metavar="K", help="eigenpairs added, those of H - F"
    )
    add_point_argument(request, default=None, help="the point; default: the one in F.h5")
    add_sketch_arguments(request)
    add_problem_arguments(request)
    add_factor_outputs(parser)


def run(options: argparse.Namespace, session: Session) -> int:
    world = session.world
    check_request(options.rank, None)
    check_sketch(options)
    session.check_outputs(options.out, options.report)
    known = load_known(options.file, session)
    if options.at is None and known.parameters is None:
        raise InputError(f"{options.file}: holds no point; name one with --at zero or --at FILE")
    hessian, startup = load_hessian(options, session, at=options.at or options.file)
    check_fit(known, hessian, options.file)
    with world.ledger.timed("update"), Progress(session, "product columns"):
        factor = correct(
            hessian,
            known,
            options.rank,
            method=options.method,
            oversample=options.oversample,
            power=options.power,
            test_matrix=options.test_matrix,
            seed=options.seed,
        )
    factor = _named(hessian.problem.describe(factor, hessian.x), known, options.file)
    deliver_factor(factor, options, session, startup)
    before = known.provenance.columns
    took = f"; the factor it started from took {before}" if before >= 0 else ""
    session.say(f"{factor.provenance.columns} product columns{took}")
    return 0


def _named(factor: LowRank, known: LowRank, path: str) -> LowRank:
    """`factor`, whose provenance says which factor it was started from."""
    source = known.provenance
    data = f" on {source.rows} rows of {source.dataset}" if source.dataset else ""
    print_ = f" {source.data_fingerprint[:19]}" if source.data_fingerprint else ""
    method = (
        f"{factor.provenance.method} correction of {Path(path).name} "
        f"({source.method or 'factor'} of rank {known.rank}{data}{print_})"
    )
    return replace(factor, provenance=replace(factor.provenance, method=method))
