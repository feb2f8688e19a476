"""An option: a dataclass field that carries its default, range, choices, help and unit.

The parsers of the command line, the checks of values and the JSON schema are made of these fields.
In texts a parameter stands in backquotes; the command line shows it as its own users write it.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from inspect import get_annotations
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from hesscomp.errors import InputError

ABOUT = "option"  # the key of a field's metadata


@dataclass(frozen=True)
class About:
    """What is said of an option; see `option`."""

    help: str | None = None
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | None = None
    metavar: str | None = None
    flag: str | None = None
    group: str | None = None
    one_of: str | None = None
    parse: Callable[[str], Any] | None = None
    unbounded: bool = False
    may_be_empty: bool = False
    needed: bool = False


def option(default=MISSING, **about):
    """A field with what is said of it.

    Parameters
    ----------
    default
        Without one, the option is required.
    help : str, optional
        A phrase. A field without one is no option for users, only checked.
    unit : str, optional
        Of a number, such as "seconds".
    low, high : number, optional
        The smallest and the largest value.
    above, below : number, optional
        Bounds that are themselves excluded.
    choices : tuple of str, optional
        The values allowed.
    metavar : str, optional
        What stands for the value in usage messages.
    flag : str, optional
        The name on the command line: by default `--name`; without dashes, a positional argument.
    group : str, optional
        The title under which help lists it; by default its class's.
    one_of : str, optional
        Of the options with the same word here, at most one is given.
    parse : callable, optional
        Makes a value of a text; raises InputError. By default the field's type does.
    unbounded : bool
        Whether infinity is a value.
    may_be_empty : bool
        Of a tuple: whether it may be given without a value.
    needed : bool
        Whether commands must be given it; who calls from Python has the result in hand.
    """
    return field(default=default, metadata={ABOUT: About(**about)})


@dataclass(frozen=True)
class Option:
    """One option of a class of them, complete.

    Attributes
    ----------
    name : str
        Of the field.
    kind : type
        Of a value, or of each where there are `many`.
    many : bool
    default : object
        `dataclasses.MISSING` where it is required.
    about : About
    group, group_text : str or None
        The title under which it is listed, and what is said there.
    """

    name: str
    kind: type
    many: bool
    default: Any
    about: About
    group: str | None
    group_text: str | None

    @property
    def required(self) -> bool:
        """Whether a command must be given it."""
        return self.default is MISSING or self.about.needed

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        return self.about.flag or f"--{self.name.replace('_', '-')}"

    def check(self, value) -> None:
        """Raise InputError for a value out of range."""
        about, name = self.about, f"`{self.name}`"
        if value is None or value is self.default:
            return
        if about.choices is not None:
            if value not in about.choices:
                raise InputError(f"{name} must be one of {', '.join(about.choices)}, not {value}")
        elif self.kind in (int, float) and not isinstance(value, str):
            given = [
                (f"{words} {_number(bound)}", holds(value, bound))
                for words, bound, holds in (
                    ("at least", about.low, operator.ge),
                    ("above", about.above, operator.gt),
                    ("at most", about.high, operator.le),
                    ("below", about.below, operator.lt),
                )
                if bound is not None
            ]
            finite = math.isfinite(value) or (about.unbounded and not math.isnan(value))
            if not finite or not all(holds for _, holds in given):
                words = " and ".join(words for words, _ in given) or "a finite number"
                raise InputError(f"{name} must be {words}, not {value}")


def _number(bound: float) -> str:
    return f"{bound:g}" if abs(bound) < 1e6 else f"{bound}"


class Options:
    """Base of frozen dataclasses whose fields are options; they compose by inheritance.

    Values out of range are refused when an instance is made. Subclasses refuse in `_check` what
    does not go together; they call that of their other parts.
    """

    GROUP: ClassVar[tuple[str | None, str | None]] = (None, None)

    def __init_subclass__(cls, group: str | None = None, about: str | None = None):
        if group is not None:
            cls.GROUP = (group, about)

    def __post_init__(self):
        for each in described(type(self), told=False):
            each.check(getattr(self, each.name))
        self._check()

    def _check(self) -> None:
        given: dict[str, str] = {}
        for each in described(type(self)):
            word = each.about.one_of
            if word is not None and getattr(self, each.name) != each.default:
                if word in given:
                    raise InputError(f"`{given[word]}` and `{each.name}`: give one of them")
                given[word] = each.name


@cache
def described(cls: type, told: bool = True) -> list[Option]:
    """The options of a class, those of its first part first, its own last.

    `told` leaves out those that have no help.
    """
    there, hints = {part.name: part for part in fields(cls)}, get_type_hints(cls)
    owners: dict[str, type] = {}
    for base in (*cls.__mro__[1:], cls):
        for name in get_annotations(base):
            if name in there and (name not in owners or base is cls):
                owners[name] = base
    found = (_complete(there[name], hints[name], owner) for name, owner in owners.items())
    return [each for each in found if each.about.help is not None or not told]


def _complete(part: Field, hint, owner: type) -> Option:
    about = part.metadata.get(ABOUT, About())
    kinds = [hint]
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    many = get_origin(kinds[0]) is tuple
    kind = get_args(kinds[0])[0] if many else kinds[0]
    group, text = owner.GROUP
    if about.group is not None:
        group, text = about.group, None
    return Option(part.name, kind, many, part.default, about, group, text)


def values(options: Options, part: type) -> dict[str, Any]:
    """The options of a part, with the values that they have."""
    return {each.name: getattr(options, each.name) for each in described(part)}


JSON = {int: "integer", float: "number", bool: "boolean", str: "string"}


def schema(cls: type) -> dict:
    """A JSON schema of a class of options: types, ranges, choices, defaults and help."""
    properties = {}
    for each in described(cls):
        about = each.about
        kind: dict[str, Any] = {"type": JSON.get(each.kind, "string")}
        bounds = {
            "enum": about.choices and list(about.choices),
            "minimum": about.low,
            "maximum": about.high,
            "exclusiveMinimum": about.above,
            "exclusiveMaximum": about.below,
        }
        kind |= {name: bound for name, bound in bounds.items() if bound is not None}
        if each.many:
            kind = {"type": "array", "items": kind}
        described_as = about.help if about.unit is None else f"{about.help}, in {about.unit}"
        properties[each.name] = kind | {"description": described_as}
        if each.default not in (MISSING, None):
            default = list(each.default) if each.many else each.default
            properties[each.name]["default"] = default
    required = [each.name for each in described(cls) if each.default is MISSING]
    return {
        "title": cls.__name__,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


@dataclass(frozen=True, kw_only=True)
class Seeded(Options, group="numbers"):
    """What is random has a seed."""

    seed: int = option(0, low=0, high=2**32 - 1, metavar="S", help="of all random numbers")


def refuse(options, names: tuple[str, ...], what: str) -> None:
    """Refuse options that are given and would change nothing."""
    for name in names:
        if getattr(options, name, None) is not None:
            raise InputError(f"`{name}` does not go with {what}")
