"""`hesscomp figure`: a compression beside the best possible one, for a trained network."""

import argparse

import numpy as np

from hesscomp.cli.curvature import (
    add_operator_arguments,
    add_point_argument,
    check_curvature,
    load_curvature,
)
from hesscomp.cli.options import add_problem_arguments, check_subject
from hesscomp.cli.progress import Progress
from hesscomp.cli.session import Session
from hesscomp.cli.subject import add_subject_arguments
from hesscomp.compression import check_request, compress
from hesscomp.errors import InputError
from hesscomp.estimators import exact_frobenius_norm
from hesscomp.runs.report import write_json
from hesscomp.storage.files import check_picture_name

FIGURES = {"mnist-hessian": "mnist-mlp"}
MOST = 20_000  # parameters: above, no exact norm is paid for
LONG = 10  # product columns for each eigenpair that the reference may take


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("figure", choices=tuple(FIGURES), metavar="NAME", help="mnist-hessian")
    add_subject_arguments(parser)
    request = parser.add_argument_group("compression")
    request.add_argument("--rank", type=int, default=300, metavar="K", help="the largest one shown")
    add_operator_arguments(request)
    add_point_argument(request, help="the point: trained, or as compress has it")
    add_problem_arguments(request, "0")
    output = parser.add_argument_group("output")
    output.add_argument("--out", required=True, metavar="P.png", help="png, pdf or svg")
    output.add_argument("--report", metavar="R.json", help="the numbers drawn")
    parser.set_defaults(at="trained")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    if options.problem is None and options.model is None:
        options.problem = FIGURES[options.figure]
    check_picture_name(options.out)
    check_request(options.rank, None)
    check_subject(options)
    check_curvature(options)


def run(options: argparse.Namespace, session: Session) -> int:
    world = session.world
    check(options)
    session.check_outputs(options.out, options.report, options.save_point)
    curvature, _ = load_curvature(options, session, options.at)
    operator = curvature.operator
    if operator.n > MOST:
        raise InputError(
            f"the error of the best factor is measured with n = {operator.n} products, of at most "
            f"{MOST}; restrict the operator with --blocks"
        )
    with world.ledger.timed("figure"), Progress(session, "product columns"):
        how = {"seed": options.seed, "layout": "replicated"}
        factor = compress(operator, options.rank, method="krylov", **how)
        best = compress(
            operator,
            options.rank,
            start=factor,
            residual_tolerance=1e-4,
            max_columns=LONG * options.rank,
            **how,
        )
        norm = exact_frobenius_norm(operator)
    factor = curvature.describe(factor)
    errors = {
        "rank": np.arange(factor.rank + 1),
        "best": _relative_errors(best.eigenvalues, norm),
        "exact": _relative_errors(factor.eigenvalues, norm),
        "certificate": np.array(
            [factor.truncate(k).certificate.relative_error for k in range(1, factor.rank + 1)]
        ),
    }
    session.say(
        f"rank {factor.rank} of n = {factor.n}: {factor.provenance.columns} product columns; "
        f"||H - F||_F is {errors['exact'][-1]:.3e} of ||H||_F, the best {errors['best'][-1]:.3e}, "
        f"estimated {errors['certificate'][-1]:.3e}"
    )
    problem = curvature.problem
    title = f"{curvature.title}: {problem.name} on {problem.dataset_name}, n = {operator.n}"

    def draw(path) -> None:
        from hesscomp.analysis.plots import plot_against_best

        plot_against_best(factor, errors, path, title)

    session.write("picture", options.out, draw)
    report = {"title": title, "norm": norm, "eigenvalues": factor.eigenvalues, **errors}
    report["columns"] = {"factor": factor.provenance.columns, "best": best.provenance.columns}
    session.write("report", options.report, lambda path: write_json(path, report))
    return 0


def _relative_errors(eigenvalues: np.ndarray, norm: float) -> np.ndarray:
    """||H - F_k||_F / ||H||_F for k = 0, 1, ... eigenpairs of a Rayleigh-Ritz factor.

    H - F_k is orthogonal to F_k then, so that only the norm of H and the eigenvalues are needed.
    """
    kept = np.append(0.0, np.cumsum(eigenvalues**2))
    return np.sqrt(np.maximum(norm**2 - kept, 0.0)) / norm
