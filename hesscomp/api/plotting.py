"""`plot`: a picture of any result."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hesscomp.analysis import density, plots
from hesscomp.analysis.style import save_figure
from hesscomp.errors import InputError
from hesscomp.factors import Comparison, Factor, Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(result, path: str | os.PathLike | None = None, **options) -> Figure:
    """Draw a result and return the Matplotlib figure, which a notebook shows.

    Parameters
    ----------
    result : Factor, Trajectory, Comparison, SpectralDensity, Sensitivity, NewtonResult, TrainResult
        Or a str or path, as ``hesscomp plot`` takes it: a factor or trajectory file, Newton's JSON
        file, or the folder of a run.
    path : str or path, optional
        Also write the picture to this file: .png, .pdf or .svg.
    **options
        `title`; `eigenvalues` (numbers or a factor) to mark in a density; `names` of a comparison's
        two factors; `by` ("step", "passes", "columns" or "seconds") of a training; `leading` of a
        trajectory.

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
        return plots.file_figure(result, **options)
    if isinstance(result, Factor):
        return plots.drawn(plots.factor_figure, result, options)
    if isinstance(result, Trajectory):
        return plots.drawn(plots.trajectory_figure, result, options)
    if isinstance(result, Comparison):
        return plots.drawn(plots.comparison_figure, result, options)
    from hesscomp.estimators import SpectralDensity  # here: who reads a file needs no MPI

    if isinstance(result, SpectralDensity):
        return plots.drawn(density.density_figure, result, options)
    from hesscomp.influence.result import Sensitivity

    if isinstance(result, Sensitivity):
        from hesscomp.analysis.influence import sensitivity_figure

        return plots.drawn(sensitivity_figure, result, options)
    from hesscomp.optimizers.loop import TrainResult  # nor TensorFlow
    from hesscomp.optimizers.newton import NewtonResult

    if isinstance(result, NewtonResult):
        options.setdefault("title", f"Newton, {result.solver}: {result.reason}")
        rows = [row.as_dict() for row in result.history]
        return plots.drawn(plots.convergence_figure, rows, options)
    if isinstance(result, TrainResult):
        options.setdefault("title", f"Training, {result.status}: {result.reason}")
        return plots.drawn(plots.run_figure, result.history.rows, options)
    raise InputError(
        "plot takes a factor, a trajectory, a comparison, a density, what sensitivity, newton or "
        "train returns, "
        f"or the path of a file or folder of one; not {type(result).__name__}. Compress an "
        "operator or a matrix first: plot(compress(A))"
    )
