"""Charts as SVG text that stands in a page and takes the page's colours."""

import re
import warnings
from collections.abc import Callable
from io import StringIO

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatterSciNotation

from hesscomp.analysis.plots import BLUE, GREY, LINE, RED, make_figure
from hesscomp.factors import Factor

INK = "#010203"  # stands for the page's text colour
VARIABLES = {INK: "--ink", BLUE: "--blue", RED: "--red", GREY: "--grey", LINE: "--line"}
STYLE: dict = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.size": 9.5,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
}
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def inline_svg(
    draw: Callable[[Axes, Factor], None], factor: Factor, label: str, height: float = 3.0
) -> Markup:
    """What ``draw(axes, factor)`` draws, as an `<svg>` element without anything external.

    Colours of `VARIABLES` become CSS variables of the page, so that one chart serves light and
    dark. `label` describes the chart to those who do not see it. The same factor gives the same
    text; identifiers are unique to the drawing function.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": draw.__name__}):
        figure, (axes,) = make_figure(1, 4.9, height)
        draw(axes, factor)
        if axes.get_yscale() == "log":
            axes.yaxis.set_major_formatter(PowersOfTen())
            axes.yaxis.set_minor_formatter(PowersOfTen(labelOnlyBase=False))
        stream = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():  # the browser has fonts for what Matplotlib lacks
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]  # without the document type, which names a URL
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # they say nothing and repeat in every chart
    for color, variable in VARIABLES.items():
        text = text.replace(f": {color}", f": var({variable})")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


class PowersOfTen(LogFormatterSciNotation):
    """Matplotlib's labels of logarithmic axes as plain text instead of mathematics."""

    def __call__(self, x, pos=None) -> str:
        label = super().__call__(x, pos)
        found = re.search(r"(?:([\d.]+)\\times)?10\^\{(-?\d+)\}", label)
        if found is None:
            return label
        factor = f"{found[1]}·" if found[1] else ""
        return f"{factor}10{found[2].translate(SUPERSCRIPTS)}"
