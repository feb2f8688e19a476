"""When CG with cheap lone products gets a factor: not before it has shown that a sketch pays."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hesscomp.compression import compress
from hesscomp.compression.formats import LOW_RANK
from hesscomp.factors import KINDS, UNKNOWN, Diagonal, Factor, from_contents
from hesscomp.operators.operator import Operator
from hesscomp.optimizers.optimizer import State
from hesscomp.optimizers.options import AUTO
from hesscomp.optimizers.preconditioners import Refreshed, digit_rate
from hesscomp.runs.checkpoint import Checkpoint

PROBE = 8  # columns of the sketch that a factor is judged by before it is made
SKETCH_SHARE = 0.5  # of the products already spent, at most, goes into sketching
PROBE_SHARE = 0.1  # of what CG is still expected to cost, at most, goes into a probe
TRACE, LEADING = 0.1, 1 / 3  # of the trace, and of CG's leading Ritz value, that a probe must find
MIX = 0.1  # share of the diagonal in the mixed one
LEAST = 1e-12  # of a diagonal's mean, where an entry is zero
FIRST_CG = 10  # iterations of a first solve, besides those that cost as much as two sketches
TRIAL = 5  # of plain CG, which tell its rate and its leading Ritz value
# Iterations a digit of the last plain solve, of the last with the mixed diagonal, and of the last
# without a factor; the plain one's leading Ritz value; the rate at which a factor was refused; and
# what all steps have spent: iterations of CG, and columns of sketches
BARE = {
    "plain_rate": 0.0, "mixed_rate": 0.0, "bare_rate": 0.0, "leading": np.nan, "refused_rate": 0.0,
    "spent_cg": 0.0, "spent_columns": 0.0,
}  # fmt: skip
VALUES = ("sketch_columns", "mixed", "captured")  # of each step, in the history


@dataclass(frozen=True)
class Choice:
    """What preconditions one solve.

    `sketched` columns were multiplied for it, probes included; `captured` is the share of the trace
    that a probe found, NaN where there was none or the trace is unknown; `bare_rate` are the
    iterations a digit that a first factor must beat; `limit` is the most iterations.
    """

    M: Any = None
    factor: Factor | None = None
    mixed: bool = False
    sketched: int = 0
    captured: float = np.nan
    refused: bool = False
    bare_rate: float = np.inf
    limit: int | None = None

    @property
    def values(self) -> dict[str, float]:
        """For the history; `mixed` is NaN where a factor serves."""
        mixed = float(self.mixed) if self.factor is None else np.nan
        return dict(zip(VALUES, (float(self.sketched), mixed, self.captured), strict=True))


@dataclass(frozen=True)
class Forecast:
    """What solves without a factor are expected to take until the end of the run.

    `columns` are those of a factor's sketch, and `digits` those of the residual that are to be
    solved for, times the columns of a wide block that a lone product costs. `plain` and `mixed` are
    the iterations a digit of plain CG and of CG with the mixed diagonal, infinite where they were
    not tried; `refused` says that a factor was refused where CG did about as well.
    """

    columns: int
    digits: float
    plain: float
    mixed: float
    refused: bool

    @property
    def bare_rate(self) -> float:
        """Iterations a digit of the faster one."""
        return min(self.plain, self.mixed)

    @property
    def bare(self) -> float:
        """What that costs, in columns of a wide block."""
        return self.bare_rate * self.digits


class Earned(Refreshed):
    """An optimizer that starts without a factor, and sketches one where CG's own rate says so.

    So for the `preconditioner` auto and operators whose lone products are cheap beside wide blocks,
    which are those of sparse data. On dense data a first factor nearly always pays, and where a
    format or a factor is named it is wanted: it serves from the first step on, as `Refreshed` says.

    Where the diagonal is known, the first solve takes (1 - a) shift + a (diag + shift), a = 0.1
    (Hsia, Chiang and Lin 2018); else it is plain CG. Where the iterations that are then expected
    cost more than two sketches, a step of few iterations tries plain CG, for its rate and its
    leading Ritz value; later solves without a factor take that of the two which is expected to be
    faster.

    Where that still costs more than two sketches, a factor is tried. It is refused where even its
    rank times the leading value is less than a tenth of the trace, which a diagonal gives exactly;
    and else 8 columns probe a semidefinite
    operator: refused where they hold less than a tenth of the trace, or miss the leading value by
    more than a factor of 3, or where the predicted saving, 1 - sqrt((w_8 + shift) / (w_2 + shift))
    of the iterations, is below the sketch. (A lone large w_1, as of one dense column, costs CG an
    iteration.) It is tried again when the iterations a digit have doubled. A first factor that
    serves worse than none goes.

    No sketch is made, neither a first one nor one again, that would bring all sketches above half
    of the products already spent: the columns of CG, at the operator's `lone_cost`, and of earlier
    sketches. Where that alone stands against a first factor, the solve before it is bounded by the
    iterations that are missing.
    """

    def first_factor(self, n: int) -> State:
        return {**super().first_factor(n), **BARE}

    def upgraded(self, saved: Checkpoint) -> Checkpoint:
        """Fill in what checkpoints of earlier versions, which began with a factor, do not have."""
        told = saved.facts.get("optimizer")
        if isinstance(told, str) and self.preconditioner == AUTO and "leading" not in saved.state:
            told = told.replace(f"preconditioner {LOW_RANK}", f"preconditioner {AUTO}")
            saved = replace(saved, facts={**saved.facts, "optimizer": told})
        return super().upgraded(replace(saved, state={**BARE, **saved.state}))

    def remark(self, rows: list[dict[str, float]]) -> str:
        return in_words(rows[1:]) if self.by_factor else ""

    def choose(
        self, operator: Operator, state: State, horizon: float, shift: float,
        diagonal: Callable[[], np.ndarray] | None,
    ) -> Choice:  # fmt: skip
        """Return what preconditions the next solve; `diagonal` gives the operator's. Collective.

        `horizon` is the number of digits that are still to be solved for, here and later.
        """
        state = {**BARE, **state}
        kept = not from_contents(state, UNKNOWN).is_blank
        if operator.world.decide(kept or not self._is_earned(operator)):
            return self._keep(operator, state, horizon, shift)
        diagonal = None if diagonal is None else functools.cache(diagonal)  # half a product, once
        ahead = self._forecast(operator, state, horizon, shift)
        if operator.world.decide(state["bare_rate"] == 0):
            return self._start(operator, ahead, shift, diagonal)
        if not operator.world.decide(ahead.bare > 2 * ahead.columns and not ahead.refused):
            return self._without(operator, ahead, shift, diagonal)
        if operator.world.decide(np.isinf(ahead.plain)):
            return Choice(limit=TRIAL)
        if self._is_hopeless(operator, state, ahead, diagonal):
            return replace(self._without(operator, ahead, shift, diagonal), refused=True)
        probing = min(PROBE, operator.n) if operator.psd else 0
        missing = self._missing(operator, state, probing + ahead.columns)
        if operator.world.decide(missing > 0):
            return replace(self._without(operator, ahead, shift, diagonal), limit=missing)
        probed = self._probe(operator, state, ahead, shift, diagonal)
        if probed.refused:
            bare = self._without(operator, ahead, shift, diagonal)
            return replace(probed, M=bare.M, mixed=bare.mixed)
        return self._widen(operator, probed, ahead, shift)

    def _is_earned(self, operator: Operator) -> bool:
        """Return whether factors have to show that they pay."""
        return self.preconditioner == AUTO and operator.lone_cost < Operator.lone_cost

    def _missing(self, operator: Operator, state: State, columns: int) -> int:
        """Return the CG iterations that are missing before these columns may be sketched."""
        spent = state["spent_cg"] * operator.lone_cost + state["spent_columns"]
        above = (state["spent_columns"] + columns) / SKETCH_SHARE - spent
        return math.ceil(max(above, 0.0) / operator.lone_cost)

    def _forecast(self, operator: Operator, state: State, horizon: float, shift: float) -> Forecast:
        """Return what solves without a factor are expected to take."""
        plain, mixed = state["plain_rate"], state["mixed_rate"]
        return Forecast(
            columns=self.sketch_columns(operator.n),
            digits=max(horizon, 0.0) * operator.lone_cost,
            plain=_later_rate(plain, state["leading"], shift, operator.n) if plain else np.inf,
            mixed=mixed or np.inf,
            refused=state["bare_rate"] <= 2 * state["refused_rate"],
        )

    def _start(self, operator: Operator, ahead: Forecast, shift: float, diagonal) -> Choice:
        """Return the first solve's: no factor, and few iterations, for their rate."""
        limit = FIRST_CG + int(2 * ahead.columns / operator.lone_cost)
        return replace(self._without(operator, ahead, shift, diagonal), limit=limit)

    def _without(self, operator: Operator, ahead: Forecast, shift: float, diagonal) -> Choice:
        """Return the mixed diagonal, or nothing where there is none or plain CG is faster."""
        faster = np.isfinite(ahead.plain) and ahead.plain <= ahead.mixed
        if operator.world.decide(diagonal is None or bool(faster and np.isfinite(ahead.mixed))):
            return Choice()
        known = diagonal()
        M = 1 / (shift + MIX * np.maximum(known, LEAST * known.mean()))
        return Choice(Diagonal(M, certificate=UNKNOWN), mixed=True)

    def _is_hopeless(self, operator: Operator, state: State, ahead: Forecast, diagonal) -> bool:
        """Return whether a factor of a semidefinite operator is refused without a probe."""
        if not operator.psd:
            return False
        dear = min(PROBE, operator.n) > PROBE_SHARE * ahead.bare
        poor = self.rank * state["leading"] < TRACE * _trace(diagonal)
        return operator.world.decide(bool(poor or dear))

    def _probe(
        self, operator: Operator, state: State, ahead: Forecast, shift: float, diagonal
    ) -> Choice:
        """Return what 8 columns tell of a factor before it is made: whether it is refused.

        An indefinite operator is not probed, and its factor is made.
        """
        if not operator.psd:
            return Choice()
        size, leading = min(PROBE, operator.n), state["leading"]
        with operator.world.ledger.timed("compress"):
            probe = compress(
                operator, size, oversample=0, power=0, seed=self.seed, layout="replicated"
            )
        w, captured = probe.eigenvalues, float(probe.eigenvalues.sum() / _trace(diagonal))
        second = float(w[min(1, size - 1)]) + shift  # CG is done with a lone one in an iteration
        later = _later_rate(state["bare_rate"], second, shift, operator.n)
        left = np.sqrt(min((w[-1] + shift) / second, 1.0))  # of the iterations
        saved = min(ahead.bare, later * ahead.digits) * (1 - left)
        poor = captured < TRACE or w[0] + shift < LEADING * leading
        refused = operator.world.decide(bool(poor or saved < ahead.columns))
        return Choice(sketched=probe.provenance.columns, captured=captured, refused=refused)

    def _widen(self, operator: Operator, probed: Choice, ahead: Forecast, shift: float) -> Choice:
        """Return a factor of all its columns, after a probe that found that it pays."""
        factor = self.new_factor(operator)
        return replace(
            probed, M=factor.preconditioner(shift), factor=factor,
            sketched=probed.sketched + factor.provenance.columns, bare_rate=ahead.bare_rate,
        )  # fmt: skip

    def _keep(self, operator: Operator, state: State, horizon: float, shift: float) -> Choice:
        """Return the factor that there is, or that is wanted; sketched again where that pays."""
        columns = self.sketch_columns(operator.n)
        early = self._is_earned(operator) and self._missing(operator, state, columns) > 0
        factor, sketched = self.current_factor(operator, state, horizon, again=not early)
        return Choice(factor.preconditioner(shift), factor, sketched=sketched)

    def solved(self, state: State, choice: Choice, result, before: float) -> State:
        """Return the state after a solve, from a residual norm of `before`."""
        state, solve = {**BARE, **state}, (result.iterations, before, result.residual_norm)
        state["spent_cg"] += float(result.iterations)
        state["spent_columns"] += float(choice.sketched)
        if choice.factor is None:
            kind, rate = "mixed_rate" if choice.mixed else "plain_rate", digit_rate(*solve)
            if choice.refused:
                state["refused_rate"] = max(state["bare_rate"], state["mixed_rate"])
            if not choice.mixed:
                state["leading"] = result.leading
            return {**state, kind: rate, "bare_rate": rate}
        state |= self.served(state, choice.factor, choice.sketched, solve)
        if choice.bare_rate <= state["rate"]:
            blank = KINDS[self.factor_format].blank(choice.factor.n).contents()
            state |= {**blank, "refused_rate": state["bare_rate"]}
        return state


def _trace(diagonal: Callable[[], np.ndarray] | None) -> float:
    """Return the trace by the diagonal; NaN where that is not known."""
    return np.nan if diagonal is None else float(diagonal().sum())


def _later_rate(last: float, leading: float, shift: float, n: int) -> float:
    """Return iterations a digit as they may be expected of later systems, which are solved further.

    The geometric mean of the last solve's and of what the condition number bounds them by. On flat
    spectra the two are close; on fast decaying ones CG meets the small eigenvalues only later.
    """
    if np.isnan(leading):
        return last
    bound = min(np.log(10) / 2 * np.sqrt(leading / max(shift, LEAST * leading)), float(n))
    return float(np.sqrt(last * max(bound, last)))


def in_words(steps: list[dict[str, float]]) -> str:
    """Say in one line how CG was preconditioned, from the history's values; empty without CG."""
    if all(np.isnan(row.get("sketch_columns", np.nan)) for row in steps):
        return ""
    sketches = [i for i, row in enumerate(steps, 1) if np.isnan(row.get("mixed", 0.0))]
    probes = [row["captured"] for row in steps if not np.isnan(row.get("captured", np.nan))]
    columns = int(np.nansum([row.get("sketch_columns", 0.0) for row in steps]))
    mixed = sum(row.get("mixed", 0.0) == 1 for row in steps)
    words = [f"a factor from step {sketches[0]} on" if sketches else "no factor"]
    if mixed:
        words.append(f"the mixed diagonal in {mixed} of {len(steps)} steps")
    if probes:
        words.append(f"a probe of {PROBE} columns held {100 * probes[-1]:.2g}% of the trace")
    return f"preconditioner: {', '.join(words)}; {columns} sketch columns"
