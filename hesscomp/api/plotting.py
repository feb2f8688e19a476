"""`plot`: a picture of any result."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hesscomp.analysis.plots import drawn, file_figure
from hesscomp.analysis.style import save_figure
from hesscomp.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# By the names of their classes, since to import them would load MPI and TensorFlow.
FIGURES = {
    "compression.generalized.GeneralizedEigen": "plots.generalized_figure",
    "estimators.quadrature.SpectralDensity": "density.density_figure",
    "estimators.quadrature.SpectralQuadrature": "density.quadrature_figure",
    "estimators.sampling.DiagonalEstimate": "estimates.diagonal_figure",
    "estimators.sampling.Estimate": "estimates.estimate_figure",
    "estimators.sampling.NormBounds": "estimates.bounds_figure",
    "factors.comparison.Comparison": "plots.comparison_figure",
    "factors.factor.Factor": "plots.factor_figure",
    "factors.trajectory.Trajectory": "plots.trajectory_figure",
    "influence.result.Sensitivity": "influence.sensitivity_figure",
    "linear.model.LinearModel": "linear.model_figure",
    "linear.model.Predictions": "linear.predictions_figure",
    "optimizers.loop.TrainResult": "plots.train_figure",
    "optimizers.moving_mesh.MovedMesh": "mesh.mesh_figure",
    "optimizers.newton.NewtonResult": "plots.newton_figure",
    "optimizers.ridge_path.RidgePath": "calibration.path_figure",
}


def plot(result, path: str | os.PathLike | None = None, **options) -> Figure:
    """Draw a result and return the Matplotlib figure, which a notebook shows.

    Parameters
    ----------
    result : Factor, Trajectory, SpectralDensity, Estimate, LinearModel, TrainResult, str or path
        What any function returns but operators, arrays and single numbers: also a Comparison,
        DiagonalEstimate, GeneralizedEigen, MovedMesh, NewtonResult, NormBounds, Predictions,
        RidgePath, Sensitivity or SpectralQuadrature. Or a file of a factor, trajectory or linear
        model, Newton's JSON file, or the folder of a run, as ``hesscomp plot`` takes them.
    path : str or path, optional
        Also write the picture to this file: .png, .pdf or .svg.
    **options
        `title`; `eigenvalues` (numbers or a factor) to mark in a density; `names` of a comparison's
        two factors; `by` ("step", "passes", "columns" or "seconds") of a training; `leading` of a
        trajectory; `level` of a linear model's intervals. With `data`, a pair (X, y) of rows,
        encoded as the training rows, and whether each is of the second class, and `offsets` where
        it had some, a model of logistic regression is drawn by its calibration and ROC curve.

    Raises
    ------
    InputError
        For what cannot be drawn, for an option that it does not have, and for a path that has no
        ending of a picture.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> figure = hc.plot(hc.compress(np.diag([3.0, -2.0, 1.0, 0.0]), rank=2))
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['Leading eigenvalues', 'Compression error']
    """
    figure = _figure(result, options)
    if path is not None:
        save_figure(figure, path)
    return figure


def _figure(result, options: dict[str, Any]) -> Figure:
    if isinstance(result, str | os.PathLike):
        return file_figure(result, **options)
    for kind in type(result).__mro__:
        name = FIGURES.get(f"{kind.__module__}.{kind.__name__}".removeprefix("hesscomp."))
        if name is not None:
            module, function = name.split(".")
            draw = getattr(import_module(f"hesscomp.analysis.{module}"), function)
            return drawn(draw, result, options)
    raise InputError(
        "plot takes what compress, load, density, trace, diagonal, logdet, fit_linear, "
        "sensitivity, newton, train or moving_mesh returns, or the path of a file or folder of "
        f"one; not {type(result).__name__}. Compress an operator or a matrix first: "
        "plot(compress(A))"
    )
