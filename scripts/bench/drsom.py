"""DRSOM with approximated Hessians beside SGD, Adam and AdaBelief: a table and a figure.

    python scripts/bench/drsom.py

The network `mnist-cnn4` on 1,000 rows of the packaged sample, batches of 100, one start. SGD, Adam
and AdaBelief have the best of their rates in `scripts/bench/optimizers.py`. Training loss, training
accuracy and accuracy on the 1,000 test rows by passes over the rows; the legend has the seconds of
the processor that a method took for its steps, evaluations left out. The table has the ends, and
the time of a step. Ten minutes on one core.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import record

from hesscomp.analysis.style import make_figure, save_figure, scale_by_powers, set_title
from hesscomp.curvature.tensorflow import set_threads
from hesscomp.datasets import load_dataset
from hesscomp.optimizers.batches import Sampling
from hesscomp.optimizers.drsom import DRSOM
from hesscomp.optimizers.first_order import SGD, AdaBelief, Adam
from hesscomp.optimizers.loop import Stopping, train
from hesscomp.parallel.world import World
from hesscomp.problems.catalogue import NAMED_PROBLEMS
from hesscomp.problems.evaluation import HeldOut
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.models import build_network

OUT = Path(__file__).resolve().parents[2] / "docs" / "figures"
ROWS, BATCH, PASSES, MOMENTS = 1000, 100, 12, 12
COMMON = {"same_batch": True, "averaging": 0.9}
METHODS = {
    "SGD": SGD(3e-2, nesterov=True),
    "Adam": Adam(1e-2),
    "AdaBelief": AdaBelief(1e-2),
    "DRSOM, Adam's diagonal": DRSOM(curvature="adam", **COMMON),
    "DRSOM, AdaBelief's diagonal": DRSOM(curvature="adabelief", **COMMON),
    "DRSOM, Kronecker": DRSOM(curvature="kronecker", **COMMON),
    "DRSOM, low-rank": DRSOM(curvature="low-rank", **COMMON),
    "DRSOM, Gauss-Newton": DRSOM(curvature="gauss-newton", **COMMON),
    "the same, gamma": DRSOM(curvature="gauss-newton", control="radius-free", **COMMON),
    "the same, 4 directions": DRSOM(curvature="gauss-newton", count=4, **COMMON),
    "the same, 1 random direction": DRSOM(curvature="gauss-newton", directions="random", **COMMON),
}
COLUMNS = ("loss", "training", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=float, default=PASSES)
    parser.add_argument("--out", type=Path, default=OUT / "drsom.png")
    record.add_option(parser)
    options = parser.parse_args()
    set_threads(1)
    world, named = World(), NAMED_PROBLEMS["mnist-cnn4"]
    data = load_dataset("mnist-sample", world, targets=named.targets)
    whole = KerasProblem(build_network(named.network, "mnist-cnn4", 0), named.loss, data, world)
    problem, test = whole.sampled(ROWS / whole.rows), HeldOut(whole, data)
    title = f"mnist-cnn4, {problem.rows:,} rows, {problem.n:,} parameters, batches of {BATCH}"
    figure, panels = make_figure(3, title=title)
    runs = {}
    for index, (name, optimizer) in enumerate(METHODS.items()):
        found, seconds = runs[name] = curve(problem, test, optimizer, options.passes)
        ends = ", ".join(f"{each} {found[-1][each]:.4g}" for each in COLUMNS)
        print(f"{name}: {seconds:.1f} s, {ends}", flush=True)
        line = "--" if not isinstance(optimizer, DRSOM) else "-" if index < 10 else ":"
        style = {"color": f"C{index % 10}", "ls": line}
        for axes, column in zip(panels, COLUMNS, strict=True):
            points = [(row["passes"], row[column]) for row in found]
            axes.plot(*np.array(points).T, lw=1.8, label=f"{name}, {seconds:.0f} s", **style)
    heads = ("Training loss", "Training accuracy", "Test accuracy")
    for axes, head in zip(panels, heads, strict=True):
        set_title(axes, head)
        axes.set_xlabel("passes over the rows")
    scale_by_powers(panels[0].yaxis)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False,
        fontsize=9,
    )  # fmt: skip
    save_figure(figure, options.out)
    for name, (found, seconds) in runs.items():
        row = {
            "training loss": f"{found[-1]['loss']:.2g}",
            "training accuracy": f"{found[-1]['training']:.3f}",
            "test accuracy": f"{found[-1]['test']:.3f}",
            "time of a step, Adam's as one": seconds / runs["Adam"][1],
        }
        if not options.trial:
            record.save("drsom", name, row, (*record.OPTIMIZERS, *record.ENGINE))


def curve(problem, test: HeldOut, optimizer, passes: float) -> tuple[list[dict], float]:
    """Return what is known at some moments of a run, and the processor's seconds of its steps."""
    steps = round(passes * problem.rows / BATCH)
    moments = set(np.linspace(0, steps, MOMENTS + 1).round().astype(int).tolist())
    points, settings = [], {"sampling": Sampling(gradient=BATCH, curvature=BATCH)}

    def note(row, x):
        if int(row["step"]) in moments:
            points.append((row["step"] * BATCH / problem.rows, x.copy()))

    settings |= {"evaluate_every": 10**9}
    train(problem, optimizer, stopping=Stopping(max_steps=2), **settings)  # compiles
    begun = time.process_time()
    train(problem, optimizer, stopping=Stopping(max_steps=steps), callbacks=(note,), **settings)
    seconds = time.process_time() - begun
    found = []
    for place, x in points:
        right, total = problem.right_predictions(x)
        found.append(
            {
                "passes": place, "loss": problem.objective(x), "training": right / total,
                "test": test(x).accuracy,
            }
        )  # fmt: skip
    return found, seconds


if __name__ == "__main__":
    main()
