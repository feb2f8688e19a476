"""The row layout's peak memory, and what reproducible mode costs.

    python scripts/bench/layout.py                      # both, memory on 4 ranks (8 GB, 8 minutes)
    mpiexec -n 4 python scripts/bench/layout.py memory [--n N] [--columns L] [--panel B]
    python scripts/bench/layout.py reproducible

`memory` compresses an operator of order n to l columns in all (rank + oversample) in the row
layout and compares each rank's peak memory above the idle process with 3 n l / P + 2 n b numbers
of 8 bytes. `reproducible` times the compression of the Adult Hessian in both modes, in turn, on
the raw data and on Fourier features, with one thread a rank, and prints medians of ratios.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import record
from threadpoolctl import threadpool_limits

from hesscomp.compression import compress
from hesscomp.curvature.sharded import ShardedOperator
from hesscomp.parallel.world import World


class Slopes(ShardedOperator):
    """A decaying diagonal in as many shares as ranks: cheap, so that only vectors take memory."""

    def __init__(self, n: int, world: World):
        super().__init__(n, world, psd=True)
        self.share = 1.0 / np.sqrt(np.arange(1.0, n + 1)) / world.size

    def _local(self, V):
        return self.share[:, None] * V


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(options) -> None:
    world = World()
    n, l, b = options.n, options.columns, options.panel
    H = Slopes(n, world)
    world.gather(None)
    idle = peak_bytes()
    for method in options.methods:
        start = time.perf_counter()
        krylov = {"block": 16, "max_basis": l} if method == "krylov" else {}
        factor = compress(H, l - 10, method=method, layout="rows", panel=b, **krylov)
        seconds = time.perf_counter() - start
        peak = max(world.gather(peak_bytes() - idle))
        unit = (3 * n * l / world.size + 2 * n * b) * 8
        if world.rank == 0:
            print(
                f"{method}: n = {n}, l = {l}, panels of {b}, {world.size} ranks: "
                f"{peak / 2**20:.0f} MiB above idle, {peak / unit:.2f} x (3 n l / P + 2 n b) x 8; "
                f"{seconds:.0f} s, error estimate {factor.certificate.relative_error:.2e}",
                flush=True,
            )
            if not options.trial:
                row = f"`{method}`, n = {n:,}, l = {l}, panels of {b}, {world.size} ranks"
                values = {
                    "MiB above idle": peak / 2**20,
                    "over the stated": peak / unit,
                    "seconds": seconds,
                }
                record.save("layout-memory", row, values, record.COMPRESSION, world.size)


def reproducible(options) -> None:
    from hesscomp.curvature.hessian import HessianOperator
    from hesscomp.curvature.tensorflow import set_threads
    from hesscomp.datasets import fourier_features, load_dataset
    from hesscomp.problems.logistic import LogisticRegression

    set_threads(1)
    worlds = World(), World(reproducible=True)
    for features, rank in ((0, 40), (1000, 100), (4000, 100)):
        operators = []
        for world in worlds:
            data = load_dataset("adult", world)
            if features:
                data = fourier_features(data, world, features, 6.0, seed=0, dtype="float32")
            problem = LogisticRegression(data, world)
            operators.append(HessianOperator(problem, np.zeros(problem.n)))
        for method in ("eigh", "krylov", "nystrom"):
            times = ([], [])
            for _ in range(options.repeats + 1):
                for spent, H in zip(times, operators, strict=True):
                    start = time.perf_counter()
                    compress(H, rank, method=method)
                    spent.append(time.perf_counter() - start)
            ratio = statistics.median(b / a for a, b in zip(*(t[1:] for t in times), strict=True))
            if worlds[0].rank == 0:
                usual, exact = (statistics.median(t[1:]) for t in times)
                print(
                    f"adult, n = {operators[0].n}, {method} of rank {rank}, "
                    f"{worlds[0].size} ranks: {usual:.3f} s, reproducible {exact:.3f} s, "
                    f"ratio {ratio:.2f}",
                    flush=True,
                )
                if not options.trial:
                    row = f"Adult, n = {operators[0].n:,}, `{method}` of rank {rank}"
                    row += f", {worlds[0].size} rank{'s' * (worlds[0].size > 1)}"
                    values = {"seconds": usual, "reproducible, seconds": exact, "ratio": ratio}
                    record.save("reproducible", row, values, record.COMPRESSION, worlds[0].size)


def both(options) -> None:
    trial = ["--trial"] if options.trial else []
    subprocess.run([*record.on_ranks(4), __file__, *trial, "memory"], check=True)
    subprocess.run([sys.executable, __file__, *trial, "reproducible"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    record.add_option(parser)
    commands = parser.add_subparsers()
    parser.set_defaults(run=both)
    sub = commands.add_parser("memory")
    sub.add_argument("--n", type=int, default=2_000_000)
    sub.add_argument("--columns", type=int, default=60)
    sub.add_argument("--panel", type=int, default=16)
    sub.add_argument("--methods", nargs="+", default=["eigh", "nystrom", "krylov"])
    sub.set_defaults(run=memory)
    sub = commands.add_parser("reproducible")
    sub.add_argument("--repeats", type=int, default=5)
    sub.set_defaults(run=reproducible)
    options = parser.parse_args()
    with threadpool_limits(1):
        options.run(options)


if __name__ == "__main__":
    main()
