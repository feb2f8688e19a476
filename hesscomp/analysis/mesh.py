"""A picture of a piecewise linear solution whose mesh has moved."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from hesscomp.analysis.style import BLUE, RED, make_figure, scale_by_powers, set_title

if TYPE_CHECKING:
    from hesscomp.optimizers.moving_mesh import MovedMesh


def mesh_figure(mesh: "MovedMesh", title: str = "") -> Figure:
    """Draw the solution with its breakpoints, and how far each step was above the last energy."""
    elements = len(mesh.breakpoints) - 1
    told = f"{elements:,} elements, energy {mesh.energy:.6g}"
    figure, (left, right) = make_figure(2, title=title or told)
    left.plot(mesh.breakpoints, mesh.values, ".-", ms=4, lw=1.2, color=BLUE)
    left.plot(mesh.breakpoints, np.full(elements + 1, mesh.values.min()), "|", ms=7, color=RED)
    left.set(xlabel="x (marks: breakpoints)", ylabel="u")
    set_title(left, "Solution")
    above = np.array(mesh.energies) - min(mesh.energies)
    shown = above > 0
    right.plot(np.arange(len(above))[shown], above[shown], "o-", ms=4, color=BLUE)
    if shown.any():
        scale_by_powers(right.yaxis)
    right.set(xlabel="step", ylabel="energy above the lowest")
    set_title(right, "Energy")
    return figure
