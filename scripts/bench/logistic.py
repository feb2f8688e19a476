"""Distributed Newton against scikit-learn, on the same data in memory, to the same gradient norm.

    python scripts/bench/logistic.py                     # both problems, about four minutes
    python scripts/bench/logistic.py --problem adult     # half a minute

hesscomp runs on --ranks MPI ranks of one thread each, scikit-learn on as many threads. Times are
medians after start-up and compilation, which are reported beside them; ratios are peer / hesscomp.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import record

PROBLEMS = {
    # name: ridges, lift, tolerance on ||g||_2, rank, repeats of hesscomp, peers
    "adult": {
        "ridges": (1e-3, 1 / 32561, 1e-6),
        "lift": None,
        "tol": 1e-9,
        "solver": "auto",
        "rank": 40,
        "repeats": 9,
    },
    "fourier": {
        "ridges": (1e-6,),
        "lift": (4000, 6.0),
        "tol": 1e-6,
        "solver": "pcg",
        "rank": 100,
        "repeats": 3,
    },
}


def load(world, lift):
    from hesscomp.datasets import fourier_features, load_dataset

    dataset = load_dataset("adult", world)
    if lift is not None:
        dataset = fourier_features(dataset, world, *lift, seed=0, dtype="float32")
    return dataset


def worker(name: str) -> None:
    """One rank of hesscomp's side; rank 0 prints the results as JSON."""
    started = time.perf_counter()
    from threadpoolctl import threadpool_limits

    from hesscomp.curvature.tensorflow import set_threads
    from hesscomp.optimizers.newton import NewtonOptions, newton
    from hesscomp.parallel.world import World
    from hesscomp.problems.logistic import LogisticRegression

    limits = threadpool_limits(1)  # kept alive to the end
    set_threads(1)
    problem = PROBLEMS[name]
    world = World()
    dataset = load(world, problem["lift"])
    startup = time.perf_counter() - started
    results = []
    for ridge in problem["ridges"]:
        loss = LogisticRegression(dataset, world, ridge=ridge)
        begun = time.perf_counter()
        loss.compile()
        compiled = time.perf_counter() - begun
        options = NewtonOptions(
            solver=problem["solver"], tolerance=problem["tol"], rank=problem["rank"]
        )
        seconds = []
        for _ in range(problem["repeats"]):
            world.decide(True)
            columns = world.ledger.columns
            begun = time.perf_counter()
            result = newton(loss, options=options)
            seconds.append(time.perf_counter() - begun)
        shard = dataset.train.X.nbytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        l = min(problem["rank"] + options.oversample, loss.n)
        limit = 1.5 * shard + 4 * 8 * loss.n * l + 900e6
        results.append(
            {
                "ridge": ridge,
                "solver": result.solver,
                "seconds": float(np.median(seconds)),
                "iterations": result.iterations,
                "columns": world.ledger.columns - columns,
                "objective": result.objective,
                "gradient_norm": result.gradient_norm,
                "compile": compiled,
                "startup": startup,
                "peak_mb": float(world.max(np.array([peak]))[0] / 1e6),
                "limit_mb": limit / 1e6,
            }
        )
    if world.rank == 0:
        print(json.dumps(results))
    del limits


def gradient_norm(X, y, x, ridge) -> float:
    X = X.astype(np.float64)
    slopes = -y / (1 + np.exp(y * (X @ x)))
    return float(np.linalg.norm(X.T @ slopes / len(y) + ridge * x))


def peer(name: str, solver: str, ridge: float, threads: int) -> None:
    """scikit-learn's side, in a process of its own."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    from hesscomp.parallel.world import World

    warnings.simplefilter("ignore", ConvergenceWarning)
    problem = PROBLEMS[name]
    dataset = load(World(), problem["lift"])
    X, y = dataset.train.X, dataset.train.y
    tol, goal = problem["tol"], problem["tol"]
    exact = name == "adult" and solver == "newton-cholesky"
    repeats = problem["repeats"] if exact else 1
    with threadpool_limits(threads):
        while True:
            seconds = []
            for _ in range(repeats):
                model = LogisticRegression(
                    C=1 / (ridge * len(y)), fit_intercept=False, solver=solver, tol=tol,
                    max_iter=100 if solver == "newton-cholesky" else 10_000,
                )  # fmt: skip
                begun = time.perf_counter()
                model.fit(X, y)
                seconds.append(time.perf_counter() - begun)
            norm = gradient_norm(X, y, model.coef_[0].astype(np.float64), ridge)
            if not exact or norm <= goal or tol < goal * 1e-3:
                break
            tol /= 10  # it stops on max|g|: tighten until the 2-norm is there
    print(
        json.dumps(
            {
                "seconds": float(np.median(seconds)),
                "norm": norm,
                "iterations": int(model.n_iter_[0]),
            }
        )
    )


def run(arguments: list[str], ranks: int | None = None) -> object:
    python = record.on_ranks(ranks) if ranks else [sys.executable]
    environment = dict(os.environ, OMP_NUM_THREADS="1") if ranks else dict(os.environ)
    if not ranks:
        environment.pop("OMP_NUM_THREADS", None)
    command = [*python, __file__, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=(*PROBLEMS, "all"), default="all")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--worker", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument(
        "--peer", nargs=3, metavar=("NAME", "SOLVER", "RIDGE"), help=argparse.SUPPRESS
    )
    record.add_option(parser)
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker)
    if options.peer:
        name, solver, ridge = options.peer
        return peer(name, solver, float(ridge), options.ranks)
    for name in PROBLEMS if options.problem == "all" else (options.problem,):
        print(
            f"\n{name}: hesscomp on {options.ranks} ranks of 1 thread, "
            f"scikit-learn on {options.ranks} threads"
        )
        for row in run(["--worker", name], options.ranks):
            print(
                f"ridge {row['ridge']:.3g}: hesscomp {row['solver']} {row['seconds']:.3f} s, "
                f"{row['iterations']} steps, {row['columns']} product columns, objective "
                f"{row['objective']:.12f}, ||g|| {row['gradient_norm']:.1e} "
                f"(start-up {row['startup']:.1f} s, compile {row['compile']:.2f} s, "
                f"peak {row['peak_mb']:.0f} MB a rank, allowed {row['limit_mb']:.0f} MB)"
            )
            values = {
                "seconds": row["seconds"],
                "steps": row["iterations"],
                "solver": row["solver"],
                "MB a rank": row["peak_mb"],
            }
            for solver in ("newton-cholesky", "lbfgs"):
                other = run(
                    ["--ranks", str(options.ranks), "--peer", name, solver, repr(row["ridge"])]
                )
                print(
                    f"    scikit-learn {solver:16s} {other['seconds']:8.3f} s, "
                    f"{other['iterations']} iterations, ||g|| {other['norm']:.1e}: "
                    f"ratio {other['seconds'] / row['seconds']:.2f}",
                    flush=True,
                )
                values[f"scikit-learn {solver}, seconds"] = other["seconds"]
                values[f"{solver} over ours"] = other["seconds"] / row["seconds"]
                if other["norm"] > PROBLEMS[name]["tol"]:
                    values[f"{solver} left at"] = f"\\|\\|g\\|\\| = {other['norm']:.0e}"
            if not options.trial:
                lift = PROBLEMS[name]["lift"]
                title = f"Adult, {lift[0]:,} Fourier features" if lift else "Adult"
                title += f", ridge {row['ridge']:.3g}, to {PROBLEMS[name]['tol']:.0e}"
                if options.ranks != 2:
                    title += f", {options.ranks} ranks"
                code = (*record.ENGINE, *record.OPTIMIZERS)
                record.save("logistic", title, values, code)


if __name__ == "__main__":
    main()
