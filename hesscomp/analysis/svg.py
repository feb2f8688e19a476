"""Charts as SVG text that stands in a page and takes the page's colours."""

import re
import warnings
from collections.abc import Callable
from io import StringIO
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes

from hesscomp.analysis.style import BLUE, GREY, INK, LINE, RED, SOFT, make_figure

VARIABLES = {
    INK: "--ink", SOFT: "--soft", BLUE: "--blue", RED: "--red", GREY: "--grey", LINE: "--line",
}  # fmt: skip


def inline_svg(
    draw: Callable[[Axes, Any], None],
    result: Any,
    label: str,
    width: float = 4.9,
    height: float = 3.0,
) -> Markup:
    """What ``draw(axes, result)`` draws, as an `<svg>` element without anything external.

    Colours of `VARIABLES` become CSS variables of the page, so that one chart serves light and
    dark. `label` describes the chart to those who do not see it. The same result gives the same
    text; identifiers are unique to the drawing function.
    """
    settings: dict = {
        "svg.fonttype": "none",
        "svg.hashsalt": draw.__name__,
    }  # text in the page's font
    with matplotlib.rc_context(settings):
        figure, (axes,) = make_figure(1, width, height, size=9.5)
        draw(axes, result)
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
