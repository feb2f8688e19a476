"""Make the measured tables of README.md and docs/ from docs/measured.json.

    python scripts/bench/tables.py            # rewrite them
    python scripts/bench/tables.py --check    # change nothing; fail where a page differs

Names the rows whose code has changed since they were measured. A page has a region for each table,
<!-- measured: NAME --> ... <!-- /measured -->, whose text is replaced. NAME is a table of the file,
all of its rows with all of their values, or a summary that a function here makes (`SUMMARIES`).
Every row says when and at which commit it was measured.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from record import ROOT, add_option, is_old, read, save, shortened

REGION = re.compile(r"(<!-- measured: ([\w-]+) -->\n)(.*?)(<!-- /measured -->)", re.DOTALL)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str, entries: list[dict], where: str = "the page") -> str:
    """A page's text with its regions made from the entries."""

    def make(found: re.Match) -> str:
        before, name, _, after = found.groups()
        body = SUMMARIES[name](entries) if name in SUMMARIES else table(rows_of(entries, name))
        if not body:
            raise SystemExit(
                f"{where}: the region {name} has no measurement in docs/measured.json; measure it "
                "(scripts/bench/) or take the region out of the page"
            )
        return f"{before}{body}{after}"

    return REGION.sub(make, text)


def rows_of(entries: list[dict], name: str) -> list[dict]:
    return [entry for entry in entries if entry["table"] == name]


def table(rows: list[dict]) -> str:
    """All values of all rows, when they were measured, and by which commands."""
    if not rows:
        return ""
    heads = list(dict.fromkeys(head for row in rows for head in row["values"]))
    lines = [["", *heads, "measured"]]
    lines += [
        [row["row"], *(cell(row["values"].get(head)) for head in heads), when(row)] for row in rows
    ]
    return f"{markdown(lines)}\n{origin(rows)}"


def markdown(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(value) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:,}"


def parts_parser(description: str, parts: dict[str, Callable]) -> argparse.ArgumentParser:
    """Return the parser of a benchmark of several parts, each of which fills a table."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    listed = ", ".join(parts)

    def part(name: str) -> str:
        if name not in parts:
            raise argparse.ArgumentTypeError(f"no part {name}; take {listed}")
        return name

    parser.add_argument("parts", nargs="*", type=part, help=f"of {listed}; default: all")
    add_option(parser)
    return parser


def run_parts(
    options, parts: dict[str, Callable], prefix: str, code: tuple, *given, ranks: dict | None = None
) -> None:
    """Run the parts that were asked for, print their tables, and record them but in a trial.

    `ranks` are those of parts that take several: such a part runs only where it is named, and only
    rank 0 returns rows.
    """
    ranks = ranks or {}
    for name in options.parts or [name for name in parts if name not in ranks]:
        rows = parts[name](*given)
        if not rows:
            continue
        heads = list(dict.fromkeys(head for values in rows.values() for head in values))
        lines = [["", *heads]]
        for row, values in rows.items():
            lines.append([row, *(cell(shortened(values.get(head))) for head in heads)])
        print(f"\n{name}\n{markdown(lines)}", flush=True)
        for row, values in {} if options.trial else rows.items():
            save(f"{prefix}-{name}", row, values, code, ranks.get(name, 1))


def when(row: dict) -> str:
    """The day and the commit; a plus where the sources differed from it; other work beside it."""
    busy = ", busy machine" if row["busy"] else ""
    return f"{row['date']}, {row['commit']}{'+' if row['changed'] else ''}{busy}"


def origin(rows: list[dict]) -> str:
    """On which machines and by which commands."""
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    commands = list(dict.fromkeys(row["command"] for row in rows))
    shown = ", ".join(f"`{command}`" for command in commands)
    return f"On {' and on '.join(machines)}; {shown}.\n"


def between(rows: list[dict], head: str, form: str = "{:.3g}") -> str:
    """The smallest and the largest of a column, in words."""
    values = [
        row["values"][head] for row in rows if isinstance(row["values"].get(head), float | int)
    ]
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def old_tables(entries: list[dict]) -> list[str]:
    """A line for each table and measurement whose code has changed since."""
    old: dict[tuple[str, str, str], list[str]] = {}
    for entry in filter(is_old, entries):
        old.setdefault((entry["table"], when(entry), entry["command"]), []).append(entry["row"])
    return [
        f"{name}: {len(rows)} rows of {time} are older than their code; measure again: {command}"
        for (name, time, command), rows in old.items()
    ]


# Summaries: from all entries to a region's text


def overview(entries: list[dict]) -> str:
    """README's table: a line for each kind of measurement, its extremes."""
    lines = [["what", "measured", "when"]]
    for names, title, words in OVERVIEW:
        rows = [row for name in names.split() for row in rows_of(entries, name)]
        if rows:
            lines.append([title, words(rows), when(max(rows, key=lambda row: row["date"]))])
    return markdown(lines) if len(lines) > 1 else ""


def _newton(rows: list[dict]) -> str:
    return (
        f"{between(rows, 'newton-cholesky over ours')} times faster than scikit-learn's "
        f"newton-cholesky, {between(rows, 'lbfgs over ours')} times faster than its lbfgs"
    )


def _network(rows: list[dict]) -> str:
    return (
        f"{between(rows, 'over its products')} times as long as its matrix products alone, "
        f"{between(rows, 'curvlinops over ours')} times faster than curvlinops"
    )


OVERVIEW: list[tuple[str, str, Callable]] = [
    ("logistic", "logistic regression on Adult, to the same gradient norm, 2 ranks", _newton),
    (
        "compress",
        "rank 50 of ten families of matrices, to within 1% of the smallest error",
        lambda rows: f"{between(rows, 'eigsh')} times faster than `scipy.sparse.linalg.eigsh`",
    ),
    ("engine", "block products with a network's Hessian", _network),
    (
        "mnist-factor",
        "rank 50 of a network's Hessian over all of MNIST",
        lambda rows: (
            f"eigenvalues with errors of {between(rows, 'largest error', '{:.1e}')}, "
            f"{between(rows, 'eigsh over ours')} times faster than `eigsh` over curvlinops"
        ),
    ),
    (
        "layout-memory memory",
        "peak memory, beside what the documentation states",
        lambda rows: f"{between(rows, 'over the stated')} times as much",
    ),
]


def compress_summary(entries: list[dict]) -> str:
    rows = rows_of(entries, "compress")
    return rows and (
        f"So the default is {between(rows, 'eigsh')} times faster than `eigsh`, and "
        f"{between(rows, 'eigsh narrow')} times faster than `eigsh` with fewer Lanczos vectors.\n"
    )


def service_kills(entries: list[dict]) -> str:
    """The pieces, and in words what they are together."""
    rows = rows_of(entries, "service-kills")
    if not rows:
        return ""

    def total(head: str) -> int:
        return sum(row["values"][head] for row in rows)

    number = sum(int(row["row"].split()[0]) for row in rows)
    return (
        f"{table(rows)}\nTogether {number} kills and stops: {total('done')} jobs done, "
        f"{total('wrong')} of them with wrong bits, {total('failed')} failed; the ranks began anew "
        f"{total('restarts')} times; of {total('hit a rank')} blows at ranks "
        f"{total('named its rank')} were told with the rank's number.\n"
    )


SUMMARIES: dict[str, Callable[[list[dict]], str]] = {
    "overview": overview,
    "compress-summary": compress_summary,
    "service-kills": service_kills,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail on differences")
    options = parser.parse_args()
    entries, differing = read(), []
    for page in pages():
        text = page.read_text()
        made = filled(text, entries, page.name)
        if made != text:
            differing.append(page.name)
            if not options.check:
                page.write_text(made)
    print("\n".join(old_tables(entries)))
    if differing and options.check:
        sys.exit(f"differ from docs/measured.json: {', '.join(differing)}; run make tables")


if __name__ == "__main__":
    main()
