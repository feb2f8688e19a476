"""Where a factor comes from and what it cost."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from hesscomp.factors.certificate import NAN
from hesscomp.operators.operator import Operator


@dataclass(frozen=True)
class Provenance:
    """What was compressed, how, and at what cost; absent numbers are NaN or -1.

    `ridge` is *not* in the eigenvalues: add it as a shift. Columns, passes, words and seconds are
    those of the compression alone. `method` also lists what was done to the factor since.
    `residual_tolerance` marked `Certificate.eigenvalue_converged`; it is absent without residuals.
    `which` are the eigenvalues that were asked for: LM (largest magnitude), LA or SA (largest or
    smallest algebraic).
    """

    problem: str = ""
    operator: str = ""
    dataset: str = ""
    data_fingerprint: str = ""
    rows: int = -1
    ridge: float = NAN
    method: str = ""
    which: str = ""
    rank_requested: int = -1
    tolerance_requested: float = NAN
    tolerance_norm: str = ""
    residual_tolerance: float = NAN
    oversample: int = -1
    power: int = -1
    seed: int = -1
    dtype: str = ""
    layout: str = "replicated"
    ranks: int = 1
    threads: int = -1
    reproducible: bool = False
    columns: int = -1
    passes: int = -1
    words_reduced: int = -1
    seconds: float = NAN

    def derived(self, how: str) -> "Provenance":
        """Return the provenance of a factor made from this one; `how` joins the method, once."""
        steps = [step for step in self.method.split(", ") if step and step != how]
        return replace(self, method=", ".join([*steps, how]))

    def differences(self, other: "Provenance") -> dict[str, tuple]:
        """Return the values of the fields in which two differ; absent numbers are equal."""
        mine, others = asdict(self), asdict(other)
        return {
            name: (value, others[name])
            for name, value in mine.items()
            if value != others[name] and not (value != value and others[name] != others[name])
        }

    def shared(self, other: "Provenance") -> "Provenance":
        """Return the fields that two agree on; others are absent, and costs too."""
        absent = {*self.differences(other), "columns", "passes", "words_reduced", "seconds"}
        return replace(self, **{name: getattr(Provenance(), name) for name in absent})


def metered(operator: Operator) -> Callable[..., Provenance]:
    """Return a function that makes the provenance of a factor of `operator`.

    The costs are those from now until it is called, with the other fields by name.
    """
    world, began, before = operator.world, time.perf_counter(), replace(operator.world.ledger)

    def made(**fields) -> Provenance:
        for cost in ("columns", "passes", "words_reduced"):
            fields[cost] = getattr(world.ledger, cost) - getattr(before, cost)
        return Provenance(
            operator=operator.name,
            dtype=operator.dtype.name,
            layout=operator.layout.name,
            ranks=world.size,
            threads=world.threads,
            reproducible=world.reproducible,
            seconds=time.perf_counter() - began,
            **fields,
        )

    return made
