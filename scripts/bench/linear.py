"""Logistic regression on text-like sparse data against scikit-learn, by processor time, in one run.

    python scripts/bench/linear.py              # two minutes, 2 GB
    python scripts/bench/linear.py --scale 10   # a tenth of the rows and columns

The set is made here: documents of words that are drawn by Zipf's law, weighted by tf-idf, rows of
length 1; by default 334,009 rows, 172,110 columns and about 4.6 million nonzeros, whose spectrum is
flat. Each solver runs to its own end in turns, --repeats times, on one thread; the table has the
medians and the gradient norm that each reached. LIBLINEAR has no such tolerance: its 1e-4 is used.
"""

import argparse
import time

import numpy as np
import record
import scipy.sparse

ROWS, COLUMNS, WORDS = 334_009, 172_110, 13.8  # words of a document, repeated ones counted once
DECAY, FIRST = 0.9, 30.0  # the i-th word is drawn in proportion to (i + FIRST)^-DECAY
TOLERANCE, RIDGES = 1e-8, (1e-5, 1e-6)


def text_like(rows: int, columns: int, seed: int = 0):
    """Return tf-idf rows of length 1 as CSR, and labels drawn from a logistic model of them."""
    rng = np.random.default_rng(seed)
    shares = (np.arange(columns) + FIRST) ** -DECAY
    at = np.repeat(np.arange(rows), rng.poisson(WORDS - 1, rows) + 1)
    words = rng.choice(columns, len(at), p=shares / shares.sum())
    counts = scipy.sparse.csr_array((np.ones(len(at)), (at, words)), shape=(rows, columns))
    held = np.bincount(counts.indices, minlength=columns)
    data = (1 + np.log(counts.data)) * (np.log(rows / (1 + held)) + 1)[counts.indices]
    lengths = np.sqrt(np.add.reduceat(data**2, counts.indptr[:-1]))
    data /= np.repeat(lengths, np.diff(counts.indptr))
    index = (part.astype(np.int32) for part in (counts.indices, counts.indptr))
    X = scipy.sparse.csr_array((data, *index), shape=(rows, columns))
    margins = X @ (4 * rng.standard_normal(columns))
    return X, np.where(rng.random(rows) < 1 / (1 + np.exp(-margins)), 1.0, -1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=1, help="divide rows and columns by this")
    parser.add_argument("--repeats", type=int, default=3)
    record.add_option(parser)
    options = parser.parse_args()
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    import hesscomp as hc
    from hesscomp.curvature.tensorflow import set_threads
    from hesscomp.datasets import from_arrays

    set_threads(1)
    X, y = text_like(ROWS // options.scale, COLUMNS // options.scale)
    world = hc.World()
    data = from_arrays(X, y, world)
    print(f"{X.shape[0]} rows, {X.shape[1]} columns, {X.nnz} nonzeros")
    for ridge in RIDGES:
        problem = hc.LogisticRegression(data, world, ridge=ridge, dtype="float64")
        hc.newton(problem, solver="pcg", max_iterations=1)  # what is loaded once is not counted
        told = ""

        def ours(problem=problem):
            nonlocal told
            fit = hc.newton(problem, solver="pcg", tolerance=TOLERANCE)
            told = fit.preconditioning
            return fit.x

        def peer(solver, tolerance, ridge=ridge):
            model = LogisticRegression(
                C=1 / (ridge * len(y)), fit_intercept=False, solver=solver, tol=tolerance,
                max_iter=1000,
            )  # fmt: skip
            return model.fit(X, y).coef_[0]

        runs = {
            "hesscomp": ours,
            "newton-cg": lambda: peer("newton-cg", TOLERANCE),
            "LIBLINEAR": lambda: peer("liblinear", 1e-4),
        }
        seconds, norms = {name: [] for name in runs}, {}
        with threadpool_limits(1):
            for _ in range(options.repeats):
                for name, solve in runs.items():
                    begun = time.process_time()
                    x = solve()
                    seconds[name].append(time.process_time() - begun)
                    norms[name] = np.linalg.norm(problem.objective_and_gradient(x)[1])
        medians = {name: float(np.median(values)) for name, values in seconds.items()}
        print(f"ridge {ridge:g}; {told}")
        values = {"seconds": medians["hesscomp"]}
        for name, median in medians.items():
            ratio = median / medians["hesscomp"]
            print(f"    {name:10s} {median:6.2f} s, ||g|| {norms[name]:.0e}, over ours {ratio:.2f}")
            if name != "hesscomp":
                values[f"{name} over ours"] = ratio
        if not options.trial:
            row = f"{X.shape[0]:,} x {X.shape[1]:,}, ridge {ridge:g}"
            record.save("linear", row, values, (*record.ENGINE, *record.OPTIMIZERS))


if __name__ == "__main__":
    main()
