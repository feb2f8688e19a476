"""Learning rates that change from step to step: from a text, or from Keras' objects."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from hesscomp.errors import InputError
from hesscomp.options import Options, option, refuse_unknown

USED: dict[str, tuple[str, ...]] = {  # the options of each shape
    "constant": (),
    "cosine": ("steps", "end"),
    "polynomial": ("steps", "end", "power"),
    "exponential": ("steps", "factor", "staircase"),
    "inverse-time": ("steps", "factor", "staircase"),
    "piecewise": ("changes",),
}
NEEDS = ("steps", "factor", "changes")  # options that must be given where a shape has them
COMMON = ("shape", "rate", "warmup", "start")
EXAMPLE = "cosine:0.01,steps=1000,warmup=100"


@dataclass(frozen=True)
class Schedule(Options):
    """The learning rate as a function of the step, and of nothing else, so that runs resume.

    As a text it is ``SHAPE:RATE`` and ``,name=value`` for each other option, such as
    ``cosine:0.01,steps=1000,warmup=100``. Every optimizer with a `learning_rate` takes both.

    In the first `warmup` steps the rate rises linearly from `start` to `rate`. After that, where s
    counts the steps from 0 and t = s / `steps`, it is

    - "constant": `rate`;
    - "cosine": from `rate` to `end` at t = 1 along half a period of the cosine, then `end`;
    - "polynomial": ``end + (rate - end) (1 - t)^power`` up to t = 1, then `end`;
    - "exponential": ``rate factor^t``, with `staircase` t rounded down;
    - "inverse-time": ``rate / (1 + factor t)``, with `staircase` t rounded down;
    - "piecewise": `rate`, and for steps above the number in a pair of `changes` the rate in that
      pair; as a text ``piecewise:0.1,1000=0.01,5000=0.001``.

    The formulas are those of ``keras.optimizers.schedules``.

    Raises
    ------
    InputError
        For numbers out of range, and for options that a shape lacks or does not have.

    Examples
    --------
    >>> from hesscomp.optimizers.schedules import Schedule
    >>> schedule = Schedule("cosine", 0.1, steps=100, warmup=10)
    >>> [round(schedule.at(step), 4) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    >>> print(schedule)
    cosine:0.1,steps=100,warmup=10
    """

    shape: str = option(choices=tuple(USED))
    rate: float = option(above=0)
    steps: int | None = option(None, low=1)
    end: float = option(0.0, low=0)
    factor: float | None = option(None, above=0)
    power: float = option(1.0, above=0)
    staircase: bool = False
    changes: tuple[tuple[int, float], ...] = ()
    warmup: int = option(0, low=0)
    start: float = option(0.0, low=0)

    def _check(self) -> None:
        super()._check()
        for part in fields(self):
            given = getattr(self, part.name) != part.default
            if given and part.name not in (*COMMON, *USED[self.shape]):
                raise InputError(f"the schedule {self.shape} has no {part.name}; leave it out")
            if not given and part.name in NEEDS and part.name in USED[self.shape]:
                raise InputError(f"the schedule {self.shape} needs {part.name}, as in {EXAMPLE}")
        places = [place for place, _ in self.changes]
        if places != sorted(set(places)) or not all(rate > 0 for _, rate in self.changes):
            raise InputError("the changes of a schedule need rising steps and rates above 0")

    def at(self, step: int) -> float:
        """Return the rate of a step; the first one is 0."""
        if step < self.warmup:
            return self.start + (self.rate - self.start) * step / self.warmup
        return SHAPES[self.shape](self, step - self.warmup)

    def __str__(self) -> str:
        words = [f"{self.shape}:{self.rate}"]
        words += [f"{step}={rate}" for step, rate in self.changes]
        words += [
            f"{part.name}={getattr(self, part.name)}"
            for part in fields(self)[2:]
            if part.name != "changes" and getattr(self, part.name) != part.default
        ]
        return ",".join(words)

    def _t(self, step: int) -> float:
        assert self.steps is not None  # checked
        return step // self.steps if self.staircase else step / self.steps


def _cosine(s: Schedule, step: int) -> float:
    return s.end + (s.rate - s.end) * (1 + math.cos(math.pi * min(s._t(step), 1.0))) / 2


def _polynomial(s: Schedule, step: int) -> float:
    return s.end + (s.rate - s.end) * (1 - min(s._t(step), 1.0)) ** s.power


def _piecewise(s: Schedule, step: int) -> float:
    return next((rate for place, rate in reversed(s.changes) if step > place), s.rate)


SHAPES: dict[str, Callable[[Schedule, int], float]] = {
    "constant": lambda s, step: s.rate,
    "cosine": _cosine,
    "polynomial": _polynomial,
    "exponential": lambda s, step: s.rate * (s.factor or 1.0) ** s._t(step),
    "inverse-time": lambda s, step: s.rate / (1 + (s.factor or 0.0) * s._t(step)),
    "piecewise": _piecewise,
}


SAME_SHAPE = {  # Keras' schedules, with our options and theirs
    "ExponentialDecay": ("exponential", {"factor": "decay_rate", "staircase": "staircase"}),
    "InverseTimeDecay": ("inverse-time", {"factor": "decay_rate", "staircase": "staircase"}),
    "PolynomialDecay": ("polynomial", {"end": "end_learning_rate", "power": "power"}),
}


def rate_at(rate: float | str | Schedule, step: int) -> float:
    """Return the learning rate of a step."""
    return rate.at(step) if isinstance(rate, Schedule) else float(rate)


def as_rate(rate: Any) -> Any:
    """Return a learning rate as a number or a `Schedule`.

    Parameters
    ----------
    rate : float, Schedule, str or keras.optimizers.schedules.LearningRateSchedule
        Or what ``keras.saving.serialize_keras_object`` makes of the last.

    Raises
    ------
    InputError
        For a text that is neither, and for a schedule of Keras' without a counterpart.
    """
    if isinstance(rate, Schedule | Real):
        return rate
    if isinstance(rate, str):
        return parse_rate(rate)
    if isinstance(rate, dict) and "class_name" in rate:
        return _of_keras(rate["class_name"], rate["config"])
    if hasattr(rate, "get_config"):
        return _of_keras(type(rate).__name__, rate.get_config())
    raise InputError(
        f"a learning rate is a number, a schedule such as {EXAMPLE}, or one of "
        f"keras.optimizers.schedules, not a {type(rate).__name__}; a function could not be resumed"
    )


def parse_rate(text: str) -> float | Schedule:
    """Return a learning rate from a text: a number, or a schedule as it writes itself."""
    shape, colon, rest = text.partition(":")
    try:
        if not colon:
            return float(text)
        first, *words = rest.split(",")
        pairs = [word.partition("=")[::2] for word in words]
        changes = tuple((int(name), float(value)) for name, value in pairs if name.isdigit())
        given = {name: value for name, value in pairs if not name.isdigit()}
        options = [name for name in USED.get(shape, ()) if name != "changes"] + [*COMMON[2:]]
        refuse_unknown(given, options, f"the schedule {shape}")
        numbers = {name: _value(name, value) for name, value in given.items()}
        return Schedule(shape, float(first), **numbers, changes=changes)
    except InputError:
        raise
    except ValueError:
        raise InputError(
            f"{text}: is no learning rate; give a number, or a schedule such as {EXAMPLE}"
        ) from None


def _value(name: str, text: str) -> Any:
    if name == "staircase":
        return {"true": True, "yes": True, "false": False, "no": False}.get(text.lower(), text)
    return int(text) if name in ("steps", "warmup") else float(text)


def _of_keras(kind: str, told: dict[str, Any]) -> Schedule:
    """Return the counterpart of one of keras.optimizers.schedules, with its configuration."""
    if kind == "PiecewiseConstantDecay":
        first, *later = (float(value) for value in told["values"])
        places = (int(place) for place in told["boundaries"])
        return Schedule("piecewise", first, changes=tuple(zip(places, later, strict=True)))
    if kind in SAME_SHAPE and not told.get("cycle"):
        shape, names = SAME_SHAPE[kind]
        rate, steps = float(told["initial_learning_rate"]), int(told["decay_steps"])
        given = {ours: told[theirs] for ours, theirs in names.items()}
        return Schedule(shape, rate, steps, **given)
    if kind == "CosineDecay":
        rate, steps = float(told["initial_learning_rate"]), int(told["decay_steps"])
        if told["warmup_target"] is None:
            return Schedule("cosine", rate, steps, told["alpha"] * rate)
        top, rise = float(told["warmup_target"]), int(told["warmup_steps"])
        return Schedule("cosine", top, steps, told["alpha"] * top, warmup=rise, start=rate)
    more = " with `cycle`" if kind == "PolynomialDecay" else ""
    raise InputError(
        f"Keras' schedule {kind}{more} has no counterpart here; take CosineDecay (also with a "
        "warm-up), PolynomialDecay, ExponentialDecay, InverseTimeDecay or PiecewiseConstantDecay"
    )
