"""Optimizers against each other: lowest training objective at equal seconds and equal passes.

    mpiexec -n 2 python scripts/bench/optimizers.py                  # hours
    mpiexec -n 2 python scripts/bench/optimizers.py --only mnist-mlp --seconds 20 --seeds 1

Each baseline runs at its best of five learning rates, found with seed 0 and the same seconds.
Adult is lifted to 4,000 random Fourier features, ridge 1e-6; networks have no ridge. Data come from
HESSCOMP_DATA, else MNIST is the packaged sample of 5,000 images, and the table says so. Passes
weigh batches by their share and count each product column as one. Writes optimizers.json into
docs/figures and prints the table.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from hesscomp.curvature.tensorflow import set_threads
from hesscomp.datasets import fourier_features, load_dataset
from hesscomp.optimizers.batches import Sampling
from hesscomp.optimizers.drsom import DRSOM
from hesscomp.optimizers.first_order import SGD, AdaBelief, Adam
from hesscomp.optimizers.gauss_newton import GaussNewton
from hesscomp.optimizers.hessian_free import HessianFree
from hesscomp.optimizers.loop import Stopping, train
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.parallel.world import World
from hesscomp.problems.catalogue import NAMED_PROBLEMS
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.problems.models import build_network
from hesscomp.runs.report import write_json

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
RATES = {"sgd": (1.0, 0.3, 0.1, 0.03, 0.01)}
ADAPTIVE_RATES = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
BATCH = Sampling(gradient=200)
CURVATURE = Sampling(curvature=0.1)
NETWORKS = ("mnist-mlp", "mnist-cnn4", "curves-autoencoder", "mnist-autoencoder")

BASELINES = [(SGD(), BATCH), (Adam(), BATCH), (AdaBelief(), BATCH)]
CONVEX = [
    (NewtonCG(rank=100), Sampling()), (NewtonCG(rank=100), CURVATURE),
    (NewtonCG(preconditioner="none"), Sampling()), (GaussNewton(), CURVATURE),
    (HessianFree(damping=1e-2), Sampling()), (DRSOM(), Sampling()),
]  # fmt: skip
DEEP = [
    (HessianFree(damping=1.0), CURVATURE),
    (HessianFree(damping=1.0, preconditioner="low-rank"), CURVATURE),
    (HessianFree(damping=1.0, preconditioner="none"), CURVATURE),
    (GaussNewton(), CURVATURE),
    (NewtonCG("trust-region", curvature="gauss-newton"), CURVATURE),
    (DRSOM(), Sampling()), (DRSOM("krylov", count=6), CURVATURE),
]  # fmt: skip


def problem_named(name: str, world: World, seed: int):
    """The problem and what it is, in words."""
    if name == "adult":
        data = fourier_features(
            load_dataset("adult", world), world, 4000, 6.0, seed=0, dtype="float32"
        )
        return LogisticRegression(data, world, ridge=1e-6), "Adult, 4,000 Fourier features"
    named, source = NAMED_PROBLEMS[name], NAMED_PROBLEMS[name].data
    if source == "mnist" and not os.environ.get("HESSCOMP_DATA"):
        source = "mnist-sample"
    data = load_dataset(source, world, targets=named.targets)
    model = build_network(named.network, name, seed)
    return KerasProblem(model, named.loss, data, world), f"{name} on {source}"


def run(problem, optimizer, sampling, seconds: float, seed: int):
    sampling = replace(sampling, seed=seed)
    train(problem, optimizer, sampling=sampling, stopping=Stopping(2))  # compiles
    stopping = Stopping(max_steps=10**9, max_seconds=seconds)
    return train(problem, optimizer, sampling=sampling, stopping=stopping)


def tuned(problem, optimizer, sampling, seconds):
    """A baseline at its best rate."""
    rates = RATES.get(optimizer.name, ADAPTIVE_RATES)
    trials = [replace(optimizer, learning_rate=rate) for rate in rates]
    found = [run(problem, trial, sampling, seconds, 0).best_objective for trial in trials]
    return trials[int(np.nanargmin(found))]


def label(optimizer, sampling) -> str:
    """The optimizer with what is not by default."""
    fresh = type(optimizer)()
    own = [f"{k}={v}" for k, v in vars(optimizer).items() if v != getattr(fresh, k)]
    share = min(sampling.gradient, sampling.curvature, key=lambda s: s if s <= 1 else 0)
    words = [*own, "" if share == 1 else f"batch {share:g}"]
    return f"{optimizer.name} {' '.join(words)}".strip()


def measure(name: str, world: World, seconds: float, seeds: int) -> dict:
    problem, title = problem_named(name, world, 0)
    second_order = CONVEX if name == "adult" else DEEP
    contenders = [(tuned(problem, o, s, seconds), s) for o, s in BASELINES] + second_order
    rows = []
    for optimizer, sampling in contenders:
        runs = [
            run(
                problem_named(name, world, seed)[0] if seed else problem,
                optimizer,
                sampling,
                seconds,
                seed,
            )
            for seed in range(seeds)
        ]
        rows.append(
            {
                "optimizer": label(optimizer, sampling),
                "objective": float(np.median([r.best_objective for r in runs])),
                "steps": int(np.median([r.steps for r in runs])),
                "curves": [
                    [[row["work"], row["full_objective"]] for row in r.history.rows] for r in runs
                ],
            }
        )
    budget = np.median([curve[-1][0] for row in rows for curve in row["curves"]])
    for row in rows:
        row["at_passes"] = float(np.median([best_by(curve, budget) for curve in row["curves"]]))
        row["passes"] = float(np.median([curve.pop()[0] for curve in row["curves"]]))
        del row["curves"]
    return {"problem": title, "seconds": seconds, "passes": float(budget), "rows": rows}


def best_by(curve, passes: float) -> float:
    """The lowest objective over all rows that was known within so many passes."""
    return min(value for cost, value in curve if cost <= passes and np.isfinite(value))


def table(result: dict) -> str:
    lines = [
        f"{result['problem']}: lowest objective in {result['seconds']:g} s",
        f"| optimizer | objective | within {result['passes']:.0f} passes | passes | steps |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in sorted(result["rows"], key=lambda row: row["objective"]):
        lines.append(
            f"| {row['optimizer']} | {row['objective']:.6g} | {row['at_passes']:.6g} "
            f"| {row['passes']:.0f} | {row['steps']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["adult", *NETWORKS])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default=str(FIGURES / "optimizers.json"))
    options = parser.parse_args()
    world = World()
    set_threads(1)
    results = []
    with threadpool_limits(1):
        for name in options.only:
            results.append(measure(name, world, options.seconds, options.seeds))
            if world.rank == 0:
                print(table(results[-1]), flush=True)
    if world.rank == 0:
        write_json(options.out, {"ranks": world.size, "problems": results})


if __name__ == "__main__":
    main()
