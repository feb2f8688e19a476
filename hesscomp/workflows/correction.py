"""Correct a factor for new data or a new point."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hesscomp.compression import FactorOptions, correct
from hesscomp.compression.compress import KRYLOV
from hesscomp.errors import InputError
from hesscomp.factors import Factor
from hesscomp.options import option, values
from hesscomp.parallel.world import World
from hesscomp.workflows.curvature import POINTS, CurvatureRequest, make_curvature, read_factor
from hesscomp.workflows.output import FactorOutput, FactorResult, JournalRequest, make_factor
from hesscomp.workflows.progress import Progress, check_outputs, silent


@dataclass(frozen=True, kw_only=True)
class UpdateRequest(
    CurvatureRequest, FactorOptions, FactorOutput, JournalRequest, group="correction"
):
    """Which factor to correct, for which operator, and where to write the result."""

    krylov_alone = KRYLOV

    file: str = option(flag="file", metavar="F.h5", help="the factor to start from")
    rank: int = option(10, low=1, metavar="K", help="number of eigenpairs of H - F to add")
    max_rank: int | None = option(
        None, low=1, metavar="K", help="most eigenpairs kept of the sum; default: all"
    )
    at: str | None = option(None, metavar=POINTS, help="parameter values; default: those in F.h5")
    ridge: float | None = option(
        None, low=0, metavar="R", group="numbers", help="as for compress; default: that of F.h5"
    )

    def _check(self) -> None:
        super()._check()
        if self.run is not None and self.out is not None and _same(self.out, self.file):
            raise InputError(
                f"`out` {self.out}: is the factor that the run starts from and needs when it "
                "resumes; with `run` name another file"
            )


def _same(path: str, other: str) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


@dataclass(frozen=True)
class UpdateResult(FactorResult):
    """A factor that is up to date, and the one `before`."""

    before: Factor


def update(request: UpdateRequest, world: World, progress: Progress = silent) -> UpdateResult:
    """Add to a factor the part of an operator that it lacks; write the sum. Collective.

    Costs and memory are those of `compression.correct`.

    Raises
    ------
    InputError
        Where neither the factor nor the request has a point or a ridge, where the factor does not
        fit the operator, and for what `compress` refuses.
    """
    check_outputs(world, request.out, request.json, request.save_point)
    before = read_factor(request.file, world)
    if request.at is None and before.parameters is None:
        raise InputError(f"{request.file}: holds no point; give one, `at` zero or `at` FILE")
    if request.ridge is None and ":" not in (request.problem or ""):
        if np.isnan(before.provenance.ridge):
            raise InputError(f"{request.file}: holds no ridge; give one, `ridge` R")
        request = replace(request, ridge=before.provenance.ridge)
    curvature = make_curvature(request, world, progress, request.at or request.file)
    curvature.check_fit(before, request.file)
    # F is accurate on the test vectors that made it; the same vectors would not see its error.
    asked = values(request, FactorOptions)
    asked["seed"] = max(request.seed, before.provenance.seed) + 1
    facts = request.facts(FactorOptions) | {"seed": asked["seed"], "known factor": _digest(before)}

    def make(operator) -> Factor:
        factor = correct(operator, before, **asked)
        factor = factor if request.max_rank is None else factor.truncate(request.max_rank)
        return _named(factor, before, request.file)

    made = make_factor("update", request, curvature, make, facts, progress)
    return UpdateResult(made.factor, made.ledger, before)


def _digest(factor: Factor) -> str:
    """Return a digest of its eigenvalues, which all ranks hold."""
    return hashlib.sha256(factor.eigenvalues.tobytes()).hexdigest()


def _named(factor: Factor, before: Factor, path: str) -> Factor:
    """Return `factor` with a provenance that names the factor it was started from."""
    source = before.provenance
    facts = [f"{source.method or 'a factor'} of rank {before.rank}"]
    if source.rows >= 0:
        facts.append(f"{source.rows} rows")
    if source.data_fingerprint:
        facts.append(f"data {source.data_fingerprint[:19]}")
    method = f"{factor.provenance.method} correction of {Path(path).name} ({'; '.join(facts)})"
    return replace(factor, provenance=replace(factor.provenance, method=method))
