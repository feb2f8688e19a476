"""Block products of network curvature: hesscomp's engines against the machine's own products.

    python scripts/bench/engine.py                                  # all networks, ten minutes
    python scripts/bench/engine.py --engines layer-wise --rounds 3  # three minutes
    python scripts/bench/engine.py --network mlp --dtype float64
    python scripts/bench/engine.py --peer /path/to/python           # of an environment with
                                                                    # torch and curvlinops

Prints milliseconds per column. hesscomp and the peer are two processes that take turns, round by
round, so that what else happens on the machine meets both; a ratio is the median over the rounds.
The floor is the products of the network's matrices alone, at the machine's own rate for them;
"first layer alone" is only the two of them that the images take part in.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import record

NETWORKS = {  # rows, columns of a block
    "mlp": (10_000, 32),
    "autoencoder": (500, 16),
    "cnn": (200, 8),
}
TITLES = {"mlp": "784-15-10", "autoencoder": "autoencoder", "cnn": "4-layer CNN"}
WIDTHS = {
    "mlp": (784, 15, 10),
    "autoencoder": (784, 1000, 500, 250, 30, 250, 500, 1000, 784),
}
CHANNELS = ((32, 32), (64, 64))  # of the CNN's 3 x 3 convolutions, each pair before a pooling


def data(name: str, dtype: str):
    """Images and labels (classes, or the images themselves)."""
    rng = np.random.default_rng(0)
    rows, _ = NETWORKS[name]
    X = rng.random((rows, 784)).astype(dtype)
    return X, X if name == "autoencoder" else rng.integers(0, 10, rows)


def keras_model(name: str):
    from hesscomp.curvature.tensorflow import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    if name in WIDTHS:
        first, *hidden, last = WIDTHS[name]
        stack = [layers.Dense(width, activation="sigmoid") for width in hidden]
        return keras.Sequential([layers.Input((first,)), *stack, layers.Dense(last)])
    stack = [layers.Input((28, 28, 1))]
    for pair in CHANNELS:
        stack += [layers.Conv2D(c, 3, padding="same", activation="relu") for c in pair]
        stack.append(layers.MaxPooling2D(2))
    return keras.Sequential([*stack, layers.Flatten(), layers.Dense(10)])


def hesscomp_candidates(name: str, dtype: str, threads: int, engines: list[str]) -> dict:
    from hesscomp.curvature.gauss_newton import GaussNewtonOperator
    from hesscomp.curvature.tensorflow import set_threads, tf

    set_threads(threads)
    from hesscomp.parallel.world import World
    from hesscomp.problems.keras import KerasProblem

    world, (X, y), (rows, k) = World.serial(), data(name, dtype), NETWORKS[name]
    loss = "sigmoid-cross-entropy" if name == "autoencoder" else "softmax-cross-entropy"
    candidates = {}
    for engine in engines:
        problem = KerasProblem(keras_model(name), loss, (X, y), world, dtype=dtype, engine=engine)
        x = problem.initial
        V = tf.constant(np.random.default_rng(1).standard_normal((problem.n, k)), dtype)
        for title, shard in (
            ("Hessian", problem.linearize(x)),
            ("Gauss-Newton", GaussNewtonOperator(problem, x)._shard),
        ):
            candidates[f"{engine} {title}"] = lambda shard=shard, V=V: shard.product(V)
    candidates["floor"] = floor(name, rows, k, dtype)
    if name == "mlp":
        candidates["first layer alone"] = floor(name, rows, k, dtype, layers=1)
    return candidates


def floor(name: str, rows: int, k: int, dtype: str, layers: int | None = None):
    """The products of a Hessian product with k columns, and nothing else; of the first layers."""
    from hesscomp.curvature.tensorflow import tf

    shapes = (
        [(rows, *pair) for pair in zip(WIDTHS[name], WIDTHS[name][1:], strict=False)]
        if (name in WIDTHS)
        else convolution_shapes(rows)
    )
    rng = np.random.default_rng(2)
    make = lambda *shape: tf.constant(rng.standard_normal(shape), dtype)  # noqa: E731
    calls = []
    for place, (b, d, h) in enumerate(shapes[:layers]):
        x, tW, t_delta = make(b, d), make(d, k * h), make(b, k * h)
        calls += [(x, tW, False, False), (x, t_delta, True, False)]
        if place:
            tx, W, delta = make(b * k, d), make(d, h), make(b, h)
            t_rows, turned = make(b * k, h), make(h, k * d)
            calls += [
                (tx, W, False, False),
                (t_rows, W, False, True),
                (delta, turned, False, False),
            ]
            calls += [(make(b, k * d), delta, True, False)]
    product = tf.function(tf.matmul, reduce_retracing=False)
    return lambda: [product(a, b, transpose_a=s, transpose_b=t) for a, b, s, t in calls]


def convolution_shapes(rows: int):
    """The CNN's convolutions as matrix products of as many operations."""
    shapes, side, before = [], 28, 1
    for pair in CHANNELS:
        for channels in pair:
            shapes.append((rows * side * side, 9 * before, channels))
            before = channels
        side //= 2
    return [*shapes, (rows, side * side * before, 10)]


def peer_candidates(name: str, dtype: str, threads: int) -> dict:
    """curvlinops on PyTorch."""
    import torch
    from curvlinops import GGNLinearOperator, HessianLinearOperator

    torch.set_num_threads(threads)
    torch.set_default_dtype(getattr(torch, dtype))
    torch.manual_seed(0)
    nn, (X, y), (_, k) = torch.nn, data(name, dtype), NETWORKS[name]
    stack = []
    if name in WIDTHS:
        for d, h in zip(WIDTHS[name], WIDTHS[name][1:], strict=False):
            stack += [nn.Linear(d, h), nn.Sigmoid()]
        stack.pop()
    else:
        before, X = 1, X.reshape(-1, 1, 28, 28)
        for pair in CHANNELS:
            for channels in pair:
                stack += [nn.Conv2d(before, channels, 3, padding="same"), nn.ReLU()]
                before = channels
            stack.append(nn.MaxPool2d(2))
        stack += [nn.Flatten(), nn.Linear(49 * before, 10)]
    loss = nn.BCEWithLogitsLoss() if name == "autoencoder" else nn.CrossEntropyLoss()
    model = nn.Sequential(*stack)
    parameters = list(model.parameters())
    rows = [(torch.tensor(X), torch.tensor(y))]
    V = torch.randn(sum(p.numel() for p in parameters), k)
    candidates = {}
    for title, kind in (("Hessian", HessianLinearOperator), ("Gauss-Newton", GGNLinearOperator)):
        operator = kind(model, loss, parameters, rows, check_deterministic=False)
        candidates[f"curvlinops {title}"] = lambda operator=operator: operator @ V
    hessian = HessianLinearOperator(model, loss, parameters, rows, check_deterministic=False)
    candidates["curvlinops Hessian, one by one"] = lambda: [hessian @ v for v in V.T[:2]]
    return candidates


def serve(options) -> None:
    """Time every candidate for each line that comes in: the second of two runs in a row.

    The first finds caches and threads as another candidate, or the other side, left them.
    """
    setting = options.network, options.dtype, options.threads
    if options.serve == "peer":
        candidates = peer_candidates(*setting)
    else:
        candidates = hesscomp_candidates(*setting, options.engines)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    for candidate in candidates.values():
        candidate()
    k = NETWORKS[options.network][1]
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        times = {}
        for title, candidate in candidates.items():
            columns = 2 if title.endswith("one by one") else k
            candidate()
            begun = clock()
            candidate()
            times[title] = (clock() - begun) / columns * 1e3
        print(json.dumps(times), flush=True)


def compare(name: str, options) -> None:
    pythons = {"hesscomp": sys.executable, "peer": options.peer}
    servers = [
        subprocess.Popen(
            [python, __file__, "--serve", side, "--network", name, "--dtype", options.dtype,
             "--threads", str(options.threads), "--clock", options.clock,
             "--engines", *options.engines],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for side, python in pythons.items()
        if python
    ]  # fmt: skip
    for server in servers:
        if not server.stdout.readline():
            sys.exit("a side of the comparison did not start")
    rounds = []
    for _ in range(options.rounds):
        times = {}
        for server in servers:
            print(file=server.stdin, flush=True)
            times |= json.loads(server.stdout.readline())
        rounds.append(times)
    for server in servers:
        server.stdin.close()
        server.wait()
    rows, k = NETWORKS[name]
    print(f"\n{name}, {rows} rows, {k} columns, {options.dtype}: ms per column ({options.clock}),")
    print(f"ratios to the floor and to the layer-wise Hessian (medians of {options.rounds} rounds)")
    columns = {title: np.array([times[title] for times in rounds]) for title in rounds[0]}
    middle = {title: float(np.median(times)) for title, times in columns.items()}
    over = {
        title: {other: float(np.median(times / columns[other])) for other in columns}
        for title, times in columns.items()
    }
    for title in columns:
        print(
            f"{title:32s} {middle[title]:8.2f} {over[title]['floor']:7.2f} "
            f"{over[title]['layer-wise Hessian']:7.2f}",
            flush=True,
        )
    if options.trial:
        return
    values = {
        "Hessian, ms a column": middle["layer-wise Hessian"],
        "its products alone": middle["floor"],
        "over its products": over["layer-wise Hessian"]["floor"],
        "Gauss-Newton, ms a column": middle["layer-wise Gauss-Newton"],
    }
    if "generic Hessian" in columns:
        values["generic engine over ours"] = over["generic Hessian"]["layer-wise Hessian"]
    if options.peer:
        for head, theirs, kind in (
            ("curvlinops over ours", "curvlinops Hessian", "Hessian"),
            ("its Gauss-Newton over ours", "curvlinops Gauss-Newton", "Gauss-Newton"),
            ("its Hessian, one by one", "curvlinops Hessian, one by one", "Hessian"),
        ):
            values[head] = over[theirs][f"layer-wise {kind}"]
    row = f"{TITLES[name]}, {rows:,} rows, {k} columns, {options.dtype}, {options.threads} thread"
    row += "s" * (options.threads > 1) + ", processor time" * (options.clock == "cpu")
    record.save("engine", row, values, record.ENGINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=(*NETWORKS, "all"), default="all")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine"
    )
    parser.add_argument(
        "--engines", nargs="+", choices=("layer-wise", "generic"),
        default=["layer-wise", "generic"], help="the layer-wise one must be among them",
    )  # fmt: skip
    parser.add_argument("--peer", metavar="PYTHON", help="with torch and curvlinops")
    record.add_option(parser)
    parser.add_argument("--serve", choices=("hesscomp", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options)
    for name in NETWORKS if options.network == "all" else (options.network,):
        compare(name, options)


if __name__ == "__main__":
    main()
