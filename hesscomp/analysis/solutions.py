"""Pictures of solutions of differential equations: values, error where it is known, and points."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hesscomp.analysis.style import BLUE, GREY, make_figure, set_title
from hesscomp.errors import InputError

NAMES = ("axes", "u", "error", "points")


def solution_panels(picture: dict, title: str = "") -> tuple[Figure, Axes]:
    """Draw a solution, its error where it is known, and points; return an empty last panel too.

    `picture` is what `Problem.picture` gives.
    """
    axes, u, points = _checked(picture)
    names = dict(zip(("xlabel", "ylabel"), picture.get("names", ())[: len(axes)], strict=False))
    maps = [("Solution", u, "viridis")]
    if "error" in picture:
        maps.append(("Error", picture["error"], "RdBu_r"))
    figure, (*drawn, of_points, last) = make_figure(len(maps) + 2, 4.0, title=title)
    for panel, (name, values, colors) in zip(drawn, maps, strict=True):
        _draw(figure, panel, axes, values, colors)
        panel.set(**names)
        set_title(panel, name)
    if len(axes) == 1:
        of_points.plot(points[:, 0], np.zeros(len(points)), "|", color=GREY)
        of_points.set_yticks([])
    else:
        of_points.plot(*points.T, ".", color=BLUE, ms=2)
        of_points.set_aspect("equal")
    of_points.set(**names)
    set_title(of_points, "Points of training")
    return figure, last


def _checked(picture: dict) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return the axes, the values and the points; InputError where they do not fit."""
    axes, u, points = picture["axes"], picture["u"], picture["points"]
    shape = tuple(len(axis) for axis in axes)
    fits = len(shape) in (1, 2) and u.shape == shape and points.shape[1:] == (len(shape),)
    if not fits or picture.get("error", u).shape != shape:
        raise InputError("the axes, values and points of the solution do not fit; train again")
    return list(axes), u, points


def _draw(figure: Figure, panel: Axes, axes: list[np.ndarray], values, colors: str) -> None:
    if len(axes) == 1:
        panel.plot(axes[0], values, color=BLUE, lw=2)
        return
    signed = colors == "RdBu_r"
    most = np.nanmax(np.abs(values)) or 1.0
    panel.grid(False)
    image = panel.pcolormesh(*axes, values.T, cmap=colors, shading="nearest")
    if signed:
        image.set_clim(-most, most)
    panel.set_aspect("equal")
    figure.colorbar(image, ax=panel, shrink=0.8)
