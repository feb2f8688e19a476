"""The options of a run: its batches, when it stops, what it saves, and those of Newton's method."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hesscomp.compression import FORMATS, SketchOptions
from hesscomp.compression.formats import LOW_RANK, FormatOptions
from hesscomp.compression.orderings import Ordering
from hesscomp.errors import InputError
from hesscomp.factors import Factor
from hesscomp.factors.lowrank import tail_number
from hesscomp.options import Options, described, option, option_of, refuse, refuse_unknown

AUTO = "auto"  # a low-rank factor where it pays, of `optimizers.earned`
GRADIENT, CURVATURE, ACCEPTANCE = range(3)  # which batch, for its seed


def _batch(purpose: str, advanced: bool = True):
    return option(
        1.0, advanced=advanced, above=0, flag=f"--{purpose}-batch", metavar="F",
        help=f"fraction of the rows drawn for a step's {purpose}; above 1: number of rows",
    )  # fmt: skip


@dataclass(frozen=True)
class Sampling(Options, group="batches"):
    """How much of the data a step uses for each of its purposes: at most 1 is a share of all rows.

    Each batch has exactly so many rows, of each rank its share; each row is as likely as any other.
    The batches depend on the seed, the purpose and the step, and on nothing else.
    """

    gradient: float = _batch("gradient", advanced=False)
    curvature: float = _batch("curvature")
    acceptance: float = _batch("acceptance")
    seed: int = option_of(SketchOptions, "seed")

    def share(self, purpose: int, rows: int) -> float:
        """Return the share of all rows that a batch takes; InputError if it is empty."""
        size = (self.gradient, self.curvature, self.acceptance)[purpose]
        share = float(size) if size <= 1 else min(size / rows, 1.0)
        if not round(share * rows):
            raise InputError(f"a batch of {share * rows:g} of {rows} rows is empty; take more")
        return share


@dataclass(frozen=True)
class Stopping(Options, group="stopping"):
    """When a run ends; whichever comes first.

    Gradients are those of the gradient batch, the target is for the objective over all rows, and
    batches count as passes by their share. Where the seconds end a run, the number of its steps
    depends on the machine. `patience` is early stopping: by the loss on test rows, wherever that is
    evaluated (each step over all rows, or each step that `evaluate_every` names).
    """

    max_steps: int = option(100, low=0, metavar="K", help="stop after K steps")
    gradient_tolerance: float = option(
        0.0, low=0, flag="--tol", metavar="T", help="stop at ||g||_2 <= T"
    )
    target: float | None = option(
        None, unbounded=True, metavar="F", advanced=True,
        help="stop where the objective is at most F",
    )  # fmt: skip
    max_passes: float | None = option(
        None, above=0, unbounded=True, metavar="P", advanced=True,
        help="stop after P passes over the data",
    )  # fmt: skip
    max_seconds: float | None = option(
        None, above=0, unbounded=True, metavar="S", help="stop after S seconds of this call"
    )
    patience: int | None = option(
        None, low=1, metavar="N",
        help="stop after N evaluations of the test rows without a lower loss; the best point is "
        "then that of their lowest loss",
    )  # fmt: skip


@dataclass(frozen=True)
class Saving(Options, group="output"):
    """What a run writes to its folder; nothing without one.

    The folder gets `checkpoint.h5` (and the one before), `history.csv` and `history.json`. Where it
    holds a checkpoint of the same run, the run resumes from that.
    """

    folder: str | os.PathLike | None = None
    every: int = option(10, low=1)  # steps between checkpoints; one is made at the end too
    tensorboard: bool = option(False, help="write scalars to FOLDER/tensorboard")
    history: bool = True  # whether to write history files at the end; checkpoints hold it too

    def _check(self) -> None:
        super()._check()
        if self.tensorboard and self.folder is None:
            raise InputError(
                "scalars for TensorBoard go to a run's folder, and there is none; name one"
            )


@dataclass(frozen=True)
class NewtonOptions(Options, group="solver"):
    """How Newton's method runs; see `hesscomp.optimizers.newton.Newton` for the solvers."""

    solver: str = option(
        "auto",
        choices=("auto", "pcg", "lowrank", "direct"),
        help="solver of the Newton equation; auto picks direct or pcg by their costs, and says why",
    )
    tolerance: float = option(
        1e-8, above=0, flag="--tol", metavar="T", help="stop where ||gradient||_2 <= T"
    )
    max_iterations: int = option(
        100, low=0, flag="--max-steps", former="--max-iter", metavar="K",
        help="stop after K Newton steps",
    )  # fmt: skip
    step: str = option(
        "line-search", choices=("line-search", "fixed"), advanced=True, help="step length"
    )
    gamma: float = option(1.0, above=0, metavar="G", advanced=True, help="fixed step length")
    preconditioner: str | Factor = option(
        AUTO, choices=(AUTO, *FORMATS), advanced=True,
        help="`solver` pcg: format of the factor that preconditions it; auto: low-rank, but only "
        "where CG and a probe of 8 columns have shown that it pays",
    )  # fmt: skip
    rank: int = option(
        40, low=1, metavar="K",
        help="rank of the factor, at most with `preconditioner` auto; of hbs and hodlr at each "
        "node",
    )  # fmt: skip
    oversample: int = option_of(SketchOptions, "oversample")
    seed: int = option_of(SketchOptions, "seed")
    tail: float | str = option(
        "last", parse=str, metavar="last|zero|FLOAT", advanced=True,
        help="`solver` lowrank only: value of the eigenvalues outside the factor",
    )  # fmt: skip
    ordering: Ordering = option_of(FormatOptions, "ordering", group=None)
    factor_options: Mapping[str, Any] | None = None

    def _check(self) -> None:
        super()._check()
        check_tail(self.tail)
        check_solver(self.solver, self.preconditioner)
        check_factor_options(self)


def check_solver(solver: str, preconditioner: str | Factor) -> None:
    """Raise InputError for a format of the factor that a solver cannot use."""
    given = isinstance(preconditioner, Factor)
    if (given or preconditioner not in (AUTO, LOW_RANK)) and solver not in ("auto", "pcg"):
        what = "a factor as `preconditioner`" if given else f"`preconditioner` {preconditioner}"
        raise InputError(f"{what} goes with `solver` pcg, not {solver}")


def format_of(preconditioner: str | Factor) -> str:
    """Return the format of the factors that an optimizer with this preconditioner makes."""
    named = preconditioner.kind if isinstance(preconditioner, Factor) else preconditioner
    return named if named in FORMATS else LOW_RANK


OWN = ("rank", "oversample", "seed", "ordering")  # options of optimizers too
FIXED = ("factor_format", "layout", "panel")


def check_factor_options(asked) -> None:
    """Raise InputError for options of factors that the `preconditioner` asked for does not take."""
    format, given = format_of(asked.preconditioner), dict(asked.factor_options or {})
    if format == LOW_RANK:
        refuse(asked, ("ordering",), f"a {LOW_RANK} factor; take the `preconditioner` hbs or hodlr")
    by_name = not isinstance(asked.preconditioner, Factor)
    if given and by_name and asked.preconditioner not in (AUTO, *FORMATS):
        raise InputError(
            f"`factor_options` do not go with the `preconditioner` {asked.preconditioner}, which "
            f"is no factor; take one of {', '.join(FORMATS)}"
        )
    known = [each.name for each in described(FormatOptions) if each.name not in OWN + FIXED]
    beside = dict.fromkeys(OWN, "give it beside `factor_options`")
    refuse_unknown(given, known, "`factor_options`", beside)
    rank = None if "tolerance" in given else asked.rank
    FormatOptions(factor_format=format, rank=rank, oversample=asked.oversample, **given)


def check_tail(tail: float | str) -> None:
    """Raise InputError for a tail with which a system could be indefinite."""
    if tail not in ("last", "zero") and tail_number(tail) < 0:
        raise InputError(f"`tail` must be at least 0, last or zero, not {tail}")
