"""Optimizers against each other: lowest training objective at equal seconds and equal passes.

    mpiexec -n 2 python scripts/bench/optimizers.py                  # twelve hours
    mpiexec -n 2 python scripts/bench/optimizers.py --only mnist-mlp --seconds 20 --seeds 1
    python scripts/bench/optimizers.py --only preconditioners        # two minutes

Each method runs at the best of its settings (five learning rates for a baseline), found with seed 0
and the same seconds; then with the other seeds. Adult is lifted to 4,000 random Fourier features,
ridge 1e-6; networks have no ridge, autoencoders start from Martens' sparse weights. Data come from
HESSCOMP_DATA, else MNIST is the packaged sample of 5,000 images; the titles say on how many rows
everything ran. Passes weigh batches by their share and count each product column as one.
`preconditioners` counts CG products instead. Writes optimizers.json, in which what was measured of
other problems stays, and a figure a problem, and prints the tables.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from hesscomp.analysis.plots import make_figure, save_figure
from hesscomp.curvature.tensorflow import set_threads
from hesscomp.datasets import fourier_features, load_dataset
from hesscomp.optimizers.batches import Sampling
from hesscomp.optimizers.drsom import DRSOM
from hesscomp.optimizers.first_order import SGD, AdaBelief, Adam
from hesscomp.optimizers.gauss_newton import GaussNewton
from hesscomp.optimizers.hessian_free import HessianFree
from hesscomp.optimizers.initial import sparse_initial
from hesscomp.optimizers.loop import Stopping, TrainResult, train
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.parallel.world import World
from hesscomp.problems.catalogue import NAMED_PROBLEMS
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.problems.models import build_network
from hesscomp.runs.report import write_json

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
PROBLEMS = ("adult", "mnist-mlp", "mnist-cnn4", "curves-autoencoder", "mnist-autoencoder")
SHOWN = 200  # points of a curve that are kept
EVALUATIONS = 5  # passes between objectives over all rows, where gradients are of batches

ALL, BATCH, CURVATURE = Sampling(), Sampling(gradient=200), Sampling(curvature=0.1)
ADAPTIVE_RATES = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
BASELINES = [
    ([SGD(rate) for rate in (1.0, 0.3, 0.1, 0.03, 0.01)], BATCH),
    ([Adam(rate) for rate in ADAPTIVE_RATES], BATCH),
    ([AdaBelief(rate) for rate in ADAPTIVE_RATES], BATCH),
]
GAUSS_NEWTON = [GaussNewton(damping) for damping in (1.0, 1e-2)], CURVATURE
CONVEX = [
    ([NewtonCG(rank=100)], ALL), ([NewtonCG(rank=100)], CURVATURE),
    ([NewtonCG(preconditioner="none")], ALL), GAUSS_NEWTON,
    ([HessianFree(damping) for damping in (1e-2, 1e-4)], ALL), ([DRSOM()], ALL),
]  # fmt: skip
DEEP = [
    ([HessianFree(damping) for damping in (45.0, 1.0)], CURVATURE),
    ([HessianFree(1.0, preconditioner="low-rank")], CURVATURE),
    ([HessianFree(1.0, preconditioner="none")], CURVATURE), GAUSS_NEWTON,
    ([NewtonCG("trust-region", curvature="gauss-newton")], CURVATURE),
    ([DRSOM()], ALL), ([DRSOM("krylov", count=6)], CURVATURE),
]  # fmt: skip


class Contest:
    """A problem with its starts, one for each seed."""

    def __init__(self, name: str, world: World, rows: int | None):
        self.name = name
        if name == "adult":
            data = load_dataset("adult", world)
            data = fourier_features(data, world, 4000, 6.0, seed=0, dtype="float32")
            self.problem = LogisticRegression(data, world, ridge=1e-6)
            self.title = "Adult, 4,000 Fourier features"
        else:
            named, source = NAMED_PROBLEMS[name], NAMED_PROBLEMS[name].data
            if source == "mnist" and not os.environ.get("HESSCOMP_DATA"):
                source = "mnist-sample"
            data = load_dataset(source, world, targets=named.targets)
            network = build_network(named.network, name, 0)
            self.problem = KerasProblem(network, named.loss, data, world)
            self.title = f"{name}, {source}"
        if rows is not None and rows < self.problem.rows:
            self.problem = self.problem.sampled(rows / self.problem.rows)
        self.title += f", {self.problem.rows:,} rows, {self.problem.n:,} parameters"
        self.data, self.reconstructs = data, name.endswith("autoencoder")

    def start(self, seed: int) -> np.ndarray | None:
        if self.name == "adult":
            return None
        if self.reconstructs:
            return sparse_initial(self.problem.blocks, seed)
        network = build_network(NAMED_PROBLEMS[self.name].network, self.name, seed)
        return np.concatenate([np.ravel(part) for part in network.trainable_variables])

    def run(self, optimizer, sampling: Sampling, seconds: float, seed: int) -> TrainResult:
        sampling, x0 = replace(sampling, seed=seed), self.start(seed)
        train(self.problem, optimizer, x0, sampling=sampling, stopping=Stopping(2))  # compiles
        share = sampling.share(0, self.problem.rows)
        return train(
            self.problem, optimizer, x0, sampling=sampling,
            stopping=Stopping(max_steps=10**9, max_seconds=seconds),
            evaluate_every=1 if share == 1 else round(EVALUATIONS / share),
        )  # fmt: skip

    def squared_errors(self, x: np.ndarray) -> dict[str, float]:
        """Of an autoencoder's images, a row's sum, as the papers have it: training and test."""
        errors = {}
        for name, shard in (("training", self.problem.data), ("test", self.data.test)):
            total = 0.0
            for part in np.array_split(np.arange(len(shard.X)), max(len(shard.X) // 1000, 1)):
                images = np.asarray(shard.X[part], dtype=np.float64)
                output = 1 / (1 + np.exp(-self.problem.output(x, images)))
                total += float(np.sum((output - images) ** 2))
            sums = self.problem.world.sum(np.array([total, len(shard.X)]))
            errors[f"{name}_squared_error"] = float(sums[0] / sums[1])
        return errors


def measure(name: str, world: World, seconds: float, seeds: int, rows: int | None) -> dict:
    contest, found = Contest(name, world, rows), []
    for variants, sampling in BASELINES + (CONVEX if name == "adult" else DEEP):
        first = [contest.run(optimizer, sampling, seconds, 0) for optimizer in variants]
        best = int(np.argmin([result.best_objective for result in first]))
        others = [contest.run(variants[best], sampling, seconds, s) for s in range(1, seeds)]
        found.append((label(variants[best], sampling), [first[best], *others]))
    budget = float(np.median([r.history.rows[-1]["work"] for _, runs in found for r in runs]))
    rows = [summary(contest, *each, budget) for each in found]
    return {"problem": contest.title, "seconds": seconds, "seeds": seeds, "passes": budget,
            "rows": rows}  # fmt: skip


def summary(contest: Contest, name: str, runs: list[TrainResult], budget: float) -> dict:
    def median(values) -> float:
        return float(np.median(list(values)))

    errors = [contest.squared_errors(r.best) for r in runs] if contest.reconstructs else [{}]
    return {
        "optimizer": name,
        "objective": median(r.best_objective for r in runs),
        "at_passes": median(best_within(budget, r) for r in runs),
        "passes": median(r.history.rows[-1]["work"] for r in runs),
        "steps": median(r.steps for r in runs),
        "status": runs[0].reason,
        **{key: median(each[key] for each in errors) for key in errors[0]},
        "curve": curve(runs[0]),
    }


def label(optimizer, sampling: Sampling) -> str:
    """The optimizer with what is not by default."""
    fresh = type(optimizer)()
    own = [f"{k}={v}" for k, v in vars(optimizer).items() if v != getattr(fresh, k)]
    if sampling.gradient != 1:
        own.append(f"batch {sampling.gradient:g}")
    if sampling.curvature != 1:
        own.append(f"curvature {sampling.curvature:g}")
    return " ".join([optimizer.name, *own])


def best_within(passes: float, result: TrainResult) -> float:
    """The lowest objective over all rows that was known within so many passes."""
    work, values = (result.history.column(name) for name in ("work", "full_objective"))
    return float(np.nanmin(values[(work <= passes) | (work == work[0])]))


def curve(result: TrainResult) -> dict[str, list[float]]:
    """The lowest objective so far against seconds and passes, thinned."""
    columns = [result.history.column(name) for name in ("seconds", "work", "full_objective")]
    known = np.flatnonzero(np.isfinite(columns[-1]))
    columns[-1] = np.fmin.accumulate(columns[-1])
    kept = known[np.unique(np.linspace(0, len(known) - 1, SHOWN).astype(int))]
    names = ("seconds", "passes", "objective")
    return {
        name: [float(f"{v:.9g}") for v in column[kept]]
        for name, column in zip(names, columns, strict=True)
    }


def table(result: dict) -> str:
    errors = "training_squared_error" in result["rows"][0]
    head = ["optimizer", "objective", f"within {result['passes']:.0f} passes", "passes", "steps"]
    lines = [[*head, *(["squared error", "of test rows"] if errors else [])]]
    for row in sorted(result["rows"], key=lambda row: row["objective"]):
        line = [row["optimizer"], f"{row['objective']:.6g}", f"{row['at_passes']:.6g}",
                f"{row['passes']:.0f}", f"{row['steps']:.0f}"]  # fmt: skip
        if errors:
            line += [f"{row[f'{part}_squared_error']:.4g}" for part in ("training", "test")]
        lines.append(line)
    title = f"{result['problem']}: lowest objective in {result['seconds']:g} s"
    return f"{title}, median of {result['seeds']}\n\n{markdown(lines)}"


def markdown(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def draw(result: dict, path: Path) -> None:
    """The objective above the lowest one, against seconds and passes."""
    figure, axes = make_figure(2, width=6.5)
    floor = min(min(row["curve"]["objective"]) for row in result["rows"])
    for axis, cost in zip(axes, ("seconds", "passes"), strict=True):
        for index, row in enumerate(result["rows"]):
            gap = np.array(row["curve"]["objective"]) - floor
            style = {"ls": "--" if index < len(BASELINES) else "-", "color": f"C{index}"}
            shown = np.where(gap > 0, gap, np.nan)
            axis.plot(row["curve"][cost], shown, lw=1.4, label=row["optimizer"], **style)
        axis.set_yscale("log")
        axis.set_xlabel(cost)
    axes[0].set_ylabel("objective above the lowest one")
    axes[1].legend(frameon=False, fontsize=7)
    figure.suptitle(result["problem"])
    save_figure(figure, path)


# Preconditioners


def preconditioners(world: World) -> list[dict]:
    """CG products of Newton's method until an objective is reached, by preconditioner."""
    adult = LogisticRegression(
        load_dataset("adult", world), world, ridge=1 / 32561, dtype="float64"
    )
    named = NAMED_PROBLEMS["mnist-mlp"]
    network = KerasProblem(
        build_network(named.network, "mnist-mlp", 0), named.loss,
        load_dataset("mnist-sample", world, targets=named.targets), world, ridge=1 / 5000,
    )  # fmt: skip
    rows = []
    for problem, rank, curvature, goal in (
        (adult, 60, "hessian", {"gradient_tolerance": 1e-9}),
        (network, 150, "gauss-newton", {"target": 0.1325}),
    ):
        for kind in ("low-rank", "diagonal", "none"):
            optimizer = NewtonCG(preconditioner=kind, rank=rank, curvature=curvature)
            result = train(problem, optimizer, stopping=Stopping(max_steps=200, **goal))
            counts = {
                name: int(np.nansum(result.history.column(name)))
                for name in ("cg_iterations", "sketch_columns")
            }
            rows.append({
                "problem": f"{problem.name} on {problem.dataset_name}", "preconditioner": kind,
                "goal": goal, "reached": result.converged, "steps": result.steps, **counts,
            })  # fmt: skip
    return rows


def preconditioner_table(rows: list[dict]) -> str:
    lines = [["problem", "preconditioner", "steps", "CG products", "sketch columns"]]
    for row in rows:
        counts = [str(row[name]) for name in ("steps", "cg_iterations", "sketch_columns")]
        missed = "" if row["reached"] else " (goal missed)"
        lines.append([row["problem"], row["preconditioner"] + missed, *counts])
    return markdown(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    everything = (*PROBLEMS, "preconditioners")
    parser.add_argument("--only", nargs="+", choices=everything, default=everything)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="at most about so many training rows")
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--out", type=Path, default=FIGURES / "optimizers.json")
    options = parser.parse_args()
    world = World()
    set_threads(options.threads)
    # what was measured before stays, so that problems can be run one by one
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    known = world.broadcast(known)
    with threadpool_limits(options.threads):
        for name in options.only:
            if name == "preconditioners":
                known[name] = preconditioners(world)
                shown = preconditioner_table(known[name])
            else:
                known[name] = measure(name, world, options.seconds, options.seeds, options.rows)
                known[name]["ranks"] = world.size
                shown = table(known[name])
            if world.rank == 0:
                print(shown, flush=True)
                write_json(options.out, known)
                if name != "preconditioners":
                    draw(known[name], options.out.with_name(f"optimizers-{name}.png"))


if __name__ == "__main__":
    main()
