"""What compression costs beside the products: the share of time outside them.

    python scripts/bench/overhead.py                  # n = 100,000, rank 100: some minutes, 3 GB

The operator costs what a dense layer over 50,000 rows does, 2 x 50,000 x n operations a column in
float32. X of that many rows would not fit, so fewer serve several times, with random signs S_r and
weights D_r >= 0: H = sum_r S_r X^T D_r X S_r, symmetric and semidefinite. Declared so the default
is nystrom, undeclared krylov.
"""

import argparse
import cProfile
import pstats
import time

import numpy as np
import record
from threadpoolctl import threadpool_limits

from hesscomp.compression import compress
from hesscomp.operators.operator import Operator
from hesscomp.parallel.world import World


class Layers(Operator):
    """sum_r S_r X^T D_r X S_r / rows; keeps the seconds that its products take."""

    def __init__(self, n: int, rows: int, stored: int, psd: bool):
        super().__init__(n, World.serial(), psd=psd, dtype="float32")
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((stored, n), dtype=np.float32)
        self.X *= np.arange(1, n + 1, dtype=np.float32) ** -0.5  # eigenvalues decay like 1 / j
        # A use of X multiplies it and its transpose: 4 x stored x n operations a column.
        uses = max(1, rows // (2 * stored))
        self.signs = rng.choice(np.array([-1, 1], np.float32), (uses, n, 1))
        self.weights = rng.random((uses, stored, 1), dtype=np.float32) / (uses * stored)
        self.seconds = 0.0

    @property
    def operations(self) -> int:
        """Floating operations of one column."""
        return 4 * self.X.size * len(self.signs)

    def block_product(self, V):
        start = time.perf_counter()
        V = V.astype(np.float32)
        out = np.zeros_like(V)
        for S, D in zip(self.signs, self.weights, strict=True):
            out += S * (self.X.T @ (D * (self.X @ (S * V))))
        out = out.astype(np.float64)
        self.seconds += time.perf_counter() - start
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--rank", type=int, default=100)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--stored", type=int, default=2_500, help="rows of X that are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", type=int, default=12, help="lines of the profile shown")
    record.add_option(parser)
    options = parser.parse_args()
    for psd in (True, False):
        H = Layers(options.n, options.rows, options.stored, psd)
        profile = cProfile.Profile()
        with threadpool_limits(options.threads):
            profile.enable()
            factor = compress(H, options.rank)
            profile.disable()
        source = factor.provenance
        outside = source.seconds - H.seconds
        rate = source.columns * H.operations / H.seconds / 1e9
        print(
            f"{source.method}: {source.columns} columns of {H.operations:.1e} operations, "
            f"{source.seconds:.1f} s, products {H.seconds:.1f} s ({rate:.0f} Gflop/s), outside "
            f"{outside:.2f} s, {outside / source.seconds:.1%}; relative error "
            f"{factor.certificate.relative_error:.1e}",
            flush=True,
        )
        if not options.trial:
            row = f"`{source.method}`, n = {options.n:,}, rank {options.rank}"
            row += f", {options.threads} thread{'s' * (options.threads > 1)}"
            values = {
                "columns": source.columns,
                "operations a column": f"{H.operations:.1e}",
                "seconds": source.seconds,
                "Gflop/s of the products": rate,
                "outside, seconds": outside,
                "outside, share": f"{outside / source.seconds:.1%}",
            }
            record.save("overhead", row, values, record.COMPRESSION)
        pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(options.profile)


if __name__ == "__main__":
    main()
