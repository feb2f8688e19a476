"""Fragments of a page: numbers, tables and charts, with all text escaped."""

import math
from collections.abc import Iterable
from html import escape

ABSENT = "—"


class Html(str):
    """Text that is markup already: the helpers here escape all other text."""


def markup(value) -> Html:
    """`value` as markup: numbers as `number` writes them, other text escaped."""
    if isinstance(value, Html):
        return value
    if isinstance(value, bool):
        return Html("yes" if value else "no")
    if isinstance(value, int | float):
        return number(value)
    return Html(escape(str(value)) or ABSENT)


def number(value: float) -> Html:
    """Counts with their digits in threes, others to four digits, as a power of ten where short."""
    if not math.isfinite(value):
        sign = "−" if value < 0 else ""
        return Html(ABSENT if math.isnan(value) else f"{sign}∞")
    if isinstance(value, int):
        return Html(f"{value:,}".replace(",", "\u202f").replace("-", "−"))
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return Html(f"{value:.4g}".replace("-", "−"))
    digits, power = f"{value:.2e}".replace("-", "−").split("e")
    power = power.replace("+", "").replace("−0", "−").lstrip("0")
    return Html(f"{digits}\u202f×\u202f10<sup>{power}</sup>")


def percent(share: float) -> Html:
    """A share of one in percent."""
    return Html(f"{100 * share:.1f}\u202f%" if math.isfinite(share) else ABSENT)


def path_name(name: str) -> Html:
    """A name such as block1/dense/kernel, which may be broken after its slashes."""
    return Html(markup(name).replace("/", "/<wbr>"))


def element(name: str, content, kind: str = "") -> Html:
    """``<name class=kind>content</name>``."""
    attribute = f' class="{escape(kind)}"' if kind else ""
    return Html(f"<{name}{attribute}>{markup(content)}</{name}>")


def join(parts: Iterable, between: str = "\n") -> Html:
    """Fragments one after another."""
    return Html(between.join(markup(part) for part in parts))


def table(
    head: Iterable, rows: Iterable[Iterable], kind: str = "", numbers: Iterable[int] = ()
) -> Html:
    """A table whose first column names the rows; the columns listed in `numbers` are aligned."""
    numbers = set(numbers)

    def line(cells: Iterable, names: bool) -> Html:
        return element(
            "tr",
            join(
                (
                    element("th" if names or i == 0 else "td", cell, "number" * (i in numbers))
                    for i, cell in enumerate(cells)
                ),
                "",
            ),
        )

    head = list(head)
    top = element("thead", line(head, True)) if head else Html("")
    body = element("tbody", join(line(row, False) for row in rows))
    return element("div", element("table", join([top, body], ""), kind), "scroll")


def chart(svg: str, caption: str) -> Html:
    """A chart with a line below that says what to see."""
    return element("figure", join([Html(svg), element("figcaption", caption)]))


def details(summary: str, content: Html) -> Html:
    """Content that opens on request, and in print."""
    return element("details", join([element("summary", summary), content]))
