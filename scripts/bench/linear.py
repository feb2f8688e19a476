"""Linear models beside their peers, in one run: `text`, `sets`, `classes` (all by default).

    python scripts/bench/linear.py text              # two minutes, 2 GB
    python scripts/bench/linear.py text --scale 10   # a tenth of the rows and columns
    python scripts/bench/linear.py sets classes      # four minutes
    mpiexec -n 2 python scripts/bench/linear.py text # two ranks beside one, by wall time

`text`: logistic regression beside scikit-learn's newton-cg and LIBLINEAR, by processor time on one
thread. One set is made here: documents of words that are drawn by Zipf's law, weighted by tf-idf,
rows of length 1; by default 334,009 rows, 172,110 columns and about 4.6 million nonzeros, whose
spectrum is flat. Ours is as it is by default: products with the Hessian in float32, gradients in
float64. The others are the LIBSVM files (.svm, .libsvm, .svmlight) of two classes in the
folder HESSCOMP_DATA. LIBLINEAR has no tolerance of the gradient: its 1e-4 is used.

`sets`: `newton-cg` with the preconditioner auto beside each fixed one, on six sets. `classes`:
softmax regression of the 5,000 packaged MNIST images, and of a tenth of the text with ten classes,
beside scikit-learn, and how far the objectives end above each other; of all 60,000 images, in one
turn, where HESSCOMP_DATA has them. Else each solver runs to its own end in turns, --repeats times;
tables have medians.
"""

import itertools
import os
import re
import time
from pathlib import Path

import numpy as np
import record
import scipy.sparse
import tables

ROWS, COLUMNS, WORDS = 334_009, 172_110, 13.8  # words of a document, repeated ones counted once
DECAY, FIRST = 0.9, 30.0  # the i-th word is drawn in proportion to (i + FIRST)^-DECAY
TOLERANCE, RIDGES = 1e-8, (1e-5, 1e-6)
LIMIT = 30.0  # seconds of a run on the six sets; the norm shows which did not end


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


def median_times(runs: dict, repeats: int, clock=time.process_time) -> tuple[dict, dict]:
    """Return the median seconds of each run, which take turns, and what each returned last."""
    seconds, found = {name: [] for name in runs}, {}
    for _ in range(repeats):
        for name, run in runs.items():
            begun = clock()
            found[name] = run()
            seconds[name].append(clock() - begun)
    return {name: float(np.median(values)) for name, values in seconds.items()}, found


def tell(
    options, part: str, row: str, medians: dict, norms: dict, told: str, ranks: int = 1,
    **further: float,
) -> None:  # fmt: skip
    """Print a row of a part's table, the first run being ours, and keep it with further values."""
    own, *others = medians
    print(f"{row}; {told}")
    values = {"seconds": medians[own]}
    for name, median in medians.items():
        ratio = median / medians[own]
        print(f"    {name:10s} {median:6.2f} s, ||g|| {norms[name]:.0e}, over ours {ratio:.2f}")
    values |= {f"{name} over ours": medians[name] / medians[own] for name in others}
    sketched = re.search(r"(\d+) sketch columns", told)
    values |= {"sketch columns": int(sketched[1])} if sketched else {}
    values |= further
    if not options.trial:
        code = (*record.ENGINE, *record.OPTIMIZERS)
        record.save(f"linear-{part}", row, values, code, ranks)


def norm_at(problem, x) -> float:
    return float(np.linalg.norm(problem.objective_and_gradient(x)[1]))


def text(options) -> None:
    """Logistic regression on text-like data, beside scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    import hesscomp as hc
    from hesscomp.datasets import from_arrays

    world = hc.World()
    if world.size > 1:
        ranks(options, world, *text_like(ROWS // options.scale, COLUMNS // options.scale))
        return
    for (name, X, y), ridge in itertools.product(texts(options.scale), RIDGES):
        data = from_arrays(X, y, world)
        problem = hc.LogisticRegression(data, world, ridge=ridge)
        hc.newton(problem, solver="pcg", max_iterations=1)  # what is loaded once is not counted

        def peer(solver, tolerance, X=X, y=y, ridge=ridge):
            model = LogisticRegression(
                C=1 / (ridge * len(y)), fit_intercept=False, solver=solver, tol=tolerance,
                max_iter=1000,
            )  # fmt: skip
            return model.fit(X, y).coef_[0]

        runs = {
            "hesscomp": lambda problem=problem: hc.newton(
                problem, solver="pcg", tolerance=TOLERANCE
            ),
            "newton-cg": lambda peer=peer: peer("newton-cg", TOLERANCE),
            "LIBLINEAR": lambda peer=peer: peer("liblinear", 1e-4),
        }
        medians, found = median_times(runs, options.repeats)
        told, found["hesscomp"] = found["hesscomp"].preconditioning, found["hesscomp"].x
        norms = {name: norm_at(problem, x) for name, x in found.items()}
        tell(options, "text", f"{name}{size_of(X)}, ridge {ridge:g}", medians, norms, told)


def texts(scale: int):
    """Yield a name, rows and labels of the set that is made, and of files."""
    yield "", *text_like(ROWS // scale, COLUMNS // scale)
    import hesscomp as hc

    folder = os.environ.get("HESSCOMP_DATA")
    files = sorted(Path(folder).iterdir()) if folder else []
    for path in (path for path in files if path.suffix in (".svm", ".libsvm", ".svmlight")):
        train = hc.load_data(path, dtype="float64").train
        yield f"{path.name}, ", train.X, train.y


def size_of(X) -> str:
    return f"{X.shape[0]:,} x {X.shape[1]:,}"


def ranks(options, world, X, y) -> None:
    """All ranks beside rank 0 alone, by wall time; one thread each.

    Also all ranks at once, each alone on the whole problem: how many such solves the machine does
    in the time of one is the most that ranks can gain on it.
    """
    import hesscomp as hc
    from hesscomp.datasets import from_arrays
    from hesscomp.parallel.rows import row_range

    own = slice(*row_range(len(y), world.rank, world.size))
    data = from_arrays(X[own], y[own], world)
    for ridge in RIDGES:
        seconds = {"ranks": [], "one": [], "each alone": []}
        problem = hc.LogisticRegression(data, world, ridge=ridge)
        for turn in range(options.repeats + 1):
            begun = time.perf_counter()
            fit = hc.newton(problem, solver="pcg", tolerance=TOLERANCE)
            seconds["ranks"].append(time.perf_counter() - begun)
            if world.rank == 0:
                seconds["one"].append(solve_alone(X, y, ridge))
            world.sum(np.zeros(1))
            taken = solve_alone(X, y, ridge)
            seconds["each alone"].append(float(world.max(np.array([taken]))[0]))
            if not turn:
                seconds = {name: [] for name in seconds}
        if world.rank == 0:
            medians = {name: float(np.median(values)) for name, values in seconds.items()}
            limit = world.size * medians["one"] / medians.pop("each alone")
            norms = dict.fromkeys(medians, fit.gradient_norm)
            row = f"{size_of(X)}, ridge {ridge:g}, {world.size} ranks"
            print(f"the machine does {limit:.2f} solves in the time of one")
            tell(
                options, "text", row, medians, norms, fit.preconditioning, world.size,
                **{"limit of the machine": limit},
            )  # fmt: skip


def solve_alone(X, y, ridge: float) -> float:
    """Return the wall seconds of a solve by this rank alone."""
    import hesscomp as hc
    from hesscomp.datasets import from_arrays

    alone = hc.World.serial()
    problem = hc.LogisticRegression(from_arrays(X, y, alone), alone, ridge=ridge)
    begun = time.perf_counter()
    hc.newton(problem, solver="pcg", tolerance=TOLERANCE)
    return time.perf_counter() - begun


def further_sets(scale: int, world):
    """Yield the name, the data and the ridge of six sets."""
    import hesscomp as hc
    from hesscomp.datasets import fourier_features, from_arrays

    rng = np.random.default_rng(1)
    X, y = text_like(40_000 // scale, 20_000 // scale)
    counts = X.copy()
    counts.data = rng.poisson(2.0, len(X.data)) + 1.0
    yield "raw counts", from_arrays(counts, y, world), 1e-5
    scales = scipy.sparse.diags_array(10 ** rng.uniform(-2, 2, X.shape[1]))
    yield "badly scaled columns", from_arrays((X @ scales).tocsr(), y, world), 1e-5
    column = scipy.sparse.csr_array(10 + rng.standard_normal((X.shape[0], 1)))
    wide = scipy.sparse.hstack([X, column], format="csr")
    yield "one large dense column", from_arrays(scipy.sparse.csr_array(wide), y, world), 1e-5
    Z = rng.standard_normal((20_000 // scale, 600))
    for j in range(1, Z.shape[1]):
        Z[:, j] = 0.95 * Z[:, j - 1] + np.sqrt(1 - 0.95**2) * Z[:, j]
    labels = np.where(rng.random(len(Z)) < 1 / (1 + np.exp(-Z[:, ::30].sum(1))), 1.0, -1.0)
    yield "dense, correlated", from_arrays(Z, labels, world), 1e-5
    adult = hc.load_data("adult", world)
    yield "Adult", adult, 1e-5
    features = fourier_features(adult, world, 4000 // scale, 5.0, seed=0, dtype="float32")
    yield "Adult, Fourier features", features, 1e-5


def sets(options) -> None:
    """The policy beside each fixed preconditioner, on six sets."""
    import hesscomp as hc

    world = hc.World()
    for name, data, ridge in further_sets(options.scale, world):
        problem = hc.LogisticRegression(data, world, ridge=ridge)

        def solve(preconditioner, problem=problem):
            optimizer = hc.NewtonCG(preconditioner=preconditioner, max_cg=2000)
            return hc.train(
                problem, optimizer, max_steps=60, gradient_tolerance=TOLERANCE, max_seconds=LIMIT
            )

        solve("auto")
        runs = {kind: lambda kind=kind, solve=solve: solve(kind) for kind in FIXED}
        medians, found = median_times(runs, options.repeats)
        norms = {kind: result.gradient_norm for kind, result in found.items()}
        row = f"{name}, {problem.rows:,} x {problem.n:,}, ridge {ridge:g}"
        tell(options, "sets", row, medians, norms, found["auto"].remark)


def classes(options) -> None:
    """Softmax regression of MNIST and of text, beside scikit-learn."""
    import hesscomp as hc
    from hesscomp.datasets import from_arrays

    softmax(options, "mnist-sample", hc.load_data("mnist-sample"), (1e-3, 1e-4), options.repeats)
    if (Path(os.environ.get("HESSCOMP_DATA", "")) / "mnist").is_dir():
        softmax(options, "mnist", hc.load_data("mnist"), (1e-3,), 1)
    X, _ = text_like(ROWS // (10 * options.scale), COLUMNS // (10 * options.scale))
    rng = np.random.default_rng(2)
    scores = X @ (8 * rng.standard_normal((X.shape[1], 10))) + rng.gumbel(size=(X.shape[0], 10))
    words = from_arrays(X, np.argmax(scores, axis=1), hc.World(), targets="classes")
    softmax(options, "text", words, (1e-4,), options.repeats)


def softmax(options, name: str, data, ridges: tuple, repeats: int) -> None:
    from sklearn.linear_model import LogisticRegression

    import hesscomp as hc

    X, y = data.train.X, data.train.y
    X = X if scipy.sparse.issparse(X) else np.asarray(X, np.float64)
    for ridge in ridges:
        problem = hc.SoftmaxRegression(data, ridge=ridge, intercept=True)
        hc.newton(problem, solver="pcg", max_iterations=1)

        def peer(solver, tolerance, ridge=ridge, pinned=problem.pinned):
            model = LogisticRegression(
                C=1 / (ridge * len(y)), solver=solver, tol=tolerance, max_iter=5000
            ).fit(X, y)
            return np.vstack([model.coef_.T, model.intercept_ - model.intercept_[0]])[~pinned]

        runs = {
            "hesscomp": lambda problem=problem: hc.newton(problem, solver="pcg", tolerance=1e-7).x,
            "newton-cg": lambda peer=peer: peer("newton-cg", 1e-7),
            "lbfgs": lambda peer=peer: peer("lbfgs", 1e-7),
        }
        medians, found = median_times(runs, repeats)
        norms = {name: norm_at(problem, x) for name, x in found.items()}
        least = min(problem.objective(x) for x in found.values())
        gaps = {name: float(problem.objective(x) - least) for name, x in found.items()}
        row = f"{name}, 10 classes, {problem.rows:,} x {problem.n:,}, ridge {ridge:g}"
        told = f"objectives above the least: {gaps}"
        own = gaps.pop("hesscomp")
        within = {f"{name} ends above ours by": f"{gaps[name] - own:.0e}" for name in gaps}
        tell(options, "classes", row, medians, norms, told, **within)


FIXED = ("auto", "low-rank", "none", "diagonal")
PARTS = {"text": text, "sets": sets, "classes": classes}


def main() -> None:
    parser = tables.parts_parser(__doc__, PARTS)
    parser.add_argument("--scale", type=int, default=1, help="divide rows and columns by this")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    from threadpoolctl import threadpool_limits

    from hesscomp.curvature.tensorflow import set_threads

    set_threads(1)
    with threadpool_limits(1):
        for part in options.parts or PARTS:
            PARTS[part](options)


if __name__ == "__main__":
    main()
