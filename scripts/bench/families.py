"""Every compression method on the public families of matrices: excess error against oversampling.

    python scripts/bench/families.py               # ten seeds, six minutes
    python scripts/bench/families.py --seeds 2

n = 1000, rank 20. The excess is ||H - F||_F over the error of the best factor of that rank, less
one, as a mean over seeds. Writes families.png and families.json and prints the table of
docs/compression.md.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import record
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from threadpoolctl import threadpool_limits

from hesscomp.compression import METHODS, compress

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from families import FAMILIES, N, family, tail

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
RANK, OVERSAMPLES, POWERS = 20, (2, 5, 10, 20, 40, 80), (0, 1, 2)
SHOWN = 1  # the power of the figure: the default of `compress`
FLOOR = 1e-6  # an excess below this is drawn there
MARKERS = "os^vDP<>X.*"
COLORS = [f"C{i}" for i in range(10)] + ["black"]
POWERLESS = ("adaptive", "one-pass")  # methods without power steps
TABLE = [("PolyDecay 1", False), ("PolyDecay 1", True), ("ExpDecay 0.1", False),
         ("ExpDecay 0.1", True), ("LowRankMedNoise", False)]  # fmt: skip


def measure(name: str, signed: bool, seeds: int) -> list[dict]:
    """A curve for each method and power: columns and excess by oversample."""
    H = family(name, signed)
    best = tail(H.w, RANK)
    curves = []
    for method, kind in METHODS.items():
        if signed and kind.needs_psd:
            continue
        for power in (0,) if method in POWERLESS else POWERS:
            options = {"method": method, "power": power}
            columns, excess = [], []
            for oversample in OVERSAMPLES:
                factors = [
                    compress(H, RANK, oversample=oversample, seed=seed, **options)
                    for seed in range(seeds)
                ]
                columns.append(int(np.median([f.provenance.columns for f in factors])))
                excess.append(float(f"{np.mean([H.error(f) for f in factors]) / best - 1:.2e}"))
            facts = {"family": name, "signed": signed, **options}
            curves.append({**facts, "columns": columns, "excess": excess})
    return curves


def find(curves, **facts) -> dict | None:
    """The curve with these facts, None where the method does not fit."""
    matching = (c for c in curves if all(c[key] == value for key, value in facts.items()))
    return next(matching, None)


def draw(curves: list[dict], seeds: int, path: Path) -> None:
    figure = Figure(figsize=(15, 11.5), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = [(name, signed) for signed in (False, True) for name in FAMILIES]
    axes = figure.subplots(4, 5, sharex=True, sharey=True).flat
    for panel, (name, signed) in zip(axes, panels, strict=True):
        for index, method in enumerate(METHODS):
            power = 0 if method in POWERLESS else SHOWN
            curve = find(curves, family=name, signed=signed, method=method, power=power)
            if curve is not None:
                label = method if (name, signed) == panels[0] else None
                style = {"marker": MARKERS[index], "color": COLORS[index], "ms": 4, "lw": 1.2}
                panel.plot(OVERSAMPLES, np.maximum(curve["excess"], FLOOR), label=label, **style)
        panel.axhline(FLOOR, color="black", lw=1, ls="--")
        panel.set(xscale="log", yscale="log", ylim=(FLOOR / 2, 60))
        panel.set_xticks(OVERSAMPLES, OVERSAMPLES)
        panel.minorticks_off()
        panel.grid(color="#dddddd", lw=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_title(f"{name}{', random signs' if signed else ''}", fontsize=10)
    figure.supxlabel("oversample (columns of the sketch beyond the rank)")
    figure.supylabel("error over the best factor's, less one (dashed: at most 1e-6, the optimum)")
    powers = f"power {SHOWN} ({', '.join(POWERLESS)} 0)"
    figure.suptitle(f"Rank {RANK} of n = {N}, {powers}, means over {seeds} seeds")
    figure.legend(loc="outside right upper", frameon=False)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(256).save(path, optimize=True)  # a third of the size


def table(curves: list[dict]) -> dict[str, dict]:
    """Excess of every method and power on some families, at an oversample of 10."""
    at, lines = OVERSAMPLES.index(10), {}
    heads = [f"{name}{', signs' if signed else ''}" for name, signed in TABLE]
    for method in METHODS:
        for power in POWERS:
            found = [
                find(curves, family=name, signed=signed, method=method, power=power)
                for name, signed in TABLE
            ]
            columns = sorted({curve["columns"][at] for curve in found if curve})
            if columns:
                cost = " to ".join(str(c) for c in sorted({columns[0], columns[-1]}))
                cells = [f"{max(curve['excess'][at], 0):.1e}" if curve else None for curve in found]
                lines[f"{method}, {power}"] = {
                    "columns": cost,
                    **dict(zip(heads, cells, strict=True)),
                }
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=FIGURES, metavar="FOLDER")
    record.add_option(parser)
    options = parser.parse_args()
    curves = []
    with threadpool_limits(1):
        for name in FAMILIES:
            for signed in (False, True):
                curves += measure(name, signed, options.seeds)
                print(f"{name}{', signs' if signed else ''}", file=sys.stderr, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {"n": N, "rank": RANK, "seeds": options.seeds, "oversamples": OVERSAMPLES}
    lines = ",\n".join(json.dumps(curve) for curve in curves)
    (options.out / "families.json").write_text(
        f'{json.dumps(facts)[:-1]}, "curves": [\n{lines}\n]}}\n'
    )
    draw(curves, options.seeds, options.out / "families.png")
    for row, values in table(curves).items():
        print(row, values)
        if not options.trial:
            record.save("families", row, values, record.COMPRESSION)


if __name__ == "__main__":
    main()
