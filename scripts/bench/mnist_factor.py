"""The rank-50 factor of the trained 784-15-10 network's Hessian, against Lanczos over curvlinops.

    python scripts/bench/mnist_factor.py --peer /path/to/python   # with torch and curvlinops
    python scripts/bench/mnist_factor.py --part ranks             # 1 and 2 ranks of one thread
    python scripts/bench/mnist_factor.py --rows 2000 --epochs 3 --points 0 --trial

Over all 60,000 images where HESSCOMP_DATA names their folder, else over the packaged sample. The
network is trained first, from a start of its own and for as many epochs as `POINTS` says (half a
minute each), or its weights are taken from --at P.npy. --cache FOLDER keeps weights and reference
eigenvalues there, for the next time.

`factor` compresses in float32, compares the 50 eigenvalues with a long Lanczos run in float64
(SciPy's eigsh, tol 1e-8), and times itself against eigsh(k=50, tol=1e-3) over curvlinops, in turn.
It takes as many columns as its residuals ask for: `max_columns` is only to end a run that stalls.
A residual of 1e-4 |w_1| is 3e-3 |w_50| here, which bounds the error of an eigenvalue; since Ritz
values err by the square of the residual over the gap to what is left, some 1e-5 is to be expected.
`ranks` compares one rank of one thread with two ranks, and these with two processes that each
compress their half of the rows alone: what two such processes can reach on this machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import record

RANK = 50
POINTS = {0: 30, 1: 10, 2: 3, 3: 30, 4: 20}  # epochs of training from the start of this seed
MOST = 600  # columns
WEIGHTS = ("dense_1/kernel", "dense_1/bias", "dense_2/kernel", "dense_2/bias")


# hesscomp


def make_problem(X, y, world, dtype: str, seed: int = 0):
    from hesscomp.problems.catalogue import NAMED_PROBLEMS
    from hesscomp.problems.keras import KerasProblem
    from hesscomp.problems.models import build_network

    named = NAMED_PROBLEMS["mnist-mlp"]
    model = build_network(named.network, "mnist-mlp", seed)
    return KerasProblem(model, named.loss, (X, y), world, dtype=dtype)


def prepare(path: str, seed: int, options) -> str:
    """Write data and trained weights, for both sides; what they are in words."""
    from hesscomp.curvature.tensorflow import set_threads

    set_threads(options.threads)
    from hesscomp.datasets import load_dataset
    from hesscomp.optimizers.recipe import train_by_recipe
    from hesscomp.parallel.world import World
    from hesscomp.problems.catalogue import NAMED_PROBLEMS, Recipe

    world, recipe = World.serial(), NAMED_PROBLEMS["mnist-mlp"].recipe
    name = "mnist" if os.environ.get("HESSCOMP_DATA") else "mnist-sample"
    data = load_dataset(name, world, targets="classes", dtype="float32").train
    X, y = data.X[: options.rows], data.y[: options.rows]
    problem = make_problem(X, y, world, "float32", seed)
    epochs = options.epochs or POINTS.get(seed, recipe.epochs)
    if options.at is None:
        recipe = Recipe(epochs, recipe.batch, recipe.rate)
        title = f"seed {seed}, {epochs} epochs"
        x = cached(
            options,
            f"point {name} {len(X)} {title}",
            lambda: train_by_recipe(recipe, problem, seed=seed).x,
        )
    else:
        title, x = Path(options.at).name, np.load(options.at)
    value, gradient = problem.objective_and_gradient(x)
    print(
        f"\n{name}, {title}: {len(X)} images, objective {value:.4f}, "
        f"||g|| {np.linalg.norm(gradient):.1e}",
        flush=True,
    )
    parts = [x[b.offset : b.offset + b.size].reshape(b.shape) for b in problem.parameter_blocks]
    assert [b.name for b in problem.parameter_blocks] == list(WEIGHTS)
    np.savez(path, X=X, y=y, x=x, **dict(zip(WEIGHTS, parts, strict=True)))
    return title if name == "mnist" and options.rows >= 60_000 else f"{title}, {len(X):,} images"


def cached(options, name: str, make) -> np.ndarray:
    """`make()`, or what it was the last time, where there is a folder for it."""
    if options.cache is None:
        return make()
    path = Path(options.cache) / f"{name.replace(' ', '-').replace(',', '')}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, make())
    return np.load(path)


def compressed(hessian, options, max_columns: int = MOST):
    from hesscomp.compression import compress

    return compress(
        hessian, RANK, method="krylov", oversample=options.oversample, block=options.block,
        residual_tolerance=options.residual_tolerance, max_columns=max_columns,
    )  # fmt: skip


def hesscomp_side(options):
    from hesscomp.curvature.tensorflow import set_threads

    set_threads(options.threads)
    from hesscomp.curvature.hessian import HessianOperator
    from hesscomp.parallel.world import World

    file, world = np.load(options.handover), World.serial()
    X, y, x = file["X"], file["y"], file["x"]
    hessian = HessianOperator(make_problem(X, y, world, "float32"), x)
    hessian @ np.ones((hessian.n, options.block))

    def run():
        factor = compressed(hessian, options)
        return factor.eigenvalues, factor.provenance.columns

    def reference():
        exact = HessianOperator(make_problem(X, y, world, "float64"), x)
        return lanczos(exact.to_scipy(), 1e-8, RANK + 10)

    return run, reference


def ranks_side(options) -> None:
    """One rank on all rows, two on their halves apart, two together: seconds, round by round."""
    from hesscomp.curvature.tensorflow import set_threads

    set_threads(1)
    from hesscomp.curvature.hessian import HessianOperator
    from hesscomp.parallel.rows import row_range
    from hesscomp.parallel.world import World

    world, alone = World(), World.serial()
    file = np.load(options.handover)
    X, y, x = file["X"], file["y"], file["x"]
    start, stop = row_range(len(X), world.rank, world.size)
    mine = X[start:stop].copy(), y[start:stop].copy()
    operators = {
        "one": HessianOperator(make_problem(X, y, alone, "float32"), x) if not world.rank else None,
        "apart": HessianOperator(make_problem(*mine, alone, "float32"), x),
        "together": HessianOperator(make_problem(*mine, world, "float32"), x),
    }
    columns = 3 * (RANK + options.oversample)  # as many in each, whatever converges
    before = world.ledger.words_reduced
    operators["together"] @ np.ones((len(x), options.block))
    words = world.ledger.words_reduced - before
    times = {name: [] for name in operators}
    for _ in range(options.rounds + 1):
        for name, hessian in operators.items():
            world.everyone_is_here(1e6)  # sleeps, where a barrier would keep a core busy
            begun = time.perf_counter()
            if hessian is not None:
                compressed(hessian, options, max_columns=columns)
            spent = time.perf_counter() - begun
            world.everyone_is_here(1e6)
            times[name].append(max(world.gather(spent)))
    if world.rank:
        return
    one, apart, together = (np.array(times[name][1:]) for name in operators)
    print(
        f"{columns} columns in blocks of {options.block}: one rank {np.median(one):.2f} s, two "
        f"processes apart {np.median(apart):.2f} s, two ranks {np.median(together):.2f} s; "
        f"speed-ups {np.median(one / apart):.2f} and {np.median(one / together):.2f}, ratio "
        f"{np.median(apart / together):.2f} (medians of {options.rounds} rounds); a product "
        f"reduces {words} words, n k = {len(x) * options.block}",
        flush=True,
    )
    if not options.trial:
        row = f"{columns} columns in blocks of {options.block}"
        values = {
            "one rank, seconds": float(np.median(one)),
            "two processes apart": float(np.median(apart)),
            "two ranks": float(np.median(together)),
            "speed-up apart": float(np.median(one / apart)),
            "speed-up of two ranks": float(np.median(one / together)),
        }
        record.save("mnist-ranks", row, values, (*record.ENGINE, *record.COMPRESSION))


# The peer


def lanczos(operator, tolerance: float, count: int = RANK):
    """The `count` largest eigenvalues by absolute value, and how many products they took."""
    import scipy.sparse.linalg

    products = []

    def counted(v):
        products.append(1)
        return operator @ v

    n = operator.shape[0]
    view = scipy.sparse.linalg.LinearOperator((n, n), matvec=counted, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(n)
    w = scipy.sparse.linalg.eigsh(
        view, k=count, tol=tolerance, v0=start, which="LM", return_eigenvectors=True
    )[0]
    return w[np.argsort(-np.abs(w))], len(products)


def peer_side(options):
    import torch
    from curvlinops import HessianLinearOperator

    torch.set_num_threads(options.threads)
    file = np.load(options.handover)
    linear = torch.nn.Linear(784, 15), torch.nn.Linear(15, 10)
    with torch.no_grad():
        for layer, (kernel, bias) in zip(linear, (WEIGHTS[:2], WEIGHTS[2:]), strict=True):
            layer.weight.copy_(torch.tensor(file[kernel].T))
            layer.bias.copy_(torch.tensor(file[bias]))
    model = torch.nn.Sequential(linear[0], torch.nn.Sigmoid(), linear[1])
    rows = [(torch.tensor(file["X"]), torch.tensor(file["y"]).long())]
    operator = HessianLinearOperator(
        model, torch.nn.CrossEntropyLoss(), list(model.parameters()), rows,
        check_deterministic=False,
    )  # fmt: skip
    view = operator.to_scipy()
    view @ np.ones(view.shape[0], np.float32)
    return (lambda: lanczos(view, 1e-3)), None


def serve(options) -> None:
    """Answer each line that comes in: "run" or "reference"."""
    sides = {"peer": peer_side, "hesscomp": hesscomp_side}
    run, reference = sides[options.serve](options)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        begun = clock()
        w, products = (reference if line.strip() == "reference" else run)()
        seconds = clock() - begun
        answer = {"seconds": seconds, "products": int(products), "eigenvalues": w.tolist()}
        print(json.dumps(answer), flush=True)


# Both


def arguments_of(options, handover: str) -> list[str]:
    names = ("threads", "oversample", "block", "residual_tolerance", "rounds", "clock")
    words = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names]
    return [__file__, *words, "--handover", handover]


def largest_error(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest relative error; each sign by itself, since those of both mix by size at near ties."""
    errors = []
    for sign in (1, -1):
        mine, theirs = (np.sort(sign * w[sign * w > 0])[::-1] for w in (found, exact))
        errors.append(np.abs(mine / theirs[: len(mine)] - 1).max(initial=0.0))
    return max(errors)


def compare_factor(handover: str, title: str, options) -> None:
    pythons = {"hesscomp": sys.executable, "peer": options.peer}
    servers = {
        side: subprocess.Popen(
            [python, *arguments_of(options, handover), "--serve", side],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for side, python in pythons.items()
        if python
    }  # fmt: skip

    def ask(side: str, what: str) -> dict:
        print(what, file=servers[side].stdin, flush=True)
        return json.loads(servers[side].stdout.readline())

    if not all(server.stdout.readline() for server in servers.values()):
        sys.exit("a side of the comparison did not start")
    rounds = [{side: ask(side, "run") for side in servers} for _ in range(options.rounds)]
    w = cached(options, f"reference {title}", lambda: ask("hesscomp", "reference")["eigenvalues"])
    w = np.array(w)
    print(f"reference: w_1 {w[0]:.4g}, w_50 {w[RANK - 1]:.4g}")
    values = {"w_50 / w_1": abs(w[RANK - 1] / w[0])}
    for side in servers:
        found = rounds[0][side]
        error = largest_error(np.array(found["eigenvalues"]), w)
        seconds = np.median([answers[side]["seconds"] for answers in rounds])
        print(
            f"{side}: {seconds:.2f} s, {found['products']} product columns, largest relative "
            f"error of the {RANK} eigenvalues {error:.1e}",
            flush=True,
        )
        head = "eigsh: " if side == "peer" else ""
        values |= {
            f"{head}columns": found["products"],
            f"{head}seconds": float(seconds),
            f"{head}largest error": float(f"{error:.1e}"),
        }
    if options.peer:
        ratios = [r["peer"]["seconds"] / r["hesscomp"]["seconds"] for r in rounds]
        values["eigsh over ours"] = float(np.median(ratios))
        print(f"hesscomp is {np.median(ratios):.1f} times as fast (median of {len(rounds)} rounds)")
    if not options.trial:
        row = f"{title}, {options.threads} thread{'s' * (options.threads > 1)}"
        row += ", processor time" * (options.clock == "cpu")
        record.save("mnist-factor", row, values, (*record.ENGINE, *record.COMPRESSION))
    for server in servers.values():
        server.stdin.close()
        server.wait()


def compare_ranks(handover: str, options) -> None:
    command = [*record.on_ranks(2), *arguments_of(options, handover)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    trial = ["--trial"] if options.trial else []
    subprocess.run([*command, *trial, "--serve", "ranks"], check=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("factor", "ranks", "all"), default="all")
    parser.add_argument("--peer", metavar="PYTHON", help="with torch, curvlinops and scipy")
    parser.add_argument("--rows", type=int, default=60_000, help="the first so many images")
    parser.add_argument("--points", type=int, nargs="+", default=list(POINTS), metavar="SEED")
    parser.add_argument("--at", metavar="P.npy", help="trained weights, in the place of --points")
    parser.add_argument("--cache", metavar="FOLDER", help="keep weights and references there")
    parser.add_argument("--epochs", type=int, help="of training; default: the recipe's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--oversample", type=int, default=10)
    parser.add_argument("--block", type=int, default=12)
    parser.add_argument("--residual-tolerance", type=float, default=1e-4)
    parser.add_argument("--rounds", type=int, default=1, help="of each point")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine"
    )
    record.add_option(parser)
    parser.add_argument("--serve", choices=("hesscomp", "peer", "ranks"), help=argparse.SUPPRESS)
    parser.add_argument("--handover", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return ranks_side(options) if options.serve == "ranks" else serve(options)
    with tempfile.TemporaryDirectory() as folder:
        handover = str(Path(folder) / "trained.npz")
        for seed in options.points if options.at is None else [0]:
            title = prepare(handover, seed, options)
            if options.part != "ranks":
                compare_factor(handover, title, options)
        if options.part != "factor":
            compare_ranks(handover, options)


if __name__ == "__main__":
    main()
