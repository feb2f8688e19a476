"""Small regression problems with targets of each kind, for the estimators."""

import numpy as np

ROWS, N = 130, 5


def whole(kind, least_weight=0):
    """Return rows, targets of a kind, and weights."""
    rng = np.random.default_rng(6)
    X = rng.standard_normal((ROWS, N))
    t = X @ rng.standard_normal((N, 3)) / 2 + [0.5, 0, -0.2]
    y = {
        "two": (rng.random(ROWS) < 1 / (1 + np.exp(-t[:, 0]))).astype(int),
        "three": np.array(["c", "a", "b"])[np.argmax(t + rng.gumbel(size=t.shape), axis=1)],
        "count": rng.poisson(np.exp(t[:, 0])).astype(float),
        "positive": rng.gamma(2, np.exp(t[:, 0]) / 2),
        "value": t[:, 0] + rng.standard_normal(ROWS),
    }[kind]
    return X, y, rng.integers(least_weight, 3, ROWS).astype(float)
