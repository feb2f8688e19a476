"""Estimate and draw the spectral density of a Hessian at a point."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hesscomp.analysis.density import plot_density, write_density
from hesscomp.errors import InputError
from hesscomp.estimators import (
    Estimate,
    SpectralDensity,
    SpectralQuadrature,
    frobenius_norm,
    spectral_quadrature,
    trace,
)
from hesscomp.factors import Factor
from hesscomp.options import option
from hesscomp.parallel.world import World
from hesscomp.runs.report import write_json
from hesscomp.workflows.curvature import Curvature, CurvatureRequest, make_curvature, read_factor
from hesscomp.workflows.output import PictureOutput
from hesscomp.workflows.progress import Progress, check_outputs, counted, silent, write


@dataclass(frozen=True, kw_only=True)
class SpectrumRequest(CurvatureRequest, PictureOutput, group="spectrum"):
    """Which operator, how accurately, and where to write the picture."""

    probes: int = option(10, low=2, metavar="K", help="number of random vectors, at least 2")
    steps: int = option(80, low=1, metavar="M", help="Lanczos steps of each; exact where K M >= n")
    shift: float | None = option(
        None, metavar="S", help="also estimate log det(H + S I); H is without the ridge"
    )
    bins: int = option(512, low=2, metavar="B", help="points of the density that are computed")
    factor: str | None = option(None, metavar="F.h5", help="mark the eigenvalues of this factor")
    json: str | None = option(
        None, group="output", former="--curve", metavar="C.json|C.csv",
        help="write all numbers to this file; where its name ends in .csv, only the density",
    )  # fmt: skip

    def _check(self) -> None:
        super()._check()
        if self.json is not None and Path(self.json).suffix.lower() not in (".csv", ".json"):
            raise InputError(
                f"`json` {self.json}: the file's name ends in neither .json nor .csv; rename it"
            )


@dataclass(frozen=True)
class SpectrumResult:
    """A spectrum as stochastic Lanczos quadrature estimates it.

    Attributes
    ----------
    quadrature : SpectralQuadrature
    density : SpectralDensity
    extremes : tuple of float
        The smallest and the largest Ritz value.
    estimates : dict of str to Estimate
        "trace", "frobenius_norm", "negative" (the number of negative eigenvalues), and "logdet" of
        H + shift I where a shift is given and that matrix is positive definite.
    """

    quadrature: SpectralQuadrature
    density: SpectralDensity
    extremes: tuple[float, float]
    estimates: dict[str, Estimate]


def spectrum(request: SpectrumRequest, world: World, progress: Progress = silent) -> SpectrumResult:
    """Estimate the spectral density of an operator and draw it. Collective.

    Costs at most probes x steps product columns, and 128 more for the trace and the norm where
    the quadrature is not exact.

    Raises
    ------
    InputError
        For what `compress` refuses; and, after everything is written, for a shift that does not
        make the matrix positive definite.
    """
    check_outputs(world, request.out, request.json, request.save_point)
    factor = None if request.factor is None else read_factor(request.factor, world)
    eigenvalues = None if factor is None else factor.eigenvalues
    curvature = make_curvature(request, world, progress)
    hessian, problem = curvature.operator, curvature.problem
    if factor is not None and request.factor is not None:
        _compare(factor, curvature, request.factor, progress)
    with world.ledger.timed("spectrum"), counted(world, progress):
        quadrature = spectral_quadrature(
            hessian, probes=request.probes, steps=request.steps, seed=request.seed
        )
        estimates = _estimates(hessian, quadrature, request)
    extremes = float(quadrature.nodes.min()), float(quadrature.nodes.max())
    result = SpectrumResult(quadrature, quadrature.density(request.bins), extremes, estimates)
    progress(result)
    title = f"{curvature.title}: {problem.name} on {problem.dataset_name}, n = {hessian.n}"
    write(
        world,
        progress,
        "picture",
        request.out,
        lambda path: plot_density(result.density, hessian.n, path, title, eigenvalues),
    )

    def write_curve(path) -> None:
        if Path(path).suffix.lower() == ".csv":
            write_density(result.density, path)
        else:
            write_json(path, _report(request, curvature, result))

    write(world, progress, "numbers", request.json, write_curve)
    if request.shift is not None and "logdet" not in estimates:
        raise InputError(
            f"`shift` {request.shift:g}: H + shift I is not positive definite to "
            f"rounding, its spectrum reaches {extremes[0] + request.shift:.3g}; take a larger shift"
        )
    return result


def _compare(factor: Factor, curvature: Curvature, path: str, progress: Progress) -> None:
    """Refuse a factor of another order or model; report another point or other data."""
    curvature.check_fit(factor, path)
    here, there = curvature.describe(factor).parameters, factor.parameters
    if there is not None and (here is None or not np.array_equal(here, there)):
        progress(f"note: {path} was made at another point")
    if factor.provenance.data_fingerprint not in ("", curvature.problem.fingerprint):
        progress(f"note: {path} was made from other data")


def _estimates(
    hessian, quadrature: SpectralQuadrature, request: SpectrumRequest
) -> dict[str, Estimate]:
    """Return estimates about the spectrum, without further products where quadrature is exact.

    Otherwise trace and norm take 64 columns each. The quadrature estimates them too, without bias,
    but a large isolated eigenvalue makes its estimates several times noisier.
    """
    if quadrature.exact:
        estimates = {
            "trace": quadrature.trace_of(lambda nodes: nodes),
            "frobenius_norm": Estimate.exactly(np.linalg.norm(quadrature.nodes), 0),
        }
    else:
        estimates = {
            "trace": trace(hessian, seed=request.seed),
            "frobenius_norm": frobenius_norm(hessian, seed=request.seed),
        }
    rounding = quadrature.rounding
    estimates["negative"] = quadrature.count_below(-rounding)
    if request.shift is not None and quadrature.nodes.min() + request.shift > rounding:
        estimates["logdet"] = quadrature.trace_of(lambda nodes: np.log(nodes + request.shift))
    return estimates


def _report(request: SpectrumRequest, curvature: Curvature, result: SpectrumResult) -> dict:
    density, problem = result.density, curvature.problem
    lower, upper = density.band()
    return {
        "command": "spectrum",
        "problem": problem.name,
        "operator": request.operator,
        "data": problem.dataset_name,
        "data_fingerprint": problem.fingerprint,
        "n": curvature.operator.n,
        "probes": request.probes,
        "steps": request.steps,
        "seed": request.seed,
        "shift": request.shift,
        "smallest_ritz_value": result.extremes[0],
        "largest_ritz_value": result.extremes[1],
        "estimates": {name: asdict(estimate) for name, estimate in result.estimates.items()},
        "width": density.width,
        "sides": density.sides,
        "eigenvalue": density.points.tolist(),
        "density": density.density.tolist(),
        "lower": lower.tolist(),
        "upper": upper.tolist(),
        "ranks": problem.world.size,
        "ledger": problem.world.ledger.as_dict(),
    }
