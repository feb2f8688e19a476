"""A picture of a minimum's sensitivity to its rows."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hesscomp.analysis.style import (
    BLUE,
    GREY,
    RED,
    add_legend,
    label_names,
    make_figure,
    scale_by_powers,
    set_title,
)

if TYPE_CHECKING:  # what finds it loads MPI and TensorFlow, pictures need not
    from hesscomp.influence.result import RowStatistics, Sensitivity

SHOWN = 20  # rows at most
FLOOR = 1e-8  # of the largest leverage and distance, below which a row is not drawn


def sensitivity_figure(result: "Sensitivity", title: str = "") -> Figure:
    """Draw the most influential rows, the influence of all rows, and leverages where there are.

    The influence is that on the first target: left of the `SHOWN` rows of the largest, then of all
    rows by size on a logarithmic axis. The last panel shows Cook's distance against leverage.
    """
    panels = 2 * bool(result.targets) + (result.statistics is not None)
    if not title:
        title = f"{result.problem} on {result.dataset}: {result.rows:,} rows, n = {result.n:,}"
        title += "" if result.stationary else ", NOT at a stationary point"
    figure, made = make_figure(panels, title=title)
    if result.targets:
        left, middle = made[:2]
        _draw_leading(left, result)
        _draw_all(middle, result)
    if result.statistics is not None:
        _draw_leverage(made[-1], result.statistics, result.chosen)
    return figure


def _draw_leading(axes: Axes, result: "Sensitivity") -> None:
    influence = result.influence[:, 0]
    rows = np.argsort(-np.abs(influence), kind="stable")[:SHOWN]
    values = influence[rows]
    axes.barh(range(len(rows)), values, color=np.where(values > 0, RED, BLUE))
    axes.axvline(0, color=GREY, lw=0.8)
    label_names(axes.yaxis, [f"row {row}" for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("change for one more of the row")
    set_title(axes, f"Most influential rows: {result.targets[0]}")


def _draw_all(axes: Axes, result: "Sensitivity") -> None:
    influence = result.influence[:, 0]
    for color, label, part in (
        (RED, "more of the row raises it", influence[influence > 0]),
        (BLUE, "more of the row lowers it", -influence[influence < 0]),
    ):
        axes.plot(np.arange(1, len(part) + 1), np.sort(part)[::-1], color=color, label=label)
    if influence.any():
        scale_by_powers(axes.yaxis)
        scale_by_powers(axes.xaxis)
    axes.set(xlabel="rows, by size", ylabel="|influence|")
    set_title(axes, "Influence of all rows")
    add_legend(axes)


def _draw_leverage(axes: Axes, statistics: "RowStatistics", chosen: np.ndarray) -> None:
    h, cook = statistics.leverage, statistics.cook
    shown = (h > 0) & (cook > 0) & np.isfinite(cook)
    if shown.any():  # rows far below the largest say nothing, and would stretch the axes
        shown &= (h > FLOOR * h.max()) & (cook > FLOOR * cook[shown].max())
    axes.plot(h[shown], cook[shown], ".", ms=3, color=BLUE, rasterized=True)
    marked = chosen[shown[chosen]]
    axes.plot(h[marked], cook[marked], "o", ms=7, mfc="none", color=RED, label="rows shown")
    if shown.any():
        scale_by_powers(axes.xaxis)
        scale_by_powers(axes.yaxis)
    axes.set(xlabel="leverage", ylabel="Cook's distance")
    set_title(axes, f"Leverage, {statistics.effective_parameters:.4g} in all")
    if len(marked):
        add_legend(axes)
