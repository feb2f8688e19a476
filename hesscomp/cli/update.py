"""`hesscomp update`: bring a factor up to date with new data or a new point."""

import argparse
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from hesscomp.cli.curvature import (
    add_operator_arguments,
    add_point_argument,
    check_curvature,
    load_curvature,
)
from hesscomp.cli.interruption import add_run_argument
from hesscomp.cli.known import check_fit, load_known
from hesscomp.cli.options import (
    add_problem_arguments,
    add_sketch_arguments,
    check_sketch,
    check_subject,
    sketch_request,
)
from hesscomp.cli.output import add_factor_outputs, deliver_factor
from hesscomp.cli.progress import Progress
from hesscomp.cli.session import Session
from hesscomp.cli.subject import add_subject_arguments
from hesscomp.compression import check_request, correct
from hesscomp.errors import InputError
from hesscomp.factors import LowRank


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F.h5", help="the factor to start from")
    add_subject_arguments(parser)
    request = parser.add_argument_group("correction")
    request.add_argument(
        "--rank", type=int, default=10, metavar="K", help="eigenpairs of H - F that are added"
    )
    request.add_argument(
        "--max-rank", type=int, metavar="K", help="eigenpairs kept of the sum; default: all"
    )
    add_operator_arguments(request)
    add_point_argument(request, help="the point; default: the one in F.h5")
    add_sketch_arguments(request)
    add_problem_arguments(request, "that of F.h5")
    add_factor_outputs(parser)
    add_run_argument(parser, "products that are done")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    check_request(options.rank, None, options.max_rank)
    check_sketch(options)
    check_subject(options)
    check_curvature(options)
    if options.run is not None and os.path.realpath(options.out) == os.path.realpath(options.file):
        raise InputError(
            f"--out {options.out}: with --run name another file: a run goes on from the factor it "
            "began with"
        )


def run(options: argparse.Namespace, session: Session) -> int:
    world = session.world
    check(options)
    session.check_outputs(options.out, options.report, options.save_point)
    known = load_known(options.file, session)
    if options.at is None and known.parameters is None:
        raise InputError(f"{options.file}: holds no point; name one with --at zero or --at FILE")
    if options.ridge is None and ":" not in (options.problem or ""):
        options.ridge = known.provenance.ridge
    if options.ridge is not None and np.isnan(options.ridge):
        raise InputError(f"{options.file}: holds no ridge; name one with --ridge R")
    curvature, startup = load_curvature(options, session, options.at or options.file)
    check_fit(known, curvature, options.file)
    # F answers for the test vectors that made it: the same ones would miss what it misses.
    request = sketch_request(options) | {"seed": max(options.seed, known.provenance.seed) + 1}
    asked = {"rank": options.rank, **request, "known factor": _digest(known)}
    with curvature.journaled(options.run, asked) as operator:
        with world.ledger.timed("update"), Progress(session, "product columns"):
            factor = correct(operator, known, options.rank, **request)
            if options.max_rank is not None:
                factor = factor.truncate(options.max_rank)
        factor = _named(curvature.describe(factor), known, options.file)
        deliver_factor(factor, options, session, startup)
    session.say(
        f"{_cost(factor)} and {factor.certificate.relative_error:.2e} of ||H||_F; "
        f"{Path(options.file).name}: {_cost(known)} and {known.certificate.relative_error:.2e} "
        "of its own"
    )
    return 0


def _cost(factor: LowRank) -> str:
    columns = factor.provenance.columns
    return f"{columns if columns >= 0 else 'unknown'} product columns"


def _digest(factor: LowRank) -> str:
    """By its eigenvalues, which all ranks hold."""
    return hashlib.sha256(factor.eigenvalues.tobytes()).hexdigest()


def _named(factor: LowRank, known: LowRank, path: str) -> LowRank:
    """`factor`, whose provenance says which factor it was started from."""
    source = known.provenance
    facts = [f"{source.method or 'a factor'} of rank {known.rank}"]
    if source.rows >= 0:
        facts.append(f"{source.rows} rows")
    if source.data_fingerprint:
        facts.append(f"data {source.data_fingerprint[:19]}")
    method = f"{factor.provenance.method} correction of {Path(path).name} ({'; '.join(facts)})"
    return replace(factor, provenance=replace(factor.provenance, method=method))
