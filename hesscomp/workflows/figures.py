"""Draw the error of a compression beside the smallest possible one."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hesscomp.compression import compress
from hesscomp.errors import InputError
from hesscomp.estimators import exact_frobenius_norm
from hesscomp.factors import Factor
from hesscomp.options import option
from hesscomp.parallel.world import World
from hesscomp.runs.report import write_json
from hesscomp.workflows.curvature import POINTS, TRAINED, CurvatureRequest, make_curvature
from hesscomp.workflows.output import PictureOutput
from hesscomp.workflows.progress import Progress, check_outputs, counted, silent, write

FIGURES = {"mnist-hessian": "mnist-mlp"}
MOST = 20_000  # parameters: above, no exact norm is paid for
LONG = 10  # product columns for each eigenpair that the reference may take


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
    """The numbers of a figure.

    Attributes
    ----------
    factor : Factor
        The compression with default settings.
    errors : dict of str to array
        For each "rank": the smallest possible relative error ("best"), the factor's ("exact") and
        the one that its certificate states ("certificate").
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
        compressed = compress(operator, request.rank, method="krylov", **how)
        best = compress(
            operator,
            request.rank,
            start=compressed,
            residual_tolerance=1e-4,
            max_columns=LONG * request.rank,
            **how,
        )
        norm = exact_frobenius_norm(operator)
    factor = curvature.describe(compressed)
    errors = {
        "rank": np.arange(factor.rank + 1),
        "best": _relative_errors(best.eigenvalues, norm),
        "exact": _relative_errors(factor.eigenvalues, norm),
        "certificate": np.array(
            [compressed.truncate(k).certificate.relative_error for k in range(1, factor.rank + 1)]
        ),
    }
    result = FigureResult(factor, errors)
    progress(result)
    problem = curvature.problem
    title = f"{curvature.title}: {problem.name} on {problem.dataset_name}, n = {operator.n}"

    def draw(path) -> None:
        from hesscomp.analysis.plots import plot_against_best

        plot_against_best(factor, errors, path, title)

    write(world, progress, "picture", request.out, draw)
    report = {"title": title, "norm": norm, "eigenvalues": factor.eigenvalues, **errors}
    report["columns"] = {"factor": factor.provenance.columns, "best": best.provenance.columns}
    write(world, progress, "numbers", request.json, lambda path: write_json(path, report))
    return result


def _relative_errors(eigenvalues: np.ndarray, norm: float) -> np.ndarray:
    """Return ||H - F_k||_F / ||H||_F for k = 0, 1, ... eigenpairs of a Rayleigh-Ritz factor.

    H - F_k is orthogonal to F_k then, so that only the norm of H and the eigenvalues are needed.
    """
    kept = np.append(0.0, np.cumsum(eigenvalues**2))
    return np.sqrt(np.maximum(norm**2 - kept, 0.0)) / norm
