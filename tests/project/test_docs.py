"""The pages of docs/ and README.md: their code runs, their commands exist, their names are real."""

import ast
import importlib
import json
import re

import pages
import pytest

import hesscomp
from hesscomp.cli.main import COMMANDS, parse

ROOT = pages.ROOT
ELSEWHERE = {"problems.md", "workflows.md"}  # run by tests/problems and tests/workflows
EVERY = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def is_shown(page) -> bool:
    """Whether the documentation's build runs it, to show what it prints and draws."""
    docs = ROOT / "docs"
    return page.is_relative_to(docs) and bool(
        pages.SHOWN.fullmatch(page.relative_to(docs).with_suffix("").as_posix())
    )


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] * is_shown(page))
        for page in pages.pages()
        if page.name not in ELSEWHERE
    ],
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = pages.run(page.read_text(), page.name)
    assert any(block.seen for block in done)


@pytest.mark.parametrize("page", pages.pages(), ids=lambda page: page.stem)
def test_the_code_of_a_page_names_what_there_is(page):
    """What is imported of hesscomp, and what is taken from `hc`."""
    for block in pages.blocks(page.read_text()):
        for node in ast.walk(ast.parse(block.code, page.name)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "hesscomp":
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "hc":
                assert hasattr(hesscomp, node.attr), ast.unparse(node)


def test_every_command_of_the_pages_is_one(capsys):
    """Its own parser takes it, and also what follows after a --."""
    shown = set()
    for page in EVERY:
        for words in pages.commands(page.read_text()):
            if words[0] in COMMANDS:  # not `COMMAND`, or ... for the rest
                shown.add(words[0])
                try:
                    options = parse(words, whole=False)
                    if inner := [
                        word.format("x", name="x") for word in getattr(options, "words", [])
                    ]:
                        own = words[0] in (
                            "job",
                            "submit",
                        )  # a command of its own, not another's problem
                        parse(inner if own else ["compress", *inner], whole=False)
                except SystemExit:
                    pytest.fail(f"{page.name}: {' '.join(words)}: {capsys.readouterr().err}")
    assert shown == set(COMMANDS)


def test_notebooks_are_their_pages():
    """`make notebooks` makes them anew."""
    for name in pages.NOTEBOOKS:
        made = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text())
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in made["cells"]]
        assert cells == pages.cells((ROOT / "docs" / "examples" / f"{name}.md").read_text()), name
        for cell in made["cells"]:
            if "".join(cell["source"]).splitlines()[-1].startswith("hc.plot("):
                assert any("image/png" in out.get("data", {}) for out in cell["outputs"]), name


def test_the_reference_has_every_name():
    reference = (ROOT / "docs" / "reference" / "index.rst").read_text()
    listed = set(re.findall(r"^   (\w+)$", reference, re.MULTILINE))
    assert {name for name in hesscomp.__all__ if not name.startswith("__")} <= listed


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_outputs_stand_below_their_code(tmp_path):
    text = (
        "a\n\n```python\nprint(42)\n```\n\nb\n\n<!-- setup\nx = 1\n-->\n\n```python\nx + 1\n```\n"
    )
    shown = pages.with_outputs(text, "page", tmp_path)
    assert re.findall(r":class: output\n\n(.*)\n```", shown) == ["42", "2"]
    assert pages.cells(text)[0] == ("markdown", "a") and len(pages.cells(text)) == 4
    assert pages.commands("```sh\nmpiexec -n 2 hesscomp plot a \\\n  --out b  # why\n```") == [
        ["plot", "a", "--out", "b"]
    ]
