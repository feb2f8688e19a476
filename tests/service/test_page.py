"""The page of a service: its three files, what they are served with, and a real browser."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import hesscomp

PAGES = Path(hesscomp.__file__).parent / "service" / "pages"
TEXTS = {path.name: path.read_text() for path in PAGES.iterdir()}


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


INDEX = Elements(TEXTS["index.html"]).found
IDS = [attributes["id"] for _, attributes in INDEX if "id" in attributes]


def test_the_page_is_of_one_piece():
    """Nothing from elsewhere, and nothing that the content security policy refuses."""
    assert set(TEXTS) == {"index.html", "page.js", "page.css"}
    for text in TEXTS.values():
        assert re.findall(r"https?://[^\s\"']+", text) in ([], ["http://www.w3.org/2000/svg"])
    for tag, attributes in INDEX:
        assert tag != "style" and "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "script" or attributes["src"] == "page.js"
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|document\.write", TEXTS["page.js"]
    )
    assert "@import" not in TEXTS["page.css"] and "url(" not in TEXTS["page.css"]


def test_every_element_that_the_script_uses_is_there():
    used = set(re.findall(r'\bat\("([\w-]+)"\)', TEXTS["page.js"]))
    assert len(used) > 20 and used <= set(IDS)
    assert len(IDS) == len(set(IDS))


def test_elements_have_names():
    """Each field its label, each region its heading, and each reference its target."""
    labels = {attributes.get("for") for tag, attributes in INDEX if tag == "label"}
    for tag, attributes in INDEX:
        if tag in ("input", "select", "textarea"):
            assert attributes["id"] in labels
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, IDS[0]) in IDS
    assert ("html", {"lang": "en"}) in INDEX


def test_colours_can_be_read():
    """Text on its ground has a contrast of 4.5 at least, as WCAG 2.2 asks, light and dark."""
    schemes = re.findall(r":root \{(.*?)\}", TEXTS["page.css"], re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): #(\w{6})", scheme))
        for name in ("ink", "soft", "blue", "red", "green", "amber"):
            for ground in ("paper", "panel"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def contrast(a: str, b: str) -> float:
    """The ratio of two colours' luminances, by WCAG 2.2."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
