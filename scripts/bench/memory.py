"""Peak memory of compressing a large network's curvature, against what is stated.

    python scripts/bench/memory.py                    # replicated on 1 rank, then rows on 4 (8 GB)
    mpiexec -n 4 python scripts/bench/memory.py --layout rows [--rank K] [--limit 256M]

Compresses the Gauss-Newton matrix (nystrom) and the Hessian (krylov) of `mnist-autoencoder`, 2.8
million parameters, over a few hundred images, and compares each rank's peak memory above the idle
process, its data and model included in the latter, with what the docs state: the blocks that the
method holds and the limit of a product.
"""

import argparse
import subprocess
import time

import record
from threadpoolctl import threadpool_limits

from hesscomp.options import parse_bytes
from hesscomp.parallel.resources import peak_bytes, reset_peak, resident_bytes

METHODS = {"nystrom": "ggn", "krylov": "hessian"}
BLOCK = 16


def stated_bytes(method: str, n: int, l: int, ranks: int, options) -> float:
    """The columns that the method holds, as its class says, and the limit of a product."""
    held = 5 * l if method == "nystrom" else (l + 2 * BLOCK) + l + 4 * BLOCK
    rows = n / ranks if options.layout == "rows" else n
    return 8 * rows * held + parse_bytes(options.limit)


def measure(options) -> None:
    from hesscomp.curvature.tensorflow import set_threads

    set_threads(1)
    from hesscomp.compression import compress
    from hesscomp.curvature.gauss_newton import GaussNewtonOperator
    from hesscomp.curvature.hessian import HessianOperator
    from hesscomp.datasets import load_dataset
    from hesscomp.parallel.world import World
    from hesscomp.problems.catalogue import NAMED_PROBLEMS
    from hesscomp.problems.keras import KerasProblem
    from hesscomp.problems.models import build_network

    world, named = World(reproducible=options.reproducible), NAMED_PROBLEMS["mnist-autoencoder"]
    data = load_dataset("mnist-sample", world, targets=named.targets)
    problem = KerasProblem(
        build_network(named.network, "mnist-autoencoder", 0), named.loss, data, world,
        memory=parse_bytes(options.limit),
    ).sampled(options.images / 5000)  # fmt: skip
    operators = {"ggn": GaussNewtonOperator, "hessian": HessianOperator}
    H = operators[METHODS[options.method]](problem, problem.initial)
    world.gather(None)
    idle, l = resident_bytes(), options.rank + options.oversample
    reset_peak()
    start = time.perf_counter()
    more = {"panel": options.panel} if options.layout == "rows" else {}
    more |= {"block": BLOCK, "max_basis": l} if options.method == "krylov" else {}
    factor = compress(
        H, options.rank, method=options.method, oversample=options.oversample, power=0,
        layout=options.layout, **more,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    peaks = world.gather(peak_bytes() - idle)
    stated = stated_bytes(options.method, H.n, l, world.size, options)
    if world.rank == 0:
        print(
            f"{options.method}, {options.layout}, {world.size} ranks, n = {H.n}, l = {l}, limit "
            f"{options.limit}, {problem.rows} images: {max(peaks) / 2**20:.0f} MiB above idle "
            f"({idle / 2**20:.0f}), {max(peaks) / stated:.2f} of the stated "
            f"{stated / 2**20:.0f}; {seconds:.0f} s, "
            f"{factor.provenance.columns} columns",
            flush=True,
        )
        if not options.trial:
            ranks = f"{world.size} rank{'s' * (world.size > 1)}"
            row = f"{METHODS[options.method]}, `{options.method}`, n = {H.n:,}, l = {l}, "
            row += f"limit {options.limit}, {options.images} images, {options.layout}, {ranks}"
            values = {
                "MiB above idle": max(peaks) / 2**20,
                "over the stated": max(peaks) / stated,
                "seconds": seconds,
            }
            code = (*record.ENGINE, *record.COMPRESSION)
            record.save("memory", row, values, code, world.size)


def all_of_them(trial: bool) -> None:
    for ranks, layout in ((1, "replicated"), (4, "rows")):
        for method in METHODS:
            command = [*record.on_ranks(ranks), __file__]
            command += ["--trial"] if trial else []
            subprocess.run([*command, "--layout", layout, "--method", method], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", choices=("replicated", "rows"))
    parser.add_argument("--method", choices=tuple(METHODS), default="nystrom")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--oversample", type=int, default=4)
    parser.add_argument("--panel", type=int, default=16)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--limit", default="512M")
    parser.add_argument("--reproducible", action="store_true")
    record.add_option(parser)
    options = parser.parse_args()
    if options.layout is None:
        return all_of_them(options.trial)
    with threadpool_limits(1):
        measure(options)


if __name__ == "__main__":
    main()
