"""The one look of all pictures: colours, axes, titles, and how a figure is shown and saved."""

import os
import re
import textwrap
from collections.abc import Sized
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator

from hesscomp.storage.files import atomic_path, check_picture_name

BLUE, RED, GREY, LINE = "#1f5fa8", "#c0392b", "#7f8c8d", "#dddddd"
INK, SOFT = "#1c2430", "#5c6775"  # of text, and of what stands beside it
SHADE = LinearSegmentedColormap.from_list("shade", [to_rgba(BLUE, 0.0), to_rgba(BLUE, 1.0)])
WIDTH, HEIGHT, SIZE = 5.0, 3.9, 10.5  # of a panel in inches, and of its text in points
STYLE: dict = {
    "font.family": "sans-serif",
    "text.color": INK,
    "text.usetex": False,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.labelsize": "medium",
    "axes.titlesize": "medium",
    "axes.titlecolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}
LABELS = 40  # most names on an axis that can still be read
LETTERS = 60  # of a name, beyond which it is cut in its middle
SHORT = 100  # ratio of the ends of a logarithmic axis up to which its labels are 0.2 or 30
DPI = 160
SUPERSCRIPTS = str.maketrans("-\u22120123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Picture(Figure):
    """A Matplotlib figure that a notebook shows, whether or not it has loaded pyplot."""

    def _repr_png_(self) -> tuple[bytes, dict]:
        stream = BytesIO()
        self.savefig(stream, format="png", dpi=DPI)
        width, height = (80 * self.get_size_inches()).round()  # half of the pixels: sharp
        return stream.getvalue(), {"width": int(width), "height": int(height)}


def make_figure(
    panels: int,
    width: float = WIDTH,
    height: float = HEIGHT,
    *,
    title: str = "",
    below: float = 0.0,
    size: float = SIZE,
) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many panels side by side, each of `width` by `height` inches.

    With `below` another one follows, as wide as all together and so many inches high. `size` is
    that of the text, in points. Titles and names are no mathematics, whatever dollars they hold.
    """
    with matplotlib.rc_context({**STYLE, "font.size": size}):
        figure = Picture(
            figsize=(width * panels, height + below), facecolor="white", layout="constrained"
        )
        FigureCanvasAgg(figure)
        if below:
            parts: Any = figure.subfigures(2, 1, height_ratios=[height, below])
            made = [*parts[0].subplots(1, panels, squeeze=False)[0], parts[1].subplots()]
        else:
            made = list(figure.subplots(1, panels, squeeze=False)[0])
        for axes in made:
            axes.grid(True, which="major", color=LINE, lw=0.7)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(which="both", labelsize=0.9 * size, colors=SOFT)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.08, h_pad=0.06)
    if title:
        lines = textwrap.fill(title, max(int(9.5 * width * panels), 20))
        figure.suptitle(
            lines, x=0.01, ha="left", fontsize=1.15 * size, fontweight="bold", color=INK,
            parse_math=False,
        )  # fmt: skip
    return figure, made


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure, whole or not at all, in the format of the name's ending."""
    check_picture_name(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI)


def set_title(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", parse_math=False)


def small_text(axes: Axes) -> float:
    """Return the size of a panel's labels beside its axes, in points."""
    return 0.9 * float(axes.xaxis.label.get_fontsize())


def add_legend(axes: Axes, **where) -> None:
    legend = axes.legend(frameon=False, fontsize=small_text(axes), labelcolor=INK, **where)
    for text in legend.get_texts():
        text.set_parse_math(False)


def draw_band(axes: Axes, x, low, high, label: str) -> None:
    """Shade what lies between two curves."""
    axes.fill_between(x, low, high, color=BLUE, alpha=0.25, lw=0, label=label)


def count_along(axis: Axis) -> None:
    """Let an axis have whole numbers only."""
    axis.set_major_locator(MaxNLocator(integer=True))


def scale_by_powers(axis: Axis, **symlog) -> None:
    """Make an axis logarithmic (symlog with its options), with labels such as 10⁻³."""
    axes = axis.axes
    set_scale = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
    set_scale("symlog" if symlog else "log", **symlog)
    axis.set_major_formatter(PowersOfTen())
    if not symlog:
        axis.set_minor_formatter(PowersOfTen(labelOnlyBase=False))


class PowersOfTen(LogFormatterSciNotation):
    """Matplotlib's labels of logarithmic axes as plain text instead of mathematics."""

    def __call__(self, x, pos=None) -> str:
        label = super().__call__(x, pos).replace("$", "").replace(r"\mathdefault", "")
        assert self.axis is not None
        low, high = sorted(self.axis.get_view_interval())
        if label and low >= 1e-3 and high <= 1e4 and high < SHORT * low:
            return f"{x:g}"
        label = re.sub(r"\\times\s*", "·", label)
        label = re.sub(r"\^\{(.*?)\}", lambda power: power[1].translate(SUPERSCRIPTS), label)
        return re.sub(r"[{}]", "", label).replace("-", "\u2212")


def label_names(axis: Axis, names: list[str], **text) -> None:
    """Write names along an axis, at 0, 1, ...: whole, and not more of them than fit."""
    every = -(-len(names) // LABELS) or 1
    shown = [shorten(name) for name in names[::every]]
    axis.set_ticks(range(0, len(names), every), shown, **text)
    for label in axis.get_ticklabels():
        label.set_parse_math(False)


def shorten(name: str) -> str:
    """Return a name, cut in its middle where it is longer than any axis has room for."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS // 3]}…{name[-LETTERS * 2 // 3 :]}"


def height_for(names: Sized) -> float:
    """Return the inches that a panel needs for so many names one below the other."""
    return max(1.0 + 0.2 * min(len(names), LABELS), 2.0)
