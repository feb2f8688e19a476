"""The simulated problems of glum's own tests, and its optima of them.

`glum.json` is from glum 3 by `GeneralizedLinearRegressor(alpha=1.0, gradient_tol=1e-13)` on
`simulated`, for each family without and with weights and offsets: the coefficients, the intercept.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from marks import serial_but
from shards import own_rows

import hesscomp as hc
from hesscomp.datasets import from_arrays

ROWS, DENSE, LEVELS = 5000, 10, 10
KNOWN = json.loads(Path(__file__).with_name("glum.json").read_text())
CASES = [(family, counted) for family in KNOWN for counted in ("plain", "weights and offsets")]


def simulated(family: str):
    """Return rows, targets, weights and offsets of glum's `simulate_mixed_data`, by its draws."""
    rng = np.random.default_rng(1)
    X = rng.normal(rng.integers(-2, 2, size=DENSE), size=(ROWS, DENSE))
    rng.choice([0, 1, -1], size=DENSE)
    rng.choice([0, 1, -1], size=0)
    levels = rng.choice(np.arange(LEVELS), size=(ROWS, 2))
    X = np.hstack([X, np.eye(LEVELS)[levels[:, 0]], np.eye(LEVELS)[levels[:, 1]]])
    coefficients = [1, 0.5, 0.1, -0.1, -0.5, -1, 0, 0, 0, 0, *rng.uniform(size=2 * LEVELS)]
    mean = np.exp(0.2 + X @ coefficients)
    draw = {"poisson": rng.poisson, "gamma": rng.gamma, "tweedie:1.5": compound_poisson}[family]
    y = draw(mean).astype(float)
    return X, y, rng.uniform(size=ROWS), np.log(rng.uniform(size=ROWS))


def compound_poisson(mean):
    """Return draws of variance mean^1.5."""
    rng = np.random.default_rng(1)
    counts, scales = rng.poisson(2 * np.sqrt(mean)), np.sqrt(mean) / 2
    return np.array([rng.gamma(1.0, s, size=c).sum() for c, s in zip(counts, scales, strict=True)])


@pytest.mark.ranks
@pytest.mark.parametrize("family, counted", serial_but(CASES[-1:], CASES))
def test_the_optimum_is_that_of_glum(world, family, counted):
    X, y, weights, offsets = simulated(family)
    rows = own_rows(world, ROWS, "uneven")
    beside = {} if counted == "plain" else {"weights": weights[rows], "offsets": offsets[rows]}
    data = from_arrays(X[rows], y[rows], world, targets="values", **beside)
    problem = hc.GeneralizedLinearModel(
        data, world, family=family, ridge=1.0, dtype="float64", intercept=True
    )
    fit = hc.newton(problem, tolerance=1e-12)
    np.testing.assert_allclose(fit.x, KNOWN[family][counted], rtol=1e-8, atol=1e-9)
