"""The optimizers by name, and their options from text."""

from collections.abc import Sequence
from dataclasses import fields

from hesscomp.errors import InputError
from hesscomp.optimizers.drsom import DRSOM
from hesscomp.optimizers.first_order import SGD, AdaBelief, Adam
from hesscomp.optimizers.gauss_newton import GaussNewton
from hesscomp.optimizers.hessian_free import HessianFree
from hesscomp.optimizers.newton import Newton
from hesscomp.optimizers.newton_cg import NewtonCG
from hesscomp.optimizers.optimizer import Optimizer

OPTIMIZERS: dict[str, type[Optimizer]] = {
    kind.name: kind
    for kind in (Newton, NewtonCG, HessianFree, GaussNewton, DRSOM, SGD, Adam, AdaBelief)
}
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def make_optimizer(name: str, settings: Sequence[str] = ()) -> Optimizer:
    """An optimizer from its name and texts such as ``damping=10``.

    Raises
    ------
    InputError
        For a name, an option or a value that it does not know.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"unknown optimizer {name}; use one of {', '.join(OPTIMIZERS)}")
    kind = OPTIMIZERS[name]
    defaults = {part.name: part.default for part in fields(kind)}
    values = {}
    for setting in settings:
        option, equals, text = setting.partition("=")
        if not equals or option not in defaults:
            raise InputError(
                f"{name} has no option {setting}; write NAME=VALUE with one of "
                f"{', '.join(defaults)}"
            )
        values[option] = _parsed(f"{name}: {option}", text, type(defaults[option]))
    optimizer = kind(**values)
    optimizer.validate()
    return optimizer


def _parsed(what: str, text: str, kind: type):
    try:
        value = TRUTH[text.lower()] if kind is bool else kind(text)
        if kind is int:
            float(value)
        return value
    except (KeyError, ValueError, OverflowError):
        raise InputError(f"{what} takes a value of type {kind.__name__}, not {text}") from None


def options_of(name: str) -> str:
    """An optimizer's options and defaults, in one line."""
    return ", ".join(f"{part.name}={part.default}" for part in fields(OPTIMIZERS[name]))
