"""How pages show values, and the templates that they are made from.

All text is escaped where it enters a page, but for `Markup`, which only the functions here,
`claims` and `inline_svg` make.
"""

import math

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

ABSENT = "—"


def shown(value):
    """Numbers as `number` writes them, yes or no, a dash for an empty text; the rest as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    return value if isinstance(value, Markup) else str(value) or ABSENT


def number(value: float) -> Markup:
    """Counts with their digits in threes, others to four digits, as a power of ten where short."""
    if not math.isfinite(value):
        sign = "−" if value < 0 else ""
        return Markup(ABSENT if math.isnan(value) else f"{sign}∞")
    if isinstance(value, int):
        return Markup(f"{value:,}".replace(",", "\u202f").replace("-", "−"))
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return Markup(f"{value:.4g}".replace("-", "−"))
    digits, power = f"{value:.2e}".replace("-", "−").split("e")
    power = power.replace("+", "").replace("−0", "−").lstrip("0")
    return Markup(f"{digits}\u202f×\u202f10<sup>{power}</sup>")


def percent(share: float) -> str:
    """A share of one in percent."""
    return f"{100 * share:.1f}\u202f%" if math.isfinite(share) else ABSENT


def path_name(name: str) -> Markup:
    """A name such as block1/dense/kernel, which may be broken after its slashes."""
    return escape(name).replace("/", Markup("/<wbr>"))


def marked(value, kind: str) -> Markup:
    """A value of which the style sheet knows the kind."""
    return Markup('<span class="{}">{}</span>').format(kind, shown(value))


TEMPLATES = Environment(
    loader=PackageLoader("hesscomp.analysis", ""),
    autoescape=True,
    finalize=shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
