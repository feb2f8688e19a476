"""CG products of Newton's method by preconditioner, each sketch's columns beside them.

    python scripts/bench/preconditioners.py     # two minutes

Adult at ridge 1/m, to ||g|| <= 1e-9; and the 784-15-10 network on the packaged sample of MNIST,
Gauss-Newton matrix, ridge 1/m. The network has no optimum to run to, so the goal is a rule: the
objective that CG without a preconditioner reaches in 30 steps. Counts are those of the history and
depend on the machine by its rounding alone.
"""

import argparse

import numpy as np
import record

from hesscomp.datasets import load_dataset
from hesscomp.optimizers.loop import Stopping, TrainResult, train
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.parallel.world import World
from hesscomp.problems.catalogue import NAMED_PROBLEMS
from hesscomp.problems.keras import KerasProblem
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.problems.models import build_network

KINDS = ("none", "diagonal", "low-rank")
STEPS = 30  # of CG without a preconditioner, which set the network's goal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    record.add_option(parser)
    options = parser.parse_args()
    world = World()
    data = load_dataset("adult", world)
    adult = LogisticRegression(data, world, ridge=1 / data.rows, dtype="float64")
    rows = compare(adult, {"rank": 60}, {"gradient_tolerance": 1e-9})
    named = NAMED_PROBLEMS["mnist-mlp"]
    data = load_dataset("mnist-sample", world, targets=named.targets)
    model = build_network(named.network, "mnist-mlp", 0)
    network = KerasProblem(model, named.loss, data, world, ridge=1 / data.rows)
    settings = {"rank": 150, "curvature": "gauss-newton"}
    plain = train(
        network, NewtonCG(preconditioner="none", **settings), stopping=Stopping(max_steps=STEPS)
    )
    rows |= compare(network, settings, {"target": plain.best_objective})
    for row, values in rows.items() if world.rank == 0 else ():
        print(row, values)
        if not options.trial:
            record.save("preconditioners", row, values, (*record.OPTIMIZERS, *record.COMPRESSION))


def compare(problem, options: dict, goal: dict[str, float]) -> dict[str, dict]:
    """The table's rows."""
    rows, plain = {}, None
    ((name, value),) = goal.items()
    for kind in KINDS:
        optimizer = NewtonCG(preconditioner=kind, **options)
        result = train(problem, optimizer, stopping=Stopping(max_steps=300, **goal))
        products = total(result, "cg_iterations")
        plain = plain or products
        missed = "" if result.converged else " (missed)"
        rows[f"{problem.name}, n = {problem.n:,}, {kind}"] = {
            "goal": f"{name.replace('_', ' ')} {value:.4g}{missed}",
            "steps": result.steps,
            "CG products": products,
            "none's over these": plain / products,
            "sketch columns": total(result, "sketch_columns"),
        }
    return rows


def total(result: TrainResult, name: str) -> int:
    return int(np.nansum(result.history.column(name)))


if __name__ == "__main__":
    main()
