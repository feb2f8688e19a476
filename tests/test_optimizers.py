"""Optimizers on problems with known answers, and the loop that they share."""

import time

import pytest

from hesscomp.datasets import load_dataset
from hesscomp.optimizers.batches import Sampling
from hesscomp.optimizers.drsom import DRSOM
from hesscomp.optimizers.gauss_newton import GaussNewton
from hesscomp.optimizers.hessian_free import HessianFree
from hesscomp.optimizers.loop import Stopping, train
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.problems.logistic import LogisticRegression

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def adult(world):
    return load_dataset("adult", world)


@pytest.fixture(scope="module")
def problem(world, adult):
    return LogisticRegression(adult, world, ridge=1e-3, dtype="float64")


ADULT = 0.326523399290756


def test_drsom(world, problem):
    for o in [
        DRSOM(),
        NewtonCG(),
        NewtonCG(preconditioner="none"),
        NewtonCG("trust-region"),
        NewtonCG("trust-region", preconditioner="none"),
        NewtonCG(solver="saddle-free"),
        HessianFree(),
        HessianFree(damping=1e-2),
        HessianFree(preconditioner="low-rank"),
        HessianFree(preconditioner="none"),
        GaussNewton(),
    ]:
        t = time.time()
        r = train(problem, o, stopping=Stopping(max_steps=100, gradient_tolerance=1e-8))
        row = r.history.rows[-1]
        cg = r.history.column("cg_iterations")
        print(
            o.describe(),
            r.steps,
            r.reason,
            r.gradient_norm,
            r.best_objective - ADULT,
            row["passes"],
            row["columns"],
            cg[1:].sum(),
            time.time() - t,
        )
    r = train(
        problem,
        NewtonCG(),
        sampling=Sampling(curvature=0.1),
        stopping=Stopping(max_steps=30, gradient_tolerance=1e-8),
    )
    row = r.history.rows[-1]
    print(
        r.steps, r.reason, r.gradient_norm, r.best_objective - ADULT, row["passes"], row["columns"]
    )
