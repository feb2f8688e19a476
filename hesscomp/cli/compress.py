"""`hesscomp compress`: a certified low-rank factor of a Hessian at a point."""

import argparse

from hesscomp.analysis.reached import request_reached
from hesscomp.cli.curvature import (
    add_operator_arguments,
    add_point_argument,
    check_curvature,
    find_points,
    load_curvature,
)
from hesscomp.cli.interruption import add_run_argument
from hesscomp.cli.options import (
    add_problem_arguments,
    add_sketch_arguments,
    check_sketch,
    check_subject,
    factor_request,
    refuse,
)
from hesscomp.cli.output import add_factor_outputs, deliver_factor
from hesscomp.cli.progress import Progress
from hesscomp.cli.session import Session
from hesscomp.cli.subject import add_subject_arguments
from hesscomp.cli.trajectory import compress_trajectory
from hesscomp.compression import check_request, compress

FROBENIUS = "frobenius"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject_arguments(parser)
    request = parser.add_argument_group("compression")
    size = request.add_mutually_exclusive_group()
    size.add_argument(
        "--rank", type=int, metavar="K", help="eigenpairs wanted (40 unless a tolerance)"
    )
    size.add_argument(
        "--tolerance", type=float, metavar="T", help="smallest rank with ||H - F|| <= T ||H||"
    )
    request.add_argument(
        "--tolerance-norm",
        choices=(FROBENIUS, "spectral"),
        help=f"with --tolerance; default {FROBENIUS}",
    )
    request.add_argument("--max-rank", type=int, metavar="K", help="with --tolerance; default n")
    add_operator_arguments(request)
    add_point_argument(request, several=True)
    add_sketch_arguments(request)
    add_problem_arguments(request, "0, logistic regression 1e-3")
    add_factor_outputs(parser)
    add_run_argument(parser, "products that are done")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    tolerance = options.tolerance
    check_request(_rank(options), tolerance, options.max_rank, options.tolerance_norm or FROBENIUS)
    if tolerance is None:
        refuse(options, ("max_rank", "tolerance_norm"), "a --rank; they are for a --tolerance")
    else:
        refuse(options, ("max_columns", "max_basis"), "a --tolerance; they are for a --rank")
    check_sketch(options)
    check_subject(options)
    check_curvature(options)


def _rank(options) -> int | None:
    return 40 if options.rank is None and options.tolerance is None else options.rank


def run(options: argparse.Namespace, session: Session) -> int:
    world = session.world
    check(options)
    rank = _rank(options)
    session.check_outputs(options.out, options.report, options.save_point)
    points = find_points(options, session)
    if len(points) > 1:
        return compress_trajectory(points, rank, options, session)
    curvature, startup = load_curvature(options, session, *points)
    request = factor_request(rank, options)
    with curvature.journaled(options.run, request) as operator:
        with world.ledger.timed("compress"), Progress(session, "product columns"):
            factor = compress(operator, **request)
        factor = curvature.describe(factor)
        deliver_factor(factor, options, session, startup)
    if not factor.certificate.converged:
        session.say(f"{request_reached(factor)}, the largest allowed; take a larger --max-rank")
        return 3
    return 0
