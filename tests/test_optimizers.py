"""Optimizers on problems with known answers, and the loop that they share."""

import numpy as np
import pytest

from hesscomp.datasets import load_dataset
from hesscomp.optimizers.batches import Sampling
from hesscomp.optimizers.first_order import SGD, AdaBelief, Adam
from hesscomp.optimizers.loop import Saving, Stopping, train
from hesscomp.problems.logistic import LogisticRegression

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def adult(world):
    return load_dataset("adult", world)


@pytest.fixture(scope="module")
def problem(world, adult):
    return LogisticRegression(adult, world, ridge=1e-3, dtype="float64")


ADULT = 0.326523399290756


def test_first(world, problem, shared_tmp):
    for o in (SGD(learning_rate=0.5), Adam(learning_rate=0.05), AdaBelief(learning_rate=0.05)):
        r = train(problem, o, stopping=Stopping(max_steps=200))
        print(o.name, r.best_objective - ADULT, r.history.rows[-1])
        r = train(
            problem,
            o,
            sampling=Sampling(gradient=0.05),
            stopping=Stopping(max_steps=200),
            saving=Saving(str(shared_tmp / o.name), tensorboard=True),
        )
        print(o.name, r.best_objective - ADULT, r.history.rows[-1])


def test_drsom(world, problem):
    from hesscomp.optimizers.drsom import DRSOM
    import itertools, time

    for d, c, q, k in [
        ("momentum", 2, "products", "radius"),
        ("momentum", 5, "products", "radius"),
        ("random", 3, "products", "radius"),
        ("krylov", 6, "products", "radius"),
        ("momentum", 2, "differences", "radius"),
        ("momentum", 3, "interpolation", "radius"),
        ("momentum", 2, "products", "radius-free"),
        ("momentum", 2, "products", "cubic"),
    ]:
        t = time.time()
        r = train(
            problem, DRSOM(d, c, q, k), stopping=Stopping(max_steps=300, gradient_tolerance=1e-7)
        )
        print(
            d,
            c,
            q,
            k,
            r.steps,
            r.reason,
            r.gradient_norm,
            r.best_objective - ADULT,
            r.history.rows[-1]["passes"],
            r.history.rows[-1]["words_reduced"],
            time.time() - t,
        )
