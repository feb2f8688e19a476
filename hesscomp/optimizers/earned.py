"""When CG gets a factor: not before it has shown that a sketch pays."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hesscomp.compression import compress
from hesscomp.compression.formats import LOW_RANK
from hesscomp.factors import KINDS, UNKNOWN, Diagonal, Factor, from_contents
from hesscomp.operators.operator import Operator
from hesscomp.optimizers.batches import HessianDiagonal
from hesscomp.optimizers.grown import PROBE, Costs, Outlook, Remembering, doublings
from hesscomp.optimizers.optimizer import State
from hesscomp.optimizers.options import AUTO
from hesscomp.optimizers.preconditioners import Refreshed, digit_rate
from hesscomp.runs.checkpoint import Checkpoint

SKETCH_SHARE = 0.5  # of the products already spent, at most, goes into sketching
ENOUGH = 64  # columns of a sketch that are worth waiting for
PROBE_SHARE = 0.1  # of what CG is still expected to cost, at most, goes into a probe
TRACE, LEADING = 0.1, 1 / 3  # of the trace, and of CG's leading Ritz value, that a probe must find
MIX = 0.1  # share of the diagonal in the mixed one
LEAST = 1e-12  # of a diagonal's mean, where an entry is zero
# A factor whose iterations take at most as long as so many without is dropped only where it took so
# many times the iterations that are expected without: good ones took up to 3, a bad one 9
FREE, FAILED = 1.1, 5.0
FIRST_CG = 10  # iterations of a first solve, besides those beside which a probe is cheap
TRIAL = 5  # of the other one of plain and mixed CG, which tell its rate; at least in any step
TRIAL_SHARE = 0.2  # of what CG is still expected to cost, at most, goes into such a step
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
    iterations a digit that a factor must beat, each of which takes `slowdown` times as long with
    it; `limit` is the most iterations.
    """

    M: Any = None
    factor: Factor | None = None
    mixed: bool = False
    sketched: int = 0
    captured: float = np.nan
    refused: bool = False
    bare_rate: float = np.inf
    slowdown: float = 1.0
    limit: int | None = None

    @property
    def values(self) -> dict[str, float]:
        """For the history; `mixed` is NaN where a factor serves."""
        mixed = float(self.mixed) if self.factor is None else np.nan
        return dict(zip(VALUES, (float(self.sketched), mixed, self.captured), strict=True))


@dataclass(frozen=True)
class Forecast:
    """What solves without a factor are expected to take until the end of the run.

    `digits` are those of the residual that are to be solved for, times the columns of a wide block
    that a lone product costs. `plain` and `mixed` are the iterations a digit of plain CG and of CG
    with the mixed diagonal, infinite where they were not tried; `refused` says that a factor was
    refused where CG did about as well.
    """

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

    So for the `preconditioner` auto, where the operator is semidefinite and its diagonal is known,
    or its lone products are cheap beside wide blocks, which are those of sparse data. Where a
    format, a factor or options of one are named it is wanted, and serves from the first step on, as
    `Refreshed` says.

    The first solve on sparse data takes (1 - a) shift + a (diag + shift), a = 0.1 (Hsia, Chiang and
    Lin 2018), and on dense data, whose diagonal costs two lone products, plain CG. Where the
    iterations that are then expected cost more than ten probes of 8 columns, and than five such
    steps, a step of few iterations tries the other one; plain CG gives the leading Ritz value.
    Later solves without a factor take that of the two which is expected to be faster.

    Where that still costs more than ten probes, a factor is tried. It is refused where even its
    rank times the leading value is less than a tenth of the trace, which is known exactly. Else a
    sketch of 8 columns probes a semidefinite operator: refused where they hold less than a tenth of
    the trace, or miss the leading value by more than a factor of 3. The sketch is doubled, once or
    twice at a time, up to rank + oversample columns, while the saving that is predicted, 1 -
    sqrt((w_k + shift) / (w_2 + shift)) of the iterations, grows by more than the further columns,
    their orthonormalisation and the application of a larger factor cost (`Outlook`); where no size
    pays, there is no factor. One that was refused is tried again when the iterations a digit have
    doubled. A factor whose application costs more than a tenth of an iteration goes where its first
    solve took longer than CG without it is expected to, or a later one twice as long; a cheaper one
    where a solve took five times as long, as where columns have scales that only the diagonal
    knows. It is tried again when CG without it takes twice the iterations that it took with it.

    No sketch is made, neither a first one nor one again, that would bring all sketches above half
    of the products already spent: the columns of CG, at the operator's `lone_cost`, and of earlier
    sketches. Where that alone stands against a first factor of 64 columns, or of rank + oversample
    where those are fewer, the solve before it is bounded by the iterations that are missing.
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
        diagonal: HessianDiagonal | None,
    ) -> Choice:  # fmt: skip
        """Return what preconditions the next solve. Collective.

        `horizon` is the number of digits that are still to be solved for, here and later;
        `diagonal` is the operator's.
        """
        state = {**BARE, **state}
        if operator.world.decide(not self._is_earned(operator, diagonal)):
            factor, sketched = self.current_factor(operator, state, horizon)
            return Choice(factor.preconditioner(shift), factor, sketched=sketched)
        ahead = self._forecast(operator, state, horizon, shift)
        kept = from_contents(state, UNKNOWN)
        if not operator.world.decide(kept.is_blank):
            pays = (state["rate"] - state["fresh_rate"]) * ahead.digits > self._columns(kept)
            if not operator.world.decide(pays and self._missing(operator, state, kept) == 0):
                return self._with(kept, _costs(operator), ahead, shift)
            return self._grow(operator, state, ahead, shift, diagonal, kept)
        cheap = operator.lone_cost < Operator.lone_cost  # a diagonal, as half a lone product
        if operator.world.decide(state["bare_rate"] == 0):
            limit = FIRST_CG + int(PROBE / PROBE_SHARE / operator.lone_cost)
            first = self._mixed(shift, diagonal) if cheap else Choice()
            return replace(first, limit=limit)
        untried = np.isinf(ahead.plain) or (np.isinf(ahead.mixed) and diagonal is not None)
        trial = (TRIAL + 2) * operator.lone_cost / TRIAL_SHARE if untried else 0.0
        worth = ahead.bare > max(PROBE / PROBE_SHARE, trial) and not ahead.refused
        if not operator.world.decide(worth):
            return self._without(operator, ahead, shift, diagonal)
        if operator.world.decide(np.isinf(ahead.plain)):
            return Choice(limit=TRIAL)
        if operator.world.decide(np.isinf(ahead.mixed) and diagonal is not None):
            return replace(self._mixed(shift, diagonal), limit=TRIAL)
        if self._is_hopeless(operator, state, diagonal):
            return replace(self._without(operator, ahead, shift, diagonal), refused=True)
        missing = self._missing(operator, state)
        if operator.world.decide(missing > 0):
            bare = self._without(operator, ahead, shift, diagonal)
            return replace(bare, limit=max(missing, TRIAL))
        return self._grow(operator, state, ahead, shift, diagonal)

    def _is_earned(self, operator: Operator, diagonal) -> bool:
        """Return whether factors have to show that they pay."""
        likely = operator.lone_cost >= Operator.lone_cost and (diagonal is None or not operator.psd)
        return self.preconditioner == AUTO and not self.factor_options and not likely

    def _missing(self, operator: Operator, state: State, kept: Factor | None = None) -> int:
        """Return the CG iterations that are missing before a sketch that is large enough.

        That is one as large as the `kept` factor's, if any, and a whole one of an indefinite
        operator.
        """
        most = self.sketch_columns(operator.n)
        enough = min(most, ENOUGH) if operator.psd else most
        enough = enough if kept is None else max(enough, math.ceil(self._columns(kept)))
        missing = enough - self._affordable(operator, state)
        return math.ceil(max(missing, 0.0) / SKETCH_SHARE / operator.lone_cost)

    def _affordable(self, operator: Operator, state: State) -> float:
        """Return the columns that may be sketched now."""
        spent = state["spent_cg"] * operator.lone_cost + state["spent_columns"]
        return SKETCH_SHARE * spent - state["spent_columns"]

    def _forecast(self, operator: Operator, state: State, horizon: float, shift: float) -> Forecast:
        """Return what solves without a factor are expected to take."""
        plain, mixed = state["plain_rate"], state["mixed_rate"]
        later = _later_rate(plain, state["leading"], shift, operator.n) / plain if plain else 1.0
        return Forecast(
            digits=max(horizon, 0.0) * operator.lone_cost,
            plain=later * plain or np.inf,
            mixed=later * mixed or np.inf,
            refused=state["bare_rate"] <= 2 * state["refused_rate"],
        )

    def _without(self, operator: Operator, ahead: Forecast, shift: float, diagonal) -> Choice:
        """Return the mixed diagonal, or nothing where plain CG is faster."""
        if operator.world.decide(ahead.plain <= ahead.mixed):
            return Choice()
        return self._mixed(shift, diagonal)

    def _mixed(self, shift: float, diagonal) -> Choice:
        """Return the mixed diagonal, or nothing where there is none."""
        if diagonal is None:
            return Choice()
        known = diagonal.values
        M = 1 / (shift + MIX * np.maximum(known, LEAST * known.mean()))
        return Choice(Diagonal(M, certificate=UNKNOWN), mixed=True)

    def _is_hopeless(self, operator: Operator, state: State, diagonal) -> bool:
        """Return whether a factor of a semidefinite operator is refused without a probe."""
        if not operator.world.decide(operator.psd and diagonal is not None):
            return False
        poor = self.rank * state["leading"] < TRACE * diagonal.trace
        return operator.world.decide(bool(poor))

    def _grow(
        self, operator: Operator, state: State, ahead: Forecast, shift: float,
        diagonal: HessianDiagonal | None, kept: Factor | None = None,
    ) -> Choice:  # fmt: skip
        """Return a factor whose sketch is doubled while that pays; where none pays, `kept` or none.

        An indefinite operator is not probed, and its factor has all columns. The first 8 columns of
        one that takes the place of another only begin its sketch.
        """
        costs = _costs(operator)
        if not operator.psd:
            factor = self.new_factor(operator)
            return self._with(factor, costs, ahead, shift, factor.provenance.columns)
        sizes = doublings(self.sketch_columns(operator.n), min(self.rank, operator.n))
        most = max(self._affordable(operator, state), min(sizes))
        sizes = {size: rank for size, rank in sizes.items() if size <= most}
        growing, size, sketched, captured = Remembering(operator.replicated()), 0, 0, np.nan
        wanted = min(sizes)
        while wanted > size:
            size = wanted
            with operator.world.ledger.timed("compress"):
                factor = compress(
                    growing, sizes[size], oversample=size - sizes[size], power=0, seed=self.seed,
                    layout="replicated",
                )  # fmt: skip
            w, sketched = factor.eigenvalues, sketched + factor.provenance.columns
            if np.isnan(captured):
                captured = float(w.sum() / (np.nan if diagonal is None else diagonal.trace))
                poor = captured < TRACE or w[0] + shift < LEADING * state["leading"]
                wanted = 0 if poor and kept is None else size
            if wanted:
                second = float(w[min(1, len(w) - 1)]) + shift
                later = _later_rate(state["bare_rate"], second, shift, operator.n) * ahead.digits
                outlook = Outlook(costs, min(ahead.bare, later), second, shift)
                wanted = outlook.wanted(w, size, sizes)
            wanted = operator.world.broadcast(wanted)
        if wanted:
            grown = self._with(factor, costs, ahead, shift, sketched)
        elif kept is not None:
            grown = replace(self._with(kept, costs, ahead, shift), sketched=sketched)
        else:
            bare = self._without(operator, ahead, shift, diagonal)
            grown = replace(bare, sketched=sketched, refused=True)
        return replace(grown, captured=captured)

    def _columns(self, factor: Factor) -> float:
        """Return the columns of a sketch like a factor's."""
        return factor.rank * self.sketch_columns(factor.n) / self.rank

    def _with(
        self, factor: Factor, costs: Costs, ahead: Forecast, shift: float, sketched: int = 0
    ) -> Choice:
        """Return the choice of a factor, with what it must beat."""
        return Choice(
            factor.preconditioner(shift), factor, sketched=sketched, bare_rate=ahead.bare_rate,
            slowdown=costs.slowdown(factor.rank),
        )  # fmt: skip

    def solved(self, state: State, choice: Choice, result, before: float) -> State:
        """Return the state after a solve, from a residual norm of `before`."""
        state, solve = {**BARE, **state}, (result.iterations, before, result.residual_norm)
        state["spent_cg"] += float(result.iterations) + 1  # for the gradient and the step's length
        state["spent_columns"] += float(choice.sketched)
        if choice.factor is None:
            kind, rate = "mixed_rate" if choice.mixed else "plain_rate", digit_rate(*solve)
            if choice.refused:
                state |= self._refused(len(result.x), max(state["bare_rate"], state["mixed_rate"]))
            if not choice.mixed:
                state["leading"] = result.leading
            return {**state, kind: rate, "bare_rate": rate}
        state |= self.served(state, choice.factor, choice.sketched, solve)
        usual = 1.0 if choice.sketched else 2.0  # times what is expected without, to be dropped
        worse = usual if choice.slowdown > FREE else FAILED
        if state["rate"] * choice.slowdown >= worse * choice.bare_rate:
            state |= self._refused(choice.factor.n, max(state["bare_rate"], state["rate"]))
        return state

    def _refused(self, n: int, rate: float) -> State:
        """Return what changes where there is to be no factor, at these iterations a digit."""
        return {**KINDS[self.factor_format].blank(n).contents(), "refused_rate": rate}


def _costs(operator: Operator) -> Costs:
    """Return the costs of solves with a factor of all ranks' operator. One reduction."""
    work = operator.world.sum(np.array([operator.column_work]))
    return Costs(operator.n, operator.lone_cost, float(work[0]))


def _later_rate(last: float, leading: float, shift: float, n: int) -> float:
    """Return iterations a digit as they may be expected of later systems, which are solved further.

    The geometric mean of the last solve's and of what the condition number bounds them by. On flat
    spectra the two are close; on fast decaying ones CG meets the small eigenvalues only later.
    """
    if not leading > 0:  # unknown, or of a matrix that has vanished
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
