"""Pictures of estimated numbers with their errors."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from hesscomp.analysis.style import (
    BLUE,
    GREY,
    RED,
    add_legend,
    count_along,
    draw_band,
    make_figure,
    scale_by_powers,
    set_title,
)

if TYPE_CHECKING:  # the estimators load MPI, pictures need not
    from hesscomp.estimators import DiagonalEstimate, Estimate, NormBounds


def estimate_figure(estimate: "Estimate", title: str = "") -> Figure:
    """Draw a number with its standard error and its 95% interval."""
    value, error = estimate.value, estimate.standard_error
    low, high = estimate.interval()
    exact = low == high
    told = f"{value:.6g}, exact" if exact else f"{value:.6g} ± {error:.2g}"
    cost = f"({estimate.method}, {estimate.columns:,} product columns)"
    figure, (axes,) = make_figure(1, 7.5, 2.0, title=title or f"{told} {cost}")
    if not exact:
        axes.plot([low, high], [0, 0], color=BLUE, lw=1.2, label="95% interval")
        axes.plot([value - error, value + error], [0, 0], color=BLUE, lw=5, label="standard error")
        add_legend(axes, ncols=2, loc="upper right")
    axes.plot(value, 0, "o", ms=8, color=RED)
    axes.set_ylim(-1, 1.5)
    axes.set_yticks([])
    axes.set_xlabel("estimate")
    return figure


def bounds_figure(bounds: "NormBounds", title: str = "") -> Figure:
    """Draw a spectral norm between its lower and its upper bound."""
    upper = bounds.upper_bound
    told = f"‖H‖₂ is at least {bounds.value:.6g}"
    if upper is not None:
        told += f", and at most {upper:.6g} except with probability {bounds.failure:.0e}"
    figure, (axes,) = make_figure(1, 7.5, 2.0, title=title or told)
    if upper is not None:
        axes.plot([bounds.value, upper], [0, 0], "|-", ms=12, color=BLUE, lw=1.2)
    axes.plot(bounds.value, 0, "o", ms=8, color=RED)
    axes.set_ylim(-1, 1)
    axes.set_yticks([])
    axes.set_xlabel("‖H‖₂")
    return figure


def diagonal_figure(estimate: "DiagonalEstimate", title: str = "") -> Figure:
    """Draw a diagonal: its entries by size with their errors, and how large these errors are."""
    d, errors = estimate.values, estimate.standard_errors
    order = np.argsort(-d, kind="stable")
    place, d, errors = np.arange(1, len(d) + 1), d[order], errors[order]
    told = f"Diagonal of {len(d):,} ({estimate.method}, {estimate.columns:,} product columns)"
    figure, (left, right) = make_figure(2, title=title or told)
    if errors.any():
        draw_band(left, place, d - errors, d + errors, "± standard error")
    left.plot(place, d, color=BLUE, lw=1.6, label="diagonal entry")
    left.axhline(0, color=GREY, lw=0.8)
    left.set(xlabel="entries, by size", ylabel="diagonal entry")
    count_along(left.xaxis)
    add_legend(left)
    set_title(left, "Entries")
    shown = (errors > 0) & (d != 0)
    right.plot(np.abs(d[shown]), errors[shown], ".", ms=3, color=BLUE, rasterized=True)
    if shown.any():
        scale_by_powers(right.xaxis)
        scale_by_powers(right.yaxis)
        ends = np.array([np.abs(d[shown]).min(), np.abs(d[shown]).max()])
        right.plot(ends, ends, color=GREY, lw=1, ls="--", label="as large as the entry")
        add_legend(right)
    right.set(xlabel="|diagonal entry|", ylabel="standard error")
    set_title(right, "Errors" if shown.any() else "Errors: none, it is exact")
    return figure
