"""Run the Python of the pages, show what it prints and draws, and make notebooks of five pages.

    python scripts/pages.py    # rewrites examples/*.ipynb from their pages in docs/examples/

The fences marked `python` of one page are run one after another in one namespace and an empty
folder, as a reader would do it. `<!-- setup ... -->` holds code that readers do not see: small
files and models that stand for theirs. As in a notebook, the value of a block's last expression is
shown; a Matplotlib figure is drawn.
"""

import ast
import base64
import contextlib
import functools
import io
import itertools
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("cnn", "logistic", "operator", "pde", "service")  # pages of docs/examples/
CODE = re.compile(r"^```python\n(.*?)^```$|^<!-- setup\n(.*?)^-->$", re.DOTALL | re.MULTILINE)
SETUP = re.compile(r"^<!-- setup\n.*?^-->$", re.DOTALL | re.MULTILINE)
CARD = re.compile(r"^:::\{grid-item-card\} \[(.*)\]\((.*)\)\n", re.MULTILINE)
PICTURE = re.compile(r"^!\[.*\]\((.*)\)$", re.MULTILINE)
SHOWN = re.compile(r"start|examples/(?!index).*")  # pages whose outputs the documentation shows
FENCE = re.compile(r"^```(?:sh)?\n(.*?)^```$|^```\w[^\n]*\n.*?^```$", re.DOTALL | re.MULTILINE)


@dataclass
class Block:
    """Code of a page, and what came of it."""

    code: str
    end: int
    seen: bool
    text: str = ""
    figures: list[bytes] = field(default_factory=list)


def pages() -> list[Path]:
    """All pages that hold code which is run."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in every if blocks(page.read_text())]


def blocks(text: str) -> list[Block]:
    return [
        Block(found[1] or found[2], found.end(), found[1] is not None)
        for found in CODE.finditer(text)
    ]


def run(text: str, name: str = "page") -> list[Block]:
    """Run all blocks of a page's text in the present folder; return them with their outputs."""
    done, names = blocks(text), {"__name__": "page"}
    for number, block in enumerate(done, 1):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            value = _executed(block.code, f"{name}, block {number}", names)
            if hasattr(value, "savefig"):
                block.figures.append(_drawn(value))
            elif value is not None:
                print(repr(value))
        block.text = said.getvalue()
    return done


def _executed(code: str, name: str, names: dict):
    """Execute code; return the value of its last statement where that is an expression."""
    tree = ast.parse(code, name)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), names)
    return last and eval(compile(ast.Expression(last.value), name, "eval"), names)


def _drawn(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, bbox_inches="tight")
    return stream.getvalue()


@contextlib.contextmanager
def empty_folder() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield


@functools.cache
def with_outputs(text: str, page: str, pictures: Path) -> str:
    """Return a page's text with its outputs after its blocks; their pictures go to a folder."""
    with empty_folder():
        done = run(text, page)
    pieces, at = [], 0
    for block in done:
        pieces.append(text[at : block.end])
        at = block.end
        if block.seen and block.text:
            pieces.append(f"\n\n```{{code-block}} text\n:class: output\n\n{block.text}```\n")
        for figure in block.figures:
            path = pictures / f"{page.replace('/', '-')}-{block.end}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(figure)
            pieces.append(f"\n\n![What the code above draws](/{pictures.name}/{path.name})\n")
    return "".join([*pieces, text[at:]])


def with_thumbnails(text: str, folder: Path, made: Path) -> str:
    """Return a gallery's text with each card under the first picture of the page that it names."""

    def card(found: re.Match) -> str:
        path = folder / found[2]
        shown = with_outputs(path.read_text(), f"{folder.name}/{path.stem}", made)
        picture = PICTURE.search(shown)
        return found[0] + (f":img-top: {picture[1]}\n" if picture else "")

    return CARD.sub(card, text)


def commands(text: str) -> list[list[str]]:
    """The command lines of hesscomp in a page's unmarked fences, without what starts the ranks."""
    found = []
    for fence in FENCE.finditer(text):
        for line in (fence[1] or "").replace("\\\n", " ").splitlines():
            with contextlib.suppress(ValueError):  # text that is no command
                words = shlex.split(line, comments=True)
                words = list(itertools.takewhile(lambda word: word not in ("|", ">"), words))
                ours = [i for i, word in enumerate(words) if word == "hesscomp"]
                started = ours and re.fullmatch(
                    r"|mpiexec -n \d+|mpirun -n \d+|srun.*|\w+=\S+", " ".join(words[: ours[0]])
                )
                if started:
                    found.append(words[ours[0] + 1 :])
    return found


def cells(text: str) -> list[tuple[str, str]]:
    """A page as a notebook's cells: kind and source."""
    text, found, at = SETUP.sub("", text), [], 0
    for block in blocks(text):
        begin = text.rindex("```python\n", 0, block.end)
        found += [("markdown", text[at:begin].strip()), ("code", block.code.strip())]
        at = block.end
    return [cell for cell in [*found, ("markdown", text[at:].strip())] if cell[1]]


def notebook(page: Path) -> dict:
    """A page as a notebook with its outputs."""
    text = page.read_text()
    with empty_folder():
        outputs = iter([block for block in run(text, page.stem) if block.seen])
    made = []
    for number, (kind, source) in enumerate(cells(text)):
        cell: dict = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        cell["source"] = source.splitlines(keepends=True)
        if kind == "code":
            block = next(outputs)
            cell |= {"execution_count": None, "outputs": list(_cell_outputs(block))}
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _cell_outputs(block: Block) -> Iterator[dict]:
    if block.text:
        lines = block.text.splitlines(keepends=True)
        yield {"name": "stdout", "output_type": "stream", "text": lines}
    for figure in block.figures:
        data = {"image/png": base64.b64encode(figure).decode()}
        yield {"data": data, "metadata": {}, "output_type": "display_data"}


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in NOTEBOOKS:
        made = notebook(ROOT / "docs" / "examples" / f"{name}.md")
        path = ROOT / "examples" / f"{name}.ipynb"
        path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
