"""`hesscomp spectrum`: the spectral density of a Hessian at a point."""

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np

from hesscomp.analysis.density import plot_density, write_density
from hesscomp.cli.curvature import (
    Curvature,
    add_operator_arguments,
    add_point_argument,
    check_curvature,
    load_curvature,
)
from hesscomp.cli.known import check_fit, load_known
from hesscomp.cli.options import add_problem_arguments, check_subject
from hesscomp.cli.progress import Progress
from hesscomp.cli.session import Session
from hesscomp.cli.subject import add_subject_arguments
from hesscomp.cli.tables import spectrum_table
from hesscomp.errors import InputError
from hesscomp.estimators import (
    Estimate,
    SpectralQuadrature,
    frobenius_norm,
    spectral_quadrature,
    trace,
)
from hesscomp.factors import Factor
from hesscomp.runs.report import write_json
from hesscomp.storage.files import check_picture_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject_arguments(parser)
    request = parser.add_argument_group("spectrum")
    add_operator_arguments(request)
    add_point_argument(request)
    request.add_argument(
        "--probes", type=int, default=10, metavar="K", help="random vectors, at least 2"
    )
    request.add_argument(
        "--steps", type=int, default=80, metavar="M", help="Lanczos steps of each; K M >= n: exact"
    )
    request.add_argument(
        "--shift", type=float, metavar="S", help="also log det(H + S I); the ridge is not in H"
    )
    request.add_argument(
        "--bins", type=int, default=512, metavar="B", help="points of the density's curve"
    )
    request.add_argument("--factor", metavar="F.h5", help="mark the eigenvalues of this factor")
    add_problem_arguments(request, "0, logistic regression 1e-3")
    output = parser.add_argument_group("output")
    output.add_argument("--out", required=True, metavar="P.png", help="png, pdf or svg")
    output.add_argument("--curve", metavar="C.csv|C.json", help="the numbers; json has all")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    check_picture_name(options.out)
    if options.curve is not None and Path(options.curve).suffix.lower() not in (".csv", ".json"):
        raise InputError(f"{options.curve}: a curve ends in .csv or .json; name one of these")
    for name, value, least in (
        ("--probes", options.probes, 2),
        ("--steps", options.steps, 1),
        ("--bins", options.bins, 2),
        ("--seed", options.seed, 0),
    ):
        if value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")
    if options.shift is not None and not np.isfinite(options.shift):
        raise InputError(f"--shift must be finite, not {options.shift}")
    check_subject(options)
    check_curvature(options)


def run(options: argparse.Namespace, session: Session) -> int:
    world = session.world
    check(options)
    session.check_outputs(options.out, options.curve, options.save_point)
    factor = None if options.factor is None else load_known(options.factor, session)
    curvature, _ = load_curvature(options, session, options.at)
    hessian, problem = curvature.operator, curvature.problem
    if factor is not None:
        _compare(factor, curvature, options.factor, session)
    with world.ledger.timed("spectrum"), Progress(session, "product columns"):
        quadrature = spectral_quadrature(
            hessian, probes=options.probes, steps=options.steps, seed=options.seed
        )
        rounding = quadrature.rounding
        estimates = _estimates(hessian, quadrature, options)
    density = quadrature.density(options.bins)
    extremes = float(quadrature.nodes.min()), float(quadrature.nodes.max())
    session.say(spectrum_table(quadrature, extremes, estimates, rounding, options.shift))
    title = f"{curvature.title}: {problem.name} on {problem.dataset_name}, n = {hessian.n}"
    eigenvalues = None if factor is None else factor.eigenvalues
    session.write(
        "picture",
        options.out,
        lambda path: plot_density(density, hessian.n, path, title, eigenvalues),
    )

    def write_curve(path) -> None:
        if Path(path).suffix.lower() == ".csv":
            write_density(density, path)
        else:
            write_json(path, _report(options, session, curvature, extremes, estimates, density))

    session.write("curve", options.curve, write_curve)
    if options.shift is not None and "logdet" not in estimates:
        raise InputError(
            f"--shift {options.shift:g}: H + shift I is not positive definite to "
            f"rounding, its spectrum reaches {extremes[0] + options.shift:.3g}; take a larger shift"
        )
    return 0


def _compare(factor: Factor, curvature: Curvature, path: str, session: Session) -> None:
    """Refuse a factor of another order or model; say where it is one of another matrix."""
    check_fit(factor, curvature, path)
    point = curvature.describe(factor).parameters
    if factor.parameters is not None and not np.array_equal(factor.parameters, point):
        session.say(f"note: {path} was made at another point")
    if factor.provenance.data_fingerprint not in ("", curvature.problem.fingerprint):
        session.say(f"note: {path} was made from other data")


def _estimates(hessian, quadrature: SpectralQuadrature, options) -> dict[str, Estimate]:
    """Numbers about the spectrum; where the quadrature is exact, at no further product.

    Otherwise trace and norm take 64 columns each: the quadrature's own are unbiased too, but an
    outlier that each random vector meets by chance makes them several times noisier.
    """
    if quadrature.exact:
        estimates = {
            "trace": quadrature.trace_of(lambda nodes: nodes),
            "frobenius_norm": Estimate.exactly(np.linalg.norm(quadrature.nodes), 0),
        }
    else:
        estimates = {
            "trace": trace(hessian, seed=options.seed),
            "frobenius_norm": frobenius_norm(hessian, seed=options.seed),
        }
    rounding = quadrature.rounding
    estimates["negative"] = quadrature.count_below(-rounding)
    if options.shift is not None and quadrature.nodes.min() + options.shift > rounding:
        estimates["logdet"] = quadrature.trace_of(lambda nodes: np.log(nodes + options.shift))
    return estimates


def _report(options, session: Session, curvature, extremes, estimates, density) -> dict:
    lower, upper = density.band()
    problem = curvature.problem
    return {
        "command": options.command,
        "problem": problem.name,
        "operator": options.operator,
        "data": problem.dataset_name,
        "data_fingerprint": problem.fingerprint,
        "n": curvature.operator.n,
        "probes": options.probes,
        "steps": options.steps,
        "seed": options.seed,
        "shift": options.shift,
        "smallest_ritz_value": extremes[0],
        "largest_ritz_value": extremes[1],
        "estimates": {name: asdict(estimate) for name, estimate in estimates.items()},
        "width": density.width,
        "sides": density.sides,
        "eigenvalue": density.points.tolist(),
        "density": density.density.tolist(),
        "lower": lower.tolist(),
        "upper": upper.tolist(),
        "ranks": session.world.size,
        "ledger": session.world.ledger.as_dict(),
    }
