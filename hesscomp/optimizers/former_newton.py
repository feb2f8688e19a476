"""Checkpoints of `newton` from when it had a loop of its own; to go with the next version."""

from dataclasses import replace

import numpy as np

from hesscomp.compression.formats import LOW_RANK
from hesscomp.factors import Certificate
from hesscomp.optimizers.batches import Sampling
from hesscomp.optimizers.optimizer import Optimizer
from hesscomp.optimizers.options import AUTO
from hesscomp.runs.checkpoint import Checkpoint
from hesscomp.runs.history import History

FACTOR = ("eigenvalues", "eigenvectors", "rate", "fresh_rate")  # and how it has served


def upgraded(saved: Checkpoint, optimizer: Optimizer) -> Checkpoint:
    """Return such a checkpoint as one of `train` with `Newton`.

    Costs are counted from its first row on.
    """
    facts, rows, step = saved.facts, saved.history.rows, saved.step
    same = facts["options"] == _options(optimizer)
    norms = [row["gradient_norm"] for row in rows[:-1]]
    return replace(
        saved,
        arrays={**saved.arrays, "best": saved.arrays["x"]},
        state={
            "previous_norm": facts["previous"] if step else 0.0,
            "previous_objective": rows[-2]["objective"] if step else np.nan,
            "least_norm": min(norms, default=np.inf),
            "idle": max(facts["idle"] - 1, 0),
            "factor_error": Certificate(saved.state["error"], saved.state["norm"]).relative_error,
            **{name: saved.state[name] for name in FACTOR},
        },
        values=_values(rows[-1]) if step else {},
        facts={
            **facts,
            "optimizer": optimizer.describe() if same else facts["options"],
            "sampling": str(Sampling()),
            "full_objective": facts["objective"],
            "best_objective": min(row["objective"] for row in rows),
            "lowest": min(row["objective"] for row in rows),
            "flattest": facts["least"],
            **dict.fromkeys(("recoveries", "idle", "lost"), 0),
            **_costs(facts, rows[0]),
        },
        history=History([_row(row, rows[0]) for row in rows[:-1]]),
    )


def _options(optimizer) -> str:
    """Return the text in which that loop kept its options; it knew low-rank factors only."""
    if optimizer.preconditioner not in (AUTO, LOW_RANK):
        return ""
    fixed = optimizer.fixed_step > 0
    return (
        f"NewtonOptions(solver={optimizer.solver!r}, tolerance={optimizer.tolerance!r}, "
        f"max_iterations=0, step={'fixed' if fixed else 'line-search'!r}, "
        f"gamma={optimizer.fixed_step if fixed else 1.0!r}, rank={optimizer.rank!r}, "
        f"oversample={optimizer.oversample!r}, seed={optimizer.seed!r}, tail={optimizer.tail!r})"
    )


def _row(row: dict[str, float], first: dict[str, float]) -> dict[str, float]:
    return {
        "step": row["iteration"],
        **{name: row[name] for name in ("objective", "gradient_norm")},
        "full_objective": row["objective"],
        **_costs(row, first),
        "seconds": row["seconds"],
        **_values(row),
    }


def _costs(now: dict, first: dict[str, float]) -> dict[str, float]:
    """Return the costs since the first row; each pass as one column: their number was not kept."""
    passes = float(now["passes"] - first["passes"])
    words = float(now["words_reduced"] - first["words_reduced"])
    return {"passes": passes, "columns": passes, "work": passes, "words": words}


def _values(row: dict[str, float]) -> dict[str, float]:
    names = ("cg_iterations", "factor_rank", "factor_error")
    return {"step_length": row["step"], **{name: row[name] for name in names}}
