"""Random features and quadratic elements beside the network that `pde.py front` trains.

    python scripts/bench/front_baselines.py

Their rows stand in the table of that part, with as many unknowns as the network has. Features are
fitted by one least-squares solve at the points that the network is trained at, with their weights.
"""

import time

import finite_elements as fem
import numpy as np
import pde
import scipy.linalg
import tables
from threadpoolctl import threadpool_limits

FEATURES, CELLS = 128, 5
ACTIVATIONS = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}


def main() -> None:
    options = tables.parts_parser(__doc__, PARTS).parse_args()
    with threadpool_limits(1):
        tables.run_parts(options, PARTS, "pde", pde.CODE)


def front() -> dict[str, dict]:
    rows = {f"{FEATURES + 1} frozen {name} features": fitted(name) for name in ACTIVATIONS}
    u, basis, unknowns, seconds = fem.projection(2, CELLS, pde.front_exact)
    rows["P2, as many unknowns"] = row(unknowns, seconds, lambda X: fem.values(u, basis, X))
    return rows


def fitted(activation: str) -> dict:
    begun, f = time.process_time(), ACTIVATIONS[activation]
    W, b = pde.random_units(2, FEATURES)
    X, weights = pde.UNIT.gauss(24, 3).rows(0, 9 * 24**2)
    root = np.sqrt(weights)
    A = np.column_stack([f(X @ W + b), np.ones(len(X))])
    c = scipy.linalg.lstsq(root[:, None] * A, root * pde.front_exact(X), cond=1e-14)[0]
    seconds = time.process_time() - begun
    return row(FEATURES + 1, seconds, lambda X: f(X @ W + b) @ c[:-1] + c[-1])


def row(unknowns: int, seconds: float, values) -> dict:
    T = np.random.default_rng(99).uniform(size=(pde.CHECKS, 2))
    error = pde.relative(values(T), pde.front_exact(T))
    return {"n": unknowns, "seconds": seconds, "error": f"{error:.1e}"}


PARTS = {"front": front}


if __name__ == "__main__":
    main()
