"""Workflows that draw: the spectral density of an operator, and a compression's error."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hesscomp.compression import compress
from hesscomp.errors import InputError
from hesscomp.estimators import (
    Estimate,
    SpectralDensity,
    SpectralQuadrature,
    exact_frobenius_norm,
    frobenius_norm,
    spectral_quadrature,
    trace,
)
from hesscomp.factors import Factor
from hesscomp.options import Options, option
from hesscomp.parallel.world import World
from hesscomp.runs.report import write_json
from hesscomp.storage.files import check_picture_name
from hesscomp.workflows.curvature import (
    POINTS,
    TRAINED,
    Curvature,
    CurvatureRequest,
    make_curvature,
    read_factor,
)
from hesscomp.workflows.progress import Progress, check_outputs, counted, silent, write
from hesscomp.workflows.subject import Subject

FIGURES = {"mnist-hessian": "mnist-mlp"}
MOST = 20_000  # parameters: above, no exact norm is paid for
LONG = 10  # product columns for each eigenpair that the reference may take


@dataclass(frozen=True, kw_only=True)
class PictureOutput(Options, group="output"):
    """Where to write a picture."""

    out: str | None = option(None, required=True, metavar="P.png", help="a png, pdf or svg file")

    def _check(self) -> None:
        super()._check()
        if self.out is not None:
            check_picture_name(self.out)


@dataclass(frozen=True, kw_only=True)
class SpectrumRequest(CurvatureRequest, PictureOutput, group="spectrum"):
    """Which operator, how accurately, and where to write the picture."""

    probes: int = option(10, low=2, metavar="K", help="number of random vectors, at least 2")
    steps: int = option(80, low=1, metavar="M", help="Lanczos steps of each; exact where K M >= n")
    shift: float | None = option(
        None, metavar="S", help="also estimate log det(H + S I); H is without the ridge"
    )
    bins: int = option(
        512, low=2, metavar="B", advanced=True, help="points of the density that are computed"
    )
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

    `extremes` are the smallest and the largest Ritz value. `estimates` has "trace",
    "frobenius_norm", "negative" (the number of negative eigenvalues), and "logdet" of H + shift I
    where a shift is given and that matrix is positive definite.
    """

    quadrature: SpectralQuadrature
    density: SpectralDensity
    extremes: tuple[float, float]
    estimates: dict[str, Estimate]


def spectrum(
    request: SpectrumRequest,
    world: World,
    progress: Progress = silent,
    subject: Subject | None = None,
) -> SpectrumResult:
    """Estimate the spectral density of an operator and draw it. Collective.

    Costs at most probes x steps product columns, and 128 more for the trace and the norm where
    the quadrature is not exact. `subject` is the problem, where the caller has it already.

    Raises
    ------
    InputError
        For what `compress` refuses; and, after everything is written, for a shift that does not
        make the matrix positive definite.
    """
    check_outputs(world, request.out, request.json, request.save_point)
    factor = None if request.factor is None else read_factor(request.factor, world)
    curvature = make_curvature(request, world, progress, subject=subject)
    hessian = curvature.operator
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

    def draw(path) -> None:
        from hesscomp.analysis.density import density_figure
        from hesscomp.analysis.style import save_figure

        save_figure(density_figure(result.density, curvature.heading, factor), path)

    def write_curve(path) -> None:
        if Path(path).suffix.lower() == ".json":
            write_json(path, _report(request, curvature, result))
            return
        from hesscomp.analysis.density import write_density

        write_density(result.density, path)

    write(world, progress, "picture", request.out, draw)
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
    estimates["negative"] = quadrature.count_below(-quadrature.rounding)
    if request.shift is not None and quadrature.nodes.min() + request.shift > quadrature.rounding:
        estimates["logdet"] = quadrature.trace_of(lambda nodes: np.log(nodes + request.shift))
    return estimates


def _report(request: SpectrumRequest, curvature: Curvature, result: SpectrumResult) -> dict:
    density, problem = result.density, curvature.problem
    lower, upper = density.band()
    return {
        "command": "spectrum",
        "problem": problem.name,
        "operator": curvature.kind,
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


@dataclass(frozen=True, kw_only=True)
class FigureRequest(CurvatureRequest, PictureOutput, group="compression"):
    """What to draw, and where to write it."""

    figure: str = option(
        flag="figure", choices=tuple(FIGURES), metavar="NAME", help="the figure: mnist-hessian"
    )
    rank: int = option(300, low=1, metavar="K", help="largest rank shown")
    at: str = option(TRAINED, metavar=POINTS, help="the parameter values, as for compress")
    json: str | None = option(
        None, group="output", former="--report", metavar="R.json", help="write the numbers drawn"
    )

    def __post_init__(self):
        if self.problem is None and self.model is None:
            object.__setattr__(self, "problem", FIGURES.get(self.figure))
        super().__post_init__()


@dataclass(frozen=True)
class FigureResult:
    """The numbers of a figure: the compression with default settings, and its errors by "rank".

    They are relative: the smallest possible one ("best"), the factor's ("exact") and the one that
    its certificate states ("certificate").
    """

    factor: Factor
    errors: dict[str, np.ndarray]


def figure(request: FigureRequest, world: World, progress: Progress = silent) -> FigureResult:
    """Compare a compression's errors with the smallest possible ones; draw both. Collective.

    Costs two compressions and n product columns for the norm.

    Raises
    ------
    InputError
        For an operator of more than 20,000 parameters, and for what `compress` refuses.
    """
    check_outputs(world, request.out, request.json, request.save_point)
    curvature = make_curvature(request, world, progress)
    operator = curvature.operator
    if operator.n > MOST:
        raise InputError(
            f"n = {operator.n}: the figure takes n products, which may be {MOST} at most; "
            "restrict the operator with `blocks`"
        )
    with world.ledger.timed("figure"), counted(world, progress):
        how: dict[str, Any] = {"seed": request.seed, "layout": "replicated"}
        factor = compress(operator, request.rank, method="krylov", **how)
        how |= {"residual_tolerance": 1e-4, "max_columns": LONG * request.rank}
        best = compress(operator, request.rank, start=factor, **how)
        norm = exact_frobenius_norm(operator)
    errors = {
        "rank": np.arange(factor.rank + 1),
        "best": _relative_errors(best.eigenvalues, norm),
        "exact": _relative_errors(factor.eigenvalues, norm),
        "certificate": np.array(
            [factor.truncate(k).certificate.relative_error for k in range(1, factor.rank + 1)]
        ),
    }
    result = FigureResult(factor, errors)
    progress(result)

    def draw(path) -> None:
        from hesscomp.analysis.plots import best_figure
        from hesscomp.analysis.style import save_figure

        save_figure(best_figure(factor, errors, curvature.heading), path)

    write(world, progress, "picture", request.out, draw)
    report = {"title": curvature.heading, "norm": norm, "eigenvalues": factor.eigenvalues, **errors}
    report["columns"] = {"factor": factor.provenance.columns, "best": best.provenance.columns}
    write(world, progress, "numbers", request.json, lambda path: write_json(path, report))
    return result


def _relative_errors(eigenvalues: np.ndarray, norm: float) -> np.ndarray:
    """Return ||H - F_k||_F / ||H||_F for k = 0, 1, ... eigenpairs of a Rayleigh-Ritz factor.

    H - F_k is orthogonal to F_k then, so that only the norm of H and the eigenvalues are needed.
    """
    kept = np.append(0.0, np.cumsum(eigenvalues**2))
    return np.sqrt(np.maximum(norm**2 - kept, 0.0)) / norm
