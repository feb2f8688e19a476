"""How far the influence of rows holds: against true refits without them.

    python scripts/bench/sensitivity.py              # three minutes
    python scripts/bench/sensitivity.py network      # one of the parts: adult, network

Rows are left out one by one, and the objective is minimised again. A value is the correlation of
the predicted changes of the mean test loss with the true ones: by the influence, and by the
left-out step, which corrects it by the row's leverage. The rows are the most influential ones, and
random ones.

`adult` is logistic regression, refitted by hesscomp's own Newton method. `network` is a network of
49 parameters (4-8-1, tanh) on 200 rows, refitted by SciPy's trust-exact with TensorFlow's
derivatives, which share no code with hesscomp.
"""

import numpy as np
from record import ENGINE
from tables import parts_parser, run_parts

CODE = ("hesscomp/influence", *ENGINE)
ADULT, NETWORK = 100, 20  # rows that are left out, of each kind
SETTINGS = [
    ("mean_squared_error", 0.1), ("mean_squared_error", 0.01), ("mean_squared_error", 0.001),
    ("binary_crossentropy", 0.01), ("binary_crossentropy", 0.001),
]  # fmt: skip


def adult() -> dict[str, dict]:
    import hesscomp as hc
    from hesscomp.datasets import from_arrays
    from hesscomp.parallel.world import World

    world = World.serial()
    data = hc.load_data("adult", world, dtype="float64")
    X, b = data.train.X, data.train.y
    X = X.toarray() if hasattr(X, "toarray") else X

    def minimum(X, b, ridge, x=None):
        problem = hc.LogisticRegression(from_arrays(X, b, world), ridge=ridge, dtype="float64")
        return problem, hc.newton(problem, x, tolerance=1e-12, solver="direct").x

    problem, x = minimum(X, b, 1e-3)
    test = problem.over(data)
    found = hc.sensitivity(problem, x, test=data, leverage=True, leading=ADULT)

    def change(i):
        rows = np.arange(len(b)) != i
        _, without = minimum(X[rows], b[rows], 1e-3 * len(b) / (len(b) - 1), x)
        return test.objective(without) - test.objective(x)

    return {"Adult, ridge 0.001": compared(found, change, len(b), ADULT)}


def network() -> dict[str, dict]:
    return {f"{loss}, ridge {ridge:g}": small(loss, ridge) for loss, ridge in SETTINGS}


def small(loss: str, ridge: float) -> dict:
    import hesscomp as hc
    from hesscomp.curvature.tensorflow import keras

    rng = np.random.default_rng(0)
    X, T = rng.standard_normal((200, 4)), rng.standard_normal((100, 4))

    def labels(X):
        values = np.sin(X[:, 0]) * X[:, 1] + 0.5 * X[:, 2] + 0.3 * rng.standard_normal(len(X))
        return values if loss == "mean_squared_error" else (values > 0).astype(float)

    y, t = labels(X), labels(T)
    keras.utils.set_random_seed(0)
    keras.config.set_floatx("float64")
    head = None if loss == "mean_squared_error" else "sigmoid"
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, "tanh"), layers.Dense(1, activation=head)]
    )
    start = np.concatenate([np.ravel(w) for w in model.get_weights()])
    all_rows = np.ones(len(X), bool)
    x = refitted(loss, ridge, X, y, start, all_rows)
    problem = hc.KerasProblem(model, loss, (X, y[:, None]), ridge=ridge, dtype="float64")
    found = hc.sensitivity(
        problem, x, test=(T, t[:, None]), leverage=True, leading=NETWORK, gradient_limit=1e-6
    )

    def change(i):
        rows = np.arange(len(X)) != i
        without = refitted(loss, ridge, X, y, x, rows)
        return mean_loss(loss, without, T, t) - mean_loss(loss, x, T, t)

    about = {
        "effective parameters": float(found.statistics.effective_parameters),
        "largest leverage": float(found.statistics.leverage.max()),
    }
    return about | compared(found, change, len(X), NETWORK)


def compared(found, change, m: int, count: int) -> dict:
    """Return how predictions and true changes are correlated, of two kinds of rows."""
    values = {}
    random = np.random.default_rng(0).choice(m, count, replace=False)
    for kind, rows in (("most influential", found.chosen[:count]), ("random", random)):
        true = np.array([change(i) for i in rows])
        for name, predicted in (
            ("influence", -found.influence[:, 0]),
            ("left-out step", found.statistics.left_out[:, 0]),
        ):
            values[f"{kind}, {name}"] = float(np.corrcoef(predicted[rows], true)[0, 1])
    return values


def losses(loss: str, x, X, y):
    """The rows' losses of the network in plain TensorFlow."""
    import tensorflow as tf

    W, b, v, c = tf.reshape(x[:32], (4, 8)), x[32:40], tf.reshape(x[40:48], (8, 1)), x[48]
    out = (tf.tanh(X @ W + b) @ v)[:, 0] + c
    if loss == "mean_squared_error":
        return (out - y) ** 2
    return tf.nn.sigmoid_cross_entropy_with_logits(y, out)


def mean_loss(loss: str, x, X, y) -> float:
    return float(np.mean(losses(loss, x, X, y)))


def refitted(loss: str, ridge: float, X, y, start, rows) -> np.ndarray:
    """Return the minimum over some rows: the sum of their losses over m, and the ridge."""
    import tensorflow as tf
    from scipy.optimize import minimize

    X, y, m = tf.constant(X[rows]), tf.constant(y[rows]), len(X)

    @tf.function
    def derivatives(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                f = tf.reduce_sum(losses(loss, x, X, y)) / m + ridge / 2 * tf.reduce_sum(x * x)
            g = inner.gradient(f, x)
        return f, g, outer.jacobian(g, x)

    def of(k):
        return lambda x: derivatives(tf.constant(x))[k].numpy()

    def both(x):
        f, g, _ = derivatives(tf.constant(x))
        return float(f), g.numpy()

    done = minimize(
        both, start, jac=True, hess=of(2), method="trust-exact",
        options={"gtol": 1e-10, "maxiter": 2000},
    )  # fmt: skip
    x = done.x
    for _ in range(3):  # trust regions stop where the objective's rounding hides the decrease
        _, g, H = (part.numpy() for part in derivatives(tf.constant(x)))
        x = x - np.linalg.solve(H, g)
    _, g, H = (part.numpy() for part in derivatives(tf.constant(x)))
    if np.linalg.norm(g) > 1e-10 or np.linalg.eigvalsh(H)[0] <= 0:
        raise SystemExit(f"no minimum: ||g|| = {np.linalg.norm(g):.1e}")
    return x


PARTS = {"adult": adult, "network": network}

if __name__ == "__main__":
    run_parts(parts_parser(__doc__, PARTS).parse_args(), PARTS, "sensitivity", CODE)
