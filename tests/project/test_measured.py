"""The measured tables of README.md and docs/ are those of docs/measured.json."""

import json
import re
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))
import record
import service
import tables

ROOT = Path(__file__).resolve().parents[2]


def test_the_pages_show_what_was_measured():
    """Also warns of rows whose code has changed since: they are true of an earlier state."""
    entries = record.read()
    for page in tables.pages():
        text = page.read_text()
        assert tables.filled(text, entries, page.name) == text, f"{page.name}: run `make tables`"
    if old := tables.old_tables(entries):
        warnings.warn("\n".join(old), stacklevel=1)


def test_a_figure_changed_by_hand_is_noticed():
    entries, page = record.read(), ROOT / "docs" / "measured.md"
    rows = tables.rows_of(entries, "families")
    value = next(v for v in rows[0]["values"].values() if isinstance(v, str))
    text = page.read_text().replace(f"| {value} |", "| 9.9e-09 |", 1)
    assert text != page.read_text() and tables.filled(text, entries) == page.read_text()
    with pytest.raises(SystemExit, match="region families has no measurement"):
        tables.filled(text, [entry for entry in entries if entry["table"] != "families"])


def test_every_row_says_where_it_comes_from():
    entries = record.read()
    names = [(entry["table"], entry["row"]) for entry in entries]
    assert len(names) == len(set(names))
    shown = {
        name for page in tables.pages() for _, name, *_ in tables.REGION.findall(page.read_text())
    }
    assert {entry["table"] for entry in entries} <= shown
    for entry in entries:
        assert tuple(sorted(entry)) == tuple(sorted(record.FIELDS))
        assert entry["values"] and entry["machine"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"])
        assert re.fullmatch("[0-9a-f]{7,}", entry["commit"])
        script = re.search(r"scripts/\S+\.py", entry["command"])[0]
        assert script in entry["code"]["of"]
        for source in entry["code"]["of"]:
            assert (ROOT / source).exists(), f"{entry['table']}: {source} has gone"
        assert not re.search(r"(^|\s)/", entry["command"])


def test_a_row_measured_again_replaces_the_old_one(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "MEASURED", tmp_path / "measured.json")
    monkeypatch.setattr(record, "_git", lambda *words: "0123abc" if words[0] == "rev-parse" else "")
    argv = [str(ROOT / "scripts/bench/engine.py"), "--peer", "/home/me/bin/python"]
    monkeypatch.setattr(sys, "argv", argv)
    for row, seconds in (("b", 1.23456), ("a", 2), ("b", 3.0)):
        record.save("engine", row, {"seconds": seconds, "method": "krylov"}, record.ENGINE)
    assert [(e["row"], e["values"]["seconds"]) for e in record.read()] == [("b", 3), ("a", 2)]
    entry = record.read()[0]
    assert entry["command"] == "python scripts/bench/engine.py --peer PYTHON"
    assert not record.is_old(entry) and not entry["changed"]
    text = "before\n<!-- measured: engine -->\nold\n<!-- /measured -->\nafter\n"
    made = tables.filled(text, record.read())
    assert "| b | 3 | krylov |" in made and "0123abc" in made and "old" not in made
    assert tables.filled(made, record.read()) == made
    entry["code"]["hash"] = "another"
    record.write([entry])
    (line,) = tables.old_tables(record.read())
    assert line.startswith("engine: 1 rows") and "engine.py" in line
    assert json.loads(record.MEASURED.read_text()) == [entry]


def test_a_change_of_the_sources_shows(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ROOT", tmp_path)
    (tmp_path / "package").mkdir()
    source = tmp_path / "package" / "module.py"
    source.write_text("x = 1\n")
    before = record.code_hash(("package",))
    source.with_suffix(".txt").write_text("no source\n")
    assert record.code_hash(("package",)) == before
    source.write_text('"""What the module is,\n\nin words."""\n\nx = 1\n')
    assert record.code_hash(("package",)) == before
    source.write_text("x = 2\n")
    assert record.code_hash(("package",)) != before


def test_rates_of_the_service_are_those_of_their_ratio():
    """One of three turns, or the mean of the middle two of four; not medians of several turns."""
    pairs = [(8.0, 9.0), (12.0, 12.0), (5.0, 4.0)]
    assert service.middle(pairs) == pytest.approx((12.0, 12.0))
    first, second = service.middle([*pairs, (6.0, 6.0)])
    assert first / second == pytest.approx(1.0) and first == pytest.approx(72**0.5)
