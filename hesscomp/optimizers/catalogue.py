"""The optimizers by name, and their options from text.

All modules of the package are searched: an optimizer is added by adding its file. Those that have
no optimizer stay unloaded, since some need TensorFlow, and options are read where it is not.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from hesscomp import optimizers
from hesscomp.errors import InputError
from hesscomp.optimizers import names_by_module
from hesscomp.optimizers.optimizer import Optimizer
from hesscomp.options import described


def _all(kind: Any) -> Iterator[type[Optimizer]]:
    """Yield the subclasses that have a name of their own."""
    for subclass in kind.__subclasses__():
        if "name" in vars(subclass):
            yield subclass
        yield from _all(subclass)


for _module in names_by_module():
    import_module(f"{optimizers.__name__}.{_module}")
OPTIMIZERS: dict[str, type[Optimizer]] = {kind.name: kind for kind in _all(Optimizer)}
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def optimizer_kind(name: str) -> type[Optimizer]:
    """Return the class of the optimizer of this name; InputError where there is none."""
    kind = OPTIMIZERS.get(name.lower())  # Keras' names have capitals
    if kind is None:
        raise InputError(f"unknown optimizer {name}; use one of {', '.join(OPTIMIZERS)}")
    return kind


def make_optimizer(name: str, settings: Sequence[str] = ()) -> Optimizer:
    """An optimizer from its name and texts such as ``damping=10``.

    Raises
    ------
    InputError
        For a name, an option or a value that it does not know.
    """
    kind = optimizer_kind(name)
    known = {each.name: each for each in described(kind)}
    values: dict[str, Any] = {}
    for setting in settings:
        option, equals, text = setting.partition("=")
        if not equals or option not in known:
            raise InputError(
                f"{name} has no option {setting}; write NAME=VALUE with one of {', '.join(known)}"
            )
        parse, kinds = known[option].parse, known[option].kinds
        values[option] = parse(text) if parse else _parsed(f"{name}: {option}", text, kinds)
    return kind(**values)


def _parsed(what: str, text: str, kinds: tuple[type, ...]):
    kind = str if str in kinds else kinds[0]
    try:
        value = TRUTH[text.lower()] if kind is bool else kind(text)
        if kind is int:
            float(value)
        return value
    except (KeyError, ValueError, OverflowError):
        raise InputError(f"{what} takes a value of type {kind.__name__}, not {text}") from None


def options_of(name: str) -> str:
    """An optimizer's options and defaults, in one line, and then what they mean."""
    kind = OPTIMIZERS[name]
    defaults = ", ".join(f"{each.name}={each.default}" for each in described(kind))
    helps = (f"  {each.name}: {each.help}".replace("`", "") for each in described(kind))
    return "\n".join([defaults, *helps])
