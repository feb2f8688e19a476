"""Hierarchical factors: known answers, growth, updates, networks, Newton-Krylov solves.

    python scripts/bench/hierarchical.py                     # all, a quarter of an hour
    python scripts/bench/hierarchical.py answers shallow
    mpiexec -n 2 python scripts/bench/hierarchical.py autoencoder    # half an hour, 12 GiB

The autoencoder takes `--images` (10,000) of the 60,000 of "mnist" in HESSCOMP_DATA, as many on each
rank, or else the 5,000 of "mnist-sample"; `--layouts` are those measured.

Each part prints one table, with every figure beside the bound that is asked of it. Columns are
those of products with the operator, the probes of the certificate among them; errors are relative,
in the Frobenius norm, from the dense matrix where its order is at most 4,096 and by 16 random
vectors beyond. Counts and errors depend on the machine by its rounding alone.
"""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import record
import scipy.fft
import scipy.linalg
import scipy.ndimage
import scipy.sparse
import tables
from scipy.sparse.linalg import LinearOperator
from threadpoolctl import threadpool_limits

from hesscomp.compression import compress, update_factor
from hesscomp.compression.hodlr import HodlrOptions, compress_hodlr
from hesscomp.compression.recompression import update_hierarchical
from hesscomp.curvature.whitened import Whitened
from hesscomp.factors import Factor, Hodlr, Tree
from hesscomp.factors.hierarchical import Hierarchical, Inverse
from hesscomp.factors.telescope import Telescope
from hesscomp.factors.tree import kd_order, neuron_order, unit_order
from hesscomp.krylov.cg import conjugate_gradients
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.operators.operator import Operator
from hesscomp.optimizers.preconditioners import HORIZON

CODE = ("hesscomp/factors", *record.COMPRESSION)
DENSE = 4096  # order up to which errors are those of the dense matrix
BUILDS = 3  # of which the median counts
PROBES = 8  # columns of a certificate, which are no part of a sketch
CHECKS = 16  # random vectors that measure an error beyond


def main() -> None:
    parser = tables.parts_parser(__doc__, PARTS)
    parser.add_argument("--images", type=int, default=10_000, help="of the autoencoder")
    layouts = "replicated", "rows"
    parser.add_argument("--layouts", nargs="+", choices=layouts, default=layouts)
    options = parser.parse_args()
    parts = {**PARTS, "autoencoder": lambda: autoencoder(options.images, options.layouts)}
    with threadpool_limits(1):
        tables.run_parts(options, parts, "hierarchical", CODE, ranks=RANKS)


# Matrices


def kernel_matrix(points: np.ndarray, length: float) -> np.ndarray:
    points = points.reshape(len(points), -1)
    return np.exp(-np.linalg.norm(points[:, None] - points, axis=2) / length)


class Kernel(MatrixOperator):
    """exp(-d / length) on a line or a square grid, by the fast Fourier transform."""

    def __init__(self, side: int, dimension: int, length: float):
        shape = (side,) * dimension
        there = np.minimum(np.arange(2 * side), 2 * side - np.arange(2 * side)) / side
        squares = sum(np.meshgrid(*[there**2] * dimension, indexing="ij"))
        transform = scipy.fft.rfftn(np.exp(-np.sqrt(squares) / length))
        axes, n = tuple(range(dimension)), side**dimension
        cut = tuple(slice(0, side) for _ in shape)

        def product(V):
            block = V.reshape(*shape, -1)
            turned = scipy.fft.rfftn(block, s=[2 * side] * dimension, axes=axes)
            turned *= transform[..., None]
            back = scipy.fft.irfftn(turned, s=[2 * side] * dimension, axes=axes)
            return np.ascontiguousarray(back[cut]).reshape(n, -1)

        super().__init__(LinearOperator((n, n), matvec=product, matmat=product, dtype=float))


def grid(side: int) -> np.ndarray:
    return np.stack(np.meshgrid(*(np.arange(side) / side,) * 2, indexing="ij"), 2).reshape(-1, 2)


def relative_error(factor: Factor, H: Operator) -> float:
    if factor.n <= DENSE:
        A = H.to_dense()
        return float(np.linalg.norm(factor.to_dense() - A) / np.linalg.norm(A))
    V = np.random.default_rng(99).standard_normal((factor.n, CHECKS))
    Y = H @ V
    return float(np.linalg.norm(factor @ V - Y) / np.linalg.norm(Y))


# 1. Known answers


def answers() -> dict[str, dict]:
    """exp(-d / l) on a line (l = 0.1) and on a grid (l = 0.2), and the constant columns of HBS."""
    line = MatrixOperator(kernel_matrix(np.arange(1024) / 1024, 0.1))
    square = MatrixOperator(kernel_matrix(grid(32), 0.2))
    order = kd_order(grid(32), 64)
    rows = {}

    def row(name: str, H: Operator, factor: Hierarchical, columns: int, error: float) -> None:
        rows[name] = {
            "columns but for probes": factor.provenance.columns - PROBES,
            "asked": columns,
            "relative error": relative_error(factor, H),
            "at most": error,
            "certificate": factor.certificate.relative_error,
            "numbers a parameter": factor.numbers / factor.n,
        }

    def peeled(H: Operator, leaf: int, order, **options) -> Hierarchical:
        return compress_hodlr(H, Tree.halves(H.n, leaf, order), **options)

    def nested(H: Operator, leaf: int, order, columns: int, **options) -> Hierarchical:
        tree = Tree.halves(H.n, leaf, order)
        return compress(H, format="hbs", tree=tree, sketch_columns=columns, **options)

    row("line, HODLR, k = 8, m = 64", line, peeled(line, 64, None, rank=8), 208, 1e-13)
    row("line, HBS, k = 8, m = 16", line, nested(line, 16, None, 34, rank=8), 34, 1e-13)
    for k, columns, error in ((24, 336, 2.5e-3), (48, 528, 1.2e-4)):
        found = peeled(square, 64, order, rank=k)
        row(f"square, HODLR, k = {k}, m = 64", square, found, columns, error)
    found = peeled(square, 64, order, rank=24, passes=1)
    row("square, HODLR in one pass, k = 24, m = 64", square, found, 472, 4e-3)
    for k, m, columns, error in ((24, 64, 184, 4e-3), (48, 128, 368, 3.5e-4)):
        found = nested(square, m, order, columns, rank=k)
        row(f"square, HBS, k = {k}, m = {m}", square, found, columns, error)
    for power in (10, 12, 14, 16):
        H = Kernel(2**power, 1, 0.1)
        found = compress(H, 8, format="hbs", leaf_size=16)
        row(f"line, HBS, k = 8, m = 16, n = 2^{power}", H, found, 56 - 8, 1e-9)
    for power in (10, 12, 14):
        H = Kernel(2 ** (power // 2), 2, 0.2)
        coordinates = grid(2 ** (power // 2))
        found = compress(H, 24, format="hbs", leaf_size=64, ordering=coordinates)
        row(f"square, HBS, k = 24, m = 64, n = 2^{power}", H, found, 184 - 8, 1e-2)
    return rows


# 2. Growth

COUNTED = (
    *("operations of a product", "of a solve", "of a build", "of an elimination"),
    "numbers held",
)
TIMED = ("to build", "to eliminate", "product", "solve", "product, cold", "solve, cold")


def growth() -> dict[str, dict]:
    """HBS (k = 8, m = 16) and HODLR (k = 8, m = 64) of exp(-d / 0.1) on a line.

    Seconds are the processor's, on one thread, which other work on the machine disturbs less:
    medians of repeated builds, products and solves, with the factor in the caches as far as it
    fits, and cold, after other memory was read. Operations are counted from the sizes of the
    matrices.
    """
    rate, rows, counted = bandwidth(), {}, {}
    for name in ("HBS", "HODLR"):
        for power in range(10, 19):
            H = Kernel(2**power, 1, 0.1)
            products, builds = timed_products(H), []
            for _ in range(BUILDS):
                products.clear()
                began = time.process_time()
                if name == "HBS":
                    factor = compress(H, 8, format="hbs", leaf_size=16)
                else:
                    factor = compress_hodlr(H, Tree.halves(H.n, 64), rank=8)
                took = time.process_time() - began
                builds.append(took - sum(seconds for _, seconds in products))
            built = float(np.median(builds))
            began = time.process_time()
            inverse = factor.eliminated(1.0).solver.inverse
            eliminated = time.process_time() - began
            v = np.ones(H.n)
            product, colder = seconds_of(factor.__matmul__, v)
            solve, colder_solve = seconds_of(factor.solve, v, 1.0)
            held = factor.numbers + inverse.numbers
            floors = 8 * factor.numbers / rate, 8 * inverse.numbers / rate
            seconds = built, eliminated, product, solve, colder, colder_solve
            operations = product_operations(factor), telescoping(inverse), *made_operations(factor)
            counted.setdefault(name, []).append((H.n, *operations, held, *seconds))
            rows[f"{name}, n = 2^{power}"] = {
                "columns": factor.provenance.columns,
                "relative error": relative_error(factor, H),
                "numbers a parameter": factor.numbers / H.n,
                **dict(zip(COUNTED, (*operations, held), strict=True)),
                **dict(zip(TIMED, seconds, strict=True)),
                "product over the floor": product / floors[0],
                "cold": colder / floors[0],
                "solve over its floor": solve / floors[1],
                "solve, cold, over it": colder_solve / floors[1],
            }
        scattered = replace(factor, permutation=kd_order(grid(2 ** (power // 2)), 16))
        scattered.eliminated(1.0)
        rows[f"{name}, n = 2^{power}, in the order of a kd-tree of a square"] = {
            "product over the floor": seconds_of(scattered.__matmul__, v)[0] / floors[0],
            "solve over its floor": seconds_of(scattered.solve, v, 1.0)[0] / floors[1],
        }
    heads = (*COUNTED, *TIMED)
    for name, found in counted.items():
        n, *values = np.array(found, float).T
        of = {head: n >= (2**14 if head in TIMED else 0) for head in heads}
        rows[f"{name}, slope"] = {
            head: slope(n[of[head]], each[of[head]])
            for head, each in zip(heads, values, strict=True)
        }
    rows["asked of slopes and floors, at most"] = (
        dict.fromkeys(COUNTED, 1.1)
        | dict.fromkeys(TIMED, 1.2)
        | {"product over the floor": 3, "solve over its floor": 3}
    )
    return rows


def slope(n: np.ndarray, values: np.ndarray) -> float:
    return float(np.polyfit(np.log(n), np.log(values), 1)[0])


def product_operations(factor: Hierarchical) -> int:
    if isinstance(factor, Hodlr):
        return 2 * (len(factor.leaf_blocks) + 2 * len(factor.sides))
    return telescoping(factor.telescope)


def telescoping(matrix: Telescope) -> int:
    """Operations of a product: a node's block is used once, what goes up also comes down."""
    return 2 * (matrix.numbers + sum(R.size for R in matrix.upward))


def made_operations(factor: Hierarchical) -> tuple[int, int]:
    """Operations of a build but for the products of H, and of an elimination.

    Counted from the sizes of the matrices that `compression.hbs`, `compression.hodlr` and
    `factors.hbs` work on: 2 a b c of a product, and factorisations as in Golub and Van Loan (2013).
    """
    if isinstance(factor, Hodlr):
        return peeling(factor), nesting(factor) + eliminating(factor.tree, factor._nested.ranks)
    size, (r, k) = factor.provenance.columns - PROBES, sizes_of(factor.tree, factor.ranks)
    # Least squares by normal equations, refined once where the sketch is narrow.
    fit = 6 * size * r**2 + 4 * r**3 + (4 * r > size) * (4 * size * r**2 + 2 * r**3)
    triangle, svd = 2 * size * r**2 - 2 * r**3 / 3, 22 * r**3
    rest = 12 * k * r**2 + 6 * size * k * r  # the remainder, and what goes up
    down = 2 * r * k**2 + 2 * r**2 * k
    return int(np.sum(fit + (k > 0) * (triangle + svd + rest + down))), eliminating(
        factor.tree, factor.ranks
    )


def sizes_of(tree: Tree, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of each node's matrices, and the columns of its basis."""
    k = ranks.astype(float)
    return np.append(k[1:].reshape(-1, 2).sum(axis=1), tree.leaf_sizes), k


def eliminating(tree: Tree, ranks: np.ndarray) -> int:
    r, k = sizes_of(tree, ranks)
    rotation = 4 * r**2 * k - 2 * r * k**2 + 2 * k**3 / 3  # the QR factorisation with all of Q
    blocks = 10 * r**3 + 2 * k**3 + 8 * k * r**2 + 4 * k**2 * r
    return int(np.sum(9 * r**3 + np.where(k > 0, rotation + blocks, 2 * r**3)))


def peeling(factor: Hodlr) -> int:
    """Operations of peeling in two passes: what coarser levels explain grows with the level."""
    n, widths, leaf = factor.n, factor.form.widths, int(factor.tree.leaf_sizes.max())
    count = 4 * n * sum(widths) * leaf
    for level, k in enumerate(widths):
        s = k + HodlrOptions.oversample
        explained, bases = 8 * n * sum(widths[:level]) * s, 4 * n * s**2 * (1 + s / leaf)
        count += explained + bases + 2 * n * s * k
    return int(count)


def nesting(factor: Hodlr) -> int:
    """Operations of the nested bases of the sides, which are eliminated."""
    widths, levels, ranks = factor.form.widths, factor.tree.levels, factor._nested.ranks
    rows, count = float(factor.tree.leaf_sizes.max()), 0.0
    for level in reversed(range(levels)):
        columns, nodes = sum(widths[: level + 1]), 2 ** (level + 1)
        kept = float(ranks[nodes - 1 : 2 * nodes - 1].mean())
        long, short = max(rows, columns), min(rows, columns)
        count += nodes * (14 * long * short**2 + 8 * short**3 + 2 * rows * kept * columns)
        rows = 2 * kept
    return int(count)


def bandwidth() -> float:
    """Bytes a second that one thread reads."""
    x = np.ones(2**25)
    return x.nbytes / seconds_of(x.dot, x)[0]


def seconds_of(work: Callable, *arguments, repeats: int = 41) -> tuple[float, float]:
    """Return medians of processor seconds: right after another run, and after other reading."""
    found, other = [], np.zeros(2**24)
    for cold in (False, True):
        seconds = []
        for _ in range(repeats):
            if cold:
                other += 1
            began = time.process_time()
            work(*arguments)
            seconds.append(time.process_time() - began)
        found.append(float(np.median(seconds)))
    return found[0], found[1]


def timed_products(H: Operator) -> list[tuple[float, float]]:
    """Return a list to which each product of H adds its seconds, and those of the processor."""
    seconds, product = [], H.block_product

    def block_product(V):
        began = time.perf_counter(), time.process_time()
        out = product(V)
        seconds.append((time.perf_counter() - began[0], time.process_time() - began[1]))
        return out

    H.block_product = block_product  # type: ignore[method-assign]
    return seconds


# 3. Updates

REFIT = "HBS by its ranks"


def updates() -> dict[str, dict]:
    """Factors brought to a new point: made anew, by their ranks again, or by the difference.

    By columns and by error; and how what an update takes beside the products of H grows, on one
    thread: of HBS by its ranks, from exp(-d / 0.1) to exp(-d / 0.11) on a line, and of HBS and
    HODLR by ten columns that are added, and cut again to 1e-8.
    """
    rows: dict[str, dict] = {}

    def case(name: str, before: Operator, now: Operator, **options) -> None:
        known = compress(before, format="hbs", **options)
        ways = {
            "anew": lambda: compress(now, format="hbs", **options),
            "by its ranks": lambda: update_factor(now, known, seed=1),
            "by a difference of rank 50": lambda: update_factor(
                now, known, 50, by="difference", seed=1
            ),
        }
        found = {"as it was": known} | {way: make() for way, make in ways.items()}
        for way, factor in found.items():
            rows[f"{name}, {way}"] = {
                "columns": 0 if factor is known else factor.provenance.columns,
                "relative error": relative_error(factor, now),
                "numbers a parameter": numbers_of(factor) / now.n,
            }

    problem = Deconvolution(4096)
    start = np.zeros(problem.n)
    first, downhill = problem.hessian(start), -problem.gradient(start)
    step = conjugate_gradients(first, downhill, tolerance=1e-6, max_iterations=5000).x
    case("deconvolution, after a Newton step", first, problem.hessian(step), rank=8, leaf_size=16)
    first, later, tree = classifier_and_later()
    case("classifier 196-15-10, after an epoch", first, later, tolerance=6.5e-2, tree=tree)

    grown: dict[str, list[tuple[float, ...]]] = {}
    for power in range(12, 19):
        H, later = Kernel(2**power, 1, 0.1), Kernel(2**power, 1, 0.11)
        nested = compress(H, 8, format="hbs", leaf_size=16)
        peeled = compress_hodlr(H, Tree.halves(H.n, 64), rank=8)
        x = np.linspace(0, 1, H.n)[:, None]
        B = np.cos(np.pi * x * np.arange(1, 11)) / np.sqrt(H.n)
        c = np.linspace(-1, 1, 10)
        changed = Sum(H, B, c)
        for name, target, update in (
            (REFIT, later, partial(update_factor, later, nested, seed=1)),
            (
                "HBS and ten columns",
                changed,
                partial(update_hierarchical, nested, B, c, tolerance=1e-8),
            ),
            ("HODLR and ten columns", changed, partial(peeled.update, B, c, 1e-8)),
        ):
            factor, seconds = updated(update, later)
            refit = name == REFIT
            operations = made_operations(factor)[0] if refit else None
            rows[f"{name}, n = 2^{power}"] = {
                "columns": factor.provenance.columns if refit else 0,
                "relative error": relative_error(factor, target),
                "numbers a parameter": numbers_of(factor) / H.n,
                "operations": operations,
                "seconds": seconds,
            }
            grown.setdefault(name, []).append((H.n, operations or np.nan, seconds))
    for name, found in grown.items():
        n, operations, seconds = np.array(found).T
        late = n >= 2**14
        rows[f"{name}, slope"] = {
            "operations": None if np.isnan(operations).any() else slope(n, operations),
            "seconds": slope(n[late], seconds[late]),
        }
    rows["asked of slopes, at most"] = {"operations": 1.1, "seconds": 1.2}
    return rows


def updated(update: Callable[[], Factor], H: Operator) -> tuple[Factor, float]:
    """Return the factor, and the median of its processor seconds but for products of H."""
    products, took = timed_products(H), []
    for _ in range(BUILDS):
        products.clear()
        began = time.process_time()
        factor = update()
        took.append(time.process_time() - began - sum(of for _, of in products))
    return factor, float(np.median(took))


class Sum(MatrixOperator):
    """H + B diag(c) B^T."""

    def __init__(self, H: Operator, B: np.ndarray, c: np.ndarray):
        def product(V):
            return H @ V + B @ (c * (B.T @ V).T).T

        super().__init__(LinearOperator((H.n, H.n), matvec=product, matmat=product, dtype=float))


def classifier_and_later() -> tuple[Operator, Operator, Tree]:
    """The Hessians of the classifier of `networks` at initialisation and after an epoch of Adam.

    And the tree of its units.
    """
    import keras

    import hesscomp as hc

    pooled, labels = pooled_images()
    loss = "sparse_categorical_crossentropy"
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((196,)), dense(15, "sigmoid"), dense(10, "softmax")])
    first = hc.hessian(model, loss, (pooled, labels), dtype="float64").replicated()
    order = unit_order(first.describe(compress(first, 1)).blocks, first.n)
    held = MatrixOperator(first.to_dense())
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(pooled, labels, epochs=1, batch_size=32, verbose=0)
    later = hc.hessian(model, loss, (pooled, labels), dtype="float64").replicated()
    return held, MatrixOperator(later.to_dense()), Tree.halves(first.n, 16, order)


# 4. Networks


def pooled_images() -> tuple[np.ndarray, np.ndarray]:
    """The first 300 images of the MNIST sample, pooled to 14 x 14, and their labels."""
    import hesscomp as hc

    train = hc.load_data("mnist-sample").train
    images = np.asarray(train.X).reshape(-1, 14, 2, 14, 2)[:300]
    return images.mean(axis=(2, 4)).reshape(-1, 196), np.asarray(train.y)[:300]


def networks() -> dict[str, dict]:
    """Gauss-Newton matrices and Hessians: formats by tolerance, at products alone."""
    import keras

    import hesscomp as hc

    pooled, labels = pooled_images()
    dense, rows = keras.layers.Dense, {}

    def case(name: str, H: Operator, order: Callable, targets: list[tuple]) -> None:
        H = H.replicated()
        A = H.to_dense()
        permutation = order(H.describe(compress(H, 1)).blocks, H.n)
        held = MatrixOperator(A, psd=H.psd)
        for tolerance, most, columns, numbers in targets:
            for kind in ("low-rank", "hbs", "hodlr"):
                leaf = 16 if kind == "hbs" and most is not None else 32
                factor = formatted(held, kind, tolerance, Tree.halves(H.n, leaf, permutation))
                bound = kind == "hbs" and most is not None
                rows[f"{name}, {kind}, tolerance {tolerance:g}"] = {
                    "columns": factor.provenance.columns,
                    "columns asked": columns if bound else None,
                    "numbers a parameter": numbers_of(factor) / H.n,
                    "numbers asked": numbers if bound else None,
                    "relative error": relative_error(factor, held),
                    "error asked": most if bound else None,
                    "low rank, 300 columns": low_rank_error(held) if bound else None,
                }
            tree = Tree.halves(H.n, 32, permutation)
            chosen = compress(held, tolerance=tolerance, format="auto", tree=tree)
            rows[f"{name}, auto, tolerance {tolerance:g}"] = {
                "taken": chosen.kind,
                "columns": chosen.provenance.columns,
                "numbers a parameter": numbers_of(chosen) / H.n,
                "relative error": relative_error(chosen, held),
            }

    keras.utils.set_random_seed(0)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model = keras.Sequential(
        [keras.Input((196,)), dense(8, "sigmoid"), dense(4), dense(8, "sigmoid"), dense(196)]
    )
    model.compile(keras.optimizers.SGD(0.1), loss)
    model.fit(pooled, pooled, epochs=20, batch_size=32, verbose=0)
    H = hc.ggn(model, loss, (pooled, pooled), dtype="float64")
    name = f"autoencoder 196-8-4-8-196, Gauss-Newton, n = {H.n:,}"
    targets = [(5e-3, 5e-3, 300, 35), (1e-2, None, None, None), (1e-1, None, None, None)]
    case(name, H, neuron_order, targets)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((196,)), dense(15, "sigmoid"), dense(10, "softmax")])
    H = hc.hessian(model, "sparse_categorical_crossentropy", (pooled, labels), dtype="float64")
    name = f"classifier 196-15-10, Hessian at initialisation, n = {H.n:,}"
    case(name, H, unit_order, [(6.5e-2, 5e-2, 300, 45), (1e-2, None, None, None)])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(pooled, labels, epochs=20, batch_size=32, verbose=0)
    H = hc.ggn(model, "sparse_categorical_crossentropy", (pooled, labels), dtype="float64")
    name = f"classifier 196-15-10, trained, Gauss-Newton, n = {H.n:,}"
    case(name, H, neuron_order, [(1e-1, None, None, None), (1e-2, None, None, None)])
    H = physics_informed()
    name = f"PINN 1-32-32-1 of a Poisson equation, trained, Hessian, n = {H.n:,}"
    case(name, H, neuron_order, [(1e-1, None, None, None), (1e-2, None, None, None)])
    H = random_features(np.asarray(hc.load_data("mnist-sample").train.X))
    free = [(1e-1, None, None, None), (1e-2, None, None, None)]
    case("random Fourier features of MNIST, n = 1,024", H, lambda _, n: np.arange(n), free)
    return rows


def physics_informed() -> Operator:
    """The Hessian of the mean squared residual of -u'' = f on [0, 1], u = x (1 - x) N(x).

    N is a network of tanh units; 256 points, u = sin(2 pi x) + 0.3 sin(6 pi x), 1,000 steps of
    Adam and then 60 of Newton-CG in a trust region.
    """
    import tensorflow as tf

    import hesscomp as hc

    rng, widths = np.random.default_rng(0), (1, 32, 32, 1)
    theta = {}
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        theta[f"kernel{i}"] = rng.standard_normal((a, b)) * (3.0 if i == 0 else 1 / np.sqrt(a))
        theta[f"bias{i}"] = rng.uniform(-3, 3, b) * (i == 0)

    def loss_sum(theta, X, y):
        v, slope, bend = X, tf.ones_like(X), tf.zeros_like(X)  # by x: value, derivatives
        for i in range(len(widths) - 1):
            W = theta[f"kernel{i}"]
            v, slope, bend = v @ W + theta[f"bias{i}"], slope @ W, bend @ W
            if i < len(widths) - 2:
                v = tf.tanh(v)
                gain = 1 - v * v
                slope, bend = gain * slope, gain * (bend - 2 * v * slope * slope)
        u2 = X * (1 - X) * bend + 2 * (1 - 2 * X) * slope - 2 * v
        return tf.reduce_sum((u2[:, 0] + y) ** 2) / 2

    x, pi = (np.arange(256)[:, None] + 0.5) / 256, np.pi
    f = (2 * pi) ** 2 * np.sin(2 * pi * x) + 0.3 * (6 * pi) ** 2 * np.sin(6 * pi * x)
    problem = hc.FunctionProblem(loss_sum, theta, (x, f[:, 0]), dtype="float64")
    begun = hc.train(problem, hc.Adam(1e-3), max_steps=1000).x
    found = hc.train(
        problem, "newton-cg", x0=begun, max_steps=60,
        settings={"globalization": "trust-region", "rank": 60},
    )  # fmt: skip
    return hc.hessian(problem, at=found.x)


def random_features(images: np.ndarray) -> Operator:
    """The Gauss-Newton matrix of a linear model of cosines, of the kernel exp(-d^2 / 2 s^2)."""
    rng = np.random.default_rng(0)
    X = images.astype(np.float64)
    W = rng.standard_normal((X.shape[1], 1024)) / 10
    Z = np.cos(X @ W + rng.uniform(0, 2 * np.pi, 1024))
    return MatrixOperator(Z.T @ Z / len(Z), psd=True)


def formatted(H: Operator, kind: str, tolerance: float, tree: Tree) -> Factor:
    if kind == "low-rank":
        return compress(H, tolerance=tolerance)
    if kind == "hodlr":
        return compress_hodlr(H, tree, tolerance=tolerance)
    # 300 columns in all: those of the sketch, its probes, and fresh ones that judge the factor.
    return compress(H, format="hbs", tree=tree, tolerance=tolerance, sketch_columns=284)


def numbers_of(factor: Factor) -> int:
    """The numbers that a factor holds."""
    names = factor.arrays.keys() - factor.integers
    return sum(getattr(factor, name).size for name in names)


def low_rank_error(H: Operator) -> float:
    """The error of the best rank that 300 columns find in two passes, from the dense spectrum."""
    w = np.sort(np.abs(np.linalg.eigvalsh(H.to_dense())))
    return float(np.linalg.norm(w[:-150]) / np.linalg.norm(w))


# 5. Newton-Krylov


class Deconvolution:
    """Counts of 50 trials whose logits are a blurred field, with a prior on it.

    Blur of width 6 cells cut at 36, rows normalised; prior (0.03 I + 10 Laplacian)^2, Neumann; the
    truth is a normal field, filtered to width 30 and scaled to a standard deviation of 2.
    """

    trials = 50

    def __init__(self, n: int):
        away = np.arange(-36, 37)
        weights = np.exp(-(away**2) / 72.0)
        bands = [np.full(n - abs(k), weight) for k, weight in zip(away, weights, strict=True)]
        blur = scipy.sparse.diags(bands, away, shape=(n, n)).tocsr()
        self.blur = scipy.sparse.diags(1 / np.asarray(blur.sum(axis=1)).ravel()) @ blur
        rng = np.random.default_rng(0)
        truth = scipy.ndimage.gaussian_filter1d(rng.standard_normal(n), 30)
        truth *= 2 / truth.std()
        self.counts = rng.binomial(self.trials, self.probability(truth))
        main = np.full(n, 2.0)
        main[[0, -1]] = 1.0
        side = -np.ones(n - 1)
        laplacian = scipy.sparse.diags([side, main, side], [-1, 0, 1])
        root = 0.03 * scipy.sparse.eye(n) + 10 * laplacian
        self.prior, self.n = (root @ root).tocsr(), n

    def probability(self, x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(self.blur @ x)))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        rest = self.trials * self.probability(x) - self.counts
        return self.blur.T @ rest + self.prior @ x

    def hessian(self, x: np.ndarray, prior: bool = True) -> MatrixOperator:
        p = self.probability(x)
        weights = (self.trials * p * (1 - p))[:, None]

        def product(V):
            block = V.reshape(self.n, -1)
            data = self.blur.T @ (weights * (self.blur @ block))
            return data + self.prior @ block if prior else data

        view = LinearOperator((self.n, self.n), matvec=product, matmat=product, dtype=float)
        return MatrixOperator(view, psd=True)


def newton(problem: Deconvolution, build: Callable, lagged: bool = False) -> tuple[int, ...]:
    """Newton from 0 to a gradient of 1e-9, CG to 1e-6: steps, sketch columns, CG products.

    `build` makes the preconditioner at a point, and tells the columns that it took: once, or
    `lagged`, again when that pays within the next five solves (as `Refreshed` does).
    """
    x, products, sketched = np.zeros(problem.n), 0, 0
    first = np.linalg.norm(problem.gradient(x))
    M, made, fresh, latest = None, 0, 0, 0
    for step in range(60):
        g = problem.gradient(x)
        norm = np.linalg.norm(g)
        if norm <= 1e-9 * first:
            return step, sketched, products
        new = step == 0 or (lagged and HORIZON * (latest - fresh) > made)
        if new:
            M, made = build(x)
            sketched += made
        H = problem.hessian(x)
        solved = conjugate_gradients(H, -g, tolerance=1e-6 * norm, preconditioner=M)
        latest = solved.iterations
        fresh = latest if new else fresh
        products += latest
        x = x + solved.x
    raise SystemExit("Newton's method has not reached its gradient in 60 steps")


class PriorAndLowRank:
    """(B + U W U^T)^-1, of eigenpairs in the metric of the prior B = L L^T."""

    def __init__(self, whitened: Whitened, factor: Factor):
        self.whitened, self.factor = whitened, factor

    def __matmul__(self, v: np.ndarray) -> np.ndarray:
        inside = self.whitened._solve(v[:, None], transposed=False)
        return self.whitened.backward(self.factor.solve(inside, 1.0, "zero"))[:, 0]


def deconvolution() -> dict[str, dict]:
    """HBS and low rank in the metric of the prior, each made once, and low rank made again."""
    rows = {}
    for n, most, numbers in ((4096, 300, 45), (16384, 360, None)):
        problem = Deconvolution(n)
        factor = compress(problem.hessian(np.zeros(n)), 8, format="hbs", leaf_size=16)
        M = factor.preconditioner(0.0)
        ways: dict[str, tuple] = {
            "HBS once": (lambda x, M=M, of=factor: (M, of.provenance.columns), False)
        }
        if n <= 4096:
            whitened = Whitened(problem.hessian(np.zeros(n), prior=False), problem.prior.toarray())
            for power, again in ((1, False), (0, False), (0, True)):
                name = f"prior and low rank 200, power {power}, {'lagged' if again else 'once'}"
                ways[name] = prior_and_low_rank(problem, whitened, power), again
            ways["no preconditioner"] = (lambda x: (None, 0)), False
        for name, (build, lagged) in ways.items():
            steps, sketched, products = newton(problem, build, lagged)
            hbs, low = name == "HBS once", name.endswith("lagged")
            rows[f"n = {n:,}, {name}"] = {
                "steps": steps,
                "sketch columns": sketched,
                "CG products": products,
                "columns in all": sketched + products,
                "at most": most if hbs else None,
                "numbers a parameter": numbers_of(factor) / n if hbs else 200 * ("rank" in name),
                "numbers asked": numbers if hbs else None,
                "study": 1051 if low else {"no preconditioner": 3532}.get(name),
            }
    return rows


def prior_and_low_rank(problem: Deconvolution, whitened: Whitened, power: int) -> Callable:
    """Return what makes the preconditioner at a point; the prior is factorised once."""

    def build(x: np.ndarray):
        whitened.base = problem.hessian(x, prior=False)
        factor = compress(whitened, 200, power=power)
        return PriorAndLowRank(whitened, factor), factor.provenance.columns

    return build


# 6. A shallow network


def shallow() -> dict[str, dict]:
    """f(t) = sum a_j relu(w_j t - b_j) on [0, 1]; all three of each unit, unit by unit.

    1,024 sorted uniform breakpoints, w = 1, normal a, 6,000 uniform points; a normal right side,
    CG to 1e-6.
    """
    rng = np.random.default_rng(0)
    units, points = 1024, 6000
    b, a = np.sort(rng.uniform(size=units)), rng.standard_normal(units)
    t = rng.uniform(size=points)[:, None]
    on = (t > b) * a
    J = np.stack([on * t, -on, np.maximum(t - b, 0)], axis=2).reshape(points, -1)
    G = J.T @ J / points
    H, n = MatrixOperator(G, psd=True), 3 * units
    damping = 1e-8 * float(np.linalg.eigvalsh(G)[-1])
    right = np.random.default_rng(1).standard_normal(n)
    rows = {}

    def row(name: str, factor: Factor | None, asked: tuple = (None, None, None)) -> None:
        M = None if factor is None else factor.preconditioner(damping)
        solved = conjugate_gradients(
            H.shifted(damping), right, tolerance=1e-6 * np.linalg.norm(right),
            preconditioner=M, max_iterations=20000,
        )  # fmt: skip
        iterations, numbers, study = asked
        rows[name] = {
            "columns": 0 if factor is None else factor.provenance.columns,
            "numbers a parameter": 0 if factor is None else numbers_of(factor) / n,
            "numbers asked": numbers,
            "relative error": None if factor is None else relative_error(factor, H),
            "CG iterations": solved.iterations,
            "at most": iterations,
            "study": study,
            "shift over the damping": M.shift / damping if isinstance(M, Inverse) else None,
        }

    row("HBS, k = 8, m = 32", compress(H, 8, format="hbs", leaf_size=32), (5, 50, 1))
    row("HODLR, k = 8, m = 32", compress_hodlr(H, Tree.halves(n, 32), rank=8))
    row("rank 50", compress(H, 50), (None, 50, 552))
    row("no preconditioner", None)
    return rows


# 7. A large network


def autoencoder(images: int = 10_000, layouts=("replicated", "rows")) -> dict[str, dict]:
    """Gauss-Newton matrix of the MNIST autoencoder 784-1000-500-250-30, by 300 columns on 2 ranks.

    Outside the products is all that `compress` does but for these; shares are the largest of the
    ranks', of seconds and of processor time.
    """
    from hesscomp.curvature.tensorflow import set_threads

    set_threads(1)
    from hesscomp.curvature.gauss_newton import GaussNewtonOperator
    from hesscomp.datasets import from_arrays, load_dataset
    from hesscomp.parallel.resources import peak_bytes, reset_peak, resident_bytes
    from hesscomp.parallel.rows import row_range
    from hesscomp.parallel.world import World
    from hesscomp.problems.catalogue import NAMED_PROBLEMS
    from hesscomp.problems.keras import KerasProblem
    from hesscomp.problems.models import build_network

    world, named = World(), NAMED_PROBLEMS["mnist-autoencoder"]
    if world.size != 2:
        raise SystemExit("mpiexec -n 2 python scripts/bench/hierarchical.py autoencoder")
    name = "mnist" if os.environ.get("HESSCOMP_DATA") else "mnist-sample"
    shard = load_dataset(name, world, targets=named.targets).train
    first, last = row_range(min(images, shard.total), world.rank, world.size)
    data = from_arrays(shard.X[: last - first], None, world, name, targets=named.targets)
    network = build_network(named.network, "mnist-autoencoder", 0)
    problem = KerasProblem(network, named.loss, data, world, memory=2**29)
    rows = {}
    for layout in layouts:
        H = GaussNewtonOperator(problem, problem.initial)
        H = H.in_rows() if layout == "rows" else H
        seconds = timed_products(H)
        world.gather(None)
        reset_peak()
        idle = resident_bytes()
        began = time.perf_counter(), time.process_time()
        factor = compress(
            H, 8, format="hbs", leaf_size=16, sketch_columns=292, layout=layout, ordering="neuron"
        )
        whole = time.perf_counter() - began[0], time.process_time() - began[1]
        inside = np.sum(seconds, axis=0)
        found = np.max(world.gather([*(1 - inside / whole), peak_bytes() - idle]), axis=0)
        rows[f"n = {H.n:,}, {problem.rows:,} images, {layout}, 2 ranks"] = {
            "columns": factor.provenance.columns,
            "numbers a parameter": factor.numbers / H.n,
            "relative error": factor.certificate.relative_error,
            "seconds": whole[0],
            "outside the products": found[0],
            "of processor time": found[1],
            "at most": 0.25,
            "GiB a rank": found[2] / 2**30,
        }
        del factor, H
    return rows if world.rank == 0 else {}


PARTS: dict[str, Callable[..., dict[str, dict]]] = {
    "answers": answers,
    "growth": growth,
    "updates": updates,
    "networks": networks,
    "deconvolution": deconvolution,
    "shallow": shallow,
    "autoencoder": autoencoder,
}
RANKS = {"autoencoder": 2}

if __name__ == "__main__":
    main()
