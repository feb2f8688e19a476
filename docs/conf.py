"""The documentation site: `make docs` builds it into out/docs. Nothing is loaded from a network.

`sphinx-build --tag quick` leaves out what the code of the pages prints and draws.
"""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
sys.path.insert(0, str(Path(__file__).parents[1]))
import pages

import hesscomp

HERE = Path(__file__).parent
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

project = "hesscomp"
author = copyright = "the hesscomp developers"
version = release = hesscomp.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["templates"]
templates_path = ["templates"]
default_role = "py:obj"
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autosummary_generate = True
autosummary_imported_members = False
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "inherited-members": False}
numpydoc_show_class_members = False
copybutton_exclude = ".linenos, .gp"

html_theme = "pydata_sphinx_theme"
html_title = "hesscomp"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars: dict[str, list] = {"index": [], "start": [], "migration": []}
html_theme_options = {
    "logo": {"text": "hesscomp"},
    "header_links_before_dropdown": 7,
    "navbar_persistent": ["search-button"],
    "show_prev_next": True,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
    "pygments_light_style": "default",
}


def show_outputs(app, name: str, source: list[str]) -> None:
    if pages.SHOWN.fullmatch(name):
        source[0] = pages.with_outputs(source[0], name, HERE / "made")
    elif name == "examples/index":
        source[0] = pages.with_thumbnails(source[0], HERE / "examples", HERE / "made")


def escape_bars(app, what: str, name: str, thing, options, lines: list[str]) -> None:
    """Keep |w| and ||H|| of docstrings as they are: they are no substitutions."""
    lines[:] = [
        line if line.lstrip().startswith(">>>") else re.sub(r"\\?\|", r"\|", line) for line in lines
    ]


def skip_requests(app, what: str, name: str, thing, skip: bool, options) -> bool | None:
    """Leave out what scikit-learn makes in each estimator; its texts refer to its own site."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def check_built(app, exception) -> None:
    """Refuse a site that loads something from elsewhere, or links to a place that is not there."""
    if exception or app.builder.name != "html":
        return
    out, broken = Path(app.outdir), []
    texts = {page: page.read_text() for page in out.rglob("*.html")}
    names = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in texts.items()}
    for page, text in texts.items():
        where = page.relative_to(out)
        for tag in re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", text):
            if re.search(r'(?:src|href)="(?:https?:)?//', tag):
                broken.append(f"{where} loads from elsewhere: {tag}")
        for link in re.findall(r'<a\b[^>]*\bhref="([^"]+)"', text):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, place = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (place and target in names and place not in names[target]):
                broken.append(f"{where} has a link to nowhere: {link}")
    if broken:
        raise SystemExit("\n".join(broken))


def setup(app) -> None:
    if not app.tags.has("quick"):
        app.connect("source-read", show_outputs)
    app.connect("autodoc-process-docstring", escape_bars, priority=900)
    app.connect("autodoc-skip-member", skip_requests)
    app.connect("build-finished", check_built)
