"""Where measurements are kept: docs/measured.json, one entry for each row of a table.

A benchmark calls `save` for each row that it has measured; the same row measured again replaces
the old one. `scripts/bench/tables.py` makes the tables of README.md and docs/ from the file. A row
keeps when, where, by which command and at which commit it was measured, whether other work was on
the machine, and a hash of the sources that it speaks of, so that it shows when these have changed
since.
"""

import argparse
import ast
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "docs" / "measured.json"
ENGINE = ("hesscomp/curvature", "hesscomp/problems")
COMPRESSION = ("hesscomp/compression", "hesscomp/sketching")
OPTIMIZERS = ("hesscomp/optimizers", "hesscomp/krylov")
FIELDS = (
    "table", "row", "values", "date", "machine", "busy", "commit", "changed", "command", "code",
)  # fmt: skip


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let a trial leave the file alone."""
    parser.add_argument(
        "--trial", action="store_true", help="print only; leave docs/measured.json as it is"
    )


def save(table: str, row: str, values: dict, code: tuple[str, ...], ranks: int = 1) -> None:
    """Write one row of a table, in the place of the row of this name.

    Parameters
    ----------
    table, row : str
        Settings that other measurements may differ in belong to the row's name.
    values : dict
        Numbers and words by the heads of their columns.
    code : tuple of str
        Folders and files below the root whose change makes the row old; the script is among them.
    ranks : int
        Of the command, where the script itself runs on several.
    """
    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    code = (*code, script.as_posix())
    entry = {
        "table": table,
        "row": row,
        "values": {head: shortened(value) for head, value in values.items()},
        "date": date.today().isoformat(),
        "machine": machine(),
        "busy": os.getloadavg()[0] > 1.5 * max(os.cpu_count(), ranks),
        "commit": _git("rev-parse", "--short=7", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--", "hesscomp", "scripts")),
        "command": command(script, ranks),
        "code": {"of": list(code), "hash": code_hash(code)},
    }
    write([*(e for e in read() if (e["table"], e["row"]) != (table, row)), entry])


def on_ranks(ranks: int) -> list[str]:
    """Return the words that start this Python on so many ranks: by its own launcher, if any."""
    beside = Path(sys.executable).with_name("mpiexec")
    return [str(beside) if beside.exists() else "mpiexec", "-n", str(ranks), sys.executable]


def answer_of(ranks: int, *words) -> dict:
    """Start this script again on so many ranks of one thread; return what it prints last."""
    done = subprocess.run(
        [*on_ranks(ranks), sys.argv[0], *map(str, words)],
        env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def read() -> list[dict]:
    return json.loads(MEASURED.read_text()) if MEASURED.exists() else []


def write(entries: list[dict]) -> None:
    """Sorted by table; within one, rows stand in the order in which they were measured first."""
    order = {key: i for i, key in enumerate((e["table"], e["row"]) for e in read())}
    entries = sorted(
        entries, key=lambda e: (e["table"], order.get((e["table"], e["row"]), len(order)))
    )
    text = ",\n".join(json.dumps(entry) for entry in entries)
    beside = MEASURED.with_suffix(".tmp")
    beside.write_text(f"[\n{text}\n]\n")
    os.replace(beside, MEASURED)


def is_old(entry: dict) -> bool:
    """Whether the sources that a row speaks of have changed since, as far as that is known."""
    return entry["code"]["hash"] != code_hash(tuple(entry["code"]["of"]))


def code_hash(code: tuple[str, ...]) -> str:
    """Of the Python files in these folders, and of these files, docstrings left out."""
    digest = hashlib.sha256()
    for part in code:
        path = ROOT / part
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(source.relative_to(ROOT).as_posix().encode() + b"\0")
            digest.update(_without_docstrings(source.read_text()) if source.exists() else b"")
    return digest.hexdigest()[:12]


def _without_docstrings(text: str) -> bytes:
    """The lines of a Python file, in which a docstring's are blank: what it says takes no time."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            first, last = node.body[0].lineno, node.body[0].end_lineno
            lines[first - 1 : last] = [""] * (last - first + 1)
    return "\n".join(line for line in lines if line).encode()


def machine() -> str:
    """The processor, which of the kinds of that name, and its cores, in words."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    known = dict(
        re.findall(r"^(model name|cpu family|model|flags)\s*:\s*(.+)$", text, re.MULTILINE)
    )
    words = [known.get("model name", platform.machine())]
    if {"cpu family", "model"} <= known.keys():
        words.append(f"family {known['cpu family']} model {known['model']}")
    words += ["AVX-512"] if "avx512f" in known.get("flags", "") else []
    return ", ".join([*words, f"{os.cpu_count()} cores"])


def command(script: Path, ranks: int) -> str:
    """What to type to measure the row again; of paths the last part alone, in capitals."""
    words = [Path(word).name.upper() if "/" in word else word for word in sys.argv[1:]]
    launcher = [] if ranks == 1 else ["mpiexec", "-n", str(ranks)]
    return " ".join([*launcher, "python", script.as_posix(), *words])


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def shortened(value):
    """Numbers to three digits: no measurement has more."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return value
    if float(value).is_integer():
        return int(value)
    rounded = float(f"{float(value):.3g}")
    return int(rounded) if abs(rounded) >= 100 else rounded
