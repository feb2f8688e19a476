"""`hesscomp compress`: a certified low-rank factor of a Hessian at a point."""

import argparse
from dataclasses import asdict

from hesscomp.cli.options import (
    add_data_arguments,
    add_problem_arguments,
    add_sketch_arguments,
    check_sketch,
    load_problem,
)
from hesscomp.cli.progress import Progress
from hesscomp.cli.session import Session, seconds_since
from hesscomp.cli.tables import factor_table
from hesscomp.compression import check_request, compress
from hesscomp.factors import save_factor
from hesscomp.factors.point import load_point
from hesscomp.runs.report import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)
    request = parser.add_argument_group("compression")
    size = request.add_mutually_exclusive_group()
    size.add_argument(
        "--rank", type=int, metavar="K", help="eigenpairs wanted (40 unless a tolerance)"
    )
    size.add_argument(
        "--tolerance", type=float, metavar="T", help="smallest rank with ||H - F|| <= T ||H||"
    )
    request.add_argument("--tolerance-norm", choices=("frobenius", "spectral"), default="frobenius")
    request.add_argument("--max-rank", type=int, metavar="K", help="with --tolerance; default n")
    request.add_argument("--at", default="zero", metavar="zero|FILE.npy|FILE.h5", help="the point")
    add_sketch_arguments(request)
    add_problem_arguments(request)
    output = parser.add_argument_group("output")
    output.add_argument("--out", required=True, metavar="F.h5", help="the factor file")
    output.add_argument("--report", metavar="R.json", help="certificate, provenance and costs")


def run(options: argparse.Namespace, session: Session) -> int:
    world = session.world
    rank = 40 if options.rank is None and options.tolerance is None else options.rank
    check_request(rank, options.tolerance, options.max_rank, options.tolerance_norm)
    check_sketch(options)
    session.check_outputs(options.out, options.report)
    with world.ledger.timed("startup"):
        _, problem = load_problem(options, session)
        from hesscomp.curvature.hessian import HessianOperator

        with world.phase(f"reading the point {options.at}"):
            x = problem.check_point(load_point(options.at, problem.n))
    startup = seconds_since(session.started)
    with world.ledger.timed("compile"):
        problem.compile()
    with world.ledger.timed("compress"), Progress(session, "product columns"):
        factor = compress(
            HessianOperator(problem, x),
            rank,
            options.tolerance,
            method=options.method,
            oversample=options.oversample,
            power=options.power,
            test_matrix=options.test_matrix,
            seed=options.seed,
            max_rank=options.max_rank,
            tolerance_norm=options.tolerance_norm,
        )
    factor = problem.describe(factor, x)
    session.say(factor_table(factor))
    session.write("factor", options.out, lambda path: save_factor(factor, path))
    ledger = world.ledger.as_dict()
    report = {
        "command": "compress",
        "rank": factor.rank,
        "eigenvalues": factor.eigenvalues.tolist(),
        "certificate": {
            name: value
            for name, value in asdict(factor.certificate).items()
            if isinstance(value, float | bool | str)
        },
        "provenance": asdict(factor.provenance),
        "ranks": world.size,
        "threads_per_rank": session.threads,
        "seconds": {
            "startup": startup,
            "compile": ledger["seconds"]["compile"],
            "solve": ledger["seconds"]["compress"],
        },
        "ledger": ledger,
    }
    session.write("report", options.report, lambda path: write_json(path, report))
    if not factor.certificate.converged:
        session.say("not converged: the tolerance was not reached within the largest allowed rank")
        return 3
    return 0
