"""Networks that solve partial differential equations.

    python scripts/bench/jets.py engine          # a minute: what the derivatives' engines cost
    python scripts/bench/jets.py ranks           # a minute: the layer-wise engine on two ranks

`engine` compares the layer-wise engine of jets with nested automatic differentiation (the generic
engine) and with the network's matrix products alone, at the machine's own rate for them. For
each of what is asked for, the engines take turns, in processor time of one thread; a ratio is the
median over the rounds. `ranks` starts this script again on one and on two ranks, in turns, and
takes wall time.
"""

import argparse
import json
import time
from itertools import pairwise

import numpy as np
import record

WIDTHS = 2, 64, 64, 1
ROWS, COLUMNS = 3_000, 16  # interior points, columns of a block product
CODE = (*record.ENGINE,)
TURNS = 5  # starts on each number of ranks


def poisson(engine: str, residuals: int = 1, *, everyone: bool = False):
    """The residual of Poisson's equation, Laplacian u = f, in a network without conditions.

    Of three residuals a point, two are the slopes of u. Gauss-Newton products then go through all
    channels; with one residual they are cheaper by the rows of the Jacobian.
    """
    from hesscomp.curvature.losses import FunctionLoss
    from hesscomp.curvature.networks.engine import cut
    from hesscomp.curvature.tensorflow import keras, tf
    from hesscomp.parallel.world import World
    from hesscomp.problems.jet_engine import jet_engine
    from hesscomp.problems.network import NetworkProblem
    from hesscomp.problems.rows import RowSet

    world = World.of_job() if everyone else World.serial()
    layers, (d, *hidden, last) = keras.layers, WIDTHS
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [layers.Input((d,)), *(layers.Dense(h, "tanh") for h in hidden), layers.Dense(last)]
    )
    X = np.random.default_rng(0).random((ROWS, d))
    y = np.sin(np.pi * X).prod(1)

    class Squared(FunctionLoss):
        convex = True

        def root(self, output, y):
            taken = tf.one_hot([d + 1, *range(1, residuals)], d + 2, dtype=output.dtype)
            return tf.repeat(taken[None], tf.shape(output)[0], 0)

    def squares(y, F):
        slopes = tf.reduce_sum(F[:, 1:residuals] ** 2, 1)
        return ((F[:, d + 1] - y) ** 2 + slopes) / 2

    loss = Squared(squares, "squared residual")

    class Poisson(NetworkProblem):
        name = "poisson"

        def __init__(self):
            rows = [np.array_split(part, world.size)[world.rank] for part in (X, y)]
            super().__init__(RowSet.of(tuple(rows), world), world, 0, "float64", 2**30)
            variables = model.trainable_variables
            pieces = cut(variable.shape for variable in variables)
            self._take_loss(loss, None)
            chosen = jet_engine(model, pieces, loss, engine=engine)
            initial = np.concatenate([np.ravel(variable) for variable in variables])
            self._differentiate(chosen, pieces, [v.path for v in variables], initial)

    return Poisson()


def matrix_products(k: int):
    """The products of a Gauss-Newton product's matrices with k columns, and nothing else."""
    from hesscomp.curvature.tensorflow import tf

    rng, calls, rows = np.random.default_rng(2), [], (WIDTHS[0] + 2) * ROWS
    make = lambda *shape: tf.constant(rng.standard_normal(shape))  # noqa: E731
    for place, (d, h) in enumerate(pairwise(WIDTHS)):
        x, tW, t_delta = make(rows, d), make(d, k * h), make(rows, k * h)
        calls += [(x, tW, False, False), (x, t_delta, True, False)]
        if place:
            tx, t_rows, W = make(rows * k, d), make(rows * k, h), make(d, h)
            calls += [(tx, W, False, False), (t_rows, W, False, True)]
    product = tf.function(tf.matmul, reduce_retracing=False)
    return lambda: [product(a, b, transpose_a=s, transpose_b=t) for a, b, s, t in calls]


def timed(candidates: dict, rounds: int) -> dict:
    """Seconds of processor time of each candidate in each round; they take turns."""
    for call in candidates.values():
        call()
    seconds = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return {name: np.array(found) for name, found in seconds.items()}


def engine(options) -> None:
    from hesscomp.curvature.tensorflow import set_threads, tf

    set_threads(1)
    products, three = matrix_products(COLUMNS), "Gauss-Newton, 3 residuals a point"
    candidates = {name: {"products alone": products} for name in ("Gauss-Newton", three)}
    for name in ("layer-wise", "generic"):
        problem = poisson(name)
        x = problem.initial
        V = tf.constant(np.random.default_rng(1).standard_normal((problem.n, COLUMNS)))
        G, H = problem.gauss_newton(x), problem.linearize(x)
        G3 = poisson(name, 3).gauss_newton(x)
        for title, call in {
            "Gauss-Newton": lambda G=G, V=V: G.product(V),
            three: lambda G=G3, V=V: G.product(V),
            "Hessian": lambda H=H, V=V: H.product(V),
            "loss and gradient": lambda p=problem, x=x: p.loss_and_gradient(x),
            "loss": lambda p=problem, x=x: p.objective(x),
        }.items():
            candidates.setdefault(title, {})[name] = call
    for title, calls in candidates.items():
        seconds = timed(calls, options.rounds)
        for name, found in seconds.items():
            print(f"{title:34s} {name:16s} {1e3 * np.median(found):9.1f} ms")
        quick, slow = seconds["layer-wise"], seconds["generic"]
        values = {"generic / layer-wise": np.median(slow / quick)}
        if "products alone" in seconds:
            values["layer-wise / products alone"] = np.median(quick / seconds["products alone"])
        print(title, {head: round(value, 2) for head, value in values.items()})
        if not options.trial:
            record.save("pde-engines", title, values, CODE)


def ranks(options) -> None:
    """Measure a product and a gradient, each with its reduction, on one and on two ranks."""
    words = "alone", "--rounds", options.rounds
    runs = [[record.answer_of(count, *words) for count in (1, 2)] for _ in range(TURNS)]
    for title in runs[0][0]:
        one, two = np.median([[run[title] for run in pair] for pair in runs], axis=0)
        values = {"1 rank, ms": 1e3 * one, "2 ranks, ms": 1e3 * two, "ratio": one / two}
        print(title, {head: round(value, 2) for head, value in values.items()})
        if not options.trial:
            record.save("pde-engines-ranks", title, values, CODE)


def alone(options) -> None:
    """Print the seconds of each call on these ranks: medians, of which all ranks wait for all."""
    from hesscomp.curvature.gauss_newton import GaussNewtonOperator
    from hesscomp.curvature.tensorflow import set_threads

    set_threads(1)
    problem = poisson("layer-wise", everyone=True)
    x, V = problem.initial, np.random.default_rng(1).standard_normal((problem.n, COLUMNS))
    G, seconds = GaussNewtonOperator(problem, x), {}
    for title, call in {
        f"Gauss-Newton, {COLUMNS} columns": lambda: G @ V,
        "loss and gradient": lambda: problem.objective_and_gradient(x),
    }.items():
        call()
        times = []
        for _ in range(options.rounds):
            problem.world.sum(np.zeros(1))
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        seconds[title] = float(np.median(times))
    if problem.world.rank == 0:
        print(json.dumps(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, words in (
        ("engine", engine, "what the engines of jets cost"),
        ("ranks", ranks, "what two ranks gain"),
        ("alone", alone, "what `ranks` starts"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("--rounds", type=int, default=7, help="of which the median is taken")
        record.add_option(command)
        command.set_defaults(run=run)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
