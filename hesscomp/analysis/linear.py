"""Pictures of fitted linear models and of their predictions."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.special
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hesscomp.analysis.calibration import model_calibration
from hesscomp.analysis.style import (
    BLUE,
    GREY,
    RED,
    add_legend,
    draw_band,
    height_for,
    label_names,
    make_figure,
    set_title,
)
from hesscomp.errors import InputError

if TYPE_CHECKING:  # whose import loads MPI, pictures need not
    from hesscomp.linear.model import LinearModel, Predictions

SHOWN = 20  # coefficients at most


def leading(model: "LinearModel") -> np.ndarray:
    """Return which coefficients are drawn, in their order.

    Of more than `SHOWN` those that are largest by their standard errors, or where there are none
    by themselves.
    """
    size = model.coefficients
    if model.has_errors:
        size = np.where(np.isfinite(model.standard_errors), model.z, 0.0)
    return np.sort(np.argsort(-np.abs(size), kind="stable")[:SHOWN])


def model_figure(
    model: "LinearModel", title: str = "", level: float = 0.95, data=None, offsets=None
) -> Figure:
    """Draw a model's `leading` coefficients with their intervals, and each by its standard error.

    Those within the dashed lines of the second panel are not significant at the level. With `data`,
    rows (X, y), draw how well it predicts them instead.
    """
    if data is not None:
        X, y = data
        return model_calibration(model, X, y, offsets, title)
    kept = leading(model)
    if not title:
        title = f"{model.family.capitalize()} model of {model.label_name or 'the labels'} on "
        title += (
            f"{Path(model.dataset).name}: {model.rows:,} rows, {len(model.names):,} coefficients"
        )
        title += f", the {SHOWN} leading ones" if len(kept) < len(model.names) else ""
    height = max(height_for(kept), 2.6)
    figure, made = make_figure(1 + model.has_errors, height=height, title=title)
    draw_coefficients(made[0], model, level)
    percent = f" with {level:.0%} intervals" if model.has_errors else ""
    set_title(made[0], f"Coefficients{percent}")
    if model.has_errors:
        draw_distances(made[1], model, level)
        label_names(made[1].yaxis, [""] * len(kept))  # the first panel has them
        set_title(made[1], "How far from 0")
    return figure


def draw_coefficients(axes: Axes, model: "LinearModel", level: float = 0.95) -> None:
    """The leading coefficients and their intervals, one below the other."""
    kept = leading(model)
    place = np.arange(len(kept))
    axes.hlines(place, *model.intervals(level)[kept].T, color=BLUE, lw=1.6)
    axes.plot(model.coefficients[kept], place, "o", ms=5, color=BLUE)
    axes.set_xlabel("coefficient")
    _list_names(axes, model, kept)


def draw_distances(axes: Axes, model: "LinearModel", level: float = 0.95) -> None:
    """z of the leading coefficients, between dashed lines where they are not significant."""
    kept = leading(model)
    place, z, limit = np.arange(len(kept)), model.z[kept], scipy.special.ndtri((1 + level) / 2)
    axes.hlines(place, 0, z, color=np.where(z < 0, RED, BLUE), lw=1.6)
    for color, part in ((BLUE, z > 0), (RED, z < 0)):
        axes.plot(z[part], place[part], "o", ms=5, color=color)
    for side in (-limit, limit):
        axes.axvline(side, color=GREY, lw=1, ls="--")
    axes.set_xlabel("z, in standard errors")
    _list_names(axes, model, kept)


def _list_names(axes: Axes, model: "LinearModel", kept: np.ndarray) -> None:
    axes.axvline(0, color=GREY, lw=0.8)
    label_names(axes.yaxis, [model.names[i] for i in kept])
    axes.set_ylim(len(kept) - 0.5, -0.5)


def predictions_figure(predictions: "Predictions", title: str = "") -> Figure:
    """Draw predicted means by size, with their intervals where there are any."""
    if predictions.mean.ndim > 1:
        raise InputError(
            f"predictions of {predictions.mean.shape[1]} classes cannot be drawn by size; draw "
            "those of one, such as Predictions(mean[:, 0], low[:, 0], high[:, 0])"
        )
    order = np.argsort(predictions.mean, kind="stable")
    place = np.arange(1, len(order) + 1)
    figure, (axes,) = make_figure(1, 7.5, title=title or f"{len(order):,} predictions")
    if np.isfinite(predictions.low).any():
        draw_band(axes, place, predictions.low[order], predictions.high[order], "interval")
    axes.plot(place, predictions.mean[order], color=BLUE, lw=1.6, label="mean of the target")
    axes.set(xlabel="rows, by size", ylabel="prediction")
    add_legend(axes)
    return figure
