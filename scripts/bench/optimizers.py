"""Optimizers against each other: lowest training objective at equal seconds and equal passes.

    HESSCOMP_DATA=/data mpiexec -n 2 python scripts/bench/optimizers.py   # an hour
    python scripts/bench/optimizers.py --only curves-autoencoder --seconds 1 --seeds 1 --rows 200
    python scripts/bench/optimizers.py --draw                # tables and figures of what is there
    mpiexec -n 2 python scripts/bench/optimizers.py --only mnist-cnn4 --speed 100   # a step's time

A method that has several settings, such as the five learning rates of a baseline, runs with seed 0
at each, and with the other seeds at the best one. Adult is lifted to 4,000 random Fourier features,
ridge 1e-6, and starts from zero: its seeds are those of the batches. Networks have no ridge;
autoencoders start from Martens' sparse weights, others from Glorot's, one start a seed. The
distorted images are those of MNIST, training and test, each turned, stretched, sheared and moved at
random (`distorted`). On `cosine-cnn4` the rates of all methods fall along a cosine after a warm-up
of 20 steps, to zero at the end of the seconds, as many steps as the method's first twenty say;
elsewhere they are constant. Data come from HESSCOMP_DATA, else MNIST is the packaged sample of
5,000 images; titles say on how many rows everything ran.

The clock is the processor time of the rank that took most, which on an idle machine is wall time
(tables have both): every rank has one thread, and waits for others by asking. It runs while an
optimizer works, compilation done. A run that took a tenth more wall time than that is made again,
as other work on the machine kept a rank from working and the others waiting.
Objectives over all training rows are computed afterwards, at the points that a run was at in some
eight moments of it, and count for nobody; what counts is the lowest so far. Passes weigh batches by
their share of the rows and count each product column as one. Each run leaves a file in --out and is
not run again; tables go to the terminal, figures to docs/figures/.
"""

import argparse
import json
import os
import re
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import record
from scipy.ndimage import affine_transform
from scipy.special import entr
from threadpoolctl import threadpool_limits

from hesscomp.analysis.style import make_figure, save_figure, scale_by_powers
from hesscomp.curvature.tensorflow import set_threads
from hesscomp.datasets import Dataset, fourier_features, from_arrays, load_dataset
from hesscomp.optimizers.batches import Sampling
from hesscomp.optimizers.drsom import DRSOM
from hesscomp.optimizers.first_order import SGD, AdaBelief, Adam
from hesscomp.optimizers.gauss_newton import GaussNewton
from hesscomp.optimizers.hessian_free import HessianFree
from hesscomp.optimizers.initial import sparse_initial
from hesscomp.optimizers.loop import Stopping, train
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.optimizers.optimizer import Optimizer
from hesscomp.optimizers.schedules import Schedule
from hesscomp.optimizers.sketched import SaddleFree, SketchySGD
from hesscomp.optimizers.soap import SOAP
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.problems.catalogue import NAMED_PROBLEMS, Network
from hesscomp.problems.evaluation import HeldOut
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.problems.models import build_network
from hesscomp.runs.report import write_json

ROOT = Path(__file__).parents[2]
SIDE = 40  # of a distorted image
MOMENTS = 8  # of a run, at which its objective is computed afterwards
WARMUP, TIMED = 20, 20  # steps of a schedule's warm-up, and those that say how many there will be
SPOILED, TRIES = 1.1, 3  # wall over processor time of a run that does not count; how many at most
BASELINES = ("sgd", "adam", "adabelief")
Setting = tuple[Optimizer, Sampling]


@dataclass(frozen=True)
class Plan:
    """What is run on a problem.

    Attributes
    ----------
    seconds : float
        Of each run.
    rows : int or None
        At most about so many of training.
    methods : dict
        Settings by method.
    widths : tuple of int
        Of an autoencoder that is smaller than the named problem's, from input to code.
    distorted : bool
        Whether the images are distorted, which makes them larger.
    cosine : bool
        Whether rates fall along a cosine to 0 at the end of the seconds, after a warm-up.
    """

    seconds: float
    rows: int | None
    methods: dict[str, list[Setting]]
    widths: tuple[int, ...] = ()
    distorted: bool = False
    cosine: bool = False


def baselines(batch: int, adam: list[float], adabelief: list[float], sgd: list[float]) -> dict:
    sampling = Sampling(gradient=batch)
    return {
        "adam": [(Adam(rate), sampling) for rate in adam],
        "adabelief": [(AdaBelief(rate), sampling) for rate in adabelief],
        "sgd": [(SGD(rate, nesterov=True), sampling) for rate in sgd],
    }


def soap(*rates: float) -> dict:
    return {"soap": [(SOAP(rate), Sampling(gradient=100)) for rate in rates]}


def sketched(batch: int, *dampings: float) -> dict:
    """Stochastic Newton by sketches, at as many settings as a baseline has rates."""
    sampling = Sampling(gradient=batch, curvature=5 * batch)
    return {
        "sketchy-sgd": [(SketchySGD(damping=damping), sampling) for damping in dampings],
        "saddle-free": [(SaddleFree(0.1, damping=damping), sampling) for damping in dampings],
    }


ALL, TENTH, QUARTER = Sampling(), Sampling(curvature=0.1), Sampling(curvature=0.25)
CONVEX = [0.1, 0.03, 0.01]
RATES, SGD_RATES = [3e-2, 1e-2, 3e-3, 1e-3, 3e-4], [3e-2, 1e-2, 3e-3]
SOAP_RATES = [1e-2, 3e-3, 1e-3]
NEAR = [1e-2, 5e-3, 3e-3, 2e-3, 1e-3]  # about the best of RATES on the CNN
DEEP = {
    "hessian-free": [(HessianFree(10.0), ALL)],
    "gauss-newton": [(GaussNewton(), TENTH)],
    "newton-cg": [(NewtonCG("trust-region", curvature="gauss-newton"), QUARTER)],
    "drsom": [(DRSOM(), ALL)],
}
IN_BATCHES = {
    "drsom, kronecker": [
        (
            DRSOM(curvature="kronecker", same_batch=True, averaging=0.9),
            Sampling(gradient=100, curvature=100),
        )
    ]
}
KRONECKER = {
    "hessian-free, kronecker": [(HessianFree(0.3, max_cg=20, preconditioner="kronecker"), ALL)]
}
PLANS = {
    "curves-autoencoder": Plan(
        15, 500, {**baselines(100, RATES, RATES, SGD_RATES), **KRONECKER, **DEEP},
        (784, 100, 50, 25, 6),
    ),
    "adult": Plan(
        8, None,
        {
            **baselines(1000, [0.3, *CONVEX, 3e-3], [1.0, 0.3, *CONVEX], [10.0]),
            **sketched(1000, 1e-3, 1e-4),
            "newton-cg": [(NewtonCG(rank=100), TENTH)],
            "gauss-newton": [(GaussNewton(1e-2), TENTH)],
            "hessian-free": [(HessianFree(1e-2), TENTH)],
        },
    ),
    "mnist-mlp": Plan(
        5, 5000,
        {
            **soap(*SOAP_RATES), **baselines(100, RATES, RATES, [3e-2]),
            **sketched(100, 1e-2, 1e-3), **KRONECKER, **DEEP, **IN_BATCHES,
        },
    ),
    "mnist-autoencoder": Plan(
        8, 500, {**baselines(100, RATES, RATES, SGD_RATES), **KRONECKER, **DEEP},
        (784, 100, 50, 30),
    ),
    "mnist-cnn4": Plan(
        15, 1000,
        {
            **soap(*SOAP_RATES), **baselines(100, RATES, RATES, [3e-2]), **IN_BATCHES,
        },
    ),
    "distorted-cnn4": Plan(
        20, 5000, {**soap(*NEAR), **baselines(100, NEAR, NEAR, [3e-2])},
        distorted=True,
    ),
    "cosine-cnn4": Plan(
        20, 5000, {**soap(1e-2, 3e-3), **baselines(100, [1e-2, 3e-3], [1e-2, 3e-3], [3e-2])},
        distorted=True, cosine=True,
    ),
}  # fmt: skip


class Contest:
    """A problem with its starts, one for each seed."""

    def __init__(self, name: str, world: World, plan: Plan):
        self.name, self.plan, self.reconstructs = name, plan, name.endswith("autoencoder")
        if name == "adult":
            data = load_dataset("adult", world)
            self.data = fourier_features(data, world, 4000, 6.0, seed=0, dtype="float32")
            self.problem = LogisticRegression(self.data, world, ridge=1e-6)
            title = "Adult, 4,000 Fourier features"
        else:
            named = NAMED_PROBLEMS[re.sub("distorted|cosine", "mnist", name)]
            source = named.data
            if source == "mnist" and not os.environ.get("HESSCOMP_DATA"):
                source = "mnist-sample"
            self.data = load_dataset(source, world, targets=named.targets)
            widths = plan.widths
            self.network = Network.autoencoder(*widths) if widths else named.network
            if plan.distorted:
                self.data = distorted(source, world)
                self.network = replace(self.network, shape=(SIDE, SIDE, 1))
            network = build_network(self.network, name, 0)
            self.problem = KerasProblem(network, named.loss, self.data, world)
            title = f"{name} {self.network} on {self.data.name}"
        if plan.rows is not None and plan.rows < self.problem.rows:
            self.problem = self.problem.sampled(plan.rows / self.problem.rows)
        self.title = f"{title}, {self.problem.rows:,} rows, {self.problem.n:,} parameters"
        self.floor, self.above = self._bound()

    def _bound(self) -> tuple[float, str]:
        """What no objective is below, in words too."""
        if self.name == "adult":
            stopping = Stopping(gradient_tolerance=1e-8)
            optimum = train(self.problem, NewtonCG(rank=100), stopping=stopping)
            return optimum.best_objective, "the optimum"
        if self.reconstructs:
            X = np.asarray(self.problem.data.X, dtype=np.float64)
            sums = [entr(X).sum() + entr(1 - X).sum(), len(X)]
            total, rows = self.problem.world.sum(np.array(sums))
            return float(total / rows), "the images' entropy"
        return 0.0, "0"

    def start(self, seed: int) -> np.ndarray | None:
        if self.name == "adult":
            return None
        if self.reconstructs:
            return sparse_initial(self.problem.parameter_blocks, seed)
        network = build_network(self.network, self.name, seed)
        return np.concatenate([np.ravel(part) for part in network.trainable_variables])

    def run(self, setting: Setting, seconds: float, seed: int) -> dict:
        """One run's record: the lowest objective so far against seconds and passes, and facts."""
        optimizer, sampling = setting[0], replace(setting[1], seed=seed)
        x0 = self.start(seed)
        options = {"sampling": sampling, "evaluate_every": 10**9}
        train(self.problem, optimizer, x0, stopping=Stopping(3), **options)  # compiles
        if self.plan.cosine:
            optimizer = self.scheduled(optimizer, seconds, x0, options)
        moments = Moments(seconds, self.problem.world)
        result = train(
            self.problem, optimizer, x0, callbacks=(moments,),
            stopping=Stopping(max_steps=10**9), **options,
        )  # fmt: skip
        values = np.array([self.problem.objective(x) for x in moments.points])
        values = np.fmin.accumulate(values)
        best = moments.points[int(np.argmin(values))]
        return {
            "problem": self.title, "ranks": self.problem.world.size, "budget": seconds,
            "optimizer": optimizer.describe(), "sampling": str(sampling), "steps": result.steps,
            "status": result.status, "wall_seconds": result.history.rows[-1]["seconds"],
            "processor_seconds": moments.now,
            "seconds": moments.seconds, "passes": moments.passes,
            "objective": values, "floor": self.floor, "above": self.above,
            **(self.squared_errors(best) if self.reconstructs else self.accuracy(best)),
        }  # fmt: skip

    def scheduled(self, optimizer, seconds: float, x0, options: dict) -> Optimizer:
        """The same with a cosine of as many steps as the seconds hold, as the first ones say."""
        _, pace = self.pace(optimizer, x0, TIMED, options)
        rate = optimizer.learning_rate
        rate = Schedule("cosine", rate, max(round(seconds / pace) - WARMUP, 1), warmup=WARMUP)
        return replace(optimizer, learning_rate=rate)

    def pace(self, optimizer, x0, steps: int, options: dict) -> tuple[float, float]:
        """The mean time of a step after the first: on the clock, and of the processor.

        The latter is that of the rank which took most; it waits for others by asking. The first
        step makes what later ones renew.
        """
        seen: list[tuple[float, float]] = []

        def note(row, x):
            seen.append((row["seconds"], time.process_time()))

        train(self.problem, optimizer, x0, stopping=Stopping(steps), callbacks=(note,), **options)
        wall, processor = self.problem.world.max(np.subtract(seen[-1], seen[1]) / (steps - 1))
        return float(wall), float(processor)

    def accuracy(self, x: np.ndarray) -> dict[str, float]:
        """The share of test rows that are classified rightly, at the best point of a run."""
        return {"test_accuracy": HeldOut(self.problem, self.data)(x).accuracy}

    def speed(self, setting: Setting, steps: int) -> dict[str, float]:
        """The times of a step (`pace`)."""
        options, x0 = {"sampling": setting[1], "evaluate_every": 10**9}, self.start(0)
        train(self.problem, setting[0], x0, stopping=Stopping(3), **options)  # compiles
        wall, processor = self.pace(setting[0], x0, steps, options)
        return {"seconds a step": wall, "processor": processor}

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


def distorted(source: str, world: World) -> Dataset:
    """MNIST's images, each by a linear map of its own and moved, in 40 x 40 pixels; seed 0.

    Turned by up to 20 degrees, sheared by up to 0.2, stretched by 0.8 to 1.2 along both axes, and
    moved by whole pixels to anywhere where all of the digit is inside, each uniformly; linear
    interpolation. After affNIST (cs.toronto.edu/~tijmen/affNIST), whose images are as large and are
    moved as far; these are not its images, and the ranges are chosen here.
    """
    alone, rng, parts = load_dataset(source, World.serial()), np.random.default_rng(0), []
    for shard in (alone.train, alone.test):
        images = np.empty((len(shard.X), SIDE, SIDE), np.float32)
        for image, pixels in zip(images, shard.X, strict=True):
            turn, shear = np.radians(rng.uniform(-20, 20)), rng.uniform(-0.2, 0.2)
            stretch = np.diag(rng.uniform(0.8, 1.2, 2))
            rotation = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
            A = np.linalg.inv(np.array(rotation) @ stretch @ np.array([[1, shear], [0, 1]]))
            shift = np.full(2, 13.5) - A @ np.full(2, (SIDE - 1) / 2)
            pixels = affine_transform(
                pixels.reshape(28, 28), A, shift, output_shape=image.shape, order=1
            )
            inside = np.argwhere(pixels)
            image[:] = np.roll(
                pixels, rng.integers(-inside.min(0), SIDE - inside.max(0)), axis=(0, 1)
            )
        rows = slice(*row_range(len(images), world.rank, world.size))
        parts.append((images.reshape(len(images), -1)[rows], shard.y[rows]))
    return from_arrays(*parts[0], world, f"{source}, distorted", parts[1], "classes")


class Moments:
    """A callback that ends a run in time, and keeps points of it at about even times and the last.

    Attributes
    ----------
    points, seconds, passes : list
    now : float
        The processor time at the last step.
    """

    def __init__(self, seconds: float, world: World):
        self.world, self.limit = world, seconds
        self.every, self.due, self.now = seconds / MOMENTS, 0.0, 0.0
        self.points: list[np.ndarray] = []
        self.seconds: list[float] = []
        self.passes: list[float] = []
        self.passing, self.begun = False, time.process_time()

    def __call__(self, row: dict[str, float], x: np.ndarray) -> bool:
        self.now = now = float(self.world.max(np.array([time.process_time() - self.begun]))[0])
        if now > self.limit and self.points:
            return True
        kept = (self.points, self.seconds, self.passes)
        for values, value in zip(kept, (x, now, row["work"]), strict=True):
            if self.passing:
                values.pop()
            values.append(value)
        self.passing = now < self.due
        if not self.passing:
            self.due = now + self.every
        return False


# Runs and their files


def measure(contest: Contest, plan: Plan, seeds: int, folder: Path) -> None:
    """Run what has left no file yet."""

    def run(method: str, setting: Setting, seed: int) -> dict:
        path = folder / f"{slug(method, setting)}-seed-{seed}.json"
        known = json.loads(path.read_text()) if path.exists() else None
        if known is None:
            record = quiet(contest, setting, plan.seconds, seed)
            known = {"method": method, "label": label(setting), "seed": seed, **record}
            if contest.problem.world.rank == 0:
                write_json(path, known)
                print(f"{path.stem}: {known['objective'][-1]:.6g}", flush=True)
        return known

    for method, settings in plan.methods.items():
        found = [run(method, setting, 0)["objective"][-1] for setting in settings]
        for seed in range(1, seeds):
            run(method, settings[int(np.nanargmin(found))], seed)


def quiet(contest: Contest, setting: Setting, seconds: float, seed: int) -> dict:
    """Return `Contest.run`; it is repeated where other work on the machine slowed it down.

    Ranks that wait for one without a processor use the clock up as if they worked.
    """
    world = contest.problem.world
    for _ in range(TRIES):
        record = contest.run(setting, seconds, seed)
        wall, processor = record["wall_seconds"], record["processor_seconds"]
        if not world.decide(wall > SPOILED * processor):
            return record
        if world.rank == 0:
            taken = f"{wall:.1f} s for {processor:.1f} s of work"
            print(f"{setting[0].name}, seed {seed}: took {taken}; again", flush=True)
    raise SystemExit(f"the machine is busy: {TRIES} runs were spoiled; run this again later")


def slug(method: str, setting: Setting) -> str:
    text = f"{method} {label(setting)}"
    return re.sub("[^a-z0-9.]+", "-", text.lower()).strip("-")


def label(setting: Setting) -> str:
    """What is not by default, a learning rate, and a damping."""
    optimizer, sampling = setting
    fresh = type(optimizer)()
    own = [
        f"{k} {v}" for k, v in vars(optimizer).items()
        if v != getattr(fresh, k) or k in ("learning_rate", "damping")
    ]  # fmt: skip
    for name, share in (("batch", sampling.gradient), ("curvature", sampling.curvature),
                        ("acceptance", sampling.acceptance)):  # fmt: skip
        if share != 1:
            own.append(f"{name} {share:g}")
    return ", ".join(own).replace("_", " ")


def load(folder: Path) -> dict[str, dict[str, list[dict]]]:
    """The runs by method and setting, that of the lowest objective with seed 0 first."""
    methods = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        methods[record["method"]][record["label"]].append(record)
    for method, settings in methods.items():
        order = sorted(settings, key=lambda name: settings[name][0]["objective"][-1])
        methods[method] = {name: settings[name] for name in order}
    return methods


# Tables and figures


def at(record: dict, cost: str, limits) -> np.ndarray:
    """The lowest objective that was known within each limit; NaN before the first."""
    place = np.searchsorted(record[cost], limits, side="right") - 1
    values = np.array(record["objective"], dtype=float)
    return np.where(place < 0, np.nan, values[np.maximum(place, 0)])


def table(methods: dict) -> tuple[dict[str, dict], list[str]]:
    """The best setting of each method, over the seeds; and the settings that were tried."""
    shown = {name: next(iter(settings.values())) for name, settings in methods.items()}
    passes = min(record["passes"][-1] for runs in shown.values() for record in runs)
    first = next(iter(shown.values()))[0]
    errors = [name for name in ("training", "test") if f"{name}_squared_error" in first]
    rows = {}
    for name, runs in sorted(shown.items(), key=lambda each: final(each[1])):
        ends = [run["objective"][-1] for run in runs]
        within = np.median([at(run, "passes", passes) for run in runs])
        known = all(run["passes"][1] <= passes for run in runs)  # a point after the first step's
        rows[", ".join(filter(None, (name, runs[0]["label"])))] = {
            f"objective after {first['budget']:g} s": f"{final(runs):.6g}",
            "seeds": f"{min(ends):.6g} to {max(ends):.6g}",
            f"within {passes:.0f} passes": f"{within:.6g}" if known else "not looked at",
            "passes": int(np.median([run["passes"][-1] for run in runs])),
            "steps": int(np.median([run["steps"] for run in runs])),
            "wall seconds": float(np.median([run["wall_seconds"] for run in runs])),
            **{
                f"squared error, {error}": float(
                    np.median([run[f"{error}_squared_error"] for run in runs])
                )
                for error in errors
            },
            **({"test accuracy": f"{accuracy(runs):.4f}"} if "test_accuracy" in first else {}),
        }
    tried = [
        f"{name}: " + "; ".join(f"{each} {runs[0]['objective'][-1]:.6g}"
                                for each, runs in settings.items())
        for name, settings in methods.items() if len(settings) > 1
    ]  # fmt: skip
    return rows, [f"{first['problem']}; ranks: {first['ranks']}", *tried]


def accuracy(runs: list[dict]) -> float:
    return float(np.median([run["test_accuracy"] for run in runs]))


def final(runs: list[dict]) -> float:
    return float(np.median([run["objective"][-1] for run in runs]))


def draw(methods: dict, path: Path) -> None:
    """Median and range over the seeds, against seconds and passes."""
    some = next(run for settings in methods.values() for runs in settings.values() for run in runs)
    figure, axes = make_figure(2, width=6.0, height=4.6, title=some["problem"])
    for axis, cost in zip(axes, ("seconds", "passes"), strict=True):
        for index, (name, settings) in enumerate(methods.items()):
            runs = next(iter(settings.values()))
            most = max(run[cost][-1] for run in runs)
            grid = np.linspace(0, most, 200) if cost == "seconds" else np.geomspace(1, most, 200)
            values = np.array([at(run, cost, grid) - run["floor"] for run in runs])
            values[values <= 0] = np.nan
            line = "--" if name in BASELINES else "-" if index < 10 else ":"
            style = {"color": f"C{index % 10}", "ls": line}
            known = np.isfinite(values).all(axis=0)
            grid, values = grid[known], values[:, known]
            axis.plot(grid, np.median(values, axis=0), lw=1.6, label=name, **style)
            axis.fill_between(
                grid, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.15, lw=0
            )
        scale_by_powers(axis.yaxis)
    axes[0].set_xlabel("seconds of training")
    axes[1].set_xlabel("passes over the data, each product column as one")
    scale_by_powers(axes[1].xaxis)
    above = runs[0]["above"]
    axes[0].set_ylabel("lowest objective so far" + (f", above {above}" if above != "0" else ""))
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center",
        ncols=min(len(methods), 4), frameon=False, fontsize=9,
    )  # fmt: skip
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--seconds", type=float, help="of each run; default: by problem")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="at most; default: by problem")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these of a problem's")
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "optimizers")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "figures")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    parser.add_argument("--speed", type=int, metavar="STEPS", help="only time so many steps")
    record.add_option(parser)
    options = parser.parse_args()
    world = World()
    set_threads(options.threads)
    for name in options.only:
        plan = PLANS[name]
        plan = replace(
            plan, seconds=options.seconds or plan.seconds, rows=options.rows or plan.rows,
            methods={
                method: settings for method, settings in plan.methods.items()
                if method in (options.methods or plan.methods)
            },
        )  # fmt: skip
        if options.speed:
            contest = Contest(name, world, plan)
            for method, (setting, *_) in plan.methods.items():
                values = contest.speed(setting, options.speed)
                row = f"{name}, {method}, {world.size} ranks of {options.threads} threads"
                if world.rank == 0:
                    print(row, values, flush=True)
                    if not options.trial:
                        code = (*record.OPTIMIZERS, *record.ENGINE)
                        record.save("optimizers-ranks", row, values, code, world.size)
            continue
        folder = options.out / f"{name}-{plan.rows or 'all'}-rows-{plan.seconds:g}-s"
        fresh = not any(folder.glob("*.json"))  # else some runs are older than today
        if not options.draw:
            folder.mkdir(parents=True, exist_ok=True)
            with threadpool_limits(options.threads):
                measure(Contest(name, world, plan), plan, options.seeds, folder)
        if world.rank == 0 and folder.exists():
            methods = load(folder)
            figure = name if plan == PLANS[name] else folder.name
            rows, remarks = table(methods)
            print("\n".join(remarks), flush=True)
            for row, values in rows.items():
                print(row, values, flush=True)
                if fresh and not options.draw and not options.trial:
                    code = (*record.OPTIMIZERS, *record.ENGINE)
                    record.save(f"optimizers-{figure}", row, values, code, world.size)
            draw(methods, options.figures / f"optimizers-{figure}.png")


if __name__ == "__main__":
    main()
