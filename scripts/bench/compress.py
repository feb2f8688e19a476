"""Time to equal Frobenius error: hesscomp against SciPy and scikit-learn on the same matrix.

    python scripts/bench/compress.py                       # n = 4000, rank 50, one thread
    python scripts/bench/compress.py --threads 2 --n 8000

Each method has a ladder of settings, cheapest first, and the first whose error exceeds that of the
best factor of the rank by at most --excess (1%) is timed: all methods in turn, --repeats times, so
that a busy machine slows all alike. Ratios are medians over the rounds of peer / hesscomp's
default. eigsh stands there twice, with its default of 2 k + 1 Lanczos vectors and with 1.5 k.
"""

import argparse
import itertools
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import record
import scipy.sparse.linalg
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from hesscomp.compression import compress
from hesscomp.operators.matrix import MatrixOperator

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from families import Conjugated, eigenvalues, tail

CASES = [
    (family, signed)
    for family in (
        "PolyDecay 0.5",
        "PolyDecay 1",
        "ExpDecay 0.01",
        "ExpDecay 0.1",
        "LowRankMedNoise",
    )
    for signed in (False, True)
]
DEFAULT, OTHERS = "hesscomp", ("hesscomp eigh", "hesscomp krylov")
PEERS = ("eigsh", "eigsh narrow", "randomized_svd", "lobpcg")


def ladder(method: str, k: int, signed: bool):
    """Settings of a method, cheapest first; they are its keyword arguments."""
    powers = [{"power": power} for power in range(12)]
    grown = sorted((block * count, block) for block in (14, 16) for count in range(4, 60))
    columns = [{"max_columns": total, "block": block} for total, block in grown if total >= k + 10]
    tolerances = [{"tol": tol} for tol in (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 0.0)]
    return {
        DEFAULT: columns if signed else [*powers[:2], *columns],
        "hesscomp eigh": powers,
        "hesscomp krylov": columns,
        "eigsh": tolerances,
        "eigsh narrow": [{"ncv": 3 * k // 2, **setting} for setting in tolerances],
        "randomized_svd": [{"n_iter": count} for count in range(12)],
        # Of operators of either sign it finds one end of the spectrum only.
        "lobpcg": [] if signed else [{"maxiter": count} for count in range(1, 40)],
    }[method]


def run(method: str, A: np.ndarray, k: int, signed: bool, setting: dict):
    """A rank-k approximation L R^T of A, as (L, R)."""
    if method.startswith(DEFAULT):
        name = method.removeprefix(DEFAULT).strip() or "auto"
        factor = compress(MatrixOperator(A, psd=not signed), k, method=name, **setting)
        return factor.eigenvectors, factor.eigenvectors * factor.eigenvalues
    rng = np.random.default_rng(0)
    if method == "randomized_svd":
        U, s, Vt = randomized_svd(A, k, random_state=0, **setting)
        return U, Vt.T * s
    if method in ("eigsh", "eigsh narrow"):
        w, U = scipy.sparse.linalg.eigsh(A, k, v0=rng.standard_normal(len(A)), **setting)
    else:
        X = rng.standard_normal((len(A), k))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is stopped before it has converged
            w, U = scipy.sparse.linalg.lobpcg(A, X, tol=1e-12, **setting)
    return U, U * w


def excess(H: Conjugated, k: int, L: np.ndarray, R: np.ndarray) -> float:
    """||A - L R^T||_F over that of the best approximation of rank k, less one."""
    rest = H.transform(L) @ -H.transform(R).T
    rest[range(H.n), range(H.n)] += H.w
    return float(np.linalg.norm(rest)) / tail(H.w, k) - 1


def settle(method, A, k, signed, H, allowed):
    """The cheapest setting that reaches the allowed excess and that excess; None if none does."""
    for setting in ladder(method, k, signed):
        got = excess(H, k, *run(method, A, k, signed, setting))
        if got <= allowed:
            return setting, got
    return None


def case(family: str, signed: bool, options) -> dict:
    H = Conjugated(eigenvalues(family, signed, options.n))
    A = H.to_dense()
    k, methods = options.rank, (DEFAULT, *OTHERS, *PEERS)
    settled = {name: settle(name, A, k, signed, H, options.excess) for name in methods}
    settled = {name: found for name, found in settled.items() if found}
    seconds = {name: [] for name in settled}
    for _, name in itertools.product(range(options.repeats), settled):
        start = time.perf_counter()
        run(name, A, k, signed, settled[name][0])
        seconds[name].append(time.perf_counter() - start)
    own = np.array(seconds[DEFAULT])
    return {
        "family": family,
        "signed": signed,
        "methods": {
            name: {
                "setting": setting,
                "excess": got,
                "seconds": float(np.median(seconds[name])),
                "ratio": float(np.median(np.array(seconds[name]) / own)),
            }
            for name, (setting, got) in settled.items()
        },
    }


def row(result: dict) -> str:
    cells = [f"{result['family']}{', signs' if result['signed'] else ''}"]
    for name in (DEFAULT, *OTHERS, *PEERS):
        found = result["methods"].get(name)
        if found is None:
            cells.append("-")
            continue
        setting = ", ".join(f"{key} {value:g}" for key, value in found["setting"].items())
        ratio = "" if name == DEFAULT else f" x{found['ratio']:.1f}"
        cells.append(f"{found['seconds']:.3f} s{ratio} ({setting}; {found['excess']:.1e})")
    return f"| {' | '.join(cells)} |"


def keep(result: dict, options) -> None:
    """Write the row of docs/measured.json."""
    own = result["methods"][DEFAULT]
    values = {
        "setting": ", ".join(f"`{key}` {value:g}" for key, value in own["setting"].items()),
        "seconds": own["seconds"],
    }
    for name in (*OTHERS, *PEERS):
        found = result["methods"].get(name)
        values[name.removeprefix(DEFAULT).strip()] = found and found["ratio"]
    setting = (options.n, options.rank, options.threads, options.excess)
    named = f"{result['family']}{', signs' if result['signed'] else ''}"
    if setting != (4000, 50, 1, 0.01):
        n, rank, threads, excess = setting
        named += f", n = {n}, rank {rank}, {threads} thread(s), excess {excess:g}"
    record.save("compress", named, values, record.COMPRESSION)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--rank", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--excess", type=float, default=0.01)
    parser.add_argument("--family", help="one of them only")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    record.add_option(parser)
    options = parser.parse_args()
    print(
        f"n = {options.n}, rank {options.rank}, {options.threads} thread(s): median seconds, the "
        f"median ratio to hesscomp's default, and the setting and excess that it took\n"
    )
    heads = ("family", DEFAULT, *OTHERS, *PEERS)
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}", flush=True)
    results = []
    with threadpool_limits(options.threads):
        for family, signed in CASES:
            if options.family in (None, family):
                results.append(case(family, signed, options))
                print(row(results[-1]), flush=True)
                if not options.trial:
                    keep(results[-1], options)
    if options.json:
        Path(options.json).write_text(json.dumps({**vars(options), "results": results}, indent=1))


if __name__ == "__main__":
    main()
