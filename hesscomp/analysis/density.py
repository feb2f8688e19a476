"""The spectral density as a picture and as a table of numbers."""

import os
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from hesscomp.analysis.style import (
    BLUE,
    GREY,
    RED,
    add_legend,
    draw_band,
    make_figure,
    scale_by_powers,
)
from hesscomp.factors import Factor
from hesscomp.storage.files import atomic_path

if TYPE_CHECKING:  # the estimators load MPI, pictures need not
    from hesscomp.estimators import SpectralDensity, SpectralQuadrature

FLOOR = 0.05  # of what one eigenvalue makes: below it the picture ends


def density_figure(
    density: "SpectralDensity",
    title: str = "",
    eigenvalues: Factor | np.ndarray | None = None,
) -> Figure:
    """Draw the density of an operator's eigenvalues on a logarithmic axis, with its 95% band.

    A dotted line is the height of a single eigenvalue. Known `eigenvalues`, or those of a factor,
    are marked at the height that a single one has after smoothing: where the curve passes through a
    mark, the factor has that outlier and nothing else is there. The curve ends at the extreme Ritz
    values and is not smoothed across 0; no axis goes beyond it.
    """
    figure, (axes,) = make_figure(1, 7.5, 4.3, title=title)
    one, points = density.height(density.points), density.points
    bottom = FLOOR * float(one.min())
    lower, upper = (np.maximum(limit, bottom / 2) for limit in density.band())
    if density.samples:
        draw_band(axes, points, lower, upper, "95% band")
    label = f"density, smoothed over {density.width:.2g} but not across 0"
    axes.plot(points, np.maximum(density.density, bottom / 2), color=BLUE, lw=1.6, label=label)
    axes.plot(points, one, color=GREY, lw=0.9, ls=":", label=f"one eigenvalue of {density.n:,}")
    scale_by_powers(axes.yaxis)
    axes.set_xlim(points[0], points[-1])
    axes.set_ylim(bottom=bottom)
    axes.set_xlabel("eigenvalue, from the smallest Ritz value to the largest")
    axes.set_ylabel("density of eigenvalues (integrates to 1)")
    known = eigenvalues.eigenvalues if isinstance(eigenvalues, Factor) else eigenvalues
    marked = np.empty(0) if known is None else np.asarray(known, dtype=np.float64)
    if len(marked):
        label = f"the factor's {len(marked)} eigenvalues"
        axes.plot(
            marked, density.height(marked), "v", ms=5, mfc="none", color=RED, label=label,
            clip_on=False,
        )  # fmt: skip
    add_legend(axes)
    return figure


def quadrature_figure(quadrature: "SpectralQuadrature", title: str = "") -> Figure:
    """Draw the density that quadratures give."""
    return density_figure(quadrature.density(), title)


def write_density(density: "SpectralDensity", path: str | os.PathLike) -> None:
    """Write the curve as CSV: eigenvalue, density, and the limits of the 95% band."""
    columns = np.column_stack([density.points, density.density, *density.band()])
    header = "eigenvalue,density,lower,upper"
    with atomic_path(path) as temporary:
        np.savetxt(temporary, columns, fmt="%.17g", delimiter=",", header=header, comments="")
